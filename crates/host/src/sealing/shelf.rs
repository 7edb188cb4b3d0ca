//! Results and receipts until they are collected, or their time is over.
//!
//! Owns their folder and how much may be in it. A request that is under way has a card here before it is written down as taken,
//! so that a start finds what a kill cut off. All of it is ciphertext and what anybody may know.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::{AccountId, Moment, Octets, storage::Digest};
use lucarne_seal::{request::RequestId, standing::Occurrence};
use serde::{Deserialize, Serialize};

use crate::durable::{self, Outlives};

/// How long a result waits to be collected, if nothing else was asked.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How many are kept at most, those that are under way among them.
pub(crate) const MOST_KEPT: usize = 1024;
/// What is left free of a disk, whatever else is.
const SPARE: u64 = 1 << 30;

/// One request: whose it is to collect, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    /// Who brought it; none: somebody on this host.
    pub(crate) carrier: Option<AccountId>,
    /// When it was taken, and from when it was over.
    pub(crate) since: Moment,
    /// None while it is under way.
    pub(crate) receipt: Option<Octets>,
    /// How long its result is.
    pub(crate) length: Option<u64>,
    /// How long it waits then to be collected.
    pub(crate) kept: Duration,
    /// Which time of which standing request it is.
    pub(crate) of: Option<(RequestId, Occurrence)>,
}

/// Whose a result will be, for how long, and of what.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pub(crate) carrier: Option<AccountId>,
    pub(crate) kept: Duration,
    pub(crate) of: Option<(RequestId, Occurrence)>,
}

#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
    /// The most octets of all results together.
    space: u64,
    kept: BTreeMap<RequestId, Kept>,
}

impl Shelf {
    pub(crate) fn open(folder: &Path, space: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut shelf = Self { folder: folder.to_owned(), space, kept: BTreeMap::new() };
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Digest>().ok());
            let kept = path.extension().is_some_and(|end| end == "json").then(|| fs::read(&path)).transpose()?;
            if let (Some(id), Some(Ok(kept))) = (id, kept.map(|json| serde_json::from_slice(&json))) {
                shelf.kept.insert(id.into(), kept);
            }
        }
        shelf.sweep()?;
        Ok(shelf)
    }

    /// Deletes what belongs to nothing that is kept, and results that were not finished.
    fn sweep(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Digest>().ok());
            let kept = id.and_then(|id| self.kept.get(&id.into()));
            let wanted = match path.extension().and_then(|end| end.to_str()) {
                Some("json") => kept.is_some(),
                Some("age") => kept.is_some_and(|kept| kept.length.is_some()),
                _ => false,
            };
            if !wanted {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Makes room for a request that is to be taken, and gives the file for its result.
    pub(crate) fn begin(&mut self, id: &RequestId, stay: Stay, now: Moment) -> io::Result<File> {
        let Stay { carrier, kept, of } = stay;
        let kept = Kept { carrier, since: now, receipt: None, length: None, kept, of };
        let made = self
            .write(id, &kept)
            .and_then(|()| File::options().read(true).write(true).create(true).truncate(true).open(self.result(id)));
        match made {
            Ok(file) => {
                self.kept.insert(id.clone(), kept);
                Ok(file)
            }
            Err(error) => {
                self.delete(id);
                Err(error)
            }
        }
    }

    /// What came of it. The result is on disk before its receipt says so.
    pub(crate) fn finish(
        &mut self,
        id: &RequestId,
        receipt: Octets,
        length: Option<u64>,
        now: Moment,
    ) -> io::Result<()> {
        let Some(kept) = self.kept.get_mut(id) else { return Ok(()) };
        (kept.receipt, kept.length, kept.since) = (Some(receipt), length, now);
        let kept = kept.clone();
        match length {
            Some(_) => File::open(self.result(id))?.sync_all()?,
            None => durable::remove(&self.result(id))?,
        }
        self.write(id, &kept)
    }

    /// It was not taken after all.
    pub(crate) fn give_up(&mut self, id: &RequestId) {
        self.kept.remove(id);
        self.delete(id);
    }

    /// What is kept of a request for somebody; the operator and whoever is on this host may have all.
    pub(crate) fn find(&self, id: &RequestId, carrier: Option<AccountId>) -> Option<&Kept> {
        let any = carrier.is_none_or(|account| account == AccountId::OPERATOR);
        self.kept.get(id).filter(|kept| any || kept.carrier == carrier)
    }

    /// Which time of which standing request it is, if it is one.
    pub(crate) fn occurrence(&self, id: &RequestId) -> Option<Occurrence> {
        self.kept.get(id)?.of.as_ref().map(|(_, occurrence)| *occurrence)
    }

    /// What is over of a standing request and was not collected yet, in its order.
    pub(crate) fn of_standing(&self, standing: &RequestId) -> Vec<RequestId> {
        let over = self.kept.iter().filter(|(_, kept)| kept.receipt.is_some());
        let of = over.filter_map(|(id, kept)| Some((kept.of.as_ref()?, id)));
        let mut of: Vec<_> =
            of.filter(|((whose, _), _)| whose == standing).map(|((_, of), id)| (of.number, id)).collect();
        of.sort();
        of.into_iter().map(|(_, id)| id.clone()).collect()
    }

    pub(crate) fn unfinished(&self) -> Vec<RequestId> {
        self.kept.iter().filter(|(_, kept)| kept.receipt.is_none()).map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn open_result(&self, id: &RequestId, from: u64) -> io::Result<File> {
        let mut file = File::open(self.result(id))?;
        file.seek(SeekFrom::Start(from))?;
        Ok(file)
    }

    /// Forgets what was collected, or has waited for too long.
    pub(crate) fn forget(&mut self, id: &RequestId) {
        if self.kept.get(id).is_some_and(|kept| kept.receipt.is_some()) {
            self.give_up(id);
        }
    }
    pub(crate) fn expire(&mut self, now: Moment) {
        let over = |kept: &Kept| kept.receipt.is_some() && now.since(kept.since) > kept.kept;
        let over: Vec<_> = self.kept.iter().filter(|(_, kept)| over(kept)).map(|(id, _)| id.clone()).collect();
        over.iter().for_each(|id| self.give_up(id));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= MOST_KEPT
    }
    /// How long one of `share` results may be that are made at the same time.
    pub(crate) fn room(&self, share: u64) -> u64 {
        let used: u64 = self.kept.values().filter_map(|kept| kept.length).sum();
        let disk = rustix::fs::statvfs(&self.folder).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let free = disk.unwrap_or_default().saturating_sub(SPARE);
        self.space.saturating_sub(used).min(free) / share.max(1)
    }

    fn write(&self, id: &RequestId, kept: &Kept) -> io::Result<()> {
        durable::replace(&self.path(id, "json"), &serde_json::to_vec(kept)?, Outlives::PowerCut)
    }
    fn delete(&self, id: &RequestId) {
        // The card goes last: one without a result is swept or finished at the next start, the reverse is lost room.
        for path in [self.result(id), self.path(id, "json")] {
            if let Err(error) = durable::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "what is left of a sealed request cannot be deleted");
            }
        }
    }
    fn result(&self, id: &RequestId) -> PathBuf {
        self.path(id, "age")
    }
    fn path(&self, id: &RequestId, end: &str) -> PathBuf {
        self.folder.join(format!("{id}.{end}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const NOW: Moment = Moment::from_secs(1_000_000);

    fn id(number: u8) -> RequestId {
        RequestId::of_octets(&[number])
    }
    fn stay(carrier: Option<AccountId>) -> Stay {
        Stay { carrier, kept: KEPT, of: None }
    }

    #[test]
    fn a_result_is_kept_for_who_brought_the_request_until_its_time_is_over() {
        let place = tempfile::tempdir().unwrap();
        let (tenant, other) = (AccountId::from_bits(5), AccountId::from_bits(6));
        let mut shelf = Shelf::open(place.path(), 1 << 20).unwrap();
        shelf.begin(&id(1), stay(Some(tenant)), NOW).unwrap().write_all(b"sealed").unwrap();
        assert_eq!(shelf.unfinished(), [id(1)]);
        shelf.finish(&id(1), b"receipt"[..].into(), Some(6), NOW).unwrap();
        let mut shelf = Shelf::open(place.path(), 1 << 20).unwrap();
        assert!(shelf.find(&id(1), Some(other)).is_none());
        assert!(shelf.find(&id(1), None).is_some() && shelf.find(&id(1), Some(AccountId::OPERATOR)).is_some());
        assert_eq!(shelf.find(&id(1), Some(tenant)).unwrap().length, Some(6));
        let mut rest = String::new();
        shelf.open_result(&id(1), 2).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "aled");
        shelf.expire(NOW.plus(KEPT));
        assert!(shelf.find(&id(1), None).is_some());
        shelf.expire(NOW.plus(KEPT * 2));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    /// A kill in the middle leaves a card without a receipt: whoever opens the folder sees it, and the half result is gone.
    #[test]
    fn what_was_cut_off_is_found() {
        let place = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(place.path(), 100).unwrap();
        shelf.begin(&id(1), stay(None), NOW).unwrap().write_all(b"half").unwrap();
        let mut shelf = Shelf::open(place.path(), 100).unwrap();
        assert_eq!(shelf.unfinished(), [id(1)]);
        assert!(!shelf.result(&id(1)).exists());
        shelf.forget(&id(1));
        assert_eq!(shelf.unfinished(), [id(1)], "what is under way is not forgotten");
        shelf.finish(&id(1), b"receipt"[..].into(), None, NOW).unwrap();
        assert_eq!(shelf.unfinished(), []);
        assert_eq!(shelf.room(4), 25);
        shelf.begin(&id(2), stay(None), NOW).unwrap();
        shelf.finish(&id(2), b"receipt"[..].into(), Some(60), NOW).unwrap();
        assert_eq!(shelf.room(4), 10);
    }
}
