//! The hypervisor driver: what the host agent may ask of a VM, whichever way it is run.
//!
//! Owns the trait and its words. [`crate::qemu`] does it with processes; [`crate::simulated`] without, with the same
//! states and timings, so that placement and workflows can be tried with thousands. Deciding what to ask is the agent's.

use std::{collections::BTreeMap, path::PathBuf};

use async_trait::async_trait;
use lucarne_model::{
    Bytes, InstanceId, MacAddress, Measurement, Vcpus, VolumeId,
    memory_move::MoveProgress,
    paging::PageKey,
    storage::{Digest, DiskFormat},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::Instant,
};

use crate::Error;

/// How many disks a VM can have; slots count from 0. Each is a hotplug port, which costs the guest about 20 ms of its boot
/// when its processor is emulated.
pub const SLOTS: u8 = 8;

/// Everything a VM is started with; kept beside it on disk so that an agent that starts anew knows what it adopts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    pub instance: InstanceId,
    /// Counts the starts of this instance; see [`lucarne_model::instance::Instance::generation`].
    pub generation: u64,
    pub vcpus: Vcpus,
    pub memory: Bytes,
    pub boot: Boot,
    /// A template of a warm state has none.
    pub nic: Option<Nic>,
    /// Volumes attached at the start.
    pub disks: Vec<Disk>,
    /// How its memory is lent to a pager; none: all of it stays in the host's.
    #[serde(default)]
    pub paging: Option<Paging>,
    #[serde(default)]
    pub origin: Origin,
    #[serde(default)]
    pub tpm: Option<VirtualTpm>,
}

/// A TPM of the VM's own. Its state outlives the VM's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualTpm {
    /// swtpm's folder, which is given to the VMs' user.
    pub state: PathBuf,
    /// The certificate of its endorsement key in DER, as the guest can read it from the TPM.
    pub certificate: PathBuf,
}

/// Where a VM comes from. One that is to be the like of another must be made of the same devices in the same places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It boots, and has no VM generation id: so earlier builds started VMs.
    #[default]
    Boot,
    /// It boots, and can be told that it is another machine than it was.
    Fresh {
        /// What its guest knows that by (VM generation id).
        generation_id: u128,
    },
    /// It boots to be saved as a warm state: the place of its network card is empty, and it is nobody's instance.
    Template,
    /// It went on from a warm state.
    Warm {
        /// What tells its guest that it is another machine than all that went on from the same state (VM generation id).
        generation_id: u128,
        /// The digest of that state's memory; none when nothing of its memory is there any more, but all of it here.
        memory: Option<Digest>,
        /// Of all of that state.
        state: Digest,
    },
}

impl Origin {
    /// Of a VM all of whose memory was brought to another host.
    #[must_use]
    pub fn brought(self) -> Self {
        match self {
            Self::Warm { generation_id, state, .. } => Self::Warm { generation_id, memory: None, state },
            other => other,
        }
    }

    /// Of a VM that goes on where this one was, as another machine, and whose memory comes from there.
    #[must_use]
    pub fn duplicate(self, generation_id: u128) -> Self {
        match self.brought() {
            Self::Fresh { .. } => Self::Fresh { generation_id },
            Self::Warm { memory, state, .. } => Self::Warm { generation_id, memory, state },
            other => other,
        }
    }
}

/// How a VM's process lends its guest's memory to a pager. A guest that touches memory for the first time stands still until
/// a pager serves, the first time while its process is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// The library that does it, preloaded into the process; the VMs' user must be able to read it.
    pub library: PathBuf,
    /// Where it listens: in a directory of its own, which is given to the VMs' user.
    pub socket: PathBuf,
    /// The key of the pages, for a VM that wakes; none: a new one. It is not kept with the rest of this.
    #[serde(skip)]
    pub key: Option<PageKey>,
}

/// What the VM boots from, as files on this host. All paths here are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boot {
    Kernel {
        kernel: PathBuf,
        initramfs: PathBuf,
        command_line: String,
    },
    /// The disk in slot 0.
    FirstDisk,
}

/// The VM's only network card: unix datagrams to the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub mac: MacAddress,
    /// The switch's socket, to which QEMU sends; whoever binds it sees to it that QEMU's user may.
    pub switch_socket: PathBuf,
    /// QEMU's own socket.
    pub guest_socket: PathBuf,
}

/// A volume's file at a slot of the VM's bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub volume: VolumeId,
    pub slot: u8,
    pub path: PathBuf,
    pub format: DiskFormat,
    /// As large as the guest sees it; none in records of earlier builds.
    #[serde(default)]
    pub size: Option<Bytes>,
    /// The image that it is an overlay of, if it is one and what it holds is to be measured.
    #[serde(default)]
    pub base: Option<Base>,
}

impl Disk {
    /// What it is made as where another host is to bring what it holds.
    pub(crate) fn source(&self) -> VolumeSource<'_> {
        match &self.base {
            Some(Base { path, format }) => VolumeSource::Overlay { base: path, format: *format },
            None => VolumeSource::Empty,
        }
    }

    pub(crate) fn has_no_way(&self, instance: InstanceId) -> Error {
        let reason = format!("there is no way for {}", self.volume);
        Error::Refused { instance, step: "bringing its disks from host to host", reason }
    }
}

/// A file that never changes, below a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub path: PathBuf,
    pub format: DiskFormat,
}

/// What is put over a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of all layers of that volume; at most 28 bytes.
    pub name: String,
    pub path: PathBuf,
}

/// Where a disk can go at a VM that has `disks`: whether it is there already, or why it cannot be.
pub(crate) fn is_in_place(instance: InstanceId, disks: &[Disk], disk: &Disk) -> Result<bool, Error> {
    let Disk { volume, slot, .. } = *disk;
    if disks.iter().any(|known| known.volume == volume) {
        return Ok(true);
    }
    if slot >= SLOTS {
        return Err(Error::NoSlot { instance, slot });
    }
    let taken = disks.iter().any(|known| known.slot == slot);
    if taken { Err(Error::SlotTaken { instance, slot }) } else { Ok(false) }
}

/// The same for all disks that a VM is started with.
pub(crate) fn check_disks(spec: &MachineSpec) -> Result<(), Error> {
    for (at, disk) in spec.disks.iter().enumerate() {
        if is_in_place(spec.instance, &spec.disks[..at], disk)? {
            return Err(Error::Impossible { reason: format!("{} is given twice", disk.volume) });
        }
    }
    Ok(())
}

/// What a driver tells on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The VM ended without [`Driver::stop`]: it died, or its guest powered itself off.
    Ended { instance: InstanceId, generation: u64, why: EndOfMachine },
    /// The guest rebooted itself; the VM goes on.
    Reset { instance: InstanceId },
}

/// How a VM is reached by what is not its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaysIn {
    /// QEMU's process.
    pub process: u32,
    /// A monitor of QEMU that the agent does not talk to. One that an agent without sealed operations started has none there.
    pub monitor: PathBuf,
    /// The ring of what it wrote to its serial console; see [`crate::console_contents`].
    pub console: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndOfMachine {
    /// The guest shut down.
    GuestShutdown,
    /// A sealed operation took its power away.
    SwitchedOff,
    /// The process died; the tail of what it said on stderr.
    Died { said: String },
}

/// A VM that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub spec: MachineSpec,
    /// The disks that it has now; the spec's and those attached since.
    pub disks: Vec<Disk>,
    /// What it was measured as, if it was started by [`Driver::hold`].
    pub measured: Option<Vec<Measurement>>,
    /// Whether it still stands before its first instruction.
    pub held: bool,
}

/// How to end a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Press the power button, wait up to this long, then kill.
    InOrder {
        patience: std::time::Duration,
    },
    Kill,
}

/// A serial line, both ways.
pub trait SerialLine: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> SerialLine for T {}

/// A way to another host's driver, both ways.
pub trait Passage: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Passage for T {}

/// All the ways that a VM goes to another host by, or comes: one of its own, and one for each of its disks.
pub struct Ways {
    pub machine: Box<dyn Passage>,
    pub disks: BTreeMap<VolumeId, Box<dyn Passage>>,
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ways").field("disks", &self.disks.keys()).finish_non_exhaustive()
    }
}

/// Every call is idempotent and safe to repeat after the agent was killed in the middle of it.
#[async_trait]
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// The hypervisor and its acceleration in words, such as `QEMU 7.2.22 (TCG)`; an error names what is missing.
    async fn version(&self) -> Result<String, Error>;

    /// Finds the VMs that run from before; called once, first.
    async fn adopt(&self) -> Result<Vec<Machine>, Error>;

    /// Starts the VM and returns when its processors run. Already running with this generation: does nothing.
    async fn start(&self, spec: &MachineSpec) -> Result<(), Error>;

    /// Starts the VM, measures all that it is made of as its process is given it, and leaves its processors standing before
    /// their first instruction. Held already with this generation, or let go: says what was measured then.
    async fn hold(&self, spec: &MachineSpec) -> Result<Vec<Measurement>, Error>;
    /// As [`Driver::hold`], of one of [`Origin::Warm`]: it goes on where that state was saved, of whose devices a copy is loaded
    /// that was hashed as it was made, and stands before the first instruction that is its own.
    async fn hold_warm(&self, spec: &MachineSpec, devices: &std::path::Path) -> Result<Vec<Measurement>, Error>;
    /// Lets a held VM begin; refused when a file that was measured has changed since. One that runs: does nothing.
    async fn release(&self, instance: InstanceId) -> Result<(), Error>;

    /// Lets the VM's processors stand still until [`Driver::resume`].
    async fn pause(&self, instance: InstanceId) -> Result<(), Error>;
    /// Refused of one that is held.
    async fn resume(&self, instance: InstanceId) -> Result<(), Error>;
    /// Whether the VM stands still by [`Driver::pause`], or was woken and never let go; not of one that is held.
    async fn is_paused(&self, instance: InstanceId) -> Result<bool, Error>;
    /// Where a VM that runs comes from: what another host must know to take it in.
    async fn origin(&self, instance: InstanceId) -> Result<Origin, Error>;
    /// The VM's process, if it has one.
    async fn process_id(&self, instance: InstanceId) -> Option<u32>;
    /// How sealed operations reach a VM; none of one that has no process.
    async fn ways_in(&self, instance: InstanceId) -> Option<WaysIn>;
    /// Writes the state of a paused VM's devices to a file, which then is there whole, and returns with what it can be woken.
    /// Its memory is not in the file. The VM stays as it is: it may be resumed, or killed and woken later.
    async fn save_devices(&self, instance: InstanceId, to: &std::path::Path) -> Result<MachineSpec, Error>;
    /// The same without a file, for who lets the VM go on at once.
    async fn read_devices(&self, instance: InstanceId) -> Result<(MachineSpec, Vec<u8>), Error>;
    /// Starts a VM that goes on where another one's devices were saved, of the same devices in the same places, and whose memory
    /// was what its own must be. It stands still, to go on by [`Driver::resume`]. Already here with this generation: does nothing.
    async fn stand(&self, spec: &MachineSpec, devices: &std::path::Path) -> Result<(), Error>;
    /// Starts a VM that goes on where its devices were saved; its memory must be what it was then.
    async fn wake(&self, spec: &MachineSpec, devices: &std::path::Path) -> Result<(), Error>;
    /// Starts a VM from a warm state, of [`Origin::Warm`]: it goes on where the devices of an [`Origin::Template`] were saved,
    /// and finds its network card plugged in. Already running with this generation: does nothing.
    async fn start_warm(&self, spec: &MachineSpec, devices: &std::path::Path) -> Result<(), Error>;

    /// Brings a running VM, its disks, memory and devices, to another host, where [`Driver::receive`] takes it in. When it is
    /// done the VM stands still here, and its disks are as they are there; [`Driver::resume`] lets it go on here, if nobody
    /// else does. On an error it runs here as before.
    async fn send(&self, instance: InstanceId, to: Ways) -> Result<(), Error>;
    /// How far [`Driver::send`] has come, while it is under way; none where that cannot be told.
    async fn progress(&self, instance: InstanceId) -> Option<MoveProgress>;
    /// Takes in a VM that another host sends. When it is done the VM stands still, to go on by [`Driver::resume`], and its
    /// disks are in their files; on an error there is nothing of it here, and what had a disk's name before has it still. Since
    /// when it stands still is returned, if that is known. Standing here already with this generation: does nothing.
    async fn receive(&self, spec: &MachineSpec, from: Ways) -> Result<Option<Instant>, Error>;

    /// Ends the VM and returns when nothing of it runs. Not running: does nothing.
    async fn stop(&self, instance: InstanceId, how: Stop) -> Result<(), Error>;

    /// Deletes all that the driver keeps of a VM that does not run: sockets, logs, its spec.
    async fn forget(&self, instance: InstanceId) -> Result<(), Error>;

    async fn attach(&self, instance: InstanceId, disk: &Disk) -> Result<(), Error>;
    /// Returns when the guest has let go and the file is closed.
    async fn detach(&self, instance: InstanceId, volume: VolumeId) -> Result<(), Error>;

    /// Has what a VM that stands still writes to a volume from now on go to the file `layer`, an overlay over the one that has the
    /// volume's path, which then changes no more; QEMU goes on knowing both by these names. Done already: does nothing. False: the
    /// VM does not run, or has no such volume.
    async fn put_over(&self, instance: InstanceId, volume: VolumeId, layer: &Layer) -> Result<bool, Error>;
    /// Whether the VM writes to that layer.
    async fn has_over(&self, instance: InstanceId, volume: VolumeId, layer: &Layer) -> bool;

    /// Brings what is below a volume of a VM that runs into the volume's own file, while its guest goes on; true once nothing is
    /// below it. To be called until then: what there is to do is done between the calls, and what was done counts whoever dies.
    async fn complete(&self, instance: InstanceId, volume: VolumeId) -> Result<bool, Error>;
    /// Leaves that at what was done. Nothing is being done: does nothing.
    async fn stop_completing(&self, instance: InstanceId, volume: VolumeId) -> Result<(), Error>;

    /// Makes the file of a new volume. The file exists whole or not at all. Existing already: does nothing.
    async fn create_volume(&self, path: &std::path::Path, size: Bytes, source: VolumeSource<'_>) -> Result<(), Error>;
    /// Copies the volume's content at one instant to a self-contained qcow2 file at `to`; `user` is the VM that has it.
    async fn snapshot(
        &self,
        disk: &std::path::Path,
        user: Option<(InstanceId, VolumeId)>,
        to: &std::path::Path,
    ) -> Result<(), Error>;

    /// What the serial console printed last, oldest byte first; bounded.
    async fn console_log(&self, instance: InstanceId) -> Result<Vec<u8>, Error>;
    /// An interactive line to the serial console; several may be open.
    async fn console(&self, instance: InstanceId) -> Result<Box<dyn SerialLine>, Error>;

    /// The driver's events, from now on. Taken once, by the agent.
    fn events(&self) -> mpsc::Receiver<MachineEvent>;
}

/// What a new volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeSource<'a> {
    Empty,
    /// A full copy of a qcow2 file.
    Copy {
        from: &'a std::path::Path,
    },
    /// An overlay over a file that never changes.
    Overlay {
        base: &'a std::path::Path,
        format: DiskFormat,
    },
    /// The same over a qcow2 file that will not change once this is written to.
    Layer {
        below: &'a std::path::Path,
    },
}
