//! The one place where this crate reads the time. Owns nothing: decisions take a [`Moment`].

use std::time::{SystemTime, UNIX_EPOCH};

use lucarne_model::Moment;

pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
