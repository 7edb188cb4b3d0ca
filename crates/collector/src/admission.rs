//! Who may bring flow records: hosts with a certificate of the controller's host CA, over TLS 1.3 and nothing else.
//!
//! Owns the collector's own key and self-signed certificate (`tls.pem`), which hosts are told to trust by way of
//! [`Connection`](crate::Connection), and what the controller brings: the CA's certificate (`host-ca.pem`), and the hosts
//! that were removed before their certificates ran out (`removed-hosts.json`). Until the CA is known, nobody is let in. What a
//! host may say once it is in is checked by [`crate::ingest`].

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use lucarne_model::{HostId, HostTrust};
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::sync::watch;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{VerifierBuilderError, WebPkiClientVerifier},
    },
};

use crate::durable;

/// The name in the collector's certificate. Hosts do not look it up: the certificate itself is what they trust.
const NAME: &str = "collector.lucarne.internal";
const IDENTITY: &str = "tls.pem";
const HOST_CA: &str = "host-ca.pem";
const REMOVED: &str = "removed-hosts.json";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read or written", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a key and certificate cannot be made")]
    Make(#[source] rcgen::Error),
    #[error("{what} is not the PEM that it should be")]
    Pem { what: &'static str, source: rustls::pki_types::pem::Error },
    #[error("the key and certificate cannot be used")]
    Unusable(#[source] rustls::Error),
    #[error("the certificate of the host CA cannot be used")]
    Authority(#[source] VerifierBuilderError),
    #[error("{} is not a list of hosts", path.display())]
    Removed { path: PathBuf, source: serde_json::Error },
}

/// Why a certificate of the host CA names no host.
#[derive(Debug, thiserror::Error)]
#[error("its certificate names no host")]
pub(crate) struct NoHost;

/// The host is one that the operator removed.
#[derive(Debug, thiserror::Error)]
#[error("{0} was removed from the cloud")]
pub(crate) struct Removed(HostId);

#[derive(Debug)]
pub(crate) struct Admission {
    state_dir: PathBuf,
    /// In PEM.
    certificate: String,
    key: PrivateKeyDer<'static>,
    /// None until the CA is known.
    config: RwLock<Option<Trusted>>,
    removed: watch::Sender<BTreeSet<HostId>>,
    /// Of whoever changes what is trusted: what is on disk is what holds.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Trusted {
    authority: String,
    config: Arc<ServerConfig>,
}

impl Admission {
    /// Reads what the folder has; makes the collector's key and certificate at the first start.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, TlsError> {
        let pem = match read(&state_dir.join(IDENTITY))? {
            Some(pem) => pem,
            None => make_identity(state_dir)?,
        };
        let bad = |source| TlsError::Pem { what: IDENTITY, source };
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(bad)?;
        // Key and certificate share a file, so that neither can be there without the other; the certificate stands first.
        let end = pem.find("-----BEGIN PRIVATE").unwrap_or(pem.len());
        let certificate = pem[..end].to_owned();
        let removed = watch::Sender::new(read_removed(state_dir)?);
        let admission = Self {
            state_dir: state_dir.to_owned(),
            certificate,
            key,
            config: RwLock::new(None),
            removed,
            turn: Mutex::default(),
        };
        if let Some(authority) = read(&state_dir.join(HOST_CA))? {
            admission.admit(authority)?;
        }
        Ok(admission)
    }

    /// The collector's own certificate, in PEM: what hosts trust.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Lets in from now on whoever has a certificate of this CA and was not removed, and nobody else. It is on disk before it
    /// holds. Connections that stand go on, but for those of removed hosts.
    pub(crate) fn trust(&self, trust: HostTrust) -> Result<(), TlsError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // First: the CA must not let in for an instant who was removed.
        self.remove(trust.removed)?;
        self.trust_authority(trust.authority)
    }

    fn remove(&self, told: BTreeSet<HostId>) -> Result<(), TlsError> {
        let known = self.removed.borrow().clone();
        if told.is_subset(&known) {
            return Ok(());
        }
        let all: BTreeSet<HostId> = known.union(&told).copied().collect();
        let path = self.state_dir.join(REMOVED);
        durable::write_whole(&path, |file| serde_json::to_writer(file, &all).map_err(io::Error::from))
            .map_err(|source| TlsError::File { path, source })?;
        told.difference(&known).for_each(|host| tracing::info!(%host, "a removed host is not let in any more"));
        self.removed.send_replace(all);
        Ok(())
    }

    /// Whether the host may speak.
    pub(crate) fn check(&self, host: HostId) -> Result<(), Removed> {
        if self.removed.borrow().contains(&host) { Err(Removed(host)) } else { Ok(()) }
    }

    /// Comes back when the host is removed.
    pub(crate) async fn removal(&self, host: HostId) -> Removed {
        // It fails only when the sender is gone, which is a part of `self`.
        let _ = self.removed.subscribe().wait_for(|removed| removed.contains(&host)).await;
        Removed(host)
    }

    fn trust_authority(&self, authority: String) -> Result<(), TlsError> {
        if self.authority().as_ref() == Some(&authority) {
            return Ok(());
        }
        // Judged first: what cannot be used is not kept.
        self.server_config(&authority)?;
        let path = self.state_dir.join(HOST_CA);
        durable::write_whole(&path, |file| io::Write::write_all(file, authority.as_bytes()))
            .map_err(|source| TlsError::File { path, source })?;
        self.admit(authority)?;
        tracing::info!("hosts are let in by the certificates of the controller's host CA");
        Ok(())
    }

    /// None until the CA is known.
    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        let trusted = self.config.read().unwrap_or_else(PoisonError::into_inner);
        trusted.as_ref().map(|trusted| TlsAcceptor::from(trusted.config.clone()))
    }

    fn authority(&self) -> Option<String> {
        let trusted = self.config.read().unwrap_or_else(PoisonError::into_inner);
        trusted.as_ref().map(|trusted| trusted.authority.clone())
    }

    fn admit(&self, authority: String) -> Result<(), TlsError> {
        let config = Arc::new(self.server_config(&authority)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Some(Trusted { authority, config });
        Ok(())
    }

    fn server_config(&self, authority: &str) -> Result<ServerConfig, TlsError> {
        let parse = |what, pem: &str| {
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| TlsError::Pem { what, source })
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(parse("the certificate of the host CA", authority)?).map_err(TlsError::Unusable)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let own = vec![parse(IDENTITY, &self.certificate)?];
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Unusable)?
            .with_client_cert_verifier(verifier.build().map_err(TlsError::Authority)?)
            .with_single_cert(own, self.key.clone_key())
            .map_err(TlsError::Unusable)
    }
}

/// The host that the certificate names: the one DNS name in it is a host's id.
pub(crate) fn host_of(certificates: Option<&[CertificateDer<'_>]>) -> Result<HostId, NoHost> {
    let certificate = certificates.and_then(|chain| chain.first()).ok_or(NoHost)?;
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| NoHost)?;
    let mut names = certificate.valid_dns_names();
    let host = names.next().and_then(|name| name.parse().ok()).ok_or(NoHost)?;
    if names.next().is_some() { Err(NoHost) } else { Ok(host) }
}

/// The file's text; none when there is no file.
fn read(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::File { path: path.to_owned(), source }),
    }
}

fn read_removed(state_dir: &Path) -> Result<BTreeSet<HostId>, TlsError> {
    let path = state_dir.join(REMOVED);
    let text = read(&path)?;
    let removed = text.map_or(Ok(BTreeSet::new()), |text| serde_json::from_str(&text));
    removed.map_err(|source| TlsError::Removed { path, source })
}

fn make_identity(state_dir: &Path) -> Result<String, TlsError> {
    let key = KeyPair::generate().map_err(TlsError::Make)?;
    let mut params = CertificateParams::new([NAME.to_owned()]).map_err(TlsError::Make)?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    let certificate = params.self_signed(&key).map_err(TlsError::Make)?;
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    let path = state_dir.join(IDENTITY);
    durable::write_whole(&path, |file| io::Write::write_all(file, pem.as_bytes()))
        .map_err(|source| TlsError::File { path, source })?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn trust(authority: &str, removed: &[HostId]) -> HostTrust {
        HostTrust { authority: authority.to_owned(), removed: removed.iter().copied().collect() }
    }

    fn authority() -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn the_collectors_certificate_and_the_ca_outlive_it_and_its_key_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let first = Admission::open(dir.path()).unwrap();
        assert!(first.acceptor().is_none(), "nobody is let in before the CA is known");
        first.trust(trust(&authority(), &[])).unwrap();
        first.trust(trust(&authority(), &[])).unwrap();
        let again = Admission::open(dir.path()).unwrap();
        assert_eq!((again.certificate(), again.authority()), (first.certificate(), first.authority()));
        assert!(again.acceptor().is_some());
        assert!(!again.certificate().contains("PRIVATE"));
        assert_eq!(fs::metadata(dir.path().join(IDENTITY)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_certificate_does_not_replace_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        let admission = Admission::open(dir.path()).unwrap();
        let known = authority();
        admission.trust(trust(&known, &[])).unwrap();
        assert!(admission.trust(trust("nonsense", &[])).is_err());
        assert_eq!(admission.authority(), Some(known.clone()));
        assert_eq!(fs::read_to_string(dir.path().join(HOST_CA)).unwrap(), known);
    }

    #[tokio::test]
    async fn a_removed_host_is_remembered_whatever_is_told_later() {
        let dir = tempfile::tempdir().unwrap();
        let [gone, going, stays] = [1, 2, 3].map(HostId::from_bits);
        let admission = Admission::open(dir.path()).unwrap();
        let known = authority();
        admission.trust(trust(&known, &[gone])).unwrap();
        let mut removal = std::pin::pin!(admission.removal(going));
        assert!(futures::poll!(&mut removal).is_pending());
        admission.trust(trust(&known, &[going])).unwrap();
        admission.trust(trust(&known, &[])).unwrap();
        removal.await;
        for admission in [&admission, &Admission::open(dir.path()).unwrap()] {
            let let_in = [gone, going, stays].map(|host| admission.check(host).is_ok());
            assert_eq!(let_in, [false, false, true]);
        }
        fs::write(dir.path().join(REMOVED), "damaged").unwrap();
        assert!(matches!(Admission::open(dir.path()), Err(TlsError::Removed { .. })));
    }

    #[test]
    fn a_certificate_names_one_host_or_none() {
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = CertificateParams::new(names).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
            host_of(Some(&[made.der().clone()])).ok()
        };
        let host = HostId::from_bits(7);
        assert_eq!(named(&[&host.to_string()]), Some(host));
        assert_eq!(named(&[&host.to_string(), "other"]), None);
        assert_eq!((named(&["other"]), named(&[]), host_of(None).ok()), (None, None, None));
    }
}
