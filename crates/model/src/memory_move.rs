//! Moves from host to host: why one is made, which ones a host asks for, how far one has come, and what one came to.
//!
//! Owns the words. Whether a wish is granted is decided in the room `memory`; the move itself is a workflow of the controller.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bytes, HostId, InstanceId, Moment, Pages};

/// Why an instance moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveCause {
    /// Somebody asked for it.
    #[default]
    Asked,
    /// Its host lacks memory even with every generic instance at its share.
    HostShort,
    /// It is pinned, and its host cannot hold all of it.
    PinnedBeyondRoom,
    /// It is a soaker that sleeps, and nothing has been unused at its host for long.
    NothingUnused,
    /// It is to be kept as its host cannot promise.
    NewSettings,
}

impl MoveCause {
    /// As a sentence about the instance.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Asked => "it moves to another host, as was asked for",
            Self::HostShort => "it moves to another host: its own has too little memory",
            Self::PinnedBeyondRoom => "it moves to another host: its own cannot hold all of its pinned memory",
            Self::NothingUnused => "it moves to another host, which has memory for a soaker",
            Self::NewSettings => "it moves to another host, which has room for its new memory settings",
        }
    }
}

/// An instance that its host would rather have elsewhere. It is wished again in each report for as long as it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveWish {
    pub instance: InstanceId,
    /// What it should find at the other host.
    pub needs: Pages,
    pub cause: MoveCause,
    /// What its host lacks: another instance with a claim as large would do as well. Zero where it must be this one.
    #[serde(default)]
    pub lacks: Pages,
}

/// Of something that is brought to another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Carried {
    pub sent: Bytes,
    /// What changes after it was sent is sent again, so there may be more left than a moment ago.
    pub left: Bytes,
}

/// How far a move has come: the disks go first, then the memory, and with the last of it what was written meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveProgress {
    pub memory: Carried,
    pub disks: Carried,
}

impl MoveProgress {
    /// Of both together.
    pub fn carried(&self) -> Carried {
        Carried { sent: self.memory.sent + self.disks.sent, left: self.memory.left + self.disks.left }
    }
}

/// An instance that its host is bringing to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moving {
    pub instance: InstanceId,
    pub progress: MoveProgress,
}

/// What a move came to, once the instance was the other host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    /// When the other host became its own.
    pub at: Moment,
    pub from: HostId,
    pub to: HostId,
    /// Its pages that held anything: those that are charged, each once, however often it was sent.
    pub pages: Pages,
    /// The size of its volumes, which went with it.
    #[serde(default)]
    pub disk: Bytes,
    /// From its last instruction there to its first one here, but for the way of the last bytes. None until it has gone on, and
    /// if an agent was started anew meanwhile.
    pub stood_still_millis: Option<u64>,
}
