//! A request: one operation, on one target of one host, within one span of time, with who may read what comes of it.
//!
//! Owns its shape, its canonical text and its id. A request that was read makes sense by itself; whether it is to be carried
//! out is [`judge`](crate::judge)'s.

use std::{collections::BTreeMap, fmt, time::Duration};

use lucarne_model::{AccountId, HostId, InstanceId, Moment, Octets, storage::Digest};
use lucarne_statement::{
    sha256,
    signing::{Envelope, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{
    age::{Recipient, header::MOST_RECIPIENTS},
    bounded::{Text, Whole},
    operation::{Layer, Operation},
    padding::Padding,
};

/// The longest span of time that a request may hold for.
pub const LONGEST_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// More than any result has: 4 TiB.
pub const MOST_RESULT: u64 = 4 << 40;

/// What a request is called everywhere: SHA-256 of what its signatures are over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Digest);

impl RequestId {
    pub fn of(envelope: &Envelope) -> Self {
        Self::of_octets(&envelope.signed_octets())
    }
    /// The id of what these signed octets say; also the name of octets that say nothing, in receipts and logs.
    pub fn of_octets(octets: &[u8]) -> Self {
        Self(Digest::from_bytes(sha256(&[octets])))
    }
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl From<Digest> for RequestId {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

/// Why a document is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("{operation} is for {wanted}")]
    Target { operation: crate::operation::OperationName, wanted: &'static str },
    #[error("only operations on hosts are asked of several, and of none twice")]
    Fleet,
    #[error("it holds for no time, or for longer than a day")]
    Validity,
    #[error("its result has no reader, more than {MOST_RECIPIENTS}, or one twice")]
    Recipients,
    #[error("a nonce or beacon has {expected} octets", expected = Nonce::LENGTH)]
    Nonce,
}

/// Octets that nobody has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "Octets", try_from = "Octets")]
pub struct Nonce([u8; Nonce::LENGTH]);

impl Nonce {
    pub const LENGTH: usize = 16;
    pub const fn new(octets: [u8; Self::LENGTH]) -> Self {
        Self(octets)
    }
    /// The one that follows from a digest that nothing else has.
    pub fn of(digest: &Digest) -> Self {
        let mut octets = [0; Self::LENGTH];
        octets.copy_from_slice(&sha256(&[digest.as_str().as_bytes()])[..Self::LENGTH]);
        Self(octets)
    }
}
impl From<Nonce> for Octets {
    fn from(nonce: Nonce) -> Self {
        nonce.0[..].into()
    }
}
impl TryFrom<Octets> for Nonce {
    type Error = RequestError;
    fn try_from(octets: Octets) -> Result<Self, RequestError> {
        octets.0.try_into().map(Self).map_err(|_| RequestError::Nonce)
    }
}

/// Where: a host, by its id and by the key that answers for it, and for most operations one generation of an instance on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub host: HostId,
    /// The id of the host's key for the operation's layer: no other host, nor the same with another key, is meant.
    pub host_key: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<TargetInstance>,
    /// The other hosts of a fleet, and the id of the key of each: each carries the same request out once, and has a receipt of
    /// its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<HostId, Digest>,
}

impl Target {
    /// All hosts that are meant, and the id of the key of each.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &Digest)> {
        std::iter::once((self.host, &self.host_key)).chain(self.others.iter().map(|(host, key)| (*host, key)))
    }
    /// The id of the key by which this host is meant, if it is.
    pub fn key_of(&self, host: HostId) -> Option<&Digest> {
        self.hosts().find(|(meant, _)| *meant == host).map(|(_, key)| key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetInstance {
    pub id: InstanceId,
    /// One start of it: another memory is not meant.
    pub generation: u64,
    /// Whose it is, as the signer believes.
    pub account: AccountId,
}

/// What becomes of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultTerms {
    /// Who can open it: any one of them.
    pub recipients: Vec<Recipient>,
    /// Content beyond that is not sealed.
    pub most_octets: Whole<1, MOST_RESULT>,
    pub padding: Padding,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Request {
    operation: Operation,
    terms: Terms,
}

/// All of a request beside its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub target: Target,
    pub not_before: Moment,
    pub not_after: Moment,
    pub nonce: Nonce,
    /// What the host last said, for a host whose clock is not to be trusted.
    pub beacon: Option<Nonce>,
    pub result: ResultTerms,
    /// Why, for those who read the log: a ticket.
    pub purpose: Text<256>,
    /// The oldest version of the host's grants under which it may be carried out.
    pub lowest_policy: u64,
}

impl Statement for Request {
    const TYPE: &'static str = "application/vnd.lucarne.sealed-request.v1+json";
}

impl Request {
    /// The request, if it makes sense.
    pub fn new(operation: Operation, terms: Terms) -> Result<Self, RequestError> {
        let name = operation.name();
        match (name.layer(), &terms.target.instance) {
            (Layer::Host, Some(_)) => return Err(RequestError::Target { operation: name, wanted: "a host" }),
            (Layer::Guest | Layer::Hypervisor, None) => {
                return Err(RequestError::Target { operation: name, wanted: "an instance" });
            }
            _ => {}
        }
        let (host, others) = (terms.target.host, &terms.target.others);
        if !others.is_empty() && (name.layer() != Layer::Host || others.contains_key(&host)) {
            return Err(RequestError::Fleet);
        }
        if terms.not_after <= terms.not_before || terms.not_after.since(terms.not_before) > LONGEST_VALIDITY {
            return Err(RequestError::Validity);
        }
        check_recipients(&terms.result.recipients)?;
        Ok(Self { operation, terms })
    }
    pub const fn operation(&self) -> &Operation {
        &self.operation
    }
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }
    pub const fn target(&self) -> &Target {
        &self.terms.target
    }
}

/// Some, not too many, and none twice.
pub(crate) fn check_recipients(recipients: &[Recipient]) -> Result<(), RequestError> {
    let twice = recipients.iter().enumerate().any(|(at, one)| recipients[..at].contains(one));
    let count = (1..=MOST_RECIPIENTS).contains(&recipients.len());
    if count && !twice { Ok(()) } else { Err(RequestError::Recipients) }
}

/// A request as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    operation: Operation,
    target: Target,
    not_before: Moment,
    not_after: Moment,
    nonce: Nonce,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beacon: Option<Nonce>,
    result: ResultTerms,
    purpose: Text<256>,
    lowest_policy: u64,
}

impl TryFrom<Written> for Request {
    type Error = RequestError;
    fn try_from(written: Written) -> Result<Self, RequestError> {
        let Written { operation, target, not_before, not_after, nonce, beacon, result, purpose, lowest_policy } =
            written;
        let terms = Terms { target, not_before, not_after, nonce, beacon, result, purpose, lowest_policy };
        Self::new(operation, terms)
    }
}
impl From<Request> for Written {
    fn from(request: Request) -> Self {
        let Terms { target, not_before, not_after, nonce, beacon, result, purpose, lowest_policy } = request.terms;
        Self {
            operation: request.operation,
            target,
            not_before,
            not_after,
            nonce,
            beacon,
            result,
            purpose,
            lowest_policy,
        }
    }
}

#[cfg(test)]
mod tests;
