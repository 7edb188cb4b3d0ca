//! Tests of [`super`]: which launches go on from a warm state, and which are made, kept and doubted.

use lucarne_model::{
    Bytes, ErrorCode, ImageId, Moment, Vcpus, VolumeId, desired::Power, instance::Attachment, warm::Began,
};
use lucarne_vmm::driver::EndOfMachine;

use super::{
    super::tests::{blob, instance},
    *,
};
use crate::{
    layout::Layout,
    reconcile::{Cached, Failure, Known, Product, Proof, Prospect, Running, Standing},
    settings::Pace,
};

const NOW: Moment = Moment::from_secs(1000);

/// A host that is to keep the image of the tests' instances ready, and has its blobs.
struct Scene {
    desired: Desired,
    known: Known,
}

impl Scene {
    fn new() -> Self {
        let launched = instance(1, Power::Running, 1, Vec::new());
        let size = WarmSize { vcpus: launched.vcpus, memory: launched.memory };
        let state = DesiredWarmState { image: launched.image, size, boot: launched.boot.clone() };
        let desired = Desired { instances: vec![launched], warm_states: vec![state], ..Desired::default() };
        let cached = Cached { size: Bytes::mib(1), unused_since: None };
        let blobs = [blob(1), blob(2)].map(|blob| (blob.digest, cached)).into();
        Self { desired, known: Known { blobs, ..Known::default() } }
    }

    fn key(&self) -> Digest {
        let state = &self.desired.warm_states[0];
        warm_key(&state.boot, state.size).unwrap()
    }

    fn digest() -> Digest {
        Digest::from_bytes([7; 32])
    }

    fn made() -> WarmState {
        let progress = WarmProgress::Ready { digest: Self::digest(), stored: Bytes::mib(20) };
        WarmState { progress, hypervisor: "QEMU 7.2 (TCG)".into() }
    }

    fn ready() -> Self {
        let mut scene = Self::new();
        let key = scene.key();
        scene.known.warm_states.insert(key, Self::made());
        scene
    }

    fn decision<T>(&self, read: impl FnOnce(&mut Decision<'_>) -> T) -> T {
        let (layout, pace) = (Layout::new("/state".into()), Pace::default());
        read(&mut Decision::new(&self.desired, &self.known, &layout, &pace, NOW))
    }

    fn beginning(&self, change: impl FnOnce(&mut DesiredInstance)) -> Beginning {
        let mut wanted = self.desired.instances[0].clone();
        change(&mut wanted);
        self.decision(|decision| decision.beginning(&wanted))
    }

    fn steps(&self) -> Vec<Step> {
        self.decision(|decision| {
            decision.warm_states();
            std::mem::take(&mut decision.steps)
        })
    }

    fn progress(&self) -> WarmProgress {
        report(&self.desired, &self.known).remove(0).progress
    }
}

fn because(beginning: Beginning) -> String {
    match beginning {
        Beginning::Cold { because } => because.unwrap_or_default(),
        Beginning::Warm(_) => panic!("it is warm"),
    }
}

#[test]
fn a_launch_that_fits_is_warm_and_every_other_says_why_it_is_not() {
    let scene = Scene::ready();
    assert_eq!(scene.beginning(|_| {}), Beginning::Warm(scene.key()));
    let cold = |change: fn(&mut DesiredInstance)| because(scene.beginning(change));
    assert_eq!(cold(|one| one.cold = true), "that was asked for");
    assert!(cold(|one| one.generation = 2).contains("has run before"));
    let attached = Attachment { volume: VolumeId::from_bits(1), slot: 1 };
    let with_volume = scene.beginning(|one| one.volumes = vec![attached]);
    assert!(because(with_volume).contains("volumes"));
    assert!(cold(|one| one.memory = Bytes::mib(65)).contains("no warm state with 1 vCPUs"));
    assert!(cold(|one| one.vcpus = Vcpus(2)).contains("no warm state with 2 vCPUs"));
    // Of an image that nobody wants warm, nothing is said.
    assert_eq!(cold(|one| one.image = ImageId::from_bits(9)), "");
}

#[test]
fn one_that_is_to_be_proved_is_held_at_the_warm_state_and_never_past_it() {
    let mut scene = Scene::ready();
    let nonce = lucarne_model::Octets(vec![1; 16]);
    scene.desired.instances[0].attestation =
        Some(lucarne_model::desired::DesiredAttestation { nonce, begin: false, heard: false });
    assert_eq!(scene.beginning(|_| {}), Beginning::Warm(scene.key()));
    assert!(because(scene.beginning(|one| one.cold = true)).contains("knows no warm state"));
    scene.known.handle_desired(&scene.desired, NOW);
    let steps = scene.steps();
    assert!(!steps.iter().any(|step| matches!(step, Step::Start(..))), "{steps:?}");
    let mut spec = Scene::new().steps().into_iter();
    let Some(Step::MakeWarmState(template)) = spec.next() else { panic!("no template") };
    let spec = MachineSpec { instance: scene.desired.instances[0].id, ..template.spec };
    let hold = Step::Hold(Box::new(spec), Beginning::Warm(scene.key()));
    let began = Began::Warm { digest: Scene::digest() };
    scene.known.handle_done(hold, Ok(Product::Held(began.clone(), Vec::new())), NOW);
    let running = scene.known.running.values().next().unwrap();
    assert_eq!((&running.began, running.standing), (&began, Standing::Held));
}

#[test]
fn nothing_else_is_taken_for_the_warm_state_of_an_image() {
    let scene = Scene::ready();
    let other = |change: fn(&mut BootSource, &mut WarmSize)| {
        let DesiredWarmState { mut boot, mut size, .. } = scene.desired.warm_states[0].clone();
        change(&mut boot, &mut size);
        warm_key(&boot, size)
    };
    let key = Some(scene.key());
    assert_eq!(other(|_, _| {}), key);
    assert_ne!(other(|_, size| size.vcpus = Vcpus(2)), key);
    assert_ne!(other(|_, size| size.memory = Bytes::mib(65)), key);
    let with = |kernel, initramfs, command_line: &str| BootSource::Kernel {
        kernel: blob(kernel),
        initramfs: blob(initramfs),
        command_line: command_line.into(),
    };
    let size = scene.desired.warm_states[0].size;
    assert_eq!(warm_key(&with(1, 2, ""), size), key);
    for boot in [with(3, 2, ""), with(1, 3, ""), with(2, 1, ""), with(1, 2, "quiet")] {
        assert_ne!(warm_key(&boot, size), key);
    }
}

#[test]
fn what_is_missing_is_made_once_and_what_is_not_wanted_goes() {
    let mut scene = Scene::new();
    assert_eq!(scene.progress(), WarmProgress::Preparing);
    let steps = scene.steps();
    let [Step::MakeWarmState(template)] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((&template.key, &template.spec.origin, &template.spec.nic), (&scene.key(), &Origin::Template, &None));
    let Boot::Kernel { command_line, .. } = &template.spec.boot else { panic!("{template:?}") };
    assert!(command_line.split(' ').any(|word| word == TEMPLATE_WORD));
    scene.known.handle_begun(&steps[0]);
    assert!(scene.steps().is_empty());
    scene.known.handle_done(steps[0].clone(), Ok(Product::Saved(Scene::made())), NOW);
    assert_eq!((scene.steps(), scene.progress()), (vec![], Scene::made().progress));

    let key = scene.key();
    scene.desired.warm_states.clear();
    assert_eq!(scene.steps(), [Step::DropWarmState(key)]);
}

#[test]
fn blobs_come_first_and_stay_for_as_long_as_the_image_is_to_be_warm() {
    let mut scene = Scene::new();
    scene.known.blobs.remove(&blob(2).digest);
    assert_eq!(scene.steps(), [Step::FetchBlob(blob(2))]);
    scene.desired.instances.clear();
    scene.known.handle_desired(&scene.desired, NOW);
    assert!(scene.known.blobs.values().all(|cached| cached.unused_since.is_none()));
    scene.desired.warm_states.clear();
    scene.known.handle_desired(&scene.desired, NOW);
    assert!(scene.known.blobs.values().all(|cached| cached.unused_since == Some(NOW)));
}

#[test]
fn a_host_that_cannot_make_it_says_so_at_each_launch() {
    let mut scene = Scene::new();
    let step = scene.steps().remove(0);
    let failure = Failure::new(ErrorCode::HypervisorFailed, "its guest is silent", Prospect::Doubtful);
    scene.known.handle_done(step, Err(failure), NOW);
    assert_eq!(scene.progress(), WarmProgress::Failed { reason: "its guest is silent".into() });
    assert!(because(scene.beginning(|_| {})).ends_with("could not make the warm state: its guest is silent"));
    assert!(scene.steps().is_empty(), "it rests before it is tried again");
}

#[test]
fn a_warm_state_that_could_not_be_used_or_whose_vm_died_is_made_anew() {
    let spec = |scene: &Scene| {
        let steps = {
            let mut other = Scene::new();
            other.desired = scene.desired.clone();
            other.steps()
        };
        let [Step::MakeWarmState(template)] = &steps[..] else { panic!("{steps:?}") };
        MachineSpec { instance: scene.desired.instances[0].id, ..template.spec.clone() }
    };
    let mut unused = Scene::ready();
    unused.known.handle_desired(&unused.desired, NOW);
    let start = Step::Start(Box::new(spec(&unused)), Beginning::Warm(unused.key()));
    let began = Began::Cold { because: Some("its warm state could not be used".into()) };
    unused.known.handle_done(start, Ok(Product::Began(began)), NOW);
    assert_eq!((unused.known.warm_states.len(), unused.known.running.len()), (0, 1));

    for (why, left) in [(EndOfMachine::GuestShutdown, 1), (EndOfMachine::Died { said: String::new() }, 0)] {
        let mut scene = Scene::ready();
        let id = scene.desired.instances[0].id;
        scene.known.handle_desired(&scene.desired, NOW);
        let began = Began::Warm { digest: Scene::digest() };
        let (disks, standing, proof) = (Vec::new(), Standing::Runs, Proof::default());
        let running = Running { generation: 1, began, disks, standing, stood_still: None, proof };
        scene.known.handle_adopted(id, running, NOW);
        scene.known.handle_machine_ended(id, 1, why);
        assert_eq!((scene.known.warm_states.len(), scene.known.running.len()), (left, 0));
    }
}
