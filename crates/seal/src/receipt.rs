//! Receipts: a host's signed word of what came of a request. A carrier proves with it that a result is whole, without any
//! key; a reader proves whose the result is before opening it.
//!
//! Owns what a receipt says and the comparison of a result with it. Encryption alone says nothing of the sender: whoever
//! knows a reader's public key can make a result for it.

use lucarne_model::{ErrorCode, HostId, Moment, evidence::RegisterQuote, storage::Digest};
use lucarne_statement::{
    canonical::{self, CanonicalError},
    sha256,
    signing::{Envelope, PublicKey, SigningError, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{
    age::{AgeError, Header},
    operation::OperationName,
    request::{Request, RequestId},
    standing::{Occurrence, Standing, occurrence_id},
};

/// Why a result is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    #[error("the receipt: {0}")]
    Invalid(#[from] SigningError),
    #[error("the receipt is signed by key {signed}, and the request was for the host with key {asked}")]
    OtherHost { signed: Digest, asked: Digest },
    #[error("the receipt is of request {found}, not {expected}")]
    OtherRequest { found: RequestId, expected: RequestId },
    #[error("the request was refused: there is no result")]
    Refused,
    #[error("the request stands: each of its times has a receipt and a result of its own")]
    Stands,
    #[error("the result: {0}")]
    NotAge(AgeError),
    #[error("the result is not the one that the receipt is of")]
    OtherResult,
}

impl ReceiptError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Refused | Self::Stands => ErrorCode::SealRefused,
            Self::NotAge(_) => ErrorCode::SealResultUnreadable,
            _ => ErrorCode::SealReceiptInvalid,
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    pub request: RequestId,
    pub host: HostId,
    pub time: Moment,
    /// The request's place in the host's log.
    pub log_index: u64,
    /// Which time of a standing request it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurrence: Option<Occurrence>,
    pub outcome: Outcome,
    /// What the host's TPM said of the host when it was done, over [`qualifying_data`]; none where there is no TPM that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<RegisterQuote>,
}

impl Statement for Receipt {
    const TYPE: &'static str = "application/vnd.lucarne.seal-receipt.v1+json";
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// One shape, whatever the reason was.
    Refused,
    /// It was begun, and no whole result came of it.
    Failed,
    /// It is a standing request, and the host keeps it.
    Stands,
    Done {
        operation: OperationName,
        result: SealedResult,
        consistency: Consistency,
        /// For how long the guest stood still for it.
        paused_nanoseconds: u64,
    },
}

/// What a TPM is given to sign with the registers: SHA-256 over a domain and the canonical text of what a receipt says was done.
pub fn qualifying_data(request: &RequestId, host: HostId, outcome: &Outcome) -> Result<[u8; 32], CanonicalError> {
    #[derive(Serialize)]
    struct Deed<'a> {
        request: &'a RequestId,
        host: HostId,
        outcome: &'a Outcome,
    }
    Ok(sha256(&[b"lucarne seal receipt v1\n", &canonical::write(&Deed { request, host, outcome })?]))
}

/// In how far all of a result is of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// All of it is.
    Instant,
    /// It was read while it changed.
    Torn,
}

/// A result's octets, without their content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedResult {
    /// SHA-256 of the age header: for whom it is.
    pub header: Digest,
    pub length: u64,
    /// BLAKE3 of the whole file, as `b3sum` prints it.
    pub tree_hash: Digest,
}

impl Receipt {
    /// The receipt, if the host with this key signed it for this request, or for one time of this standing request.
    pub fn open(envelope: &Envelope, host_key: &PublicKey, request: &Envelope) -> Result<Self, ReceiptError> {
        let receipt: Self = host_key.open(envelope)?;
        let (id, asked) = (RequestId::of(request), asked_key(request, receipt.host)?);
        let expected = receipt.occurrence.as_ref().map_or_else(|| id.clone(), |of| occurrence_id(&id, of));
        if receipt.request != expected {
            return Err(ReceiptError::OtherRequest { found: receipt.request, expected });
        }
        let signed = host_key.id();
        if asked == signed { Ok(receipt) } else { Err(ReceiptError::OtherHost { signed, asked }) }
    }

    /// The result that it is of.
    pub const fn result(&self) -> Result<&SealedResult, ReceiptError> {
        match &self.outcome {
            Outcome::Done { result, .. } => Ok(result),
            Outcome::Refused | Outcome::Failed => Err(ReceiptError::Refused),
            Outcome::Stands => Err(ReceiptError::Stands),
        }
    }

    /// Whether these octets, once taken in whole, are the result that it is of.
    pub fn covers(&self, tally: Tally) -> Result<(), ReceiptError> {
        let expected = self.result()?;
        if tally.finish()? == *expected { Ok(()) } else { Err(ReceiptError::OtherResult) }
    }
}

/// The key by which a request of either kind means this host; of another, whose receipt nobody wants, the one that it does mean.
fn asked_key(request: &Envelope, host: HostId) -> Result<Digest, ReceiptError> {
    let asked = if request.payload_type == Standing::TYPE {
        canonical::read::<Standing>(&request.payload).map(|standing| standing.terms().host_key.clone())
    } else {
        canonical::read::<Request>(&request.payload).map(|request| {
            let target = request.target();
            target.key_of(host).unwrap_or(&target.host_key).clone()
        })
    };
    Ok(asked.map_err(SigningError::Statement)?)
}

/// A result's octets taken in order, on the way to what a receipt says of them. Needs no key.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    beginning: Vec<u8>,
    length: u64,
    tree: blake3::Hasher,
}

impl Tally {
    pub fn push(&mut self, octets: &[u8]) {
        let wanted = crate::age::header::MOST_OCTETS.saturating_sub(self.beginning.len()).min(octets.len());
        self.beginning.extend_from_slice(&octets[..wanted]);
        self.length += octets.len() as u64;
        self.tree.update(octets);
    }
    pub fn finish(self) -> Result<SealedResult, ReceiptError> {
        let (_, length) = Header::read(&self.beginning).map_err(ReceiptError::NotAge)?;
        let header = Digest::from_bytes(sha256(&[self.beginning.get(..length).unwrap_or_default()]));
        let tree_hash = Digest::from_bytes(*self.tree.finalize().as_bytes());
        Ok(SealedResult { header, length: self.length, tree_hash })
    }
}

#[cfg(test)]
mod tests;
