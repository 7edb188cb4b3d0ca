//! Room 1, flows.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod ipfix;
mod settings;

pub use settings::Settings;
