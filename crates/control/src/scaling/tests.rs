//! The rules against made-up groups: whatever instances do and hosts tell, and at any time.

use lucarne_model::scaling::ScalingMetric;
use proptest::prelude::*;

use super::*;

const START: Moment = Moment::from_secs(10_000);

fn order(min: u32, max: u32, target: u32, cool_down: u64) -> Order {
    let target = ScalingTarget { metric: ScalingMetric::LiveConnections, value: target };
    Order { min, max, target, cool_down: Duration::from_secs(cool_down) }
}

fn member(n: u128, figure: Option<u64>) -> Member {
    let sample = figure.map(|figure| Sample { at: START, figure: figure * 1000 });
    Member { instance: InstanceId::from_bits(n), life: Life::Runs, launched: START, may_end: true, sample }
}

/// A course that has been as it is for long.
fn course(desired: u32) -> Course {
    course_since(desired, START.minus(Duration::from_secs(5000)))
}

fn course_since(desired: u32, changed: Moment) -> Course {
    Course { desired, changed, failures: 0, failed: Moment::EPOCH }
}

fn ids(members: &[u128]) -> Vec<InstanceId> {
    members.iter().copied().map(InstanceId::from_bits).collect()
}

#[test]
fn it_grows_to_as_many_as_the_target_needs_and_no_further_than_it_may() {
    let members = [member(1, Some(25)), member(2, Some(30))];
    let plan = decide(&order(1, 10, 10, 60), &course(2), &members, START);
    let cause = ScalingCause::Figure { value: 28, target: order(1, 10, 10, 60).target };
    assert_eq!((plan.launch, plan.change), (4, Some((6, cause))));
    assert_eq!(decide(&order(1, 3, 10, 60), &course(2), &members, START).launch, 1);
    assert!(decide(&order(1, 2, 10, 60), &course(2), &members, START).is_idle());
}

#[test]
fn it_shrinks_by_the_youngest_to_what_stands_a_tenth_below_the_target() {
    let mut members = [member(1, Some(3)), member(2, Some(3)), member(3, Some(3))];
    members[1].launched = START.plus(Duration::from_secs(9));
    assert_eq!(decide(&order(1, 10, 10, 60), &course(3), &members, START).end, ids(&[2, 1]));
    for one in &mut members {
        one.sample = Some(Sample { at: START, figure: 6_100 });
    }
    // Two would have 9.15 each.
    assert!(decide(&order(1, 10, 10, 60), &course(3), &members, START).is_idle());
    assert_eq!(decide(&order(2, 10, 11, 60), &course(3), &members, START).end, ids(&[2]));
    members[1].may_end = false;
    assert_eq!(decide(&order(2, 10, 11, 60), &course(3), &members, START).end, ids(&[1]));
}

#[test]
fn what_is_not_known_never_makes_it_smaller_and_what_is_known_may_make_it_larger() {
    let idle = [member(1, Some(0)), member(2, None)];
    let plan = decide(&order(1, 10, 10, 60), &course(2), &idle, START);
    assert!(plan.is_idle() && plan.waits == Some(ScalingWait::Figures), "{plan:?}");
    let late = START.plus(FRESH).plus(Duration::from_micros(1));
    let stale = [member(1, Some(0)), member(2, Some(0))];
    assert!(decide(&order(1, 10, 10, 60), &course(2), &stale, late).is_idle());
    let busy = [member(1, Some(35)), member(2, None)];
    assert_eq!(decide(&order(1, 10, 10, 60), &course(2), &busy, START).launch, 2);
}

#[test]
fn a_group_with_nothing_to_do_keeps_one_instance_unless_none_is_wanted() {
    assert!(decide(&order(0, 3, 10, 60), &course(1), &[member(1, Some(0))], START).is_idle());
    assert_eq!(decide(&order(0, 0, 10, 60), &course(1), &[member(1, Some(50))], START).end, ids(&[1]));
}

#[test]
fn what_does_not_run_is_ended_and_replaced_even_while_it_cools_down() {
    let now = START.plus(Duration::from_secs(100));
    let mut members = [member(1, Some(5)), member(2, None), member(3, None)];
    members[1].life = Life::Stopped;
    members[2].life = Life::Gone { launch_failed: false };
    let plan = decide(&order(3, 3, 10, 3600), &course_since(3, now), &members, now);
    assert_eq!((plan.launch, &plan.end, &plan.gone), (2, &ids(&[2]), &ids(&[3])));
    assert_eq!(plan.change, Some((3, ScalingCause::Replacement { instances: ids(&[2, 3]) })));
    // One that a replica draws on stays, and is made up for.
    members[1].may_end = false;
    let plan = decide(&order(3, 3, 10, 3600), &course_since(3, now), &members, now);
    assert_eq!((plan.launch, plan.end.len()), (2, 0));
}

#[test]
fn launches_that_fail_are_tried_again_at_longer_and_longer_intervals() {
    let mut failed = member(1, None);
    failed.life = Life::Gone { launch_failed: true };
    let mut course = course(1);
    let plan = decide(&order(1, 1, 10, 60), &course, &[failed], START);
    assert_eq!((plan.launch, plan.failures, plan.gone.len()), (0, 1, 1));
    assert_eq!(plan.waits, Some(ScalingWait::Retry { at: START.plus(RETRY) }));
    (course.failures, course.failed) = (1, START);
    assert_eq!(decide(&order(1, 1, 10, 60), &course, &[], START.plus(RETRY)).launch, 1);
    course.failures = 3;
    assert_eq!(decide(&order(1, 1, 10, 60), &course, &[], START.plus(RETRY * 4)).launch, 1);
    assert_eq!(decide(&order(1, 1, 10, 60), &course, &[], START.plus(RETRY * 3)).launch, 0);
    course.failures = u32::MAX;
    assert_eq!(decide(&order(1, 1, 10, 60), &course, &[], START.plus(LONGEST_RETRY)).launch, 1);
    let plan = decide(&order(1, 1, 10, 60), &course, &[member(2, None)], START);
    assert!(plan.settled, "what runs takes the failures back");
    // A guest that dies at once is no better than a launch that fails.
    let died = Member { life: Life::Stopped, ..member(3, None) };
    let plan = decide(&order(1, 1, 10, 60), &self::course(1), &[died], START.plus(Duration::from_secs(9)));
    assert_eq!((plan.launch, plan.failures, plan.end), (0, 1, ids(&[3])));
}

/// What happens to a group between two looks.
#[derive(Clone, Debug)]
enum Happens {
    Wait(u64),
    /// All that is being launched runs.
    Run,
    /// The oldest one that is there comes to this.
    Oldest(Life),
    Newest(Life),
    /// All that runs has this figure in all, told now.
    Load(u64),
    /// Nothing is heard any more.
    Silence,
    Held(bool),
    Bounds(u32, u32),
}

fn happens() -> impl Strategy<Value = Happens> {
    let life = || {
        prop_oneof![
            Just(Life::Stopped),
            Just(Life::Gone { launch_failed: true }),
            Just(Life::Gone { launch_failed: false }),
            Just(Life::Coming)
        ]
    };
    prop_oneof![
        4 => (1u64..90).prop_map(Happens::Wait),
        4 => Just(Happens::Run),
        1 => life().prop_map(Happens::Oldest),
        1 => life().prop_map(Happens::Newest),
        6 => (0u64..150).prop_map(Happens::Load),
        1 => Just(Happens::Silence),
        1 => any::<bool>().prop_map(Happens::Held),
        1 => (0u32..5, 0u32..5).prop_map(|(min, more)| Happens::Bounds(min, min + more)),
    ]
}

/// A group as the controller would keep it.
#[derive(Debug)]
struct Group {
    order: Order,
    course: Course,
    members: Vec<Member>,
    now: Moment,
    made: u128,
}

impl Group {
    fn happen(&mut self, what: &Happens) {
        let now = self.now;
        match *what {
            Happens::Wait(seconds) => self.now = now.plus(Duration::from_secs(seconds)),
            Happens::Run => {
                let coming = self.members.iter_mut().filter(|member| member.life == Life::Coming);
                coming.for_each(|member| member.life = Life::Runs);
            }
            Happens::Oldest(life) => self.members.first_mut().into_iter().for_each(|member| member.life = life),
            Happens::Newest(life) => self.members.last_mut().into_iter().for_each(|member| member.life = life),
            Happens::Load(load) => {
                let running = self.members.iter().filter(|member| member.life == Life::Runs).count().max(1) as u64;
                for member in self.members.iter_mut().filter(|member| member.life == Life::Runs) {
                    member.sample = Some(Sample { at: now, figure: load * 1000 / running });
                }
            }
            Happens::Silence => self.members.iter_mut().for_each(|member| member.sample = None),
            Happens::Held(held) => self.members.iter_mut().for_each(|member| member.may_end = !held),
            Happens::Bounds(min, max) => (self.order.min, self.order.max) = (min, max),
        }
    }

    fn obey(&mut self, plan: &Plan) {
        self.members.retain(|member| !plan.end.contains(&member.instance) && !plan.gone.contains(&member.instance));
        for _ in 0..plan.launch {
            self.made += 1;
            let new = Member { life: Life::Coming, launched: self.now, ..member(self.made, None) };
            self.members.push(new);
        }
        if let Some((desired, _)) = &plan.change {
            self.course.desired = *desired;
        }
        if plan.launch > 0 || !plan.end.is_empty() {
            self.course.changed = self.now;
        }
        if plan.settled {
            self.course.failures = 0;
        }
        if plan.failures > 0 {
            (self.course.failures, self.course.failed) = (self.course.failures + plan.failures, self.now);
        }
    }

    fn live(&self) -> usize {
        self.members.iter().filter(|member| matches!(member.life, Life::Coming | Life::Runs)).count()
    }
}

proptest! {
    #[test]
    fn a_group_keeps_its_bounds_its_cool_down_and_what_it_does_not_know_of(
        steps in prop::collection::vec(happens(), 1..120),
        cool_down in 0u64..120,
    ) {
        let order = order(1, 4, 20, cool_down);
        let mut group = Group { order, course: course_since(1, START), members: Vec::new(), now: START, made: 100 };
        for step in &steps {
            group.happen(step);
            let (before, live) = (group.course, group.live());
            let plan = decide(&group.order, &group.course, &group.members, group.now);
            let twice: Vec<_> = plan.end.iter().filter(|id| plan.gone.contains(id)).collect();
            prop_assert!(twice.is_empty(), "{:?}", plan);
            let held = |id: &InstanceId| group.members.iter().any(|one| one.instance == *id && !one.may_end);
            prop_assert!(!plan.end.iter().any(held), "{:?}", plan);
            if let Some((to, ScalingCause::Figure { .. })) = &plan.change {
                prop_assert!(group.now >= before.changed.plus(order.cool_down), "it changes while it cools down");
                let sum: u64 = group.members.iter().filter_map(|one| fresh(one, group.now)).sum();
                let all_known = group.members.iter().all(|one| {
                    !matches!(one.life, Life::Coming | Life::Runs) || fresh(one, group.now).is_some()
                });
                if *to > before.desired {
                    let wanted = sum.div_ceil(20_000).max(group.order.min.into()) as u32;
                    prop_assert_eq!(*to, wanted.min(group.order.max));
                } else {
                    prop_assert!(all_known, "it shrinks by what it does not know");
                    prop_assert!(sum <= u64::from(*to) * 20_000, "it would grow again at once");
                }
            }
            group.obey(&plan);
            let desired = group.course.desired;
            prop_assert!((group.order.min..=group.order.max).contains(&desired), "{} of {:?}", desired, group.order);
            prop_assert!(group.live() <= (desired as usize).max(live), "never more than there should be");
            if plan.launch > 0 || plan.waits.is_none() {
                prop_assert!(group.live() >= desired as usize, "{:?}", plan);
            }
            prop_assert!(plan.end.is_empty() || group.live() >= (desired as usize).min(live));
            // Nothing new: nothing to do. A decision that was taken is not taken twice.
            let again = decide(&group.order, &group.course, &group.members, group.now);
            let acts = |plan: &Plan| plan.launch > 0 || !plan.end.is_empty();
            prop_assert!(!(acts(&plan) && acts(&again)) || cool_down == 0, "{:?} then {:?}", plan, again);
        }
    }
}
