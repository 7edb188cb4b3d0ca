//! How others reach a collector: its two addresses, its certificate and its secret, in one file.
//!
//! Owns that file, which is also where a collector finds its secret and its chosen ports again at the next start.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{Error, Settings, durable};

/// What `connection.json` in a collector's state folder says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Where hosts connect, over TLS.
    pub ipfix: SocketAddr,
    /// The one certificate that they trust there, in PEM.
    pub certificate: String,
    /// Where questions are asked, over HTTP.
    pub query: SocketAddr,
    /// The bearer token of questions.
    pub query_token: String,
}

/// Why the connection file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} does not say how to reach a collector", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the address that was bound is not known")]
    Address(#[source] io::Error),
}

impl Connection {
    /// The file's name in the state folder.
    pub const FILE: &str = "connection.json";

    pub fn read(path: &Path) -> Result<Self, ConnectionError> {
        let text = fs::read(path).map_err(|source| ConnectionError::Read { path: path.into(), source })?;
        serde_json::from_slice(&text).map_err(|source| ConnectionError::Parse { path: path.into(), source })
    }

    /// Secret and ports of the last time, or new ones; the addresses as the settings want them.
    pub(crate) fn prepare(settings: &Settings, certificate: &str) -> Result<Self, Error> {
        let certificate = certificate.to_owned();
        let path = settings.state_dir.join(Self::FILE);
        if !path.exists() {
            let (ipfix, query) = (settings.listen_ipfix, settings.listen_query);
            return Ok(Self { ipfix, certificate, query, query_token: secret()? });
        }
        let mut last = Self { certificate, ..Self::read(&path).map_err(Error::Connection)? };
        for (remembered, wanted) in [(&mut last.ipfix, settings.listen_ipfix), (&mut last.query, settings.listen_query)]
        {
            let port = if wanted.port() == 0 { remembered.port() } else { wanted.port() };
            *remembered = SocketAddr::new(wanted.ip(), port);
        }
        Ok(last)
    }

    /// Writes down what was bound, unless the file says it already.
    pub(crate) fn keep(
        mut self,
        settings: &Settings,
        ipfix: &TcpListener,
        query: &TcpListener,
    ) -> Result<Self, ConnectionError> {
        self.ipfix = ipfix.local_addr().map_err(ConnectionError::Address)?;
        self.query = query.local_addr().map_err(ConnectionError::Address)?;
        let path = settings.state_dir.join(Self::FILE);
        if Self::read(&path).is_ok_and(|said| said == self) {
            return Ok(self);
        }
        let write = |file: &mut fs::File| serde_json::to_writer_pretty(file, &self).map_err(io::Error::from);
        durable::write_whole(&path, write).map_err(|source| ConnectionError::Write { path, source })?;
        Ok(self)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("ipfix", &self.ipfix).field("query", &self.query).finish_non_exhaustive()
    }
}

/// 256 random bits in hexadecimal.
fn secret() -> Result<String, Error> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
