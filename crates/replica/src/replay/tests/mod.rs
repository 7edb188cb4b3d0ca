//! Recordings that are made up, played against a server that is made up too, over a network that loses and delays.

mod film;
mod playing;
mod reading;
mod scoring;
pub(crate) mod world;
