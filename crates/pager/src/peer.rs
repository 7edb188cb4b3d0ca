//! TLS between hosts that lend each other memory: both prove who they are with the certificate that they have already.
//!
//! Owns whom each end trusts: certificates of the cloud's host CA, TLS 1.3 and nothing else. The borrower insists on the one
//! host that its lease names, the lender learns from the certificate which host it has before it. Frames are read here too:
//! both ends read them in the same way.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use lucarne_model::HostId;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use serde::{Deserialize, Serialize};

use crate::wire::LONGEST;

/// What a host proves itself with, and by whom it knows others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The host's private key, PKCS #8.
    pub key: PathBuf,
    /// The host's certificate, in PEM.
    pub certificate: String,
    /// The certificate of the host CA, in PEM.
    pub authority: String,
}

/// Why there can be no TLS with what is at hand.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{} cannot be read", path.display())]
    Key { path: PathBuf, source: io::Error },
    #[error("the certificate of the {whose} cannot be read")]
    Pem { whose: &'static str, source: rustls::pki_types::pem::Error },
    #[error("certificates and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("the host CA's certificate cannot be used: {0}")]
    Authority(#[from] VerifierBuilderError),
}

impl Identity {
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.trusted()?)
            .with_client_auth_cert(vec![self.own()?], key(&self.key)?)?;
        Ok(Arc::new(config))
    }

    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.trusted()?), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(vec![self.own()?], key(&self.key)?)?;
        Ok(Arc::new(config))
    }

    fn own(&self) -> Result<CertificateDer<'static>, IdentityError> {
        parse("host", &self.certificate)
    }

    fn trusted(&self) -> Result<RootCertStore, IdentityError> {
        let mut trusted = RootCertStore::empty();
        trusted.add(parse("host CA", &self.authority)?)?;
        Ok(trusted)
    }
}

fn parse(whose: &'static str, pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| IdentityError::Pem { whose, source })
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let bytes = fs::read(path).map_err(|source| IdentityError::Key { path: path.to_owned(), source })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bytes)))
}

/// The name that a host's certificate has.
pub(crate) fn name_of(host: HostId) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_string()).map_err(io::Error::other)
}

/// The host that a verified certificate names: the one DNS name in it is a host's id.
pub(crate) fn host_of(chain: Option<&[CertificateDer<'_>]>) -> Option<HostId> {
    let certificate = webpki::EndEntityCert::try_from(chain?.first()?).ok()?;
    let mut names = certificate.valid_dns_names();
    let name = names.next().filter(|_| names.next().is_none())?;
    name.parse().ok()
}

/// Reads one frame without its length into `buffer`; false at the end of the stream.
pub(crate) fn read_frame(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    buffer.resize(length, 0);
    stream.read_exact(buffer)?;
    Ok(true)
}

pub(crate) fn write_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    stream.write_all(frame)?;
    stream.flush()
}
