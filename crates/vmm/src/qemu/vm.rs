//! One VM: started, talked to, ended.
//!
//! Owns the VM's process, its connections and its record. Its disks are changed in [`super::disks`].

use std::{
    fs::File,
    io::{self, PipeReader},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use lucarne_model::InstanceId;
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{UnixStream, unix::pipe},
    time::{Instant, sleep, timeout},
};

use super::{
    Shared, User, command_line,
    keeper::{Keeper, Watched, last_words},
    locked,
    mirroring::Coming,
};
use crate::{
    driver::{Disk, MachineSpec, SerialLine, Stop, VirtualTpm, Ways},
    error::Error,
    files,
    limits::{self, CORE, LOCKED_MEMORY, Limits, OPEN_FILES},
    measuring::{self, Given, Measured},
    paging,
    process::{Process, descriptor},
    qmp::{Qmp, QmpError},
    record::{Directory, Record},
    ring::Ring,
    serial::Serial,
    virtual_tpm::{self, Connected},
};

/// What a VM's process may use at most, beyond what its memory and disks are: no core dumps (they hold a tenant's
/// memory), no locked memory, and files enough for its disks.
const LIMITS: &Limits = &[(CORE, 0), (LOCKED_MEMORY, 64 << 10), (OPEN_FILES, 1024)];
/// What is kept of a serial console, and of what QEMU itself prints.
const CONSOLE: u64 = 256 << 10;
const SAID: u64 = 16 << 10;
/// How long QEMU may take to close its disks.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to reach a QEMU that is just starting.
const RETRY: Duration = Duration::from_millis(5);

/// Where a VM's processors begin.
pub(super) enum Entry {
    Boot,
    /// Measured, and standing before its first instruction; or where the devices of its warm state were `saved`, which are
    /// measured too.
    Held {
        saved: Option<PathBuf>,
    },
    /// Where its devices were saved, whose state is in the file.
    Sleep(File),
    /// Where another's were, and standing still there.
    Duplicate(File),
    /// Where its template's were; its card is not among them.
    WarmState(File),
    /// Where another host's VM stands still, which it does too.
    Receive(Ways),
}

/// What comes between the start of its process and that of its processors.
enum Preparation {
    Nothing,
    /// What it was measured as is written down, and its processors are not started. Its devices are loaded before, if it goes
    /// on from a warm state.
    Hold {
        measured: Measured,
        loads: bool,
    },
    /// Its devices are loaded from standard input, and its card is plugged in if it is not among them.
    Load {
        plugs: bool,
    },
    /// Its devices are loaded from standard input, and its processors are not started.
    Stand,
    /// All of it is taken in, and its processors are not started.
    Receive(Ways, Coming),
}

impl Entry {
    /// The arguments of the process, its standard input, and what comes after its start. Of one that is held: what it was
    /// measured as, and the devices that it is given; `coming` are the disks of one that another host sends.
    fn prepare(
        self,
        arguments: Vec<String>,
        (measured, devices, coming): (Measured, Option<File>, Coming),
    ) -> (Vec<String>, Stdio, Preparation) {
        let (mut arguments, stdin, preparation) = match self {
            Self::Boot => return (arguments, Stdio::null(), Preparation::Nothing),
            Self::Held { .. } => match devices {
                None => return (arguments, Stdio::null(), Preparation::Hold { measured, loads: false }),
                Some(devices) => {
                    let hold = Preparation::Hold { measured, loads: true };
                    (command_line::without_nic(arguments), Stdio::from(devices), hold)
                }
            },
            Self::Sleep(file) => (arguments, Stdio::from(file), Preparation::Load { plugs: false }),
            Self::Duplicate(file) => (arguments, Stdio::from(file), Preparation::Stand),
            Self::WarmState(file) => {
                (command_line::without_nic(arguments), Stdio::from(file), Preparation::Load { plugs: true })
            }
            Self::Receive(from) => (arguments, Stdio::null(), Preparation::Receive(from, coming)),
        };
        arguments.extend(["-incoming".to_owned(), "defer".to_owned()]);
        (arguments, stdin, preparation)
    }
}

/// A VM whose process runs, or did a moment ago.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) instance: InstanceId,
    pub(super) generation: u64,
    pub(super) directory: Directory,
    process: Process,
    qmp: Qmp,
    pub(super) patience: Duration,
    serial: Serial,
    pub(super) record: Mutex<Record>,
    keeper: Keeper,
    /// Since when it stands still, of one that came from another host.
    pub(super) still_since: OnceLock<Instant>,
    /// Held for the whole of a disk's copy: QEMU makes one at a time.
    pub(super) copying: tokio::sync::Mutex<()>,
}

impl Vm {
    /// Starts the process and returns when the guest's processors run, or could. On an error nothing of it runs.
    pub(super) async fn start(spec: &MachineSpec, entry: Entry, shared: &Shared) -> Result<Self, Error> {
        let instance = spec.instance;
        let directory = shared.directory(instance);
        let acceleration = shared.acceleration().await;
        let (told, given, coming) = match &entry {
            Entry::Held { saved } => {
                let (told, given) = measure(spec, saved.clone(), shared).await?;
                (told, given, Coming::default())
            }
            Entry::Receive(_) => {
                let (coming, told) = Coming::prepare(spec, shared).await?;
                (told, Given::default(), coming)
            }
            _ => (spec.clone(), Given::default(), Coming::default()),
        };
        let Given { measured, mut descriptors, devices, mut options } = given;
        // From the first on it is one that is to be held, or that comes, also if the agent is killed before that is done.
        let mut record = Record::new(spec.clone());
        record.held = matches!(entry, Entry::Held { .. });
        record.coming = matches!(entry, Entry::Receive(_));
        let (mut arguments, stdin, preparation) =
            entry.prepare(command_line::arguments(&told, &directory, acceleration)?, (measured, devices, coming));
        let user = acceleration.user(shared.settings.user);
        prepare(&record, &told.disks, (&directory, user))?;
        let mut beside = None;
        if let Some(tpm) = &spec.tpm {
            let connected = start_tpm(instance, tpm.clone(), user).await?;
            descriptors.push(connected.descriptor);
            options.extend(connected.options);
            beside = Some(connected.beside);
        }
        arguments.extend(options);
        let said = directory.said();
        let ring = Ring::open(&said, SAID).map_err(|error| Error::file("make", said, error))?;
        let mut command = limits::command(&shared.settings.qemu, "qemu-system-x86", LIMITS)?;
        command.args(arguments);
        descriptor::inherit(&mut command, descriptors);
        if let Some(paging) = &spec.paging {
            paging::lend(&mut command, spec, paging)?;
        }
        let (process, said) = Process::spawn(command, user, stdin).map_err(|source| Error::Process {
            doing: "start",
            instance,
            source,
        })?;
        let said = tokio::spawn(keep_said(said, ring));
        let started = tokio::select! {
            how = process.ended() => {
                // All that it printed is in the pipe: wait for the end of it.
                let _ = timeout(QUIT_PATIENCE, said).await;
                Err(Error::Ended { instance, step: "starting", said: last_words(&directory, how) })
            }
            vm = Self::bring_up(record, directory.clone(), process.clone(), (shared, preparation)) => vm,
        };
        let Err(error) = started else { return started };
        process.kill();
        process.ended().await;
        match beside {
            Some(beside) => Err(beside.explain(error).await),
            None => Err(error),
        }
    }

    async fn bring_up(
        record: Record,
        directory: Directory,
        process: Process,
        (shared, preparation): (&Shared, Preparation),
    ) -> Result<Self, Error> {
        let vm = Self::connect(record, directory, process, shared).await?;
        match preparation {
            Preparation::Nothing => {}
            Preparation::Hold { measured, loads } => {
                if loads {
                    vm.load_devices().await?;
                    vm.plug_nic().await?;
                }
                // From here on an agent that starts anew takes it for a VM that is held, and not for one half started.
                vm.note(|record| record.measured = Some(measured))?;
                return Ok(vm);
            }
            Preparation::Load { plugs } => {
                vm.load_devices().await?;
                if plugs {
                    vm.plug_nic().await?;
                }
            }
            Preparation::Stand => {
                vm.load_devices().await?;
                return Ok(vm);
            }
            Preparation::Receive(from, coming) => {
                let _ = vm.still_since.set(vm.receive(from, coming).await?);
                // From here on it is this host's to keep, whether it is to go on here or not.
                vm.note(|record| record.coming = false)?;
                return Ok(vm);
            }
        }
        vm.ask("starting its processors", "cont", json!({})).await?;
        Ok(vm)
    }

    /// Connects to a process that runs, its guest or not.
    pub(super) async fn connect(
        record: Record,
        directory: Directory,
        process: Process,
        shared: &Shared,
    ) -> Result<Self, Error> {
        let (instance, generation) = (record.spec.instance, record.spec.generation);
        let patience = shared.settings.patience;
        let step = "connecting";
        let late = |_| Error::NoAnswer { instance, step, after: patience };
        let (qmp, line) = timeout(patience, reach(&directory)).await.map_err(late)?;
        let console = directory.console();
        let ring = Ring::open(&console, CONSOLE).map_err(|error| Error::file("make", console, error))?;
        let serial = Serial::new(line, ring);
        let watched =
            Watched { instance, generation, directory: directory.clone(), process: process.clone(), qmp: qmp.clone() };
        let keeper = Keeper::new(watched, qmp.events(), shared.events.clone());
        let (record, still_since, copying) = (Mutex::new(record), OnceLock::new(), tokio::sync::Mutex::default());
        Ok(Self {
            instance,
            generation,
            directory,
            process,
            qmp,
            patience,
            serial,
            record,
            keeper,
            still_since,
            copying,
        })
    }

    /// What it was measured as at its start; empty of one that was not held.
    pub(super) fn measured(&self) -> Option<Measured> {
        locked(&self.record).measured.clone()
    }

    /// Changes its record, and writes it down.
    pub(super) fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let record = {
            let mut record = locked(&self.record);
            change(&mut record);
            record.clone()
        };
        record.write(&self.directory)
    }

    /// Whether it stands before its first instruction, or before the first that is its own.
    pub(super) async fn is_held(&self) -> Result<bool, Error> {
        let state = self.ask("looking at its state", "query-status", json!({})).await?;
        Ok(match state["status"].as_str() {
            Some("prelaunch") => true,
            Some("paused" | "postmigrate") => self.is_to_be_held(),
            _ => false,
        })
    }

    /// Whether it has not been let go.
    pub(super) fn is_to_be_held(&self) -> bool {
        locked(&self.record).held
    }

    /// Lets it begin, if what was measured is still what it was.
    pub(super) async fn release(&self) -> Result<(), Error> {
        if !self.is_held().await? {
            return Ok(());
        }
        if let Some(measured) = self.measured() {
            let instance = self.instance;
            let checked = tokio::task::spawn_blocking(move || measured.check(instance)).await;
            checked.map_err(|error| Error::Process { doing: "look at", instance, source: error.into() })??;
        }
        self.ask("starting its processors", "cont", json!({})).await?;
        self.note_release()
    }

    /// Its processors run, so it is held no more.
    pub(super) fn note_release(&self) -> Result<(), Error> {
        if self.is_to_be_held() { self.note(|record| record.held = false) } else { Ok(()) }
    }

    /// Ends the VM and waits until its process is gone.
    pub(super) async fn stop(&self, how: Stop) {
        self.keeper.end_is_asked_for();
        if let Stop::InOrder { patience } = how {
            let pressed = self.ask("pressing its power button", "system_powerdown", json!({})).await;
            if pressed.is_err() || timeout(patience, self.keeper.ended()).await.is_err() {
                // The guest did not follow; QEMU still may write out what it holds.
                let quit = self.ask("ending it", "quit", json!({}));
                let _ = timeout(QUIT_PATIENCE, async { (quit.await.ok(), self.keeper.ended().await) }).await;
            }
        }
        self.process.kill();
        self.keeper.ended().await;
    }

    pub(super) fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.keeper.has_ended()
    }

    pub(super) fn console(&self) -> Box<dyn SerialLine> {
        self.serial.line()
    }

    pub(super) fn disks(&self) -> Vec<Disk> {
        locked(&self.record).disks.clone()
    }

    pub(super) fn spec(&self) -> MachineSpec {
        locked(&self.record).spec.clone()
    }

    pub(super) fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Asks QEMU to do `command`; `step` says in words what that is for.
    pub(super) async fn ask(
        &self,
        step: &'static str,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, Error> {
        let instance = self.instance;
        self.qmp.execute(command, arguments, self.patience).await.map_err(|error| match error {
            QmpError::Closed => Error::Ended { instance, step, said: last_words(&self.directory, None) },
            QmpError::NoAnswer(after) => Error::NoAnswer { instance, step, after },
            QmpError::Refused(reason) => Error::Refused { instance, step, reason },
        })
    }
}

/// Measures the VM off the runtime's threads: a disk's image may be large.
async fn measure(spec: &MachineSpec, saved: Option<PathBuf>, shared: &Shared) -> Result<(MachineSpec, Given), Error> {
    let description = command_line::description(spec, shared.acceleration().await)?;
    let (mut told, firmware) = (spec.clone(), shared.settings.firmware.clone());
    if !firmware.is_file() {
        return Err(Error::Missing { program: firmware.display().to_string(), package: "seabios" });
    }
    let instance = spec.instance;
    let task = tokio::task::spawn_blocking(move || {
        let given = measuring::take(&mut told, Some(&firmware), &description, saved.as_deref())?;
        Ok((told, given))
    });
    task.await.map_err(|error| Error::Process { doing: "measure", instance, source: error.into() })?
}

/// Off the runtime's threads: the TPM's last process may have to be waited for.
async fn start_tpm(instance: InstanceId, tpm: VirtualTpm, user: Option<User>) -> Result<Connected, Error> {
    let task = tokio::task::spawn_blocking(move || virtual_tpm::start(instance, &tpm, user));
    task.await.map_err(|error| Error::Process { doing: "start the TPM beside", instance, source: error.into() })?
}

/// Makes the VM's directory and gives the process what it must reach, `opened` as its disks.
fn prepare(record: &Record, opened: &[Disk], (directory, user): (&Directory, Option<User>)) -> Result<(), Error> {
    let spec = &record.spec;
    files::directory(directory.path(), 0o711)?;
    files::remove_tree(&directory.run())?;
    files::directory(&directory.run(), 0o700)?;
    files::own(&directory.run(), user)?;
    files::remove(&directory.said())?;
    if let Some(paging) = &spec.paging {
        paging::prepare(paging, user)?;
    }
    for disk in opened {
        files::own(&disk.path, user)?;
    }
    if let Some(network) = spec.nic.as_ref().and_then(|nic| nic.guest_socket.parent()) {
        files::own(network, user)?;
    }
    record.write(directory)
}

/// Connects to QEMU's two sockets, which it makes shortly after its start.
async fn reach(directory: &Directory) -> (Qmp, UnixStream) {
    loop {
        if let Ok(qmp) = Qmp::connect(&directory.qmp()).await
            && let Ok(line) = UnixStream::connect(directory.serial()).await
        {
            return (qmp, line);
        }
        sleep(RETRY).await;
    }
}

/// Keeps what QEMU prints until it ends or the agent does; after that, what it prints goes nowhere.
async fn keep_said(said: PipeReader, mut ring: Ring) {
    let kept: io::Result<()> = async {
        let mut said = pipe::Receiver::from_owned_fd(OwnedFd::from(said))?;
        let mut buffer = [0; 4096];
        loop {
            match said.read(&mut buffer).await? {
                0 => return Ok(()),
                length => ring.append(&buffer[..length])?,
            }
        }
    }
    .await;
    if let Err(error) = kept {
        tracing::warn!(%error, "what QEMU said could not be kept");
    }
}
