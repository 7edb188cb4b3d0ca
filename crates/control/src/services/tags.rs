//! Tags of any resource, by its id alone.
//!
//! Owns the list of kinds that have tags, and by what their ids are told apart.

use lucarne_api::{
    Call, Problem,
    bodies::{ChangeTags, NoQuery, mitigation::Mitigation},
    input::Json,
};
use lucarne_model::{
    FlowLogId, HostId, ImageId, InstanceId, InterfaceId, JobId, LoadId, MitigationId, NetworkAclId, NotaryId,
    PublisherId, RecordingId, ReplayId, ReplicaId, ResourceId, RouteTableId, ScalingGroupId, SecurityGroupId,
    SnapshotId, SubnetId, Tags, TriggerId, UserId, VolumeId, VpcId,
    flow_log::FlowLog,
    identity::User,
    network::{NetworkInterface, RouteTable, Subnet, Vpc},
    network_acl::NetworkAcl,
    publisher::Notary,
    recording::Recording,
    security_group::SecurityGroup,
    storage::{Image, Snapshot},
};

use super::checks::{check_tags, refuse};
use crate::{
    Caller, Controller,
    attestation_records::PublisherRecord,
    load_records::LoadRecord,
    records::{HostRecord, InstanceRecord, JobRecord, VolumeRecord},
    replay_records::ReplayRecord,
    replica_records::ReplicaRecord,
    scaling_records::ScalingGroupRecord,
    store::{Resource, Scope, Tx, not_found},
    trigger_records::TriggerRecord,
};

type Change = fn(&mut Tx<'_>, Scope, &str, &ChangeTags) -> Result<Tags, Problem>;

/// Prefixes of ids and what changes the tags of such a resource.
const KINDS: &[(&str, Change)] = &[
    (VpcId::PREFIX, change::<Vpc>),
    (SubnetId::PREFIX, change::<Subnet>),
    (RouteTableId::PREFIX, change::<RouteTable>),
    (NetworkAclId::PREFIX, change::<NetworkAcl>),
    (SecurityGroupId::PREFIX, change::<SecurityGroup>),
    (InterfaceId::PREFIX, change::<NetworkInterface>),
    (InstanceId::PREFIX, change::<InstanceRecord>),
    (VolumeId::PREFIX, change::<VolumeRecord>),
    (SnapshotId::PREFIX, change::<Snapshot>),
    (ImageId::PREFIX, change::<Image>),
    (UserId::PREFIX, change::<User>),
    (JobId::PREFIX, change::<JobRecord>),
    (FlowLogId::PREFIX, change::<FlowLog>),
    (RecordingId::PREFIX, change::<Recording>),
    (TriggerId::PREFIX, change::<TriggerRecord>),
    (ScalingGroupId::PREFIX, change::<ScalingGroupRecord>),
    (PublisherId::PREFIX, change::<PublisherRecord>),
    (ReplayId::PREFIX, change::<ReplayRecord>),
    (LoadId::PREFIX, change::<LoadRecord>),
    (ReplicaId::PREFIX, change::<ReplicaRecord>),
    // Mitigations, notaries and hosts are the operator account's, so no other finds one.
    (NotaryId::PREFIX, change::<Notary>),
    (MitigationId::PREFIX, change::<Mitigation>),
    (HostId::PREFIX, change::<HostRecord>),
];

pub(crate) async fn change_tags(
    controller: &Controller,
    call: Call<Caller, (String,), NoQuery, Json<ChangeTags>>,
) -> Result<Json<Tags>, Problem> {
    let (scope, id, request) = (call.caller.scope(), call.path.0.clone(), call.body.0.clone());
    let prefix = id.rsplit_once('-').map(|(prefix, _)| prefix.to_owned()).unwrap_or_default();
    let Some((_, change)) = KINDS.iter().find(|(of_kind, _)| *of_kind == prefix) else {
        let shown: String = id.chars().take(64).collect();
        return Err(refuse(format!("`{shown}` is not the id of something that has tags")));
    };
    controller.change(&call, move |tx| change(tx, scope, &id, &request)).await.map(Json)
}

fn change<R: Resource>(tx: &mut Tx<'_>, scope: Scope, id: &str, request: &ChangeTags) -> Result<Tags, Problem> {
    let mut resource: R = tx.get(scope, id)?;
    let tags = resource.tags_mut().ok_or_else(|| not_found::<R>(id))?;
    for key in &request.remove {
        tags.0.remove(key);
    }
    tags.0.extend(request.add.0.clone());
    check_tags(tags)?;
    let tags = tags.clone();
    tx.put(&resource)?;
    Ok(tags)
}
