//! What a quote is bound to beside the registers: who asked, when, for which run of which instance, and of which machine.
//!
//! Owns the encoding whose SHA-256 a TPM is given as qualifying data. The host's network key is in it, so that a quote of
//! one machine cannot be shown by another.

use lucarne_model::{InstanceId, storage::Digest};

use lucarne_statement::sha256;

const DOMAIN: &[u8] = b"lucarne quote v1";

/// What one quote is for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// What the tenant drew.
    pub nonce: &'a [u8],
    /// SHA-256 of the SubjectPublicKeyInfo of the host agent's TLS key.
    pub host_key: &'a Digest,
    pub instance: InstanceId,
    pub generation: u64,
}

impl Purpose<'_> {
    /// SHA-256 over the domain and each part, each behind its length in 64 bits, big-endian.
    pub fn qualifying_data(&self) -> [u8; 32] {
        let host_key = self.host_key.to_bytes();
        let instance = self.instance.to_string();
        let generation = self.generation.to_be_bytes();
        let parts: [&[u8]; 5] = [DOMAIN, self.nonce, &host_key, instance.as_bytes(), &generation];
        sha256(&[&encode(&parts)])
    }
}

/// Each part behind its length in 64 bits, big-endian: no two lists of parts have the same encoding.
pub(crate) fn encode(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&(part.len() as u64).to_be_bytes(), *part].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes any part has another quote; and the encoding itself is one that others can write down.
    #[test]
    fn each_part_changes_the_qualifying_data() {
        let (here, there) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        let base = Purpose { nonce: b"abc", host_key: &here, instance: InstanceId::from_bits(7), generation: 3 };
        let others = [
            Purpose { nonce: b"abd", ..base },
            Purpose { nonce: b"ab", ..base },
            Purpose { host_key: &there, ..base },
            Purpose { instance: InstanceId::from_bits(8), ..base },
            Purpose { generation: 4, ..base },
        ];
        assert_eq!(base.qualifying_data(), base.qualifying_data());
        for other in others {
            assert_ne!(other.qualifying_data(), base.qualifying_data(), "{other:?}");
        }
    }

    #[test]
    fn no_boundary_can_be_moved() {
        assert_ne!(encode(&[b"ab", b"c"]), encode(&[b"a", b"bc"]));
        assert_eq!(encode(&[b"ab"]), [0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']);
    }
}
