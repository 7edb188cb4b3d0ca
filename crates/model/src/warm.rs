//! Warm states: an image booted once, saved before it had an identity, and begun from there many times.
//!
//! Owns what is asked of hosts, what they answer, and how an instance tells that it began so. A warm state belongs to the
//! host that made it: devices and memory of one hypervisor are not for another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bytes, ImageId, InstanceId, Vcpus, storage::BootSource, storage::Digest};

/// A machine for which an image has a warm state. Only a launch that asks for the same can begin from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct WarmSize {
    pub vcpus: Vcpus,
    pub memory: Bytes,
}

/// What a host is to keep ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredWarmState {
    pub image: ImageId,
    pub size: WarmSize,
    pub boot: BootSource,
}

/// How far a host is with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum WarmProgress {
    /// The image is being booted and saved.
    Preparing,
    Ready {
        /// Of its devices and of the index of its memory, which has a digest of every page: the measurement of the whole.
        digest: Digest,
        /// What it takes on the host's disk.
        stored: Bytes,
    },
    /// It cannot be made; instances start cold.
    Failed { reason: String },
}

/// What a host says of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualWarmState {
    pub image: ImageId,
    pub size: WarmSize,
    pub progress: WarmProgress,
}

/// A warm state that an image is to have, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WarmState {
    #[serde(flatten)]
    pub size: WarmSize,
    /// What each host that has spoken of it says. Computed when it is shown.
    #[serde(default)]
    pub hosts: Vec<WarmProgress>,
}

/// How an instance's VM began to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Began {
    /// It booted. With the reason, where its image has a warm state.
    Cold {
        #[serde(default)]
        because: Option<String>,
    },
    /// It went on from its image's warm state, of this digest.
    Warm { digest: Digest },
    /// It went on where this instance was at a cut.
    Duplicate { of: InstanceId },
}
