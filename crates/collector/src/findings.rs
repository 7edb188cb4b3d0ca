//! Findings in the records that arrive: what the detectors of the room `flows` tell, kept and asked for.
//!
//! Owns the file `findings.json`, which has the newest findings whole at any time, and the questions that are answered from
//! the detectors' state alone. That state is in memory: a start reads the last hour's records again for what can be asked of
//! scanners and closed ports ([`recall`]), the rest fills anew, and answers say since when they are whole.

mod recall;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_flows::findings::{ClosedPorts, Detectors, Settings, Sighting};
use lucarne_model::{
    AccountId, FindingId, Moment,
    finding::{ClosedPort, ClosedPortQuery, Complete, Finding, FindingQuery, ScannerQuery, Scanners},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{Kept, catalog::Catalog, chunk::Chunk, durable, sealer};

const FILE: &str = "findings.json";
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Findings that are kept, the newest ones.
const MOST: usize = 10_000;
/// Machines with closed ports that are remembered, over all sources and ports: about 120 MB at most.
const CLOSED_PORTS: usize = 1_000_000;
/// Records that a start reads again for them: some 200 MB while it does.
const RECALLED: usize = 500_000;

/// The detectors and what they told.
#[derive(Debug)]
pub(crate) struct Findings {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    detectors: Detectors,
    closed_ports: ClosedPorts,
    /// Since when all that came was tallied.
    since: Moment,
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
        let state = State { detectors, closed_ports: ClosedPorts::new(CLOSED_PORTS), since: now, told, is_kept: true };
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// Reads again what the tallies lost with the process before, before anything new comes.
    pub(crate) fn recall(&self, catalog: &Catalog, now: Moment) {
        let recalled = recall::recall(catalog, now.minus(ScannerQuery::LONGEST), RECALLED);
        let mut state = self.lock();
        for Kept { record, .. } in &recalled.records {
            state.detectors.recall(record);
            state.closed_ports.observe(record);
        }
        state.since = recalled.since.min(now);
        tracing::info!(records = recalled.records.len(), "scanners and closed ports are known from the records kept");
    }

    pub(crate) fn observe(&self, chunk: &Chunk) {
        let mut state = self.lock();
        for row in 0..chunk.len() {
            let seen = Sighting::at(&chunk.columns, row);
            state.detectors.observe(seen);
            state.closed_ports.observe(seen);
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
        let state = self.lock();
        let found = state.detectors.scanners(query, now);
        Scanners { complete_since: found.complete_since.max(state.since), ..found }
    }

    /// The machines of the account, or of all, that had the port closed to the source.
    pub(crate) fn closed_ports(&self, account: Option<AccountId>, query: &ClosedPortQuery) -> Complete<ClosedPort> {
        let state = self.lock();
        let since = state.closed_ports.complete_since().max(state.since);
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
    use crate::{
        part::{Effort, Folders},
        sealer::write_parts,
        test_records::{NOW, record},
    };

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

    /// From outside, a minute apart, each to another account; every other one finds the port closed.
    fn asked_from_outside(count: u64) -> Vec<FlowRecord> {
        let asked = |n: u64| FlowRecord {
            account: AccountId::from_bits(n),
            instance: InstanceId::from_bits(n.into()),
            source: [203, 0, 113, 9].into(),
            destination_port: 22,
            direction: Direction::Ingress,
            side: Side::Initiator,
            path: Way::Internet,
            end_reason: if n.is_multiple_of(2) {
                EndReason::DeniedByGroupAtDestination
            } else {
                EndReason::FinBothSides
            },
            end: NOW.plus(Duration::from_secs(n)),
            ..record(n)
        };
        (0..count).map(asked).collect()
    }

    /// What was sealed and what was not, told as before, and no further back than what was read.
    #[test]
    fn scanners_and_closed_ports_are_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = NOW.plus(Duration::from_secs(100));
        let all = asked_from_outside(60);
        let (sealed, unsealed) = (Chunk::of(0, &all[..40]), Chunk::of(40, &all[40..]));
        let before = Findings::open(dir.path(), Settings::default(), NOW).unwrap();
        before.observe(&sealed);
        before.observe(&unsealed);
        let parts = write_parts(&Folders::of(dir.path()), 1, Effort::Fresh, &[sealed]).unwrap();
        let catalog = Catalog::new(parts.into_iter().map(|new| new.part).collect());
        catalog.open(2);
        catalog.add(2, [unsealed]);
        let after = Findings::open(dir.path(), Settings::default(), now).unwrap();
        let closed = ClosedPortQuery { source: [203, 0, 113, 9].into(), port: 22, since: Moment::EPOCH };
        assert_eq!(after.closed_ports(None, &closed).items, []);
        after.recall(&catalog, now);
        assert_eq!(before.closed_ports(None, &closed).items.len(), 30);
        assert_eq!(after.closed_ports(None, &closed).items, before.closed_ports(None, &closed).items);
        let query = ScannerQuery { min_accounts: 10, window_seconds: 3600 };
        let scanners = |findings: &Findings| findings.scanners(&query, now).items;
        assert_eq!(scanners(&before)[0].accounts, 60);
        assert_eq!(scanners(&after), scanners(&before));
        let hour_ago = now.minus(ScannerQuery::LONGEST);
        assert_eq!(after.scanners(&query, now).complete_since, hour_ago);
        // Of more records than are read the newest are, and since when is told.
        let few = recall::recall(&catalog, hour_ago, 30);
        assert!(few.since > hour_ago && few.records.len() <= 31, "{:?} {}", few.since, few.records.len());
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
