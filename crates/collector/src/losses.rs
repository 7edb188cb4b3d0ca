//! Losses that hosts told: what could not be kept, kept for good, in one small file.
//!
//! Owns the file `losses.ndjson`, a line of JSON each, and the list in memory that answers questions. A loss is known by its
//! sender's session and its number in it, so that one told again, because a kill came between this file and the log that
//! says how far a sender is, is kept once. Losses are rare; the newest [`MOST`] are kept.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use lucarne_model::{FlowLoss, FlowLossQuery};
use serde::{Deserialize, Serialize};

use crate::durable;

/// Losses that are kept at least; twice as many at most.
const MOST: usize = if cfg!(test) { 1000 } else { 100_000 };
/// Losses in one answer, the newest ones.
const ANSWER: usize = 10_000;
const FILE: &str = "losses.ndjson";

/// A loss and how it is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) session: u64,
    pub(crate) number: u64,
    #[serde(flatten)]
    pub(crate) loss: FlowLoss,
}

type Known = BTreeMap<(u64, u64), FlowLoss>;

/// What is known, for whoever asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses(Arc<RwLock<Known>>);

/// The file, for the one who writes.
#[derive(Debug)]
pub(crate) struct LossFile {
    path: PathBuf,
    file: File,
    /// Octets that count; what lies behind is the rest of a failed append.
    length: u64,
    losses: Losses,
}

impl Losses {
    /// Those that are asked for, oldest first.
    pub(crate) fn find(&self, query: &FlowLossQuery) -> Vec<FlowLoss> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<FlowLoss> = known.values().filter(|loss| query.matches(loss)).cloned().collect();
        drop(known);
        found.sort_by_key(|loss| (loss.since, loss.until, loss.account));
        found.drain(..found.len().saturating_sub(ANSWER));
        found
    }
}

impl LossFile {
    /// Reads the file up to where it is torn, or makes it.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let (known, length) = parse(&text);
        if length < text.len() as u64 {
            tracing::info!("the list of losses ends in what was never acknowledged");
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        durable::sync_dir(state_dir)?;
        Ok(Self { path, file, length, losses: Losses(Arc::new(RwLock::new(known))) })
    }

    pub(crate) fn losses(&self) -> Losses {
        self.losses.clone()
    }

    /// Makes losses durable; those that are known already are left out. Can be called again after an error.
    pub(crate) fn append(&mut self, told: &[Told]) -> io::Result<()> {
        let known = self.losses.0.read().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<&Told> = told.iter().filter(|told| !known.contains_key(&(told.session, told.number))).collect();
        let many = known.len() + new.len();
        drop(known);
        if new.is_empty() {
            return Ok(());
        }
        let lines = lines(new.iter().copied())?;
        self.file.set_len(self.length)?;
        self.file.write_all_at(&lines, self.length)?;
        self.file.sync_data()?;
        self.length += lines.len() as u64;
        let mut known = self.losses.0.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(new.into_iter().map(|told| ((told.session, told.number), told.loss.clone())));
        drop(known);
        if many > 2 * MOST { self.forget_oldest() } else { Ok(()) }
    }

    fn forget_oldest(&mut self) -> io::Result<()> {
        let mut known = self.losses.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<_> = known.values().map(|loss| loss.until).collect();
        times.sort_unstable();
        let oldest_kept = times.get(times.len().saturating_sub(MOST)).copied();
        known.retain(|_, loss| oldest_kept.is_none_or(|oldest| loss.until >= oldest));
        let told: Vec<Told> =
            known.iter().map(|(&(session, number), loss)| Told { session, number, loss: loss.clone() }).collect();
        drop(known);
        let lines = lines(&told)?;
        durable::write_whole(&self.path, |file| file.write_all(&lines))?;
        self.file = OpenOptions::new().write(true).open(&self.path)?;
        self.length = lines.len() as u64;
        Ok(())
    }
}

fn lines<'a>(told: impl IntoIterator<Item = &'a Told>) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for told in told {
        serde_json::to_writer(&mut lines, told)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// What whole lines say, and how many octets they have.
fn parse(text: &[u8]) -> (Known, u64) {
    let (mut known, mut length) = (Known::new(), 0);
    for line in text.split_inclusive(|octet| *octet == b'\n') {
        let told = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Told>(line).ok());
        let Some(Told { session, number, loss }) = told else { break };
        known.insert((session, number), loss);
        length += line.len() as u64;
    }
    (known, length)
}

#[cfg(test)]
mod tests {
    use lucarne_model::{AccountId, HostId, LossCause, Moment};

    use super::*;

    fn told(number: u64) -> Told {
        let (since, until) = (Moment::from_secs(number), Moment::from_secs(number + 1));
        let (account, host) = (AccountId::from_bits(number % 2), HostId::from_bits(1));
        let loss = FlowLoss { account, host, since, until, records: number, cause: LossCause::SpoolFull };
        Told { session: 7, number, loss }
    }

    fn numbers(losses: &Losses, query: &FlowLossQuery) -> Vec<u64> {
        losses.find(query).iter().map(|loss| loss.records).collect()
    }

    #[test]
    fn a_loss_that_is_told_twice_is_kept_once_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LossFile::open(dir.path()).unwrap();
        file.append(&[told(1), told(2)]).unwrap();
        file.append(&[told(2), told(3)]).unwrap();
        let mut again = LossFile::open(dir.path()).unwrap();
        again.append(&[told(3), told(4)]).unwrap();
        assert_eq!(numbers(&again.losses(), &FlowLossQuery::default()), [1, 2, 3, 4]);
        let query =
            FlowLossQuery { account: Some(told(1).loss.account), since: Some(Moment::from_secs(3)), until: None };
        assert_eq!(numbers(&again.losses(), &query), [3]);
    }

    #[test]
    fn a_file_cut_anywhere_has_the_whole_lines_before_the_cut_and_goes_on_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        LossFile::open(dir.path()).unwrap().append(&[told(1), told(2)]).unwrap();
        let whole = fs::read(dir.path().join(FILE)).unwrap();
        let first = 1 + whole.iter().position(|octet| *octet == b'\n').unwrap();
        for cut in 0..whole.len() {
            fs::write(dir.path().join(FILE), &whole[..cut]).unwrap();
            let mut file = LossFile::open(dir.path()).unwrap();
            file.append(&[told(9)]).unwrap();
            let expected = if cut < first { vec![9] } else { vec![1, 9] };
            let read = LossFile::open(dir.path()).unwrap().losses();
            assert_eq!(numbers(&read, &FlowLossQuery::default()), expected, "cut at {cut}");
        }
    }

    #[test]
    fn when_there_are_too_many_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LossFile::open(dir.path()).unwrap();
        let many: Vec<Told> = (0..2 * MOST as u64 + 1).map(told).collect();
        file.append(&many).unwrap();
        let (kept, length) = parse(&fs::read(dir.path().join(FILE)).unwrap());
        assert_eq!((kept.len(), length), (MOST, file.length));
        assert_eq!(kept.keys().next_back(), Some(&(7, 2 * MOST as u64)));
    }
}
