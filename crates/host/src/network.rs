//! The network of this host's VMs, as the agent sees it.
//!
//! Owns the trait, and the network of simulated VMs, which is none. The real one is
//! [`crate::switch_network`]'s. What the plan says is the reconciler's work.

use std::{collections::BTreeMap, error::Error};

use async_trait::async_trait;
use lucarne_model::{AccountId, FlowRecord, Moment};
use lucarne_switch::Plan;

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
    /// What flows with a packet since then have counted since they were last recorded: at most so many, the newest first.
    async fn flows(&self, _since: Moment, _most: usize) -> Result<Vec<FlowRecord>, NetworkError> {
        Err(NetworkError::NoSwitch)
    }
    /// Ends the flows, and gives the last record of each.
    async fn stop(&self);
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
