//! Requests that only their host can read: the envelope as an age file to the host's own recipient.
//!
//! Sealing is the last step, after all signatures: whoever has the recipient can do it, with age's tools too. It hides what is
//! asked from who carries it, and says nothing of who asks; a host that is not the target learns nothing and does nothing,
//! since the target is signed.

use crate::{
    age::{AgeError, Identity, Recipient, Seed, header, reader::Reader, stream, writer::Writer},
    refusal::Refusal,
    trust,
};

/// Larger files are not opened.
pub const MOST_OCTETS: usize =
    trust::MOST_OCTETS + header::MOST_OCTETS + 2 * stream::SEALED_CHUNK - 2 * stream::CHUNK + stream::NONCE;
const BEGINNING: &[u8] = b"age-encryption.org/";

/// Whether these octets are sealed; an envelope begins otherwise.
pub fn is_sealed(octets: &[u8]) -> bool {
    octets.starts_with(BEGINNING)
}

/// The envelope sealed for a host.
pub fn seal(envelope: &[u8], seed: &Seed, host: Recipient) -> Result<Vec<u8>, AgeError> {
    let mut sealed = Vec::new();
    let mut writer = Writer::begin(seed, &[host], &mut sealed)?;
    writer.push(envelope, &mut sealed)?;
    writer.finish(&mut sealed)?;
    Ok(sealed)
}

/// The envelope in a sealed request, by the host's identity.
pub fn open(sealed: &[u8], host: &Identity) -> Result<Vec<u8>, Refusal> {
    if sealed.len() > MOST_OCTETS {
        return Err(Refusal::TooLarge { found: sealed.len(), most: MOST_OCTETS });
    }
    let (mut reader, mut envelope) = (Reader::new(host.clone()), Vec::new());
    let opened = reader.push(sealed, &mut envelope).and_then(|()| reader.finish(&mut envelope));
    opened.map(|()| envelope).map_err(|error| Refusal::Sealed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::example::identity;

    #[test]
    fn the_largest_envelope_fits_and_opens_for_its_host_alone() {
        let envelope = vec![b'{'; trust::MOST_OCTETS];
        let sealed = seal(&envelope, &Seed::new([5; 32]), identity(1).recipient()).expect("sealed");
        assert!(is_sealed(&sealed) && !is_sealed(&envelope) && sealed.len() <= MOST_OCTETS);
        assert_eq!(open(&sealed, &identity(1)), Ok(envelope));
        assert!(matches!(open(&sealed, &identity(2)), Err(Refusal::Sealed(_))));
        assert!(matches!(open(&vec![b'a'; MOST_OCTETS + 1], &identity(1)), Err(Refusal::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn no_octets_that_were_changed_open(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut sealed = seal(b"{}", &Seed::new([5; 32]), identity(1).recipient()).expect("sealed");
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open(&sealed, &identity(1)).is_err());
        }
    }
}
