//! What a pager may be told and asked, as lines of JSON on a unix socket.
//!
//! Owns the words and their version. One line is one [`Request`]; each is answered by one line, a [`Reply`], in order.
//! [`crate::client`] speaks it for the host agent; the answers come from the pager's threads.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_model::{
    Bytes, InstanceId,
    memory::{EvictionPolicy, Pages, PagesByPlace, Place},
};
use serde::{Deserialize, Serialize};

use crate::{
    latency::Latencies,
    remote::{Borrowing, RemoteStatistics},
};

/// The version of this protocol. A pager answers a [`Request::Hello`] of another with a refusal and closes.
pub const VERSION: u32 = 1;
/// The longest line that either side takes.
pub const LONGEST_LINE: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// First on every connection.
    Hello {
        version: u32,
    },
    /// Keep at most this much of the guest in the host's memory, from now on; answered at once. Pages leave at most at
    /// `pages_per_second` (none: as fast as they can). A target of at least the guest's memory stops eviction.
    SetTarget {
        resident: Pages,
        pages_per_second: Option<u64>,
    },
    /// Choose victims so from now on.
    SetPolicy {
        policy: EvictionPolicy,
    },
    /// While pinned no page leaves, whatever the target is.
    SetPinned {
        pinned: bool,
    },
    /// Keep copies of what is on the disk in these other hosts' memory too, each page's in one of them; answered at once.
    SetRemote {
        remote: Vec<Borrowing>,
    },
    /// Send out all that is resident now, whatever the target is, and put the store and its index on the disk; answered
    /// when that is done. Of a guest that is stopped nothing is left: this is the memory's part of a hibernation.
    EvictAll,
    /// Hold the guest's memory as it will be at an instant to come, for at most so long; [`crate::capture`] has the rest. Once
    /// it is answered with [`Reply::Done`], the connection is the capture's, and ends it by its own end.
    Capture {
        seconds: u32,
    },
    /// The same under a name, for as long as nobody lets it go: once it is frozen also the guest's next pagers hold it. One that has
    /// the name is let go before.
    Hold {
        name: String,
    },
    /// Now is the instant: the guest stands still, and may go on when this is answered.
    Freeze {
        name: String,
    },
    /// Read a capture that has a name: once it is answered with [`Reply::Done`], the connection is its reader's.
    Read {
        name: String,
    },
    /// There is none of this name any more.
    LetGo {
        name: String,
    },
    /// Of a guest that goes on from another: bring all of that one's memory here, beside what is asked for; answered at once.
    FetchAll,
    Statistics,
    /// End the pager, forget the key and delete the store. The answer is the last thing that it does. To be asked once
    /// the VM has ended: a VM that still runs stands still at its next fault.
    Terminate,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    Hello {
        version: u32,
        instance: InstanceId,
        memory: Pages,
        /// The machine's process, by which its end is told from that of its pager. None: that is not known.
        #[serde(default)]
        machine: Option<i32>,
    },
    Done,
    Evicted {
        left: Pages,
        resident: Pages,
    },
    /// How long that took.
    Frozen {
        microseconds: u64,
    },
    Statistics(Box<Statistics>),
    Refused {
        reason: String,
    },
}

/// What a pager knows of its VM's memory. Counts are since this pager's start; a new pager counts from zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// The sum is the guest's memory.
    pub pages: PagesByPlace,
    /// Of the resident ones, those that many looks at the access bits have not seen touched.
    #[serde(default)]
    pub idle: Pages,
    pub target: Pages,
    pub pinned: bool,
    pub policy: EvictionPolicy,
    /// Faults served, by where the page was: `untouched` are first touches, `resident` are writes that came while the page
    /// was on its way out, or touches that another fault had answered already.
    pub faults: BTreeMap<Place, Latencies>,
    /// Pages that came back beside the one that was asked for.
    pub restored_beside: Pages,
    pub evicted: Pages,
    /// Of these, pages that had come back from the store and were as they had been: nothing was written.
    #[serde(default)]
    pub unwritten: Pages,
    /// Evictions given up because the guest wrote.
    pub aborted: Pages,
    /// Faults on pages that had been evicted; each made a vCPU wait.
    pub refaults: u64,
    /// Pages that the guest gave back, and whose copies were dropped unread.
    pub discarded: Pages,
    /// Pages that appeared in the guest's memory without the pager: a second mapping exists. Repaired where possible.
    pub tripped: u64,
    /// Memory that compressed pages take.
    pub pool: Bytes,
    /// What the store and its index take on the disk.
    pub store: Bytes,
    /// The pager's own resident memory, without the pool.
    pub overhead: Bytes,
    /// How long this pager took from its start until it served, in microseconds.
    pub start_microseconds: u64,
    #[serde(default)]
    pub remote: RemoteStatistics,
    /// Hot and cold, region by region.
    pub heat: Vec<RegionHeat>,
    /// Why pages do not leave although they should; none when all is well.
    pub trouble: Option<Trouble>,
}

/// How much of a region of the guest's memory was used at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionHeat {
    /// Number of the region's first page in the guest's memory.
    pub first: u64,
    pub pages: Pages,
    pub resident: Pages,
    /// Touched between the last two looks at the access bits.
    pub touched: Pages,
}

/// Why nothing leaves. The guest runs on, with what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "trouble", rename_all = "kebab-case")]
pub enum Trouble {
    /// The disk of the store is full; tried again every second.
    StoreFull,
    /// The disk of the store takes long for what it is asked: little leaves, so that pages can come back.
    StoreSlow,
    /// The store cannot be written; tried again every second.
    StoreFailed { reason: String },
}
