//! What triggers promise, whatever happens to them and to whoever runs them.

use std::collections::BTreeSet;

use lucarne_model::{
    AccountId, InstanceId,
    finding::{FindingKind, Subject},
    trigger::TriggerMetric,
};
use proptest::prelude::*;

use super::*;

const BEGIN: Moment = Moment::from_secs(1_000_000);

fn at(seconds: u64) -> Moment {
    BEGIN.plus(Duration::from_secs(seconds))
}

fn finding(number: u8, first_seen: Moment) -> Finding {
    Finding {
        id: FindingId::from_bits(number.into()),
        kind: FindingKind::Sweep,
        account: AccountId::OPERATOR,
        subject: Subject::Instance(InstanceId::from_bits(number.into())),
        vpc: None,
        first_seen,
        last_seen: first_seen,
        count: 1,
        exact: true,
        threshold: 1,
        examples: Vec::new(),
    }
}

/// What happens between two looks, and how the look ends.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Seconds that pass; a clock that is set back makes them negative.
    passed: i64,
    /// Whether something new was found, or how high the figure is.
    figure: u64,
    ends: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// What fired was made and kept.
    Kept,
    /// It could not be made.
    Refused,
    /// The controller was killed before anything was kept.
    Killed,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let end = prop_oneof![4 => Just(End::Kept), 1 => Just(End::Refused), 1 => Just(End::Killed)];
    let passed = prop_oneof![8 => 0..2000_i64, 1 => -3000..0_i64, 1 => 3000..9000_i64];
    let turn = (passed, 0..4_u64, end).prop_map(|(passed, figure, ends)| Turn { passed, figure, ends });
    prop::collection::vec(turn, 1..60)
}

fn waits() -> impl Strategy<Value = TriggerOn> {
    prop_oneof![
        Just(TriggerOn::Finding(FindingKind::Sweep)),
        (10..5000_u64).prop_map(|seconds| TriggerOn::Every { seconds }),
        (0..1440_u16).prop_map(|minute| TriggerOn::Daily { minute }),
        (0..3_u64).prop_map(|value| TriggerOn::Above { metric: TriggerMetric::Connections, value }),
    ]
}

/// What was decided on, when, and whether something was made.
type Decided = Vec<(Moment, FiringCause, bool)>;

/// Plays turns as a controller does: each look from what was kept, everything that was ever found shown again at each.
fn play(on: TriggerOn, limit: FiringLimit, turns: &[Turn]) -> Decided {
    let (mut kept, mut now, mut found) = (Watch::new(on, BEGIN), BEGIN, Vec::new());
    let mut decided = Vec::new();
    for turn in turns {
        now = Moment(now.0.saturating_add_signed(turn.passed * 1_000_000));
        for _ in 0..turn.figure {
            found.push(finding(found.len() as u8, now));
        }
        let sight = Sight { findings: &found, metric: Some(turn.figure) };
        loop {
            let text = serde_json::to_string(&kept).unwrap();
            let mut watch: Watch = serde_json::from_str(&text).unwrap();
            watch.observe(on, sight);
            let Some(cause) = watch.cause(on, sight, now) else {
                kept = watch;
                break;
            };
            let made = match turn.ends {
                End::Killed => break,
                End::Refused => {
                    watch.pass_over(on, cause, now);
                    false
                }
                End::Kept => watch.fire(on, limit, cause, now).is_ok(),
            };
            decided.push((now, cause, made));
            kept = watch;
        }
    }
    decided
}

proptest! {
    /// Also where findings are shown again and again, a clock is set back, and the controller is killed in between.
    #[test]
    fn no_more_is_made_in_any_span_than_the_limit_lets(
        on in waits(), most in 0..4_u32, seconds in 1..4000_u64, turns in turns(),
    ) {
        let limit = FiringLimit { most, seconds };
        let decided = play(on, limit, &turns);
        // A clock that is set back makes time stand still for a trigger, and nothing else.
        let mut latest = BEGIN;
        let mut made = Vec::new();
        for (now, _, was_made) in decided {
            latest = latest.max(now);
            made.extend(was_made.then_some(latest));
        }
        for (from, first) in made.iter().enumerate() {
            let within = made[from..].iter().filter(|one| one.since(*first) < Duration::from_secs(seconds)).count();
            prop_assert!(within <= most as usize, "{within} from {first:?} on: {made:?}");
        }
    }

    #[test]
    fn each_finding_and_each_time_of_a_schedule_counts_once(on in waits(), turns in turns()) {
        let mut seen = BTreeSet::new();
        for (_, cause, _) in play(on, FiringLimit::default(), &turns) {
            let is_new = matches!(cause, FiringCause::Above { .. }) || seen.insert(cause);
            prop_assert!(is_new, "{cause:?} came up twice");
        }
    }

    /// Nothing that happened is left out as long as somebody looks within the hour, unless the controller dies each time.
    #[test]
    fn every_finding_is_decided_on(turns in turns()) {
        let quick: Vec<Turn> =
            turns.into_iter().map(|turn| Turn { passed: turn.passed.rem_euclid(60), ends: End::Kept, ..turn }).collect();
        let on = TriggerOn::Finding(FindingKind::Sweep);
        let found: u64 = quick.iter().map(|turn| turn.figure).sum();
        prop_assert_eq!(play(on, FiringLimit::default(), &quick).len() as u64, found);
    }

    #[test]
    fn a_schedule_is_due_in_step_and_always_ahead(seconds in 10..5000_u64, late in 0..100_000_u64) {
        let on = TriggerOn::Every { seconds };
        let mut watch = Watch::new(on, BEGIN);
        let now = at(seconds + late);
        let cause = watch.cause(on, Sight::default(), now).unwrap();
        watch.pass_over(on, cause, now);
        let due = watch.due().unwrap();
        prop_assert!(due > now && due.since(now) <= Duration::from_secs(seconds));
        prop_assert_eq!(due.since(BEGIN).as_secs() % seconds, 0);
        prop_assert_eq!(watch.cause(on, Sight::default(), now), None, "what was missed is made good once");
    }
}

#[test]
fn a_figure_fires_when_it_rises_and_not_while_it_stays() {
    let on = TriggerOn::Above { metric: TriggerMetric::RejectedFlows, value: 10 };
    let figures = [5, 11, 12, 40, 10, 9, 11];
    let mut watch = Watch::new(on, BEGIN);
    let mut fired = Vec::new();
    for figure in figures {
        let sight = Sight { metric: Some(figure), ..Sight::default() };
        watch.observe(on, sight);
        if let Some(cause) = watch.cause(on, sight, BEGIN) {
            watch.pass_over(on, cause, BEGIN);
            fired.push(cause);
        }
        // A look at which nobody knows the figure changes nothing.
        watch.observe(on, Sight::default());
        assert_eq!(watch.cause(on, Sight::default(), BEGIN), None);
    }
    assert_eq!(fired, [11, 11].map(|value| FiringCause::Above { value }));
}

#[test]
fn what_was_found_before_the_trigger_was_made_is_not_waited_for() {
    let on = TriggerOn::Finding(FindingKind::Sweep);
    let watch = Watch::new(on, at(100));
    let [before, after] = [finding(1, at(99)), finding(2, at(100))];
    let cause = |findings: &[Finding], now| watch.cause(on, Sight { findings, metric: None }, now);
    assert_eq!(cause(std::slice::from_ref(&before), at(101)), None);
    let expected = FiringCause::Finding { finding: after.id, first_seen: at(100) };
    assert_eq!(cause(&[after.clone(), before], at(101)), Some(expected));
    assert_eq!(cause(&[after], at(100).plus(FRESH).plus(Duration::from_secs(1))), None, "nobody asked in time");
}

#[test]
fn a_time_of_the_day_is_due_today_or_tomorrow() {
    let midnight = Moment::from_secs(20_000 * DAY);
    let hours = |hours: u64| midnight.plus(Duration::from_secs(hours * 3600));
    let on = TriggerOn::Daily { minute: 3 * 60 };
    assert_eq!(Watch::new(on, hours(2)).due(), Some(hours(3)));
    assert_eq!(Watch::new(on, hours(3)).due(), Some(hours(27)));
}
