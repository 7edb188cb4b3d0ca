//! This host's TPM as others are told of it: presented to the controller, and asked to open credentials.
//!
//! Owns when it is presented and that each credential is answered once. Opening is the [`Prover`]'s; who asks, and what an
//! answer is worth, is said by the controller and by tenants.

use std::{collections::BTreeSet, error::Error, sync::Arc, time::Duration};

use lucarne_api::Problem;
use lucarne_model::{
    ErrorCode,
    desired::Desired,
    instance::StateReason,
    tpm::{ChallengeAnswer, DesiredChallenge, PresentedTpm},
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{controller::Controller, prover::Prover};

/// How often a TPM is looked at: another one, or one that does not work any more, is told.
const LOOK: Duration = Duration::from_secs(15);

/// Presents the TPM once it is open, and again when something of it is another.
pub(crate) async fn present(
    controller: Arc<dyn Controller>,
    prover: Option<Arc<dyn Prover>>,
    shutdown: CancellationToken,
) {
    let present = async {
        let mut told = None;
        let mut refused = None;
        loop {
            let presented = identify(prover.as_deref()).await;
            if told.as_ref() != Some(&presented) {
                match controller.present_tpm(&presented).await {
                    Ok(()) => {
                        told = Some(presented);
                        refused = None;
                    }
                    // Operators may trust its maker, or delete the host that it was, any time.
                    Err(problem) => complain(&problem, &mut refused),
                }
            }
            sleep(LOOK).await;
        }
    };
    shutdown.run_until_cancelled(present).await;
}

/// Says why once, not at each look.
fn complain(problem: &Problem, before: &mut Option<ErrorCode>) {
    if before.replace(problem.code) != Some(problem.code) {
        tracing::warn!(%problem, "the controller does not take this host's TPM; trying on");
    }
}

async fn identify(prover: Option<&dyn Prover>) -> PresentedTpm {
    let Some(prover) = prover else {
        let message = "this host has nothing that could prove what it runs".to_owned();
        return PresentedTpm::None { reason: StateReason { code: ErrorCode::HostNotProved, message } };
    };
    prover.identify().await.unwrap_or_else(|error| PresentedTpm::None { reason: reason(error.code, &error) })
}

fn reason(code: ErrorCode, error: &dyn Error) -> StateReason {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    StateReason { code, message }
}

/// Answers each challenge that the desired state asks for, one after the other: there is one TPM.
pub(crate) async fn answer(
    controller: Arc<dyn Controller>,
    prover: Option<Arc<dyn Prover>>,
    mut desired: watch::Receiver<Arc<Desired>>,
    shutdown: CancellationToken,
) {
    let answer = async {
        let mut answered: BTreeSet<String> = BTreeSet::new();
        loop {
            let asked: Vec<DesiredChallenge> = desired.borrow_and_update().challenges.clone();
            answered.retain(|token| asked.iter().any(|challenge| challenge.token == *token));
            for challenge in asked {
                if answered.insert(challenge.token.clone()) {
                    answer_one(controller.as_ref(), prover.as_deref(), &challenge).await;
                }
            }
            if desired.changed().await.is_err() {
                return;
            }
        }
    };
    shutdown.run_until_cancelled(answer).await;
}

async fn answer_one(controller: &dyn Controller, prover: Option<&dyn Prover>, challenge: &DesiredChallenge) {
    let answer = match prover {
        Some(prover) => match prover.open(challenge).await {
            Ok(answer) => ChallengeAnswer::Opened { answer },
            Err(error) => ChallengeAnswer::Failed { reason: reason(error.code, &error) },
        },
        None => {
            let message = "this host has no TPM that could open a credential".to_owned();
            ChallengeAnswer::Failed { reason: StateReason { code: ErrorCode::HostNotProved, message } }
        }
    };
    // One that nobody waits for any more is asked again, if it still matters.
    if let Err(problem) = controller.answer_challenge(&challenge.token, &answer).await {
        tracing::warn!(%problem, "the answer to a challenge of this host's TPM was not taken");
    }
}
