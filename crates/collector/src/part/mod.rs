//! A part: one Parquet file of one account's records of one day, newest first.
//!
//! Owns where parts lie and what their names say. The rule of which parts count is stated at the crate's root and applied
//! by [`crate::recovery`]; what is in them is the matter of [`write()`] and [`PartReader`].

mod read;
mod write;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arrow_schema::ArrowError;
use lucarne_model::AccountId;
use parquet::errors::ParquetError;

pub(crate) use read::PartReader;
pub(crate) use write::write;

use crate::{columns::BadColumn, day::Day, durable};

/// Why a part could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("the file: {0}")]
    File(#[from] io::Error),
    #[error("the Parquet: {0}")]
    Parquet(#[from] ParquetError),
    #[error("the columns: {0}")]
    Arrow(#[from] ArrowError),
    #[error("the rows: {0}")]
    Column(#[from] BadColumn),
}

/// Where a part belongs and which log segments it was made from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) account: AccountId,
    pub(crate) day: Day,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Place {
    /// `flows/account=000000000001/date=2026-01-31`, below the state folder.
    pub(crate) fn dir(&self, flows: &Path) -> PathBuf {
        flows.join(format!("account={}", self.account)).join(format!("date={}", self.day))
    }

    pub(crate) fn path(&self, flows: &Path) -> PathBuf {
        self.dir(flows).join(format!("{:010}-{:010}.parquet", self.from, self.to))
    }

    /// The place that a path below the folder of all parts names.
    pub(crate) fn parse(account: &str, day: &str, file: &str) -> Option<Self> {
        let account = account.strip_prefix("account=")?.parse().ok()?;
        let day = day.strip_prefix("date=")?.parse().ok()?;
        let (from, to) = file.strip_suffix(".parquet")?.split_once('-')?;
        Some(Self { account, day, from: from.parse().ok()?, to: to.parse().ok()? })
    }

    /// Whether this was merged from `other`, among parts of one folder.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.from <= other.from && other.to <= self.to && self != other
    }
}

/// A part that counts, or did until it was merged into another.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) place: Place,
    pub(crate) path: PathBuf,
    /// Octets of the file.
    pub(crate) size: u64,
    /// Another part covers this one: the file goes with its last reader.
    superseded: AtomicBool,
    /// It could not be read when it was to be merged; it is left alone.
    unreadable: AtomicBool,
}

impl Part {
    pub(crate) fn new(place: Place, flows: &Path, size: u64) -> Arc<Self> {
        let path = place.path(flows);
        Arc::new(Self { place, path, size, superseded: AtomicBool::new(false), unreadable: AtomicBool::new(false) })
    }

    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Relaxed);
    }
    pub(crate) fn set_unreadable(&self) {
        self.unreadable.store(true, Relaxed);
    }
    pub(crate) fn is_readable(&self) -> bool {
        !self.unreadable.load(Relaxed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if *self.superseded.get_mut()
            && let Err(error) = durable::remove(&self.path)
        {
            // Nothing is told twice for it: the part that covers it counts, and the next start removes it.
            tracing::warn!(path = %self.path.display(), %error, "a merged part could not be removed");
        }
    }
}
