//! Standing requests: one signature for what is asked again and again, until a stated end.
//!
//! Owns what a standing request says, when it is due, and the single [`Request`] that each time of it is. Every time is judged
//! by itself, by what the host believes by then: a key that was revoked or a grant that was taken back ends it. Only what
//! changes nothing can stand. Investigations are standing requests; so is the sampling of guests.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{AccountId, HostId, InstanceId, Moment, storage::Digest};
use lucarne_statement::{
    sha256,
    signing::{Envelope, PublicKey, SigningError, Statement},
};
use serde::{Deserialize, Serialize};

use crate::{
    bounded::{Text, Whole},
    health::Watch,
    operation::{Effect, Layer, Operation, OperationName},
    request::{Nonce, Request, RequestError, RequestId, ResultTerms, Target, TargetInstance, Terms, check_recipients},
};

/// The longest time for which one may stand.
pub const LONGEST: Duration = Duration::from_secs(90 * 86_400);
const DAY: u64 = 86_400;
/// For how long after its time one may still be carried out.
const SLACK: Duration = Duration::from_secs(3600);
const OCCURRENCE: &[u8] = b"lucarne seal occurrence v1\0";
const SAMPLE: &[u8] = b"lucarne seal sample v1\0";

/// Why a document is no standing request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StandingError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("{0} changes something, and only what changes nothing can be asked for again and again")]
    Changes(OperationName),
    #[error("{0} is of a host, and the scope is a guest's")]
    Scope(OperationName),
    #[error("it stands for no time, or for longer than {} days", LONGEST.as_secs() / DAY)]
    Validity,
}

/// Of what results are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Of the host, or of every instance on it.
    Host,
    /// Of every instance of the account that is on the host at the time.
    Account(AccountId),
    /// Of the instance, in whichever generation, while it is on the host.
    Instance { id: InstanceId, account: AccountId },
}

/// How often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rhythm {
    /// At the beginning of each span of so many seconds.
    Every(Whole<10, DAY>),
    /// Once in each span, at an instant that nobody foresees and everybody can check afterwards.
    Sampled(Whole<10, DAY>),
    /// Whenever something is unusual of the host or guest that it is of, once in each span.
    Unusual(Watch),
}

impl Rhythm {
    const fn span(&self) -> Duration {
        match self {
            Self::Every(seconds) | Self::Sampled(seconds) => Duration::from_secs(seconds.get()),
            Self::Unusual(watch) => Duration::from_secs(watch.seconds.get()),
        }
    }
}

/// All of a standing request beside its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingTerms {
    pub host: HostId,
    /// The id of the host's key for the operation's layer.
    pub host_key: Digest,
    pub scope: Scope,
    pub rhythm: Rhythm,
    pub not_before: Moment,
    pub not_after: Moment,
    pub nonce: Nonce,
    pub result: ResultTerms,
    /// For how many seconds a result is kept before it is shredded, collected or not.
    pub kept_seconds: Whole<60, { 90 * DAY }>,
    pub purpose: Text<256>,
    pub lowest_policy: u64,
}

/// What is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Standing {
    operation: Operation,
    terms: StandingTerms,
}

impl Statement for Standing {
    const TYPE: &'static str = "application/vnd.lucarne.standing-request.v1+json";
}

/// One time of it, of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Occurrence {
    /// The number of its span, from 0.
    pub number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<TargetInstance>,
}

impl Standing {
    /// The standing request, if it makes sense.
    pub fn new(operation: Operation, terms: StandingTerms) -> Result<Self, StandingError> {
        let name = operation.name();
        if name.effect() != Effect::Reads {
            return Err(StandingError::Changes(name));
        }
        if name.layer() == Layer::Host && terms.scope != Scope::Host {
            return Err(StandingError::Scope(name));
        }
        if terms.not_after <= terms.not_before || terms.not_after.since(terms.not_before) > LONGEST {
            return Err(StandingError::Validity);
        }
        check_recipients(&terms.result.recipients)?;
        Ok(Self { operation, terms })
    }
    pub const fn operation(&self) -> &Operation {
        &self.operation
    }
    pub const fn terms(&self) -> &StandingTerms {
        &self.terms
    }

    /// Whether results of this instance are wanted.
    pub fn concerns(&self, instance: InstanceId, account: AccountId) -> bool {
        let of_guests = self.operation.name().layer() != Layer::Host;
        of_guests
            && match self.terms.scope {
                Scope::Host => true,
                Scope::Account(wanted) => wanted == account,
                Scope::Instance { id, account: wanted } => id == instance && wanted == account,
            }
    }

    /// The first time after `after`: its number and its instant. None, when there is no more.
    pub fn next(&self, after: Moment, seed: &Seed) -> Option<(u64, Moment)> {
        let (terms, span) = (&self.terms, self.terms.rhythm.span());
        let passed = after.since(terms.not_before).as_micros() / span.as_micros();
        let first = u64::try_from(passed).ok()?;
        // The one of the span that `after` lies in may be over, and the next one is not.
        let mut times = (first..=first.checked_add(1)?).filter_map(|number| Some((number, self.due(number, seed)?)));
        times.find(|(number, due)| *due > after || *number == 0 && after < terms.not_before)
    }

    /// What it watches for, if it does.
    pub const fn watch(&self) -> Option<&Watch> {
        match &self.terms.rhythm {
            Rhythm::Unusual(watch) => Some(watch),
            Rhythm::Every(_) | Rhythm::Sampled(_) => None,
        }
    }

    /// The number of the span that this instant lies in, while it stands.
    pub fn number_at(&self, now: Moment) -> Option<u64> {
        let (terms, span) = (&self.terms, self.terms.rhythm.span());
        let stands = (terms.not_before..=terms.not_after).contains(&now);
        let passed = now.since(terms.not_before).as_micros().checked_div(span.as_micros())?;
        u64::try_from(passed).ok().filter(|_| stands)
    }

    /// The instant of one time of it, if that is known before it comes. None, beyond its end.
    pub fn due(&self, number: u64, seed: &Seed) -> Option<Moment> {
        let span = self.terms.rhythm.span();
        let begins = self.terms.not_before.plus(span.checked_mul(u32::try_from(number).ok()?)?);
        let due = match self.terms.rhythm {
            Rhythm::Every(_) => begins,
            Rhythm::Sampled(_) => begins.plus(seed.within(number, span)),
            Rhythm::Unusual(_) => return None,
        };
        (due <= self.terms.not_after).then_some(due)
    }

    /// What one time of it is called in receipts and the log, and what is asked then.
    pub fn occurrence(
        &self,
        id: &RequestId,
        of: &Occurrence,
        now: Moment,
    ) -> Result<(RequestId, Request), RequestError> {
        let own = occurrence_id(id, of);
        let terms = &self.terms;
        let request = Request::new(
            self.operation.clone(),
            Terms {
                target: Target {
                    host: terms.host,
                    host_key: terms.host_key.clone(),
                    instance: of.instance,
                    others: BTreeMap::new(),
                },
                not_before: now,
                not_after: now.plus(SLACK),
                nonce: Nonce::of(own.digest()),
                beacon: None,
                result: terms.result.clone(),
                purpose: terms.purpose.clone(),
                lowest_policy: terms.lowest_policy,
            },
        )?;
        Ok((own, request))
    }
}

/// The id of one time of a standing request: readers and auditors make it from what was signed and what a receipt is of.
pub fn occurrence_id(standing: &RequestId, of: &Occurrence) -> RequestId {
    let target = of.instance.map(|it| format!("{}/{}/{}", it.account, it.id, it.generation)).unwrap_or_default();
    let said =
        [OCCURRENCE, standing.digest().as_str().as_bytes(), &of.number.to_be_bytes(), target.as_bytes()].concat();
    RequestId::of_octets(&said)
}

/// What the instants of samples follow from: the host's signature over [`Sampling`], which nobody else can make, which the
/// host cannot choose (Ed25519 signs the same the same way), and which everybody can check once it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed([u8; 32]);

/// What the host signs for it, and shows when the standing request is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    pub standing: RequestId,
}

impl Statement for Sampling {
    const TYPE: &'static str = "application/vnd.lucarne.seal-sampling.v1+json";
}

impl Seed {
    /// Of a signed [`Sampling`], whose signature the caller made or checked.
    pub fn of(sampling: &Envelope) -> Self {
        let signatures = sampling.signatures.iter().map(|signature| &signature.sig[..]);
        Self(sha256(&[&[SAMPLE], signatures.collect::<Vec<_>>().as_slice()].concat()))
    }
    /// Of what a host has shown of a standing request that is over, if its key signed that.
    pub fn shown(sampling: &Envelope, key: &PublicKey, standing: &RequestId) -> Result<Self, SigningError> {
        let signed: Sampling = key.open(sampling)?;
        // Who signs something else as well could choose among seeds.
        let is_it = signed.standing == *standing && sampling.signatures.len() == 1;
        if is_it { Ok(Self::of(sampling)) } else { Err(SigningError::Key) }
    }
    fn within(&self, number: u64, span: Duration) -> Duration {
        let drawn = sha256(&[SAMPLE, &self.0, &number.to_be_bytes()]);
        let drawn = drawn.iter().take(8).fold(0u64, |sum, octet| sum << 8 | u64::from(*octet));
        // Of 2^64 a span of a day is so little that the remainder is as good as even.
        Duration::from_micros(drawn % u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
    }
}

/// A standing request as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    operation: Operation,
    host: HostId,
    host_key: Digest,
    scope: Scope,
    rhythm: Rhythm,
    not_before: Moment,
    not_after: Moment,
    nonce: Nonce,
    result: ResultTerms,
    kept_seconds: Whole<60, { 90 * DAY }>,
    purpose: Text<256>,
    lowest_policy: u64,
}

impl TryFrom<Written> for Standing {
    type Error = StandingError;
    fn try_from(written: Written) -> Result<Self, StandingError> {
        let terms = StandingTerms {
            host: written.host,
            host_key: written.host_key,
            scope: written.scope,
            rhythm: written.rhythm,
            not_before: written.not_before,
            not_after: written.not_after,
            nonce: written.nonce,
            result: written.result,
            kept_seconds: written.kept_seconds,
            purpose: written.purpose,
            lowest_policy: written.lowest_policy,
        };
        Self::new(written.operation, terms)
    }
}
impl From<Standing> for Written {
    fn from(standing: Standing) -> Self {
        let terms = standing.terms;
        Self {
            operation: standing.operation,
            host: terms.host,
            host_key: terms.host_key,
            scope: terms.scope,
            rhythm: terms.rhythm,
            not_before: terms.not_before,
            not_after: terms.not_after,
            nonce: terms.nonce,
            result: terms.result,
            kept_seconds: terms.kept_seconds,
            purpose: terms.purpose,
            lowest_policy: terms.lowest_policy,
        }
    }
}

#[cfg(test)]
mod tests;
