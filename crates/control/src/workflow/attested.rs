//! What an attested launch waits for between its host and its start: the proof, and the answer to it.
//!
//! Owns those two waits. Pure, as [`super::steps`], whose table has them; what a proof is worth is
//! [`crate::judging`]'s.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{
    ErrorCode, Moment,
    actual::ActualState,
    attestation::{AttestState, InstanceAttestation},
    instance::{Instance, StateReason},
};

use super::steps::{Decision, Effect, Observed, fail_with, wait_for_start};
use crate::records::JobRecord;

fn fail(code: ErrorCode, message: &str) -> Decision {
    Decision::Fail(StateReason { code, message: message.into() })
}

/// Until the host holds the instance and has proved it with the nonce of its attestation.
pub(super) fn await_proof(job: &JobRecord, instance: &Instance, observed: &Observed, now: Moment) -> Decision {
    let Some(attestation) = &instance.attestation else { return nothing_to_prove() };
    match observed {
        Observed::HostDown => {
            fail(ErrorCode::HostUnreachable, "the host stopped answering while it was to prove itself")
        }
        Observed::Said(actual) if actual.generation == instance.generation => match actual.state {
            ActualState::Failed => fail_with(actual),
            ActualState::Held if actual.evidence.as_ref().is_some_and(|proof| proof.nonce == attestation.nonce) => {
                Decision::Step(Effect::Judge)
            }
            ActualState::Held if actual.reason.is_some() => fail_with(actual),
            _ => wait_for_start(job, now),
        },
        _ => wait_for_start(job, now),
    }
}

/// Until its owner has answered what its policy has not. A host that lets it go meanwhile ends the launch.
pub(super) fn await_answer(instance: &Instance, observed: &Observed, now: Moment) -> Decision {
    let Some(InstanceAttestation { state, until, .. }) = &instance.attestation else { return nothing_to_prove() };
    match state {
        AttestState::Approved | AttestState::Matched | AttestState::Quarantined | AttestState::Rechecking => {
            Decision::Step(Effect::Nothing)
        }
        AttestState::Denied => fail(ErrorCode::AttestationDenied, "its owner did not approve what was measured"),
        AttestState::Expired => fail(ErrorCode::AttestationExpired, "its owner did not answer in time"),
        AttestState::Mismatched => Decision::Fail(instance.state_reason.clone().unwrap_or_else(|| StateReason {
            code: ErrorCode::MeasurementUnknown,
            message: "what was measured is not what was wanted".into(),
        })),
        AttestState::Measuring | AttestState::AwaitingApproval => match observed {
            Observed::HostDown => fail(ErrorCode::HostUnreachable, "the host stopped answering while it was approved"),
            Observed::Said(actual) if actual.state == ActualState::Failed => fail_with(actual),
            _ if until.is_some_and(|until| now >= until) => Decision::Stay(Effect::Expire),
            _ => Decision::Wait { until: *until },
        },
    }
}

/// The instance of such a job has an attestation; one that has not cannot be let begin by it.
fn nothing_to_prove() -> Decision {
    fail(ErrorCode::AttestationNotFound, "nothing was said of what is to be proved")
}
