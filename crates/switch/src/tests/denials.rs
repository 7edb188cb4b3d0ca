//! What stands above the groups: network ACLs, and the operator's orders against abuse.

use std::time::Duration;

use lucarne_model::{
    EndReason, MitigationId,
    flow::{Direction, Path, Verdict},
    mitigation::{DesiredMitigation, MitigationAction, MitigationTarget},
};

use super::{frames::*, *};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;
const ORDER: MitigationId = MitigationId::from_bits(77);

/// A scene in which WEB's subnet has these entries, as (number, direction, verdict, other end).
fn with_acl(entries: &[(u16, Direction, Verdict, &str)]) -> Scene {
    let mut scene = Scene::new();
    set_acl(&mut scene, entries);
    scene
}

fn set_acl(scene: &mut Scene, entries: &[(u16, Direction, Verdict, &str)]) {
    let entries = entries.iter().map(|(number, direction, action, cidr)| acl_entry(*number, *direction, *action, cidr));
    scene.plan.networks[0].subnets[0].acl = entries.collect();
    scene.apply();
}

fn with_order(target: MitigationTarget, action: MitigationAction) -> Scene {
    let mut scene = Scene::new();
    order(&mut scene, target, action);
    scene
}

fn order(scene: &mut Scene, target: MitigationTarget, action: MitigationAction) {
    scene.plan.mitigations = vec![DesiredMitigation { id: ORDER, target, action }];
    scene.apply();
}

fn of_web() -> MitigationTarget {
    MitigationTarget { instance: Some(instance(WEB)), ..MitigationTarget::default() }
}

/// WEB's records, as (direction, reason, verdict, packets).
fn told(scene: &Scene) -> Vec<(Direction, EndReason, Verdict, u64)> {
    let records = scene.records(WEB).into_iter();
    records.map(|record| (record.direction, record.end_reason, record.verdict, record.packets)).collect()
}

#[test]
fn the_entry_of_the_lowest_number_decides_and_its_id_is_told() {
    let mut scene = with_acl(&[(5, IN, Verdict::Reject, "10.0.2.60/32"), (9, IN, Verdict::Accept, "0.0.0.0/0")]);
    scene.send(FAR_DATABASE, WEB, tcp(40000, 80, SYN));
    scene.send(DATABASE, WEB, tcp(40000, 80, SYN));
    assert_eq!(scene.given_on(), 1, "only the database's");
    scene.wait(Duration::from_secs(2));
    let record = scene.record(WEB, IN);
    assert_eq!((record.end_reason, record.rule), (EndReason::DeniedByNetworkAcl, Some(RuleId::from_bits(5))));
    assert_eq!((record.path, record.egress_interface), (Path::Nowhere, 0));
}

#[test]
fn what_no_entry_matches_is_denied_by_none() {
    let mut scene = with_acl(&[(5, IN, Verdict::Accept, "192.0.2.0/24")]);
    scene.send(FAR_DATABASE, WEB, tcp(40000, 80, SYN));
    scene.wait(Duration::from_secs(2));
    assert_eq!((scene.record(WEB, IN).end_reason, scene.record(WEB, IN).rule), (EndReason::DeniedByNetworkAcl, None));
}

/// An ACL has no state: an answer needs an entry of its own.
#[test]
fn an_answer_that_the_acl_rejects_stands_beside_a_connection_without_one() {
    let mut scene = with_acl(&[(5, IN, Verdict::Accept, "0.0.0.0/0"), (6, OUT, Verdict::Reject, "0.0.0.0/0")]);
    scene.send(FAR_DATABASE, WEB, tcp(40000, 80, SYN));
    assert_eq!(scene.given_on(), 1);
    scene.send(WEB, FAR_DATABASE, tcp(80, 40000, SYN | ACK));
    assert_eq!(scene.given_on(), 1);
    scene.wait(Duration::from_secs(25));
    assert_eq!(
        told(&scene),
        [(OUT, EndReason::DeniedByNetworkAcl, Verdict::Reject, 1), (IN, EndReason::NoAnswerFromVm, Verdict::Accept, 1),]
    );
}

#[test]
fn neighbours_of_one_subnet_meet_no_acl() {
    let mut scene = with_acl(&[(5, IN, Verdict::Reject, "0.0.0.0/0"), (6, OUT, Verdict::Reject, "0.0.0.0/0")]);
    scene.send(FAR, WEB, tcp(40000, 80, SYN));
    assert_eq!(scene.given_on(), 1);
}

#[test]
fn a_new_entry_cuts_a_live_connection_and_is_told_from_then_on() {
    let mut scene = Scene::new();
    scene.send(FAR_DATABASE, WEB, tcp(40000, 80, SYN));
    scene.send(WEB, FAR_DATABASE, tcp(80, 40000, SYN | ACK));
    scene.send(FAR_DATABASE, WEB, tcp(40000, 80, ACK));
    set_acl(&mut scene, &[(5, IN, Verdict::Reject, "0.0.0.0/0"), (6, OUT, Verdict::Accept, "0.0.0.0/0")]);
    let before = scene.given_on();
    scene.send(FAR_DATABASE, WEB, tcp(40000, 80, ACK));
    assert_eq!(scene.given_on(), before);
    scene.wait(Duration::from_secs(2));
    assert_eq!(
        told(&scene),
        [
            (OUT, EndReason::RuleChange, Verdict::Accept, 1),
            (IN, EndReason::RuleChange, Verdict::Accept, 2),
            (IN, EndReason::DeniedByNetworkAcl, Verdict::Reject, 1),
        ]
    );
    let cut = scene.records(WEB)[0];
    assert_eq!((cut.forwarding_status(), cut.firewall_event()), (0x40, 2), "its packets were carried");
}

#[test]
fn a_block_refuses_new_flows_and_names_the_order_to_the_operator() {
    let mut scene = with_order(of_web(), MitigationAction::Block);
    scene.send(WEB, FAR, udp(1000, 53, 8));
    scene.send(FAR, WEB, tcp(40000, 80, SYN));
    scene.send(APP, FAR, udp(1000, 53, 8));
    assert_eq!(scene.given_on(), 1, "the other machine's");
    scene.wait(Duration::from_secs(2));
    let (blocked, dropped) = (EndReason::AbuseMitigation, Verdict::Reject);
    let mut told = told(&scene);
    told.sort();
    assert_eq!(told, [(IN, blocked, dropped, 1), (OUT, blocked, dropped, 1)]);
    assert!(scene.records(WEB).iter().all(|record| record.mitigation == Some(ORDER) && record.rule.is_none()));
}

#[test]
fn a_block_cuts_live_flows_spoken_or_silent() {
    for speaks in [true, false] {
        let mut scene = Scene::new();
        scene.send(WEB, FAR, udp(1000, 53, 8));
        scene.send(FAR, WEB, udp(53, 1000, 8));
        order(&mut scene, of_web(), MitigationAction::Block);
        if speaks {
            scene.send(FAR, WEB, udp(53, 1000, 8));
        }
        scene.wait(Duration::from_secs(12));
        let cut: Vec<_> = scene.records(WEB).into_iter().filter(|r| r.verdict == Verdict::Accept).collect();
        assert_eq!(cut.len(), 2);
        assert!(cut.iter().all(|r| (r.end_reason, r.mitigation) == (EndReason::AbuseMitigation, Some(ORDER))));
    }
}

#[test]
fn an_order_reaches_what_it_is_meant_for_and_nothing_else() {
    let target = MitigationTarget { address: Some("10.0.1.50/32".parse().unwrap()), port: Some(53), ..of_web() };
    let mut scene = with_order(target, MitigationAction::Block);
    scene.send(WEB, FAR, udp(1000, 53, 8));
    assert_eq!(scene.given_on(), 0);
    scene.send(WEB, FAR, tcp(1000, 80, SYN));
    scene.send(WEB, FAR_DATABASE, udp(1000, 53, 8));
    assert_eq!(scene.given_on(), 2);
}

#[test]
fn a_cap_drops_what_is_above_it_beside_the_connection() {
    let mut scene = with_order(of_web(), MitigationAction::Cap { packets_per_second: 10 });
    for _ in 0..100 {
        scene.send(WEB, FAR, udp(1000, 53, 8));
    }
    assert_eq!(scene.given_on(), 10);
    scene.wait(Duration::from_secs(1));
    for _ in 0..100 {
        scene.send(WEB, FAR, udp(1000, 53, 8));
        scene.send(FAR, WEB, udp(53, 1000, 8));
    }
    assert_eq!(scene.given_on(), 20, "both directions share the cap");
    scene.flush();
    let sum = |verdict, reason| -> u64 {
        let records = scene.records(WEB).into_iter();
        records.filter(|r| r.verdict == verdict && r.end_reason == reason).map(|r| r.packets).sum()
    };
    assert_eq!(sum(Verdict::Reject, EndReason::RateLimited), 280);
    assert_eq!(sum(Verdict::Accept, EndReason::AgentRestart), 20);
    let limited = scene.records(WEB).into_iter().find(|record| record.verdict == Verdict::Reject).unwrap();
    assert_eq!(limited.mitigation, Some(ORDER));
}

#[test]
fn an_order_that_is_taken_back_lets_everything_pass_again() {
    let mut scene = with_order(of_web(), MitigationAction::Block);
    scene.send(WEB, FAR, udp(1000, 53, 8));
    scene.plan.mitigations.clear();
    scene.apply();
    scene.send(WEB, FAR, udp(1000, 53, 8));
    assert_eq!(scene.given_on(), 1);
}

#[test]
fn records_say_which_way_the_packets_went() {
    let mut scene = Scene::new();
    scene.send(WEB, DATABASE, udp(1000, 53, 8).ttl(61));
    scene.send(WEB, FAR, udp(1000, 53, 8));
    scene.flush();
    let by_path = |machine, path| {
        let found = scene.records(machine).into_iter().find(|record| record.path == path);
        found.unwrap_or_else(|| panic!("{path:?}: {:#?}", scene.out.records))
    };
    let [web, database] = [WEB, DATABASE].map(|machine| scene.port(machine).0 + 2);
    let here = by_path(WEB, Path::SameHost);
    assert_eq!((here.ingress_interface, here.egress_interface, here.ttl), (web, database, 61));
    assert_eq!((here.source_prefix_length, here.destination_prefix_length), (Some(24), Some(24)));
    let there = by_path(WEB, Path::OtherHost);
    assert_eq!((there.ingress_interface, there.egress_interface), (web, 1), "the tunnel's index");
    let arrived = by_path(DATABASE, Path::SameHost);
    assert_eq!((arrived.ingress_interface, arrived.egress_interface, arrived.ttl), (web, database, 60));
    assert_eq!(arrived.flow_id, here.flow_id);
}

#[test]
fn what_goes_over_an_instance_that_forwards_has_it_as_next_hop() {
    let mut scene = Scene::new();
    let over = Route {
        destination: "192.0.2.0/25".parse().unwrap(),
        target: RouteTarget::Interface { interface: interface(FAR) },
    };
    scene.plan.networks[0].subnets[0].routes.push(over);
    scene.apply();
    let ends = Ends { destination: "192.0.2.9".parse().unwrap(), ..Ends::between(WEB, FAR) };
    scene.send_frame(WEB, &ends.frame(&udp(1000, 53, 8)));
    scene.send(WEB, FAR, udp(1000, 53, 8));
    scene.flush();
    let told = |path| {
        let record = scene.records(WEB).into_iter().find(|record| record.path == path).unwrap();
        (record.next_hop, record.destination_prefix_length, record.egress_interface)
    };
    assert_eq!(told(Path::Site), (Some(address(FAR).into()), Some(25), 1));
    assert_eq!(told(Path::OtherHost), (None, Some(24), 1));
}
