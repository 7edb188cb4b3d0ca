//! The network's resolver as guests meet it: questions and answers as whole frames, and what hostile ones come to.

use std::collections::BTreeSet;

use lucarne_model::{desired::Endpoint, flow::Path};
use proptest::{collection::vec, prelude::*};
use smoltcp::wire::{Ipv4Packet, UdpPacket};

use super::{frames::*, *};
use crate::{dns, names::Names};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const ANY: u16 = 255;
/// The VPC's own, and the one that is everywhere.
const RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(169, 254, 169, 253)];

const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).chain([0]).collect()
}

/// A question of class IN that desires recursion, as guests ask it.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let header = [high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], &encoded(name), &kind.to_be_bytes(), &[0, 1]].concat()
}

/// With the record of EDNS behind it.
fn with_edns(mut question: Vec<u8>, version: u8) -> Vec<u8> {
    question[11] = 1;
    question.extend([0, 0, 41, 0x04, 0xd0, 0, version, 0, 0, 0, 0]);
    question
}

/// What a resolver said.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u8,
    /// Kind and data of each.
    records: Vec<(u16, Vec<u8>)>,
    /// The upper half of the code, where EDNS is spoken.
    edns: Option<u8>,
}

/// Reads a message that repeats `question`, octet by octet.
fn read(answer: &[u8], question: &[u8]) -> Answer {
    let word = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
    assert_eq!(answer[..2], question[..2], "the question's number");
    assert_eq!((answer[2], answer[3] & 0xf0), (0x80 | question[2], 0x80), "an answer that offers recursion");
    let (questions, records, authorities, beside) = (word(4), word(6), word(8), word(10));
    let mut at = 12;
    if questions == 1 {
        let length = question[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
        assert_eq!(answer[12..12 + length], question[12..12 + length]);
        at += length;
    }
    let records = (0..records).map(|_| {
        assert_eq!(answer[at..at + 2], [0xc0, 12], "of the name that was asked for");
        assert_eq!(answer[at + 4..at + 10], [0, 1, 0, 0, 0, 5], "of class IN, for five seconds");
        let length = usize::from(word(at + 10));
        let record = (word(at + 2), answer[at + 12..at + 12 + length].to_vec());
        at += 12 + length;
        record
    });
    let records = records.collect();
    let edns = (beside == 1).then(|| {
        assert_eq!(answer[at..at + 5], [0, 0, 41, 2, 0]);
        assert_eq!(answer[at + 6..at + 11], [0; 5]);
        at += 11;
        answer[at - 6]
    });
    assert_eq!((at, authorities), (answer.len(), 0));
    Answer { code: answer[3] & 0xf, records, edns }
}

fn datagram(from: u128, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let ends =
        Ends { source_mac: mac(from), destination_mac: MacAddress::ROUTER, source: address(from), destination: to };
    ends.frame(&Shape { data: message.to_vec(), ..udp(40_000, 53, message.len()) })
}

impl Scene {
    /// What the resolver sends to the guest, if it does.
    fn resolve(&mut self, from: u128, at: Ipv4Addr, message: &[u8]) -> Option<Vec<u8>> {
        self.send_frame(from, &datagram(from, at, message));
        let (port, frame) = self.out.to_guests.pop()?;
        assert_eq!(port, self.port(from));
        assert_eq!((&frame[..6], &frame[6..12]), (&mac(from).0[..], &MacAddress::ROUTER.0[..]));
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!((ip.src_addr(), ip.dst_addr()), (at, address(from)));
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!((udp.src_port(), udp.dst_port()), (53, 40_000));
        Some(udp.payload().to_vec())
    }

    fn ask(&mut self, from: u128, name: &str, kind: u16) -> Answer {
        let message = question(7, name, kind);
        let answer = self.resolve(from, RESOLVERS[0], &message).unwrap_or_else(|| panic!("no answer about {name}"));
        read(&answer, &message)
    }
}

fn addresses(all: &[Ipv4Addr]) -> Answer {
    let records = all.iter().map(|address| (A, address.octets().to_vec())).collect();
    Answer { code: NO_ERROR, records, edns: None }
}
fn name(name: &str) -> Answer {
    Answer { code: NO_ERROR, records: vec![(PTR, encoded(name))], edns: None }
}
fn nothing(code: u8) -> Answer {
    Answer { code, records: Vec::new(), edns: None }
}

fn endpoint_mut(scene: &mut Scene, machine: u128) -> &mut Endpoint {
    let mut endpoints = scene.plan.networks.iter_mut().flat_map(|network| &mut network.endpoints);
    endpoints.find(|endpoint| endpoint.interface == interface(machine)).unwrap()
}

#[test]
fn an_instance_of_any_host_is_found_by_its_name_its_id_and_its_address_at_both_resolvers() {
    let mut scene = Scene::new();
    for machine in [WEB, DATABASE, FAR, STOPPED] {
        let (id, dashed) = (instance(machine), address(machine).to_string().replace('.', "-"));
        for name in [format!("machine-{machine}"), format!("MACHine-{machine}"), id.to_string(), format!("ip-{dashed}")]
        {
            for resolver in RESOLVERS {
                let message = question(7, &format!("{name}.internal"), A);
                let answer = scene.resolve(WEB, resolver, &message).unwrap();
                assert_eq!(read(&answer, &message), addresses(&[address(machine)]), "{name} at {resolver}");
            }
        }
    }
    assert_eq!(scene.ask(WEB, "machine-2.INTERNAL", ANY), addresses(&[address(APP)]));
}

#[test]
fn an_address_of_the_network_has_the_name_of_its_instance_or_its_own() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(WEB, "20.2.0.10.in-addr.arpa", PTR), name("machine-3.internal"));
    assert_eq!(scene.ask(WEB, "20.2.0.10.IN-ADDR.arpa", A), nothing(NO_ERROR));
    endpoint_mut(&mut scene, DATABASE).name = None;
    scene.apply();
    assert_eq!(scene.ask(WEB, "20.2.0.10.in-addr.arpa", ANY), name("ip-10-0-2-20.internal"));
    assert_eq!(scene.ask(WEB, "machine-3.internal", A), nothing(NO_SUCH_NAME));
}

/// The other tenant has the same addresses, and the web server's.
#[test]
fn each_network_has_names_of_its_own_and_no_others() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(OTHER_TENANT, "machine-7.internal", A), addresses(&[address(WEB)]));
    assert_eq!(scene.ask(OTHER_TENANT, "10.1.0.10.in-addr.arpa", PTR), name("machine-7.internal"));
    assert_eq!(scene.ask(WEB, "10.1.0.10.in-addr.arpa", PTR), name("machine-1.internal"));
    for unknown in ["machine-7".into(), instance(OTHER_TENANT).to_string()] {
        assert_eq!(scene.ask(WEB, &format!("{unknown}.internal"), A), nothing(NO_SUCH_NAME));
    }
    for unknown in ["machine-2".into(), instance(APP).to_string(), "ip-10-0-1-11".into()] {
        assert_eq!(scene.ask(OTHER_TENANT, &format!("{unknown}.internal"), A), nothing(NO_SUCH_NAME));
    }
    assert_eq!(scene.ask(OTHER_TENANT, "11.1.0.10.in-addr.arpa", PTR), nothing(NO_SUCH_NAME));
}

#[test]
fn what_is_not_there_is_denied_and_what_is_not_the_networks_own_is_refused() {
    let mut scene = Scene::new();
    for (asked, kind, code) in [
        ("machine-1.internal", AAAA, NO_ERROR),
        ("machine-1.internal", 65, NO_ERROR),
        ("machine-1.internal", PTR, NO_ERROR),
        ("internal", A, NO_ERROR),
        ("nobody.internal", A, NO_SUCH_NAME),
        ("nobody.internal", AAAA, NO_SUCH_NAME),
        ("www.machine-1.internal", A, NO_SUCH_NAME),
        ("ip-10-0-1-77.internal", A, NO_SUCH_NAME),
        ("ip-010-0-1-10.internal", A, NO_SUCH_NAME),
        ("77.1.0.10.in-addr.arpa", PTR, NO_SUCH_NAME),
        ("8.8.8.8.in-addr.arpa", PTR, REFUSED),
        ("010.1.0.10.in-addr.arpa", PTR, REFUSED),
        ("0.10.in-addr.arpa", PTR, REFUSED),
        ("machine-1", A, REFUSED),
        ("machine-1.internal.example", A, REFUSED),
        ("example.com", A, REFUSED),
        ("", 2, REFUSED),
    ] {
        assert_eq!(scene.ask(WEB, asked, kind), nothing(code), "{asked} {kind}");
    }
    assert!(scene.out.to_tunnel.is_empty() && scene.out.to_metadata.is_empty(), "nothing is given on");
}

#[test]
fn a_name_follows_its_instance_when_it_is_replaced_renamed_or_moved() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(WEB, "machine-4.internal", A), addresses(&[address(FAR)]));
    endpoint_mut(&mut scene, FAR).host = HERE;
    scene.apply();
    assert_eq!(scene.ask(WEB, "machine-4.internal", A), addresses(&[address(FAR)]), "it has moved");
    let replacement = Ipv4Addr::new(10, 0, 1, 51);
    scene.plan.networks[0].endpoints.retain(|endpoint| endpoint.interface != interface(FAR));
    let replaces = Endpoint { address: replacement, ..endpoint(FAR) };
    scene.plan.networks[0].endpoints.push(Endpoint { instance: instance(44), interface: interface(44), ..replaces });
    scene.apply();
    assert_eq!(scene.ask(WEB, "machine-4.internal", A), addresses(&[replacement]), "it is another one");
    assert_eq!(scene.ask(WEB, &format!("{}.internal", instance(FAR)), A), nothing(NO_SUCH_NAME));
    endpoint_mut(&mut scene, 44).name = HostName::from_tag("Other name");
    scene.apply();
    assert_eq!(scene.ask(WEB, "machine-4.internal", A), nothing(NO_SUCH_NAME));
    assert_eq!(scene.ask(WEB, "other-name.internal", A), addresses(&[replacement]));
}

/// Who shares a name shares the questions: each is told first as often as any other, and no answer is too long.
#[test]
fn a_name_of_many_is_told_eight_at_a_time_beginning_with_another_each_time() {
    let mut scene = Scene::new();
    let name = "x".repeat(63);
    let many: BTreeSet<_> = (100..120).map(|last| Ipv4Addr::new(10, 0, 1, last)).collect();
    for (address, at) in many.iter().zip(100..) {
        let (interface, instance) = (interface(at), instance(at));
        let name = HostName::from_tag(&name);
        scene.plan.networks[0].endpoints.push(Endpoint {
            interface,
            instance,
            address: *address,
            name,
            ..endpoint(WEB)
        });
    }
    scene.apply();
    let mut first = BTreeSet::new();
    for id in 0..20 {
        let message = with_edns(question(id, &format!("{name}.internal"), A), 0);
        let answer = scene.resolve(WEB, RESOLVERS[0], &message).unwrap();
        assert!(answer.len() <= 512);
        let told = read(&answer, &message).records;
        assert_eq!(told.len(), 8);
        first.insert(told[0].1.clone());
    }
    assert_eq!(first, many.iter().map(|address| address.octets().to_vec()).collect());
}

#[test]
fn edns_is_answered_in_kind_and_only_in_its_first_version() {
    let mut scene = Scene::new();
    let plain = question(9, "machine-3.internal", A);
    let mut ask = |message: &[u8]| read(&scene.resolve(WEB, RESOLVERS[1], message).unwrap(), message);
    assert_eq!(ask(&plain), addresses(&[address(DATABASE)]));
    assert_eq!(ask(&with_edns(plain.clone(), 0)), Answer { edns: Some(0), ..addresses(&[address(DATABASE)]) });
    assert_eq!(ask(&with_edns(plain, 1)), Answer { edns: Some(1), ..nothing(NO_ERROR) });
}

#[test]
fn what_is_no_question_of_one_name_is_told_so_in_a_header() {
    let mut scene = Scene::new();
    let sound = question(9, "machine-3.internal", A);
    let with = |at: usize, octet: u8| {
        let mut message = sound.clone();
        message[at] = octet;
        message
    };
    let long = question(9, &["a"; 130].join("."), A);
    for (message, code) in [
        (with(2, 0x29), NOT_IMPLEMENTED),
        (with(5, 0), FORMAT_ERROR),
        (with(5, 2), FORMAT_ERROR),
        (with(sound.len() - 1, 3), FORMAT_ERROR),
        (with(12, 0xc0), FORMAT_ERROR),
        (with(12, 0x41), FORMAT_ERROR),
        (sound[..sound.len() - 1].to_vec(), FORMAT_ERROR),
        (sound[..12].to_vec(), FORMAT_ERROR),
        (long, FORMAT_ERROR),
    ] {
        let answer = scene.resolve(WEB, RESOLVERS[0], &message).unwrap();
        assert_eq!(answer.len(), 12, "{message:x?}");
        assert_eq!(read(&answer, &message), nothing(code), "{message:x?}");
    }
}

/// Two that answer each other's answers would not end.
#[test]
fn an_answer_is_not_answered() {
    let mut scene = Scene::new();
    let mut answer = question(9, "machine-3.internal", A);
    answer[2] |= 0x80;
    for message in [&answer[..], &answer[..11], &[]] {
        assert_eq!(scene.resolve(WEB, RESOLVERS[0], message), None);
    }
    assert_eq!(scene.switch.frame_counters().dropped, [("dns-ignored", 3)].into());
}

#[test]
fn a_question_is_a_flow_with_a_service_that_no_rule_is_asked_about_and_there_is_no_tcp() {
    let mut scene = Scene::new();
    scene.plan.networks[0].groups.clear();
    scene.apply();
    assert_eq!(scene.ask(WEB, "machine-3.internal", A), addresses(&[address(DATABASE)]));
    scene.plan.mitigations.clear();
    scene.plan.networks[0].endpoints.retain(|endpoint| endpoint.interface != interface(FAR));
    scene.apply();
    assert_eq!(scene.ask(WEB, "machine-3.internal", A), addresses(&[address(DATABASE)]));
    scene.flush();
    let (asked, answered) = (scene.record(WEB, Direction::Egress), scene.record(WEB, Direction::Ingress));
    assert_eq!((asked.path, asked.verdict, asked.rule), (Path::Service, Verdict::Accept, None));
    assert_eq!((asked.packets, answered.packets, answered.path), (2, 2, Path::Service));
    assert_eq!((asked.source, asked.destination), (address(WEB).into(), RESOLVERS[0].into()));
    assert_eq!((asked.source_port, asked.destination_port, asked.next_hop), (40_000, 53, None));
    assert_eq!(asked.history.to_string(), "Dd");
    let ends = Ends { destination: RESOLVERS[0], destination_mac: MacAddress::ROUTER, ..Ends::between(WEB, FAR) };
    scene.send_frame(WEB, &ends.frame(&tcp(40_000, 53, SYN)));
    scene.send_frame(APP, &datagram(WEB, RESOLVERS[0], &question(1, "machine-3.internal", A)));
    assert_eq!(scene.given_on(), 0);
    let dropped = scene.switch.frame_counters().dropped;
    assert_eq!((dropped.get("denied-by-group-at-source"), dropped.get("source-check")), (Some(&1), Some(&1)));
}

/// A message that the resolver takes seriously, damaged.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-z0-9.-]{0,40}(\\.internal)?|ip(-[0-9]{1,3}){4}\\.internal|([0-9]{1,3}\\.){4}in-addr\\.arpa";
    let kind = prop_oneof![Just(A), Just(PTR), Just(AAAA), Just(ANY), any::<u16>()];
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (any::<u16>(), name, kind, any::<Option<bool>>(), damage, any::<Option<prop::sample::Index>>()).prop_map(
        |(id, name, kind, edns, damage, cut)| {
            let mut message = question(id, &name, kind);
            if let Some(version) = edns {
                message = with_edns(message, version.into());
            }
            for (at, octet) in damage {
                let at = at.index(message.len());
                message[at] = octet;
            }
            message.truncate(cut.map_or(message.len(), |cut| cut.index(message.len() + 1)));
            message
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    /// An answer fits into the smallest datagram, and is no more than eight addresses or one name longer than its question.
    #[test]
    fn no_message_crashes_the_resolver_or_makes_it_say_too_much(
        message in prop_oneof![8 => message(), 1 => vec(any::<u8>(), 0..600)],
    ) {
        let names = Names::of(&network(&[WEB, APP, DATABASE, FAR, FAR_DATABASE, STOPPED], VNI_A));
        let answer = dns::answer(&message, &names);
        let is_question = message.len() >= 12 && message[2] & 0x80 == 0;
        prop_assert_eq!(answer.is_some(), is_question);
        if let Some(answer) = answer {
            prop_assert_eq!(&answer[..2], &message[..2]);
            prop_assert_eq!(answer[2] & 0x80, 0x80);
            prop_assert!(answer.len() <= 512 && answer.len() <= message.len() + 8 * 16);
        }
    }
}
