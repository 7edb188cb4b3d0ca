//! A network as the store has it, for the room `replica` to decide on.
//!
//! Owns what is read for one. What a network consists of is [`Network`]'s word.

use std::collections::BTreeMap;

use lucarne_api::Problem;
use lucarne_model::{
    AccountId, InstanceId, VpcId,
    flow_log::FlowLog,
    instance::InstanceState,
    network::{NetworkInterface, RouteTable, Subnet, Vpc},
    network_acl::NetworkAcl,
    security_group::SecurityGroup,
    storage::Image,
};
use lucarne_replica::{HostTold, Network, Surroundings};

use crate::{
    records::{HostRecord, InstanceRecord, VolumeRecord},
    scaling_records::ScalingGroupRecord,
    store::{Scope, Tx},
};

pub(super) struct Source {
    pub(super) network: Network,
    /// What is kept of its instances beyond what the API shows.
    pub(super) records: BTreeMap<InstanceId, InstanceRecord>,
    pub(super) around: Surroundings,
}

impl Source {
    pub(super) fn load(tx: &Tx<'_>, account: AccountId, id: VpcId) -> Result<Self, Problem> {
        let scope = Scope::Account(account);
        let vpc: Vpc = tx.get(scope, id)?;
        let mut records = tx.referring::<InstanceRecord>(scope, id)?;
        records.retain(|record| record.instance.state != InstanceState::Terminated);
        let mut volumes = Vec::new();
        for record in &records {
            let attached = tx.referring::<VolumeRecord>(scope, record.instance.id)?;
            volumes.extend(attached.into_iter().map(|record| record.volume));
        }
        let around = surroundings(tx, account, &records)?;
        let mut scaling_groups: Vec<_> =
            tx.referring::<ScalingGroupRecord>(scope, id)?.into_iter().map(|record| record.group).collect();
        let is_here = |one: &InstanceId| records.iter().any(|record| record.instance.id == *one);
        scaling_groups.iter_mut().for_each(|group| group.instances.retain(is_here));
        let network = Network {
            vpc,
            route_tables: tx.referring::<RouteTable>(scope, id)?,
            network_acls: tx.referring::<NetworkAcl>(scope, id)?,
            subnets: tx.referring::<Subnet>(scope, id)?,
            security_groups: tx.referring::<SecurityGroup>(scope, id)?,
            interfaces: tx.referring::<NetworkInterface>(scope, id)?,
            volumes,
            flow_logs: tx.referring::<FlowLog>(scope, id)?,
            scaling_groups,
            instances: records.iter().map(|record| record.instance.clone()).collect(),
        };
        let records = records.into_iter().map(|record| (record.instance.id, record)).collect();
        Ok(Self { network, records, around })
    }
}

/// Of an image that was deleted nothing is known any more: its instances' duplicates are as large as they.
fn surroundings(tx: &Tx<'_>, account: AccountId, records: &[InstanceRecord]) -> Result<Surroundings, Problem> {
    let mut around = Surroundings::default();
    for record in records {
        if let Some(host) = record.instance.host
            && let Some(found) = tx.find::<HostRecord>(Scope::Everything, host)?
        {
            around.hosts.insert(host, HostTold { hypervisor: found.host.description.hypervisor });
        }
        if let Some(image) = tx.find::<Image>(Scope::Visible(account), record.instance.image)? {
            around.least_memory.insert(image.id, image.minimum_memory);
        }
    }
    Ok(around)
}
