//! Tags: what people call and group their resources by.
//!
//! Owns the map and its limits. The tag `Name` stands in for the id wherever a command takes one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tags of one resource, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Tags(pub BTreeMap<String, String>);

/// Why tags were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("a resource can have {max} tags, {given} were given", max = Tags::MAX)]
    TooMany { given: usize },
    #[error("the tag key `{0}` is not of 1 to 128 characters")]
    Key(String),
    #[error("the value of the tag `{0}` is longer than 256 characters")]
    Value(String),
}

impl Tags {
    pub const MAX: usize = 50;
    pub const NAME: &'static str = "Name";

    pub fn named(name: impl Into<String>) -> Self {
        Self(BTreeMap::from([(Self::NAME.into(), name.into())]))
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn name(&self) -> Option<&str> {
        self.0.get(Self::NAME).map(String::as_str)
    }

    pub fn check(&self) -> Result<(), TagError> {
        if self.0.len() > Self::MAX {
            return Err(TagError::TooMany { given: self.0.len() });
        }
        for (key, value) in &self.0 {
            if key.is_empty() || key.chars().count() > 128 {
                return Err(TagError::Key(key.chars().take(64).collect()));
            }
            if value.chars().count() > 256 {
                return Err(TagError::Value(key.clone()));
            }
        }
        Ok(())
    }
}
