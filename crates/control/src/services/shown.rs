//! Instances, volumes and jobs as their readers may see them.
//!
//! Owns what is held back from tenants: which machine a host is. They are shown a name of it that is their own, so that they
//! can tell whether two instances share a host and no two accounts can compare notes.

use lucarne_api::bodies::instance::{Job, JobKind, JobState};
use lucarne_model::{
    AccountId, ErrorCode, HostId, Moment,
    instance::{Instance, InstanceState, StateReason},
    memory_move::{MoveCause, Moved},
    memory_report::MemoryState,
    storage::Volume,
};
use ring::digest;

use crate::{
    Caller,
    fleet::Fleet,
    records::{InstanceRecord, JobRecord, Leg, Passage, VolumeRecord},
};

/// The account's own name of a host, by which it is shown to it and which it may ask for. A host's id is random, so its
/// digest leads nowhere.
pub fn opaque_host(account: AccountId, host: HostId) -> HostId {
    let digest = digest::digest(&digest::SHA256, format!("{account}/{host}").as_bytes());
    let mut bits = [0; 16];
    bits.copy_from_slice(&digest.as_ref()[..16]);
    HostId::from_bits(u128::from_be_bytes(bits))
}

fn host(caller: &Caller, host: Option<HostId>) -> Option<HostId> {
    if caller.operator { host } else { host.map(|host| opaque_host(caller.account, host)) }
}

pub(crate) fn instance(caller: &Caller, fleet: &Fleet, record: InstanceRecord, now: Moment) -> Instance {
    let moving = record.passage.and_then(on_its_way);
    let mut instance = record.instance;
    let ended = instance.state == InstanceState::Terminated;
    if !ended && instance.state_reason.is_none() && instance.host.is_some_and(|host| fleet.is_down(host, now)) {
        let message = "the instance's host does not answer; what is shown is what was last known".into();
        instance.state_reason = Some(StateReason { code: ErrorCode::HostUnreachable, message });
    }
    if instance.state == InstanceState::Running && instance.state_reason.is_none() {
        let sleeping = || instance.host.and_then(|host| sleep(fleet.memory_of(host, instance.id)?.state));
        instance.state_reason = moving.or_else(sleeping);
    }
    instance.began = instance.host.and_then(|host| fleet.began(host, instance.id, instance.generation));
    // What a terminated instance keeps its host for is between the controller and that host.
    instance.host = if ended { None } else { host(caller, instance.host) };
    instance
}

/// Why a running instance is on its way to another host, if nobody has asked for that.
fn on_its_way(Passage { leg, cause, .. }: Passage) -> Option<StateReason> {
    let is_coming = leg == Leg::Coming && cause != MoveCause::Asked;
    let (code, message) = (ErrorCode::InsufficientInstanceCapacity, cause.in_words().into());
    is_coming.then_some(StateReason { code, message })
}

/// Why a running instance does nothing, if it does nothing.
fn sleep(state: MemoryState) -> Option<StateReason> {
    let message = match state {
        MemoryState::Active => return None,
        MemoryState::Paused => "the soaker is paused: its host has too little memory left for it",
        MemoryState::Hibernated => {
            "the soaker is hibernated until a host has memory for it; it goes on where it stopped"
        }
    };
    Some(StateReason { code: ErrorCode::InsufficientInstanceCapacity, message: message.into() })
}

pub(crate) fn job(caller: &Caller, fleet: &Fleet, record: JobRecord) -> Job {
    let mut job = record.job;
    if job.kind == JobKind::Migrate && job.state == JobState::Running {
        job.progress = job.instance.and_then(|instance| fleet.progress(instance));
    }
    if let Some(Moved { from, to, .. }) = &mut job.moved
        && !caller.operator
    {
        (*from, *to) = (opaque_host(caller.account, *from), opaque_host(caller.account, *to));
    }
    job
}

pub(crate) fn volume(caller: &Caller, record: VolumeRecord) -> Volume {
    let mut volume = record.volume;
    volume.host = host(caller, volume.host);
    volume
}
