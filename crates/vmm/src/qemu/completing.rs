//! A disk of a running VM made whole: what is below it is brought into its own file, while the guest reads and writes.
//!
//! Owns QEMU's job for that and when it may end. The file forgets what is below only once all that was brought is on the disk:
//! QEMU itself would let it forget while its tables are still in memory, and the disk of one that is killed then would be empty.
//! A job that was cut short is begun anew, and what was brought is not brought again.

use lucarne_model::VolumeId;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use super::{command_line as names, disks::elements, vm::Vm};
use crate::error::{Error, says_disk_full};

const COMPLETING: &str = "making a disk whole";
/// Of each disk in a second, so that its guest, and that of whom it was duplicated, have most of what the host's disks give.
const RATE: u64 = 100 << 20;
const LOOK: Duration = Duration::from_millis(20);

impl Vm {
    /// Begins to bring what is below the disk, or goes on with it; whether nothing is below it any more.
    pub(super) async fn complete(&self, volume: VolumeId) -> Result<bool, Error> {
        if !self.has_disk(volume) {
            return Err(self.refused(COMPLETING, format!("it has no {volume}")));
        }
        let (name, top) = (names::completion_name(volume), self.top_of(volume));
        let Some(job) = self.completion(&name).await? else {
            if self.has_below(&top).await? {
                self.begin_completion(&name, &top).await?;
                return Ok(false);
            }
            self.flush(&top).await?;
            return self.close_below(volume).await.map(|()| true);
        };
        match job["status"].as_str() {
            // All is brought, and the file still says what is below it.
            Some("pending") => {
                self.flush(&top).await?;
                self.ask(COMPLETING, "job-finalize", json!({ "id": name })).await?;
                Ok(false)
            }
            Some("concluded") => {
                self.ask(COMPLETING, "job-dismiss", json!({ "id": name })).await?;
                match job["error"].as_str() {
                    None => Ok(false),
                    Some(said) if says_disk_full(said) => Err(Error::DiskFull { path: self.path_of(volume) }),
                    Some(said) => Err(self.refused(COMPLETING, said.to_owned())),
                }
            }
            _ => Ok(false),
        }
    }

    /// Ends the job, if there is one, of this agent or an earlier one. What was brought stays where it is.
    pub(super) async fn stop_completing(&self, volume: VolumeId) -> Result<(), Error> {
        let name = names::completion_name(volume);
        while let Some(job) = self.completion(&name).await? {
            if job["status"] == "concluded" {
                return self.ask(COMPLETING, "job-dismiss", json!({ "id": name })).await.map(drop);
            }
            // Refused when it is at its end anyhow.
            let _ = self.ask(COMPLETING, "job-cancel", json!({ "id": name })).await;
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn begin_completion(&self, name: &str, top: &str) -> Result<(), Error> {
        let job =
            json!({ "job-id": name, "device": top, "speed": RATE, "auto-finalize": false, "auto-dismiss": false });
        self.ask(COMPLETING, "block-stream", job).await.map(drop)
    }

    async fn completion(&self, name: &str) -> Result<Option<Value>, Error> {
        let jobs = self.ask("looking at its jobs", "query-jobs", json!({})).await?;
        Ok(elements(jobs).into_iter().find(|job| job["id"] == name))
    }

    /// Whether the node's file names another that is below it.
    async fn has_below(&self, name: &str) -> Result<bool, Error> {
        let nodes = self.nodes().await?;
        let node = nodes.iter().find(|node| node["node-name"] == name);
        let node = node.ok_or_else(|| self.refused(COMPLETING, format!("it has no {name}")))?;
        Ok(!node["image"]["backing-filename"].is_null())
    }

    /// Brings what QEMU has of the node in its own memory to the disk. Of QMP itself nothing does that.
    async fn flush(&self, name: &str) -> Result<(), Error> {
        let flush = json!({ "command-line": format!("qemu-io {name} flush") });
        let said = self.ask(COMPLETING, "human-monitor-command", flush).await?;
        match said.as_str().map(str::trim).filter(|said| !said.is_empty()) {
            None => Ok(()),
            Some(said) => Err(self.refused(COMPLETING, said.to_owned())),
        }
    }

    /// Closes the files of a disk that is whole beside the one that the guest writes to.
    async fn close_below(&self, volume: VolumeId) -> Result<(), Error> {
        let nodes = self.nodes_of(volume);
        let Some((top, below @ [_, ..])) = nodes.split_last() else { return Ok(()) };
        let open = self.nodes().await?;
        for name in below.iter().rev().filter(|name| open.iter().any(|one| one["node-name"] == name.as_str())) {
            self.close_node(name).await?;
        }
        self.note(|record| {
            record.layers.insert(volume, vec![top.clone()]);
            record.whole.insert(volume);
        })
    }

    fn path_of(&self, volume: VolumeId) -> std::path::PathBuf {
        let disk = self.disks().into_iter().find(|disk| disk.volume == volume);
        disk.map(|disk| disk.path).unwrap_or_default()
    }
}
