//! Hosts asked again to prove what runs, and their answers judged.
//!
//! Owns the rounds. When who is asked is decided in [`crate::rechecking`], from what is on disk: a controller that is killed
//! goes on where it was. What comes of an answer is [`judgements`]'.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures::future::try_join_all;
use lucarne_api::Problem;
use lucarne_model::{
    AccountId, ErrorCode, Evidence, HostId, InstanceId, Moment,
    attestation::{AttestState, InstanceAttestation},
    instance::StateReason,
    network::Vpc,
};
use tokio_util::sync::CancellationToken;

use super::{attestations::fresh_nonce, judgements};
use crate::{
    Controller,
    consultation::Answers,
    fleet::Fleet,
    rechecking::{Next, Subject, plan},
    records::{HostRecord, InstanceRecord},
    store::{Scope, Tx},
};

/// What every instance whose host is asked to prove it again points at: so they are found, and a round is made at once.
pub(crate) const ASKED: &str = "asked-to-prove-again";
/// What every VPC with a policy points at.
pub(crate) const WITH_POLICY: &str = "with-attest-policy";

const EVERY: Duration = Duration::from_secs(1);
/// How long a publisher that did not answer is left alone.
const REST: Duration = Duration::from_secs(5);

/// A publisher of an account's.
type Known = (AccountId, String);

/// What one round found to do.
#[derive(Debug, Default)]
struct Round {
    ask: Vec<InstanceId>,
    judge: Vec<Proof>,
    cut_off: Vec<(InstanceId, StateReason)>,
}

/// A host's answer, and whose word is needed for it.
#[derive(Debug)]
struct Proof {
    instance: InstanceId,
    account: AccountId,
    evidence: Box<Evidence>,
    publishers: BTreeSet<String>,
}

/// Makes the rounds until `shutdown`. A round that fails is logged, and made again.
pub(crate) async fn run(controller: Arc<Controller>, shutdown: CancellationToken) {
    let mut changes = controller.store.changes().subscribe([ASKED.to_owned()]);
    let mut resting: HashMap<Known, Moment> = HashMap::new();
    loop {
        if let Err(problem) = make(&controller, &mut resting).await {
            tracing::warn!(%problem, "hosts could not be asked to prove again what runs");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changes.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn make(controller: &Controller, resting: &mut HashMap<Known, Moment>) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    let Round { ask, judge, cut_off } = controller.store.read(move |tx| find(tx, &fleet)).await?;
    if !ask.is_empty() || !cut_off.is_empty() {
        let write = move |tx: &mut Tx<'_>| {
            ask.into_iter().try_for_each(|instance| begin(tx, instance))?;
            cut_off.into_iter().try_for_each(|(instance, reason)| {
                change(tx, instance, |tx, record| judgements::cut_off(tx, record, reason))
            })
        };
        controller.store.write(write).await?;
    }
    let now = crate::clock::now();
    resting.retain(|_, until| *until > now);
    let rests = |proof: &Proof| {
        proof.publishers.iter().any(|publisher| resting.contains_key(&(proof.account, publisher.clone())))
    };
    let judge: Vec<Proof> = judge.into_iter().filter(|proof| !rests(proof)).collect();
    let answers = consult(controller, &judge).await?;
    for (account, answers) in &answers {
        let silent = answers
            .iter()
            .filter(|(_, answer)| answer.as_ref().is_err_and(|reason| reason.code == ErrorCode::PublisherUnreachable));
        resting.extend(silent.map(|(publisher, _)| ((*account, publisher.clone()), now.plus(REST))));
    }
    for proof in judge {
        let answers = answers.get(&proof.account).cloned().unwrap_or_default();
        controller.store.write(move |tx| judge_one(tx, &proof, &answers)).await?;
    }
    Ok(())
}

/// Each publisher is asked once in a round, whatever rests on it.
async fn consult(controller: &Controller, judge: &[Proof]) -> Result<BTreeMap<AccountId, Arc<Answers>>, Problem> {
    let mut asks: BTreeMap<AccountId, BTreeSet<String>> = BTreeMap::new();
    for proof in judge {
        asks.entry(proof.account).or_default().extend(proof.publishers.clone());
    }
    let asked = asks.into_iter().map(async |(account, publishers)| {
        let answers = controller.consultant.ask(account, publishers).await?;
        Ok::<_, Problem>((account, Arc::new(answers)))
    });
    Ok(try_join_all(asked).await?.into_iter().collect())
}

fn find(tx: &Tx<'_>, fleet: &Fleet) -> Result<Round, Problem> {
    let subjects = subjects(tx, fleet)?;
    let mut round = Round::default();
    for (instance, next) in plan(&subjects, tx.now()) {
        match next {
            Next::Ask => round.ask.push(instance),
            Next::CutOff(reason) => round.cut_off.push((instance, reason)),
            Next::Judge(evidence) => {
                let record: InstanceRecord = tx.get(Scope::Everything, instance)?;
                let publishers = judgements::publishers(tx, &record.instance)?;
                round.judge.push(Proof { instance, account: record.instance.account, evidence, publishers });
            }
        }
    }
    Ok(round)
}

/// All in VPCs with a policy, and all whose hosts are asked already.
fn subjects(tx: &Tx<'_>, fleet: &Fleet) -> Result<Vec<Subject>, Problem> {
    let vpcs: Vec<Vpc> = tx.referring(Scope::Everything, WITH_POLICY)?;
    let mut found: BTreeMap<InstanceId, (InstanceRecord, Option<_>)> = BTreeMap::new();
    let asked: Vec<InstanceRecord> = tx.referring(Scope::Everything, ASKED)?;
    found.extend(asked.into_iter().map(|record| (record.instance.id, (record, None))));
    for vpc in vpcs {
        let within: Vec<InstanceRecord> = tx.referring(Scope::Everything, vpc.id)?;
        let policy = &vpc.attest_policy;
        found.extend(within.into_iter().map(|record| (record.instance.id, (record, policy.clone()))));
    }
    let mut hosts: BTreeMap<HostId, Option<HostRecord>> = BTreeMap::new();
    let mut subjects = Vec::with_capacity(found.len());
    for (_, (InstanceRecord { instance, .. }, policy)) in found {
        let Some(host) = instance.host.filter(|_| instance.attestation.is_some()) else { continue };
        if let Entry::Vacant(place) = hosts.entry(host) {
            place.insert(tx.find(Scope::Everything, host)?);
        }
        let host_began = hosts.get(&host).and_then(Option::as_ref).and_then(|record| record.began);
        let told = fleet.observe(Some(host), instance.id, tx.now());
        subjects.push(Subject { instance, policy, host_began, told });
    }
    Ok(subjects)
}

fn change(
    tx: &mut Tx<'_>,
    instance: InstanceId,
    make: impl FnOnce(&mut Tx<'_>, &mut InstanceRecord) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let Some(mut record) = tx.find::<InstanceRecord>(Scope::Everything, instance)? else { return Ok(()) };
    make(tx, &mut record)?;
    tx.put(&record)
}

/// From now on its host is asked. What was cut off stays so meanwhile.
fn begin(tx: &mut Tx<'_>, instance: InstanceId) -> Result<(), Problem> {
    change(tx, instance, |tx, record| {
        if let Some(attestation) = &mut record.instance.attestation {
            (attestation.nonce, attestation.asked) = (fresh_nonce(), Some(tx.now()));
            if attestation.state.may_join() {
                attestation.state = AttestState::Rechecking;
            }
        }
        Ok(())
    })
}

/// One that is being started again, or was asked again, since it was found waits for another proof.
fn judge_one(tx: &mut Tx<'_>, proof: &Proof, answers: &Answers) -> Result<(), Problem> {
    change(tx, proof.instance, |tx, record| {
        let waits = |about: &InstanceAttestation| {
            about.state != AttestState::Measuring && about.awaits_evidence() && about.nonce == proof.evidence.nonce
        };
        let asked = judgements::publishers(tx, &record.instance)?;
        let is_asked = asked.iter().all(|publisher| answers.contains_key(publisher));
        if is_asked && record.instance.attestation.as_ref().is_some_and(waits) {
            return judgements::judge(tx, record, &proof.evidence, answers);
        }
        Ok(())
    })
}
