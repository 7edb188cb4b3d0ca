//! The host CA: signs the keys with which hosts prove to the collector who they are.
//!
//! Owns the CA's key and certificate, made at the first start and kept in `host-ca.pem` (mode 0600), and what a host's
//! certificate says: one name, the host's id, for [`VALIDITY`]. Who the host is has been proved by its own key before this is
//! asked. Nothing is written down about certificates that were given: they are short-lived, and given anew at each hello.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lucarne_model::{HostId, Moment};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use time::OffsetDateTime;

const FILE: &str = "host-ca.pem";
/// What stands between the two halves of the file.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";
/// How long a host's certificate holds.
pub(crate) const VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far the collector's clock may be behind ours.
const BEHIND: Duration = Duration::from_secs(3600);

/// Why there is no host CA.
#[derive(Debug, thiserror::Error)]
pub enum HostCaError {
    #[error("{path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path} does not hold a certificate and its key")]
    Damaged { path: PathBuf },
    #[error("a key and certificate cannot be made")]
    Make(#[source] rcgen::Error),
}

/// Why a host's key was not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error("`export_key` is not a point of P-256, uncompressed, in base64")]
    Key,
    #[error("the certificate cannot be made: {0}")]
    Make(#[source] rcgen::Error),
}

/// A host's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// In PEM.
    pub(crate) certificate: String,
    /// When a third of its time is left.
    pub(crate) renew: Moment,
}

#[derive(Debug)]
pub(crate) struct HostCa {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl HostCa {
    /// Reads the file, or makes the CA.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, HostCaError> {
        let path = state_dir.join(FILE);
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
            Err(cause) => return Err(HostCaError::File { path, cause }),
        };
        let Some((certificate, _)) = pem.split_once(KEY) else { return Err(HostCaError::Damaged { path }) };
        let key = KeyPair::from_pem(&pem[certificate.len()..]).map_err(|_| HostCaError::Damaged { path })?;
        Ok(Self { certificate: certificate.to_owned(), issuer: Issuer::new(params(), key) })
    }

    /// The CA's own certificate, in PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for the host's public key (the point, uncompressed, in base64).
    pub(crate) fn sign(&self, host: HostId, key: &str, now: Moment) -> Result<Signed, SignError> {
        let key = HostKey::parse(key).ok_or(SignError::Key)?;
        let mut params = CertificateParams::new([host.to_string()]).map_err(SignError::Make)?;
        params.distinguished_name.push(DnType::CommonName, host.to_string());
        params.not_before = date(now.minus(BEHIND));
        params.not_after = date(now.plus(VALIDITY));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(SignError::Make)?.pem();
        Ok(Signed { certificate, renew: now.plus(VALIDITY * 2 / 3) })
    }
}

/// The public half of a host's export key.
struct HostKey(Vec<u8>);

impl HostKey {
    fn parse(text: &str) -> Option<Self> {
        const UNCOMPRESSED: u8 = 4;
        let point = STANDARD.decode(text).ok()?;
        (point.len() == 65 && point.first() == Some(&UNCOMPRESSED)).then_some(Self(point))
    }
}

impl PublicKeyData for HostKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// What the CA's certificate says; also what it signs with, so this must stay as it is.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Lucarne host CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn make(path: &Path) -> Result<String, HostCaError> {
    let key = KeyPair::generate().map_err(HostCaError::Make)?;
    let certificate = params().self_signed(&key).map_err(HostCaError::Make)?;
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    write(path, pem.as_bytes()).map_err(|cause| HostCaError::File { path: path.to_owned(), cause })?;
    Ok(pem)
}

/// On the disk before anything is signed with it.
fn write(path: &Path, pem: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(pem)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn date(moment: Moment) -> OffsetDateTime {
    let seconds = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_ca_is_made_once_and_only_its_owner_reads_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let made = HostCa::open(dir.path()).unwrap();
        assert_eq!(HostCa::open(dir.path()).unwrap().certificate(), made.certificate());
        assert!(!made.certificate().contains("PRIVATE"));
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join(FILE), "damaged").unwrap();
        assert!(matches!(HostCa::open(dir.path()), Err(HostCaError::Damaged { .. })));
    }

    #[test]
    fn only_a_point_of_p_256_is_signed_and_to_be_renewed_when_a_third_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, host, now) = (HostCa::open(dir.path()).unwrap(), HostId::from_bits(5), Moment::from_secs(1 << 31));
        let key = KeyPair::generate().unwrap();
        let signed = ca.sign(host, &STANDARD.encode(key.der_bytes()), now).unwrap();
        assert!(signed.certificate.starts_with("-----BEGIN CERTIFICATE"));
        assert_eq!(signed.renew, now.plus(Duration::from_secs(20 * 24 * 3600)));
        for bad in [String::new(), "%".into(), STANDARD.encode([4; 64]), STANDARD.encode([2; 65])] {
            assert!(matches!(ca.sign(host, &bad, now), Err(SignError::Key)), "{bad}");
        }
    }
}
