//! A VM that stands still, and the state of its devices in a file: what makes a VM sleep without a process.
//!
//! Owns the order of QEMU's commands. The guest's memory is not in the file: it is shared (`x-ignore-shared`), and its pager
//! has it. When a VM sleeps and wakes is the host agent's decision.
//!
//! QEMU itself may neither write the file nor start a program that does, so it writes to a socket of ours. It reads the
//! file through its standard input, and so goes on loading when the agent is killed meanwhile: once devices have begun to
//! load, pages have come back from the pager's store, and there is no second try.

use std::{fs::File, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::UnixListener,
    time::{Instant, sleep, timeout_at},
};

use super::{User, command_line, vm::Vm};
use crate::{
    driver::{MachineSpec, Origin},
    error::Error,
    files::{self, Draft},
};

/// Between two looks at how far it is: a guest may stand still meanwhile.
const LOOK: Duration = Duration::from_millis(1);
/// Devices' states have some 300 KiB; one that claims this much is not taken.
const USUAL: usize = 512 << 10;
const LARGEST: u64 = 256 << 20;
const SAVING: &str = "saving its devices";
const LOADING: &str = "loading its devices";
/// Where a QEMU that wakes has the file.
const STANDARD_INPUT: &str = "fd:0";

impl Vm {
    pub(super) async fn pause(&self) -> Result<(), Error> {
        self.ask("pausing it", "stop", json!({})).await.map(drop)
    }

    pub(super) async fn resume(&self) -> Result<(), Error> {
        if self.is_held().await? {
            let reason = "it is held until it is let go".into();
            return Err(Error::Refused { instance: self.instance, step: "resuming it", reason });
        }
        self.ask("resuming it", "cont", json!({})).await.map(drop)
    }

    /// Whether its processors stand still by our wish, or have not begun to run after a load.
    pub(super) async fn is_paused(&self) -> Result<bool, Error> {
        let state = self.ask("looking at its state", "query-status", json!({})).await?;
        Ok(matches!(state["status"].as_str(), Some("paused" | "postmigrate")) && !self.is_to_be_held())
    }

    /// Writes the devices' state of a paused VM to the file `to`, which then is there whole. The VM stays as it is.
    pub(super) async fn save_devices(&self, to: &Path, user: Option<User>) -> Result<MachineSpec, Error> {
        let (spec, devices) = self.read_devices(user).await?;
        let draft = Draft::new(to, None)?;
        tokio::fs::write(draft.path(), devices).await.map_err(|error| Error::file("write", to, error))?;
        draft.publish()?;
        Ok(spec)
    }

    /// The devices' state of a paused VM. The VM stays as it is.
    pub(super) async fn read_devices(&self, user: Option<User>) -> Result<(MachineSpec, Vec<u8>), Error> {
        let socket = self.directory.run().join("devices.sock");
        files::remove(&socket)?;
        let listener = UnixListener::bind(&socket).map_err(|error| Error::file("make", &socket, error))?;
        files::own(&socket, user)?;
        let read = self.read_through(listener, &socket).await;
        if read.is_err() {
            // Nothing of a try is left that the next could meet; if this fails QEMU has ended.
            let _ = self.ask(SAVING, "migrate_cancel", json!({})).await;
        }
        files::remove(&socket)?;
        Ok((MachineSpec { disks: self.disks(), ..self.spec() }, read?))
    }

    async fn read_through(&self, listener: UnixListener, socket: &Path) -> Result<Vec<u8>, Error> {
        self.leave_memory_out(SAVING, true).await?;
        self.ask(SAVING, "migrate", json!({ "uri": format!("unix:{}", socket.display()) })).await?;
        let end = Instant::now() + self.patience;
        let late = |_| Error::NoAnswer { instance: self.instance, step: SAVING, after: self.patience };
        let devices = timeout_at(end, read_all(&listener, socket)).await.map_err(late)??;
        self.until_completed(SAVING, end).await?;
        Ok(devices)
    }

    /// Takes in what [`Self::save_devices`] wrote. The VM was started to wait for it, with the file as its standard input.
    pub(super) async fn load_devices(&self) -> Result<(), Error> {
        self.leave_memory_out(LOADING, true).await?;
        self.ask(LOADING, "migrate-incoming", json!({ "uri": STANDARD_INPUT })).await?;
        self.until_completed(LOADING, Instant::now() + self.patience).await.map(drop)
    }

    /// Gives a VM that went on from a warm state its network card.
    pub(super) async fn plug_nic(&self) -> Result<(), Error> {
        let Some(nic) = self.spec().nic else { return Ok(()) };
        self.ask("plugging its network card in", "device_add", command_line::plugged_nic(&nic)).await.map(drop)
    }

    /// After an adoption: whether it has the card. One that has not was cut short on its way out of its warm state.
    pub(super) async fn is_whole(&self) -> Result<bool, Error> {
        if !matches!(self.spec().origin, Origin::Warm { .. }) {
            return Ok(true);
        }
        let devices = json!({ "path": "/machine/peripheral" });
        Ok(command_line::has_nic(&self.ask("looking at its devices", "qom-list", devices).await?))
    }

    /// Whether the guest's memory is left out of what is saved and loaded. It holds for good, so it is said each time.
    pub(super) async fn leave_memory_out(&self, step: &'static str, leave_out: bool) -> Result<(), Error> {
        let capability = json!({ "capability": "x-ignore-shared", "state": leave_out });
        self.ask(step, "migrate-set-capabilities", json!({ "capabilities": [capability] })).await.map(drop)
    }

    /// Waits for the end of what was begun, and returns what QEMU tells of it.
    pub(super) async fn until_completed(&self, step: &'static str, end: Instant) -> Result<Value, Error> {
        self.until_status(step, "completed", end).await
    }

    /// As [`Self::until_completed`], of a state before the end.
    pub(super) async fn until_status(
        &self,
        step: &'static str,
        wanted: &'static str,
        end: Instant,
    ) -> Result<Value, Error> {
        loop {
            let told = self.ask(step, "query-migrate", json!({})).await?;
            match told["status"].as_str() {
                Some(status) if status == wanted => return Ok(told),
                Some("failed" | "cancelled") => {
                    let reason = told["error-desc"].as_str().unwrap_or("it failed without a reason").into();
                    return Err(Error::Refused { instance: self.instance, step, reason });
                }
                _ if Instant::now() >= end => {
                    return Err(Error::NoAnswer { instance: self.instance, step, after: self.patience });
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    /// After an adoption: whether a load that was under way came to its end. One that never began has nothing to lose.
    pub(super) async fn await_load(&self) -> Result<bool, Error> {
        let end = Instant::now() + self.patience;
        loop {
            let told: Value = self.ask(LOADING, "query-migrate", json!({})).await?;
            match told["status"].as_str() {
                None | Some("none") => return Ok(false),
                Some("completed") => return Ok(true),
                _ if Instant::now() >= end => return Ok(false),
                _ => sleep(LOOK).await,
            }
        }
    }
}

/// What comes over the first connection.
async fn read_all(listener: &UnixListener, socket: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::file("read from", socket, error);
    let (stream, _) = listener.accept().await.map_err(failed)?;
    let mut devices = Vec::with_capacity(USUAL);
    stream.take(LARGEST).read_to_end(&mut devices).await.map_err(failed)?;
    if devices.len() as u64 == LARGEST {
        return Err(Error::Unreadable { path: socket.into(), reason: "its devices have no end".into() });
    }
    Ok(devices)
}

/// The file for a VM that is about to wake.
pub(super) fn open(state: &Path) -> Result<File, Error> {
    File::open(state).map_err(|error| Error::file("open", state, error))
}
