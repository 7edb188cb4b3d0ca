//! Who this host is: its id, its keys, its ports, kept in `host.json`.
//!
//! Owns the file (version 1, mode 0600) and the enrolment that fills it. The private key is made here and never leaves.

use std::{
    fs, io,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use lucarne_api::bodies::host::{EnrolHost, Enrolled, HostSettings};
use lucarne_model::{ErrorCode, HostId, actual::HostDescription};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{
    backoff::Backoff,
    controller::Controller,
    durable::{self, Outlives},
    error::{Error, IdentityError},
    layout::Layout,
};

/// What `host.json` holds.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    version: u32,
    /// None until the controller took the host.
    enrolled: Option<Enrolled>,
    private_key: String,
    metadata_key: String,
    pub(crate) tunnel_port: u16,
    /// What the controller said last, for a start without it.
    pub(crate) settings: Option<HostSettings>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("enrolled", &self.enrolled).finish_non_exhaustive()
    }
}

const VERSION: u32 = 1;
const KEY_BYTES: usize = 32;

impl Identity {
    /// Reads the file, or makes the keys of a new host.
    pub(crate) fn read_or_make(layout: &Layout) -> Result<Self, Error> {
        let path = layout.identity();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::make(layout),
            Err(cause) => return Err(Error::Folder { path, cause }),
        };
        Self::parse(&bytes).map_err(|cause| Error::Identity { path, cause })
    }

    fn make(layout: &Layout) -> Result<Self, Error> {
        let (private_key, metadata_key) = (STANDARD.encode(random_key()?), STANDARD.encode(random_key()?));
        let made = Self { version: VERSION, enrolled: None, private_key, metadata_key, tunnel_port: 0, settings: None };
        made.save(layout)?;
        Ok(made)
    }

    fn parse(bytes: &[u8]) -> Result<Self, IdentityError> {
        let read: Self = serde_json::from_slice(bytes).map_err(IdentityError::Json)?;
        if read.version != VERSION {
            return Err(IdentityError::Version(read.version));
        }
        key_bytes(&read.private_key).ok_or(IdentityError::Key("private_key"))?;
        key_bytes(&read.metadata_key).ok_or(IdentityError::Key("metadata_key"))?;
        Ok(read)
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<(), Error> {
        let path = layout.identity();
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        json.and_then(|json| durable::replace(&path, &json, Outlives::PowerCut))
            .map_err(|cause| Error::Folder { path, cause })
    }

    pub(crate) fn private_key(&self) -> [u8; KEY_BYTES] {
        key_bytes(&self.private_key).unwrap_or_default()
    }
    pub(crate) fn metadata_key(&self) -> [u8; KEY_BYTES] {
        key_bytes(&self.metadata_key).unwrap_or_default()
    }

    /// Fixes the tunnel's port: the one asked for, else the one of last time if it is free, else any free one.
    pub(crate) fn choose_tunnel_port(&mut self, address: IpAddr, asked: u16) -> Result<u16, Error> {
        let port_of = |port| UdpSocket::bind((address, port)).and_then(|socket| Ok(socket.local_addr()?.port()));
        let chosen = match (asked, self.tunnel_port) {
            (0, 0) => port_of(0),
            (0, last) => port_of(last).or_else(|_| port_of(0)),
            (asked, _) => port_of(asked),
        };
        self.tunnel_port = chosen.map_err(|cause| Error::TunnelAddress { address, cause })?;
        Ok(self.tunnel_port)
    }

    /// The host's id and key, asked of the controller with the join token if this folder has none yet. Waits for a
    /// controller that is away; one that refuses is an error.
    pub(crate) async fn enrol(
        &mut self,
        layout: &Layout,
        controller: &dyn Controller,
        join_token: Option<&str>,
        host: &HostDescription,
    ) -> Result<(HostId, String), Error> {
        if self.enrolled.is_none() {
            let join_token = join_token.ok_or(Error::NoJoinToken)?.to_owned();
            let request = EnrolHost { join_token, host: host.clone() };
            self.enrolled = Some(ask(controller, &request).await?);
            self.save(layout)?;
        }
        let enrolled = self.enrolled.as_ref().ok_or(Error::NoJoinToken)?;
        Ok((enrolled.host, enrolled.host_key.clone()))
    }
}

async fn ask(controller: &dyn Controller, request: &EnrolHost) -> Result<Enrolled, Error> {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        let problem = match controller.enrol(request).await {
            Ok(enrolled) => return Ok(enrolled),
            Err(problem) => problem,
        };
        // Refusals are for good; a controller that is away, overrun or ill may recover.
        if problem.status < 500 && problem.code != ErrorCode::RequestLimitExceeded {
            return Err(Error::Refused { problem });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%problem, "the controller does not enrol this host yet; trying on");
        }
        let asked_to_wait = Duration::from_secs(problem.retry_after.unwrap_or(0).min(30));
        tokio::time::sleep(backoff.next_delay().max(asked_to_wait)).await;
    }
}

fn key_bytes(text: &str) -> Option<[u8; KEY_BYTES]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn random_key() -> Result<[u8; KEY_BYTES], Error> {
    let mut key = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| Error::Random)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_host_keeps_its_keys_and_its_port_and_shows_them_to_nobody() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(place.path().to_owned());
        let mut made = Identity::read_or_make(&layout).unwrap();
        let port = made.choose_tunnel_port(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        made.save(&layout).unwrap();
        let mut read = Identity::read_or_make(&layout).unwrap();
        assert_eq!((read.private_key(), read.metadata_key()), (made.private_key(), made.metadata_key()));
        assert_ne!(read.private_key(), read.metadata_key());
        assert_eq!(read.choose_tunnel_port(Ipv4Addr::LOCALHOST.into(), 0).unwrap(), port);
        assert_eq!(fs::metadata(layout.identity()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{read:?}").contains(&read.private_key));
    }

    #[test]
    fn a_damaged_identity_is_an_error_and_is_not_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(place.path().to_owned());
        for text in ["", "{}", r#"{"version":2,"enrolled":null,"private_key":"","metadata_key":"","tunnel_port":0}"#] {
            fs::write(layout.identity(), text).unwrap();
            assert!(matches!(Identity::read_or_make(&layout), Err(Error::Identity { .. })), "{text}");
            assert_eq!(fs::read_to_string(layout.identity()).unwrap(), text);
        }
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let mut made = Identity::read_or_make(&Layout::new(place.path().to_owned())).unwrap();
        let elsewhere = IpAddr::from([192, 0, 2, 1]);
        assert!(matches!(made.choose_tunnel_port(elsewhere, 0), Err(Error::TunnelAddress { .. })));
    }
}
