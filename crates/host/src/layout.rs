//! Where things lie in the agent's state folder.
//!
//! Owns the paths; pure, so that the reconciler can name files in its steps. Making and checking them is the work of
//! [`crate::folder`] and of the hands.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::{Path, PathBuf};

use lucarne_model::{InstanceId, InterfaceId, ReplicaId, SnapshotId, VolumeId, storage::Digest};

/// The state folder of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// A unix socket's path has at most this many bytes (unix(7): 108, its end included).
    pub const SOCKET_PATH_BYTES: usize = 107;

    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Held by the agent that works here.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    /// Who this host is, and its secrets.
    pub fn identity(&self) -> PathBuf {
        self.root.join("host.json")
    }
    /// The desired state as last heard.
    pub fn desired(&self) -> PathBuf {
        self.root.join("desired.json")
    }
    /// Which generations have ended; see [`crate::reconcile::Ledger`].
    pub fn ledger(&self) -> PathBuf {
        self.root.join("instances.json")
    }
    /// The key with which it proves to the collector who it is.
    pub fn export_key(&self) -> PathBuf {
        self.root.join("export.key")
    }
    /// What this host proves itself with: its event log, its attestation key, its software TPM.
    pub fn attestation(&self) -> PathBuf {
        self.root.join("attestation")
    }
    /// What the office of sealed operations keeps.
    pub fn seals(&self) -> PathBuf {
        self.root.join("seals")
    }
    /// Where it listens for those who are on this host.
    pub fn seal_socket(&self) -> PathBuf {
        self.root.join("seal.sock")
    }
    /// Flow records on their way to the collector.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }
    /// The driver's own.
    pub fn machines(&self) -> PathBuf {
        self.root.join("machines")
    }

    /// What guests' pagers keep, and how VMs sleep.
    pub fn memory(&self) -> PathBuf {
        self.root.join("memory")
    }
    /// A pager's index and store.
    pub fn pages(&self, instance: InstanceId) -> PathBuf {
        self.memory().join(instance.to_string())
    }
    /// Where a VM's process lends its memory, in a directory that is given to its user.
    pub fn lent_memory(&self, instance: InstanceId) -> PathBuf {
        self.memory().join(format!("{instance}.vm")).join("s")
    }
    /// Where a pager listens for the agent.
    pub fn pager_socket(&self, instance: InstanceId) -> PathBuf {
        self.memory().join(format!("{instance}.sock"))
    }
    /// The devices of a VM that sleeps.
    pub fn devices(&self, instance: InstanceId) -> PathBuf {
        self.memory().join(format!("{instance}.devices"))
    }
    /// With what a VM that sleeps is woken; that it is there says that the VM sleeps.
    pub fn asleep(&self, instance: InstanceId) -> PathBuf {
        self.memory().join(format!("{instance}.asleep"))
    }

    /// The memory that a VM went on from, by a name of its own: the warm state may go, its bytes stay.
    pub fn origin(&self, instance: InstanceId) -> PathBuf {
        self.memory().join(format!("{instance}.origin"))
    }

    /// What the memory of a duplicate is of.
    pub fn parent(&self, instance: InstanceId) -> PathBuf {
        self.memory().join(format!("{instance}.parent"))
    }

    /// What is held of cuts, each in a folder.
    pub fn cuts(&self) -> PathBuf {
        self.root.join("cuts")
    }
    pub fn cut(&self, replica: ReplicaId) -> PathBuf {
        self.cuts().join(replica.to_string())
    }

    /// The TPMs of guests, each in a folder, and who certifies them.
    pub fn tpms(&self) -> PathBuf {
        self.root.join("tpms")
    }
    pub fn tpm(&self, instance: InstanceId) -> PathBuf {
        self.tpms().join(instance.to_string())
    }
    pub fn tpm_authority(&self) -> PathBuf {
        self.tpms().join("authority")
    }

    /// Images' warm states, each a folder.
    pub fn warm_states(&self) -> PathBuf {
        self.root.join("warm")
    }
    pub fn warm_state(&self, key: &Digest) -> PathBuf {
        self.warm_states().join(key.as_str())
    }
    /// One that is being made.
    pub fn warm_state_part(&self, key: &Digest) -> PathBuf {
        self.warm_states().join(format!("{key}.part"))
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.as_str())
    }

    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }
    pub fn volume(&self, volume: VolumeId) -> PathBuf {
        self.volumes().join(format!("{volume}.qcow2"))
    }
    /// The blob that the volume is an overlay of, by a name of its own: the cache may then forget it, its bytes stay.
    pub fn volume_base(&self, volume: VolumeId) -> PathBuf {
        self.volumes().join(format!("{volume}.base"))
    }

    /// Recordings of networks, each a folder.
    pub fn recordings(&self) -> PathBuf {
        self.root.join("recordings")
    }

    /// Replays that this host plays, each a folder.
    pub fn replays(&self) -> PathBuf {
        self.root.join("replays")
    }
    /// Loads that this host asks, each a folder.
    pub fn loads(&self) -> PathBuf {
        self.root.join("loads")
    }

    /// What the volume held when it was frozen for the replica.
    pub fn frozen(&self, volume: VolumeId, replica: ReplicaId) -> PathBuf {
        self.volumes().join(format!("{volume}.{replica}.frozen"))
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }
    pub fn snapshot(&self, snapshot: SnapshotId) -> PathBuf {
        self.snapshots().join(format!("{snapshot}.qcow2"))
    }
    /// The blob that the snapshot was uploaded as.
    pub fn snapshot_receipt(&self, snapshot: SnapshotId) -> PathBuf {
        self.snapshots().join(format!("{snapshot}.json"))
    }

    pub fn ports(&self) -> PathBuf {
        self.root.join("ports")
    }
    /// The switch's end of a port.
    pub fn switch_socket(&self, interface: InterfaceId) -> PathBuf {
        self.ports().join(format!("{interface}.sock"))
    }
    /// The VM's end of a port.
    pub fn guest_socket(&self, interface: InterfaceId) -> PathBuf {
        self.ports().join(format!("{interface}.vm"))
    }

    /// How many bytes too long the folder's path is for the sockets in it, if it is.
    pub fn too_long_by(&self) -> Option<usize> {
        let longest = self.switch_socket(InterfaceId::from_bits(0)).as_os_str().len();
        longest.checked_sub(Self::SOCKET_PATH_BYTES).filter(|excess| *excess > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_sockets_would_not_fit_is_told_by_how_much() {
        assert_eq!(Layout::new("/var/lib/lucarne".into()).too_long_by(), None);
        let longest = Layout::new(format!("/{}", "d".repeat(73)).into());
        assert_eq!(longest.switch_socket(InterfaceId::from_bits(1)).as_os_str().len(), Layout::SOCKET_PATH_BYTES);
        assert_eq!(longest.too_long_by(), None);
        assert_eq!(Layout::new(format!("/{}", "d".repeat(75)).into()).too_long_by(), Some(2));
    }
}
