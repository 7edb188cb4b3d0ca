//! Who is found, who is not, and that the counts are those of a plain set.

use std::{collections::BTreeSet, net::Ipv4Addr};

use lucarne_model::{ConnState, FlowRecord, History, HostId, InterfaceId, SubnetId, flow::Location};
use proptest::prelude::*;

use super::*;
use crate::columns::FlowColumns;

const NOW: Moment = Moment::from_secs(1_000_000);

fn settings() -> Settings {
    Settings { scanned_accounts: 5, swept: 10, refused: 4, unanswered: 6, ..Settings::default() }
}

fn account(n: u64) -> AccountId {
    AccountId::from_bits(100 + n)
}

/// A machine of `account` asked 10.0.0.9 on port 80 and was served.
fn asking(owner: u64, machine: u128) -> FlowRecord {
    FlowRecord {
        flow_id: 1,
        account: account(owner),
        instance: InstanceId::from_bits(machine),
        interface: InterfaceId::from_bits(machine),
        subnet: SubnetId::from_bits(1),
        vpc: VpcId::from_bits(owner.into()),
        location: Location::default(),
        groups: Vec::new(),
        rule: None,
        verdict: Verdict::Accept,
        end_reason: EndReason::FinBothSides,
        direction: Direction::Egress,
        path: Path::OtherHost,
        side: Side::Initiator,
        start: NOW,
        end: NOW,
        packets: 1,
        bytes: 40,
        source: Ipv4Addr::new(10, 0, 0, 4).into(),
        destination: Ipv4Addr::new(10, 0, 0, 9).into(),
        source_port: 40_000,
        destination_port: 80,
        protocol: 6,
        icmp_type: None,
        icmp_code: None,
        tos: 0,
        ttl: 64,
        tcp_flags: 2,
        source_prefix_length: None,
        destination_prefix_length: None,
        next_hop: None,
        history: History::default(),
        conn_state: ConnState::Sf,
        round_trip: None,
        retransmissions: 0,
        zero_windows: 0,
        host: HostId::from_bits(1),
        ingress_interface: 1,
        egress_interface: 2,
        mitigation: None,
    }
}

/// An address outside asked a machine.
fn asked_from(outside: [u8; 4], owner: u64, machine: u128) -> FlowRecord {
    FlowRecord {
        direction: Direction::Ingress,
        path: Path::Internet,
        source: Ipv4Addr::from(outside).into(),
        ..asking(owner, machine)
    }
}

fn kinds(findings: &[Finding]) -> Vec<FindingKind> {
    findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn an_address_that_tries_many_customers_is_found_and_one_that_tries_many_machines_of_one_is_not() {
    let mut detectors = Detectors::new(settings());
    for n in 0..5 {
        detectors.observe(&asked_from([203, 0, 113, 1], n, u128::from(n)));
        for machine in 0..100 {
            detectors.observe(&asked_from([203, 0, 113, 2], 0, machine));
        }
    }
    let found = detectors.poll(NOW);
    assert_eq!(kinds(&found), [FindingKind::ScannerAcrossAccounts]);
    assert_eq!(found[0].subject, Subject::Address(Ipv4Addr::new(203, 0, 113, 1).into()));
    assert_eq!((found[0].account, found[0].count, found[0].exact), (AccountId::OPERATOR, 5, true));
    let scanners = |min_accounts| detectors.scanners(&ScannerQuery { min_accounts, window_seconds: 300 }, NOW).items;
    assert_eq!(scanners(1).len(), 2);
    assert_eq!(scanners(2).len(), 1, "many machines of one customer");
    assert_eq!((scanners(5)[0].accounts, scanners(5)[0].standard_error), (5, 0));
}

/// A thousand customers within five minutes, by default settings: what an operator asks for.
#[test]
fn a_scanner_of_a_thousand_customers_is_told_for_the_window_in_which_it_did_that_and_not_for_a_shorter_one() {
    let mut detectors = Detectors::new(Settings::default());
    for n in 0..1000 {
        let end = NOW.plus(Duration::from_millis(240 * n));
        detectors.observe(&FlowRecord { end, ..asked_from([203, 0, 113, 1], n, n.into()) });
        // Just as many machines, of three customers.
        detectors.observe(&FlowRecord { end, ..asked_from([203, 0, 113, 2], n % 3, n.into()) });
    }
    let now = NOW.plus(Duration::from_secs(240));
    let asked = |window_seconds, now| detectors.scanners(&ScannerQuery { min_accounts: 1000, window_seconds }, now);
    let found = asked(300, now);
    assert_eq!(found.items.iter().map(|scanner| scanner.accounts).collect::<Vec<_>>(), [1000]);
    assert!(found.from <= now.minus(Duration::from_secs(300)) && found.complete_since == Moment::EPOCH);
    assert_eq!(asked(60, now).items, []);
    let later = now.plus(Duration::from_secs(3300));
    assert_eq!(asked(300, later).items, [], "it is over");
    assert_eq!(asked(3600, later).items.len(), 1, "an hour is remembered");
}

#[test]
fn a_count_beyond_what_is_counted_one_by_one_says_its_standard_error() {
    let mut detectors = Detectors::new(settings());
    for n in 0..20_000 {
        detectors.observe(&asked_from([203, 0, 113, 1], n, n.into()));
    }
    let found = detectors.scanners(&ScannerQuery { min_accounts: 1, window_seconds: 60 }, NOW).items[0];
    assert_eq!(found.standard_error, (found.accounts * 16).div_ceil(1000));
    assert!(found.accounts.abs_diff(20_000) < 4 * found.standard_error, "{found:?}");
}

#[test]
fn a_finding_names_flows_that_counted_and_each_once() {
    let mut detectors = Detectors::new(settings());
    for last in 0..10 {
        let swept = FlowRecord { destination: Ipv4Addr::new(10, 0, 0, last).into(), ..asking(1, 1) };
        detectors.observe(&swept);
        detectors.observe(&swept);
    }
    let examples = detectors.poll(NOW).remove(0).examples;
    let tried: BTreeSet<IpAddr> = examples.iter().map(|example| example.destination).collect();
    assert_eq!((examples.len(), tried.len()), (Finding::EXAMPLES, Finding::EXAMPLES));
    assert!(examples.iter().all(|example| example.instance == InstanceId::from_bits(1)));
}

#[test]
fn a_finding_that_goes_on_over_a_restart_keeps_its_id_and_one_that_is_over_does_not() {
    let sweep = |detectors: &mut Detectors, at: Moment| {
        for last in 0..10 {
            let destination = Ipv4Addr::new(10, 0, 0, last).into();
            detectors.observe(&FlowRecord { destination, end: at, ..asking(1, 1) });
        }
        detectors.poll(at).first().map(|finding| finding.id)
    };
    let mut before = Detectors::new(settings());
    for last in 0..10 {
        before.observe(&FlowRecord { destination: Ipv4Addr::new(10, 0, 0, last).into(), ..asking(1, 1) });
    }
    let told = before.poll(NOW).remove(0);
    for (minutes, goes_on) in [(2, true), (30, false)] {
        let mut after = Detectors::new(settings());
        after.take_up(&told);
        let again = sweep(&mut after, NOW.plus(Duration::from_secs(60 * minutes)));
        assert_eq!(again == Some(told.id), goes_on, "after {minutes} minutes");
    }
}

#[test]
fn a_sweep_that_is_over_is_not_seen_again_for_want_of_other_records() {
    let mut detectors = Detectors::new(settings());
    for last in 0..10 {
        detectors.observe(&FlowRecord { destination: Ipv4Addr::new(10, 0, 0, last).into(), ..asking(1, 1) });
    }
    assert_eq!(detectors.poll(NOW).len(), 1);
    assert_eq!(detectors.poll(NOW.plus(Duration::from_secs(310))), []);
}

#[test]
fn machines_of_the_cloud_are_no_scanners_from_outside() {
    let mut detectors = Detectors::new(settings());
    for n in 0..50 {
        detectors.observe(&FlowRecord { path: Path::SameHost, ..asked_from([10, 0, 0, 7], n, u128::from(n)) });
    }
    assert_eq!(detectors.poll(NOW), []);
}

#[test]
fn a_sweep_is_its_tenants_finding_and_answers_of_a_busy_server_are_none() {
    let mut detectors = Detectors::new(settings());
    for last in 0..10 {
        let swept = Ipv4Addr::new(10, 0, 0, last);
        detectors.observe(&FlowRecord { destination: swept.into(), ..asking(1, 1) });
        // A server that sends to very many clients has been asked by them.
        let client = FlowRecord { destination: swept.into(), side: Side::Responder, ..asking(2, 2) };
        detectors.observe(&client);
    }
    let found = detectors.poll(NOW);
    assert_eq!(kinds(&found), [FindingKind::Sweep]);
    assert_eq!(found[0].subject, Subject::Instance(InstanceId::from_bits(1)));
    assert_eq!((found[0].account, found[0].vpc, found[0].count), (account(1), Some(VpcId::from_bits(1)), 10));
}

#[test]
fn refusals_and_silences_are_told_apart() {
    let mut detectors = Detectors::new(settings());
    for port in 0..6 {
        let refused = FlowRecord { destination_port: port, end_reason: EndReason::RefusedByVm, ..asking(1, 1) };
        let silent = FlowRecord { destination_port: port, end_reason: EndReason::NoAnswerFromVm, ..asking(1, 2) };
        detectors.observe(&refused);
        detectors.observe(&silent);
    }
    let found = detectors.poll(NOW);
    assert_eq!(kinds(&found), [FindingKind::RefusedByMany, FindingKind::NoAnswers]);
    assert_eq!(found[0].subject, Subject::Instance(InstanceId::from_bits(1)));
    assert_eq!(found[1].subject, Subject::Instance(InstanceId::from_bits(2)));
}

#[test]
fn a_finding_that_goes_on_keeps_its_id_and_one_that_comes_again_later_is_new() {
    let mut detectors = Detectors::new(settings());
    let mut sweep = |from: u8, to: u8, at: Moment| {
        for last in from..to {
            let destination = Ipv4Addr::new(10, 0, 0, last).into();
            detectors.observe(&FlowRecord { destination, end: at, ..asking(1, 1) });
        }
        detectors.poll(at)
    };
    let minutes = |n: u64| NOW.plus(Duration::from_secs(60 * n));
    let first = sweep(0, 10, NOW);
    assert_eq!(sweep(0, 10, NOW), [], "nothing is new");
    let grown = sweep(10, 20, minutes(1));
    assert_eq!((grown[0].id, grown[0].count, grown[0].first_seen), (first[0].id, 20, NOW));
    let again = sweep(0, 10, minutes(30));
    assert_ne!(again[0].id, first[0].id);
    assert_eq!(again[0].count, 10, "what was seen half an hour ago is not counted");
}

#[test]
fn who_had_a_port_closed_to_a_source_is_known_with_the_reason() {
    let mut ports = ClosedPorts::new(1000);
    let refused =
        |machine, end_reason, verdict| FlowRecord { end_reason, verdict, ..asked_from([203, 0, 113, 1], 1, machine) };
    ports.observe(&refused(1, EndReason::RefusedByVm, Verdict::Accept));
    ports.observe(&refused(2, EndReason::DeniedByGroupAtDestination, Verdict::Reject));
    ports.observe(&refused(3, EndReason::FinBothSides, Verdict::Accept));
    ports.observe(&refused(4, EndReason::RateLimited, Verdict::Reject));
    let source = Ipv4Addr::new(203, 0, 113, 1).into();
    let closed = ports.closed_to(source, 80, Moment::EPOCH);
    let told: Vec<_> = closed.iter().map(|closed| (closed.instance, closed.end_reason)).collect();
    let machine = InstanceId::from_bits;
    assert_eq!(told, [(machine(1), EndReason::RefusedByVm), (machine(2), EndReason::DeniedByGroupAtDestination)]);
    assert_eq!(ports.closed_to(source, 81, Moment::EPOCH), []);
    assert_eq!(ports.closed_to(source, 80, NOW.plus(Duration::from_secs(1))), []);
}

#[test]
fn a_full_tally_gives_up_the_older_half_and_says_so() {
    let mut ports = ClosedPorts::new(100);
    for n in 0..1000u64 {
        let at = NOW.plus(Duration::from_secs(n));
        let record =
            FlowRecord { end: at, end_reason: EndReason::RefusedByVm, ..asked_from([203, 0, 113, 1], 1, n.into()) };
        ports.observe(&record);
    }
    let source = Ipv4Addr::new(203, 0, 113, 1).into();
    let all = ports.closed_to(source, 80, Moment::EPOCH);
    assert!((40..=100).contains(&all.len()), "{}", all.len());
    assert!(all.iter().all(|closed| closed.last_seen > ports.complete_since()));
    assert!(all.iter().any(|closed| closed.instance == InstanceId::from_bits(999)));
}

proptest! {
    /// No scanner is missed and none is made up, whatever else goes on.
    #[test]
    fn scanners_are_those_of_plain_sets(tries in prop::collection::vec((0u8..6, 0u64..12), 0..200)) {
        let mut detectors = Detectors::new(settings());
        let mut sets: BTreeMap<IpAddr, BTreeSet<u64>> = BTreeMap::new();
        for (outside, owner) in tries {
            let record = asked_from([203, 0, 113, outside], owner, owner.into());
            sets.entry(record.source).or_default().insert(owner);
            detectors.observe(&record);
        }
        let expected: BTreeSet<(IpAddr, u64)> =
            sets.into_iter().map(|(address, set)| (address, set.len() as u64)).filter(|(_, n)| *n >= 3).collect();
        let found: BTreeSet<(IpAddr, u64)> =
            detectors.scanners(&ScannerQuery { min_accounts: 3, window_seconds: 300 }, NOW).items.into_iter().map(|scanner| (scanner.address, scanner.accounts)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_row_of_columns_is_seen_as_its_record_is() {
    let records = [asking(1, 1), asked_from([203, 0, 113, 1], 2, 3)];
    let columns = FlowColumns::of(&records);
    let seen = [0, 1].map(|row| Sighting::at(&columns, row));
    assert_eq!(seen, [0, 1].map(|row| Sighting::from(&records[row])));
    assert_ne!(seen[0], seen[1]);
}
