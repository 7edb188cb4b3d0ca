//! Pages that are read for a capture, where they are, and without being brought in.
//!
//! Owns the one motion that leads back to where it began. Who reads a page makes it *arriving*, so that nobody moves, frees
//! or changes it meanwhile, and says when it is done; a fault on it waits until then.

use super::{Away, Motion, Places, State};

/// How a page is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// There is nothing to read, and nothing was begun.
    Zeros,
    /// From the guest's memory.
    Here,
    /// From its copy.
    Away(Away),
    /// It is on its way: later.
    Moves,
}

impl Places {
    /// Begins to read `page`; but for [`Reading::Zeros`] and [`Reading::Moves`] it is to be [ended](Self::end_reading).
    pub(crate) fn begin_reading(&mut self, page: u64, is_discarded: bool) -> Reading {
        let (motion, state) = self.movement(page);
        let reading = match state {
            _ if motion != Motion::Still => return Reading::Moves,
            State::Untouched => return Reading::Zeros,
            State::Away(_) if is_discarded => return Reading::Zeros,
            State::Away(away) => Reading::Away(away),
            State::Resident | State::Kept(_) => Reading::Here,
        };
        self.set(page, state, Motion::Arriving);
        reading
    }

    /// The page is as it was. True: who waits for it is to be woken.
    pub(crate) fn end_reading(&mut self, page: u64) -> bool {
        let (motion, state) = self.movement(page);
        if matches!(motion, Motion::Arriving | Motion::Awaited) {
            self.set(page, state, Motion::Still);
        }
        motion == Motion::Awaited
    }

    /// Whether somebody is putting the page into the guest's memory, or taking its protection off, or reading it.
    pub(crate) fn is_arriving(&self, page: u64) -> bool {
        matches!(self.movement(page).0, Motion::Arriving | Motion::Awaited)
    }
}
