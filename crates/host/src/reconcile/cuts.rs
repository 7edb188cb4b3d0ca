//! Cuts and duplicates: when instances are made ready, stopped together and let go again, and what goes on from there.
//!
//! Owns the decisions. What is held of a cut, and how, is the work of [`crate::memory`]. A cut that failed is not tried again:
//! who wanted it leaves it out. No duplicate runs before it is said that it may.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_model::{
    Bytes, ErrorCode, InstanceId, ReplicaId, VolumeId,
    actual::ActualState,
    desired::{Desired, DesiredInstance, DesiredVolume, Power, VolumeContent},
    instance::StateReason,
    replica::{ActualCut, CopyType, CutProgress, DesiredCut, DesiredDuplicate, MemoryCopy},
    warm::Began,
};

use super::{Beginning, Decision, Known, Ports, Running, Standing, Step, network_plan::endpoint_of, warm::LAUNCH};

impl Decision<'_> {
    pub(super) fn cuts(&mut self) {
        for cut in &self.desired.cuts {
            match self.known.cuts.get(&cut.replica) {
                None => self.take(Step::PrepareCut(Box::new(cut.clone()), self.sizes(cut))),
                Some(CutProgress::Ready) if cut.take || self.known.marked.contains(&cut.replica) => {
                    self.take(Step::TakeCut(Box::new(cut.clone()), self.sizes(cut)));
                }
                Some(_) => {}
            }
        }
        let is_wanted = |replica: &ReplicaId| self.desired.cuts.iter().any(|cut| cut.replica == *replica);
        let stale: Vec<_> = self.known.cuts.keys().filter(|replica| !is_wanted(replica)).copied().collect();
        stale.into_iter().for_each(|replica| self.take(Step::DropCut(replica)));
    }

    /// The sizes of those of its volumes that can be frozen: nobody has them who does not stand still.
    fn sizes(&self, cut: &DesiredCut) -> BTreeMap<VolumeId, Bytes> {
        let wanted = self.desired.volumes.iter().filter(|volume| cut.volumes.contains(&volume.id));
        let stands = |user: InstanceId| cut.instances.contains_key(&user);
        let can =
            |volume: &VolumeId| self.known.volumes.contains(volume) && self.known.user_of(*volume).is_none_or(stands);
        wanted.filter(|volume| can(&volume.id)).map(|volume| (volume.id, volume.size)).collect()
    }

    /// Begins an instance where another was, as soon as that is held; or from its disks, as soon as it may.
    pub(super) fn duplicate(&mut self, wanted: &DesiredInstance, of: DesiredDuplicate) {
        let held = match self.known.cuts.get(&of.replica) {
            Some(CutProgress::Taken { .. }) if wanted.attestation.is_some() => {
                let message = "what goes on from another's memory is not measured, and cannot be proved".into();
                Err(StateReason { code: ErrorCode::HostNotProved, message })
            }
            Some(CutProgress::Taken { .. }) => Ok(true),
            Some(CutProgress::Failed { reason }) => Err(reason.clone()),
            Some(CutProgress::Preparing | CutProgress::Ready) | None => Ok(false),
        };
        match (of.memory, held) {
            (MemoryCopy::Cold, _) if of.begin => self.start(wanted, Beginning::Cold { because: None }),
            (MemoryCopy::Live, Ok(true)) => {
                let ports = self.ports(wanted, of);
                self.prepare(wanted, |spec| Step::Duplicate { spec, of, ports });
            }
            (MemoryCopy::Live, Err(reason)) => {
                let (instance, generation) = (wanted.id, wanted.generation);
                self.take(Step::GiveUp { instance, generation, reason });
            }
            (MemoryCopy::Live, Ok(false)) | (MemoryCopy::Cold, _) => {}
        }
    }

    /// Lets a duplicate that stands where its source was go on, once it may. One that nobody calls a duplicate any more may.
    pub(super) fn begin(&mut self, wanted: &DesiredInstance) {
        match duplicate_of(wanted) {
            Some(of) if of.begin => {
                let ports = self.ports(wanted, of);
                self.take(Step::Begin { instance: wanted.id, replica: of.replica, ports });
            }
            Some(_) => {}
            None => self.take(Step::LetGo(wanted.id)),
        }
    }

    fn ports(&self, wanted: &DesiredInstance, of: DesiredDuplicate) -> Option<Ports> {
        let source = self.desired.instances.iter().find(|instance| instance.id == of.source)?.interface;
        let both = [source, wanted.interface].iter().all(|one| endpoint_of(self.desired, *one).is_some());
        both.then_some(Ports { source, duplicate: wanted.interface })
    }

    /// Has the memory of a duplicate that was made shallow brought here, if it is to be deep.
    pub(super) fn complete_memory(&mut self, wanted: &DesiredInstance, running: &Running) {
        let deep = |of: &DesiredDuplicate| of.copy == CopyType::Deep && of.memory == MemoryCopy::Live;
        let is_due = duplicate_of(wanted).is_some_and(|of| deep(&of)) && is_one(running);
        if is_due && !self.known.completing.contains(&wanted.id) {
            self.take(Step::CompleteMemory(wanted.id));
        }
    }

    /// Brings what is below a duplicated volume into its own file, if it is to be deep. What begins, or is to be cut, comes first.
    pub(super) fn complete_volume(&mut self, wanted: &DesiredVolume) {
        let volume = wanted.id;
        let deep = matches!(wanted.content, VolumeContent::Duplicate { copy: CopyType::Deep, .. });
        if !deep || !self.known.overlaid.contains(&volume) || self.is_to_be_cut(volume) {
            return;
        }
        let user = self.known.user_of(volume);
        let can = match user.and_then(|user| self.known.running.get(&user)) {
            Some(running) => running.standing == Standing::Runs,
            None => !self
                .desired
                .instances
                .iter()
                .any(|one| is_to_have(one, volume) && !self.known.ledger.is_over(one.id, one.generation)),
        };
        if can {
            self.take(Step::CompleteVolume { volume, user });
        }
    }

    fn is_to_be_cut(&self, volume: VolumeId) -> bool {
        let is_over = |replica| {
            matches!(self.known.cuts.get(replica), Some(CutProgress::Taken { .. } | CutProgress::Failed { .. }))
        };
        self.desired.cuts.iter().any(|cut| cut.volumes.contains(&volume) && !is_over(&cut.replica))
    }

    /// Whether what the volume is to hold is held.
    pub(super) fn can_be_made(&self, wanted: &DesiredVolume) -> bool {
        match &wanted.content {
            VolumeContent::Duplicate { replica, .. } => {
                matches!(self.known.cuts.get(replica), Some(CutProgress::Taken { .. }))
            }
            VolumeContent::Empty | VolumeContent::Snapshot { .. } | VolumeContent::Image { .. } => true,
        }
    }
}

/// Whether the making of a volume whole is to be left for now: it is to go, or to be cut, or whoever has it is to end, or who is to
/// begin waits for it.
pub(super) fn is_in_the_way(desired: &Desired, volume: VolumeId, user: Option<InstanceId>) -> bool {
    let goes = desired.volumes.iter().any(|one| one.id == volume && !one.present);
    let to_be_cut = desired.cuts.iter().any(|cut| cut.volumes.contains(&volume) && !cut.take);
    let is_wanted = |one: &DesiredInstance| match user {
        Some(user) => one.id == user && !is_to_have(one, volume),
        None => is_to_have(one, volume),
    };
    goes || to_be_cut || desired.instances.iter().any(is_wanted)
}

fn is_to_have(wanted: &DesiredInstance, volume: VolumeId) -> bool {
    wanted.power == Power::Running && wanted.volumes.iter().any(|one| one.volume == volume)
}

/// Whether the volume was made from what another held when it was cut.
pub(super) const fn is_duplicate(volume: &DesiredVolume) -> bool {
    matches!(volume.content, VolumeContent::Duplicate { .. })
}

/// What this start of an instance goes on from, if it is its first.
pub(super) fn duplicate_of(wanted: &DesiredInstance) -> Option<DesiredDuplicate> {
    wanted.duplicate.filter(|_| wanted.generation == LAUNCH)
}

/// Whether a VM went on where another was, on this host.
pub(super) const fn is_one(running: &Running) -> bool {
    matches!(running.began, Began::Duplicate { .. })
}

/// Of a duplicate that boots when it may: whether all that it needs is here.
pub(super) fn waits(wanted: &DesiredInstance, known: &Known) -> Option<ActualState> {
    let is_cold = duplicate_of(wanted).is_some_and(|one| one.memory == MemoryCopy::Cold && !one.begin);
    let is_here = wanted.volumes.iter().all(|attachment| known.volumes.contains(&attachment.volume));
    (is_cold && is_here).then_some(ActualState::Ready)
}

/// What the controller is told.
pub(super) fn report(desired: &Desired, known: &Known) -> Vec<ActualCut> {
    let progress = |replica| known.cuts.get(&replica).cloned().unwrap_or(CutProgress::Preparing);
    desired.cuts.iter().map(|cut| ActualCut { replica: cut.replica, progress: progress(cut.replica) }).collect()
}
