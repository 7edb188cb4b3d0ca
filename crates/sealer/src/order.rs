//! What a sealing process is told to do, and what it says when it has done it.
//!
//! Owns these words. Nothing in them is secret: what an operation finds is in the age file alone.

use std::path::PathBuf;

use lucarne_model::{AccountId, HostId, InstanceId};
use lucarne_seal::{
    operation::Operation,
    receipt::Consistency,
    request::{RequestId, ResultTerms},
};

/// One request that was judged, marked and logged: it is to be carried out.
#[derive(Clone, Debug)]
pub struct Order {
    pub request: RequestId,
    pub host: HostId,
    pub operation: Operation,
    /// For operations on a guest or on the process that plays its machine.
    pub machine: Option<Machine>,
    /// For whom the result is, how long it may be and how it is lengthened.
    pub terms: ResultTerms,
}

/// How the machine of one instance is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub instance: InstanceId,
    pub generation: u64,
    pub account: AccountId,
    /// QEMU's process.
    pub process: u32,
    /// A monitor of QEMU that nobody else talks to.
    pub monitor: PathBuf,
    /// Where its pager listens; none: all of its memory is QEMU's own.
    pub pager: Option<PathBuf>,
    /// What it wrote to its serial console.
    pub console: PathBuf,
}

/// What came of an order whose age file is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub consistency: Consistency,
    /// For how long the guest stood still for it.
    pub paused_nanoseconds: u64,
}

/// Why no whole result came of an order. For the operator's log: a carrier hears only that it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The guest, its machine or the host is not in a state in which that can be done.
    #[error("{0}")]
    Impossible(String),
    #[error("the result would have more than the {most} octets that the request allows")]
    TooLong { most: u64 },
    /// It could be tried again, by another request.
    #[error("could not {doing}: {cause}")]
    Broken { doing: &'static str, cause: String },
}
