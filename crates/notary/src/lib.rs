//! The notary: a third party that publishes what hosts should run, in a log that shows everyone the same.
//!
//! Owns one key, one append-only log and the HTTP service over them; it knows no controller and no host. What manifests,
//! heads and proofs are, and whether they hold, is the room `attest`'s. In reading order: [`ledger`], what may be appended
//! and what then holds (pure); `journal`, the log on disk; `inspection`, what the notary finds of what it is shown;
//! `service`, the routes.

mod files;
mod inspection;
mod journal;
pub mod ledger;
mod service;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use lucarne_attest::signing::{SigningError, SigningKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use inspection::{Inspected, Inspection};
pub use journal::JournalError;
pub use ledger::LedgerError;
pub use service::{ManifestRow, PublishRequest, RevokeRequest, Submission, Submitted};

/// The notary's key in PEM, for its owner alone; the public half, for everyone, is beside it.
pub const KEY_FILE: &str = "notary.key";
pub const PUBLIC_KEY_FILE: &str = "notary.pub";
/// What whoever publishes and revokes has, and what operators who submit have.
pub const PUBLISH_TOKEN_FILE: &str = "publish.token";
pub const SUBMIT_TOKEN_FILE: &str = "submit.token";

/// What a notary is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    /// What it calls itself in manifests and heads.
    pub name: String,
    /// Files that it built or inspected itself: what is submitted is compared with those of the same name.
    pub inspect: Option<PathBuf>,
}

/// Why the notary does not run.
#[derive(Debug, thiserror::Error)]
pub enum NotaryError {
    #[error("{path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("another notary runs in {0}")]
    Locked(PathBuf),
    #[error("the system gives no random octets")]
    Random,
    #[error("{path} does not hold a key")]
    Key {
        path: PathBuf,
        #[source]
        cause: SigningError,
    },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{address} cannot be listened at")]
    Listen {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("the service ended")]
    Serve(#[source] io::Error),
}

/// Runs until `shutdown`.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), NotaryError> {
    let dir = &settings.state_dir;
    let _lock = files::take(dir)?;
    let key = open_key(dir)?;
    let tokens = service::Tokens {
        publish: open_token(&dir.join(PUBLISH_TOKEN_FILE))?,
        submit: open_token(&dir.join(SUBMIT_TOKEN_FILE))?,
    };
    let journal = journal::Journal::open(dir, &settings.name, key)?;
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.map_err(|cause| NotaryError::Listen { address, cause })?;
    let address = listener.local_addr().map_err(|cause| NotaryError::Listen { address, cause })?;
    files::write_whole(&dir.join("listen"), address.to_string().as_bytes(), 0o644)?;
    tracing::info!(%address, entries = journal.ledger().size(), "the notary answers");
    let service = service::Service::new(journal, tokens, settings.inspect, dir.join("submissions"))?;
    service::serve(listener, service, shutdown).await.map_err(NotaryError::Serve)
}

fn open_key(dir: &Path) -> Result<SigningKey, NotaryError> {
    let path = dir.join(KEY_FILE);
    let key = match files::read(&path)? {
        Some(text) => SigningKey::from_pem(&text),
        None => SigningKey::from_seed(random()?),
    };
    let key = key.map_err(|cause| NotaryError::Key { path: path.clone(), cause })?;
    if !path.exists() {
        files::write_whole(&path, key.to_pem().as_bytes(), 0o600)?;
    }
    files::write_whole(&dir.join(PUBLIC_KEY_FILE), key.public().to_pem().as_bytes(), 0o644)?;
    Ok(key)
}

fn open_token(path: &Path) -> Result<String, NotaryError> {
    if let Some(text) = files::read(path)? {
        return Ok(text.trim().to_owned());
    }
    let token: String = random()?.iter().map(|octet| format!("{octet:02x}")).collect();
    files::write_whole(path, token.as_bytes(), 0o600)?;
    Ok(token)
}

fn random() -> Result<[u8; 32], NotaryError> {
    let mut octets = [0; 32];
    SystemRandom::new().fill(&mut octets).map_err(|_| NotaryError::Random)?;
    Ok(octets)
}
