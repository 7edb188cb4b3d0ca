//! What deliveries remember: which logs there are, and for each how far it is.
//!
//! Owns the folder `delivery` in the state folder: `logs.json` and a file for each log. Files are replaced whole, and are for
//! this user alone: what opens a tenant's store is among what they hold.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lucarne_model::{FlowLogId, Moment, flow_log::DeliveryOrder};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::durable;

const LOGS: &str = "logs.json";

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the folder of deliveries")]
    Folder(#[source] io::Error),
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not what a collector wrote", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Records below this serial need not be looked at again.
    pub(super) position: u64,
    pub(super) delivered: u64,
    pub(super) last_delivered: Option<Moment>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    pub(super) fn open(state_dir: &Path) -> Result<Self, LedgerError> {
        let dir = state_dir.join("delivery");
        durable::create_dir(&dir).map_err(LedgerError::Folder)?;
        Ok(Self { dir })
    }

    pub(super) fn orders(&self) -> Result<Vec<DeliveryOrder>, LedgerError> {
        self.read(&self.dir.join(LOGS))
    }

    /// Writes nothing where nothing has changed.
    pub(super) fn keep_orders(&self, orders: &[DeliveryOrder]) -> Result<(), LedgerError> {
        if self.orders().is_ok_and(|kept| kept == orders) {
            return Ok(());
        }
        self.write(self.dir.join(LOGS), &orders)
    }

    pub(super) fn progress(&self, log: FlowLogId) -> Result<Progress, LedgerError> {
        self.read(&self.path(log))
    }

    pub(super) fn keep_progress(&self, log: FlowLogId, progress: &Progress) -> Result<(), LedgerError> {
        self.write(self.path(log), progress)
    }

    pub(super) fn forget(&self, log: FlowLogId) {
        if let Err(error) = durable::remove(&self.path(log)) {
            // It names a log that is gone, and no other ever has its id.
            tracing::warn!(%log, %error, "what was remembered of a delivery could not be removed");
        }
    }

    fn path(&self, log: FlowLogId) -> PathBuf {
        self.dir.join(format!("{log}.json"))
    }

    /// What the file says; the default of its type where there is none.
    fn read<T: DeserializeOwned + Default>(&self, path: &Path) -> Result<T, LedgerError> {
        match fs::read(path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| LedgerError::Parse { path: path.into(), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(source) => Err(LedgerError::Read { path: path.into(), source }),
        }
    }

    fn write(&self, path: PathBuf, value: &impl Serialize) -> Result<(), LedgerError> {
        let write = |file: &mut fs::File| serde_json::to_writer(file, value).map_err(io::Error::from);
        durable::write_whole(&path, write).map_err(|source| LedgerError::Write { path, source })
    }
}
