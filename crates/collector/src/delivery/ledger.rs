//! What deliveries remember: which logs there are, and for each how far it is.
//!
//! Owns the folder `delivery` in the state folder: `logs.json` and a file for each log. Files are replaced whole, and are for
//! this user alone. What opens a tenant's store is sealed ([`SecretBox`]); where an older build left it plain, it is at the
//! next start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lucarne_model::{
    FlowLogId, Moment,
    flow_log::{DeliveryOrder, FlowLog, StoreCredentials},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    durable,
    secret_box::{SealedSecret, SecretBox, SecretError},
};

const LOGS: &str = "logs.json";
const REMEDY: &str =
    "if it is lost, remove delivery/logs.json: the controller tells the collector of all flow logs again";

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
    #[error("the secrets of tenants' stores: {0}")]
    Secret(#[from] SecretError),
}

/// A flow log as it lies on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct KeptOrder {
    #[serde(flatten)]
    log: FlowLog,
    /// A log's credentials, sealed for its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<SealedSecret>,
    /// As older builds left them.
    #[serde(default, skip_serializing)]
    credentials: Option<StoreCredentials>,
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
    secrets: SecretBox,
}

impl Ledger {
    pub(super) fn open(state_dir: &Path) -> Result<Self, LedgerError> {
        let dir = state_dir.join("delivery");
        durable::create_dir(&dir).map_err(LedgerError::Folder)?;
        let kept: Vec<KeptOrder> = read(&dir.join(LOGS))?;
        let is_sealed = kept.iter().any(|order| order.secret.is_some());
        let ledger = Self { dir, secrets: SecretBox::open(state_dir, is_sealed, REMEDY)? };
        if kept.iter().any(|order| order.credentials.is_some()) {
            ledger.write_orders(&ledger.orders()?)?;
        }
        Ok(ledger)
    }

    pub(super) fn orders(&self) -> Result<Vec<DeliveryOrder>, LedgerError> {
        let kept: Vec<KeptOrder> = read(&self.dir.join(LOGS))?;
        let order = |KeptOrder { log, secret, credentials }| {
            let credentials = match secret {
                Some(secret) => Some(self.secrets.unseal(&log.id.to_string(), &secret)?),
                None => credentials,
            };
            Ok(DeliveryOrder { log, credentials })
        };
        kept.into_iter().map(order).collect()
    }

    fn write_orders(&self, orders: &[DeliveryOrder]) -> Result<(), LedgerError> {
        let keep = |DeliveryOrder { log, credentials }: &DeliveryOrder| {
            let seal = |credentials| self.secrets.seal(&log.id.to_string(), credentials);
            let secret = credentials.as_ref().map(seal).transpose()?;
            Ok(KeptOrder { log: log.clone(), secret, credentials: None })
        };
        let kept = orders.iter().map(keep).collect::<Result<Vec<_>, SecretError>>()?;
        self.write(self.dir.join(LOGS), &kept)
    }

    /// Writes nothing where nothing has changed.
    pub(super) fn keep_orders(&self, orders: &[DeliveryOrder]) -> Result<(), LedgerError> {
        if self.orders().is_ok_and(|kept| kept == orders) {
            return Ok(());
        }
        self.write_orders(orders)
    }

    pub(super) fn progress(&self, log: FlowLogId) -> Result<Progress, LedgerError> {
        read(&self.path(log))
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

    fn write(&self, path: PathBuf, value: &impl Serialize) -> Result<(), LedgerError> {
        let write = |file: &mut fs::File| serde_json::to_writer(file, value).map_err(io::Error::from);
        durable::write_whole(&path, write).map_err(|source| LedgerError::Write { path, source })
    }
}

/// What the file says; the default of its type where there is none.
fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, LedgerError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| LedgerError::Parse { path: path.into(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(source) => Err(LedgerError::Read { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::tests::log;

    const SECRET: &str = "geheim-geheim";

    fn order() -> DeliveryOrder {
        let credentials = StoreCredentials { access_key_id: "LKX".into(), secret_access_key: SECRET.into() };
        DeliveryOrder { credentials: Some(credentials), ..log("s3://my-logs/lab") }
    }

    fn logs(dir: &Path) -> String {
        fs::read_to_string(dir.join("delivery").join(LOGS)).unwrap()
    }

    #[test]
    fn what_opens_a_tenants_store_is_not_to_be_read_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        ledger.keep_orders(&[order(), log("store")]).unwrap();
        let kept = logs(dir.path());
        assert!(!kept.contains(SECRET) && !kept.contains("LKX"), "{kept}");
        ledger.keep_orders(&[order(), log("store")]).unwrap();
        assert_eq!(logs(dir.path()), kept, "what is the same is not sealed anew");
        assert_eq!(Ledger::open(dir.path()).unwrap().orders().unwrap(), [order(), log("store")]);
    }

    #[test]
    fn what_an_older_build_left_plain_is_sealed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("delivery")).unwrap();
        fs::write(dir.path().join("delivery").join(LOGS), serde_json::to_vec(&[order()]).unwrap()).unwrap();
        assert!(logs(dir.path()).contains(SECRET));
        let ledger = Ledger::open(dir.path()).unwrap();
        assert!(!logs(dir.path()).contains(SECRET));
        assert_eq!(ledger.orders().unwrap(), [order()]);
    }

    #[test]
    fn a_lost_or_wrong_key_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        Ledger::open(dir.path()).unwrap().keep_orders(&[order()]).unwrap();
        let key = dir.path().join("secrets.key");
        fs::write(&key, [1; 32]).unwrap();
        let wrong = Ledger::open(dir.path()).unwrap().orders().unwrap_err();
        assert!(matches!(wrong, LedgerError::Secret(SecretError::Wrong { .. })), "{wrong}");
        fs::remove_file(&key).unwrap();
        let missing = Ledger::open(dir.path()).unwrap_err();
        assert!(missing.to_string().contains("remove delivery/logs.json"), "{missing}");
        fs::remove_file(dir.path().join("delivery").join(LOGS)).unwrap();
        assert_eq!(Ledger::open(dir.path()).unwrap().orders().unwrap(), []);
    }
}
