//! The switch as the agent's network.
//!
//! Owns the giving of the switch's sockets to the user that VMs run as. Frames are the business of its own thread.

use std::{collections::BTreeMap, os::unix::fs::chown};

use async_trait::async_trait;
use lucarne_switch::{Plan, SwitchHandle};

use crate::network::{Network, NetworkError};

/// The switch in its thread.
#[derive(Debug)]
pub(crate) struct SwitchNetwork {
    handle: SwitchHandle,
    /// As whom VMs run: the switch's sockets are theirs, so that they can send to them.
    owner: Option<(u32, u32)>,
}

impl SwitchNetwork {
    pub(crate) fn new(handle: SwitchHandle, owner: Option<(u32, u32)>) -> Self {
        Self { handle, owner }
    }
}

#[async_trait]
impl Network for SwitchNetwork {
    async fn apply(&self, plan: &Plan) -> Result<(), NetworkError> {
        self.handle.apply(plan.clone()).await.map_err(|error| NetworkError::Switch(Box::new(error)))?;
        let Some((user, group)) = self.owner else { return Ok(()) };
        for port in &plan.ports {
            chown(&port.socket, Some(user), Some(group))
                .map_err(|cause| NetworkError::Owner { path: port.socket.clone(), cause })?;
        }
        Ok(())
    }

    async fn dropped_frames(&self) -> BTreeMap<String, u64> {
        let counters = self.handle.counters().await;
        counters.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }

    async fn stop(&self) {
        self.handle.stop().await;
    }
}
