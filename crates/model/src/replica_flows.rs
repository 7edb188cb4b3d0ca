//! In what the flows of a replica and of its source differ.
//!
//! Owns the shapes. Records are added up by the collector, and compared by `lucarne_replica::flow_difference`.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{InstanceId, Moment, flow::Side};

/// All flows between an instance and one address, of one protocol and one port of the side that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Conversation {
    pub instance: InstanceId,
    pub peer: IpAddr,
    /// Which side the instance was.
    pub side: Side,
    /// By IANA's numbers.
    pub protocol: u8,
    /// 0 where the protocol has none.
    pub port: u16,
}

/// What there was of a conversation, as the instance's interface saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConversationTally {
    /// Records of flows that were let through: one for each direction, flow and interval.
    pub accepted: u64,
    pub rejected: u64,
    pub packets: u64,
    pub bytes: u64,
}

/// A conversation that only one side had, or that was judged otherwise there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowDifference {
    /// In the duplicate's ids and addresses; the source's of an instance that has no duplicate.
    pub conversation: Conversation,
    /// None: the source had none of it.
    pub source: Option<ConversationTally>,
    /// None: the duplicate had none of it.
    pub duplicate: Option<ConversationTally>,
}

/// In what the flows differ of a time in which both ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowDifferences {
    pub since: Moment,
    pub until: Moment,
    /// Those with the most packets first.
    pub differences: Vec<FlowDifference>,
    /// Differences beyond those that were wanted.
    pub more: u64,
    /// Conversations that both had and that were judged alike.
    pub alike: u64,
}
