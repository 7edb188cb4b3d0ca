//! The disks of a VM on its way to another host: written there as they are here, and as the guest changes them meanwhile.
//!
//! Owns the mirrors at the host that sends, the doors of the one that receives, and the order of QEMU's commands for both. The
//! guest never waits for the other host: what it writes is behind there until it stands still ([`Vm::end_mirrors`]), when the
//! rest goes. The files of the one that receives have no names before all of it is in them. An overlay's image is at both
//! hosts already, and only what is above it goes.

use std::{collections::BTreeMap, io};

use lucarne_model::{Bytes, VolumeId};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{Duration, Instant, sleep},
};

use super::{Shared, User, command_line as names, disks::elements, vm::Vm};
use crate::{
    driver::{Disk, MachineSpec, Passage},
    error::{Error, says_disk_full},
    files::{self, Draft},
    passage,
};

const MIRRORING: &str = "bringing its disks to another host";
const TAKING_IN: &str = "taking in its disks from another host";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// After how many looks the other host is asked for patience.
const LOOKS: u32 = 200;
/// How long disks may take until they are the same at both hosts.
const LONGEST: Duration = Duration::from_secs(3600);

/// What carries disks' bytes between QEMU and the ways to the other host; dropped, it ends.
pub(super) type Carriers = JoinSet<io::Result<()>>;

/// The disks of a VM that another host sends: files without a name yet.
#[derive(Debug, Default)]
pub(super) struct Coming(Vec<Draft>);

impl Coming {
    /// Makes the files, and says with what paths QEMU is to open them.
    pub(super) async fn prepare(spec: &MachineSpec, shared: &Shared) -> Result<(Self, MachineSpec), Error> {
        let (mut drafts, mut told) = (Vec::new(), spec.clone());
        for disk in &mut told.disks {
            let unknown = || Error::Impossible { reason: format!("the size of {} is not known", disk.volume) };
            let size = disk.size.ok_or_else(unknown)?;
            let draft = shared.volumes.draft(&disk.path, size, disk.source()).await?;
            disk.path = draft.path().into();
            drafts.push(draft);
        }
        Ok((Self(drafts), told))
    }

    /// Gives the files their names; what another had before is gone then.
    fn publish(self) -> Result<(), Error> {
        self.0.into_iter().try_for_each(Draft::publish)
    }
}

impl Vm {
    /// Begins to mirror all disks, each by its way and with at most `rate` a second.
    pub(super) async fn begin_mirrors(
        &self,
        mut ways: BTreeMap<VolumeId, Box<dyn Passage>>,
        user: Option<User>,
        rate: Option<Bytes>,
    ) -> Result<Carriers, Error> {
        self.drop_mirrors().await?;
        let mut carriers = Carriers::new();
        for disk in self.disks() {
            let way = ways.remove(&disk.volume).ok_or_else(|| disk.has_no_way(self.instance))?;
            let socket = self.directory.run().join(format!("disk{}.sock", disk.slot));
            files::remove(&socket)?;
            let listener = UnixListener::bind(&socket).map_err(|error| Error::file("make", &socket, error))?;
            files::own(&socket, user)?;
            carriers.spawn(async move { carry(listener.accept().await?.0, way).await });
            let (mirror, node) = (names::mirror_name(disk.volume), names::node_name(disk.volume));
            let server = json!({ "type": "unix", "path": names::text(&socket)? });
            let target = json!({ "driver": "nbd", "node-name": mirror, "server": server, "export": node,
                "discard": "unmap" });
            self.ask(MIRRORING, "blockdev-add", target).await?;
            files::remove(&socket)?;
            let sync = if disk.base.is_some() { "top" } else { "full" };
            let device = self.top_of(disk.volume);
            let job = json!({ "job-id": mirror, "device": device, "target": mirror, "sync": sync,
                "speed": rate.unwrap_or_default().0, "copy-mode": "background", "auto-dismiss": false });
            self.ask(MIRRORING, "blockdev-mirror", job).await?;
        }
        Ok(carriers)
    }

    /// Returns when the disks there are as those here were a moment ago. Meanwhile the other host is asked for patience.
    pub(super) async fn await_mirrors(&self, to: &mut dyn Passage) -> Result<(), Error> {
        let (end, mut looks) = (Instant::now() + LONGEST, 0_u32);
        loop {
            let mirrors = self.mirrors().await?;
            self.check_mirrors(&mirrors)?;
            if mirrors.iter().all(|job| job["status"] == "ready") {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Error::NoAnswer { instance: self.instance, step: MIRRORING, after: LONGEST });
            }
            if looks.is_multiple_of(LOOKS) {
                let broken = |error: io::Error| self.refused(MIRRORING, error.to_string());
                passage::ask_for_patience(to).await.map_err(broken)?;
            }
            looks += 1;
            sleep(LOOK).await;
        }
    }

    /// Of a VM that stands still: returns when the disks there are as those here, and nothing is mirrored any more.
    pub(super) async fn end_mirrors(&self) -> Result<(), Error> {
        let mirrors = self.mirrors().await?;
        self.check_mirrors(&mirrors)?;
        for job in mirrors {
            // Not forced, a mirror that was ready ends with all of it written there.
            let gently = json!({ "device": job["id"], "force": false });
            self.ask(MIRRORING, "block-job-cancel", gently).await?;
        }
        let end = Instant::now() + self.patience;
        loop {
            let mirrors = self.mirrors().await?;
            self.check_mirrors(&mirrors)?;
            if mirrors.iter().all(|job| job["status"] == "concluded") {
                break;
            }
            if Instant::now() >= end {
                return Err(Error::NoAnswer { instance: self.instance, step: MIRRORING, after: self.patience });
            }
            sleep(LOOK / 10).await;
        }
        self.clear_mirrors().await
    }

    /// Ends mirrors as they are, of this agent or an earlier one: the other host's disks are not wanted any more.
    pub(super) async fn drop_mirrors(&self) -> Result<(), Error> {
        for job in self.mirrors().await? {
            // Refused when it is at its end anyhow.
            let _ = self.ask(MIRRORING, "block-job-cancel", json!({ "device": job["id"], "force": true })).await;
        }
        while self.mirrors().await?.iter().any(|job| job["status"] != "concluded") {
            sleep(LOOK).await;
        }
        self.clear_mirrors().await
    }

    async fn clear_mirrors(&self) -> Result<(), Error> {
        for job in self.mirrors().await? {
            self.ask(MIRRORING, "job-dismiss", json!({ "id": job["id"] })).await?;
        }
        for node in self.nodes().await? {
            if let Some(name) = node["node-name"].as_str().filter(|name| names::is_mirror(name)) {
                self.close_node(name).await?;
            }
        }
        Ok(())
    }

    /// The jobs that mirror.
    pub(super) async fn mirrors(&self) -> Result<Vec<Value>, Error> {
        let jobs = self.ask("looking at its jobs", "query-jobs", json!({})).await?;
        Ok(elements(jobs).into_iter().filter(|job| job["id"].as_str().is_some_and(names::is_mirror)).collect())
    }

    /// Whether none has failed.
    fn check_mirrors(&self, mirrors: &[Value]) -> Result<(), Error> {
        match mirrors.iter().find_map(|job| job["error"].as_str()) {
            None => Ok(()),
            Some(said) if says_disk_full(said) => {
                Err(self.refused(MIRRORING, "the other host has no space left for them".into()))
            }
            Some(said) => Err(self.refused(MIRRORING, said.to_owned())),
        }
    }

    pub(super) fn refused(&self, step: &'static str, reason: String) -> Error {
        Error::Refused { instance: self.instance, step, reason }
    }

    /// Lets another host write the disks, each by its way.
    pub(super) async fn open_disks(
        &self,
        disks: &[Disk],
        mut ways: BTreeMap<VolumeId, Box<dyn Passage>>,
    ) -> Result<Carriers, Error> {
        let mut carriers = Carriers::new();
        if disks.is_empty() {
            return Ok(carriers);
        }
        let socket = self.directory.run().join("disks.sock");
        let address = json!({ "type": "unix", "data": { "path": names::text(&socket)? } });
        self.ask(TAKING_IN, "nbd-server-start", json!({ "addr": address })).await?;
        for disk in disks {
            let way = ways.remove(&disk.volume).ok_or_else(|| disk.has_no_way(self.instance))?;
            let node = names::node_name(disk.volume);
            let export = json!({ "type": "nbd", "id": names::mirror_name(disk.volume), "node-name": node, "name": node,
                "writable": true });
            self.ask(TAKING_IN, "block-export-add", export).await?;
            let door = UnixStream::connect(&socket).await.map_err(|error| Error::file("open", &socket, error))?;
            carriers.spawn(carry(door, way));
        }
        Ok(carriers)
    }

    /// Lets nobody write the disks any more. All that was written is in their files, which then have their names.
    pub(super) async fn close_disks(&self, coming: Coming) -> Result<(), Error> {
        if coming.0.is_empty() {
            return Ok(());
        }
        self.ask(TAKING_IN, "nbd-server-stop", json!({})).await?;
        let (instance, publish) = (self.instance, tokio::task::spawn_blocking(move || coming.publish()));
        publish.await.map_err(|error| Error::Process { doing: "keep the disks of", instance, source: error.into() })?
    }
}

/// Both ways, until either side is through.
async fn carry(mut socket: UnixStream, mut way: Box<dyn Passage>) -> io::Result<()> {
    copy_bidirectional(&mut socket, &mut way).await.map(drop)
}
