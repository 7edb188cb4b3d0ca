//! A VM on its way from one host to another: QEMU's precopy, carried by whoever has a way there.
//!
//! Owns the order of QEMU's commands and the carrying. First the disks are mirrored ([`super::mirroring`]). The guest runs on
//! while its memory is sent, what it changed meanwhile is sent again, and it stands still for the last of it and its devices:
//! in that instant its disks become the same at both hosts, and memory that knows of the last write goes behind it. QEMU reads
//! and writes sockets of ours: it may connect to nobody else. Which host goes on with the VM is decided elsewhere; until then
//! neither does.
//!
//! Precopy reads all memory, so pages that are away come back for it, those of a warm state too; the pagers of both hosts keep their limits meanwhile.
//! It was taken over sending sealed pages with the devices alone (`x-ignore-shared`, as for sleep) because QEMU itself knows
//! what the guest has changed since: the VM stands still for what was changed last and not for all that it has.

use std::{io, time::Duration};

use lucarne_model::{
    Bytes,
    memory_move::{Carried, MoveProgress},
};
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, timeout},
};

use super::{User, mirroring::Coming, vm::Vm};
use crate::{
    driver::{Passage, Ways},
    error::Error,
    files, passage,
};

const SENDING: &str = "sending it to another host";
const RECEIVING: &str = "taking it in from another host";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// How long the VM may stand still, as QEMU reckons it, in milliseconds.
const DOWNTIME: u64 = 100;
/// The one of a guest whose memory is sent once while it runs.
const ONE_ROUND: u64 = 0;
/// More than there is, in a second.
const NO_LIMIT: Bytes = Bytes(1 << 40);
/// How long all of its memory may take.
const LONGEST: Duration = Duration::from_secs(3600);
/// What is sent a second until all that the guest writes is seen: next to nothing.
const CRAWL: Bytes = Bytes(4096);
/// Where QEMU waits, the VM standing still, for its disks.
const BEFORE_THE_SWITCH: &str = "pre-switchover";

impl Vm {
    /// Brings the VM to the other end of `to`, its memory and each disk with at most `rate` a second. On an error it runs here as
    /// before, and the other end is told why.
    pub(super) async fn send(&self, to: Ways, user: Option<User>, rate: Option<Bytes>) -> Result<(), Error> {
        let Ways { mut machine, disks } = to;
        let sent = async {
            let _carriers = self.begin_mirrors(disks, user, rate).await?;
            self.await_mirrors(&mut *machine).await?;
            self.send_memory(&mut *machine, user, rate.unwrap_or(NO_LIMIT)).await
        };
        let sent = sent.await;
        let said = match &sent {
            // From here on the other host may have all of it: whatever becomes of the way, who goes on is not said here.
            Ok(stood_still) => passage::close(&mut *machine, *stood_still).await,
            Err(error) => {
                self.stay().await;
                passage::give_up(&mut *machine, &error.to_string()).await
            }
        };
        if let Err(error) = said {
            tracing::warn!(instance = %self.instance, %error, "the other host may not know how the bringing of a VM ended");
        }
        sent.map(drop)
    }

    /// Returns for how long the VM had stood still when all of it was sent.
    async fn send_memory(&self, to: &mut dyn Passage, user: Option<User>, rate: Bytes) -> Result<Duration, Error> {
        let socket = self.directory.run().join("away.sock");
        files::remove(&socket)?;
        let listener = UnixListener::bind(&socket).map_err(|error| Error::file("make", &socket, error))?;
        files::own(&socket, user)?;
        self.leave_memory_out(SENDING, false).await?;
        // A guest that changes memory faster than it can be sent is slowed down.
        let capabilities = [("auto-converge", true), ("pause-before-switchover", !self.disks().is_empty())];
        let capabilities = capabilities.map(|(capability, state)| json!({ "capability": capability, "state": state }));
        self.ask(SENDING, "migrate-set-capabilities", json!({ "capabilities": capabilities })).await?;
        self.begin_sending(&format!("unix:{}", socket.display()), rate).await?;
        let carried = async {
            let (mut memory, _) = timeout(self.patience, listener.accept()).await??;
            passage::carry_away(&mut memory, to).await
        };
        let (carried, told) = tokio::join!(carried, self.switch_over());
        files::remove(&socket)?;
        let told = told?;
        let broken =
            |error: io::Error| Error::Refused { instance: self.instance, step: SENDING, reason: error.to_string() };
        carried.map_err(broken)?;
        Ok(stood_still(&told))
    }

    /// Begins the migration to `uri`, so that no page is stale at the other host.
    ///
    /// QEMU takes away the marks of what was written each time that it looks for what is to be sent again, and must then forget the
    /// translations of addresses through which an emulated processor writes unmarked. Up to 8.2 it forgets none of them
    /// (`cpu_physical_memory_sync_dirty_bitmap` in its `include/exec/ram_addr.h`), later ones only where a page is newly to be sent,
    /// which is none as it begins. What is written through such a translation after the page was sent is lost: a lock is held
    /// there that was let go here. So an emulated guest
    /// - stands still as the migration begins, for some 20 ms: QEMU drops all translations as it begins to mark, and those made when
    ///   the guest goes on are marked;
    /// - is sent once while it runs. With a limit of zero QEMU looks again only when the guest stands still for good, and all that
    ///   was written meanwhile goes then.
    async fn begin_sending(&self, uri: &str, rate: Bytes) -> Result<(), Error> {
        let limit = async |rate: Bytes, downtime: u64| {
            let parameters = json!({ "max-bandwidth": rate.0, "downtime-limit": downtime });
            self.ask(SENDING, "migrate-set-parameters", parameters).await
        };
        let kvm = self.ask(SENDING, "query-kvm", json!({})).await?;
        let state = self.ask(SENDING, "query-status", json!({})).await?;
        if kvm["enabled"] == true || state["status"] != "running" {
            limit(rate, DOWNTIME).await?;
            return self.ask(SENDING, "migrate", json!({ "uri": uri })).await.map(drop);
        }
        // It is not to be sent whole before it goes on.
        limit(CRAWL, ONE_ROUND).await?;
        self.pause().await?;
        let begun = async {
            self.ask(SENDING, "migrate", json!({ "uri": uri })).await?;
            self.until_status(SENDING, "active", Instant::now() + self.patience).await
        };
        let begun = begun.await;
        self.resume().await?;
        begun?;
        limit(rate, ONE_ROUND).await.map(drop)
    }

    /// Follows the migration to its end, and returns what QEMU tells of it. A failure ends it, and so its carrying.
    async fn switch_over(&self) -> Result<Value, Error> {
        let end = Instant::now() + LONGEST;
        let over = async {
            if !self.disks().is_empty() {
                self.until_status(SENDING, BEFORE_THE_SWITCH, end).await?;
                self.end_mirrors().await?;
                self.ask(SENDING, "migrate-continue", json!({ "state": BEFORE_THE_SWITCH })).await?;
            }
            self.until_completed(SENDING, end).await
        };
        let over = over.await;
        if over.is_err() {
            // Refused when it has ended anyhow.
            let _ = self.ask(SENDING, "migrate_cancel", json!({})).await;
        }
        over
    }

    /// Whether it was being sent to its end, or to the end of who carried it.
    pub(super) async fn is_being_sent(&self) -> Result<bool, Error> {
        let told = self.ask(SENDING, "query-migrate", json!({})).await?;
        Ok(matches!(told["status"].as_str(), Some("setup" | "active" | "failed")))
    }

    /// How far [`Self::send`] has come.
    pub(super) async fn progress(&self) -> Result<MoveProgress, Error> {
        let mirrors = self.mirrors().await?;
        let told = self.ask(SENDING, "query-migrate", json!({})).await?;
        Ok(progress(&told, &mirrors, self.spec().memory))
    }

    /// After a try that failed: nothing of it is left that the next could meet, and the guest runs. If this fails QEMU has
    /// ended.
    pub(super) async fn stay(&self) {
        let _ = self.ask(SENDING, "migrate_cancel", json!({})).await;
        let end = Instant::now() + self.patience;
        while Instant::now() < end {
            let Ok(told) = self.ask(SENDING, "query-migrate", json!({})).await else { return };
            if !matches!(
                told["status"].as_str(),
                Some("setup" | "active" | BEFORE_THE_SWITCH | "device" | "cancelling")
            ) {
                break;
            }
            sleep(LOOK).await;
        }
        let _ = self.resume().await;
        if let Err(error) = self.drop_mirrors().await {
            tracing::warn!(instance = %self.instance, %error, "mirrors of its disks may be left behind");
        }
    }

    /// Takes in what [`Self::send`] brings; returns since when the VM stands still. It was started to wait for it, with the
    /// files of `coming` as its disks.
    pub(super) async fn receive(&self, from: Ways, coming: Coming) -> Result<Instant, Error> {
        let Ways { mut machine, disks } = from;
        let socket = self.directory.run().join("here.sock");
        files::remove(&socket)?;
        let _carriers = self.open_disks(&self.disks(), disks).await?;
        self.leave_memory_out(RECEIVING, false).await?;
        let uri = format!("unix:{}", socket.display());
        self.ask(RECEIVING, "migrate-incoming", json!({ "uri": uri })).await?;
        let memory = UnixStream::connect(&socket).await.map_err(|error| Error::file("open", &socket, error))?;
        let carried = passage::take_in(&mut *machine, memory).await;
        let broken =
            |error: io::Error| Error::Refused { instance: self.instance, step: RECEIVING, reason: error.to_string() };
        let since = carried.map_err(broken)?;
        self.until_completed(RECEIVING, Instant::now() + self.patience).await?;
        files::remove(&socket)?;
        self.close_disks(coming).await?;
        Ok(since)
    }
}

/// What QEMU tells of a VM with so much memory and of the jobs that mirror its disks. It tells of the memory from when it is
/// sent; that it has been sent may be told of another time while disks are mirrored.
fn progress(told: &Value, mirrors: &[Value], memory: Bytes) -> MoveProgress {
    let bytes = |of: &Value| Bytes(of.as_u64().unwrap_or_default());
    let disks = mirrors.iter().fold(Carried::default(), |all, job| {
        let (sent, whole) = (bytes(&job["current-progress"]), bytes(&job["total-progress"]));
        Carried { sent: all.sent + sent, left: all.left + (whole - sent) }
    });
    let is_told = match told["status"].as_str() {
        Some("active" | BEFORE_THE_SWITCH | "device") => true,
        Some("completed") => mirrors.is_empty(),
        _ => false,
    };
    let ram = &told["ram"];
    let memory = match is_told && ram.is_object() {
        true => Carried { sent: bytes(&ram["transferred"]), left: bytes(&ram["remaining"]) },
        false => Carried { sent: Bytes::ZERO, left: memory },
    };
    MoveProgress { memory, disks }
}

/// How long the VM had stood still when all of it was sent, as QEMU has it.
fn stood_still(told: &Value) -> Duration {
    Duration::from_millis(told["downtime"].as_u64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_and_left_is_told_of_this_move_and_of_no_earlier_one() {
        let ram = json!({"total": 90, "transferred": 7, "remaining": 50});
        let mirrors = [
            json!({"current-progress": 30, "total-progress": 40}),
            json!({"current-progress": 1, "total-progress": 9}),
        ];
        let memory = Bytes(100);
        let disks = Carried { sent: Bytes(31), left: Bytes(18) };
        let not_begun = Carried { sent: Bytes::ZERO, left: memory };
        let begun = Carried { sent: Bytes(7), left: Bytes(50) };
        for (status, with_disks, without) in [
            ("none", not_begun, not_begun),
            ("active", begun, begun),
            (BEFORE_THE_SWITCH, begun, begun),
            ("completed", not_begun, begun),
        ] {
            let told = json!({"status": status, "ram": ram});
            assert_eq!(progress(&told, &mirrors, memory), MoveProgress { memory: with_disks, disks }, "{status}");
            let alone = MoveProgress { memory: without, disks: Carried::default() };
            assert_eq!(progress(&told, &[], memory), alone, "{status}");
        }
    }
}
