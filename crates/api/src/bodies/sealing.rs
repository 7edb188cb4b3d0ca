//! Bodies about sealed operations. Owns which host is asked and for what; what is signed is octets here, and the words of
//! answers are `lucarne_model`'s.

use lucarne_model::{HostId, InstanceId, Octets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// To which host a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedAtQuery {
    pub host: HostId,
}

/// What came of a request at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LookQuery {
    pub host: HostId,
    /// How long to wait for its end; not at all if not given, and not longer than 20 seconds.
    pub wait_millis: Option<u64>,
}

/// Which part of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResultQuery {
    pub host: HostId,
    /// The first octet that is wanted; 0 if not given.
    pub from: Option<u64>,
}

/// A host, by itself or by an instance that is on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealHostQuery {
    pub host: Option<HostId>,
    pub instance: Option<InstanceId>,
}

/// Which part of a host's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealLogQuery {
    pub host: Option<HostId>,
    /// Entries about this instance, on the host that it is on if no host is given.
    pub instance: Option<InstanceId>,
    /// The first entry that is wanted; 0 if not given.
    pub first: Option<u64>,
    /// How many entries the head had that was seen last: the answer proves that the log continues it.
    pub seen: Option<u64>,
}

/// What hosts are to go by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealPolicy {
    /// An envelope that the operator's policy key signed: each host judges it itself.
    pub policy: Octets,
}
