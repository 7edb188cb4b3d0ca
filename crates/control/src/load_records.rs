//! What the store keeps of loads beyond what the API shows, and what a load makes of its network while it goes on.
//!
//! Owns the record. Its clients yield to every instance of the duplicate: how they stand in it is the word of [`Visitors`].

use lucarne_model::{
    AccountId, ErrorCode, HostId, LoadId, ResourceKind, SecurityGroupId, Tags,
    desired::DesiredNetwork,
    load::{DesiredLoadState, Load},
    replay::ReplayPort,
};
use serde::{Deserialize, Serialize};

use crate::{
    store::Resource,
    visitors::{Outside, Taken, Visitors},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadRecord {
    #[serde(flatten)]
    pub(crate) load: Load,
    /// From where it is asked.
    pub(crate) host: HostId,
    /// One for each source, in their order; none when it is over.
    pub(crate) ports: Vec<ReplayPort>,
    pub(crate) outside: Outside,
    /// Of clients that stand inside.
    pub(crate) groups: Vec<SecurityGroupId>,
}

impl Resource for LoadRecord {
    const KIND: ResourceKind = ResourceKind::Load;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidLoadNotFound;
    type Id = LoadId;
    fn id(&self) -> LoadId {
        self.load.id
    }
    fn account(&self) -> AccountId {
        self.load.account
    }
    /// Its network and its host, which so hear of it, until it is over.
    fn references(&self) -> Vec<String> {
        if self.load.state.is_over() {
            return Vec::new();
        }
        vec![self.load.vpc.to_string(), self.host.to_string()]
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.load.tags)
    }
}

impl LoadRecord {
    /// What its host is told.
    pub(crate) fn desired(&self) -> DesiredLoadState {
        if self.load.state.is_over() {
            return DesiredLoadState::Absent;
        }
        DesiredLoadState::Asked {
            account: self.load.account,
            vpc: self.load.vpc,
            terms: self.load.terms.clone(),
            address: self.load.address,
            ports: self.ports.clone(),
        }
    }

    /// Puts the clients into their network.
    pub(crate) fn join(&self, network: &mut DesiredNetwork) {
        let (host, ports, outside) = (self.host, &self.ports, self.outside);
        Visitors { host, ports, outside, groups: &self.groups, taken: Taken::Yields }.join(network);
    }
}
