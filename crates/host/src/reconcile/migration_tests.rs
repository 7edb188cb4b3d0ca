//! What a host does for an instance that moves: it brings it away or takes it in, and lets nobody go whom it was not told to.

use std::net::{Ipv4Addr, SocketAddr};

use lucarne_model::{
    Bytes, ErrorCode, HostId, InstanceId, Moment, VolumeId,
    actual::{ActualState, Capacity},
    desired::{Desired, DesiredMigration, DesiredVolume, Power, VolumeContent},
    warm::Began,
};

use super::{
    tests::{blob, instance, network},
    *,
};

const N: u128 = 1;

/// A host with all that the instance needs.
struct Host {
    desired: Desired,
    known: Known,
    now: Moment,
}

impl Host {
    fn new(migration: Option<DesiredMigration>) -> Self {
        let mut known = Known::default();
        for n in [1, 2] {
            known.blobs.insert(blob(n).digest, Cached { size: blob(n).size, unused_since: None });
        }
        let mut host = Self { desired: Desired::default(), known, now: Moment::from_secs(1) };
        host.told(Power::Running, migration);
        host
    }

    fn told(&mut self, power: Power, migration: Option<DesiredMigration>) {
        let wanted = DesiredInstance { migration, ..instance(N, power, 1, Vec::new()) };
        self.desired.networks = vec![network(std::slice::from_ref(&wanted))];
        self.desired.instances = vec![wanted];
    }

    fn steps(&mut self) -> Vec<Step> {
        self.known.handle_desired(&self.desired, self.now);
        next_steps(&self.desired, &self.known, &Layout::new("/state".into()), &Pace::default(), self.now)
    }

    /// Does all steps that there are, well, and gives those of the instance.
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
                let product = match step {
                    Step::Start(..) | Step::Receive { .. } => Product::Began(Began::Cold { because: None }),
                    _ => Product::Nothing,
                };
                self.known.handle_done(step.clone(), Ok(product), self.now);
                done.push(step);
            }
        }
    }

    fn state(&self) -> ActualState {
        report(&self.desired, &self.known, Capacity::default()).instances[0].state
    }
}

fn id() -> InstanceId {
    InstanceId::from_bits(N)
}

fn to() -> DesiredMigration {
    DesiredMigration::To { host: HostId::from_bits(2), address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)) }
}

const FROM: DesiredMigration = DesiredMigration::From { host: HostId::from_bits(1), volumes: Vec::new() };

#[test]
fn an_instance_that_was_brought_away_stands_still_until_it_is_known_who_goes_on_with_it() {
    for stays in [true, false] {
        let mut host = Host::new(None);
        host.settle();
        host.told(Power::Running, Some(to()));
        assert!(matches!(host.settle()[..], [Step::Send { generation: 1, .. }]));
        assert_eq!(host.known.running[&id()].standing, Standing::Sent);
        host.told(if stays { Power::Running } else { Power::Absent }, None);
        match &host.settle()[..] {
            [Step::LetGo(_)] if stays => assert_eq!(host.known.running[&id()].standing, Standing::Runs),
            [Step::Stop { how: Stop::Kill, .. }, Step::Forget(_)] if !stays => {
                assert_eq!(host.state(), ActualState::Absent);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_instance_that_came_is_told_and_goes_on_when_it_is_this_hosts_own() {
    let mut host = Host::new(Some(FROM));
    assert!(matches!(host.settle()[..], [Step::Receive { .. }]));
    assert_eq!(host.state(), ActualState::Arrived);
    assert!(host.known.network.as_ref().is_some_and(|plan| plan.ports.len() == 1), "its port waits for it");
    host.told(Power::Running, None);
    assert!(matches!(host.settle()[..], [Step::LetGo(_)]));
    assert_eq!(host.state(), ActualState::Running);
    assert!(host.steps().is_empty());
}

#[test]
fn what_was_to_be_stopped_meanwhile_goes_on_for_its_guest_to_shut_down() {
    let mut host = Host::new(None);
    host.settle();
    host.told(Power::Running, Some(to()));
    host.settle();
    host.told(Power::Stopped, None);
    assert!(matches!(host.settle()[..], [Step::LetGo(_), Step::Stop { how: Stop::InOrder { .. }, .. }]));
}

#[test]
fn a_move_that_fails_is_tried_again_at_its_own_host_and_told_at_the_other() {
    let failure = || Err(Failure::new(ErrorCode::HostUnreachable, "made up", Prospect::Doubtful));
    let mut own = Host::new(None);
    own.settle();
    own.told(Power::Running, Some(to()));
    let step = own.steps().remove(0);
    own.known.handle_begun(&step);
    own.known.handle_done(step.clone(), failure(), own.now);
    assert_eq!((own.state(), own.steps()), (ActualState::Running, Vec::new()), "it runs on, and rests");
    own.now = own.now.plus(Duration::from_secs(60));
    assert_eq!(own.steps(), [step]);

    let mut other = Host::new(Some(FROM));
    let network = other.steps().remove(0);
    other.known.handle_begun(&network);
    other.known.handle_done(network, Ok(Product::Nothing), other.now);
    let step = other.steps().remove(0);
    other.known.handle_begun(&step);
    other.known.handle_done(step, failure(), other.now);
    assert_eq!((other.settle(), other.state()), (Vec::new(), ActualState::Failed));
    other.told(Power::Absent, None);
    assert!(matches!(other.settle()[..], [Step::Forget(_)]));
    other.told(Power::Running, Some(FROM));
    assert!(matches!(other.settle()[..], [Step::Receive { .. }]), "another day it may come");
}

/// A host that is told to take the instance in with a volume of each kind, and the blob that stays below one of them.
fn with_volumes() -> (Host, DesiredMigration) {
    let image = VolumeContent::Image { disk: blob(3), format: DiskFormat::Raw };
    let volumes = [(7, VolumeContent::Empty), (8, VolumeContent::Snapshot { blob: blob(4) }), (9, image)];
    let volumes = volumes.map(|(id, content)| {
        let id = VolumeId::from_bits(id);
        DesiredVolume { id, size: Bytes::mib(1), content, present: true }
    });
    let from = DesiredMigration::From { host: HostId::from_bits(1), volumes: volumes.to_vec() };
    let mut host = Host::new(Some(from.clone()));
    let attached = volumes.iter().zip(1..).map(|(volume, slot)| Attachment { volume: volume.id, slot });
    host.desired.instances[0].volumes = attached.collect();
    (host, from)
}

/// They come with it: none is made, and of what they were made from only an image is needed. Until it is known whose they are
/// nothing here is deleted, and what stays at the old host goes before the host says that it has nothing.
#[test]
fn volumes_come_with_their_instance_and_are_deleted_where_they_were() {
    let (mut host, from) = with_volumes();
    let steps = host.settle();
    let [Step::FetchBlob(base), Step::Receive { spec, volumes, .. }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((base, volumes.len(), spec.disks.len()), (&blob(3), 3, 3));
    assert!(spec.disks.iter().all(|disk| disk.size == Some(Bytes::mib(1))));
    assert_eq!(spec.disks.iter().filter(|disk| disk.base.is_some()).count(), 1);
    assert_eq!((host.state(), host.known.volumes.len()), (ActualState::Arrived, 3));

    // It is another's again.
    let DesiredMigration::From { volumes, .. } = from else { panic!() };
    host.desired.volumes = volumes.into_iter().map(|volume| DesiredVolume { present: false, ..volume }).collect();
    (host.desired.instances[0].power, host.desired.instances[0].migration) = (Power::Absent, None);
    let steps = host.settle();
    let deletes = |step: &Step| matches!(step, Step::DeleteVolume(_));
    assert!(matches!(steps[..], [Step::Stop { how: Stop::Kill, .. }, .., Step::Forget(_)]), "{steps:?}");
    assert_eq!((steps.iter().filter(|step| deletes(step)).count(), host.state()), (3, ActualState::Absent));
}

/// An agent that was killed may have them of a try before, or from an earlier time: they are replaced, not asked for.
#[test]
fn what_is_here_of_a_volume_that_comes_is_no_hindrance_unless_it_is_used() {
    let (mut host, _) = with_volumes();
    host.known.volumes = [7, 8, 9].map(VolumeId::from_bits).into();
    assert!(matches!(host.settle()[..], [Step::FetchBlob(_), Step::Receive { .. }]));
}

#[test]
fn an_instance_that_goes_takes_its_disks_along_and_nothing_else_touches_them() {
    let mut host = Host::new(None);
    host.settle();
    let volume = VolumeId::from_bits(7);
    host.known.volumes.insert(volume);
    host.known.running.get_mut(&id()).unwrap().disks = vec![Attachment { volume, slot: 1 }];
    host.told(Power::Running, Some(to()));
    let steps = host.steps();
    assert!(matches!(&steps[..], [Step::Send { disks, .. }] if *disks == [volume]), "{steps:?}");
    assert_eq!(steps[0].subjects(), [Subject::Instance(id()), Subject::Volume(volume)]);
}

#[test]
fn a_way_is_vain_when_the_instance_is_not_to_go_it_any_more() {
    let mut host = Host::new(None);
    host.settle();
    host.told(Power::Running, Some(to()));
    let step = host.steps().remove(0);
    assert!(!is_vain(&host.desired, &step));
    host.told(Power::Stopped, Some(to()));
    assert!(is_vain(&host.desired, &step), "it is to be stopped");
    host.told(Power::Running, Some(FROM));
    assert!(is_vain(&host.desired, &step), "it is to come");
    host.told(Power::Running, None);
    assert!(is_vain(&host.desired, &step));
    host.desired.instances.clear();
    assert!(!is_vain(&host.desired, &step), "nothing is ended by being left out");
}

/// An instance that ended on its way is not started here: it is not known yet whose it is.
#[test]
fn nothing_is_started_of_an_instance_that_is_on_its_way_to_another_host() {
    assert_eq!(Host::new(Some(to())).settle(), Vec::new());
}
