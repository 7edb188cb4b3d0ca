//! `guest.start`: what runs on a host is its controller's wish, so a start that was asked for here is asked of the controller.
//!
//! Owns the asking, in the host's report, and the wait until the guest runs. A controller that is away, or that does not want it
//! either, makes it a failure: nothing is asked for any more then, and no guest starts later that nobody waits for.

use std::{sync::Arc, time::Duration};

use lucarne_model::actual::AskedStart;
use lucarne_seal::{judge::Life, request::TargetInstance};
use lucarne_sealer::Failure;
use serde::Serialize;
use tokio::{sync::watch, time::timeout};

use super::office::Present;

/// How long the controller may take to want it, and the guest to be started: what it needs may have to be fetched first.
const PATIENCE: Duration = Duration::from_secs(60);

/// How starts are asked for, and how it is seen that they came about.
#[derive(Clone, Debug)]
pub(crate) struct Starting {
    asked: Arc<watch::Sender<Vec<AskedStart>>>,
    present: watch::Receiver<Arc<Vec<Present>>>,
    patience: Duration,
}

/// What became of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Started {
    /// Not if it ran already.
    changed: bool,
    /// In which it runs.
    generation: u64,
}

/// What is asked for as long as somebody waits for it.
struct Asking<'a>(&'a watch::Sender<Vec<AskedStart>>, AskedStart);

impl<'a> Asking<'a> {
    fn begin(asked: &'a watch::Sender<Vec<AskedStart>>, start: AskedStart) -> Self {
        asked.send_modify(|asked| asked.push(start));
        Self(asked, start)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|asked| asked.retain(|one| *one != self.1));
    }
}

impl Starting {
    pub(crate) fn new(asked: Arc<watch::Sender<Vec<AskedStart>>>, present: watch::Receiver<Arc<Vec<Present>>>) -> Self {
        Self { asked, present, patience: PATIENCE }
    }

    /// Returns when the guest runs.
    pub(super) async fn start(&self, target: &TargetInstance) -> Result<Started, Failure> {
        let mut present = self.present.clone();
        let runs = |present: &[Present]| {
            let it = present.iter().find(|one| one.instance == target.id)?;
            (it.life == Life::Runs && it.generation >= target.generation).then_some(it.generation)
        };
        if let Some(generation) = runs(&present.borrow_and_update()) {
            return Ok(Started { changed: false, generation });
        }
        let start = AskedStart { instance: target.id, generation: target.generation };
        let _asking = Asking::begin(&self.asked, start);
        let begun = async {
            loop {
                if present.changed().await.is_err() {
                    return None;
                }
                if let Some(generation) = runs(&present.borrow_and_update()) {
                    return Some(generation);
                }
            }
        };
        let generation = timeout(self.patience, begun).await.ok().flatten();
        let why = || Failure::Impossible("its controller is away, or did not have it started".to_owned());
        generation.map(|generation| Started { changed: true, generation }).ok_or_else(why)
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{AccountId, InstanceId};

    use super::*;

    const TARGET: TargetInstance =
        TargetInstance { id: InstanceId::from_bits(7), generation: 2, account: AccountId::from_bits(5) };

    fn is(life: Life, generation: u64) -> Arc<Vec<Present>> {
        Arc::new(vec![Present { instance: TARGET.id, account: TARGET.account, generation, life }])
    }

    type Host = (Starting, watch::Sender<Arc<Vec<Present>>>, watch::Receiver<Vec<AskedStart>>);

    /// A host on which the guest is so, and what it asks its controller for.
    fn host(life: Life, generation: u64) -> Host {
        let ((asked, asks), (tell, present)) = (watch::channel(Vec::new()), watch::channel(is(life, generation)));
        let starting = Starting { patience: Duration::from_millis(300), ..Starting::new(Arc::new(asked), present) };
        (starting, tell, asks)
    }

    #[tokio::test]
    async fn a_start_is_asked_for_until_the_guest_runs_and_no_longer() {
        let (starting, tell, mut asks) = host(Life::Stopped, 2);
        let controller = async {
            asks.wait_for(|asked| !asked.is_empty()).await.unwrap();
            // What else changes is not what is waited for.
            tell.send_replace(is(Life::Stopped, 2));
            assert_eq!(*asks.borrow(), [AskedStart { instance: TARGET.id, generation: 2 }]);
            tell.send_replace(is(Life::Runs, 3));
        };
        let (started, ()) = tokio::join!(starting.start(&TARGET), controller);
        assert_eq!(started, Ok(Started { changed: true, generation: 3 }));
        assert!(asks.borrow().is_empty());
    }

    #[tokio::test]
    async fn of_a_guest_that_runs_nothing_is_asked_and_a_controller_that_is_away_makes_it_fail() {
        let (starting, _tell, asks) = host(Life::Runs, 2);
        assert_eq!(starting.start(&TARGET).await, Ok(Started { changed: false, generation: 2 }));
        assert!(!asks.has_changed().unwrap());
        let (starting, _tell, asks) = host(Life::Stopped, 2);
        assert!(matches!(starting.start(&TARGET).await, Err(Failure::Impossible(_))));
        assert!(asks.borrow().is_empty(), "nobody waits for it any more");
    }
}
