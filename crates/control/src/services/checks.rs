//! Checks that many requests share: names and tags. Owns their limits.

use lucarne_api::Problem;
use lucarne_model::{ErrorCode, Tags};

pub(crate) fn refuse(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::InvalidParameterValue, detail)
}

/// A name for people: something of at most 128 characters that can be printed.
pub(crate) fn check_name(name: &str) -> Result<(), Problem> {
    let length = name.chars().count();
    if name.trim().is_empty() || length > 128 || name.chars().any(char::is_control) {
        return Err(refuse("a name has 1 to 128 characters, not all of them blank, and none that controls a terminal"));
    }
    Ok(())
}

pub(crate) fn check_tags(tags: &Tags) -> Result<(), Problem> {
    tags.check().map_err(|error| refuse(error.to_string()))
}
