//! What this host proves who it is with when it sends flow records, and to other hosts.
//!
//! Owns the export key: a P-256 key made here, kept in `export.key` (PKCS #8, mode 0600), whose public half the controller
//! signs into a certificate that names the host; and the TLS of its connections: to the collector, whose own certificate is
//! the one that is trusted there, and from and to hosts, whose certificates the controller's host CA has signed. When to have
//! it signed anew is said by the controller.

use std::{fs, io, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

use crate::{
    durable::{self, Outlives},
    error::Error,
};

/// The name in the collector's certificate. It is not looked up anywhere: the certificate itself is what is trusted.
const COLLECTOR: &str = "collector.lucarne.internal";

/// Why there can be no TLS with what is at hand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the {whose} certificate that the controller gave cannot be read")]
    Unreadable { whose: &'static str, source: rustls::pki_types::pem::Error },
    #[error("the certificates and the key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("the host CA's certificate cannot be used: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
}

/// This host's key for the export of flow records.
#[derive(Clone)]
pub(crate) struct ExportKey {
    pkcs8: Arc<[u8]>,
    public: String,
}

impl ExportKey {
    /// Reads the file, or makes a new key.
    pub(crate) fn read_or_make(path: &Path) -> Result<Self, Error> {
        let failed = |cause| Error::Folder { path: path.to_owned(), cause };
        let pkcs8 = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
                let made = made.map_err(|_| Error::Random)?;
                durable::replace(path, made.as_ref(), Outlives::PowerCut).map_err(failed)?;
                made.as_ref().to_vec()
            }
            read => read.map_err(failed)?,
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &SystemRandom::new());
        let pair = pair.map_err(|rejected| failed(io::Error::new(io::ErrorKind::InvalidData, rejected.to_string())))?;
        Ok(Self { pkcs8: pkcs8.into(), public: STANDARD.encode(pair.public_key()) })
    }

    /// The public half: the point, uncompressed.
    pub(crate) fn point(&self) -> Vec<u8> {
        // It was encoded here.
        STANDARD.decode(&self.public).unwrap_or_default()
    }

    /// The public half: the point, uncompressed, in base64.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// TLS as the host of `certificate`, with the collector of `collector` and nobody else; both in PEM.
    pub(crate) fn connector(&self, certificate: &str, collector: &str) -> Result<TlsConnector, CertificateError> {
        self.connector_to(trusting("collector's", collector)?, certificate)
    }

    /// TLS as the host of `certificate`, with hosts that `authority` has signed the keys of; both in PEM.
    pub(crate) fn peer_connector(&self, certificate: &str, authority: &str) -> Result<TlsConnector, CertificateError> {
        self.connector_to(trusting("host CA's", authority)?, certificate)
    }

    /// The other end of [`peer_connector`](Self::peer_connector).
    pub(crate) fn peer_acceptor(&self, certificate: &str, authority: &str) -> Result<TlsAcceptor, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trusted = Arc::new(trusting("host CA's", authority)?);
        let hosts = WebPkiClientVerifier::builder_with_provider(trusted, provider.clone()).build()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(hosts)
            .with_single_cert(vec![parse("host's", certificate)?], self.private())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn connector_to(&self, trusted: RootCertStore, certificate: &str) -> Result<TlsConnector, CertificateError> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(trusted)
            .with_client_auth_cert(vec![parse("host's", certificate)?], self.private())?;
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    /// Whom [`connector`](Self::connector) connects to.
    pub(crate) fn collector_name() -> io::Result<ServerName<'static>> {
        ServerName::try_from(COLLECTOR).map_err(io::Error::other)
    }
}

fn parse(whose: &'static str, pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| CertificateError::Unreadable { whose, source })
}

fn trusting(whose: &'static str, pem: &str) -> Result<RootCertStore, CertificateError> {
    let mut trusted = RootCertStore::empty();
    trusted.add(parse(whose, pem)?)?;
    Ok(trusted)
}

impl std::fmt::Debug for ExportKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_host_keeps_its_export_key_and_shows_it_to_nobody() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("export.key");
        let made = ExportKey::read_or_make(&path).unwrap();
        assert_eq!(ExportKey::read_or_make(&path).unwrap().public(), made.public());
        assert_eq!(STANDARD.decode(made.public()).unwrap().len(), 65);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "damaged").unwrap();
        assert!(matches!(ExportKey::read_or_make(&path), Err(Error::Folder { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"damaged");
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_whose_it_is() {
        let place = tempfile::tempdir().unwrap();
        let key = ExportKey::read_or_make(&place.path().join("export.key")).unwrap();
        let refused = key.connector("", "").err().map(|error| error.to_string());
        assert!(refused.is_some_and(|why| why.contains("collector's")));
    }
}
