//! A part: the records of one account, location and hour, in two Parquet files that stand side by side, row by row. A row
//! holds both directions of a flow where they came together.
//!
//! One file, below `flows/`, holds what the account may see; it is what receipts speak of and what a tenant may take away.
//! The other, below `operator/`, holds the operator's own columns. Owns where parts lie and what their names say. The rule
//! of which parts count is stated at the crate's root and applied by [`crate::recovery`]; what is in them is the matter of
//! [`write()`] and [`PartReader`].

mod find;
mod fold;
mod merge;
mod pages;
mod prune;
mod read;
mod search;
pub(crate) mod stored;
pub(crate) mod sums;
mod write;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use lucarne_flows::receipts::PartContents;
use lucarne_model::{AccountId, flow::Location};
use parquet::errors::ParquetError;

pub(crate) use find::{column_sizes, contents, find, remove};
pub(crate) use fold::APART;
pub(crate) use merge::merge;
pub(crate) use read::{PartBatches, PartReader};
pub(crate) use search::{Found, newest};
pub(crate) use sums::{
    file::{Of as ConversationsOf, SumsError},
    peers::PeerSum,
};
pub use write::{Effort, Writer};
pub(crate) use write::{shown_file, shown_rows, write};

use crate::{Kept, columns::BadColumn, durable, hour::Hour, shelf::Shelf};

/// Why a part could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("the file: {0}")]
    File(#[from] io::Error),
    #[error("the Parquet: {0}")]
    Parquet(#[from] ParquetError),
    #[error("the columns: {0}")]
    Arrow(#[from] ArrowError),
    #[error("its two files do not belong together")]
    Apart,
    #[error("the rows: {0}")]
    Column(#[from] BadColumn),
}

/// One of a part's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// Of what is the operator's own.
    Own,
    /// Of what the account may see.
    Shown,
}

impl Half {
    /// In the order in which they come; they go the other way round.
    pub(crate) const BOTH: [Self; 2] = [Self::Own, Self::Shown];

    /// Below which such files lie, on the disk and in a store.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Own => "operator",
            Self::Shown => "flows",
        }
    }
}

/// The folders of a state folder below which parts lie, by the same names in each, and their sums.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// Of what accounts may see.
    pub(crate) shown: PathBuf,
    /// Of what is the operator's own.
    pub(crate) own: PathBuf,
    /// Of what follows from the rows, and is on this disk only.
    pub(crate) sums: PathBuf,
    /// Where parts are kept beside the disk, if they are.
    pub(crate) shelf: Option<Arc<Shelf>>,
}

impl Folders {
    pub(crate) fn of(state_dir: &Path) -> Self {
        let [own, shown] = Half::BOTH.map(|half| state_dir.join(half.folder()));
        Self { shown, own, sums: state_dir.join("sums"), shelf: None }
    }

    pub(crate) fn both(&self) -> [&Path; 2] {
        [&self.own, &self.shown]
    }

    /// Where the sums of the part of that place lie, if there are any.
    fn sums_path(&self, place: &Place) -> PathBuf {
        self.sums.join(place.name()).with_extension(SUMS)
    }
}

/// Where a part belongs and which log segments it was made from, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) account: AccountId,
    /// In which the records' last packets were seen.
    pub(crate) hour: Hour,
    pub(crate) location: Location,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What a file of sums ends in, in the place of the `parquet` of its part.
const SUMS: &str = "sums";
const ROOT: &str = "AWSLogs";
const SERVICE: &str = "aws-service=vpcflowlogs";

impl Place {
    /// Below a folder of parts, in the shape of AWS's own, so that what is made for theirs finds ours:
    /// `AWSLogs/aws-account-id=000000000001/aws-service=vpcflowlogs/aws-region=local/year=2026/.../FROM-TO.parquet`.
    pub(crate) fn name(&self) -> String {
        let Self { account, hour, location, from, to } = self;
        let hour = hour.folders();
        format!("{ROOT}/aws-account-id={account}/{SERVICE}/aws-region={location}/{hour}/{from:010}-{to:010}.parquet")
    }

    /// The place of a name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let names: Vec<&str> = name.split('/').collect();
        let [ROOT, account, SERVICE, location, year, month, day, hour, file] = names[..] else { return None };
        let (from, to) = file.strip_suffix(".parquet")?.split_once('-')?;
        let place = Self {
            account: account.strip_prefix("aws-account-id=")?.parse().ok()?,
            hour: Hour::parse([year, month, day, hour])?,
            location: location.strip_prefix("aws-region=")?.parse().ok()?,
            from: from.parse().ok()?,
            to: to.parse().ok()?,
        };
        // So that nothing that only resembles a name of ours is taken for one.
        (place.name() == name).then_some(place)
    }

    /// Whether both are of one folder.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        (self.account, self.hour, &self.location) == (other.account, other.hour, &other.location)
    }

    /// Whether this was merged from `other`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.is_beside(other) && self.from <= other.from && other.to <= self.to && self != other
    }
}

/// The order of records in a part: each instance's together, and those as they arrived, which is about the order of time
/// and puts the two directions of a flow side by side.
impl Kept {
    pub(crate) fn row_order(&self) -> impl Ord + use<> {
        (self.record.instance, self.serial)
    }
}

/// A part that counts, or did until it was merged into another.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) place: Place,
    /// Of what the account may see.
    pub(crate) path: PathBuf,
    /// Of what is the operator's own.
    pub(crate) own_path: PathBuf,
    /// Of its sums, which may not be there.
    pub(crate) sums_path: PathBuf,
    /// Octets of the first file.
    pub(crate) size: u64,
    /// Another part covers this one: the files go with its last reader.
    superseded: AtomicBool,
    /// It could not be read when it was to be merged; it is left alone.
    unreadable: AtomicBool,
    /// What there was of its sums when they were first asked for.
    has_sums: OnceLock<Option<sums::file::Has>>,
    /// They were, and could not be read later.
    lost_sums: AtomicBool,
    shelf: Option<Arc<Shelf>>,
}

/// A part that was written just now, and what is in it.
#[derive(Debug)]
pub(crate) struct NewPart {
    pub(crate) part: Arc<Part>,
    pub(crate) contents: PartContents,
}

impl Part {
    pub(crate) fn new(place: Place, folders: &Folders, size: u64) -> Arc<Self> {
        let name = place.name();
        let (path, own_path) = (folders.shown.join(&name), folders.own.join(&name));
        let sums_path = folders.sums_path(&place);
        Arc::new(Self {
            place,
            path,
            own_path,
            sums_path,
            size,
            superseded: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            has_sums: OnceLock::new(),
            lost_sums: AtomicBool::new(false),
            shelf: folders.shelf.clone(),
        })
    }

    /// Whether its sums of the level can be asked for in the place of its rows. Reads them once.
    pub(crate) fn is_summed(&self, level: sums::Level) -> bool {
        self.has_sums().is_some_and(|has| has.finest >= level)
    }

    /// Whether its conversations can, likewise.
    pub(crate) fn has_conversations(&self) -> bool {
        self.has_sums().is_some_and(|has| has.conversations)
    }

    fn has_sums(&self) -> Option<sums::file::Has> {
        let check = || match sums::file::check(&self.sums_path, self.size) {
            Err(SumsError::File(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %self.sums_path.display(), %error, "sums of a part are left aside; its rows answer");
                None
            }
            Ok(has) => Some(has),
        };
        self.has_sums.get_or_init(check).filter(|_| !self.lost_sums.load(Relaxed))
    }

    /// The rows of a level of its sums, but for that of peers. Where they cannot be had any more, its rows answer the next
    /// time.
    pub(crate) fn sums(&self, level: sums::Level) -> Result<Vec<RecordBatch>, SumsError> {
        sums::file::read(&self.sums_path, self.size, level).inspect_err(|_| self.lost_sums.store(true, Relaxed))
    }

    /// Those of peers that are in a slice, likewise.
    pub(crate) fn sums_by_peer(&self, slice: usize) -> Result<Vec<PeerSum>, SumsError> {
        let read = sums::file::read_slice(&self.sums_path, self.size, slice);
        read.inspect_err(|_| self.lost_sums.store(true, Relaxed))
    }

    /// What there is of its conversations, likewise.
    pub(crate) fn conversations(&self, of: ConversationsOf) -> Result<Vec<u8>, SumsError> {
        let read = sums::file::read_conversations(&self.sums_path, self.size, of);
        read.inspect_err(|_| self.lost_sums.store(true, Relaxed))
    }

    /// Opens one of its files, which is brought first if it is not on the disk.
    pub(crate) fn open(&self, half: Half) -> io::Result<File> {
        let path = match half {
            Half::Own => &self.own_path,
            Half::Shown => &self.path,
        };
        match &self.shelf {
            Some(shelf) => shelf.open_file(half, &self.place.name(), path),
            None => File::open(path),
        }
    }

    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Relaxed);
    }
    /// But for as long as its store is away: then it may only be elsewhere.
    pub(crate) fn set_unreadable(&self) {
        if self.shelf.as_ref().is_some_and(|shelf| shelf.is_away()) {
            return;
        }
        self.unreadable.store(true, Relaxed);
    }
    pub(crate) fn is_readable(&self) -> bool {
        !self.unreadable.load(Relaxed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !*self.superseded.get_mut() {
            return;
        }
        if let Some(shelf) = &self.shelf {
            shelf.discard(&self.place.name());
        }
        for path in [&self.path, &self.own_path, &self.sums_path] {
            if let Err(error) = durable::remove(path) {
                // Nothing is told twice for it: the part that covers it counts, and the next start removes it.
                tracing::warn!(path = %path.display(), %error, "a merged part could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use lucarne_model::Moment;

    proptest! {
        #[test]
        fn a_name_gives_back_its_place(
            account: u64, location in "[a-z0-9.-]{1,20}", micros in 0u64..4_000_000_000_000_000, from: u32, to: u32
        ) {
            let place = Place {
                account: AccountId::from_bits(account),
                hour: Hour::of(Moment(micros)),
                location: location.parse().unwrap(),
                from: from.into(),
                to: to.into(),
            };
            prop_assert_eq!(Place::parse(&place.name()), Some(place));
        }

        #[test]
        fn no_name_makes_the_parser_panic(name in "[a-zA-Z0-9=./-]{0,120}") { let _ = Place::parse(&name); }
    }
}
