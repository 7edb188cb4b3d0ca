//! The laws of the reconciler, tried on made-up hosts: whatever is desired in whatever order, whatever fails, and wherever
//! the agent is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use lucarne_model::{
    AccountId, Cidr, ErrorCode, HostId, ImageId, InstanceId, InterfaceId, MacAddress, SnapshotId, SubnetId, Vcpus,
    VolumeId, VpcId,
    actual::ActualState,
    desired::{DesiredNetwork, Endpoint, VolumeContent},
    storage::Digest,
    warm::Began,
};
use lucarne_vmm::driver::EndOfMachine;
use proptest::prelude::*;

use super::*;

const INSTANCES: u128 = 3;
const VOLUMES: u128 = 3;

/// What the made-up tenants want, in few numbers.
#[derive(Clone, Debug)]
struct Wish {
    /// For each instance: whether it is spoken of, its power, and by how much its generation rises.
    instances: Vec<(bool, u8, u64)>,
    /// For each volume: whether it is spoken of, present, and the instance that it is attached to.
    volumes: Vec<(bool, bool, Option<usize>)>,
    snapshot: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    let instance = (prop::bool::weighted(0.9), 0..4_u8, 0..2_u64);
    let volume = (prop::bool::weighted(0.9), any::<bool>(), prop::option::of(0..INSTANCES as usize));
    let instances = prop::collection::vec(instance, INSTANCES as usize);
    let volumes = prop::collection::vec(volume, VOLUMES as usize);
    (instances, volumes, any::<bool>()).prop_map(|(instances, volumes, snapshot)| Wish { instances, volumes, snapshot })
}

/// What happens to the host.
#[derive(Clone, Debug)]
enum Happening {
    Wish(Wish),
    /// The step under way at this place (modulo their number) is over, well or not.
    Done(usize, Option<Prospect>),
    /// The VM at this place ends by itself.
    Ends(usize, bool),
    TimePasses(u64),
    /// The agent is killed and starts anew.
    Killed,
}

fn happening() -> impl Strategy<Value = Happening> {
    let prospect = prop_oneof![Just(Prospect::Passing), Just(Prospect::Doubtful), Just(Prospect::Hopeless)];
    prop_oneof![
        3 => wish().prop_map(Happening::Wish),
        12 => (any::<usize>(), prop::option::weighted(0.2, prospect)).prop_map(|(at, how)| Happening::Done(at, how)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, died)| Happening::Ends(at, died)),
        2 => (0..40_u64).prop_map(Happening::TimePasses),
        1 => Just(Happening::Killed),
    ]
}

pub(super) fn blob(n: u8) -> Blob {
    Blob { digest: Digest::from_bytes([n; 32]), size: Bytes::mib(1) }
}

fn content(volume: u128) -> VolumeContent {
    match volume % 3 {
        0 => VolumeContent::Empty,
        1 => VolumeContent::Snapshot { blob: blob(8) },
        _ => VolumeContent::Image { disk: blob(9), format: DiskFormat::Raw },
    }
}

pub(super) fn instance(n: u128, power: Power, generation: u64, volumes: Vec<Attachment>) -> DesiredInstance {
    let (kernel, initramfs) = (blob(1), blob(2));
    DesiredInstance {
        id: InstanceId::from_bits(n),
        account: AccountId::from_bits(1),
        power,
        migration: None,
        duplicate: None,
        origin: None,
        generation,
        image: ImageId::from_bits(1),
        boot: BootSource::Kernel { kernel, initramfs, command_line: String::new() },
        cold: false,
        virtual_tpm: false,
        attestation: None,
        mac: None,
        vcpus: Vcpus(1),
        memory_settings: Default::default(),
        memory: Bytes::mib(64),
        interface: InterfaceId::from_bits(n),
        vpc: VpcId::from_bits(1),
        user_data: None,
        volumes,
        flow_interval_millis: None,
    }
}

pub(super) fn network(instances: &[DesiredInstance]) -> DesiredNetwork {
    let endpoints = instances.iter().map(|instance| Endpoint {
        interface: instance.interface,
        instance: instance.id,
        subnet: SubnetId::from_bits(1),
        address: Ipv4Addr::new(10, 0, 0, instance.id.bits() as u8 + 4),
        mac: MacAddress([2, 0, 0, 0, 0, instance.id.bits() as u8]),
        groups: Vec::new(),
        host: HostId::from_bits(1),
        name: None,
    });
    DesiredNetwork {
        vpc: VpcId::from_bits(1),
        account: AccountId::from_bits(1),
        vni: 1,
        cidr: "10.0.0.0/16".parse::<Cidr>().unwrap(),
        subnets: Vec::new(),
        groups: Vec::new(),
        endpoints: endpoints.collect(),
        clock_behind_micros: 0,
    }
}

/// A host without a system: what is really there, and the agent's knowledge of it.
struct World {
    desired: Desired,
    known: Known,
    layout: Layout,
    pace: Pace,
    now: Moment,
    under_way: Vec<Step>,
    /// The truth about VMs: which generation runs.
    machines: BTreeMap<InstanceId, u64>,
    volumes: BTreeSet<VolumeId>,
    /// Generations whose start the driver has been asked for by agents, and which are over.
    over: BTreeSet<(InstanceId, u64)>,
    /// Words that were said about instances and volumes, ever.
    said_absent: BTreeSet<InstanceId>,
    said_gone: BTreeSet<VolumeId>,
    generations: Vec<u64>,
}

impl World {
    fn new() -> Self {
        Self {
            desired: Desired::default(),
            known: Known::default(),
            layout: Layout::new("/state".into()),
            pace: Pace { starts: 2, transfers: 2, streams: 1, ..Pace::default() },
            now: Moment::from_secs(1000),
            under_way: Vec::new(),
            machines: BTreeMap::new(),
            volumes: BTreeSet::new(),
            over: BTreeSet::new(),
            said_absent: BTreeSet::new(),
            said_gone: BTreeSet::new(),
            generations: vec![1; INSTANCES as usize],
        }
    }

    fn wish(&mut self, wish: &Wish) {
        let mut instances = Vec::new();
        for (n, (spoken_of, power, rise)) in wish.instances.iter().enumerate() {
            self.generations[n] += rise;
            // Whoever was once to be absent is never wanted again.
            let ended = self.said_absent.contains(&InstanceId::from_bits(n as u128));
            let power = [Power::Running, Power::Stopped, Power::Off, Power::Absent]
                [if ended { 3 } else { usize::from(*power) }];
            let attached = wish.volumes.iter().enumerate().filter(|(_, (.., to))| *to == Some(n));
            let attached = attached.filter(|(_, (spoken_of, present, _))| *spoken_of && *present);
            let volumes = attached.map(|(v, _)| Attachment { volume: VolumeId::from_bits(v as u128), slot: v as u8 });
            if *spoken_of {
                instances.push(instance(n as u128, power, self.generations[n], volumes.collect()));
            }
        }
        let volumes = wish.volumes.iter().enumerate().filter(|(_, (spoken_of, ..))| *spoken_of);
        let volumes = volumes.map(|(v, (_, present, _))| DesiredVolume {
            id: VolumeId::from_bits(v as u128),
            size: Bytes::gib(1),
            content: content(v as u128),
            present: *present,
        });
        let snapshot = DesiredSnapshot { id: SnapshotId::from_bits(1), volume: VolumeId::from_bits(0) };
        self.desired = Desired {
            version: self.desired.version + 1,
            networks: vec![network(&instances)],
            volumes: volumes.collect(),
            instances,
            snapshots: wish.snapshot.then_some(snapshot).into_iter().collect(),
            ..Desired::default()
        };
        let absent = self.desired.instances.iter().filter(|instance| instance.power == Power::Absent);
        self.said_absent.extend(absent.map(|instance| instance.id));
        self.said_gone.extend(self.desired.volumes.iter().filter(|volume| !volume.present).map(|volume| volume.id));
    }

    /// Lets the agent decide, and holds its steps against the laws.
    fn decide(&mut self) -> Result<(), TestCaseError> {
        loop {
            self.known.handle_desired(&self.desired, self.now);
            let steps = next_steps(&self.desired, &self.known, &self.layout, &self.pace, self.now);
            let again = next_steps(&self.desired, &self.known, &self.layout, &self.pace, self.now);
            prop_assert_eq!(&steps, &again, "the same state gives the same steps");
            let mut gave_up = false;
            for step in steps {
                self.check(&step)?;
                if let Step::GiveUp { instance, generation, .. } = step {
                    self.over.insert((instance, generation));
                    self.known.handle_done(step, Ok(Product::Nothing), self.now);
                    gave_up = true;
                } else {
                    self.known.handle_begun(&step);
                    self.under_way.push(step);
                }
            }
            if !gave_up {
                return Ok(());
            }
        }
    }

    fn check(&self, step: &Step) -> Result<(), TestCaseError> {
        let held: BTreeSet<_> = self.under_way.iter().flat_map(Step::subjects).collect();
        prop_assert!(step.subjects().iter().all(|subject| !held.contains(subject)), "two steps share a subject");
        match step {
            Step::Start(spec, _) => {
                prop_assert!(!self.machines.contains_key(&spec.instance), "another generation still runs");
                prop_assert!(!self.over.contains(&(spec.instance, spec.generation)), "its life is over");
                let ports = self.known.network.iter().flat_map(|plan| &plan.ports);
                prop_assert!(ports.map(|port| port.instance).any(|instance| instance == spec.instance), "no port");
                prop_assert!(
                    self.known.blobs.contains_key(&blob(1).digest) && self.known.blobs.contains_key(&blob(2).digest)
                );
                prop_assert!(spec.disks.iter().all(|disk| self.volumes.contains(&disk.volume)), "a volume is missing");
                let starts = self.under_way.iter().filter(|step| matches!(step, Step::Start(..))).count();
                prop_assert!(starts < self.pace.starts, "too many starts at once");
            }
            Step::Forget(instance) => {
                prop_assert!(self.said_absent.contains(instance), "nobody said that it should go");
                prop_assert!(!self.machines.contains_key(instance), "it still runs");
            }
            Step::Stop { instance, .. } => {
                prop_assert!(self.desired.instances.iter().any(|wanted| wanted.id == *instance), "left out, and ended");
            }
            Step::DeleteVolume(volume) => {
                prop_assert!(self.said_gone.contains(volume), "nobody said that it should go");
                prop_assert!(self.known.user_of(*volume).is_none(), "a VM has it");
            }
            Step::ApplyNetwork(plan) => {
                for instance in self.machines.keys().filter(|id| self.desired.instances.iter().any(|i| i.id == **id)) {
                    prop_assert!(plan.ports.iter().any(|port| port.instance == *instance), "a VM would lose its port");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, place: usize, failure: Option<Prospect>) {
        if self.under_way.is_empty() {
            return;
        }
        let step = self.under_way.remove(place % self.under_way.len());
        if failure.is_none() {
            self.act(&step);
        } else if let Step::Start(spec, _) = &step {
            self.over.insert((spec.instance, spec.generation));
        }
        let product = match &step {
            Step::UploadSnapshot(_) => Product::Uploaded(blob(5)),
            Step::Start(..) => Product::Began(Began::Cold { because: None }),
            _ => Product::Nothing,
        };
        let failure = failure.map(|prospect| Failure::new(ErrorCode::Internal, "made up", prospect));
        self.known.handle_done(step, failure.map_or(Ok(product), Err), self.now);
    }

    /// What the step does to the host.
    fn act(&mut self, step: &Step) {
        match step {
            Step::Start(spec, _) => drop(self.machines.insert(spec.instance, spec.generation)),
            Step::Stop { instance, generation, .. } => {
                self.machines.remove(instance);
                self.over.insert((*instance, *generation));
            }
            Step::CreateVolume(volume) => drop(self.volumes.insert(volume.id)),
            Step::DeleteVolume(volume) => drop(self.volumes.remove(volume)),
            _ => {}
        }
    }

    fn end_one(&mut self, place: usize, died: bool) {
        let Some((instance, generation)) = self.machines.iter().nth(place % self.machines.len().max(1)) else { return };
        let (instance, generation) = (*instance, *generation);
        self.machines.remove(&instance);
        self.over.insert((instance, generation));
        let why = if died { EndOfMachine::Died { said: String::new() } } else { EndOfMachine::GuestShutdown };
        self.known.handle_machine_ended(instance, generation, why);
    }

    /// A new agent finds what is on disk and the VMs that run; steps under way were done, or not.
    fn kill(&mut self) {
        for (place, step) in std::mem::take(&mut self.under_way).into_iter().enumerate() {
            // An end that no agent saw to its end may be that of the host itself: the VM is started again.
            if place % 2 == 0 && !matches!(step, Step::Stop { .. }) {
                self.act(&step);
            }
        }
        let before = std::mem::take(&mut self.known);
        self.known = Known { ledger: before.ledger, blobs: before.blobs, ..Known::default() };
        self.known.volumes.clone_from(&self.volumes);
        for (instance, generation) in &self.machines {
            let disks = before.running.get(instance).map(|running| running.disks.clone()).unwrap_or_default();
            self.known.handle_adopted(
                *instance,
                Running {
                    generation: *generation,
                    began: Began::Cold { because: None },
                    disks,
                    standing: Standing::Runs,
                    stood_still: None,
                    proof: Proof::default(),
                },
                self.now,
            );
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Wish(wish) => self.wish(&wish),
            Happening::Done(place, failure) => self.finish(place, failure),
            Happening::Ends(place, died) => self.end_one(place, died),
            Happening::TimePasses(seconds) => self.now = self.now.plus(Duration::from_secs(seconds)),
            Happening::Killed => self.kill(),
        }
        self.decide()
    }

    /// From here on nothing fails and time passes.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..500 {
            self.finish(0, None);
            self.now = self.now.plus(Duration::from_secs(1));
            self.decide()?;
        }
        prop_assert!(self.under_way.is_empty(), "it never comes to rest: {:?}", self.under_way);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The laws hold at every step (see [`World::check`]), and from any state the host comes to be what is desired.
    #[test]
    fn from_any_state_a_host_becomes_what_is_desired(happenings in prop::collection::vec(happening(), 0..120)) {
        let mut world = World::new();
        for happening in happenings {
            world.happen(happening)?;
        }
        world.settle()?;
        for wanted in &world.desired.instances {
            let over = world.known.ledger.is_over(wanted.id, wanted.generation);
            let runs = world.machines.get(&wanted.id);
            match wanted.power {
                Power::Running if over => prop_assert_eq!(runs, None),
                Power::Running => prop_assert!(runs.is_some_and(|generation| *generation >= wanted.generation)),
                Power::Stopped | Power::Off | Power::Absent => prop_assert_eq!(runs, None),
            }
            if wanted.power == Power::Absent {
                prop_assert!(world.known.forgotten.contains(&wanted.id));
            }
        }
        for wanted in &world.desired.volumes {
            let used = world.known.user_of(wanted.id).is_some();
            prop_assert!(world.volumes.contains(&wanted.id) == wanted.present || (used && !wanted.present));
        }
        let plan = network_plan(&world.desired, &world.known, &world.layout);
        prop_assert_eq!(world.known.network.as_ref(), Some(&plan));
        let report = report(&world.desired, &world.known, Default::default());
        for actual in report.instances {
            prop_assert_eq!(actual.state == ActualState::Running, world.machines.contains_key(&actual.id));
        }
    }
}

/// A host on which instance 0 is to run, and everything that it needs is here.
fn ready() -> World {
    let mut world = World::new();
    world.wish(&Wish { instances: vec![(true, 0, 0)], volumes: Vec::new(), snapshot: false });
    world.decide().unwrap();
    while !world.known.running.contains_key(&InstanceId::from_bits(0)) {
        world.finish(0, None);
        world.decide().unwrap();
    }
    world
}

fn state_of(world: &World) -> (ActualState, u64, Option<StateReason>) {
    let report = report(&world.desired, &world.known, Default::default());
    let actual = report.instances.first().unwrap();
    (actual.state, actual.generation, actual.reason.clone())
}

#[test]
fn a_generation_that_failed_is_reported_and_left_until_the_next() {
    let mut world = World::new();
    world.wish(&Wish { instances: vec![(true, 0, 0)], volumes: Vec::new(), snapshot: false });
    world.decide().unwrap();
    while !matches!(world.under_way.first(), Some(Step::Start(..))) {
        world.finish(0, None);
        world.decide().unwrap();
    }
    world.finish(0, Some(Prospect::Doubtful));
    world.settle().unwrap();
    let (state, generation, reason) = state_of(&world);
    assert_eq!((state, generation), (ActualState::Failed, 1));
    assert_eq!(reason.unwrap().message, "made up");
    world.kill();
    world.settle().unwrap();
    assert_eq!(state_of(&world).0, ActualState::Failed, "a new agent remembers");

    world.wish(&Wish { instances: vec![(true, 0, 1)], volumes: Vec::new(), snapshot: false });
    world.settle().unwrap();
    assert_eq!((state_of(&world).0, state_of(&world).1), (ActualState::Running, 2));
}

#[test]
fn a_guest_that_shut_itself_down_is_stopped_and_one_that_died_has_failed() {
    let mut world = ready();
    world.end_one(0, false);
    world.settle().unwrap();
    assert_eq!(state_of(&world), (ActualState::Stopped, 1, None));
    let mut world = ready();
    world.end_one(0, true);
    world.settle().unwrap();
    assert_eq!(
        (state_of(&world).0, state_of(&world).2.unwrap().code),
        (ActualState::Failed, ErrorCode::HypervisorFailed)
    );
}

#[test]
fn an_instance_fails_with_the_reason_why_its_blob_cannot_be_had() {
    let mut world = World::new();
    world.wish(&Wish { instances: vec![(true, 0, 0)], volumes: Vec::new(), snapshot: false });
    world.decide().unwrap();
    let fetch = world.under_way.iter().position(|step| matches!(step, Step::FetchBlob(_))).unwrap();
    let step = world.under_way.remove(fetch);
    let full = Failure::new(ErrorCode::DiskFull, "full", Prospect::Hopeless);
    world.known.handle_done(step, Err(full), world.now);
    world.decide().unwrap();
    assert_eq!((state_of(&world).0, state_of(&world).2.unwrap().code), (ActualState::Failed, ErrorCode::DiskFull));
}

#[test]
fn a_controller_that_is_away_fails_nothing() {
    let mut world = World::new();
    world.wish(&Wish { instances: vec![(true, 0, 0)], volumes: Vec::new(), snapshot: false });
    world.decide().unwrap();
    for _ in 0..200 {
        let fetch = world.under_way.iter().position(|step| matches!(step, Step::FetchBlob(_)));
        world.finish(fetch.unwrap_or(0), fetch.map(|_| Prospect::Passing));
        world.now = world.now.plus(Duration::from_secs(5));
        world.decide().unwrap();
    }
    assert_eq!(state_of(&world).0, ActualState::Preparing);
    world.settle().unwrap();
    assert_eq!(state_of(&world).0, ActualState::Running);
}

#[test]
fn an_end_that_is_told_before_its_start_is_not_forgotten() {
    let mut world = World::new();
    world.wish(&Wish { instances: vec![(true, 0, 0)], volumes: Vec::new(), snapshot: false });
    world.decide().unwrap();
    while !matches!(world.under_way.first(), Some(Step::Start(..))) {
        world.finish(0, None);
        world.decide().unwrap();
    }
    world.known.handle_machine_ended(InstanceId::from_bits(0), 1, EndOfMachine::GuestShutdown);
    let start = world.under_way.remove(0);
    let began = Product::Began(Began::Cold { because: None });
    world.known.handle_done(start, Ok(began), world.now);
    world.decide().unwrap();
    assert_eq!(state_of(&world), (ActualState::Stopped, 1, None));
}

#[test]
fn unused_blobs_go_after_a_time_and_the_longest_unused_first_where_room_is_short() {
    let mut world = World::new();
    world.pace.blob_spare = Bytes::mib(1);
    let cached = |seconds| Cached { size: Bytes::mib(1), unused_since: Some(Moment::from_secs(seconds)) };
    world.known.blobs = BTreeMap::from([(blob(1).digest, cached(990)), (blob(2).digest, cached(980))]);
    world.known.network = Some(lucarne_switch::Plan::default());
    world.decide().unwrap();
    assert_eq!(world.under_way, [Step::EvictBlob(blob(2).digest)]);
    world.finish(0, None);
    world.decide().unwrap();
    assert_eq!(world.under_way, []);
    assert_eq!(next_look(&world.known, &world.pace, world.now), Some(Moment::from_secs(990 + 3600)));
    world.now = Moment::from_secs(990 + 3600);
    world.decide().unwrap();
    assert_eq!(world.under_way, [Step::EvictBlob(blob(1).digest)]);
}
