//! The spool: flow records on this host's disk, from the moment they are made until the collector has them on its own.
//!
//! Owns the folder `spool` of the agent's state. What is in it, in reading order:
//! 1. [`frame`] is the format, pure: a segment is a head and numbered, checksummed frames of IPFIX messages (RFC 5655 inside),
//!    the first of them the templates, so that a segment can be sent by any later version of this program;
//! 2. [`index`] knows which segments there are and decides when one is full, may go, or the spool has no room, pure;
//! 3. [`tally`] counts what could not be kept, by account and cause, pure;
//! 4. [`store`] writes the files, and [`reader`] reads for the connection;
//! 5. [`writer`] is the thread that has the store, and decides when what is written is brought to the disk.
//!
//! The promise: *a record of which the store says that it is durable reaches the collector's disk once*. What is written
//! survives the end of this process at once, and the end of the machine once it is synced, at most
//! [`writer::SYNC_GAP`] later. Only what is synced is sent, or a power cut could have a number mean two records.

mod frame;
mod index;
mod reader;
mod store;
mod tally;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub(crate) use reader::{Chunk, Reader};
pub(crate) use store::Settings;
pub(crate) use writer::{Durable, LostBefore, Taken, Writer};
