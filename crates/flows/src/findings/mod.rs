//! Findings: who stands out in the stream of flow records, told while it goes on.
//!
//! Owns what is looked for and the state that it needs, which is bounded and never a scan of kept records: an address
//! outside that tried many customers, a machine that tries or is refused at many addresses, one that nobody answers, one
//! that does what it never did. Many addresses of one customer are no scanner across customers. Pure: records and the time
//! come in, findings that are new or have changed come out.

mod baseline;
mod closed_ports;
mod distinct;
mod spread;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use lucarne_model::{
    AccountId, EndReason, FindingId, FlowRecord, InstanceId, Moment, VpcId,
    finding::{Finding, FindingKind, Scanner, Subject},
    flow::{Direction, Path, Side, Verdict},
};

pub use closed_ports::ClosedPorts;

use baseline::Baselines;
use distinct::Count;
use spread::Spread;

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
    /// Findings that were told and go on.
    open: BTreeMap<(FindingKind, Subject), Finding>,
}

impl Detectors {
    pub fn new(settings: Settings) -> Self {
        fn spread<K: Copy + Ord + Hash>(settings: &Settings) -> Spread<K> {
            Spread::new(settings.window, settings.buckets, settings.bound)
        }
        Self {
            scanners: spread(&settings),
            sweeps: spread(&settings),
            refusals: spread(&settings),
            silences: spread(&settings),
            baselines: Baselines::default(),
            homes: HashMap::new(),
            open: BTreeMap::new(),
            settings,
        }
    }

    /// Takes a record in, in about the order of time.
    pub fn observe(&mut self, record: &FlowRecord) {
        // What was gathered in a flood has no addresses: it says how much came, not who met whom.
        if record.source.is_unspecified() && record.destination.is_unspecified() {
            return;
        }
        let home = Home { account: record.account, vpc: record.vpc };
        self.homes.insert(record.instance, home);
        self.baselines.see(record.instance, record.bytes);
        if record.side != Side::Initiator {
            return;
        }
        match record.direction {
            Direction::Ingress if is_outside(record.path) => {
                self.scanners.see(record.source, record.account, record.end);
            }
            Direction::Egress => self.observe_asking(record),
            Direction::Ingress => {}
        }
    }

    /// A machine asked somebody: once at its own interface, whatever the other one's record says.
    fn observe_asking(&mut self, record: &FlowRecord) {
        let asked = (record.destination, record.destination_port, record.protocol);
        self.sweeps.see(record.instance, asked, record.end);
        if record.end_reason == EndReason::RefusedByVm {
            self.refusals.see(record.instance, asked, record.end);
        }
        if record.verdict == Verdict::Reject || record.end_reason == EndReason::NoAnswerFromVm {
            self.silences.see(record.instance, asked, record.end);
        }
    }

    /// Findings that are new, or have grown or gone on since they were last told. To be asked every few seconds.
    pub fn poll(&mut self, now: Moment) -> Vec<Finding> {
        let Settings { scanned_accounts, swept, refused, unanswered, .. } = self.settings;
        let window = self.settings.window;
        self.open.retain(|_, finding| now.since(finding.last_seen) <= window);
        let mut told = Vec::new();
        for (address, count) in self.scanners.at_least(scanned_accounts) {
            let subject = Subject::Address(address);
            told.extend(self.tell(FindingKind::ScannerAcrossAccounts, subject, count, scanned_accounts, now));
        }
        let of_machines = [
            (FindingKind::Sweep, self.sweeps.at_least(swept), swept),
            (FindingKind::RefusedByMany, self.refusals.at_least(refused), refused),
            (FindingKind::NoAnswers, self.silences.at_least(unanswered), unanswered),
        ];
        for (kind, found, threshold) in of_machines {
            for (instance, count) in found {
                told.extend(self.tell(kind, Subject::Instance(instance), count, threshold, now));
            }
        }
        let surges = self.baselines.poll(now);
        self.homes.retain(|instance, _| self.baselines.knows(*instance));
        for surge in surges {
            let count = Count { items: surge.bytes, exact: true };
            told.extend(self.tell(
                FindingKind::SuddenChange,
                Subject::Instance(surge.instance),
                count,
                surge.usual,
                now,
            ));
        }
        told
    }

    /// The addresses outside that tried at least so many different customers within the window, most first.
    pub fn scanners(&self, least: u64) -> Vec<Scanner> {
        let scanner = |(address, Count { items, exact })| Scanner { address, accounts: items, exact };
        let mut found: Vec<Scanner> = self.scanners.at_least(least).into_iter().map(scanner).collect();
        found.sort_by_key(|scanner| std::cmp::Reverse(scanner.accounts));
        found
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
        now: Moment,
    ) -> Option<Finding> {
        let Count { items, exact } = count;
        if let Some(open) = self.open.get_mut(&(kind, subject)) {
            let has_grown = items > open.count;
            // One that goes on is told again from time to time, not at every look.
            let is_old = now.since(open.last_seen) >= self.settings.window / self.settings.buckets.max(1);
            if has_grown {
                (open.count, open.exact) = (items, exact);
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
        };
        self.open.insert((kind, subject), finding.clone());
        Some(finding)
    }
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
