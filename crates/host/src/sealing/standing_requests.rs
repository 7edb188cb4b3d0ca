//! The standing requests that this host keeps: one file each, and when each is due.
//!
//! Owns the files and the times. A standing request counts when the register has its mark, so a file without one is what a
//! kill left, and goes. What was due while nobody looked is passed over: a result is of its time or is not made. Whether a
//! time is carried out, the office judges when it comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::{AccountId, Moment, Octets, storage::Digest};
use lucarne_seal::{
    request::RequestId,
    standing::{Seed, Standing},
    trust::{Person, Signer},
};
use lucarne_statement::{canonical, signing::Envelope};
use serde::{Deserialize, Serialize};

use crate::durable::{self, Outlives};

/// How many are kept at most.
pub(crate) const MOST_STANDING: usize = 256;

/// As it lies on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// The envelope, whose signatures are checked anew each time.
    octets: Octets,
    /// Who brought it; none: somebody on this host.
    carrier: Option<AccountId>,
    receipt: Octets,
    /// Who signed it, for the log: a time that is refused may be refused because their keys count no more.
    signers: BTreeMap<Person, AccountId>,
}

#[derive(Debug)]
struct Kept {
    written: Written,
    standing: Standing,
    seed: Seed,
    next: Option<(u64, Moment)>,
    /// Times of the number that is due which were judged already.
    judged: BTreeSet<RequestId>,
    /// Of one that watches: the number that those are of.
    watched: Option<u64>,
}

impl Kept {
    fn due(&self, id: &RequestId, number: u64) -> Due {
        let Written { octets, carrier, signers, .. } = self.written.clone();
        let signer = |(person, account)| (person, Signer { account, counters: Vec::new() });
        let signers = signers.into_iter().map(signer).collect();
        Due { id: id.clone(), number, octets, carrier, signers, standing: self.standing.clone() }
    }
}

/// One that is due.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) id: RequestId,
    pub(crate) number: u64,
    pub(crate) octets: Octets,
    pub(crate) carrier: Option<AccountId>,
    pub(crate) signers: BTreeMap<Person, Signer>,
    pub(crate) standing: Standing,
}

#[derive(Debug)]
pub(crate) struct StandingRequests {
    folder: PathBuf,
    kept: BTreeMap<RequestId, Kept>,
}

impl StandingRequests {
    /// Those that were kept, of which `stands` says whether they count; `seed` gives what their times follow from.
    pub(crate) fn open(
        folder: &Path,
        now: Moment,
        stands: impl Fn(&RequestId) -> bool,
        seed: impl Fn(&RequestId) -> Option<Seed>,
    ) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut all = Self { folder: folder.to_owned(), kept: BTreeMap::new() };
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Digest>().ok());
            let read = fs::read(&path)?;
            match id.map(RequestId::from).filter(&stands).and_then(|id| all.read(&id, &read, seed(&id)?, now)) {
                Some(()) => {}
                None => durable::remove(&path)?,
            }
        }
        all.expire(now);
        Ok(all)
    }

    fn read(&mut self, id: &RequestId, octets: &[u8], seed: Seed, now: Moment) -> Option<()> {
        let written: Written = serde_json::from_slice(octets).ok()?;
        let envelope: Envelope = canonical::read(&written.octets).ok()?;
        let standing: Standing = canonical::read(&envelope.payload).ok()?;
        let next = standing.next(now, &seed);
        self.kept.insert(id.clone(), Kept { written, standing, seed, next, judged: BTreeSet::new(), watched: None });
        Some(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= MOST_STANDING
    }

    /// Keeps one. Its file is there before the register has its mark; see [`Self::give_up`].
    pub(crate) fn keep(
        &mut self,
        id: &RequestId,
        (octets, carrier, receipt): (Octets, Option<AccountId>, Octets),
        signers: &BTreeMap<Person, Signer>,
        (standing, seed): (Standing, Seed),
        now: Moment,
    ) -> io::Result<()> {
        let signers = signers.iter().map(|(person, signer)| (person.clone(), signer.account)).collect();
        let written = Written { octets, carrier, receipt, signers };
        durable::replace(&self.path(id), &serde_json::to_vec(&written)?, Outlives::PowerCut)?;
        // The first time may be now.
        let next = standing.next(now.minus(Duration::from_micros(1)), &seed);
        self.kept.insert(id.clone(), Kept { written, standing, seed, next, judged: BTreeSet::new(), watched: None });
        Ok(())
    }

    pub(crate) fn give_up(&mut self, id: &RequestId) {
        self.kept.remove(id);
        if let Err(error) = durable::remove(&self.path(id)) {
            tracing::error!(request = %id, %error, "a standing request that is over could not be deleted");
        }
    }

    /// The host's receipt of one and what it says, for who brought it, the operator and whoever is on this host.
    pub(crate) fn find(&self, id: &RequestId, carrier: Option<AccountId>) -> Option<(&Octets, &Standing)> {
        let any = carrier.is_none_or(|account| account == AccountId::OPERATOR);
        let kept = self.kept.get(id).filter(|kept| any || kept.written.carrier == carrier)?;
        Some((&kept.written.receipt, &kept.standing))
    }

    /// When to look again.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.kept.values().filter_map(|kept| kept.next.map(|(_, due)| due)).min()
    }

    pub(crate) fn due(&self, now: Moment) -> Vec<Due> {
        let due = self.kept.iter().filter_map(|(id, kept)| {
            let (number, _) = kept.next.filter(|(_, due)| *due <= now)?;
            Some(kept.due(id, number))
        });
        due.collect()
    }

    /// Those that watch for something unusual, each with the number that its time would have now.
    pub(crate) fn watching(&mut self, now: Moment) -> Vec<Due> {
        let watching = self.kept.iter_mut().filter(|(_, kept)| kept.standing.watch().is_some());
        let due = watching.filter_map(|(id, kept)| {
            let number = kept.standing.number_at(now)?;
            if kept.watched.replace(number) != Some(number) {
                kept.judged.clear();
            }
            Some(kept.due(id, number))
        });
        due.collect()
    }

    /// Whether one time of it is not to be judged any more.
    pub(crate) fn is_judged(&self, id: &RequestId, occurrence: &RequestId) -> bool {
        self.kept.get(id).is_some_and(|kept| kept.judged.contains(occurrence))
    }
    pub(crate) fn judged(&mut self, id: &RequestId, occurrence: RequestId) {
        self.kept.get_mut(id).map(|kept| kept.judged.insert(occurrence));
    }

    /// All of the number that was due is judged; the next one comes later.
    pub(crate) fn pass(&mut self, id: &RequestId, now: Moment) {
        if let Some(kept) = self.kept.get_mut(id) {
            kept.next = kept.standing.next(now, &kept.seed);
            kept.judged.clear();
        }
    }

    /// Forgets those that are over, when their results are gone too.
    pub(crate) fn expire(&mut self, now: Moment) {
        let over = |kept: &Kept| {
            let terms = kept.standing.terms();
            now > terms.not_after.plus(Duration::from_secs(terms.kept_seconds.get()))
        };
        let over: Vec<_> = self.kept.iter().filter(|(_, kept)| over(kept)).map(|(id, _)| id.clone()).collect();
        over.iter().for_each(|id| self.give_up(id));
    }

    fn path(&self, id: &RequestId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}
