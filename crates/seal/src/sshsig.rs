//! Signatures of SSH keys: OpenSSH's `PROTOCOL.sshsig`, with plain keys and with those of FIDO2 authenticators.
//!
//! Owns reading both the signature and the key strictly, and what of them is signed. Keys that are enrolled are
//! [`key`](crate::key)'s; a signature's own copy of the key must be the enrolled one.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lucarne_statement::sha256;
use ring::{
    digest::{SHA512, digest},
    signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey},
};

/// What our signatures are for: `ssh-keygen -Y sign -n seal@lucarne`.
pub const NAMESPACE: &str = "seal@lucarne";
const MAGIC: &[u8] = b"SSHSIG";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// The flag of an authenticator that somebody touched.
const PRESENT: u8 = 1;
/// More than any key or signature of these kinds has.
const LONGEST: usize = 1024;

/// Why a text is no SSH key or signature that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    #[error("not an SSH public key of a kind that is taken: ssh-ed25519, ecdsa-sha2-nistp256 or their sk- forms")]
    Key,
    #[error("not an SSH signature")]
    Signature,
}

/// A public key as SSH knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshKey {
    kind: Kind,
    point: Vec<u8>,
    /// Of authenticators: whom the key was made for.
    application: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
    SkEd25519,
    SkP256,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Ed25519, Self::P256, Self::SkEd25519, Self::SkP256];
    const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::P256 => "ecdsa-sha2-nistp256",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }
    const fn is_p256(self) -> bool {
        matches!(self, Self::P256 | Self::SkP256)
    }
    const fn is_authenticator(self) -> bool {
        matches!(self, Self::SkEd25519 | Self::SkP256)
    }
    fn read(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }
}

/// What a good signature says beside being good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Of authenticators that count their signatures: the count.
    pub counter: Option<u32>,
}

impl SshKey {
    /// Reads a line of an `authorized_keys` file or a `.pub` file.
    pub fn from_line(line: &str) -> Result<Self, SshError> {
        let mut words = line.split_ascii_whitespace();
        let (name, blob) = (words.next().ok_or(SshError::Key)?, words.next().ok_or(SshError::Key)?);
        let key = STANDARD.decode(blob).ok().and_then(|blob| Self::from_blob(&blob)).ok_or(SshError::Key)?;
        if key.kind.name() == name { Ok(key) } else { Err(SshError::Key) }
    }
    pub fn to_line(&self) -> String {
        format!("{} {}", self.kind.name(), STANDARD.encode(self.to_blob()))
    }

    fn from_blob(blob: &[u8]) -> Option<Self> {
        let mut fields = Fields(blob);
        let kind = Kind::read(fields.string()?)?;
        if kind.is_p256() && fields.string()? != b"nistp256" {
            return None;
        }
        let point = fields.string()?.to_vec();
        let application = if kind.is_authenticator() { Some(fields.string()?.to_vec()) } else { None };
        let length = if kind.is_p256() { 65 } else { 32 };
        (fields.0.is_empty() && point.len() == length).then_some(Self { kind, point, application })
    }

    /// The key as it stands in signatures, and as fingerprints are made of it.
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = string(self.kind.name().as_bytes());
        if self.kind.is_p256() {
            blob.extend(string(b"nistp256"));
        }
        blob.extend(string(&self.point));
        blob.extend(self.application.iter().flat_map(|application| string(application)));
        blob
    }

    /// Whether this key signed `octets` for our namespace; a key of an authenticator, only if somebody touched it.
    pub fn verifies(&self, octets: &[u8], signature: &[u8]) -> Option<Signed> {
        let outer = Outer::read(signature)?;
        if outer.key != self.to_blob() || outer.namespace != NAMESPACE.as_bytes() {
            return None;
        }
        let signed = outer.signed(octets)?;
        let mut fields = Fields(outer.signature);
        if fields.string()? != self.kind.name().as_bytes() {
            return None;
        }
        let inner = fields.string()?;
        let Some(application) = &self.application else {
            return (fields.0.is_empty() && self.checks(&signed, inner)).then_some(Signed { counter: None });
        };
        let (flags, counter) = (fields.take(1)?, fields.take(4)?);
        let counted = u32::from_be_bytes(counter.try_into().ok()?);
        let by_authenticator = [&sha256(&[application])[..], flags, counter, &sha256(&[&signed])].concat();
        let good = fields.0.is_empty() && flags[0] & PRESENT != 0 && self.checks(&by_authenticator, inner);
        // Authenticators that do not count say 0 for ever.
        good.then_some(Signed { counter: (counted > 0).then_some(counted) })
    }

    fn checks(&self, octets: &[u8], inner: &[u8]) -> bool {
        if !self.kind.is_p256() {
            return UnparsedPublicKey::new(&ED25519, &self.point).verify(octets, inner).is_ok();
        }
        let mut fields = Fields(inner);
        let mut number = || fields.string().and_then(unsigned);
        let (Some(r), Some(s)) = (number(), number()) else { return false };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point);
        fields.0.is_empty() && key.verify(octets, &[r, s].concat()).is_ok()
    }
}

/// The octets of a signature as `ssh-keygen -Y sign` writes it.
pub fn from_armour(text: &str) -> Result<Vec<u8>, SshError> {
    let inner = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).ok_or(SshError::Signature)?;
    let digits: String = inner.chars().filter(|digit| !digit.is_whitespace()).collect();
    let blob = STANDARD.decode(digits).map_err(|_| SshError::Signature)?;
    Outer::read(&blob).map(|_| ()).ok_or(SshError::Signature)?;
    Ok(blob)
}

struct Outer<'a> {
    key: &'a [u8],
    namespace: &'a [u8],
    reserved: &'a [u8],
    hash: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Outer<'a> {
    fn read(blob: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(blob);
        if fields.take(MAGIC.len())? != MAGIC || fields.take(4)? != 1u32.to_be_bytes() {
            return None;
        }
        let outer = Self {
            key: fields.string()?,
            namespace: fields.string()?,
            reserved: fields.string()?,
            hash: fields.string()?,
            signature: fields.string()?,
        };
        (fields.0.is_empty() && outer.reserved.is_empty()).then_some(outer)
    }

    /// What the key signed, of these octets.
    fn signed(&self, octets: &[u8]) -> Option<Vec<u8>> {
        let hashed = match self.hash {
            b"sha512" => digest(&SHA512, octets).as_ref().to_vec(),
            b"sha256" => sha256(&[octets]).to_vec(),
            _ => return None,
        };
        let fields = [self.namespace, self.reserved, self.hash, hashed.as_slice()];
        Some(fields.iter().fold(MAGIC.to_vec(), |mut signed, field| {
            signed.extend(string(field));
            signed
        }))
    }
}

/// Octets behind their length.
fn string(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u32).to_be_bytes(), octets].concat()
}

/// A positive number in SSH's shortest way, in 32 octets.
fn unsigned(number: &[u8]) -> Option<[u8; 32]> {
    let digits = match number {
        [0, rest @ ..] if rest.first().is_some_and(|first| first & 0x80 != 0) => rest,
        [first, ..] if first & 0x80 == 0 && *first != 0 => number,
        _ => return None,
    };
    let mut padded = [0; 32];
    padded.get_mut(32usize.checked_sub(digits.len())?..)?.copy_from_slice(digits);
    Some(padded)
}

/// Fields that are still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.take(4)?.try_into().ok()?) as usize;
        if length > LONGEST { None } else { self.take(length) }
    }
}

#[cfg(test)]
mod tests;
