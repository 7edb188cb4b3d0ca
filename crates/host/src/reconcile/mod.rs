//! The reconciler: from what is wanted and what is here to the next steps.
//!
//! Owns the order of things: a port before its VM, a VM ended before its volumes, which are deleted before it is forgotten, a blob before what is made from it. Pure:
//! the agent calls [`next_steps`] whenever anything happened, begins the steps ([`Known::handle_begun`]) and tells how they
//! went ([`Known::handle_done`]). Nothing is ended by being left out of the desired state; no generation is started twice.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod cuts;
#[cfg(test)]
mod cuts_tests;
mod known;
mod ledger;
#[cfg(test)]
mod migration_tests;
mod network_plan;
mod proof;
mod report;
mod step;
#[cfg(test)]
mod tests;
mod warm;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_model::{
    Bytes, Moment,
    desired::{Desired, DesiredInstance, DesiredMigration, DesiredSnapshot, DesiredVolume, Power, VolumeContent},
    instance::{Attachment, StateReason},
    storage::{Blob, BootSource, DiskFormat},
};
use lucarne_vmm::driver::{Base, Boot, Disk, MachineSpec, Nic, Origin, Stop};

pub use known::{Cached, Failure, Fault, Known, Product, Progress, Proof, Prospect, Running, Standing};
pub(crate) use known::{base_blob, content_blob};
pub use ledger::{Ended, Entry, Ledger};
pub use report::report;
pub use step::{Activity, Ports, Step, Subject};
pub use warm::{Beginning, Template, WarmState};

use crate::{layout::Layout, settings::Pace, virtual_tpms};
use known::coming;
use network_plan::{endpoint_of, network_plan};

/// What can be done now to bring what is here towards what is desired. Steps of one answer, and those under way, share no
/// subject, so that all may be begun at once; the same state always gives the same answer.
pub fn next_steps(desired: &Desired, known: &Known, layout: &Layout, pace: &Pace, now: Moment) -> Vec<Step> {
    let mut decision = Decision::new(desired, known, layout, pace, now);
    decision.network();
    decision.cuts();
    desired.instances.iter().for_each(|instance| decision.instance(instance));
    desired.volumes.iter().for_each(|volume| decision.volume(volume));
    desired.snapshots.iter().for_each(|snapshot| decision.snapshot(snapshot));
    decision.stale_snapshots();
    decision.warm_states();
    decision.streams();
    decision.evictions();
    decision.steps
}

/// One pass over everything.
struct Decision<'a> {
    desired: &'a Desired,
    known: &'a Known,
    layout: &'a Layout,
    pace: &'a Pace,
    now: Moment,
    steps: Vec<Step>,
    taken: BTreeSet<Subject>,
    starts: usize,
    transfers: usize,
    streams: usize,
}

impl<'a> Decision<'a> {
    fn new(desired: &'a Desired, known: &'a Known, layout: &'a Layout, pace: &'a Pace, now: Moment) -> Self {
        Self {
            starts: pace.starts.saturating_sub(known.count(Activity::Starting)),
            transfers: pace.transfers.saturating_sub(known.count(Activity::Transfer)),
            streams: pace.streams.saturating_sub(known.count(Activity::Stream)),
            steps: Vec::new(),
            taken: BTreeSet::new(),
            desired,
            known,
            layout,
            pace,
            now,
        }
    }

    /// Chooses the step, unless what it touches is busy, failed a moment ago, or too much of its sort is under way.
    fn take(&mut self, step: Step) {
        let subjects = step.subjects();
        let rests = |subject| self.known.faults.get(subject).is_some_and(|fault| fault.retry_at > self.now);
        let busy = |subject| self.known.is_busy(subject) || self.taken.contains(subject);
        let gives_up = matches!(step, Step::GiveUp { .. });
        if subjects.iter().any(busy) || (!gives_up && subjects.iter().take(1).any(rests)) {
            return;
        }
        let room = match step.activity() {
            Activity::Starting => Some(&mut self.starts),
            Activity::Transfer => Some(&mut self.transfers),
            Activity::Stream => Some(&mut self.streams),
            Activity::Move | Activity::Stopping | Activity::Other => None,
        };
        match room.map(|room| (room.checked_sub(1), room)) {
            Some((None, _)) => return,
            Some((Some(less), room)) => *room = less,
            None => {}
        }
        self.taken.extend(subjects);
        self.steps.push(step);
    }

    fn network(&mut self) {
        let plan = network_plan(self.desired, self.known, self.layout);
        if self.known.network.as_ref() != Some(&plan) {
            self.take(Step::ApplyNetwork(Box::new(plan)));
        }
    }

    fn instance(&mut self, wanted: &DesiredInstance) {
        if wanted.power == Power::Running
            && let Some(migration) = &wanted.migration
        {
            return self.migration(wanted, migration);
        }
        let in_order = Stop::InOrder { patience: self.pace.stop_patience };
        match (self.known.running.get(&wanted.id), wanted.power) {
            (Some(running), power) if running.standing == Standing::Held => self.held(wanted, running, power),
            (Some(running), Power::Running) if running.standing == Standing::Arrived && cuts::is_one(running) => {
                self.begin(wanted);
            }
            (Some(running), Power::Running | Power::Stopped) if running.standing != Standing::Runs => {
                self.take(Step::LetGo(wanted.id));
            }
            (Some(running), Power::Running) if running.generation >= wanted.generation => {
                self.disks(wanted, running);
                self.prove(wanted, running);
                self.complete_memory(wanted, running);
            }
            (Some(running), Power::Running | Power::Stopped) => self.stop(wanted, running, in_order),
            (Some(running), Power::Off | Power::Absent) => self.stop(wanted, running, Stop::Kill),
            (None, Power::Running) if self.known.ledger.is_over(wanted.id, wanted.generation) => {}
            (None, Power::Running) if let Some(duplicate) = cuts::duplicate_of(wanted) => {
                self.duplicate(wanted, duplicate)
            }
            (None, Power::Running) => self.start(wanted, self.beginning(wanted)),
            (None, Power::Absent)
                if !self.known.forgotten.contains(&wanted.id) && !self.has_volumes_to_delete(wanted) =>
            {
                self.take(Step::Forget(wanted.id));
            }
            (None, _) => {}
        }
    }

    /// One of which something is to be proved is held at its start.
    fn start(&mut self, wanted: &DesiredInstance, beginning: Beginning) {
        let begin = if wanted.attestation.is_some() { Step::Hold } else { Step::Start };
        self.prepare(wanted, |spec| begin(spec, beginning));
    }

    /// Brings the instance away, or takes it in. Nothing else is done to it meanwhile, and it is not let go.
    fn migration(&mut self, wanted: &DesiredInstance, migration: &DesiredMigration) {
        let (instance, generation) = (wanted.id, wanted.generation);
        match (self.known.running.get(&instance), migration) {
            (Some(running), DesiredMigration::To { host, address }) if running.standing == Standing::Runs => {
                let disks = running.disks.iter().map(|disk| disk.volume).collect();
                self.take(Step::Send { instance, generation, disks, host: *host, address: *address });
            }
            (None, DesiredMigration::From { host, volumes }) if !self.known.ledger.is_over(instance, generation) => {
                self.prepare(wanted, |spec| Step::Receive { spec, volumes: volumes.clone(), from: *host });
            }
            _ => {}
        }
    }

    /// Whether the instance had volumes here that went with it to another host.
    fn has_volumes_to_delete(&self, wanted: &DesiredInstance) -> bool {
        let goes = |volume: &DesiredVolume| !volume.present && self.known.volumes.contains(&volume.id);
        let attached = |volume: &DesiredVolume| wanted.volumes.iter().any(|one| one.volume == volume.id);
        self.desired.volumes.iter().any(|volume| attached(volume) && goes(volume))
    }

    fn stop(&mut self, wanted: &DesiredInstance, running: &Running, how: Stop) {
        let disks = running.disks.iter().map(|disk| disk.volume).collect();
        self.take(Step::Stop { instance: wanted.id, generation: running.generation, how, disks });
    }

    /// Brings the volumes of a running VM to those wanted.
    fn disks(&mut self, wanted: &DesiredInstance, running: &Running) {
        let instance = wanted.id;
        for disk in running.disks.iter().filter(|disk| !wanted.volumes.contains(disk)) {
            self.take(Step::Detach { instance, volume: disk.volume });
        }
        for attachment in &wanted.volumes {
            let clash =
                running.disks.iter().any(|disk| disk.volume == attachment.volume || disk.slot == attachment.slot);
            if !clash && self.is_free(attachment) {
                self.take(Step::Attach { instance, disk: self.disk(attachment) });
            }
        }
    }

    /// Whether the volume is here and no running VM has it.
    fn is_free(&self, attachment: &Attachment) -> bool {
        self.known.volumes.contains(&attachment.volume) && self.known.user_of(attachment.volume).is_none()
    }

    /// Whether another host brings the volume. What is here of it is from an earlier time, and is replaced.
    fn comes(&self, wanted: &DesiredInstance, attachment: &Attachment) -> bool {
        let volume = attachment.volume;
        coming(wanted).iter().any(|coming| coming.id == volume) && self.known.user_of(volume).is_none()
    }

    fn disk(&self, attachment: &Attachment) -> Disk {
        let volume = attachment.volume;
        let all = self.desired.instances.iter().flat_map(coming).chain(&self.desired.volumes);
        let desired = all.into_iter().find(|desired| desired.id == volume);
        // A file's own header says what is below it, where nothing is to be measured.
        let unlayered = desired.filter(|_| !self.known.layered.contains(&volume));
        let base = unlayered.and_then(|desired| match desired.content {
            VolumeContent::Image { format, .. } => Some(Base { path: self.layout.volume_base(volume), format }),
            VolumeContent::Empty | VolumeContent::Snapshot { .. } | VolumeContent::Duplicate { .. } => None,
        });
        let (path, size) = (self.layout.volume(volume), desired.map(|desired| desired.size));
        Disk { volume, slot: attachment.slot, path, format: DiskFormat::Qcow2, size, base }
    }

    /// Begins the VM by `begin` when all that it needs is here; fetches what is missing; gives up when something cannot be had.
    fn prepare(&mut self, wanted: &DesiredInstance, begin: impl FnOnce(Box<MachineSpec>) -> Step) {
        if let Some(reason) = self.obstacle(wanted) {
            let (instance, generation) = (wanted.id, wanted.generation);
            return self.take(Step::GiveUp { instance, generation, reason });
        }
        let needed = boot_blobs(wanted).chain(coming(wanted).iter().filter_map(base_blob));
        let missing: Vec<_> = needed.filter(|blob| !self.known.blobs.contains_key(&blob.digest)).collect();
        missing.iter().for_each(|blob| self.take(Step::FetchBlob(Blob::clone(blob))));
        let disks_ready =
            wanted.volumes.iter().all(|attachment| self.is_free(attachment) || self.comes(wanted, attachment));
        if missing.is_empty()
            && disks_ready
            && self.network_is_ready(wanted)
            && let Some(spec) = self.machine_spec(wanted)
        {
            self.take(begin(Box::new(spec)));
        }
    }

    /// What makes waiting pointless: it failed, and rests before it is tried again.
    fn obstacle(&self, wanted: &DesiredInstance) -> Option<StateReason> {
        let bases = coming(wanted).iter().filter_map(base_blob);
        let blobs = boot_blobs(wanted).chain(bases).map(|blob| Subject::Blob(blob.digest.clone()));
        let volumes = wanted.volumes.iter().filter(|attachment| !self.comes(wanted, attachment));
        let missing = volumes.map(|one| one.volume).filter(|volume| !self.known.volumes.contains(volume));
        let contents = missing.clone().filter_map(|volume| {
            let desired = self.desired.volumes.iter().find(|desired| desired.id == volume)?;
            content_blob(&desired.content).map(|blob| Subject::Blob(blob.digest.clone()))
        });
        let port = (!self.network_is_ready(wanted)).then_some(Subject::Network);
        let needed = blobs.chain(missing.map(Subject::Volume)).chain(contents).chain(port);
        let resting = |fault: &&Fault| fault.retry_at > self.now;
        needed.into_iter().find_map(|subject| self.known.hopeless(&subject).filter(resting).map(|f| f.reason.clone()))
    }

    /// Whether the switch has the port, if the interface is part of its network at all.
    fn network_is_ready(&self, wanted: &DesiredInstance) -> bool {
        endpoint_of(self.desired, wanted.interface).is_none() || self.port_is_up(wanted)
    }

    /// Whether the switch has the port, and is not just being given a plan without it.
    fn port_is_up(&self, wanted: &DesiredInstance) -> bool {
        let has = |plan: &lucarne_switch::Plan| plan.ports.iter().any(|port| port.interface == wanted.interface);
        self.known.network.as_ref().is_some_and(has) && self.known.applying.as_ref().is_none_or(has)
    }

    fn machine_spec(&self, wanted: &DesiredInstance) -> Option<MachineSpec> {
        let boot = self.boot(&wanted.boot);
        let nic = Nic {
            mac: endpoint_of(self.desired, wanted.interface).map(|endpoint| endpoint.mac).or(wanted.mac)?,
            switch_socket: self.layout.switch_socket(wanted.interface),
            guest_socket: self.layout.guest_socket(wanted.interface),
        };
        let (instance, generation) = (wanted.id, wanted.generation);
        let (vcpus, memory) = (wanted.vcpus, wanted.memory);
        let disks = wanted.volumes.iter().map(|attachment| self.disk(attachment)).collect();
        Some(MachineSpec {
            instance,
            generation,
            vcpus,
            memory,
            boot,
            nic: Some(nic),
            disks,
            paging: None,
            // Its own for as long as it is not terminated: no two instances have the same.
            origin: Origin::Fresh { generation_id: instance.bits() },
            tpm: wanted.virtual_tpm.then(|| virtual_tpms::place(self.layout, instance)),
        })
    }

    fn boot(&self, source: &BootSource) -> Boot {
        match source {
            BootSource::Kernel { kernel, initramfs, command_line } => Boot::Kernel {
                kernel: self.layout.blob(&kernel.digest),
                initramfs: self.layout.blob(&initramfs.digest),
                command_line: command_line.clone(),
            },
            BootSource::Disk { .. } => Boot::FirstDisk,
        }
    }

    fn volume(&mut self, wanted: &DesiredVolume) {
        match (self.known.volumes.contains(&wanted.id), wanted.present) {
            (false, true) => match content_blob(&wanted.content) {
                Some(blob) if !self.known.blobs.contains_key(&blob.digest) => self.take(Step::FetchBlob(blob.clone())),
                _ if self.can_be_made(wanted) => self.take(Step::CreateVolume(wanted.clone())),
                _ => {}
            },
            (true, true) => self.complete_volume(wanted),
            (true, false) if self.known.user_of(wanted.id).is_none() => self.take(Step::DeleteVolume(wanted.id)),
            _ => {}
        }
    }

    fn snapshot(&mut self, wanted: &DesiredSnapshot) {
        let DesiredSnapshot { id: snapshot, volume } = *wanted;
        let to_come = self.desired.volumes.iter().any(|one| one.id == volume && one.present);
        match self.known.snapshots.get(&snapshot) {
            // One of a volume that is not here and will not be is tried, to fail with the driver's reason.
            None if self.known.volumes.contains(&volume) || !to_come => {
                let user = self.known.user_of(volume);
                self.take(Step::TakeSnapshot { snapshot, volume, user });
            }
            Some(Progress::Taken) => self.take(Step::UploadSnapshot(snapshot)),
            _ => {}
        }
    }

    fn stale_snapshots(&mut self) {
        let wanted: BTreeSet<_> = self.desired.snapshots.iter().map(|snapshot| snapshot.id).collect();
        let stale: Vec<_> =
            self.known.snapshots.keys().filter(|snapshot| !wanted.contains(snapshot)).copied().collect();
        stale.into_iter().for_each(|snapshot| self.take(Step::DropSnapshot(snapshot)));
    }

    fn streams(&mut self) {
        for request in self.desired.streams.iter().filter(|request| !self.known.streams.contains(&request.token)) {
            self.take(Step::OpenStream(request.clone()));
        }
    }

    /// Blobs that nothing names go after a time, and at once where there are too many, those unused for longest first.
    fn evictions(&mut self) {
        let unused: BTreeMap<_, _> = self
            .known
            .blobs
            .iter()
            .filter_map(|(digest, cached)| Some(((cached.unused_since?, digest), cached.size)))
            .collect();
        let mut spare: Bytes = unused.values().copied().sum();
        for ((since, digest), size) in unused {
            if spare <= self.pace.blob_spare && self.now.since(since) < self.pace.blob_keep {
                break;
            }
            spare = spare - size;
            self.take(Step::EvictBlob(digest.clone()));
        }
    }
}

/// Whether a step under way brings an instance from or to where it is not to go any more, or makes a volume whole that something else
/// waits for. One that is left out goes on.
pub fn is_vain(desired: &Desired, step: &Step) -> bool {
    let (instance, generation) = match step {
        Step::Send { instance, generation, .. } => (*instance, *generation),
        Step::Receive { spec, .. } => (spec.instance, spec.generation),
        Step::CompleteVolume { volume, user } => return cuts::is_in_the_way(desired, *volume, *user),
        _ => return false,
    };
    let wanted = desired.instances.iter().find(|wanted| wanted.id == instance);
    wanted.is_some_and(|wanted| {
        let goes = match (&wanted.migration, step) {
            (Some(DesiredMigration::To { host: to, .. }), Step::Send { host, .. }) => to == host,
            (Some(DesiredMigration::From { host, .. }), Step::Receive { from, .. }) => from == host,
            _ => false,
        };
        !goes || wanted.power != Power::Running || wanted.generation != generation
    })
}

/// The blobs that the VM itself boots from; a disk image is under its boot volume.
fn boot_blobs(wanted: &DesiredInstance) -> impl Iterator<Item = &Blob> + Clone {
    let blobs = match &wanted.boot {
        BootSource::Kernel { .. } => wanted.boot.blobs(),
        BootSource::Disk { .. } => Vec::new(),
    };
    blobs.into_iter()
}

/// When [`next_steps`] has something new to say although nothing happened: a retry is due, or an eviction.
pub fn next_look(known: &Known, pace: &Pace, now: Moment) -> Option<Moment> {
    let evictions = known.blobs.values().filter_map(|cached| Some(cached.unused_since?.plus(pace.blob_keep)));
    let eviction = evictions.min().map(|due| due.max(now.plus(Duration::from_secs(1))));
    known.next_retry(now).into_iter().chain(eviction).min()
}
