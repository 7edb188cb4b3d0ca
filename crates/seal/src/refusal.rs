//! Why a request is not carried out: every reason with its code, and the one shape in which carriers hear of any of them.
//!
//! Owns the reasons. What is said here is for the operator's log and the sealed answer; a carrier is told [`Refused`], so
//! that nobody learns by trying which keys, people, instances or grants there are.

use lucarne_model::{AccountId, ErrorCode, InstanceId, Moment, storage::Digest};
use serde::{Deserialize, Serialize};

use crate::{operation::OperationName, trust::Person};

/// The only thing that a carrier is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the request was refused; who signed it may ask the operator why")]
pub struct Refused;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the envelope has {found} octets; {most} are read")]
    TooLarge { found: usize, most: usize },
    #[error("the envelope: {0}")]
    Envelope(String),
    #[error("the sealed request: {0}")]
    Sealed(String),
    #[error("the envelope is of type `{found}`, not `{expected}`")]
    Type { found: String, expected: &'static str },
    #[error("the request: {0}")]
    Request(String),
    #[error("the request is signed {found} times; from 1 to {most} signatures are read")]
    Signatures { found: usize, most: usize },
    #[error("key {0} signed twice")]
    SignedTwice(Digest),
    #[error("key {0} is not enrolled, and no authority that is vouches for it")]
    UnknownKey(Digest),
    #[error("key {0} is revoked")]
    RevokedKey(Digest),
    #[error("key {0} was enrolled until {1:?}")]
    KeyExpired(Digest, Moment),
    #[error("key {0} did not sign this")]
    Signature(Digest),
    #[error("key {0} is a shared secret, which counts only for requests that are made on the host itself")]
    NotLocal(Digest),
    #[error("the certificate of key {key}: {cause}")]
    Certificate { key: Digest, cause: String },
    #[error("the authenticator of key {key} counted {found} after {seen}: there is a copy of it")]
    Cloned { key: Digest, found: u32, seen: u32 },
    #[error("the request holds from {not_before:?}; it is {now:?}")]
    NotYet { not_before: Moment, now: Moment },
    #[error("the request held until {not_after:?}; it is {now:?}")]
    Expired { not_after: Moment, now: Moment },
    #[error("request {0} was taken before")]
    Replayed(Digest),
    #[error("{0} requests are remembered, and their time is not over: no more are taken")]
    LedgerFull(usize),
    #[error("the clock cannot be trusted, and the request does not name a beacon of this host")]
    Beacon,
    #[error("the request is for the host with key {asked}; this is {own}")]
    OtherHost { asked: Digest, own: Digest },
    #[error("{operation} is not answered for with key {own}")]
    OtherLayer { operation: OperationName, own: Digest },
    #[error("{0} is not on this host")]
    NoInstance(InstanceId),
    #[error("{0} is stopped: it can be started, and nothing else")]
    Stopped(InstanceId),
    #[error("the standing request is not of {0}")]
    OutOfScope(InstanceId),
    #[error("{instance} is in generation {held}; the request is for {asked}")]
    OtherGeneration { instance: InstanceId, asked: u64, held: u64 },
    #[error("{instance} does not belong to account {asked}")]
    OtherAccount { instance: InstanceId, asked: AccountId },
    #[error("{person} is of account {account}, and the target is not")]
    ForeignSigner { person: Person, account: AccountId },
    #[error("account {0} wants to sign itself what is done to its instances")]
    Cosignature(AccountId),
    #[error("the request wants the host's policy to be of version {wanted} or newer; it is {own}")]
    PolicyOld { wanted: u64, own: u64 },
    #[error("no grant allows {operation} to {person}")]
    NotGranted { person: Person, operation: OperationName },
    #[error("grant `{grant}` forbids {operation} to {person}")]
    Forbidden { person: Person, operation: OperationName, grant: String },
    #[error("the grants cannot be evaluated: {0}")]
    Grants(String),
}

impl Refusal {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. }
            | Self::Envelope(_)
            | Self::Sealed(_)
            | Self::Type { .. }
            | Self::Signatures { .. }
            | Self::SignedTwice(_) => ErrorCode::SealEnvelopeMalformed,
            Self::Request(_) => ErrorCode::SealRequestMalformed,
            Self::UnknownKey(_) | Self::NotLocal(_) | Self::Certificate { .. } => ErrorCode::SealKeyUntrusted,
            Self::RevokedKey(_) | Self::KeyExpired(..) | Self::Cloned { .. } => ErrorCode::SealKeyRevoked,
            Self::Signature(_) => ErrorCode::SealSignatureInvalid,
            Self::NotYet { .. } | Self::Expired { .. } | Self::Beacon => ErrorCode::SealExpired,
            Self::Replayed(_) => ErrorCode::SealReplayed,
            Self::LedgerFull(_) => ErrorCode::SealBusy,
            Self::OtherHost { .. }
            | Self::OtherLayer { .. }
            | Self::NoInstance(_)
            | Self::Stopped(_)
            | Self::OutOfScope(_)
            | Self::OtherGeneration { .. }
            | Self::OtherAccount { .. } => ErrorCode::SealOtherTarget,
            Self::ForeignSigner { .. } | Self::Cosignature(_) | Self::NotGranted { .. } | Self::Forbidden { .. } => {
                ErrorCode::SealNotGranted
            }
            Self::PolicyOld { .. } | Self::Grants(_) => ErrorCode::SealPolicyUnusable,
        }
    }

    /// What a carrier is told.
    pub const fn public(&self) -> Refused {
        Refused
    }
}
