//! A VM on its way from one host to another: QEMU's precopy, carried by whoever has a way there.
//!
//! Owns the order of QEMU's commands and the carrying. The guest runs on while its memory is sent, what it changed meanwhile
//! is sent again, and it stands still for the last of it and its devices. QEMU reads and writes sockets of ours: it may
//! connect to nobody else. Which host goes on with the VM is decided elsewhere; until then neither does.
//!
//! Precopy reads all memory, so pages that are away come back for it, those of a warm state too; the pagers of both hosts keep their limits meanwhile.
//! It was taken over sending sealed pages with the devices alone (`x-ignore-shared`, as for sleep) because QEMU itself knows
//! what the guest has changed since: the VM stands still for what was changed last and not for all that it has.

use std::{io, time::Duration};

use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, timeout},
};

use super::{User, vm::Vm};
use crate::{driver::Passage, error::Error, files, passage};

const SENDING: &str = "sending it to another host";
const RECEIVING: &str = "taking it in from another host";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// How long the VM may stand still, as QEMU reckons it, in milliseconds.
const DOWNTIME: u64 = 100;
/// No limit of ours, in bytes a second.
const BANDWIDTH: u64 = 1 << 40;

impl Vm {
    /// Brings the VM to the other end of `to`. On an error it runs here as before.
    pub(super) async fn send(&self, to: Box<dyn Passage>, user: Option<User>) -> Result<(), Error> {
        let socket = self.directory.run().join("away.sock");
        files::remove(&socket)?;
        let listener = UnixListener::bind(&socket).map_err(|error| Error::file("make", &socket, error))?;
        files::own(&socket, user)?;
        let uri = format!("unix:{}", socket.display());
        let sent = self.send_through(listener, &uri, to).await;
        if sent.is_err() {
            self.stay().await;
        }
        files::remove(&socket)?;
        sent
    }

    async fn send_through(&self, listener: UnixListener, uri: &str, mut to: Box<dyn Passage>) -> Result<(), Error> {
        self.leave_memory_out(SENDING, false).await?;
        // A guest that changes memory faster than it can be sent is slowed down.
        let capability = json!({ "capability": "auto-converge", "state": true });
        self.ask(SENDING, "migrate-set-capabilities", json!({ "capabilities": [capability] })).await?;
        let parameters = json!({ "max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME });
        self.ask(SENDING, "migrate-set-parameters", parameters).await?;
        self.ask(SENDING, "migrate", json!({ "uri": uri })).await?;
        let broken =
            |error: io::Error| Error::Refused { instance: self.instance, step: SENDING, reason: error.to_string() };
        let carried = async {
            let (mut memory, _) = timeout(self.patience, listener.accept()).await??;
            passage::carry_away(&mut memory, &mut *to).await
        };
        carried.await.map_err(broken)?;
        let told = self.until_completed(SENDING, Instant::now() + self.patience).await?;
        // From here on the other host may have all of it: whatever becomes of the way, who goes on is not said here.
        if let Err(error) = passage::close(&mut *to, stood_still(&told)).await {
            tracing::warn!(instance = %self.instance, %error, "the other host may not know that it has all of a VM");
        }
        Ok(())
    }

    /// After a try that failed: nothing of it is left that the next could meet, and the guest runs. If this fails QEMU has
    /// ended.
    async fn stay(&self) {
        let _ = self.ask(SENDING, "migrate_cancel", json!({})).await;
        let end = Instant::now() + self.patience;
        while Instant::now() < end {
            let Ok(told) = self.ask(SENDING, "query-migrate", json!({})).await else { return };
            if !matches!(told["status"].as_str(), Some("setup" | "active" | "device" | "cancelling")) {
                break;
            }
            sleep(LOOK).await;
        }
        let _ = self.resume().await;
    }

    /// Takes in what [`Self::send`] brings; returns since when the VM stands still. It was started to wait for it.
    pub(super) async fn receive(&self, mut from: Box<dyn Passage>) -> Result<Instant, Error> {
        let socket = self.directory.run().join("here.sock");
        files::remove(&socket)?;
        self.leave_memory_out(RECEIVING, false).await?;
        let uri = format!("unix:{}", socket.display());
        self.ask(RECEIVING, "migrate-incoming", json!({ "uri": uri })).await?;
        let memory = UnixStream::connect(&socket).await.map_err(|error| Error::file("open", &socket, error))?;
        let carried = passage::take_in(&mut *from, memory).await;
        let taken = self.until_completed(RECEIVING, Instant::now() + self.patience).await;
        files::remove(&socket)?;
        match (taken, carried) {
            (Ok(_), Ok(since)) => Ok(since),
            (_, Err(error)) => {
                Err(Error::Refused { instance: self.instance, step: RECEIVING, reason: error.to_string() })
            }
            (Err(error), Ok(_)) => Err(error),
        }
    }
}

/// How long the VM had stood still when all of it was sent, as QEMU has it.
fn stood_still(told: &Value) -> Duration {
    Duration::from_millis(told["downtime"].as_u64().unwrap_or_default())
}
