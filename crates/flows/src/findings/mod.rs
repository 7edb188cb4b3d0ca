//! Findings: who stands out in the stream of flow records, told while it goes on.
//!
//! Owns what is looked for and the state that it needs, which is bounded and never a scan of kept records: an address
//! outside that tried many customers, a machine that tries or is refused at many addresses, one that nobody answers, one
//! that does what it never did. Many addresses of one customer are no scanner across customers. Pure: what records
//! say ([`Sighting`]) and the time come in, findings that are new or have changed come out.

mod baseline;
mod closed_ports;
mod distinct;
mod evidence;
mod sighting;
mod spread;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use lucarne_model::{
    AccountId, EndReason, FindingId, InstanceId, Moment, VpcId,
    finding::{Example, Finding, FindingKind, Scanner, ScannerQuery, Scanners, Subject},
    flow::{Direction, Path, Side, Verdict},
};

pub use closed_ports::ClosedPorts;
pub use sighting::Sighting;

use baseline::Baselines;
use distinct::Count;
use evidence::Evidence;
use spread::Spread;

/// Scanners in one answer, those with the most customers.
const ANSWER: usize = 1000;
/// In which steps the longest window of scanners slides.
const SCANNER_STEP: Duration = Duration::from_secs(60);

/// What counts as much, and over how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub window: Duration,
    /// Steps in which the window slides.
    pub buckets: u32,
    /// Different customers that one address outside tried.
    pub scanned_accounts: u64,
    /// Different addresses with their ports that one machine tried.
    pub swept: u64,
    /// Different addresses with their ports at which one machine was refused.
    pub refused: u64,
    /// Different addresses with their ports that did not answer one machine.
    pub unanswered: u64,
    /// Items that each kind may hold, of about 32 octets.
    pub bound: usize,
}

impl Settings {
    /// What [`Default`] gives.
    pub const DEFAULT: Self = Self {
        window: Duration::from_secs(300),
        buckets: 5,
        scanned_accounts: 50,
        swept: 100,
        refused: 30,
        unanswered: 50,
        bound: 1 << 20,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Whose machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Home {
    account: AccountId,
    vpc: VpcId,
}

/// What is being watched.
#[derive(Debug)]
pub struct Detectors {
    settings: Settings,
    scanners: Spread<IpAddr>,
    sweeps: Spread<InstanceId>,
    refusals: Spread<InstanceId>,
    silences: Spread<InstanceId>,
    baselines: Baselines,
    homes: HashMap<InstanceId, Home>,
    evidence: Evidence,
    /// Findings that were told and go on.
    open: BTreeMap<(FindingKind, Subject), Finding>,
}

impl Detectors {
    pub fn new(settings: Settings) -> Self {
        fn spread<K: Copy + Ord + Hash>(settings: &Settings) -> Spread<K> {
            Spread::new(settings.window, settings.buckets, settings.bound)
        }
        let scanner_steps = (ScannerQuery::LONGEST.as_secs() / SCANNER_STEP.as_secs()) as u32 + 1;
        Self {
            scanners: Spread::new(SCANNER_STEP * scanner_steps, scanner_steps, settings.bound),
            sweeps: spread(&settings),
            refusals: spread(&settings),
            silences: spread(&settings),
            baselines: Baselines::default(),
            homes: HashMap::new(),
            evidence: Evidence::default(),
            open: BTreeMap::new(),
            settings,
        }
    }

    /// Takes up a finding that was told before a restart: if it goes on within the window, it is still that one.
    pub fn take_up(&mut self, finding: &Finding) {
        let open = self.open.entry((finding.kind, finding.subject)).or_insert_with(|| finding.clone());
        if open.last_seen < finding.last_seen {
            *open = finding.clone();
        }
    }

    /// Takes what a record says in, in about the order of time.
    pub fn observe(&mut self, record: impl Into<Sighting>) {
        let record = &record.into();
        // What was gathered in a flood has no addresses: it says how much came, not who met whom.
        if record.source.is_unspecified() && record.destination.is_unspecified() {
            return;
        }
        let home = Home { account: record.account, vpc: record.vpc };
        self.homes.insert(record.instance, home);
        self.baselines.see(record.instance, record.bytes);
        self.evidence.see_bytes(record);
        if record.side != Side::Initiator {
            return;
        }
        match record.direction {
            Direction::Ingress if is_asked_from_outside(record) => {
                let met = self.scanners.see(record.source, record.account, record.end);
                let subject = Subject::Address(record.source);
                let least = self.settings.scanned_accounts;
                self.evidence.see(FindingKind::ScannerAcrossAccounts, subject, met, least, record);
            }
            Direction::Egress => self.observe_asking(record),
            Direction::Ingress => {}
        }
    }

    /// Takes a record in that was tallied before a restart, in the order in which records came: it counts again, and
    /// whatever there was to tell of it has been told.
    pub fn recall(&mut self, record: impl Into<Sighting>) {
        let record = &record.into();
        if is_asked_from_outside(record) {
            self.scanners.see(record.source, record.account, record.end);
        }
    }

    /// A machine asked somebody: once at its own interface, whatever the other one's record says.
    fn observe_asking(&mut self, record: &Sighting) {
        let Settings { swept, refused, unanswered, .. } = self.settings;
        let asked = (record.destination, record.destination_port, record.protocol);
        let subject = Subject::Instance(record.instance);
        let met = self.sweeps.see(record.instance, asked, record.end);
        self.evidence.see(FindingKind::Sweep, subject, met, swept, record);
        if record.end_reason == EndReason::RefusedByVm {
            let met = self.refusals.see(record.instance, asked, record.end);
            self.evidence.see(FindingKind::RefusedByMany, subject, met, refused, record);
        }
        if record.verdict == Verdict::Reject || record.end_reason == EndReason::NoAnswerFromVm {
            let met = self.silences.see(record.instance, asked, record.end);
            self.evidence.see(FindingKind::NoAnswers, subject, met, unanswered, record);
        }
    }

    /// Findings that are new, or have grown or gone on since they were last told. To be asked every few seconds.
    pub fn poll(&mut self, now: Moment) -> Vec<Finding> {
        let window = self.settings.window;
        self.open.retain(|_, finding| now.since(finding.last_seen) <= window);
        self.evidence.forget_before(now.minus(window));
        let mut told = Vec::new();
        for (kind, subject, count, threshold) in self.counted(now) {
            let examples = self.evidence.of(kind, subject);
            told.extend(self.tell(kind, subject, count, threshold, examples, now));
        }
        let largest = if self.baselines.ends_minute(now) { self.evidence.take_largest() } else { HashMap::new() };
        let surges = self.baselines.poll(now);
        self.homes.retain(|instance, _| self.baselines.knows(*instance));
        for surge in surges {
            let (subject, count) = (Subject::Instance(surge.instance), Count { items: surge.bytes, exact: true });
            let examples = largest.get(&surge.instance).copied().into_iter().collect();
            told.extend(self.tell(FindingKind::SuddenChange, subject, count, surge.usual, examples, now));
        }
        told
    }

    /// Who met so many within the window that it is a finding, and from how many on it is.
    fn counted(&mut self, now: Moment) -> Vec<(FindingKind, Subject, Count, u64)> {
        let Settings { window, scanned_accounts, swept, refused, unanswered, .. } = self.settings;
        let machines = [
            (FindingKind::Sweep, &mut self.sweeps, swept),
            (FindingKind::RefusedByMany, &mut self.refusals, refused),
            (FindingKind::NoAnswers, &mut self.silences, unanswered),
        ];
        self.scanners.advance(now);
        let (_, scanners) = self.scanners.at_least_from(scanned_accounts, now.minus(window));
        let scanner =
            |(address, count)| (FindingKind::ScannerAcrossAccounts, Subject::Address(address), count, scanned_accounts);
        let mut found: Vec<_> = scanners.into_iter().map(scanner).collect();
        for (kind, spread, threshold) in machines {
            spread.advance(now);
            let machine = |(instance, count)| (kind, Subject::Instance(instance), count, threshold);
            found.extend(spread.at_least(threshold).into_iter().map(machine));
        }
        found
    }

    /// The addresses outside that tried so many different customers within the window before `now`, most first.
    pub fn scanners(&self, query: &ScannerQuery, now: Moment) -> Scanners {
        let scanner = |(address, Count { items, exact })| {
            let error = (items * Finding::STANDARD_ERROR_PER_MILLE).div_ceil(1000);
            Scanner { address, accounts: items, standard_error: if exact { 0 } else { error } }
        };
        let (from, found) = self.scanners.at_least_from(query.min_accounts, now.minus(query.window()));
        let mut items: Vec<Scanner> = found.into_iter().map(scanner).collect();
        items.sort_by_key(|scanner| std::cmp::Reverse(scanner.accounts));
        let left_out = items.len().saturating_sub(ANSWER) as u64;
        items.truncate(ANSWER);
        Scanners { from, complete_since: self.scanners_complete_since(), left_out, items }
    }

    /// From when on [`Detectors::scanners`] has missed nobody for want of space.
    pub fn scanners_complete_since(&self) -> Moment {
        self.scanners.complete_since()
    }

    fn tell(
        &mut self,
        kind: FindingKind,
        subject: Subject,
        count: Count,
        threshold: u64,
        examples: Vec<Example>,
        now: Moment,
    ) -> Option<Finding> {
        let Count { items, exact } = count;
        if let Some(open) = self.open.get_mut(&(kind, subject)) {
            let has_grown = items > open.count;
            // One that goes on is told again from time to time, not at every look.
            let is_old = now.since(open.last_seen) >= self.settings.window / self.settings.buckets.max(1);
            if has_grown {
                (open.count, open.exact) = (items, exact);
                let missing = Finding::EXAMPLES.saturating_sub(open.examples.len());
                let new: Vec<Example> =
                    examples.into_iter().filter(|example| !open.examples.contains(example)).take(missing).collect();
                open.examples.extend(new);
            }
            if has_grown || is_old {
                open.last_seen = now;
            }
            return (has_grown || is_old).then(|| open.clone());
        }
        let home = match subject {
            Subject::Instance(instance) => self.homes.get(&instance).copied(),
            Subject::Address(_) => None,
        };
        let finding = Finding {
            id: id(kind, subject, now),
            kind,
            account: home.map_or(AccountId::OPERATOR, |home| home.account),
            subject,
            vpc: home.map(|home| home.vpc),
            first_seen: now,
            last_seen: now,
            count: items,
            exact,
            threshold,
            examples,
        };
        self.open.insert((kind, subject), finding.clone());
        Some(finding)
    }
}

/// Whether the tallies that are asked for by name hold the record: those of scanners or of closed ports.
pub fn is_tallied(record: impl Into<Sighting>) -> bool {
    let record = &record.into();
    is_asked_from_outside(record) || closed_ports::is_tallied(record)
}

/// Whether somebody outside asked a machine; what was gathered in a flood has no addresses.
fn is_asked_from_outside(record: &Sighting) -> bool {
    let is_asked = record.side == Side::Initiator && record.direction == Direction::Ingress;
    let is_gathered = record.source.is_unspecified() && record.destination.is_unspecified();
    is_asked && !is_gathered && is_outside(record.path)
}

const fn is_outside(path: Path) -> bool {
    matches!(path, Path::Internet | Path::Site | Path::Peer)
}

/// The same for the same finding, whoever computes it.
fn id(kind: FindingKind, subject: Subject, first_seen: Moment) -> FindingId {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, kind, subject, first_seen.as_micros()).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    FindingId::from_bits(half(0) << 64 | half(1))
}

#[cfg(test)]
mod tests;
