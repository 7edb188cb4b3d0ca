//! What a TPM signs with: TPMT_SIGNATURE of ECDSA on P-256 and of RSASSA (PKCS #1 v1.5).

use super::{
    HashAlgorithm, Reader, Wire, WireError, Writer,
    algorithm::{ECDSA, RSASSA},
    public::{COORDINATE, MODULUS},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    Ecdsa { hash: HashAlgorithm, r: Vec<u8>, s: Vec<u8> },
    Rsassa { hash: HashAlgorithm, signature: Vec<u8> },
}

impl Signature {
    pub const fn hash(&self) -> HashAlgorithm {
        match self {
            Self::Ecdsa { hash, .. } | Self::Rsassa { hash, .. } => *hash,
        }
    }
}

impl Wire for Signature {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        match from.u16("signature scheme")? {
            ECDSA => Ok(Self::Ecdsa {
                hash: HashAlgorithm::read(from)?,
                r: from.sized(COORDINATE, "r of a signature")?.to_vec(),
                s: from.sized(COORDINATE, "s of a signature")?.to_vec(),
            }),
            RSASSA => Ok(Self::Rsassa {
                hash: HashAlgorithm::read(from)?,
                signature: from.sized(MODULUS, "signature")?.to_vec(),
            }),
            other => Err(WireError::Unknown { what: "signature scheme", found: other.into() }),
        }
    }
    fn write(&self, to: &mut Writer) {
        match self {
            Self::Ecdsa { hash, r, s } => {
                to.u16(ECDSA).u16(hash.id()).sized(r).sized(s);
            }
            Self::Rsassa { hash, signature } => {
                to.u16(RSASSA).u16(hash.id()).sized(signature);
            }
        }
    }
}
