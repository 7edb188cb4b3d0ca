//! What this host must never forget: which requests it took, and the log of all of them.
//!
//! Owns the journal of both, which is one file, so that there is no moment at which one knows of a request and the other does
//! not. A request counts as taken when its line is on disk, and nothing of it is done before. Whether it may be taken is
//! [`Ledger`]'s, what the log proves is [`Log`]'s; both begin again from the lines.

use std::path::Path;

use lucarne_model::{
    AccountId, HostId, InstanceId, Moment,
    sealing::{MOST_ENTRIES, SealLog, SealLogEntry},
};
use lucarne_seal::{
    ledger::{Ledger, Mark},
    log::{Content, Entry, Head, Log, LogError, Opening, Record},
    operation::OperationName,
    request::RequestId,
};
use lucarne_statement::{
    canonical::{self, CanonicalError},
    signing::{SigningError, SigningKey},
};
use serde::{Deserialize, Serialize};

use super::{
    journal::{Journal, JournalError},
    keys::signed,
};

/// Why the register cannot be opened, written or told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("a line of the register: {0}")]
    Line(#[from] CanonicalError),
    #[error("the register's log: {0}")]
    Log(#[from] LogError),
    #[error("the log's head: {0}")]
    Head(#[from] SigningError),
    #[error("no random numbers could be drawn for a commitment")]
    Random,
}

/// One request, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    entry: Entry,
    /// Of a request that was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
    /// Of an entry under embargo: what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opening: Option<Opening>,
    concerns: Concerns,
}

impl Line {
    fn record(&self) -> Option<&Record> {
        match (&self.entry.content, &self.opening) {
            (Content::Open(record), _) => Some(record),
            (Content::Sealed { .. }, opening) => opening.as_ref().map(|opening| &opening.record),
        }
    }
}

/// Whose an entry is, beside the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Concerns {
    pub(crate) account: AccountId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<InstanceId>,
}

/// What is written of a request.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) content: Content,
    pub(crate) mark: Option<Mark>,
    pub(crate) opening: Option<Opening>,
    pub(crate) concerns: Concerns,
}

/// Where a line is, and who may read it when.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    concerns: Concerns,
    /// While it is, the entry says nothing, and everybody may see that it is there.
    embargo_until: Option<Moment>,
}

/// Who reads the log, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    /// None: the operator, who reads all.
    pub(crate) account: Option<AccountId>,
    pub(crate) instance: Option<InstanceId>,
}

#[derive(Debug)]
pub(crate) struct Register {
    journal: Journal,
    pub(crate) ledger: Ledger,
    log: Log,
    places: Vec<Place>,
}

impl Register {
    pub(crate) fn open(path: &Path, now: Moment) -> Result<Self, RegisterError> {
        let (mut ledger, mut log, mut places) = (Ledger::default(), Log::default(), Vec::new());
        let journal = Journal::open(path, |at, frame| {
            let Line { entry, mark, concerns, .. } = canonical::read(frame)?;
            log.hold(&entry)?;
            places.push(Place::new(at, concerns, &entry));
            if let Some(mark) = mark {
                ledger.hold(mark);
            }
            Ok::<_, RegisterError>(())
        })?;
        ledger.compact(now);
        Ok(Self { journal, ledger, log, places })
    }

    /// Writes down what becomes of a request, and gives its place in the log. When that fails, there is nothing of it.
    pub(crate) fn enter(&mut self, news: News, time: Moment) -> Result<u64, RegisterError> {
        let News { content, mark, opening, concerns } = news;
        let entry = self.log.next(content, time);
        let line = Line { entry, mark, opening, concerns };
        let at = self.journal.append(&canonical::write(&line)?)?;
        self.log.hold(&line.entry)?;
        self.places.push(Place::new(at, concerns, &line.entry));
        if let Some(mark) = line.mark {
            self.ledger.hold(mark);
        }
        Ok(line.entry.index)
    }

    /// Where in the log it stands that this request was taken, and what it asked for, if it was. It looks through all lines,
    /// newest first.
    pub(crate) fn taken(&self, request: &RequestId) -> Option<(u64, OperationName)> {
        self.places.iter().rev().find_map(|place| {
            let line = self.line(place).ok()?;
            line.mark.as_ref().filter(|mark| mark.id == *request)?;
            Some((line.entry.index, line.record()?.asked.as_ref()?.operation))
        })
    }

    pub(crate) fn head(&self, host: HostId, now: Moment) -> Head {
        self.log.head(host, now)
    }

    /// Entries from `first` on that the reader may see, with their proofs, and that the log grew from what was `seen`.
    pub(crate) fn tell(
        &self,
        reader: Reader,
        (first, seen): (u64, Option<u64>),
        (host, key): (HostId, &SigningKey),
        now: Moment,
    ) -> Result<SealLog, RegisterError> {
        let size = self.log.size();
        let visible = self.places.iter().enumerate().skip(usize::try_from(first).unwrap_or(usize::MAX));
        let mut visible = visible.filter(|(_, place)| place.is_visible(reader, now));
        let told: Vec<_> = visible.by_ref().take(MOST_ENTRIES as usize).collect();
        let next = visible.next().map(|(index, _)| index as u64);
        let entries = told.into_iter().map(|(index, place)| self.entry(index as u64, place, now));
        let consistency = seen.and_then(|seen| self.log.prove_consistency(seen, size));
        Ok(SealLog {
            head: signed(key, &self.head(host, now))?.into(),
            consistency: consistency.map(|proof| canonical::write(&proof)).transpose()?.map(Into::into),
            entries: entries.collect::<Result<_, _>>()?,
            next,
        })
    }

    fn line(&self, place: &Place) -> Result<Line, RegisterError> {
        Ok(canonical::read(&self.journal.read(place.at)?)?)
    }

    fn entry(&self, index: u64, place: &Place, now: Moment) -> Result<SealLogEntry, RegisterError> {
        let line = self.line(place)?;
        let inclusion = self.log.prove_inclusion(index, self.log.size());
        let inclusion = inclusion.ok_or(LogError::NotIncluded { index, size: self.log.size() })?;
        let opening = line.opening.filter(|_| !place.is_embargoed(now));
        Ok(SealLogEntry {
            entry: canonical::write(&line.entry)?.into(),
            inclusion: canonical::write(&inclusion)?.into(),
            opening: opening.map(|opening| canonical::write(&opening)).transpose()?.map(Into::into),
        })
    }
}

impl Place {
    fn new(at: u64, concerns: Concerns, entry: &Entry) -> Self {
        let embargo_until = match entry.content {
            Content::Open(_) => None,
            Content::Sealed { embargo_until, .. } => Some(embargo_until),
        };
        Self { at, concerns, embargo_until }
    }
    fn is_embargoed(&self, now: Moment) -> bool {
        self.embargo_until.is_some_and(|until| now < until)
    }
    fn is_visible(&self, reader: Reader, now: Moment) -> bool {
        if self.is_embargoed(now) {
            return true;
        }
        let own = reader.account.is_none_or(|account| account == self.concerns.account);
        own && reader.instance.is_none_or(|instance| self.concerns.instance == Some(instance))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lucarne_seal::log::{Asked, Verdict};
    use lucarne_statement::{
        proof::{Consistency, Inclusion},
        signing::Envelope,
    };

    use super::*;

    const HOST: HostId = HostId::from_bits(1);
    const NOW: Moment = Moment::from_secs(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const TENANT: AccountId = AccountId::from_bits(5);

    fn id(number: u8) -> RequestId {
        RequestId::of_octets(&[number])
    }
    fn news(number: u8, account: AccountId) -> News {
        let (operation, purpose) = (OperationName::HostHealth, "ticket".to_owned());
        let asked = Some(Asked { operation, instance: None, account, signers: Vec::new(), purpose });
        News {
            content: Content::Open(Record { request: id(number), verdict: Verdict::Allowed, asked }),
            mark: Some(Mark { id: id(number), not_after: NOW.plus(HOUR), taken: NOW, counters: Vec::new() }),
            opening: None,
            concerns: Concerns { account, instance: None },
        }
    }
    fn read<T: serde::de::DeserializeOwned + Serialize>(octets: &[u8]) -> T {
        canonical::read(octets).unwrap()
    }

    #[test]
    fn what_was_taken_is_known_after_a_restart_also_when_the_last_line_is_torn() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("register");
        let mut register = Register::open(&path, NOW).unwrap();
        assert_eq!(register.enter(news(1, TENANT), NOW).unwrap(), 0);
        assert_eq!(register.enter(news(2, TENANT), NOW).unwrap(), 1);
        let root = register.head(HOST, NOW).root;
        let again = Register::open(&path, NOW).unwrap();
        assert_eq!(again.head(HOST, NOW).root, root);
        let health = OperationName::HostHealth;
        assert_eq!((again.taken(&id(1)), again.taken(&id(2))), (Some((0, health)), Some((1, health))));
        let mark = news(2, TENANT).mark.unwrap();
        assert!(again.ledger.judge(&mark).is_err(), "it would be taken twice");
        let octets = std::fs::read(&path).unwrap();
        std::fs::write(&path, &octets[..octets.len() - 1]).unwrap();
        let torn = Register::open(&path, NOW).unwrap();
        assert_eq!((torn.taken(&id(1)), torn.taken(&id(2))), (Some((0, health)), None));
        assert_eq!(torn.ledger.judge(&mark), Ok(()), "what was not on disk was not begun");
    }

    /// A tenant sees its own entries with proofs, the operator all; and a log that was cut does not continue what was seen.
    #[test]
    fn readers_prove_what_they_see() {
        let place = tempfile::tempdir().unwrap();
        let mut register = Register::open(&place.path().join("register"), NOW).unwrap();
        let key = SigningKey::from_seed([1; 32]).unwrap();
        register.enter(news(1, TENANT), NOW).unwrap();
        let before = register.head(HOST, NOW);
        register.enter(news(2, AccountId::OPERATOR), NOW).unwrap();
        let tell =
            |account, seen| register.tell(Reader { account, instance: None }, (0, seen), (HOST, &key), NOW).unwrap();
        assert_eq!(tell(None, None).entries.len(), 2);
        let told = tell(Some(TENANT), Some(before.size));
        let [own] = told.entries.as_slice() else { panic!("one is the tenant's") };
        let head = Head::open(&read::<Envelope>(&told.head), &key.public()).unwrap();
        head.includes(&read(&own.entry), &read::<Inclusion>(&own.inclusion)).unwrap();
        head.continues(&before, &read::<Consistency>(&told.consistency.unwrap())).unwrap();
    }

    #[test]
    fn an_entry_under_embargo_says_nothing_to_anybody_until_it_is_over() {
        let place = tempfile::tempdir().unwrap();
        let mut register = Register::open(&place.path().join("register"), NOW).unwrap();
        let key = SigningKey::from_seed([1; 32]).unwrap();
        let mut sealed = news(1, TENANT);
        let Content::Open(record) = sealed.content else { panic!("it is open") };
        let opening = Opening::new(record, [7; 32]);
        let until = NOW.plus(HOUR);
        sealed.content = Content::Sealed { commitment: opening.commitment().unwrap(), embargo_until: until };
        sealed.opening = Some(opening);
        register.enter(sealed, NOW).unwrap();
        let tell = |account, now| {
            register.tell(Reader { account, instance: None }, (0, None), (HOST, &key), now).unwrap().entries
        };
        for account in [None, Some(TENANT), Some(AccountId::from_bits(6))] {
            assert!(matches!(tell(account, NOW).as_slice(), [one] if one.opening.is_none()));
        }
        let told = tell(Some(TENANT), until);
        let opening: Opening = read(told[0].opening.as_ref().unwrap());
        opening.opens(&read(&told[0].entry)).unwrap();
        assert!(tell(Some(AccountId::from_bits(6)), until).is_empty(), "it is not theirs");
    }
}
