//! Whose question is worked on next: few at once, and not all of them one account's.
//!
//! Owns the waiting. A question of an account that has its share of the turns waits for one of its own to end, and does
//! not stand in the way of others meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use lucarne_model::AccountId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Limits, SqlError};

/// Whose question it is; none is the operator's, over all accounts.
type Asker = Option<AccountId>;

/// The turns that there are.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    /// Of those who have a turn or wait for one.
    askers: Mutex<BTreeMap<Asker, Weak<Semaphore>>>,
    of_one: usize,
    wait: Duration,
}

/// A question is worked on as long as this lives.
#[derive(Debug)]
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(limits: Limits) -> Self {
        let all = Arc::new(Semaphore::new(limits.at_once));
        Self { all, askers: Mutex::default(), of_one: limits.of_one, wait: limits.wait }
    }

    /// A turn, or [`SqlError::Busy`] after the time that questions wait.
    pub(super) async fn take(&self, asker: Asker) -> Result<Turn, SqlError> {
        let own = self.own(asker);
        let turn = async {
            let own = own.acquire_owned().await.map_err(|_| SqlError::Stopped)?;
            let of_all = self.all.clone().acquire_owned().await.map_err(|_| SqlError::Stopped)?;
            Ok(Turn { _own: own, _of_all: of_all })
        };
        timeout(self.wait, turn).await.map_err(|_| SqlError::Busy)?
    }

    fn own(&self, asker: Asker) -> Arc<Semaphore> {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        askers.retain(|_, turns| turns.strong_count() > 0);
        let known = askers.get(&asker).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let fresh = Arc::new(Semaphore::new(self.of_one));
            askers.insert(asker, Arc::downgrade(&fresh));
            fresh
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Turns {
        Turns::new(Limits { at_once: 3, of_one: 2, wait: Duration::from_millis(20), ..Limits::default() })
    }

    #[tokio::test]
    async fn one_account_cannot_have_all_turns() {
        let (turns, greedy, other) = (turns(), Some(AccountId::from_bits(1)), Some(AccountId::from_bits(2)));
        let (first, _second) = (turns.take(greedy).await.unwrap(), turns.take(greedy).await.unwrap());
        assert!(matches!(turns.take(greedy).await, Err(SqlError::Busy)));
        let others = turns.take(other).await.unwrap();
        assert!(matches!(turns.take(None).await, Err(SqlError::Busy)), "there are three in all");
        drop((first, others));
        turns.take(greedy).await.unwrap();
        turns.take(None).await.unwrap();
    }

    #[tokio::test]
    async fn who_has_no_turn_is_forgotten() {
        let turns = turns();
        for number in 0..100 {
            drop(turns.take(Some(AccountId::from_bits(number))).await.unwrap());
        }
        assert!(turns.askers.lock().unwrap().len() <= 1);
    }
}
