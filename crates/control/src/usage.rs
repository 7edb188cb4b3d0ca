//! The ledger of usage as a file, and the meter that writes into it.
//!
//! Owns the file `usage.ledger` and its syncing, and what an instance was last charged until. What a line says and what it
//! costs is [`lucarne_memory`]'s. A time for which nobody told where pages were is charged to nobody.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lucarne_memory::{
    ledger::{Ledger, LedgerError, entries},
    usage::{Charge, Entry, Mode, Usage},
};
use lucarne_model::{AccountId, HostId, InstanceId, Moment, memory_move::Moved, memory_report::InstanceMemory};

/// The longest time between two reports for which the later one is believed.
const LONGEST: Duration = Duration::from_secs(60);

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    #[error("{} cannot be read or written", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} cannot be trusted", path.display())]
    Ledger { path: PathBuf, source: LedgerError },
}

/// An instance as the meter reads it.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) host: HostId,
    pub(crate) account: AccountId,
    pub(crate) mode: Mode,
    pub(crate) memory: InstanceMemory,
}

/// A move of an instance to another host, as the store has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) account: AccountId,
    pub(crate) instance: InstanceId,
    pub(crate) moved: Moved,
}

/// What was used, by instance.
pub(crate) type Used = BTreeMap<InstanceId, Usage>;

/// The ledger of this controller.
#[derive(Debug)]
pub(crate) struct UsageLedger {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    ledger: Ledger,
    file: File,
    read: HashMap<InstanceId, (Moment, Mode)>,
}

impl UsageLedger {
    /// Reads the ledger, and cuts off a line that a crash tore.
    pub(crate) fn open(path: &Path) -> Result<Self, UsageError> {
        let failed = |source| UsageError::File { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(failed)?;
        let replayed = Ledger::replay(&content);
        let (ledger, good) = replayed.map_err(|source| UsageError::Ledger { path: path.to_owned(), source })?;
        file.set_len(good as u64).map_err(failed)?;
        Ok(Self { path: path.to_owned(), kept: Mutex::new(Kept { ledger, file, read: HashMap::new() }) })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges what was held since the readings before, and those of all moves that are not charged yet: each once, however
    /// often it is given. Blocks until it is on the disk.
    pub(crate) fn charge(&self, readings: &[Reading], moves: &[Move]) -> io::Result<()> {
        let mut kept = self.lock();
        let before = (kept.ledger.clone(), kept.file.metadata()?.len());
        let mut lines = String::new();
        for reading in readings {
            for charge in kept.charges(reading) {
                let Reading { host, account, memory, .. } = reading;
                lines += &kept.append(*host, memory.at, (*account, memory.instance), charge)?;
            }
        }
        let mut moves = moves.to_vec();
        moves.sort_unstable_by_key(|one| one.moved.at);
        for Move { account, instance, moved } in moves {
            if kept.ledger.last_move(instance).is_none_or(|last| last < moved.at) {
                let charge = Charge::Moved { pages: moved.pages };
                lines += &kept.append(moved.to, moved.at, (account, instance), charge)?;
            }
        }
        kept.read.retain(|instance, _| readings.iter().any(|reading| reading.memory.instance == *instance));
        if lines.is_empty() {
            return Ok(());
        }
        let written = kept.file.write_all(lines.as_bytes()).and_then(|()| kept.file.sync_data());
        if written.is_err() {
            // A part of it may be there: the file goes back to what the ledger goes back to.
            kept.file.set_len(before.1)?;
            kept.ledger = before.0;
        }
        written
    }

    /// What an account has used, by instance, from `since` on; apart for each time between `changes`, which are in their
    /// order, under the instant at which it begins.
    pub(crate) fn usage(
        &self,
        account: AccountId,
        since: Option<Moment>,
        changes: &[Moment],
    ) -> io::Result<BTreeMap<Moment, Used>> {
        if since.is_none() && changes.is_empty() {
            let all = self.lock().ledger.usage(account).map(|(instance, usage)| (instance, usage.clone())).collect();
            return Ok([(Moment::EPOCH, all)].into());
        }
        let mut used: BTreeMap<Moment, Used> = BTreeMap::new();
        let content = std::fs::read(&self.path)?;
        let since = since.unwrap_or(Moment::EPOCH);
        for entry in entries(&content).filter(|entry| entry.account == account && entry.at >= since) {
            let begun = changes.partition_point(|change| *change <= entry.at).checked_sub(1);
            let begins = begun.map_or(Moment::EPOCH, |last| changes[last]);
            used.entry(begins).or_default().entry(entry.instance).or_default().add(&entry.charge);
        }
        Ok(used)
    }
}

impl Kept {
    /// The line of the next entry that is told for the host.
    fn append(
        &mut self,
        host: HostId,
        at: Moment,
        (account, instance): (AccountId, InstanceId),
        charge: Charge,
    ) -> io::Result<String> {
        let number = self.ledger.last_number(host).map_or(0, |last| last.saturating_add(1));
        self.ledger.append(&Entry { host, number, at, account, instance, charge }).map_err(io::Error::other)
    }

    /// What a reading comes to, beside the one before. The first of an instance begins its time.
    fn charges(&mut self, reading: &Reading) -> Vec<Charge> {
        let Reading { mode, ref memory, .. } = *reading;
        let before = self.read.insert(memory.instance, (memory.at, mode));
        let Some((at, was)) = before else { return Vec::new() };
        let millis = memory.at.since(at).min(LONGEST).as_millis() as u64;
        let held = (millis > 0).then_some(Charge::Held { mode: was, millis, pages: memory.pages });
        let converted = (was != mode).then_some(Charge::Converted { from: was, to: mode });
        held.into_iter().chain(converted).collect()
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        Pages,
        memory::{PagesByPlace, Place},
    };

    use super::*;

    const ACCOUNT: AccountId = AccountId::OPERATOR;

    fn reading(secs: u64, mode: Mode, resident: u64) -> Reading {
        let memory = InstanceMemory {
            instance: InstanceId::from_bits(1),
            at: Moment::from_secs(secs),
            mode: Default::default(),
            state: Default::default(),
            pages: PagesByPlace { resident: Pages(resident), ..PagesByPlace::default() },
            target: None,
            bucket: 0,
            faults: Vec::new(),
            evictions: 0,
            refaults: 0,
            pager_restarts: 0,
            trouble: None,
        };
        Reading { host: HostId::from_bits(1), account: ACCOUNT, mode, memory }
    }

    fn held(ledger: &UsageLedger, mode: Mode, since: Option<u64>) -> u128 {
        let used = ledger.usage(ACCOUNT, since.map(Moment::from_secs), &[]).unwrap();
        used.values().flat_map(BTreeMap::values).map(|usage| usage.held(mode, Place::Resident)).sum()
    }

    #[test]
    fn what_was_held_is_charged_once_and_read_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.ledger");
        let ledger = UsageLedger::open(&path).unwrap();
        for (secs, mode) in [(100, Mode::Generic), (110, Mode::Generic), (110, Mode::Generic), (120, Mode::Soaker)] {
            ledger.charge(&[reading(secs, mode, 7)], &[]).unwrap();
        }
        assert_eq!(held(&ledger, Mode::Generic, None), 7 * 20_000);
        assert_eq!(held(&ledger, Mode::Generic, Some(115)), 7 * 10_000);
        let apart = ledger.usage(ACCOUNT, None, &[Moment::from_secs(105), Moment::from_secs(120)]).unwrap();
        let of = |usage: &Usage| (usage.held(Mode::Generic, Place::Resident), usage.conversions);
        let apart: Vec<_> =
            apart.iter().map(|(begin, used)| (*begin, used.values().map(of).collect::<Vec<_>>())).collect();
        let expected = [(105, vec![(70_000, 0)]), (120, vec![(70_000, 1)])];
        assert_eq!(apart, expected.map(|(begin, used)| (Moment::from_secs(begin), used)));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"torn").unwrap();
        let again = UsageLedger::open(&path).unwrap();
        assert_eq!(held(&again, Mode::Generic, None), 7 * 20_000);
        again.charge(&[reading(500, Mode::Soaker, 7)], &[]).unwrap();
        assert_eq!(held(&again, Mode::Soaker, None), 0, "nobody told what was held meanwhile");
        again.charge(&[reading(1000, Mode::Soaker, 7)], &[]).unwrap();
        assert_eq!(held(&again, Mode::Soaker, None), 7 * 60_000, "nor for all of a long silence");
        UsageLedger::open(&path).unwrap();
    }

    /// Also of one that is given again after a restart, or with later ones.
    #[test]
    fn a_move_is_charged_once_however_often_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.ledger");
        let at = |secs, pages| {
            let (from, to) = (HostId::from_bits(1), HostId::from_bits(2));
            let (at, pages, disk) = (Moment::from_secs(secs), Pages(pages), Default::default());
            let moved = Moved { at, from, to, pages, disk, stood_still_millis: None };
            Move { account: ACCOUNT, instance: InstanceId::from_bits(1), moved }
        };
        let charged = |ledger: &UsageLedger| {
            let used = ledger.usage(ACCOUNT, None, &[]).unwrap();
            used.values().flat_map(BTreeMap::values).map(|usage| (usage.moves, usage.pages_moved)).collect::<Vec<_>>()
        };
        let ledger = UsageLedger::open(&path).unwrap();
        ledger.charge(&[reading(100, Mode::Generic, 7)], &[at(110, 5)]).unwrap();
        ledger.charge(&[reading(100, Mode::Generic, 7)], &[at(110, 5)]).unwrap();
        assert_eq!(charged(&ledger), [(1, 5)]);
        let again = UsageLedger::open(&path).unwrap();
        again.charge(&[], &[at(130, 2), at(110, 5), at(120, 1)]).unwrap();
        again.charge(&[], &[at(120, 1)]).unwrap();
        assert_eq!(charged(&again), [(3, 8)]);
        assert_eq!(charged(&UsageLedger::open(&path).unwrap()), [(3, 8)]);
    }

    #[test]
    fn a_ledger_that_was_changed_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.ledger");
        let ledger = UsageLedger::open(&path).unwrap();
        (0..5).for_each(|secs| ledger.charge(&[reading(secs, Mode::Generic, 7)], &[]).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"resident\":7", "\"resident\":6", 1)).unwrap();
        assert!(matches!(UsageLedger::open(&path), Err(UsageError::Ledger { .. })));
    }
}
