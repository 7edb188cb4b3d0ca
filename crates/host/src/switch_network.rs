//! The switch as the agent's network.
//!
//! Owns nothing but the translation. Frames are the business of the switch's own thread.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lucarne_model::{AccountId, HostId, InterfaceId, ReplicaId, VpcId};
use lucarne_switch::{Plan, SwitchHandle, shell::CutError};

use crate::network::{Network, NetworkError};

/// The switch in its thread.
#[derive(Debug)]
pub(crate) struct SwitchNetwork {
    handle: SwitchHandle,
}

impl SwitchNetwork {
    pub(crate) fn new(handle: SwitchHandle) -> Self {
        Self { handle }
    }
}

#[async_trait]
impl Network for SwitchNetwork {
    async fn apply(&self, plan: &Plan) -> Result<(), NetworkError> {
        self.handle.apply(plan.clone()).await.map_err(|error| NetworkError::Switch(Box::new(error)))
    }

    async fn dropped_frames(&self) -> BTreeMap<String, u64> {
        let counters = self.handle.counters().await;
        counters.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }

    fn take_records_lost(&self) -> BTreeMap<AccountId, u64> {
        self.handle.take_records_lost()
    }

    async fn stop(&self) {
        self.handle.stop().await;
    }

    async fn begin_cut(
        &self,
        vpc: VpcId,
        replica: ReplicaId,
        hosts: Vec<HostId>,
    ) -> Result<Vec<InterfaceId>, CutError> {
        self.handle.begin_cut(vpc, replica, hosts).await
    }
    async fn close_cut(&self, replica: ReplicaId) -> Result<usize, CutError> {
        self.handle.close_cut(replica).await
    }
    async fn release_cut(&self, replica: ReplicaId) -> Result<(), CutError> {
        self.handle.release_cut(replica).await
    }
    async fn give_up_cut(&self, replica: ReplicaId) -> Result<(), CutError> {
        self.handle.give_up_cut(replica).await
    }
    async fn stand_by(&self, replica: ReplicaId, source: InterfaceId, duplicate: InterfaceId) -> Result<(), CutError> {
        self.handle.stand_by(replica, source, duplicate).await
    }
    async fn deliver_cut(
        &self,
        replica: ReplicaId,
        source: InterfaceId,
        duplicate: InterfaceId,
    ) -> Result<(), CutError> {
        self.handle.deliver_cut(replica, source, duplicate).await
    }
    async fn heard_mark(&self) -> ReplicaId {
        self.handle.heard_mark().await
    }
}
