//! How many instances should a scaling group have, and which of them go?
//!
//! Owns the rules: the bounds, the replacing of what does not run, and the tracking of a target by what hosts tell. It launches and
//! ends nothing; [`crate::services::scaling_groups`] does, in one transaction with what a group remembers.
//!
//! A group follows its figure only when all that it has runs and the cool-down is over. It grows to as many instances as the sum of
//! their figures needs to be at the target, one whose figure is unknown taken for idle. It shrinks only when every figure is known,
//! and only to as many as would stand a tenth below the target: else it would go to and fro at the edge.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{cmp::Reverse, time::Duration};

use lucarne_model::{
    InstanceId, Moment,
    scaling::{ScalingCause, ScalingTarget, ScalingWait},
};

/// How old what a host told may be. Hosts tell at each heartbeat, some seconds apart at most.
pub(crate) const FRESH: Duration = Duration::from_secs(15);
/// Between a launch that failed and the next one; twice as long with each that follows.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(600);
/// One that stops so soon after its launch counts as a launch that failed: a guest that dies at once is not launched for ever.
const SOON: Duration = Duration::from_secs(60);

/// What was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) target: ScalingTarget,
    pub(crate) cool_down: Duration,
}

/// What a group remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Course {
    /// How many there should be.
    pub(crate) desired: u32,
    /// When an instance was last launched or ended by it.
    pub(crate) changed: Moment,
    /// Launches that failed one after another, and when the last one did.
    pub(crate) failures: u32,
    pub(crate) failed: Moment,
}

/// One instance of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) instance: InstanceId,
    pub(crate) life: Life,
    pub(crate) launched: Moment,
    /// Whether it may be ended: what a replica draws on may not.
    pub(crate) may_end: bool,
    pub(crate) sample: Option<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It is being launched, or is on its way between two states.
    Coming,
    Runs,
    /// It does not run, and does not begin to by itself.
    Stopped,
    /// It is ended, or on its way there. `launch_failed`: it never ran.
    Gone {
        launch_failed: bool,
    },
}

/// A figure in thousandths of the target's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When it was told.
    pub(crate) at: Moment,
    pub(crate) figure: u64,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) launch: u32,
    pub(crate) end: Vec<InstanceId>,
    /// Those that are none of the group's any more.
    pub(crate) gone: Vec<InstanceId>,
    /// How many there should be from now on, and why, where anything is launched or ended, or should be.
    pub(crate) change: Option<(u32, ScalingCause)>,
    /// Launches that failed since the last look.
    pub(crate) failures: u32,
    /// All that was launched runs: what failed before does not count any more.
    pub(crate) settled: bool,
    /// What keeps the size from following the figure.
    pub(crate) waits: Option<ScalingWait>,
}

impl Plan {
    /// Whether there is nothing to write down.
    pub(crate) fn is_idle(&self) -> bool {
        let Self { launch, end, gone, change, failures, settled, .. } = self;
        *launch == 0 && end.is_empty() && gone.is_empty() && change.is_none() && *failures == 0 && !settled
    }
}

impl Course {
    /// When another launch may be tried.
    fn retry(&self) -> Option<Moment> {
        let doublings = self.failures.checked_sub(1)?.min(16);
        Some(self.failed.plus((RETRY * (1 << doublings)).min(LONGEST_RETRY)))
    }
}

/// The average of the instances that run and that something is known of, in the target's unit.
pub(crate) fn average(members: &[Member], now: Moment) -> Option<u32> {
    let known: Vec<u64> = members.iter().filter_map(|member| fresh(member, now)).collect();
    let average = known.iter().sum::<u64>().checked_div(known.len() as u64)?;
    u32::try_from(average.div_ceil(1000)).ok()
}

fn fresh(member: &Member, now: Moment) -> Option<u64> {
    let sample = member.sample.filter(|_| member.life == Life::Runs)?;
    (now.since(sample.at) <= FRESH).then_some(sample.figure)
}

/// Decides. `members` are those that the group knows of, in any order.
pub(crate) fn decide(order: &Order, course: &Course, members: &[Member], now: Moment) -> Plan {
    let mut plan = Plan::default();
    let of = |life: fn(Life) -> bool| members.iter().filter(move |member| life(member.life));
    let gone = of(|life| matches!(life, Life::Gone { .. }));
    plan.gone.extend(gone.map(|member| member.instance));
    plan.failures = of(|life| life == Life::Gone { launch_failed: true }).count() as u32;
    // One that cannot be ended yet is replaced all the same, and ended when it can be.
    for stopped in of(|life| life == Life::Stopped).filter(|member| member.may_end) {
        plan.end.push(stopped.instance);
        plan.failures += u32::from(now.since(stopped.launched) < SOON);
    }
    let mut lost: Vec<InstanceId> = plan.gone.iter().chain(&plan.end).copied().collect();
    let live: Vec<&Member> = of(|life| matches!(life, Life::Coming | Life::Runs)).collect();
    let coming = live.iter().any(|member| member.life == Life::Coming);
    plan.settled = course.failures > 0 && plan.failures == 0 && !coming && live.len() >= course.desired as usize;

    let mut desired = course.desired;
    if !(order.min..=order.max).contains(&desired) {
        desired = desired.clamp(order.min, order.max.max(order.min));
        plan.change = Some((desired, ScalingCause::Bounds));
    } else {
        match by_figure(order, course, (live.as_slice(), coming), now) {
            Ok(Some((to, cause))) => {
                desired = to;
                plan.change = Some((to, cause));
            }
            Ok(None) => {}
            Err(wait) => plan.waits = Some(wait),
        }
    }

    let missing = desired.saturating_sub(live.len() as u32);
    if missing > 0 {
        let before = if plan.settled { 0 } else { course.failures };
        let course = Course { failures: before.saturating_add(plan.failures), ..*course };
        let failed = if plan.failures > 0 { now } else { course.failed };
        match (Course { failed, ..course }).retry().filter(|retry| *retry > now) {
            Some(at) => plan.waits = Some(ScalingWait::Retry { at }),
            None => plan.launch = missing,
        }
    }
    let surplus = live.len().saturating_sub(desired as usize);
    let ending = whom(&live, surplus);
    if ending.len() < surplus {
        plan.waits = Some(ScalingWait::Replica);
    }
    plan.end.extend(ending);
    if plan.change.is_none() && (plan.launch > 0 || !plan.end.is_empty()) {
        lost.sort_unstable();
        let replaced = !lost.is_empty();
        let cause = if replaced { ScalingCause::Replacement { instances: lost } } else { ScalingCause::Unfinished };
        plan.change = Some((desired, cause));
    }
    plan
}

/// What the figure makes of the size; none: it stays.
fn by_figure(
    order: &Order,
    course: &Course,
    (live, coming): (&[&Member], bool),
    now: Moment,
) -> Result<Option<(u32, ScalingCause)>, ScalingWait> {
    let count = live.len() as u32;
    if coming || count != course.desired {
        return Err(ScalingWait::Launches);
    }
    let until = course.changed.plus(order.cool_down);
    if now < until {
        return Err(ScalingWait::CoolDown { until });
    }
    let figures: Vec<u64> = live.iter().filter_map(|member| fresh(member, now)).collect();
    let all_known = figures.len() == live.len();
    let sum: u64 = figures.iter().sum();
    let target = u64::from(order.target.value) * 1000;
    let size = |needed: u64| u32::try_from(needed).unwrap_or(u32::MAX);
    let (to_grow, to_shrink) = (size(sum.div_ceil(target)), size((sum * 10).div_ceil(target * 9)));
    let to = if to_grow > count {
        to_grow.min(order.max)
    } else if to_shrink < count && all_known {
        // None would have no figure by which to come back.
        to_shrink.max(order.min).max(1)
    } else {
        count
    };
    if to == count {
        return if all_known { Ok(None) } else { Err(ScalingWait::Figures) };
    }
    let value = size((sum / figures.len().max(1) as u64).div_ceil(1000));
    Ok(Some((to, ScalingCause::Figure { value, target: order.target })))
}

/// Whom to end, of those that may be: what does not run yet first, then the youngest.
fn whom(live: &[&Member], surplus: usize) -> Vec<InstanceId> {
    let mut free: Vec<&&Member> = live.iter().filter(|member| member.may_end).collect();
    free.sort_by_key(|member| (member.life == Life::Runs, Reverse(member.launched), member.instance));
    free.into_iter().take(surplus).map(|member| member.instance).collect()
}

#[cfg(test)]
mod tests;
