//! What a host's office of sealed operations is asked by those who carry requests, and what it answers.
//!
//! Owns these words. What was signed is octets in them: whoever carries it need not read it, and cannot change it. Statements
//! and proofs are the canonical JSON of the rooms that judge them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, InstanceId, Moment, Octets, evidence::RegisterQuote, storage::Digest};

/// The longest question, in octets: a policy of 512 KiB in base64, and some.
pub const MOST_QUESTION: usize = 768 << 10;
/// The longest answer, in octets, without the result that may follow it.
pub const MOST_ANSWER: usize = 4 << 20;
/// How many entries of its log a host tells at once.
pub const MOST_ENTRIES: u32 = 256;

/// A question that a controller brings, and whose it is by the controller's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealErrand {
    pub account: AccountId,
    pub question: SealQuestion,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SealQuestion {
    /// Brings a request.
    Submit { request: Octets },
    /// What came of it; waits so long while nothing has.
    Look { request: Digest, wait_millis: u64 },
    /// Its result, from this octet on.
    Fetch { request: Digest, from: u64 },
    /// Its result was collected, and need not be kept.
    Forget { request: Digest },
    /// What the host says of itself.
    Describe,
    /// Brings what the host is to go by, from somebody on the host itself.
    Policy { policy: Octets },
    /// Entries of the log, from this one on.
    Log {
        first: u64,
        /// How many entries the asker has seen: what is told continues those.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<InstanceId>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SealAnswer {
    Standing {
        standing: SealStanding,
    },
    /// The host keeps nothing of such a request for whoever asks.
    Unknown,
    /// More is asked than the host takes; nothing was taken.
    Busy,
    /// The host cannot write down what it must before it acts, so nothing was taken.
    Unavailable,
    /// So many octets of the result follow.
    Result {
        length: u64,
    },
    Forgotten,
    /// The version of the policy that the host goes by now.
    Policy {
        version: u64,
    },
    Host {
        host: SealHost,
    },
    Log {
        log: SealLog,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SealStanding {
    UnderWay {
        request: Digest,
    },
    Over {
        request: Digest,
        /// The host's receipt: an envelope.
        receipt: Octets,
        /// How long the result is, if there is one to collect.
        result: Option<u64>,
    },
    /// It is asked again and again: each time is a request of its own.
    Stands {
        request: Digest,
        /// The host's receipt, that it keeps the request: an envelope.
        receipt: Octets,
        until: Moment,
        /// Of which times there are receipts to collect, in their order.
        times: Vec<Digest>,
        /// What the instants of samples followed from, once there are no more: an envelope by the host's key for guests.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sampling: Option<Octets>,
    },
}

/// A host, as those who ask it for sealed operations must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealHost {
    /// Its keys: an envelope that they signed.
    pub card: Octets,
    /// What it said last: an envelope.
    pub beacon: Octets,
    /// The version of the policy that it goes by; 0: none, and it refuses everything.
    pub policy: u64,
    /// Whether it takes only requests that name a beacon, since its clock was moved.
    pub clock_doubtful: bool,
    /// What its TPM says of it since the beacon, which it is asked for with; none where there is no TPM that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<RegisterQuote>,
}

/// A part of a host's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealLog {
    /// The signed head: an envelope.
    pub head: Octets,
    /// That the head continues the one that the asker has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Octets>,
    pub entries: Vec<SealLogEntry>,
    /// Where to go on, if there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealLogEntry {
    pub entry: Octets,
    /// That it is in the log of the head.
    pub inclusion: Octets,
    /// What a commitment was to, once its embargo is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Octets>,
}

/// Why what came is no answer of an office.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAnswerError {
    #[error("it is longer than any answer")]
    TooLong,
    #[error("it is not an answer: {0}")]
    Json(String),
}

impl SealAnswer {
    /// The answer as it travels: its JSON behind its length. The result, if one belongs to it, follows as it is.
    pub fn to_frame(&self) -> Vec<u8> {
        // These types always have a JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        [&u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes()[..], &json].concat()
    }

    /// The answer at the beginning of `octets`, and how long its frame is; none while more must come.
    pub fn from_frame(octets: &[u8]) -> Result<Option<(Self, usize)>, ParseAnswerError> {
        let Some(length) = octets.first_chunk().map(|length| u32::from_be_bytes(*length) as usize) else {
            return Ok(None);
        };
        if length > MOST_ANSWER {
            return Err(ParseAnswerError::TooLong);
        }
        let Some(json) = octets.get(4..4 + length) else { return Ok(None) };
        let answer = serde_json::from_slice(json).map_err(|error| ParseAnswerError::Json(error.to_string()))?;
        Ok(Some((answer, 4 + length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_all_of_it_is_there_and_what_follows_is_left() {
        let answer = SealAnswer::Result { length: 7 };
        let mut octets = answer.to_frame();
        let frame = octets.len();
        octets.extend_from_slice(b"content");
        for length in 0..frame {
            assert_eq!(SealAnswer::from_frame(&octets[..length]), Ok(None));
        }
        assert_eq!(SealAnswer::from_frame(&octets), Ok(Some((answer, frame))));
        assert_eq!(SealAnswer::from_frame(&[255; 8]), Err(ParseAnswerError::TooLong));
        assert!(matches!(SealAnswer::from_frame(&[0, 0, 0, 1, b'x']), Err(ParseAnswerError::Json(_))));
    }
}
