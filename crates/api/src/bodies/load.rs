//! Bodies of loads. Owns their shapes; what a load and its report are is `lucarne_model::load`'s.

use lucarne_model::{
    ReplicaId, Tags,
    load::{LoadFrom, LoadKind, LoadTarget},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartLoad {
    /// The duplicate in which it is asked.
    pub replica: ReplicaId,
    /// An instance of the duplicate by its id, or the address that one has there.
    pub to: LoadTarget,
    pub port: u16,
    pub kind: LoadKind,
    /// What is asked for, of HTTP alone; `/` if not given.
    #[serde(default)]
    pub path: Option<String>,
    /// `internet`, or an instance of the duplicate, beside which the clients stand; beside who is asked if not given.
    #[serde(default)]
    pub from: Option<LoadFrom>,
    /// At most 1000; one if not given.
    #[serde(default)]
    pub clients: Option<u32>,
    /// Requests in a second, of all clients together, at most 10,000; each asks again when it is answered if not given.
    #[serde(default)]
    pub rate: Option<u32>,
    /// At most an hour; 10 s if not given.
    #[serde(default)]
    pub seconds: Option<u32>,
    /// Octets that are sent with each request: at most 1 MiB, in a datagram 1372; none if not given, in a datagram 32.
    #[serde(default)]
    pub size: Option<u32>,
    #[serde(default)]
    pub tags: Tags,
}
