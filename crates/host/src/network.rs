//! The network of this host's VMs, as the agent sees it.
//!
//! Owns the trait, and the network of simulated VMs, which is none. The real one is
//! [`crate::switch_network`]'s. What the plan says is the reconciler's work.

use std::{collections::BTreeMap, error::Error};

use async_trait::async_trait;
use lucarne_model::{
    AccountId, FlowRecord, HostId, InstanceId, InterfaceId, Moment, ReplicaId, VpcId, network::InterfaceCounters,
};
pub(crate) use lucarne_switch::shell::CutError;
use lucarne_switch::{Plan, shell::Tap};

/// Carries out plans. Applying the same plan twice changes nothing.
#[async_trait]
pub trait Network: Send + Sync + std::fmt::Debug {
    /// Returns when every port of the plan takes frames.
    async fn apply(&self, plan: &Plan) -> Result<(), NetworkError>;
    /// Frames not carried, by reason, since the start.
    async fn dropped_frames(&self) -> BTreeMap<String, u64>;
    /// How many flow records it could not hand over since this was last asked, by account.
    fn take_records_lost(&self) -> BTreeMap<AccountId, u64> {
        BTreeMap::new()
    }
    /// What is seen of each instance at its interface; nothing of one that this network does not see.
    async fn sightings(&self) -> BTreeMap<InstanceId, Sighting> {
        BTreeMap::new()
    }
    /// What flows with a packet since then have counted since they were last recorded: at most so many, the newest first.
    async fn flows(&self, _since: Moment, _most: usize) -> Result<Vec<FlowRecord>, NetworkError> {
        Err(NetworkError::NoSwitch)
    }
    /// Ends the flows, and gives the last record of each.
    async fn stop(&self);

    /// Gives copies of frames to these taps from now on, and to no others.
    async fn set_taps(&self, _taps: Vec<Tap>) {}

    /// First step of a cut, while its guests run: gives the guests of `vpc` nothing more, and keeps what comes for them. Returns
    /// when they have taken all that was given to them before, and which of them had not in a quarter of a second.
    async fn begin_cut(
        &self,
        _vpc: VpcId,
        _replica: ReplicaId,
        _hosts: Vec<HostId>,
    ) -> Result<Vec<InterfaceId>, CutError> {
        Ok(Vec::new())
    }
    /// Second step, when the guests stand still. Returns how many frames are in flight to guests of this host, when all of
    /// `hosts` have come so far; from then on the guests may go on. An error, after two seconds at most, has given the cut up.
    async fn close_cut(&self, _replica: ReplicaId) -> Result<usize, CutError> {
        Ok(0)
    }
    /// Third step: what was kept goes on to its guests. What was in flight is remembered for duplicates until the cut is given
    /// up.
    async fn release_cut(&self, _replica: ReplicaId) -> Result<(), CutError> {
        Ok(())
    }
    /// Forgets a cut, wherever it is, or never was: what was kept goes on as if there had been none.
    async fn give_up_cut(&self, _replica: ReplicaId) -> Result<(), CutError> {
        Ok(())
    }
    /// Before a duplicate is there, and stands still: its port has the connections of its source, and keeps what comes for it.
    async fn stand_by(
        &self,
        _replica: ReplicaId,
        _source: InterfaceId,
        _duplicate: InterfaceId,
    ) -> Result<(), CutError> {
        Ok(())
    }
    /// The duplicate goes on: it is given what was in flight to its source, and then what came for itself.
    async fn deliver_cut(
        &self,
        _replica: ReplicaId,
        _source: InterfaceId,
        _duplicate: InterfaceId,
    ) -> Result<(), CutError> {
        Ok(())
    }
    /// Waits until another host says that it is at its second step of a cut that has not begun here. It is told again as long
    /// as that goes on.
    async fn heard_mark(&self) -> ReplicaId {
        std::future::pending().await
    }
}

/// An instance, as the network sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// Connections that are open at its interface.
    pub live_connections: u32,
    pub traffic: InterfaceCounters,
}

/// Why a plan does not hold.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("the switch did not take the plan")]
    Switch(#[source] Box<dyn Error + Send + Sync>),
    #[error("the switch did not say what flows there are")]
    Flows(#[source] Box<dyn Error + Send + Sync>),
    #[error("this host has no switch")]
    NoSwitch,
}

/// No network: simulated VMs send nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

#[async_trait]
impl Network for NoNetwork {
    async fn apply(&self, _: &Plan) -> Result<(), NetworkError> {
        Ok(())
    }
    async fn dropped_frames(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
    async fn stop(&self) {}
}
