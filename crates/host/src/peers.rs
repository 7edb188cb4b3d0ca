//! The way from host to host: TLS in which both ends prove that they are hosts, and which.
//!
//! Owns the listener, the connections and the few words at their beginning. What is carried over one is its taker's business;
//! nobody is let in for an instance that this host does not expect, at that generation, from that very host.

pub(crate) mod way;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures::future::{try_join, try_join_all};
use lucarne_api::bodies::host::HostSettings;
use lucarne_model::{HostId, InstanceId, VolumeId};
use lucarne_vmm::driver::{Passage, Ways};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, oneshot, watch},
    time::timeout,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_util::sync::CancellationToken;

use crate::certificate::{CertificateError, ExportKey};

/// How long a connection and its greeting may take, of which most is the other host's preparation.
const GREETING: Duration = Duration::from_secs(60);
/// How long an instance that is expected may keep away.
const COMING: Duration = Duration::from_secs(120);
/// Connections that may be at their greeting at the same time.
const GREETINGS: usize = 64;
/// The longest greeting in bytes.
const LONGEST: u16 = 1024;
const WELCOME: u8 = 1;

/// Why there is no way to another host, or from one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("this agent has no certificate for other hosts yet")]
    NoCertificate,
    #[error("what the controller gave to reach other hosts with")]
    Certificate(#[source] CertificateError),
    #[error("{host} at {address} cannot be reached")]
    Unreachable {
        host: HostId,
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("{instance} is not to move any more")]
    Cut { instance: InstanceId },
    #[error("{from} did not bring {instance} within {} s", COMING.as_secs())]
    KeptAway { instance: InstanceId, from: HostId },
}

/// What the one that connects says first, behind its length in two bytes. Version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Greeting {
    instance: InstanceId,
    generation: u64,
    /// Of its disks the one that comes this way; none: it itself does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk: Option<VolumeId>,
}

/// This host's ways to others. Clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("key", &self.0.key).finish_non_exhaustive()
    }
}

struct Shared {
    key: Option<ExportKey>,
    told: OnceLock<watch::Receiver<Option<HostSettings>>>,
    expected: Mutex<BTreeMap<Greeting, Expected>>,
    /// Rung when something else is expected.
    expects: Notify,
}

struct Expected {
    from: HostId,
    taker: oneshot::Sender<Box<dyn Passage>>,
}

impl Peers {
    pub(crate) fn new(key: ExportKey) -> Self {
        Self::with(Some(key))
    }

    /// Without ways to other hosts.
    pub fn none() -> Self {
        Self::with(None)
    }

    fn with(key: Option<ExportKey>) -> Self {
        let (told, expected, expects) = Default::default();
        Self(Arc::new(Shared { key, told, expected, expects }))
    }

    /// From where to hear what the controller says; said once.
    pub(crate) fn hear(&self, told: watch::Receiver<Option<HostSettings>>) {
        // Whoever was first is heard.
        let _ = self.0.told.set(told);
    }

    /// Ways to the other host for an instance that it expects, and for its disks.
    pub(crate) async fn connect(
        &self,
        to: (HostId, SocketAddr),
        (instance, generation): (InstanceId, u64),
        disks: &[VolumeId],
    ) -> Result<Ways, PeerError> {
        let machine = self.connect_one(to, Greeting { instance, generation, disk: None }).await?;
        let mut ways = BTreeMap::new();
        for disk in disks {
            let way = self.connect_one(to, Greeting { instance, generation, disk: Some(*disk) }).await?;
            ways.insert(*disk, way);
        }
        Ok(Ways { machine, disks: ways })
    }

    async fn connect_one(
        &self,
        (host, address): (HostId, SocketAddr),
        greeting: Greeting,
    ) -> Result<Box<dyn Passage>, PeerError> {
        let (key, settings, authority) = self.credentials()?;
        let connector = key.peer_connector(&settings.certificate, &authority).map_err(PeerError::Certificate)?;
        let greeted = timeout(GREETING, async {
            let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut stream = connector.connect(name, stream).await?;
            let words = serde_json::to_vec(&greeting)?;
            stream.write_u16(u16::try_from(words.len()).map_err(io::Error::other)?).await?;
            stream.write_all(&words).await?;
            stream.flush().await?;
            match stream.read_u8().await? {
                WELCOME => Ok(stream),
                _ => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
            }
        });
        let greeted = greeted.await.unwrap_or_else(|late| Err(late.into()));
        let stream = greeted.map_err(|cause| PeerError::Unreachable { host, address, cause })?;
        Ok(Box::new(stream))
    }

    /// Waits for the other host to bring the instance and its disks.
    pub(crate) async fn await_from(
        &self,
        from: HostId,
        (instance, generation): (InstanceId, u64),
        disks: &[VolumeId],
    ) -> Result<Ways, PeerError> {
        let expect = |disk| self.await_one(from, Greeting { instance, generation, disk });
        let machine = expect(None);
        let ways = try_join_all(disks.iter().map(|disk| async { Ok((*disk, expect(Some(*disk)).await?)) }));
        let (machine, ways) = try_join(machine, ways).await?;
        Ok(Ways { machine, disks: ways.into_iter().collect() })
    }

    async fn await_one(&self, from: HostId, greeting: Greeting) -> Result<Box<dyn Passage>, PeerError> {
        let (taker, taken) = oneshot::channel();
        self.expected().insert(greeting, Expected { from, taker });
        self.0.expects.notify_waiters();
        let came = timeout(COMING, taken).await;
        self.expected().remove(&greeting);
        match came {
            Ok(Ok(passage)) => Ok(passage),
            _ => Err(PeerError::KeptAway { instance: greeting.instance, from }),
        }
    }

    /// Lets other hosts in until `shutdown`.
    pub(crate) async fn listen(self, listener: TcpListener, shutdown: CancellationToken) {
        let greetings = Arc::new(Semaphore::new(GREETINGS));
        let accepting = async {
            loop {
                let Ok(turn) = greetings.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let peers = self.clone();
                        tokio::spawn(async move {
                            let greeted = timeout(GREETING, peers.greet(stream)).await;
                            if let Err(error) = greeted.unwrap_or_else(|late| Err(late.into())) {
                                tracing::warn!(%address, %error, "who connected as a host was not let in");
                            }
                            drop(turn);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no host can connect");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(accepting).await;
    }

    async fn greet(&self, stream: TcpStream) -> io::Result<()> {
        let (key, settings, authority) = self.credentials().map_err(io::Error::other)?;
        let acceptor = key.peer_acceptor(&settings.certificate, &authority).map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        let mut stream = acceptor.accept(stream).await?;
        let host = host_of(stream.get_ref().1.peer_certificates()).ok_or(io::ErrorKind::PermissionDenied)?;
        let length = stream.read_u16().await?;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut words = vec![0; length.into()];
        stream.read_exact(&mut words).await?;
        let taker = self.taker(host, serde_json::from_slice(&words)?).await;
        stream.write_u8(WELCOME).await?;
        stream.flush().await?;
        // If nobody takes it any more it is closed, and whoever brings the instance hears it.
        let _ = taker.send(Box::new(stream));
        Ok(())
    }

    /// Who expects this of that host, as soon as someone does.
    async fn taker(&self, host: HostId, greeting: Greeting) -> oneshot::Sender<Box<dyn Passage>> {
        loop {
            let mut rung = std::pin::pin!(self.0.expects.notified());
            // From here on no ring is missed.
            rung.as_mut().enable();
            {
                let mut expected = self.expected();
                if expected.get(&greeting).is_some_and(|expected| expected.from == host)
                    && let Some(expected) = expected.remove(&greeting)
                {
                    return expected.taker;
                }
            }
            rung.await;
        }
    }

    fn credentials(&self) -> Result<(&ExportKey, HostSettings, String), PeerError> {
        let settings = self.0.told.get().and_then(|told| told.borrow().clone()).ok_or(PeerError::NoCertificate)?;
        let authority = settings.host_authority.clone().ok_or(PeerError::NoCertificate)?;
        Ok((self.0.key.as_ref().ok_or(PeerError::NoCertificate)?, settings, authority))
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<Greeting, Expected>> {
        self.0.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host that the certificate names: the one DNS name in it is a host's id.
fn host_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<HostId> {
    let certificate = webpki::EndEntityCert::try_from(certificates?.first()?).ok()?;
    let mut names = certificate.valid_dns_names();
    let host = names.next()?.parse().ok()?;
    names.next().is_none().then_some(host)
}
