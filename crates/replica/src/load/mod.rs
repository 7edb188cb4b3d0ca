//! Load: requests that are made up, asked of a duplicate by clients inside it, and what came of them.
//!
//! Pure: frames are taken and given, and time is told. Read it in this order:
//! - [`asking`], which requests are open and who is asked next, from which port; [`arrivals`], when a request is due;
//! - `request`, one of them: what is said, and when it is answered; its kernel is that of replays;
//! - `tally`, the report.

pub mod arrivals;
pub mod asking;
mod request;
mod tally;

#[cfg(test)]
mod tests;
