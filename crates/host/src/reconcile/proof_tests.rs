//! What a host does for an instance that is to be proved: it holds it, proves it, and lets it begin at a word and no sooner.

use lucarne_model::{
    Component, ErrorCode, InstanceId, Measurement, Moment, Octets,
    actual::{ActualInstance, ActualState, Capacity},
    desired::{Desired, DesiredAttestation, Power},
    storage::Digest,
    warm::Began,
};
use proptest::prelude::*;

use super::super::{
    tests::{blob, instance, network},
    *,
};
use super::*;

const N: u128 = 1;

/// A host with all that the instance needs.
struct Host {
    desired: Desired,
    known: Known,
    now: Moment,
}

fn measured() -> Vec<Measurement> {
    let digest = Digest::from_bytes([7; 32]);
    vec![Measurement { component: Component::GuestKernel, name: "kernel".into(), digest }]
}

fn asks(nonce: u8, begin: bool) -> DesiredAttestation {
    DesiredAttestation { nonce: Octets(vec![nonce; 16]), begin, heard: false }
}

fn evidence(nonce: Octets, generation: u64) -> Evidence {
    let nothing = || Octets(Vec::new());
    Evidence {
        instance: id(),
        generation,
        nonce,
        host_key: Digest::from_bytes([1; 32]),
        quote: nothing(),
        signature: nothing(),
        pcrs: Vec::new(),
        event_log: nothing(),
        ak_public: nothing(),
        ek_certificates: Vec::new(),
        credential: None,
        guest: None,
    }
}

fn id() -> InstanceId {
    InstanceId::from_bits(N)
}

impl Host {
    fn new() -> Self {
        let mut known = Known::default();
        for n in [1, 2] {
            known.blobs.insert(blob(n).digest, Cached { size: blob(n).size, unused_since: None });
        }
        Self { desired: Desired::default(), known, now: Moment::from_secs(1) }
    }

    /// Says what is wanted; `joins` is whether the interface is part of its network.
    fn told(&mut self, power: Power, generation: u64, attestation: Option<DesiredAttestation>, joins: bool) {
        let mut wanted = DesiredInstance { attestation, ..instance(N, power, generation, Vec::new()) };
        let mut network = network(std::slice::from_ref(&wanted));
        wanted.mac = Some(network.endpoints[0].mac);
        network.endpoints.retain(|_| joins);
        (self.desired.networks, self.desired.instances) = (vec![network], vec![wanted]);
    }

    /// Does all steps that there are, well, and gives those of the instance.
    fn settle(&mut self) -> Vec<Step> {
        let mut done = Vec::new();
        loop {
            self.known.handle_desired(&self.desired, self.now);
            let steps =
                next_steps(&self.desired, &self.known, &Layout::new("/state".into()), &Pace::default(), self.now);
            if steps.is_empty() {
                done.retain(|step| !matches!(step, Step::ApplyNetwork(_)));
                return done;
            }
            for step in steps {
                self.known.handle_begun(&step);
                let product = match &step {
                    Step::Hold(..) => Product::Held(Began::Cold { because: None }, measured()),
                    Step::Start(..) => Product::Began(lucarne_model::warm::Began::Cold { because: None }),
                    Step::Prove { nonce, generation, .. } => {
                        Product::Proved(Box::new(evidence(nonce.clone(), *generation)))
                    }
                    _ => Product::Nothing,
                };
                self.known.handle_done(step.clone(), Ok(product), self.now);
                done.push(step);
            }
        }
    }

    fn fail(&mut self, step: Step, code: ErrorCode, prospect: Prospect) {
        self.known.handle_begun(&step);
        self.known.handle_done(step, Err(Failure::new(code, "made up", prospect)), self.now);
    }

    fn actual(&self) -> ActualInstance {
        report(&self.desired, &self.known, Capacity::default()).instances[0].clone()
    }

    fn ports(&self) -> usize {
        self.known.network.as_ref().map_or(0, |plan| plan.ports.len())
    }
}

#[test]
fn a_vm_to_be_proved_is_held_without_a_port_and_joins_the_network_before_it_begins() {
    let mut host = Host::new();
    host.told(Power::Running, 1, Some(asks(1, false)), false);
    let steps = host.settle();
    assert!(matches!(&steps[..], [Step::Hold(spec, _), Step::Prove { .. }] if spec.nic.is_some()), "{steps:?}");
    let actual = host.actual();
    assert_eq!((actual.state, host.ports()), (ActualState::Held, 0));
    assert_eq!(actual.evidence.map(|evidence| evidence.nonce), Some(Octets(vec![1; 16])));

    host.told(Power::Running, 1, Some(DesiredAttestation { heard: true, ..asks(1, false) }), false);
    assert_eq!(host.settle(), []);
    assert_eq!(host.actual().evidence, None, "what was heard is not told again");

    host.told(Power::Running, 1, Some(DesiredAttestation { heard: true, ..asks(1, true) }), true);
    let steps = next_steps(&host.desired, &host.known, &Layout::new("/state".into()), &Pace::default(), host.now);
    assert!(matches!(steps[..], [Step::ApplyNetwork(_)]), "its port first: {steps:?}");
    assert_eq!(host.settle(), [Step::Release(id())]);
    assert_eq!((host.actual().state, host.ports()), (ActualState::Running, 1));
}

#[test]
fn a_vm_in_quarantine_begins_and_has_no_port() {
    let mut host = Host::new();
    host.told(Power::Running, 1, Some(asks(1, true)), false);
    let steps = host.settle();
    assert!(matches!(steps[..], [Step::Hold(..), Step::Prove { .. }, Step::Release(_)]), "{steps:?}");
    assert_eq!((host.actual().state, host.ports()), (ActualState::Running, 0));
}

#[test]
fn a_vm_that_runs_is_proved_again_when_it_is_asked_with_a_new_nonce_and_loses_its_port_when_it_must() {
    let mut host = Host::new();
    host.told(Power::Running, 1, Some(asks(1, true)), true);
    host.settle();
    host.told(Power::Running, 1, Some(asks(2, true)), true);
    assert!(matches!(&host.settle()[..], [Step::Prove { nonce, .. }] if nonce.0 == [2; 16]));
    assert_eq!(host.actual().evidence.map(|evidence| evidence.nonce.0), Some(vec![2; 16]));
    host.told(Power::Running, 1, Some(DesiredAttestation { heard: true, ..asks(2, true) }), false);
    assert_eq!(host.settle(), []);
    assert_eq!((host.actual().state, host.ports()), (ActualState::Running, 0));
}

#[test]
fn a_held_vm_that_is_no_longer_wanted_is_ended_without_asking_its_guest() {
    for power in [Power::Stopped, Power::Off, Power::Absent] {
        let mut host = Host::new();
        host.told(Power::Running, 1, Some(asks(1, false)), false);
        host.settle();
        host.told(power, 1, Some(asks(1, false)), false);
        let steps = host.settle();
        assert!(matches!(steps[0], Step::Stop { how: Stop::Kill, .. }), "{steps:?}");
    }
}

#[test]
fn an_agent_that_starts_anew_finds_the_vm_held_and_proves_it_again() {
    let mut host = Host::new();
    host.told(Power::Running, 1, Some(asks(1, false)), false);
    let mut known = Known { blobs: host.known.blobs.clone(), ..Known::default() };
    let proof = Proof { measured: Some(measured()), evidence: None };
    let began = lucarne_model::warm::Began::Cold { because: None };
    let (disks, standing) = (Vec::new(), Standing::Held);
    let running = Running { generation: 1, began, disks, standing, stood_still: None, proof };
    known.handle_adopted(id(), running, host.now);
    host.known = known;
    assert!(matches!(&host.settle()[..], [Step::Prove { measured: m, .. }] if *m == measured()));
    assert!(host.actual().evidence.is_some() && host.actual().state == ActualState::Held);
}

#[test]
fn a_held_vm_that_cannot_be_proved_or_is_not_what_was_measured_says_so_and_stays() {
    let mut host = Host::new();
    host.told(Power::Running, 1, Some(asks(1, false)), false);
    host.settle();
    host.known.running.get_mut(&id()).unwrap().proof.evidence = None;
    let prove = Step::Prove { instance: id(), generation: 1, nonce: Octets(vec![1; 16]), measured: measured() };
    host.fail(prove.clone(), ErrorCode::HostNotProved, Prospect::Doubtful);
    assert_eq!(host.actual().reason, None, "it is tried again");
    for _ in 0..2 {
        host.fail(prove.clone(), ErrorCode::HostNotProved, Prospect::Doubtful);
    }
    assert_eq!(host.actual().reason.map(|reason| reason.code), Some(ErrorCode::HostNotProved));
    host.fail(Step::Release(id()), ErrorCode::MeasurementChanged, Prospect::Hopeless);
    let actual = host.actual();
    assert_eq!(actual.reason.map(|reason| reason.code), Some(ErrorCode::MeasurementChanged));
    assert_eq!(actual.state, ActualState::Held);
}

proptest! {
    /// Whatever is said in whatever order: a VM begins only under a word that lets its own generation begin.
    #[test]
    fn no_held_vm_begins_without_a_word_for_its_generation(
        words in prop::collection::vec((1..4u64, prop::option::of((0..3u8, any::<bool>())), any::<bool>(), 0..4usize), 1..30),
    ) {
        let mut host = Host::new();
        for (generation, attestation, joins, power) in words {
            let attestation = attestation.map(|(nonce, begin)| asks(nonce, begin));
            let power = [Power::Running, Power::Running, Power::Stopped, Power::Off][power];
            let begin = attestation.as_ref().is_some_and(|attestation| attestation.begin);
            host.told(power, generation, attestation, joins);
            let before = host.known.running.get(&id()).map(|running| (running.generation, running.standing));
            for step in host.settle() {
                if matches!(step, Step::Release(_)) {
                    prop_assert!(begin && power == Power::Running);
                    prop_assert_eq!(host.known.running[&id()].generation, generation);
                }
            }
            let after = host.known.running.get(&id()).map(|running| (running.generation, running.standing));
            if let (Some((old, Standing::Held)), Some((new, Standing::Runs))) = (before, after) {
                prop_assert!(begin || new > old, "it began by itself");
            }
        }
    }
}
