//! IPFIX (RFC 7011): flow records as messages that any collector reads, and back.
//!
//! Owns the wire format: the table of elements ([`elements`]) from which templates, [`Exporter`], [`Decoder`], the type
//! records of RFC 5610 and the page `docs/ipfix.md` derive, and the [`Greeting`] with which an exporter opens its
//! connection to our collector. Sockets, files and the queue of what is not yet acknowledged belong to the callers.

#[cfg(test)]
mod by_row_tests;
mod decode;
#[cfg(test)]
mod described_tests;
pub mod elements;
mod encode;
mod greeting;
mod loss;
#[cfg(test)]
mod oracle_tests;
mod plan;
mod template;
mod tenant;
#[cfg(test)]
mod tests;
mod values;
pub(crate) mod wire;

pub use decode::{DecodeError, Decoded, Decoder, Run};
pub use encode::{Exporter, MAX_GROUPS};
pub use greeting::{Greeting, GreetingError};
pub use wire::{HEADER_LENGTH, Header};

/// How far one sender's records have been taken: all with a number below `next`. The collector's log keeps these between
/// the records (as options data, so that the log stays an RFC 5655 file), and so remembers them across a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub session: u64,
    pub next: u64,
}
