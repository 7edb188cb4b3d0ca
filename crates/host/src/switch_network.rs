//! The switch as the agent's network.
//!
//! Owns nothing but the translation. Frames are the business of the switch's own thread.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lucarne_model::{AccountId, FlowRecord, HostId, InstanceId, InterfaceId, Moment, ReplicaId, VpcId};
use lucarne_switch::{
    Plan, SwitchHandle,
    shell::{Counters, CutError, Tap},
};

use crate::network::{Network, NetworkError, Sighting};

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

    async fn sightings(&self) -> BTreeMap<InstanceId, Sighting> {
        let Counters { live_connections, interfaces, .. } = self.handle.counters().await;
        let seen = interfaces.into_iter().map(|(instance, traffic)| {
            let live_connections = live_connections.get(&instance).copied().unwrap_or_default();
            (instance, Sighting { live_connections, traffic })
        });
        seen.collect()
    }

    async fn flows(&self, since: Moment, most: usize) -> Result<Vec<FlowRecord>, NetworkError> {
        self.handle.flows(since, most).await.map_err(|error| NetworkError::Flows(Box::new(error)))
    }

    async fn stop(&self) {
        self.handle.stop().await;
    }

    async fn set_taps(&self, taps: Vec<Tap>) {
        // A switch that has ended gives nothing to anybody.
        let _ = self.handle.set_taps(taps).await;
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
