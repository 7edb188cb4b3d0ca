//! The steps of moving a page, and of holding one for a capture, each of which a pager may die behind.
//!
//! Owns their names and the one way to watch them: a function that is given to [`crate::run_observed`] by code. No option,
//! environment or message reaches it; tests use it to kill their pager where they want.

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Pages were chosen and marked as leaving.
    Begun,
    Protected,
    Read,
    /// Copies are in the pool and the store.
    Kept,
    /// The copies count, in this process.
    Committed,
    /// They count for the next one too.
    Recorded,
    Punched,
    /// The pages are known as away.
    Gone,
    Woken,
    /// A write came in between and is let through.
    Stayed,
    /// A copy was fetched.
    Fetched,
    /// It is in the guest's memory.
    Restored,
    /// It is known there, and the copy is free.
    Arrived,
    /// Zeros were put where nothing was yet.
    Filled,
    /// Copies were moved from the pool to the store, and this is recorded.
    Demoted,
    /// Copies were moved within the store, and this is recorded.
    Compacted,
    /// The index was written anew.
    Rewritten,
    /// Pages are write-protected for a capture that is armed.
    Guarded,
    /// A capture is frozen, for the next pager too.
    Frozen,
    /// What a page was, which is about to be written over, is kept.
    Saved,
    /// It is known as kept; the page is write-protected still.
    Released,
    /// What was kept is sealed on the disk, which nobody knows.
    Sealed,
    /// It is known there, and in memory too.
    Spilled,
    /// Pages were read for who draws on a capture.
    Lent,
    /// Who draws on it has them, and that is known; they are write-protected still.
    LetGo,
}

impl Step {
    /// Those of moving.
    pub const ALL: [Self; 17] = [
        Self::Begun,
        Self::Protected,
        Self::Read,
        Self::Kept,
        Self::Committed,
        Self::Recorded,
        Self::Punched,
        Self::Gone,
        Self::Woken,
        Self::Stayed,
        Self::Fetched,
        Self::Restored,
        Self::Arrived,
        Self::Filled,
        Self::Demoted,
        Self::Compacted,
        Self::Rewritten,
    ];

    /// Those of holding.
    pub const HOLDING: [Self; 8] = [
        Self::Guarded,
        Self::Frozen,
        Self::Saved,
        Self::Released,
        Self::Sealed,
        Self::Spilled,
        Self::Lent,
        Self::LetGo,
    ];
}

/// Who is told of steps; in a real pager nobody.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Observer(pub(crate) Option<fn(Step)>);

impl Observer {
    pub(crate) fn at(self, step: Step) {
        if let Some(tell) = self.0 {
            tell(step);
        }
    }
}
