//! Findings in the records that arrive: what the detectors of the room `flows` tell, kept and asked for.
//!
//! Owns the file `findings.json`, which has the newest findings whole at any time, and the questions that are answered from
//! the detectors' state alone. That state is in memory: after a start it fills anew, and answers say since when.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_flows::findings::{ClosedPorts, Detectors, Settings};
use lucarne_model::{
    AccountId, FindingId, Moment,
    finding::{ClosedPort, ClosedPortQuery, Complete, Finding, FindingQuery, ScannerQuery, Scanners},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{chunk::Chunk, durable, sealer};

const FILE: &str = "findings.json";
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Findings that are kept, the newest ones.
const MOST: usize = 10_000;
/// Machines with closed ports that are remembered, over all sources and ports: about 120 MB at most.
const CLOSED_PORTS: usize = 1_000_000;

/// The detectors and what they told.
#[derive(Debug)]
pub(crate) struct Findings {
    path: PathBuf,
    started: Moment,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    detectors: Detectors,
    closed_ports: ClosedPorts,
    told: BTreeMap<FindingId, Finding>,
    /// Whether the file has all of it.
    is_kept: bool,
}

impl Findings {
    /// Takes up what was found before; a file that cannot be read is an error, one that is not there is none.
    pub(crate) fn open(state_dir: &Path, settings: Settings, now: Moment) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let told: Vec<Finding> = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => serde_json::from_slice(&read?)?,
        };
        let mut detectors = Detectors::new(settings);
        told.iter().for_each(|finding| detectors.take_up(finding));
        let told = told.into_iter().map(|finding| (finding.id, finding)).collect();
        let state = State { detectors, closed_ports: ClosedPorts::new(CLOSED_PORTS), told, is_kept: true };
        Ok(Self { path, started: now, state: Mutex::new(state) })
    }

    pub(crate) fn observe(&self, chunk: &Chunk) {
        let mut state = self.lock();
        for record in chunk.columns.rows() {
            state.detectors.observe(&record);
            state.closed_ports.observe(&record);
        }
    }

    /// Asks the detectors, and keeps what they tell. After an error it is kept the next time.
    pub(crate) fn poll(&self, now: Moment) -> io::Result<()> {
        let told = {
            let mut state = self.lock();
            let new = state.detectors.poll(now);
            state.is_kept &= new.is_empty();
            state.told.extend(new.into_iter().map(|finding| (finding.id, finding)));
            if state.is_kept {
                return Ok(());
            }
            state.forget_oldest();
            state.told.values().cloned().collect::<Vec<_>>()
        };
        let text = serde_json::to_vec(&told)?;
        durable::write_whole(&self.path, |file| file.write_all(&text))?;
        self.lock().is_kept = true;
        Ok(())
    }

    /// The findings that are asked for, newest first.
    pub(crate) fn list(&self, query: &FindingQuery) -> Vec<Finding> {
        let state = self.lock();
        let mut found: Vec<&Finding> = state.told.values().filter(|finding| query.matches(finding)).collect();
        found.sort_unstable_by_key(|finding| std::cmp::Reverse(finding.place()));
        let limit = query.limit.map_or(found.len(), |limit| limit as usize);
        found.into_iter().take(limit).cloned().collect()
    }

    pub(crate) fn scanners(&self, query: &ScannerQuery, now: Moment) -> Scanners {
        let found = self.lock().detectors.scanners(query, now);
        Scanners { complete_since: found.complete_since.max(self.started), ..found }
    }

    /// The machines of the account, or of all, that had the port closed to the source.
    pub(crate) fn closed_ports(&self, account: Option<AccountId>, query: &ClosedPortQuery) -> Complete<ClosedPort> {
        let state = self.lock();
        let since = state.closed_ports.complete_since().max(self.started);
        let mut items = state.closed_ports.closed_to(query.source, query.port, query.since);
        items.retain(|closed| account.is_none_or(|account| closed.account == account));
        Complete { since, items }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the detectors again and again, until `shutdown`.
pub(crate) async fn watch(findings: Arc<Findings>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looking = findings.clone();
        let looked = tokio::task::spawn_blocking(move || looking.poll(sealer::now())).await;
        if let Ok(Err(error)) = looked {
            tracing::warn!(%error, "findings could not be kept; they are tried again");
        }
    }
}

impl State {
    fn forget_oldest(&mut self) {
        if self.told.len() > MOST {
            let mut times: Vec<Moment> = self.told.values().map(|finding| finding.last_seen).collect();
            times.sort_unstable();
            let oldest = times[times.len() - MOST];
            self.told.retain(|_, finding| finding.last_seen >= oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        EndReason, FlowRecord, InstanceId,
        finding::Subject,
        flow::{Direction, Path as Way, Side},
    };

    use super::*;
    use crate::test_records::{NOW, record};

    /// A machine that tries one port of so many others and is refused.
    fn refused_at(instance: InstanceId, count: u8) -> Arc<Chunk> {
        let asked = |n: u8| FlowRecord {
            destination: [10, 0, 9, n].into(),
            destination_port: 22,
            direction: Direction::Egress,
            side: Side::Initiator,
            path: Way::OtherHost,
            end_reason: EndReason::RefusedByVm,
            end: NOW,
            instance,
            ..record(7)
        };
        Chunk::of(0, &(0..count).map(asked).collect::<Vec<_>>())
    }

    fn refused(count: u8) -> Arc<Chunk> {
        refused_at(record(7).instance, count)
    }

    #[test]
    fn a_finding_is_there_after_a_restart_and_belongs_to_its_account() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Findings::open(dir.path(), Settings::default(), NOW).unwrap();
        let findings = open();
        findings.observe(&refused(40));
        findings.poll(NOW).unwrap();
        let of = |account| FindingQuery { account: Some(account), ..FindingQuery::default() };
        let account = record(7).account;
        let found = open().list(&of(account));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].count, found[0].account), (40, account));
        assert_eq!(findings.list(&of(AccountId::OPERATOR)), []);
        assert_eq!(findings.list(&FindingQuery::default()), found);
    }

    /// Paging: each page goes on behind the last one's end, also when something new was found meanwhile.
    #[test]
    fn pages_have_every_finding_once_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let findings = Findings::open(dir.path(), Settings::default(), NOW).unwrap();
        for n in 0..5u8 {
            findings.observe(&refused_at(InstanceId::from_bits(n.into()), 40));
            findings.poll(NOW.plus(Duration::from_secs(n.into()))).unwrap();
        }
        let mut query = FindingQuery { limit: Some(2), ..FindingQuery::default() };
        let mut seen = Vec::new();
        loop {
            let page = findings.list(&query);
            let Some(last) = page.last().map(Finding::place) else { break };
            (query.behind_seen, query.behind_id) = (Some(last.0), Some(last.1));
            seen.extend(page.into_iter().map(|finding| finding.subject));
        }
        let instance = |n: u8| Subject::Instance(InstanceId::from_bits(n.into()));
        assert_eq!(seen, [4, 3, 2, 1, 0].map(instance));
        let of_one = FindingQuery { instance: Some(InstanceId::from_bits(3)), ..FindingQuery::default() };
        assert_eq!(findings.list(&of_one).len(), 1);
    }

    #[test]
    fn a_full_disk_is_told_and_made_good_later() {
        let dir = tempfile::tempdir().unwrap();
        let findings = Findings::open(&dir.path().join("away"), Settings::default(), NOW).unwrap();
        findings.observe(&refused(40));
        assert!(findings.poll(NOW).is_err());
        std::fs::create_dir(dir.path().join("away")).unwrap();
        findings.poll(NOW).unwrap();
        let again = Findings::open(&dir.path().join("away"), Settings::default(), NOW).unwrap();
        assert_eq!(again.list(&FindingQuery::default()).len(), 1);
    }
}
