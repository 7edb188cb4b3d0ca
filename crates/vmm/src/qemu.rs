//! VMs as QEMU processes.
//!
//! Owns which VMs run on this host, and that the calls for one VM happen one after the other. [`command_line`] says what
//! a VM is made of, [`vm`] starts, watches and ends one, [`adoption`] finds those of an earlier agent, [`disks`] changes
//! the disks of a running one, [`sleep`] and [`migration`] take one away and bring one in, [`mirroring`] its disks.
//!
//! Where the agent is root, VMs run as [`Settings::user`]. What that user must reach: every directory from `/` to the
//! state directory and to all disks, images and sockets needs its `x`; image files, kernels and base disks its `r`.
//! Volumes are given to it when made and when attached, and so is the directory of the network socket.

mod acceleration;
mod adoption;
mod command_line;
mod completing;
mod disks;
mod keeper;
mod migration;
mod mirroring;
mod sleep;
mod vm;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lucarne_model::{Bytes, InstanceId, Measurement, VolumeId, memory_move::MoveProgress};
use tokio::{
    sync::{OnceCell, mpsc},
    time::Instant,
};

pub use self::acceleration::Acceleration;
use self::vm::{Entry, Vm};
use crate::{
    driver::{
        Disk, Driver, Layer, Machine, MachineEvent, MachineSpec, Origin, SerialLine, Stop, VolumeSource, Ways, WaysIn,
    },
    error::Error,
    files::{self, Draft},
    record::Directory,
    ring,
    tool::Tool,
    volumes::Volumes,
};

/// A numeric user and group; neither needs an entry in `/etc/passwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// Ids that neither Debian nor systemd gives to anyone.
    pub const DEFAULT: Self = Self { uid: 70_707, gid: 70_707 };
}

/// How VMs are run on this host; [`Settings::new`] has values that work.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the driver keeps its records, sockets and logs, under `instances/`; short enough for socket paths.
    pub state_dir: PathBuf,
    /// As whom VMs and disk tools run; none: as the agent itself, which then should not be root.
    pub user: Option<User>,
    /// The QEMU binary, by path or looked up in PATH.
    pub qemu: PathBuf,
    pub qemu_img: PathBuf,
    /// The firmware of VMs that are measured; the others get the same from QEMU's own folder.
    pub firmware: PathBuf,
    /// How VMs get their speed; none: found out.
    pub acceleration: Option<Acceleration>,
    /// How long QEMU may take to answer.
    pub patience: Duration,
    /// How long a guest may take to let go of a disk.
    pub detach_patience: Duration,
    /// How long the copy of a disk may take.
    pub copy_patience: Duration,
    /// What the memory and each disk of a VM that moves may take a second on their way; none: no limit.
    pub move_rate: Option<Bytes>,
}

impl Settings {
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            user: rustix::process::geteuid().is_root().then_some(User::DEFAULT),
            qemu: "qemu-system-x86_64".into(),
            firmware: "/usr/share/seabios/bios-256k.bin".into(),
            qemu_img: "qemu-img".into(),
            acceleration: None,
            patience: Duration::from_secs(30),
            detach_patience: Duration::from_secs(20),
            copy_patience: Duration::from_secs(3600),
            move_rate: None,
        }
    }
}

/// Events that the agent may be behind; the VMs' keepers then wait for it.
const EVENTS: usize = 1024;
/// The longest path that a unix socket can have on Linux.
const LONGEST_SOCKET_PATH: usize = 107;

/// The driver. Dropping it leaves the VMs running; another finds them with [`Driver::adopt`].
#[derive(Debug)]
pub struct Qemu {
    shared: Arc<Shared>,
    receiver: Mutex<Option<mpsc::Receiver<MachineEvent>>>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    instances: PathBuf,
    volumes: Volumes,
    acceleration: OnceCell<Acceleration>,
    slots: Mutex<BTreeMap<InstanceId, Arc<Slot>>>,
    events: mpsc::Sender<MachineEvent>,
}

/// The place of one VM.
#[derive(Debug, Default)]
struct Slot {
    /// Held for the whole of a start, stop, attach, detach or forget: it is the right to change the VM.
    turn: tokio::sync::Mutex<()>,
    vm: Mutex<Option<Arc<Vm>>>,
}

impl Qemu {
    /// Makes the directories and checks that VMs can reach them. Needs no QEMU yet.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let state_dir = std::path::absolute(&settings.state_dir)
            .map_err(|error| Error::file("name", &settings.state_dir, error))?;
        let settings = Settings { state_dir, ..settings };
        let instances = settings.state_dir.join("instances");
        let longest = Directory::of(&instances, InstanceId::from_bits(0)).serial();
        if longest.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(Error::Path { path: longest, reason: "a socket's path has at most 107 bytes" });
        }
        files::directory(&settings.state_dir, 0o711)?;
        files::directory(&instances, 0o711)?;
        files::reachable(&instances, settings.user)?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let volumes = Volumes::new(&settings);
        let (acceleration, slots) = (OnceCell::new(), Mutex::default());
        let shared = Shared { settings, instances, volumes, acceleration, slots, events };
        Ok(Self { shared: Arc::new(shared), receiver: Mutex::new(Some(receiver)) })
    }

    /// In a task of its own: a caller that stops waiting must not leave a process that is known to nobody.
    async fn start_in_task(&self, spec: &MachineSpec, entry: Entry) -> Result<(), Error> {
        let (shared, spec) = (self.shared.clone(), spec.clone());
        let instance = spec.instance;
        match tokio::spawn(async move { shared.start(&spec, entry).await }).await {
            Ok(started) => started,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::NotRunning { instance }),
        }
    }

    async fn hold_at(&self, spec: &MachineSpec, entry: Entry) -> Result<Vec<Measurement>, Error> {
        self.start_in_task(spec, entry).await?;
        let measured = self.running(spec.instance)?.measured();
        let unmeasured = || Error::StillRunning { instance: spec.instance, running: spec.generation };
        Ok(measured.ok_or_else(unmeasured)?.measurements)
    }

    fn running(&self, instance: InstanceId) -> Result<Arc<Vm>, Error> {
        self.shared.slot(instance).running().ok_or(Error::NotRunning { instance })
    }
}

impl Shared {
    fn slot(&self, instance: InstanceId) -> Arc<Slot> {
        locked(&self.slots).entry(instance).or_default().clone()
    }

    fn directory(&self, instance: InstanceId) -> Directory {
        Directory::of(&self.instances, instance)
    }

    async fn acceleration(&self) -> Acceleration {
        let found = || async {
            match self.settings.acceleration {
                Some(set) => set,
                None => acceleration::find(&self.settings).await,
            }
        };
        *self.acceleration.get_or_init(found).await
    }

    async fn start(&self, spec: &MachineSpec, entry: Entry) -> Result<(), Error> {
        let slot = self.slot(spec.instance);
        let _turn = slot.turn.lock().await;
        match slot.running() {
            Some(vm) if vm.generation == spec.generation => Ok(()),
            Some(vm) => Err(Error::StillRunning { instance: spec.instance, running: vm.generation }),
            None => {
                let vm = Vm::start(spec, entry, self).await?;
                *locked(&slot.vm) = Some(Arc::new(vm));
                Ok(())
            }
        }
    }
}

impl Slot {
    fn running(&self) -> Option<Arc<Vm>> {
        locked(&self.vm).clone().filter(|vm| !vm.has_ended())
    }
}

/// What a panic elsewhere left half-changed cannot be: these locks guard single assignments.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Driver for Qemu {
    async fn version(&self) -> Result<String, Error> {
        let Settings { qemu, user, patience, .. } = self.shared.settings.clone();
        let tool = Tool { program: qemu.clone(), package: "qemu-system-x86", user, patience, limits: &[] };
        let printed = tool.run(&qemu, &["--version".into()]).await?;
        // "QEMU emulator version 7.2.22 (Debian ...)"
        let number = printed.split_whitespace().nth(3).unwrap_or("of unknown version");
        Ok(format!("QEMU {number} ({})", self.shared.acceleration().await))
    }

    async fn adopt(&self) -> Result<Vec<Machine>, Error> {
        adoption::adopt(&self.shared).await
    }

    async fn start(&self, spec: &MachineSpec) -> Result<(), Error> {
        self.start_in_task(spec, Entry::Boot).await
    }

    async fn hold(&self, spec: &MachineSpec) -> Result<Vec<Measurement>, Error> {
        self.hold_at(spec, Entry::Held { saved: None }).await
    }

    async fn hold_warm(&self, spec: &MachineSpec, devices: &Path) -> Result<Vec<Measurement>, Error> {
        self.hold_at(spec, Entry::Held { saved: Some(devices.into()) }).await
    }

    async fn release(&self, instance: InstanceId) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        slot.running().ok_or(Error::NotRunning { instance })?.release().await
    }

    async fn pause(&self, instance: InstanceId) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        slot.running().ok_or(Error::NotRunning { instance })?.pause().await
    }

    async fn resume(&self, instance: InstanceId) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        slot.running().ok_or(Error::NotRunning { instance })?.resume().await
    }

    async fn is_paused(&self, instance: InstanceId) -> Result<bool, Error> {
        self.running(instance)?.is_paused().await
    }

    async fn origin(&self, instance: InstanceId) -> Result<Origin, Error> {
        Ok(self.running(instance)?.spec().origin)
    }

    async fn process_id(&self, instance: InstanceId) -> Option<u32> {
        Some(self.running(instance).ok()?.process_id())
    }

    async fn ways_in(&self, instance: InstanceId) -> Option<WaysIn> {
        let process = self.process_id(instance).await?;
        let directory = self.shared.directory(instance);
        Some(WaysIn { process, monitor: directory.sealed_monitor(), console: directory.console() })
    }

    async fn save_devices(&self, instance: InstanceId, to: &Path) -> Result<MachineSpec, Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        let vm = slot.running().ok_or(Error::NotRunning { instance })?;
        let user = self.shared.acceleration().await.user(self.shared.settings.user);
        vm.save_devices(to, user).await
    }

    async fn read_devices(&self, instance: InstanceId) -> Result<(MachineSpec, Vec<u8>), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        let vm = slot.running().ok_or(Error::NotRunning { instance })?;
        let user = self.shared.acceleration().await.user(self.shared.settings.user);
        vm.read_devices(user).await
    }

    async fn stand(&self, spec: &MachineSpec, devices: &Path) -> Result<(), Error> {
        self.start_in_task(spec, Entry::Duplicate(sleep::open(devices)?)).await
    }

    async fn wake(&self, spec: &MachineSpec, devices: &Path) -> Result<(), Error> {
        self.start_in_task(spec, Entry::Sleep(sleep::open(devices)?)).await
    }

    async fn start_warm(&self, spec: &MachineSpec, devices: &Path) -> Result<(), Error> {
        self.start_in_task(spec, Entry::WarmState(sleep::open(devices)?)).await
    }

    async fn send(&self, instance: InstanceId, to: Ways) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        let vm = slot.running().ok_or(Error::NotRunning { instance })?;
        let user = self.shared.acceleration().await.user(self.shared.settings.user);
        vm.send(to, user, self.shared.settings.move_rate).await
    }

    async fn progress(&self, instance: InstanceId) -> Option<MoveProgress> {
        self.running(instance).ok()?.progress().await.ok()
    }

    async fn receive(&self, spec: &MachineSpec, from: Ways) -> Result<Option<Instant>, Error> {
        self.start_in_task(spec, Entry::Receive(from)).await?;
        Ok(self.running(spec.instance)?.still_since.get().copied())
    }

    async fn stop(&self, instance: InstanceId, how: Stop) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        if let Some(vm) = slot.running() {
            vm.stop(how).await;
        }
        *locked(&slot.vm) = None;
        Ok(())
    }

    async fn forget(&self, instance: InstanceId) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        if let Some(vm) = slot.running() {
            return Err(Error::StillRunning { instance, running: vm.generation });
        }
        files::remove_tree(self.shared.directory(instance).path())?;
        let mut slots = locked(&self.shared.slots);
        // Ours and the map's: nobody waits for a turn, who would go on with a slot that is no longer in the map.
        if Arc::strong_count(&slot) == 2 {
            slots.remove(&instance);
        }
        Ok(())
    }

    async fn attach(&self, instance: InstanceId, disk: &Disk) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        let vm = slot.running().ok_or(Error::NotRunning { instance })?;
        vm.attach(disk, self.shared.settings.user).await
    }

    async fn detach(&self, instance: InstanceId, volume: VolumeId) -> Result<(), Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        match slot.running() {
            Some(vm) => vm.detach(volume, self.shared.settings.detach_patience).await,
            None => Ok(()),
        }
    }

    async fn put_over(&self, instance: InstanceId, volume: VolumeId, layer: &Layer) -> Result<bool, Error> {
        let slot = self.shared.slot(instance);
        let _turn = slot.turn.lock().await;
        match slot.running() {
            Some(vm) => vm.put_over(volume, layer, self.shared.settings.user).await,
            None => Ok(false),
        }
    }

    async fn has_over(&self, instance: InstanceId, volume: VolumeId, layer: &Layer) -> bool {
        self.running(instance).is_ok_and(|vm| vm.has_over(volume, layer))
    }

    async fn complete(&self, instance: InstanceId, volume: VolumeId) -> Result<bool, Error> {
        self.running(instance)?.complete(volume).await
    }

    async fn stop_completing(&self, instance: InstanceId, volume: VolumeId) -> Result<(), Error> {
        match self.running(instance) {
            Ok(vm) => vm.stop_completing(volume).await,
            Err(_) => Ok(()),
        }
    }

    async fn create_volume(&self, path: &Path, size: Bytes, source: VolumeSource<'_>) -> Result<(), Error> {
        self.shared.volumes.create(path, size, source).await
    }

    async fn snapshot(&self, disk: &Path, user: Option<(InstanceId, VolumeId)>, to: &Path) -> Result<(), Error> {
        if to.exists() {
            return Ok(());
        }
        let holder = user.and_then(|(instance, volume)| Some((self.running(instance).ok()?, volume)));
        match holder.filter(|(vm, volume)| vm.has_disk(*volume)) {
            None => self.shared.volumes.snapshot(disk, to).await,
            Some((vm, volume)) => {
                let draft = Draft::new(to, self.shared.settings.user)?;
                let patience = self.shared.settings.copy_patience;
                vm.copy_disk(volume, draft.path(), &self.shared.volumes, patience).await?;
                draft.publish()
            }
        }
    }

    async fn console_log(&self, instance: InstanceId) -> Result<Vec<u8>, Error> {
        let path = self.shared.directory(instance).console();
        ring::contents(&path).map_err(|error| Error::file("read", path, error))
    }

    async fn console(&self, instance: InstanceId) -> Result<Box<dyn SerialLine>, Error> {
        Ok(self.running(instance)?.console())
    }

    fn events(&self) -> mpsc::Receiver<MachineEvent> {
        let taken_before = || mpsc::channel(1).1;
        locked(&self.receiver).take().unwrap_or_else(taken_before)
    }
}
