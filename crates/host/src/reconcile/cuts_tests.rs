//! What a host does for a cut and for what begins from it: nothing runs before it may, and nothing is tried over and over.

use lucarne_model::{
    Bytes, ErrorCode, InstanceId, InterfaceId, Moment, ReplicaId, VolumeId, VpcId,
    actual::{ActualState, Capacity},
    desired::{Desired, DesiredVolume, Power, VolumeContent},
    replica::{CopyType, CutProgress, DesiredCut, DesiredDuplicate, MemoryCopy},
    warm::Began,
};

use super::{
    tests::{blob, instance, network},
    *,
};

const SOURCE: InstanceId = InstanceId::from_bits(1);
const DUPLICATE: InstanceId = InstanceId::from_bits(2);
const REPLICA: ReplicaId = ReplicaId::from_bits(7);
const VOLUME: VolumeId = VolumeId::from_bits(6);

/// A host on which the source runs.
struct Host {
    desired: Desired,
    known: Known,
    now: Moment,
}

impl Host {
    fn new() -> Self {
        let mut known = Known::default();
        for n in [1, 2] {
            known.blobs.insert(blob(n).digest, Cached { size: blob(n).size, unused_since: None });
        }
        let source = instance(1, Power::Running, 1, Vec::new());
        let networks = vec![network(std::slice::from_ref(&source))];
        let desired = Desired { instances: vec![source], networks, ..Desired::default() };
        let mut host = Self { desired, known, now: Moment::from_secs(1) };
        host.settle();
        host
    }

    fn cut(&mut self, take: bool) {
        let instances = BTreeMap::from([(SOURCE, MemoryCopy::Live)]);
        let (volumes, hosts) = (Vec::new(), Vec::new());
        let vpc = VpcId::from_bits(1);
        self.desired.cuts = vec![DesiredCut { replica: REPLICA, vpc, instances, volumes, hosts, take }];
    }

    fn duplicate(&mut self, memory: MemoryCopy, begin: bool) {
        let of = DesiredDuplicate { replica: REPLICA, source: SOURCE, copy: CopyType::Shallow, memory, begin };
        let mut wanted = instance(2, Power::Running, 1, Vec::new());
        (wanted.duplicate, wanted.vpc) = (Some(of), VpcId::from_bits(1));
        self.desired.instances.truncate(1);
        self.desired.instances.push(wanted);
        self.desired.networks = vec![network(&self.desired.instances)];
    }

    fn steps(&mut self) -> Vec<Step> {
        self.known.handle_desired(&self.desired, self.now);
        next_steps(&self.desired, &self.known, &Layout::new("/state".into()), &Pace::default(), self.now)
    }

    fn finish(&mut self, step: Step, failure: Option<Failure>) {
        let taken = CutProgress::Taken { at: self.now, instances: BTreeMap::new(), frames: 3 };
        let product = match step {
            Step::Start(..) => Product::Began(Began::Cold { because: None }),
            Step::Duplicate { .. } => Product::Began(Began::Duplicate { of: SOURCE }),
            Step::TakeCut(..) => Product::Cut(taken),
            _ => Product::Nothing,
        };
        self.known.handle_done(step, failure.map_or(Ok(product), Err), self.now);
    }

    /// Does all steps that there are, well, and gives those that are no network's.
    fn settle(&mut self) -> Vec<Step> {
        let mut done = Vec::new();
        loop {
            let steps = self.steps();
            if steps.is_empty() {
                done.retain(|step| !matches!(step, Step::ApplyNetwork(_)));
                return done;
            }
            for step in steps {
                self.known.handle_begun(&step);
                self.finish(step.clone(), None);
                done.push(step);
            }
        }
    }

    fn progress(&self) -> CutProgress {
        report(&self.desired, &self.known, Capacity::default()).cuts[0].progress.clone()
    }

    fn state(&self) -> ActualState {
        report(&self.desired, &self.known, Capacity::default()).instances[1].state
    }
}

#[test]
fn a_cut_is_made_ready_and_waits_until_it_is_to_be_taken_here_or_is_taken_elsewhere() {
    for is_heard_of in [false, true] {
        let mut host = Host::new();
        host.cut(false);
        assert_eq!(host.progress(), CutProgress::Preparing);
        assert!(matches!(host.settle()[..], [Step::PrepareCut(..)]));
        assert_eq!(host.progress(), CutProgress::Ready);
        if is_heard_of {
            host.known.handle_mark(REPLICA);
        } else {
            host.cut(true);
        }
        assert!(matches!(host.settle()[..], [Step::TakeCut(..)]));
        assert!(matches!(host.progress(), CutProgress::Taken { frames: 3, .. }));
        host.desired.cuts.clear();
        assert!(matches!(host.settle()[..], [Step::DropCut(REPLICA)]));
        assert!(host.known.cuts.is_empty() && host.known.marked.is_empty());
    }
}

#[test]
fn a_cut_that_failed_is_told_and_not_tried_again_and_its_duplicates_fail() {
    for at_taking in [false, true] {
        let mut host = Host::new();
        host.cut(true);
        host.duplicate(MemoryCopy::Live, false);
        if at_taking {
            host.known.cuts.insert(REPLICA, CutProgress::Ready);
        }
        let cut = |step: &Step| matches!(step, Step::PrepareCut(..) | Step::TakeCut(..));
        let step = host.steps().into_iter().find(cut).unwrap();
        host.known.handle_begun(&step);
        host.finish(step, Some(Failure::new(ErrorCode::HypervisorFailed, "made up", Prospect::Hopeless)));
        assert!(matches!(host.progress(), CutProgress::Failed { .. }));
        let given_up = host.settle();
        assert!(matches!(given_up[..], [Step::GiveUp { instance: DUPLICATE, .. }]), "{given_up:?}");
        host.known.ledger.close(DUPLICATE, 1, None);
        host.now = host.now.plus(Duration::from_secs(600));
        assert!(host.settle().iter().all(|step| !cut(step)));
    }
}

#[test]
fn nothing_else_is_done_to_an_instance_while_it_is_cut() {
    let mut host = Host::new();
    host.cut(true);
    let step = host.steps().into_iter().find(|step| matches!(step, Step::PrepareCut(..))).unwrap();
    host.known.handle_begun(&step);
    host.desired.instances[0].power = Power::Off;
    assert_eq!(host.steps(), []);
}

#[test]
fn a_duplicate_begins_from_what_is_held_stands_there_and_goes_on_when_it_may() {
    let mut host = Host::new();
    host.cut(false);
    host.duplicate(MemoryCopy::Live, false);
    assert!(!host.settle().iter().any(|step| matches!(step, Step::Duplicate { .. } | Step::Start(..))));
    host.cut(true);
    let steps = host.settle();
    let ports = Some(Ports { source: InterfaceId::from_bits(1), duplicate: InterfaceId::from_bits(2) });
    assert!(
        matches!(&steps[..], [Step::TakeCut(..), Step::Duplicate { ports: found, .. }] if *found == ports),
        "{steps:?}"
    );
    assert_eq!(host.state(), ActualState::Ready);
    assert_eq!(host.known.running[&DUPLICATE].standing, Standing::Arrived);
    host.duplicate(MemoryCopy::Live, true);
    assert!(matches!(host.settle()[..], [Step::Begin { instance: DUPLICATE, .. }]));
    assert_eq!(host.state(), ActualState::Running);
    assert_eq!(host.settle(), []);
}

/// What it was is over with its first start: the next one boots from its disks.
#[test]
fn the_next_start_of_a_duplicate_boots() {
    let mut host = Host::new();
    host.duplicate(MemoryCopy::Live, true);
    host.desired.instances[1].generation = 2;
    assert!(matches!(host.settle()[..], [Step::Start(..)]));
}

#[test]
fn one_without_the_memory_boots_when_it_may_and_not_before() {
    let mut host = Host::new();
    host.cut(true);
    host.duplicate(MemoryCopy::Cold, false);
    assert!(!host.settle().iter().any(|step| matches!(step, Step::Start(..))));
    assert_eq!(host.state(), ActualState::Ready);
    host.duplicate(MemoryCopy::Cold, true);
    assert!(matches!(host.settle()[..], [Step::Start(..)]));
}

#[test]
fn a_volume_waits_for_the_cut_that_holds_what_it_is_to_have() {
    let mut host = Host::new();
    let copy = CopyType::Shallow;
    let content = VolumeContent::Duplicate { replica: REPLICA, source: VolumeId::from_bits(5), copy };
    host.desired.volumes =
        vec![DesiredVolume { id: VolumeId::from_bits(6), size: Bytes::mib(1), content, present: true }];
    host.cut(false);
    assert!(matches!(host.settle()[..], [Step::PrepareCut(..)]));
    host.cut(true);
    assert!(matches!(host.settle()[..], [Step::TakeCut(..), Step::CreateVolume(_)]));
}

/// The same host, with a duplicate that runs and a volume that it has; both were made shallow, and are to be deep.
fn deepening() -> Host {
    let mut host = Host::new();
    host.cut(true);
    host.volume(CopyType::Shallow);
    host.duplicate(MemoryCopy::Live, true);
    host.settle();
    host.attach();
    host.settle();
    assert_eq!(host.known.running[&DUPLICATE].disks.len(), 1);
    assert!(host.draws());
    host.volume(CopyType::Deep);
    host.desired.instances[1].duplicate.as_mut().unwrap().copy = CopyType::Deep;
    host
}

impl Host {
    fn volume(&mut self, copy: CopyType) {
        let content = VolumeContent::Duplicate { replica: REPLICA, source: VolumeId::from_bits(5), copy };
        self.desired.volumes = vec![DesiredVolume { id: VOLUME, size: Bytes::mib(1), content, present: true }];
    }

    fn attach(&mut self) {
        self.desired.instances[1].volumes = vec![Attachment { volume: VOLUME, slot: 1 }];
    }

    fn draws(&self) -> bool {
        report(&self.desired, &self.known, Capacity::default()).volumes[0].draws
    }
}

#[test]
fn a_duplicate_that_is_to_be_deep_afterwards_gets_all_of_its_memory_and_of_its_disks() {
    let mut host = deepening();
    let steps = host.settle();
    let user = Some(DUPLICATE);
    assert_eq!(steps, [Step::CompleteMemory(DUPLICATE), Step::CompleteVolume { volume: VOLUME, user }]);
    assert!(!host.draws());
    assert_eq!(host.settle(), []);
    // Another agent knows of neither: the pager is told again, the volume's file says itself what is below it.
    host.known.completing.clear();
    assert_eq!(host.settle(), [Step::CompleteMemory(DUPLICATE)]);
}

#[test]
fn what_was_deep_from_the_first_is_not_copied_again() {
    let mut host = Host::new();
    host.cut(true);
    host.volume(CopyType::Deep);
    host.duplicate(MemoryCopy::Live, true);
    host.attach();
    let complete = |step: &Step| matches!(step, Step::CompleteVolume { .. });
    assert!(!host.settle().iter().any(complete));
    assert!(!host.draws());
}

/// A copy may take an hour.
#[test]
fn a_volume_that_is_being_made_whole_is_in_nobodys_way() {
    let mut host = deepening();
    let user = Some(DUPLICATE);
    let step = Step::CompleteVolume { volume: VOLUME, user };
    host.known.handle_begun(&step);
    assert!(!is_vain(&host.desired, &step));
    let mut stopped = host.desired.clone();
    stopped.instances[1].power = Power::Stopped;
    assert!(is_vain(&stopped, &step));
    let mut detached = host.desired.clone();
    detached.instances[1].volumes.clear();
    assert!(is_vain(&detached, &step));
    let mut cut = host.desired.clone();
    let mut another = DesiredCut { replica: ReplicaId::from_bits(8), take: false, ..cut.cuts[0].clone() };
    another.volumes.push(VOLUME);
    cut.cuts.push(another);
    assert!(is_vain(&cut, &step));
    let failed = Failure::new(ErrorCode::IncorrectState, "left for later", Prospect::Passing);
    host.finish(step, Some(failed));
    assert!(host.draws());

    host.desired = cut;
    host.now = host.now.plus(Duration::from_secs(60));
    let complete = |step: &Step| matches!(step, Step::CompleteVolume { .. });
    assert!(!host.steps().iter().any(complete), "it is to be cut first");
    host.desired = stopped;
    host.known.running.remove(&DUPLICATE);
    let step = host.steps().into_iter().find(complete).unwrap();
    assert_eq!(step, Step::CompleteVolume { volume: VOLUME, user: None });
    host.desired.instances[1].power = Power::Running;
    host.desired.instances[1].generation = 2;
    assert!(is_vain(&host.desired, &step) && !host.steps().iter().any(complete), "it begins first");
}

/// It would run without what it was to prove.
#[test]
fn a_duplicate_of_which_something_is_to_be_proved_does_not_begin() {
    let mut host = Host::new();
    host.cut(true);
    host.duplicate(MemoryCopy::Live, true);
    host.settle();
    let mut host = Host { known: Known { running: BTreeMap::new(), ..host.known }, ..host };
    host.known.ledger = Ledger::default();
    let nonce = lucarne_model::Octets(vec![1; 32]);
    let attestation = lucarne_model::desired::DesiredAttestation { nonce, begin: true, heard: false };
    host.desired.instances[1].attestation = Some(attestation);
    let steps = host.steps();
    let is_given_up = |step: &Step| matches!(step, Step::GiveUp { instance: DUPLICATE, .. });
    assert!(
        steps.iter().any(is_given_up) && !steps.iter().any(|step| matches!(step, Step::Duplicate { .. })),
        "{steps:?}"
    );
}
