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
use serde::{Deserialize, Serialize};

/// One request that was judged, marked and logged: it is to be carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub request: RequestId,
    pub host: HostId,
    pub operation: Operation,
    /// For operations on a guest or on the process that plays its machine.
    pub machine: Option<Machine>,
    /// For whom the result is, how long it may be and how it is lengthened.
    pub terms: ResultTerms,
    /// What nobody but the agent has, as JSON: it goes to the process behind the order, and is sealed there.
    #[serde(skip)]
    pub given: Vec<u8>,
}

/// How the machine of one instance is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

impl Failure {
    /// The cause of a step that could not be done.
    pub(crate) fn broken(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Broken { doing, cause: error.to_string() }
    }
    pub(crate) fn impossible(why: impl Into<String>) -> Self {
        Self::Impossible(why.into())
    }
}

/// What the process is told first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    CarryOut(Box<Order>),
    /// Undo what a process that is gone wrote into this machine, when its time is over.
    Undo(Machine),
}

/// What the process answers, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Told {
    Done { consistency: Consistency, paused_nanoseconds: u64 },
    Impossible { why: String },
    TooLong { most: u64 },
    Broken { cause: String },
}

impl From<Result<Done, Failure>> for Told {
    fn from(outcome: Result<Done, Failure>) -> Self {
        match outcome {
            Ok(Done { consistency, paused_nanoseconds }) => Self::Done { consistency, paused_nanoseconds },
            Err(Failure::Impossible(why)) => Self::Impossible { why },
            Err(Failure::TooLong { most }) => Self::TooLong { most },
            Err(Failure::Broken { doing, cause }) => Self::Broken { cause: format!("could not {doing}: {cause}") },
        }
    }
}

impl From<Told> for Result<Done, Failure> {
    fn from(told: Told) -> Self {
        match told {
            Told::Done { consistency, paused_nanoseconds } => Ok(Done { consistency, paused_nanoseconds }),
            Told::Impossible { why } => Err(Failure::Impossible(why)),
            Told::TooLong { most } => Err(Failure::TooLong { most }),
            Told::Broken { cause } => Err(Failure::Broken { doing: "carry the order out", cause }),
        }
    }
}
