//! What a host does for an instance that moves: it brings it away or takes it in, and lets nobody go whom it was not told to.

use std::net::{Ipv4Addr, SocketAddr};

use lucarne_model::{
    ErrorCode, HostId, InstanceId, Moment,
    actual::{ActualState, Capacity},
    desired::{Desired, DesiredMigration, Power},
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

const FROM: DesiredMigration = DesiredMigration::From { host: HostId::from_bits(1) };

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

/// An instance that ended on its way is not started here: it is not known yet whose it is.
#[test]
fn nothing_is_started_of_an_instance_that_is_on_its_way_to_another_host() {
    assert_eq!(Host::new(Some(to())).settle(), Vec::new());
}
