//! The keys of one TPM: the endorsement key, which its maker certified, and our attestation key, which signs quotes.
//!
//! Owns the file in which the attestation key is kept, wrapped by its TPM so that no other can load it. What proves that the
//! two live in the same TPM is asked by the controller.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use lucarne_attest::wire::{Reader, WireError, Writer};

use crate::{
    Error, Tpm,
    answer::{LONGEST, Object, Quote, Wrapped},
    command::Hierarchy,
    template,
};

/// Where the TCG's profile has the certificate of an endorsement key of template L-2.
pub(crate) const CERTIFICATE_INDEX: u32 = 0x01c0_000a;
const MAGIC: &[u8; 8] = b"lucarak1";

/// The keys, of which the attestation key is loaded.
#[derive(Debug)]
pub struct Keys {
    attestation: Object,
    certificate: Option<Vec<u8>>,
}

/// A credential that somebody made for an attestation key and an endorsement key.
#[derive(Clone, Copy, Debug)]
pub struct Credential<'a> {
    /// `TPM2B_ID_OBJECT`.
    pub blob: &'a [u8],
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub secret: &'a [u8],
}

impl Keys {
    /// Loads the attestation key from `file`. One that this TPM did not wrap, because it was cleared or is another, is
    /// replaced by a new key.
    pub fn open(tpm: &mut Tpm, file: &Path) -> Result<Self, Error> {
        let kept = read(file).map_err(|cause| Error::State { path: file.to_owned(), cause })?;
        let root = tpm.create_primary(Hierarchy::Owner, &template::storage_root())?.handle;
        let loaded = match kept.map(|kept| tpm.load(root, &kept)) {
            Some(Err(Error::Refused { .. })) | None => make(tpm, root, file),
            Some(loaded) => loaded,
        };
        let attestation = match loaded {
            Ok(attestation) => attestation,
            Err(error) if error.is_lost() => return Err(error),
            Err(error) => return tpm.flush(root).and(Err(error)),
        };
        tpm.flush(root)?;
        let certificate = tpm.nv_read(CERTIFICATE_INDEX)?.map(|padded| trimmed(&padded).to_vec());
        Ok(Self { attestation, certificate })
    }

    /// `TPMT_PUBLIC` of the attestation key.
    pub fn attestation_public(&self) -> &[u8] {
        &self.attestation.public
    }
    /// The attestation key's name, which a credential is made for.
    pub fn attestation_name(&self) -> &[u8] {
        &self.attestation.name
    }
    /// The endorsement key's certificate in DER; none if the TPM has none for a key on P-256.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// `TPMT_PUBLIC` of the endorsement key. A TPM derives it anew, which takes a chip some tenths of a second.
    pub fn endorsement_public(&self, tpm: &mut Tpm) -> Result<Vec<u8>, Error> {
        let endorsement = tpm.create_primary(Hierarchy::Endorsement, &template::endorsement_key())?;
        tpm.flush(endorsement.handle)?;
        Ok(endorsement.public)
    }

    /// Registers of the SHA-256 bank and the qualifying data, signed.
    pub fn quote(&self, tpm: &mut Tpm, qualifying_data: &[u8; 32], registers: &[u8]) -> Result<Quote, Error> {
        tpm.quote(self.attestation.handle, qualifying_data, registers)
    }

    /// The secret that the credential holds; refused unless it was made for just these two keys.
    pub fn activate(&self, tpm: &mut Tpm, credential: Credential<'_>) -> Result<Vec<u8>, Error> {
        let endorsement = tpm.create_primary(Hierarchy::Endorsement, &template::endorsement_key())?.handle;
        let keys = (self.attestation.handle, endorsement);
        let opened = tpm.activate_credential(keys, credential.blob, credential.secret);
        if !opened.as_ref().is_err_and(Error::is_lost) {
            tpm.flush(endorsement)?;
        }
        opened
    }

    /// The public area and name that the TPM itself says are loaded: the same as ours, or somebody else's TPM answers.
    pub fn check(&self, tpm: &mut Tpm) -> Result<(), Error> {
        let (public, name) = tpm.read_public(self.attestation.handle)?;
        let is_ours = public == self.attestation.public && name == self.attestation.name;
        if is_ours { Ok(()) } else { Err(Error::Name) }
    }
}

/// A new attestation key, on the disk before it is used.
fn make(tpm: &mut Tpm, root: u32, file: &Path) -> Result<Object, Error> {
    let wrapped = tpm.create(root, &template::attestation_key())?;
    write(file, &wrapped).map_err(|cause| Error::State { path: file.to_owned(), cause })?;
    tpm.load(root, &wrapped)
}

fn read(file: &Path) -> io::Result<Option<Wrapped>> {
    match fs::read(file) {
        Ok(octets) => parse(&octets).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(octets: &[u8]) -> Result<Wrapped, WireError> {
    let mut reader = Reader::new(octets);
    let found = u64::from_be_bytes(reader.array("beginning")?);
    if found != u64::from_be_bytes(*MAGIC) {
        return Err(WireError::Unknown { what: "beginning of a kept key", found });
    }
    let private = reader.sized(LONGEST, "private half")?.to_vec();
    let public = reader.sized(LONGEST, "public half")?.to_vec();
    reader.end()?;
    Ok(Wrapped { private, public })
}

fn write(file: &Path, wrapped: &Wrapped) -> io::Result<()> {
    let mut octets = Writer::default();
    octets.octets(MAGIC).sized(&wrapped.private).sized(&wrapped.public);
    let beside = file.with_extension("new");
    let mut open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    open.write_all(&octets.into_octets())?;
    open.sync_all()?;
    fs::rename(&beside, file)?;
    file.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// Makers fill the rest of an NV index with whatever they like: a certificate is as long as its outermost sequence says.
fn trimmed(padded: &[u8]) -> &[u8] {
    match padded {
        [0x30, 0x82, high, low, ..] => {
            let length = 4 + usize::from(u16::from_be_bytes([*high, *low]));
            padded.get(..length).unwrap_or(padded)
        }
        _ => padded,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_kept_key_is_read_whole_or_not_at_all(
            private in prop::collection::vec(any::<u8>(), 0..200), public in prop::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("ak");
            prop_assert_eq!(read(&file).unwrap(), None);
            let wrapped = Wrapped { private, public };
            write(&file, &wrapped).unwrap();
            prop_assert_eq!(read(&file).unwrap(), Some(wrapped));
            let octets = fs::read(&file).unwrap();
            fs::write(&file, &octets[..cut.index(octets.len())]).unwrap();
            prop_assert!(read(&file).is_err());
        }
    }

    #[test]
    fn what_follows_a_certificate_is_cut_off() {
        assert_eq!(trimmed(&[0x30, 0x82, 0, 2, 7, 8, 0xff, 0xff]), [0x30, 0x82, 0, 2, 7, 8]);
        assert_eq!(trimmed(&[0x30, 0x82, 0, 9, 7]), [0x30, 0x82, 0, 9, 7]);
        assert_eq!(trimmed(&[1, 2]), [1, 2]);
    }
}
