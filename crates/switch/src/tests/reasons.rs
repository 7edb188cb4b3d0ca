//! How flows end, case by case: the packets that bring an end about, and what its record says.
//!
//! That no reason is without its ground truth is proved beside, in [`ground_truth`](super::ground_truth).

use std::{collections::BTreeSet, time::Duration};

use lucarne_model::{
    EndReason,
    flow::{Direction, Path, Side, Verdict},
};

use super::{frames::*, *};
use crate::plan::{PortRemoval, RemovalReason};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

/// FAR opens a connection to WEB's port 80.
fn open(scene: &mut Scene) {
    scene.send(FAR, WEB, tcp(40000, 80, SYN));
    scene.send(WEB, FAR, tcp(80, 40000, SYN | ACK));
    scene.send(FAR, WEB, tcp(40000, 80, ACK));
}

/// The reason and verdict of WEB's only flow, the same in both directions that it used.
fn end(scene: &Scene) -> (EndReason, Verdict) {
    let all: BTreeSet<_> = scene.records(WEB).iter().map(|record| (record.end_reason, record.verdict)).collect();
    assert_eq!(all.len(), 1, "{:#?}", scene.out.records);
    all.into_iter().next().unwrap()
}

fn carried(reason: EndReason) -> (EndReason, Verdict) {
    (reason, Verdict::Accept)
}
fn dropped(reason: EndReason) -> (EndReason, Verdict) {
    (reason, Verdict::Reject)
}
const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_connection_that_both_sides_close_ends_with_fin() {
    let mut scene = Scene::new();
    open(&mut scene);
    scene.send(FAR, WEB, tcp(40000, 80, FIN | ACK));
    scene.send(WEB, FAR, tcp(80, 40000, FIN | ACK));
    scene.send(FAR, WEB, tcp(40000, 80, ACK));
    scene.wait(seconds(3));
    assert_eq!(end(&scene), carried(EndReason::FinBothSides));
    let (request, answer) = (scene.record(WEB, IN), scene.record(WEB, OUT));
    assert_eq!((request.packets, request.bytes, answer.packets, answer.bytes), (4, 160, 2, 80));
    assert_eq!((request.source_port, request.destination_port), (40000, 80));
    assert_eq!((answer.source_port, answer.destination_port), (80, 40000));
    assert_eq!(request.tcp_flags, u16::from(SYN | ACK | FIN));
    assert_eq!(request.rule, Some(RULE_HTTP));
    assert_eq!(request.flow_id, answer.flow_id);
    assert_eq!((request.account, request.groups.as_slice()), (account(WEB), [SERVERS].as_slice()));
    assert_eq!(scene.switch.live_flows(), 0);
}

#[test]
fn a_reset_is_told_by_who_sent_it() {
    for (from, to, shape, reason) in [
        (FAR, WEB, tcp(40000, 80, RST), EndReason::ResetByInitiator),
        (WEB, FAR, tcp(80, 40000, RST | ACK), EndReason::ResetByResponder),
    ] {
        let mut scene = Scene::new();
        open(&mut scene);
        scene.send(from, to, shape);
        scene.wait(seconds(3));
        assert_eq!(end(&scene), carried(reason));
    }
}

#[test]
fn a_reset_that_answers_the_syn_is_the_vm_refusing() {
    let mut scene = Scene::new();
    scene.send(FAR, WEB, tcp(40000, 22, SYN));
    scene.send(WEB, FAR, tcp(22, 40000, RST | ACK));
    scene.wait(seconds(3));
    assert_eq!(end(&scene), carried(EndReason::RefusedByVm));
}

#[test]
fn port_unreachable_is_the_vm_refusing_and_passes_back() {
    let mut scene = Scene::new();
    let question = udp(5000, 53, 20);
    scene.send(FAR, WEB, question.clone());
    let about = Ends::between(FAR, WEB).frame(&question);
    scene.send(WEB, FAR, error_about(3, 3, &about));
    assert_eq!(scene.out.to_tunnel.len(), 1, "the error reaches the asker");
    scene.wait(seconds(15));
    let of_udp: Vec<_> = scene.records(WEB).into_iter().filter(|record| record.protocol == 17).collect();
    assert_eq!(of_udp.len(), 1);
    assert_eq!((of_udp[0].end_reason, of_udp[0].verdict), carried(EndReason::RefusedByVm));
    let error = scene.record(WEB, OUT);
    assert_eq!((error.icmp_type, error.icmp_code, error.packets), (Some(3), Some(3), 1));
}

/// The initiator may have closed its socket before an answer came; that says nothing of the responder.
#[test]
fn port_unreachable_from_the_asker_is_no_refusal() {
    let mut scene = Scene::new();
    scene.send(FAR, WEB, udp(5000, 53, 20));
    let answer = udp(53, 5000, 30);
    scene.send(WEB, FAR, answer.clone());
    scene.send(FAR, WEB, error_about(3, 3, &Ends::between(WEB, FAR).frame(&answer)));
    scene.wait(seconds(60));
    assert!(scene.records(WEB).iter().all(|record| record.end_reason != EndReason::RefusedByVm));
}

#[test]
fn silence_after_an_answer_is_idle_and_without_one_is_no_answer() {
    let mut scene = Scene::new();
    scene.send(FAR, WEB, udp(5000, 53, 20));
    scene.send(WEB, FAR, udp(53, 5000, 200));
    scene.wait(seconds(9));
    assert!(scene.out.records.is_empty());
    scene.wait(seconds(40));
    let ends: Vec<_> = scene.records(WEB).iter().map(|record| (record.end_reason, record.packets)).collect();
    let (slice, idle) = (EndReason::ActiveSlice, EndReason::Idle);
    assert_eq!(ends, [(slice, 1), (slice, 1), (idle, 0), (idle, 0)]);

    let mut scene = Scene::new();
    scene.send(FAR, WEB, ping(9));
    scene.wait(seconds(15));
    assert!(scene.records(WEB).iter().any(|record| record.end_reason == EndReason::NoAnswerFromVm));
    let mut scene = Scene::new();
    scene.send(FAR, WEB, tcp(40000, 80, SYN));
    scene.wait(seconds(25));
    assert_eq!(end(&scene), carried(EndReason::NoAnswerFromVm));
}

#[test]
fn a_flow_that_goes_on_is_reported_at_each_interval() {
    let mut scene = Scene::new();
    open(&mut scene);
    for _ in 0..35 {
        scene.send(FAR, WEB, tcp(40000, 80, ACK));
        scene.wait(seconds(1));
    }
    assert_eq!(end(&scene), carried(EndReason::ActiveSlice));
    let slices: Vec<_> = scene.records(WEB).into_iter().filter(|record| record.direction == IN).collect();
    assert_eq!(slices.len(), 3);
    assert!(slices.windows(2).all(|pair| pair[0].end <= pair[1].start));
}

#[test]
fn each_side_names_its_own_denial() {
    let mut scene = Scene::new();
    scene.send(FAR, WEB, tcp(40000, 443, SYN));
    scene.wait(seconds(3));
    assert_eq!(end(&scene), dropped(EndReason::DeniedByGroupAtDestination));
    assert_eq!(scene.given_on(), 0);
    assert_eq!((scene.record(WEB, IN).rule, scene.record(WEB, IN).destination_port), (None, 443));

    let mut scene = Scene::new();
    scene.plan.networks[0].groups[0].rules.remove(0);
    scene.apply();
    scene.send(WEB, FAR, tcp(40000, 443, SYN));
    scene.wait(seconds(3));
    assert_eq!(end(&scene), dropped(EndReason::DeniedByGroupAtSource));
    assert_eq!(scene.given_on(), 0);
}

#[test]
fn a_false_source_is_told() {
    let mut scene = Scene::new();
    let mut ends = Ends::between(WEB, FAR);
    ends.source = address(APP);
    scene.send_frame(WEB, &ends.frame(&udp(1, 53, 0)));
    scene.wait(seconds(3));
    assert_eq!(end(&scene), dropped(EndReason::SourceCheck));
    assert_eq!(scene.record(WEB, OUT).source, address(APP));

    let mut scene = Scene::new();
    let ends = Ends { source_mac: mac(APP), ..Ends::between(WEB, FAR) };
    scene.send_frame(WEB, &ends.frame(&udp(1, 53, 0)));
    scene.wait(seconds(3));
    assert_eq!(end(&scene), dropped(EndReason::SourceCheck));
    assert_eq!(scene.given_on(), 0);
}

#[test]
fn what_leads_nowhere_has_no_route() {
    for destination in ["10.0.1.77", "10.0.1.99", "192.0.2.1", "255.255.255.255", "224.0.0.251", "10.0.1.255"] {
        let mut scene = Scene::new();
        let ends = Ends { destination: destination.parse().unwrap(), ..Ends::between(WEB, FAR) };
        scene.send_frame(WEB, &ends.frame(&udp(1, 53, 0)));
        scene.wait(seconds(3));
        assert_eq!(end(&scene), dropped(EndReason::NoRoute), "{destination}");
        assert_eq!(scene.record(WEB, OUT).path, Path::Nowhere, "{destination}");
        assert_eq!(scene.given_on(), 0);
    }
}

#[test]
fn a_port_that_goes_away_says_why() {
    let ends_as = |change: fn(&mut Plan)| {
        let mut scene = Scene::new();
        open(&mut scene);
        change(&mut scene.plan);
        scene.apply();
        end(&scene)
    };
    let stopped = ends_as(|plan| plan.ports.retain(|port| port.interface != interface(WEB)));
    assert_eq!(stopped, carried(EndReason::InstanceStopped));
    let moved = ends_as(|plan| {
        plan.ports.retain(|port| port.interface != interface(WEB));
        plan.networks[0].endpoints[0].host = THERE;
    });
    assert_eq!(moved, carried(EndReason::InstanceMigrated));
    let detached = ends_as(|plan| {
        plan.ports.retain(|port| port.interface != interface(WEB));
        plan.networks[0].endpoints[5].instance = instance(WEB);
        plan.ports.push(PortPlan { instance: instance(WEB), ..port_plan(STOPPED) });
    });
    assert_eq!(detached, carried(EndReason::InterfaceDetached));
}

/// Of a host that keeps nothing of the VPC, the plan has no network any more from which it could follow.
#[test]
fn what_the_plan_says_of_a_removal_holds_whatever_else_is_in_it() {
    for (reason, expected) in [
        (RemovalReason::Stopped, EndReason::InstanceStopped),
        (RemovalReason::Migrated, EndReason::InstanceMigrated),
        (RemovalReason::Detached, EndReason::InterfaceDetached),
    ] {
        let mut scene = Scene::new();
        open(&mut scene);
        let removals = vec![PortRemoval { interface: interface(WEB), reason }];
        scene.plan = Plan { removals, ..Plan::default() };
        scene.apply();
        assert_eq!(end(&scene), carried(expected));
    }
}

#[test]
fn without_a_key_for_the_other_host_nothing_goes_there_and_what_went_is_cut() {
    let mut scene = Scene::new();
    open(&mut scene);
    scene.plan.peers.clear();
    scene.apply();
    let before = scene.given_on();
    scene.send(WEB, FAR, tcp(80, 40000, ACK));
    scene.send(WEB, FAR, udp(1, 53, 8));
    assert_eq!(scene.given_on(), before);
    assert_eq!(scene.switch.frame_counters().dropped["encryption-required"], 1);
    scene.wait(seconds(3));
    let found: BTreeSet<_> = scene.records(WEB).iter().map(|record| record.end_reason).collect();
    assert!(found.contains(&EndReason::RuleChange) && found.contains(&EndReason::EncryptionRequired), "{found:?}");
    scene.plan.peers = vec![peer()];
    scene.apply();
    scene.send(WEB, FAR, udp(2, 53, 8));
    assert_eq!(scene.given_on(), before + 1);
}

#[test]
fn a_rule_that_is_taken_away_cuts_the_connection_at_its_next_packet() {
    let mut scene = Scene::new();
    open(&mut scene);
    scene.plan.networks[0].groups[0].rules.retain(|rule| rule.id != RULE_HTTP);
    scene.apply();
    let before = scene.given_on();
    scene.send(FAR, WEB, tcp(40000, 80, ACK));
    assert_eq!(scene.given_on(), before);
    assert_eq!(end(&scene), carried(EndReason::RuleChange));
    scene.wait(seconds(3));
    let last = scene.records(WEB).pop().unwrap();
    assert_eq!(
        (last.end_reason, last.verdict, last.packets),
        (EndReason::DeniedByGroupAtDestination, Verdict::Reject, 1)
    );
}

#[test]
fn a_rule_that_is_taken_away_cuts_a_silent_connection_too() {
    let mut scene = Scene::new();
    open(&mut scene);
    scene.plan.networks[0].groups[0].rules.retain(|rule| rule.id != RULE_HTTP);
    scene.apply();
    scene.wait(seconds(12));
    assert_eq!(end(&scene), carried(EndReason::RuleChange));
}

#[test]
fn a_plan_that_still_allows_a_connection_leaves_it_alone() {
    let mut scene = Scene::new();
    open(&mut scene);
    scene.plan.networks[0].groups[0].rules.retain(|rule| rule.id == RULE_HTTP);
    scene.apply();
    let before = scene.given_on();
    scene.send(FAR, WEB, tcp(40000, 80, ACK));
    scene.send(WEB, FAR, tcp(80, 40000, ACK));
    assert_eq!(scene.given_on(), before + 2);
}

#[test]
fn a_full_table_gives_up_what_is_worth_least() {
    let mut settings = Settings::default();
    settings.flows.capacity = 16;
    let mut scene = Scene::young(settings);
    open(&mut scene);
    for port in 0..100 {
        scene.send(FAR, WEB, tcp(50000 + port, 80, SYN));
    }
    assert!(scene.out.records.is_empty(), "the open connection stays, and the flood makes no records");
    scene.wait(seconds(3));
    let gathered = scene.record(WEB, IN);
    // 16 places: the connection's, that of what is gathered, and 14 of the flood.
    assert_eq!(
        (gathered.end_reason, gathered.verdict, gathered.packets),
        (EndReason::EvictedForSpace, Verdict::Accept, 86)
    );
    assert_eq!((gathered.side, gathered.source_port), (Side::Initiator, 0));
}

#[test]
fn a_flood_of_refused_packets_is_counted_to_the_last_without_pushing_anything_out() {
    let mut settings = Settings::default();
    settings.flows.capacity = 64;
    let mut scene = Scene::young(settings);
    open(&mut scene);
    for port in 0..5000 {
        scene.send(FAR, WEB, tcp(port, 443, SYN));
    }
    assert!(scene.switch.live_flows() <= 64);
    scene.wait(seconds(3));
    let refused = scene.out.records.iter().filter(|record| record.verdict == Verdict::Reject);
    assert_eq!(refused.clone().map(|record| record.packets).sum::<u64>(), 5000);
    assert!(refused.count() < 64);
    let before = scene.given_on();
    scene.send(FAR, WEB, tcp(40000, 80, ACK));
    assert_eq!(scene.given_on(), before + 1);
}

#[test]
fn a_switch_that_stops_gives_every_flow_a_last_record() {
    let mut scene = Scene::new();
    open(&mut scene);
    scene.flush();
    assert_eq!(end(&scene), carried(EndReason::AgentRestart));
    assert_eq!(scene.switch.live_flows(), 0);
}

#[test]
fn what_belongs_to_no_connection_is_invalid() {
    let stray = Ends::between(FAR, WEB).frame(&udp(5000, 53, 20));
    for shape in [tcp(80, 40000, ACK), tcp(80, 40000, SYN | ACK), pong(3), error_about(3, 1, &stray), tcp(1, 2, 0)] {
        let mut scene = Scene::new();
        scene.send(WEB, FAR, shape.clone());
        scene.wait(seconds(3));
        assert_eq!(end(&scene), dropped(EndReason::Invalid), "{shape:?}");
        assert_eq!(scene.given_on(), 0);
    }
}

/// A connection to one machine is no leave to send errors to another.
#[test]
fn an_icmp_error_to_somebody_else_than_it_quotes_is_invalid() {
    let mut scene = Scene::new();
    scene.send(FAR, WEB, udp(5000, 53, 20));
    let about = Ends::between(FAR, WEB).frame(&udp(5000, 53, 20));
    let before = scene.given_on();
    scene.send(WEB, FAR_DATABASE, error_about(3, 3, &about));
    assert_eq!(scene.given_on(), before);
    assert_eq!(scene.switch.frame_counters().dropped["invalid"], 1);
    scene.send(WEB, FAR, error_about(3, 3, &about));
    assert_eq!(scene.given_on(), before + 1);
}

#[test]
fn connections_older_than_the_switch_are_taken_up() {
    let mut scene = Scene::young(Settings::default());
    scene.send(WEB, FAR, tcp(80, 40000, ACK));
    scene.send(FAR, WEB, tcp(40000, 80, ACK));
    // No rule lets FAR open this one, so WEB must have.
    scene.send(FAR, WEB, tcp(443, 40001, ACK));
    scene.send(WEB, FAR, tcp(40001, 443, ACK));
    assert_eq!(scene.given_on(), 4);
    scene.send(WEB, FAR, tcp(40001, 443, RST));
    scene.wait(seconds(3));
    assert!(scene.records(WEB).iter().all(|record| record.end_reason == EndReason::ResetByInitiator));
}

#[test]
fn a_spent_time_to_live_and_a_fragment_are_dropped() {
    let mut scene = Scene::new();
    scene.send(WEB, FAR_DATABASE, udp(1, 53, 0).ttl(1));
    scene.wait(seconds(3));
    assert_eq!(end(&scene), dropped(EndReason::TtlOrFragment));
    for fragment in [0x2000, 0x00b9] {
        let mut scene = Scene::new();
        scene.send(WEB, FAR, udp(1, 53, 8).fragment(fragment));
        scene.wait(seconds(3));
        assert_eq!(end(&scene), dropped(EndReason::TtlOrFragment));
        assert_eq!(scene.given_on(), 0);
    }
    let mut scene = Scene::new();
    scene.send(WEB, FAR, udp(1, 53, 0).ttl(1));
    assert_eq!(scene.given_on(), 1, "no router between neighbours");
}

#[test]
fn a_handshake_that_its_initiator_does_not_finish_times_out() {
    let mut scene = Scene::new();
    scene.send(FAR, WEB, tcp(40000, 80, SYN));
    scene.send(WEB, FAR, tcp(80, 40000, SYN | ACK));
    scene.wait(seconds(25));
    assert_eq!(end(&scene), carried(EndReason::HalfOpenTimeout));
}
