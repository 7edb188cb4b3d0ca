//! How a controller is told to run, and the file by which its operator reaches it.
//!
//! Owns the defaults and [`OperatorFile`]'s shape. Command-line options are the binary's.

use std::{
    fs, io,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::AccountId;
use serde::{Deserialize, Serialize};

/// How one controller runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Holds the store, the blobs and `operator.json`. One controller at a time works on it.
    pub state_dir: PathBuf,
    /// Where the API answers; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Whether to answer beyond the loopback addresses although tokens then cross the network unencrypted: for networks
    /// that are closed, or behind a proxy that speaks TLS.
    pub allow_plaintext: bool,
    /// The collector's `connection.json`; read again when a connection fails.
    pub collector: PathBuf,
    /// How often hosts report when nothing changes.
    pub heartbeat: Duration,
    /// A host that was silent for longer is down.
    pub host_timeout: Duration,
    /// Whether hosts take no instance before they have proved a TPM of a trusted maker; attested ones never do.
    pub require_tpm: bool,
    /// Throws the access keys of tenants' own stores away at the start: for when the key that they are sealed with is lost.
    pub forget_store_secrets: bool,
}

impl Settings {
    pub fn new(state_dir: PathBuf, listen: SocketAddr, collector: PathBuf) -> Self {
        Self {
            state_dir,
            listen,
            allow_plaintext: false,
            collector,
            heartbeat: Duration::from_secs(1),
            host_timeout: Duration::from_secs(10),
            require_tpm: false,
            forget_store_secrets: false,
        }
    }
}

/// How the operator reaches the controller and hosts join it: `operator.json`, readable by its owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorFile {
    /// The API's URL.
    pub endpoint: String,
    pub account: AccountId,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// With it, machines become hosts.
    pub join_token: String,
}

impl std::fmt::Debug for OperatorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorFile").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl OperatorFile {
    pub const NAME: &'static str = "operator.json";

    /// # Errors
    /// That of reading the file; `InvalidData` when it is something else.
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }

    /// Readers see the old file or the new one, never a part.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let partial = path.with_extension("partial");
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&partial, path)
    }
}
