//! The disks of a running VM: attached, detached, copied while it writes.
//!
//! Owns the QMP commands for that and their order. Each leaves QEMU as it was when it fails, and an agent that was
//! killed in the middle finds with [`Vm::settle_disks`] what became of it.

use std::{path::Path, time::Duration};

use lucarne_model::{Bytes, VolumeId};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{User, command_line as names, locked, vm::Vm};
use crate::{
    driver::{Disk, Layer, is_in_place},
    error::{Error, says_disk_full},
    files,
    volumes::Volumes,
};

/// Between two looks at what QEMU or its guest has not finished.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The one copy that a VM makes at a time: the name of its job and of its target.
const COPY: &str = "copy";
const FREEZING: &str = "freezing a disk";

impl Vm {
    pub(super) fn has_disk(&self, volume: VolumeId) -> bool {
        locked(&self.record).disks.iter().any(|disk| disk.volume == volume)
    }

    /// Attached already: does nothing.
    pub(super) async fn attach(&self, disk: &Disk, user: Option<User>) -> Result<(), Error> {
        if is_in_place(self.instance, &self.disks(), disk)? {
            return Ok(());
        }
        let node = names::node(disk)?;
        files::own(&disk.path, user)?;
        self.remember(|disks| disks.push(disk.clone()))?;
        let plugged = async {
            self.ask("opening a disk", "blockdev-add", node).await?;
            self.ask("plugging a disk in", "device_add", names::device(disk)).await
        };
        if let Err(error) = plugged.await {
            // Either there is no node, or it is without a device and can be closed.
            let _ = self.close_node(&names::node_name(disk.volume)).await;
            self.remember(|disks| disks.retain(|known| known.volume != disk.volume))?;
            return Err(error);
        }
        Ok(())
    }

    /// Not attached: does nothing. Waits for the guest's consent for up to `patience`.
    pub(super) async fn detach(&self, volume: VolumeId, patience: Duration) -> Result<(), Error> {
        if !self.has_disk(volume) {
            return Ok(());
        }
        let nodes = self.nodes_of(volume);
        let unplug = json!({ "id": names::device_name(volume) });
        match self.ask("unplugging a disk", "device_del", unplug).await {
            Ok(_) => {}
            Err(Error::Refused { reason, .. }) if is_under_way(&reason) => {}
            Err(error) => return Err(error),
        }
        let gone = timeout(patience, self.until_unplugged(volume)).await;
        gone.unwrap_or(Err(Error::GuestHolds { instance: self.instance, volume, after: patience }))?;
        for node in nodes.iter().rev() {
            self.close_node(node).await?;
        }
        self.note(|record| {
            record.disks.retain(|disk| disk.volume != volume);
            record.layers.remove(&volume);
            record.whole.remove(&volume);
        })
    }

    /// Has what the guest writes from now on go to the layer. QEMU opens what is below anew, to read it alone, by the path that it
    /// knows it by: that must still be that file's.
    pub(super) async fn put_over(&self, volume: VolumeId, layer: &Layer, user: Option<User>) -> Result<bool, Error> {
        let Some(disk) = self.disks().into_iter().find(|disk| disk.volume == volume) else { return Ok(false) };
        let (name, nodes) = (names::layer_name(&layer.name, disk.slot), self.nodes_of(volume));
        let Some(top) = nodes.last().filter(|_| !nodes.contains(&name)) else { return Ok(true) };
        files::own(&layer.path, user)?;
        let node = names::layer(&layer.path, disk.format, &name)?;
        // First, so that an agent that starts anew finds the disk whichever of the two it has.
        self.note(|record| record.layers.entry(volume).or_default().push(name.clone()))?;
        let over = async {
            self.ask(FREEZING, "blockdev-add", node).await?;
            self.ask(FREEZING, "blockdev-snapshot", json!({ "node": top, "overlay": name })).await
        };
        if let Err(error) = over.await {
            let _ = self.close_node(&name).await;
            self.note(|record| record.layers.entry(volume).or_default().retain(|one| *one != name))?;
            return Err(error);
        }
        // What is below is named in the files from here on.
        self.note(|record| {
            record.disks.iter_mut().filter(|disk| disk.volume == volume).for_each(|disk| disk.base = None);
        })?;
        Ok(true)
    }

    /// Whether the guest writes to that layer.
    pub(super) fn has_over(&self, volume: VolumeId, layer: &Layer) -> bool {
        let slot = self.disks().into_iter().find(|disk| disk.volume == volume).map(|disk| disk.slot);
        slot.is_some_and(|slot| self.top_of(volume) == names::layer_name(&layer.name, slot))
    }

    /// The nodes of a volume, lowest first; the guest writes to the last.
    pub(super) fn nodes_of(&self, volume: VolumeId) -> Vec<String> {
        let record = locked(&self.record);
        let first = (!record.whole.contains(&volume)).then(|| names::node_name(volume));
        first.into_iter().chain(record.layers.get(&volume).into_iter().flatten().cloned()).collect()
    }

    /// The node that the guest writes to.
    pub(super) fn top_of(&self, volume: VolumeId) -> String {
        self.nodes_of(volume).pop().unwrap_or_else(|| names::node_name(volume))
    }

    /// Copies the disk's content of this moment into a new qcow2 file at `to`, while the guest goes on writing.
    pub(super) async fn copy_disk(
        &self,
        volume: VolumeId,
        to: &Path,
        volumes: &Volumes,
        patience: Duration,
    ) -> Result<(), Error> {
        let _turn = self.copying.lock().await;
        self.end_copy().await?;
        let node = self.top_of(volume);
        volumes.make_empty(to, self.virtual_size(&node).await?).await?;
        let copied = timeout(patience, self.run_copy(&node, to)).await;
        let late = Error::NoAnswer { instance: self.instance, step: "copying a disk", after: patience };
        let cleared = self.end_copy().await;
        copied.unwrap_or(Err(late)).and(cleared)
    }

    async fn run_copy(&self, node: &str, to: &Path) -> Result<(), Error> {
        let file = json!({ "driver": "file", "filename": names::text(to)? });
        let target = json!({ "driver": "qcow2", "node-name": COPY, "file": file });
        self.ask("opening a copy", "blockdev-add", target).await?;
        let job = json!({ "job-id": COPY, "device": node, "target": COPY, "sync": "full", "auto-dismiss": false });
        self.ask("beginning a copy", "blockdev-backup", job).await?;
        let outcome = self.until_concluded().await?;
        match outcome["error"].as_str() {
            None => Ok(()),
            Some(said) if says_disk_full(said) => Err(Error::DiskFull { path: to.into() }),
            Some(said) => {
                Err(Error::Refused { instance: self.instance, step: "copying a disk", reason: said.to_owned() })
            }
        }
    }

    /// Clears away a copy, finished or not, of this agent or an earlier one.
    async fn end_copy(&self) -> Result<(), Error> {
        if self.copy_job().await?.is_some() {
            // Refused when it is at its end anyhow.
            let _ = self.ask("ending a copy", "job-cancel", json!({ "id": COPY })).await;
            self.until_concluded().await?;
            self.ask("ending a copy", "job-dismiss", json!({ "id": COPY })).await?;
        }
        match self.nodes().await?.iter().any(|node| node["node-name"] == COPY) {
            true => self.close_node(COPY).await,
            false => Ok(()),
        }
    }

    async fn until_concluded(&self) -> Result<Value, Error> {
        loop {
            match self.copy_job().await? {
                Some(job) if job["status"] != "concluded" => sleep(LOOK_AGAIN).await,
                job => return Ok(job.unwrap_or_default()),
            }
        }
    }

    async fn copy_job(&self) -> Result<Option<Value>, Error> {
        let jobs = self.ask("looking at its jobs", "query-jobs", json!({})).await?;
        Ok(elements(jobs).into_iter().find(|job| job["id"] == COPY))
    }

    /// Makes the record say what QEMU has: after an agent was killed, either may be ahead of the other.
    pub(super) async fn settle_disks(&self) -> Result<(), Error> {
        self.end_copy().await?;
        self.drop_mirrors().await?;
        let plugged = self.plugged().await?;
        for disk in self.disks() {
            self.stop_completing(disk.volume).await?;
            let nodes = self.nodes_of(disk.volume);
            let top = nodes.iter().rposition(|node| plugged.contains(node));
            let open = self.nodes().await?;
            let is_open = |node: &&String| open.iter().any(|one| one["node-name"] == node.as_str());
            // Those that the guest does not write to and nothing is over: the disk is not there, or its last layer is not yet.
            let idle = nodes[top.map_or(0, |top| top + 1)..].iter().rev();
            for node in idle.filter(is_open) {
                self.close_node(node).await?;
            }
            self.note(|record| match top {
                Some(top) => {
                    let kept = top + usize::from(record.whole.contains(&disk.volume));
                    record.layers.entry(disk.volume).or_default().truncate(kept);
                }
                None => {
                    record.layers.remove(&disk.volume);
                    record.whole.remove(&disk.volume);
                    record.disks.retain(|known| known.volume != disk.volume);
                }
            })?;
        }
        Ok(())
    }

    async fn until_unplugged(&self, volume: VolumeId) -> Result<(), Error> {
        let mut news = self.qmp().events();
        while self.plugged().await?.contains(&self.top_of(volume)) {
            // Any event may be the guest's consent, and one may have come before we listened.
            if let Ok(Ok(event)) = timeout(LOOK_AGAIN, news.recv()).await
                && event.name == "DEVICE_UNPLUG_GUEST_ERROR"
                && event.data["device"] == names::device_name(volume).as_str()
            {
                let reason = "the guest keeps it".to_owned();
                return Err(Error::Refused { instance: self.instance, step: "unplugging a disk", reason });
            }
        }
        Ok(())
    }

    /// The nodes that a device of the guest has open.
    async fn plugged(&self) -> Result<Vec<String>, Error> {
        let devices = self.ask("looking at its disks", "query-block", json!({})).await?;
        let node = |device: Value| device["inserted"]["node-name"].as_str().map(str::to_owned);
        Ok(elements(devices).into_iter().filter_map(node).collect())
    }

    pub(super) async fn nodes(&self) -> Result<Vec<Value>, Error> {
        let nodes = self.ask("looking at its disks", "query-named-block-nodes", json!({ "flat": true })).await?;
        Ok(elements(nodes))
    }

    async fn virtual_size(&self, name: &str) -> Result<Bytes, Error> {
        let nodes = self.nodes().await?;
        let size = nodes.iter().find(|node| node["node-name"] == name).and_then(|node| {
            let size = &node["image"]["virtual-size"];
            size.as_u64()
        });
        let unknown = || Error::Refused {
            instance: self.instance,
            step: "looking at its disks",
            reason: format!("it has no {name}"),
        };
        size.map(Bytes).ok_or_else(unknown)
    }

    /// Closes a node's file. A device lets go of its node a moment after it is gone: "in use" is asked again.
    pub(super) async fn close_node(&self, name: &str) -> Result<(), Error> {
        let mut tries = 20;
        loop {
            match self.ask("closing a disk", "blockdev-del", json!({ "node-name": name })).await {
                Err(Error::Refused { reason, .. }) if reason.contains("in use") && tries > 0 => tries -= 1,
                answer => return answer.map(drop),
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Changes the record, on disk before in memory.
    fn remember(&self, change: impl FnOnce(&mut Vec<Disk>)) -> Result<(), Error> {
        let mut record = locked(&self.record);
        let mut next = record.clone();
        change(&mut next.disks);
        next.write(&self.directory)?;
        *record = next;
        Ok(())
    }
}

pub(super) fn elements(value: Value) -> Vec<Value> {
    if let Value::Array(elements) = value { elements } else { Vec::new() }
}

/// An earlier request to unplug waits for the guest still.
fn is_under_way(reason: &str) -> bool {
    reason.contains("already in the process of unplug")
}
