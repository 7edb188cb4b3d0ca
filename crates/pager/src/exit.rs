//! How a pager ends, and how its threads learn that it does.

use std::sync::{Mutex, PoisonError};

/// Why a pager ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was told to; key and store are gone.
    Terminated,
    /// Its machine has ended. The store is kept: a machine that was hibernated comes back to it.
    MachineGone,
    /// A page could not be given back. The machine was ended with this reason.
    Lost { reason: String },
}

/// The end of one pager: begun once, seen by all.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    exit: Mutex<Option<Exit>>,
}

impl Ending {
    /// The first reason is the one that counts.
    pub(crate) fn begin(&self, exit: Exit) {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(exit);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn reason(&self) -> Option<Exit> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
