//! The two conversations with the controller: the desired state comes in, reports go out; and the hello before them.
//!
//! Owns their pace: long polls, coalesced changes, heartbeats, and waiting longer and longer while nobody answers. VMs do
//! not notice any of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lucarne_api::{Problem, bodies::host::HostSettings};
use lucarne_model::{
    Moment,
    actual::{AskedStart, HostDescription, Report},
    desired::Desired,
    load::ActualLoad,
    memory_report::MemoryReport,
    recording::ActualRecording,
    replay::ActualReplay,
    scaling::InstanceFigures,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    controller::Controller,
    durable::{self, Outlives},
    layout::Layout,
    network::Network,
};

/// How long the controller may hold a question for the desired state.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// Used until the controller says another.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(1);

/// Says hello until it is heard, and again when `again` asks for it or the certificate is to be renewed; the settings are what the controller said last.
pub(crate) async fn say_hello(
    controller: Arc<dyn Controller>,
    host: HostDescription,
    settings: watch::Sender<Option<HostSettings>>,
    again: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let greet = async {
        let mut patience = Patience::new("say hello");
        loop {
            match controller.hello(&host).await {
                Ok(told) => {
                    patience.answered();
                    let renewal = sleep(time_until(told.renew_certificate));
                    settings.send_replace(Some(told));
                    tokio::select! {
                        () = again.notified() => {}
                        () = renewal => {}
                    }
                }
                Err(problem) => patience.wait(&problem).await,
            }
        }
    };
    shutdown.run_until_cancelled(greet).await;
}

/// How long until then; not less than a minute, so that a clock that is wrong makes no storm of hellos.
fn time_until(then: Moment) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    then.since(Moment::EPOCH.plus(now)).max(Duration::from_secs(60))
}

/// Follows the desired state. It is on disk before it is acted upon, as far as the disk takes it.
pub(crate) async fn follow_desired(
    controller: Arc<dyn Controller>,
    layout: Layout,
    desired: watch::Sender<Arc<Desired>>,
    shutdown: CancellationToken,
) {
    let follow = async {
        let mut patience = Patience::new("hear what is desired");
        // Asked in full at first: what is on disk may be of another controller's counting.
        let mut have = None;
        loop {
            match controller.desired(have, POLL_WAIT).await {
                Ok(newer) => {
                    patience.answered();
                    let Some(newer) = newer else { continue };
                    have = Some(newer.version);
                    keep(&layout, &newer).await;
                    desired.send_replace(Arc::new(newer));
                }
                Err(problem) => patience.wait(&problem).await,
            }
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

/// A host without room for its desired state goes on: it is told everything again after a restart.
async fn keep(layout: &Layout, desired: &Desired) {
    let (path, json) = (layout.desired(), serde_json::to_vec(desired));
    let kept = tokio::task::spawn_blocking(move || durable::replace(&path, &json?, Outlives::Process)).await;
    if let Err(error) = kept.map_err(std::io::Error::other).and_then(|result| result) {
        tracing::warn!(%error, "the desired state could not be kept on disk");
    }
}

/// What others tell of memory, of recordings, of replays and loads, and of instances' figures, and what the host was asked to start.
pub(crate) type Told = (
    watch::Receiver<Option<MemoryReport>>,
    watch::Receiver<Vec<ActualRecording>>,
    (watch::Receiver<Vec<ActualReplay>>, watch::Receiver<Vec<ActualLoad>>),
    watch::Receiver<Vec<InstanceFigures>>,
    watch::Receiver<Vec<AskedStart>>,
);

/// Sends reports: soon after each change, in the long run a few in a second, at each heartbeat, and while an instance is on its
/// way to another host whenever it is known how far; and whenever a replay or a load has come further.
pub(crate) async fn send_reports(
    (controller, network): (Arc<dyn Controller>, Arc<dyn Network>),
    mut reports: watch::Receiver<Report>,
    (mut memory, recordings, (mut replays, mut loads), figures, mut starts): Told,
    settings: watch::Receiver<Option<HostSettings>>,
    coalesce: Duration,
    shutdown: CancellationToken,
) {
    let send = async {
        let (mut patience, mut turns) = (Patience::new("report"), Turns::default());
        loop {
            let mut report = reports.borrow_and_update().clone();
            report.dropped_frames = network.dropped_frames().await;
            report.memory = memory.borrow_and_update().clone();
            report.recordings.clone_from(&recordings.borrow());
            report.replays.clone_from(&replays.borrow_and_update());
            report.loads.clone_from(&loads.borrow_and_update());
            report.figures.clone_from(&figures.borrow());
            report.starts.clone_from(&starts.borrow_and_update());
            let sent = Instant::now();
            match controller.report(&report).await {
                Ok(()) => patience.answered(),
                Err(problem) => {
                    patience.wait(&problem).await;
                    continue;
                }
            }
            let heartbeat = settings.borrow().as_ref().map_or(FIRST_HEARTBEAT, heartbeat_of);
            tokio::select! {
                changed = reports.changed() => match changed {
                    Ok(()) => sleep_until(turns.next(Instant::now()).max(Instant::now() + coalesce)).await,
                    Err(_) => return,
                },
                () = something_moves(&mut memory) => {}
                () = is_told_anew(&mut replays) => {}
                () = is_told_anew(&mut loads) => {}
                () = is_told_anew(&mut starts) => {}
                () = sleep_until(sent + heartbeat) => {}
            }
        }
    };
    shutdown.run_until_cancelled(send).await;
}

/// Returns when there is something new; never when there will be no more.
async fn is_told_anew<T>(told: &mut watch::Receiver<T>) {
    if told.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Returns when it is told anew how far instances have come on their way to other hosts.
async fn something_moves(memory: &mut watch::Receiver<Option<MemoryReport>>) {
    loop {
        if memory.changed().await.is_err() {
            return std::future::pending().await;
        }
        if memory.borrow_and_update().as_ref().is_some_and(|told| !told.moving.is_empty()) {
            return;
        }
    }
}

fn heartbeat_of(settings: &HostSettings) -> Duration {
    Duration::from_millis(settings.heartbeat_millis.clamp(100, 60_000))
}

/// Reports of changes that may follow each other closely, and from when to when one more may: what a launch has to tell is
/// told at once, and a host on which something always changes does not keep the controller busy.
const CLOSELY: u32 = 8;
const BETWEEN: Duration = Duration::from_millis(250);

/// When reports of changes have their turn.
#[derive(Debug, Default)]
struct Turns {
    /// The last one's turn, had none followed closely.
    last: Option<Instant>,
}

impl Turns {
    /// Of one that is there at `now`.
    fn next(&mut self, now: Instant) -> Instant {
        let rested = now.checked_sub(BETWEEN * CLOSELY).unwrap_or(now);
        let turn = self.last.map_or(rested, |last| last.max(rested)) + BETWEEN;
        self.last = Some(turn);
        turn.max(now)
    }
}

/// Waits between tries, and tells the log when trouble begins and when it is over.
struct Patience {
    what: &'static str,
    backoff: Backoff,
    troubled: bool,
}

impl Patience {
    fn new(what: &'static str) -> Self {
        Self { what, backoff: Backoff::default(), troubled: false }
    }

    async fn wait(&mut self, problem: &Problem) {
        if !std::mem::replace(&mut self.troubled, true) {
            tracing::warn!(%problem, "could not {}; trying on, virtual machines are not affected", self.what);
        }
        sleep(self.backoff.next_delay()).await;
    }

    fn answered(&mut self) {
        if std::mem::take(&mut self.troubled) {
            tracing::info!("could {} again", self.what);
        }
        self.backoff = Backoff::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_changes_go_at_once_until_there_have_been_many_and_then_four_in_a_second() {
        let mut turns = Turns::default();
        let began = Instant::now() + BETWEEN * CLOSELY;
        let (mut now, mut sent) = (began, Vec::new());
        while now < began + Duration::from_secs(60) {
            now = turns.next(now) + Duration::from_millis(30);
            sent.push(now - began);
        }
        let within = |span: Duration| sent.iter().filter(|at| **at < span).count();
        assert_eq!(within(Duration::from_millis(260)), CLOSELY as usize, "{sent:?}");
        assert!(sent.len() < 60 * 4 + CLOSELY as usize + 1, "{}", sent.len());
        // Who has been silent is as free as at first.
        let rested = now + BETWEEN * CLOSELY * 2;
        assert_eq!(turns.next(rested), rested);
    }
}
