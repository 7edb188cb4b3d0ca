//! Replay: what was recorded of a network is played into its duplicate, and the answers are compared.
//!
//! Pure: recordings come as octets, frames are taken and given, and time is told. Read it in this order:
//! - [`capture`], frames out of pcapng; `packet`, what a frame carries;
//! - [`recorded`], frames as sessions: `stream` and [`connection`] put TCP together, [`http`] tells requests and answers apart;
//! - [`cast`], who is played; [`player`], which sessions are played when, from which `ends`; `timing`, when something is due;
//! - `conversation`, one connection played, with `tcp_client` as its kernel and a `link`; `datagrams`, what has no connection;
//! - `hearing`, what is answered, exchange by exchange; `verdict`, what an answer is worth; `tally`, the report.

pub mod capture;
pub mod cast;
pub mod connection;
mod conversation;
mod datagrams;
mod ends;
mod hearing;
pub mod http;
mod link;
pub(crate) mod packet;
pub mod player;
pub mod recorded;
pub mod stream;
pub(crate) mod tally;
pub(crate) mod tcp_client;
mod timing;
mod verdict;

#[cfg(test)]
pub(crate) mod tests;
