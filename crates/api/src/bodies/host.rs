//! Bodies between host agents and the controller. Owns their shapes; state itself is `lucarne_model`'s desired and actual.

use std::net::SocketAddr;

use lucarne_model::{HostId, Moment, actual::HostDescription, desired::Desired};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine asks to become a host, with the token that the operator gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolHost {
    pub join_token: String,
    pub host: HostDescription,
}

/// What a machine needs to become a host, once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinToken {
    pub join_token: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").finish_non_exhaustive()
    }
}

/// What an enrolled host keeps: its id and the key with which it speaks from now on.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct Enrolled {
    pub host: HostId,
    pub host_key: String,
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolled").field("host", &self.host).finish_non_exhaustive()
    }
}

/// What a host is told when it says hello at each of its starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostSettings {
    pub host: HostId,
    /// Where flow records go, over TLS.
    pub collector: SocketAddr,
    /// The one certificate that is trusted there, in PEM.
    pub collector_certificate: String,
    /// The host's own, in PEM: its export key, signed by the controller's host CA.
    pub certificate: String,
    /// The certificate of the host CA, in PEM: by it hosts know each other. None from a controller that is older than that.
    #[serde(default)]
    pub host_authority: Option<String>,
    /// When to say hello again for a new one: a third of its time is left then.
    pub renew_certificate: Moment,
    /// How often to report when nothing changes.
    pub heartbeat_millis: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredQuery {
    /// The version that the host has; none at the start.
    pub have: Option<u64>,
    /// How long to wait for a newer one, at most 30000.
    pub wait_millis: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteHostQuery {
    /// Gives up what was on a host that is down: its instances are terminated, its volumes are lost.
    pub force: Option<bool>,
}

/// The desired state, if it is newer than what the host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredAnswer {
    pub desired: Option<Desired>,
}
