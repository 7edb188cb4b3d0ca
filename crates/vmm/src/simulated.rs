//! VMs without processes: the states, timings and failures of real ones, so that placement, workflows and the agent can
//! be tried with thousands.
//!
//! Owns pretending. A VM is an entry in a map and, if a state directory is set, a small file, by which a driver that
//! starts anew adopts it; volumes are small files that say what they would hold. Failures are ordered with
//! [`Simulated::inject`] and [`Simulated::end`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lucarne_model::{Bytes, InstanceId, Measurement, VolumeId, memory_move::MoveProgress};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    driver::{
        Disk, Driver, EndOfMachine, Layer, Machine, MachineEvent, MachineSpec, Origin, SerialLine, Stop, VolumeSource,
        Ways, WaysIn, check_disks, is_in_place,
    },
    error::Error,
    files::{self, Draft},
    measuring::{self, Description},
    passage,
    record::{Directory, Record},
};

/// What every simulated guest prints when it starts; what is typed to it comes back.
pub const BANNER: &str = "Lucarne guest\r\n";

/// What goes from host to host of a simulated VM.
const MEMORY: &[u8] = b"the simulated memory\n";

/// How the pretended hypervisor behaves.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where VMs are written down to be adopted; none: they end with the driver.
    pub state_dir: Option<PathBuf>,
    /// How long a start takes.
    pub start: Duration,
    /// How long a guest takes to shut down in order.
    pub stop: Duration,
    /// How long making or copying a volume takes.
    pub volume: Duration,
}

/// Something that shall go wrong, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next start fails, as if the hypervisor had died at once with these words.
    StartFails { said: String },
    /// The next start takes so much longer.
    StartIsSlow { by: Duration },
    /// The next volume or snapshot finds its disk full.
    DiskFull,
    /// The next detach finds a guest that does not let go.
    GuestHolds,
}

/// The driver. Each call changes its state in one step, at its end.
#[derive(Debug)]
pub struct Simulated {
    settings: Settings,
    state: Mutex<State>,
    events: mpsc::Sender<MachineEvent>,
    receiver: Mutex<Option<mpsc::Receiver<MachineEvent>>>,
}

#[derive(Debug, Default)]
struct State {
    machines: BTreeMap<InstanceId, Record>,
    /// Those that have run and are not forgotten.
    known: BTreeSet<InstanceId>,
    paused: BTreeSet<InstanceId>,
    held: BTreeSet<InstanceId>,
    faults: VecDeque<Fault>,
}

impl Simulated {
    pub fn new(settings: Settings) -> Self {
        let (events, receiver) = mpsc::channel(1024);
        Self { settings, state: Mutex::default(), events, receiver: Mutex::new(Some(receiver)) }
    }

    /// Orders a failure; it waits for the first call that it fits.
    pub fn inject(&self, fault: Fault) {
        locked(&self.state).faults.push_back(fault);
    }

    /// Ends a VM as if it had ended on its own.
    pub async fn end(&self, instance: InstanceId, why: EndOfMachine) -> Result<(), Error> {
        let ended = locked(&self.state).machines.remove(&instance).ok_or(Error::NotRunning { instance })?;
        self.unwrite(instance)?;
        let event = MachineEvent::Ended { instance, generation: ended.spec.generation, why };
        // Nobody listens when the agent is gone, and a real VM's end would not be heard either.
        let _ = self.events.send(event).await;
        Ok(())
    }

    /// How many VMs run.
    pub fn running(&self) -> usize {
        locked(&self.state).machines.len()
    }

    fn fault<T>(&self, fits: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let faults = &mut locked(&self.state).faults;
        let (at, found) = faults.iter().enumerate().find_map(|(at, fault)| Some((at, fits(fault)?)))?;
        faults.remove(at);
        Some(found)
    }

    fn directory(&self, instance: InstanceId) -> Option<Directory> {
        Some(Directory::of(&self.settings.state_dir.as_ref()?.join("instances"), instance))
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        let Some(directory) = self.directory(record.spec.instance) else { return Ok(()) };
        files::directory(directory.path(), 0o711)?;
        record.write(&directory)
    }

    fn unwrite(&self, instance: InstanceId) -> Result<(), Error> {
        self.directory(instance).map_or(Ok(()), |directory| Record::remove(&directory))
    }

    /// A file that is there while the VM is held.
    fn held_mark(&self, instance: InstanceId) -> Option<PathBuf> {
        Some(self.directory(instance)?.path().join("held"))
    }

    fn mark_held(&self, instance: InstanceId) -> Result<(), Error> {
        let Some(mark) = self.held_mark(instance) else { return Ok(()) };
        fs::write(&mark, []).map_err(|error| Error::file("write", mark, error))
    }

    /// Changes the disks of a VM that runs.
    fn change(
        &self,
        instance: InstanceId,
        change: impl FnOnce(&mut Vec<Disk>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let state = &mut locked(&self.state);
        let record = state.machines.get_mut(&instance).ok_or(Error::NotRunning { instance })?;
        change(&mut record.disks)?;
        self.write(record)
    }

    fn machine(&self, instance: InstanceId) -> Result<Record, Error> {
        locked(&self.state).machines.get(&instance).cloned().ok_or(Error::NotRunning { instance })
    }

    fn set_paused(&self, instance: InstanceId, paused: bool) -> Result<(), Error> {
        let state = &mut locked(&self.state);
        state.machines.get(&instance).ok_or(Error::NotRunning { instance })?;
        if paused {
            state.paused.insert(instance)
        } else {
            state.paused.remove(&instance)
        };
        Ok(())
    }

    async fn hold_at(&self, spec: &MachineSpec, saved: Option<&Path>) -> Result<Vec<Measurement>, Error> {
        let instance = spec.instance;
        let measured = match self.machine(instance).ok().and_then(|record| record.measured) {
            Some(measured) => measured,
            None => measuring::take(&mut spec.clone(), None, &description(spec), saved)?.measured,
        };
        self.start(spec).await?;
        let state = &mut locked(&self.state);
        let record = state.machines.get_mut(&instance).ok_or(Error::NotRunning { instance })?;
        if record.measured.is_none() {
            record.measured = Some(measured.clone());
            self.mark_held(instance)?;
            self.write(record)?;
            state.held.insert(instance);
        }
        Ok(measured.measurements)
    }

    async fn make_file(&self, path: &Path, content: String) -> Result<(), Error> {
        if path.exists() {
            return Ok(());
        }
        pass(self.settings.volume).await;
        let full = self.fault(|fault| (*fault == Fault::DiskFull).then_some(()));
        if full.is_some() {
            return Err(Error::DiskFull { path: path.into() });
        }
        let draft = Draft::new(path, None)?;
        fs::write(draft.path(), content).map_err(|error| Error::file("write", path, error))?;
        draft.publish()
    }
}

#[async_trait]
impl Driver for Simulated {
    async fn version(&self) -> Result<String, Error> {
        Ok("simulated".into())
    }

    async fn adopt(&self) -> Result<Vec<Machine>, Error> {
        let Some(state_dir) = &self.settings.state_dir else { return Ok(Vec::new()) };
        let instances = state_dir.join("instances");
        files::directory(&instances, 0o711)?;
        let entries = fs::read_dir(&instances).map_err(|error| Error::file("read", &instances, error))?;
        let state = &mut locked(&self.state);
        for entry in entries {
            let entry = entry.map_err(|error| Error::file("read", &instances, error))?;
            let Some(instance) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            state.known.insert(instance);
            // Without a record it has ended.
            if let Ok(record) = Record::read(&Directory::of(&instances, instance)) {
                if self.held_mark(instance).is_some_and(|mark| mark.exists()) {
                    state.held.insert(instance);
                }
                state.machines.insert(instance, record);
            }
        }
        let held = &state.held;
        Ok(state.machines.values().map(|record| machine(record, held)).collect())
    }

    async fn start(&self, spec: &MachineSpec) -> Result<(), Error> {
        let instance = spec.instance;
        check_disks(spec)?;
        let slower = self.fault(|fault| if let Fault::StartIsSlow { by } = fault { Some(*by) } else { None });
        pass(self.settings.start + slower.unwrap_or_default()).await;
        let dead = self.fault(|fault| if let Fault::StartFails { said } = fault { Some(said.clone()) } else { None });
        if let Some(said) = dead {
            return Err(Error::Ended { instance, step: "starting", said });
        }
        let state = &mut locked(&self.state);
        match state.machines.get(&instance).map(|running| running.spec.generation) {
            Some(running) if running == spec.generation => return Ok(()),
            Some(running) => return Err(Error::StillRunning { instance, running }),
            None => {}
        }
        let record = Record::new(spec.clone());
        self.write(&record)?;
        state.known.insert(instance);
        state.machines.insert(instance, record);
        Ok(())
    }

    async fn hold(&self, spec: &MachineSpec) -> Result<Vec<Measurement>, Error> {
        self.hold_at(spec, None).await
    }

    async fn hold_warm(&self, spec: &MachineSpec, devices: &Path) -> Result<Vec<Measurement>, Error> {
        self.hold_at(spec, Some(devices)).await
    }

    async fn release(&self, instance: InstanceId) -> Result<(), Error> {
        let measured = self.machine(instance)?.measured;
        let state = &mut locked(&self.state);
        if state.held.contains(&instance) {
            measured.map_or(Ok(()), |measured| measured.check(instance))?;
            self.held_mark(instance).map_or(Ok(()), |mark| files::remove(&mark))?;
            state.held.remove(&instance);
        }
        Ok(())
    }

    async fn pause(&self, instance: InstanceId) -> Result<(), Error> {
        self.set_paused(instance, true)
    }

    async fn resume(&self, instance: InstanceId) -> Result<(), Error> {
        if locked(&self.state).held.contains(&instance) {
            let reason = "it is held until it is let go".into();
            return Err(Error::Refused { instance, step: "resuming it", reason });
        }
        self.set_paused(instance, false)
    }

    async fn is_paused(&self, instance: InstanceId) -> Result<bool, Error> {
        let state = &locked(&self.state);
        state.machines.get(&instance).ok_or(Error::NotRunning { instance })?;
        Ok(state.paused.contains(&instance))
    }

    async fn origin(&self, instance: InstanceId) -> Result<Origin, Error> {
        Ok(self.machine(instance)?.spec.origin)
    }

    async fn process_id(&self, _: InstanceId) -> Option<u32> {
        None
    }
    async fn ways_in(&self, _: InstanceId) -> Option<WaysIn> {
        None
    }

    async fn save_devices(&self, instance: InstanceId, to: &Path) -> Result<MachineSpec, Error> {
        let record = self.machine(instance)?;
        self.make_file(to, format!("the simulated devices of {instance}\n")).await?;
        Ok(MachineSpec { disks: record.disks, ..record.spec })
    }

    async fn read_devices(&self, instance: InstanceId) -> Result<(MachineSpec, Vec<u8>), Error> {
        let record = self.machine(instance)?;
        let devices = format!("the simulated devices of {instance}\n").into_bytes();
        Ok((MachineSpec { disks: record.disks, ..record.spec }, devices))
    }

    async fn stand(&self, spec: &MachineSpec, devices: &Path) -> Result<(), Error> {
        self.wake(spec, devices).await?;
        self.set_paused(spec.instance, true)
    }

    async fn wake(&self, spec: &MachineSpec, devices: &Path) -> Result<(), Error> {
        fs::metadata(devices).map_err(|error| Error::file("open", devices, error))?;
        self.start(spec).await
    }

    async fn start_warm(&self, spec: &MachineSpec, devices: &Path) -> Result<(), Error> {
        self.wake(spec, devices).await
    }

    async fn send(&self, instance: InstanceId, to: Ways) -> Result<(), Error> {
        let (disks, Ways { mut machine, disks: mut ways }) = (self.machine(instance)?.disks, to);
        let broken = |error: std::io::Error| Error::Refused { instance, step: "sending it", reason: error.to_string() };
        for disk in disks {
            let content = fs::read(&disk.path).map_err(|error| Error::file("read", &disk.path, error))?;
            let way = ways.get_mut(&disk.volume).ok_or_else(|| disk.has_no_way(instance))?;
            passage::carry_away(&mut &content[..], &mut **way).await.map_err(broken)?;
            passage::close(&mut **way, Duration::ZERO).await.map_err(broken)?;
        }
        passage::carry_away(&mut &MEMORY[..], &mut *machine).await.map_err(broken)?;
        self.set_paused(instance, true)?;
        // As with a real one: whoever has all of it waits to be told who goes on.
        let _ = passage::close(&mut *machine, Duration::ZERO).await;
        Ok(())
    }

    /// It is done at once.
    async fn progress(&self, _: InstanceId) -> Option<MoveProgress> {
        None
    }

    async fn receive(&self, spec: &MachineSpec, from: Ways) -> Result<Option<Instant>, Error> {
        let (instance, Ways { mut machine, disks: mut ways }) = (spec.instance, from);
        let torn = || Error::Refused { instance, step: "taking it in", reason: "it did not come whole".into() };
        let mut drafts = Vec::new();
        for disk in &spec.disks {
            let (mut content, draft) = (Vec::new(), Draft::new(&disk.path, None)?);
            let way = ways.get_mut(&disk.volume).ok_or_else(|| disk.has_no_way(instance))?;
            passage::take_in(&mut **way, &mut content).await.map_err(|_| torn())?;
            fs::write(draft.path(), content).map_err(|error| Error::file("write", draft.path(), error))?;
            drafts.push(draft);
        }
        let mut memory = Vec::new();
        let taken = passage::take_in(&mut *machine, &mut memory).await.ok().filter(|_| memory == MEMORY);
        let since = taken.ok_or_else(torn)?;
        drafts.into_iter().try_for_each(Draft::publish)?;
        self.start(spec).await?;
        self.set_paused(instance, true)?;
        Ok(Some(since))
    }

    async fn stop(&self, instance: InstanceId, how: Stop) -> Result<(), Error> {
        let runs = locked(&self.state).machines.contains_key(&instance);
        if let (true, Stop::InOrder { patience }) = (runs, how) {
            pass(self.settings.stop.min(patience)).await;
        }
        self.unwrite(instance)?;
        let state = &mut locked(&self.state);
        state.machines.remove(&instance);
        state.paused.remove(&instance);
        state.held.remove(&instance);
        self.held_mark(instance).map_or(Ok(()), |mark| files::remove(&mark))?;
        Ok(())
    }

    async fn forget(&self, instance: InstanceId) -> Result<(), Error> {
        let state = &mut locked(&self.state);
        if let Some(record) = state.machines.get(&instance) {
            return Err(Error::StillRunning { instance, running: record.spec.generation });
        }
        state.known.remove(&instance);
        self.directory(instance).map_or(Ok(()), |directory| files::remove_tree(directory.path()))
    }

    async fn attach(&self, instance: InstanceId, disk: &Disk) -> Result<(), Error> {
        self.change(instance, |disks| {
            if !is_in_place(instance, disks, disk)? {
                disks.push(disk.clone());
            }
            Ok(())
        })
    }

    async fn detach(&self, instance: InstanceId, volume: VolumeId) -> Result<(), Error> {
        if self.fault(|fault| (*fault == Fault::GuestHolds).then_some(())).is_some() {
            return Err(Error::GuestHolds { instance, volume, after: Duration::ZERO });
        }
        let unplug = |disks: &mut Vec<Disk>| {
            disks.retain(|disk| disk.volume != volume);
            Ok(())
        };
        match self.change(instance, unplug) {
            Err(Error::NotRunning { .. }) => Ok(()),
            changed => changed,
        }
    }

    async fn put_over(&self, instance: InstanceId, volume: VolumeId, _: &Layer) -> Result<bool, Error> {
        let has = |record: Record| record.disks.iter().any(|disk| disk.volume == volume);
        Ok(self.machine(instance).is_ok_and(has))
    }

    async fn has_over(&self, _: InstanceId, _: VolumeId, _: &Layer) -> bool {
        false
    }

    async fn complete(&self, instance: InstanceId, volume: VolumeId) -> Result<bool, Error> {
        let step = "making a disk whole";
        let has = self.machine(instance)?.disks.iter().any(|disk| disk.volume == volume);
        pass(self.settings.volume).await;
        let none = || Error::Refused { instance, step, reason: format!("it has no {volume}") };
        has.then_some(true).ok_or_else(none)
    }

    async fn stop_completing(&self, _: InstanceId, _: VolumeId) -> Result<(), Error> {
        Ok(())
    }

    async fn create_volume(&self, path: &Path, size: Bytes, source: VolumeSource<'_>) -> Result<(), Error> {
        self.make_file(path, format!("a simulated volume of {size}: {source:?}\n")).await
    }

    async fn snapshot(&self, disk: &Path, _user: Option<(InstanceId, VolumeId)>, to: &Path) -> Result<(), Error> {
        if !disk.exists() {
            let missing = std::io::ErrorKind::NotFound.into();
            return Err(Error::file("read", disk, missing));
        }
        self.make_file(to, format!("a simulated snapshot of {}\n", disk.display())).await
    }

    async fn console_log(&self, instance: InstanceId) -> Result<Vec<u8>, Error> {
        let known = locked(&self.state).known.contains(&instance);
        Ok(if known { BANNER.into() } else { Vec::new() })
    }

    async fn console(&self, instance: InstanceId) -> Result<Box<dyn SerialLine>, Error> {
        if !locked(&self.state).machines.contains_key(&instance) {
            return Err(Error::NotRunning { instance });
        }
        let (mut ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok(length @ 1..) = ours.read(&mut buffer).await {
                if ours.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        });
        Ok(Box::new(theirs))
    }

    fn events(&self) -> mpsc::Receiver<MachineEvent> {
        let taken_before = || mpsc::channel(1).1;
        locked(&self.receiver).take().unwrap_or_else(taken_before)
    }
}

/// Lets time pass; the clock's tick of a millisecond is too much for a step that takes none.
async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn machine(record: &Record, held: &BTreeSet<InstanceId>) -> Machine {
    Machine {
        spec: record.spec.clone(),
        disks: record.disks.clone(),
        measured: record.measurements(),
        held: held.contains(&record.spec.instance),
    }
}

/// What a pretended machine has of devices.
fn description(spec: &MachineSpec) -> Description {
    let (cards, disks) = (usize::from(spec.nic.is_some()), spec.disks.len());
    Description {
        devices: format!("vcpus {}\ncards {cards}\ndisks {disks}\n", spec.vcpus),
        memory: format!("size {}M\n", spec.memory.as_mib()),
        warm: matches!(spec.origin, Origin::Warm { .. }).then(|| "all that a template has\n".to_owned()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
