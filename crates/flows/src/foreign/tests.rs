//! Datagrams of other exporters, made by hand from the formats' documents, and any octets at all.

use proptest::prelude::*;

use super::*;

const NOW: Moment = Moment::from_secs(1_768_478_400);
const EXPORTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Numbers of so many octets, one after the other.
fn octets(parts: &[(u64, usize)]) -> Vec<u8> {
    parts.iter().flat_map(|(number, length)| number.to_be_bytes()[8 - length..].to_vec()).collect()
}

fn decode(decoder: &mut Decoder, datagram: &[u8]) -> (Vec<ForeignRecord>, Result<Passed, ForeignError>) {
    let mut records = Vec::new();
    let result = decoder.decode(EXPORTER, datagram, NOW, &mut |record| records.push(record));
    (records, result)
}

/// What all the datagrams below speak of.
fn expected(domain: u32) -> ForeignRecord {
    ForeignRecord {
        exporter: EXPORTER,
        domain,
        start: Moment(NOW.as_micros() - 5_000_000),
        end: Moment(NOW.as_micros() - 1_000_000),
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        destination: Ipv4Addr::new(10, 0, 0, 2).into(),
        source_port: 40000,
        destination_port: 443,
        protocol: 6,
        tos: 8,
        tcp_flags: 0x1b,
        packets: 7,
        bytes: 900,
        ingress_interface: 3,
        egress_interface: 4,
        sampling_rate: 1,
    }
}

const SOURCE: u64 = 0x0a00_0001;
const DESTINATION: u64 = 0x0a00_0002;
const UPTIME: u64 = 100_000;

fn v5() -> Vec<u8> {
    let mut datagram = octets(&[(5, 2), (1, 2), (UPTIME, 4), (NOW.as_secs(), 4), (0, 4), (9, 4), (0x0102, 2), (0, 2)]);
    datagram.extend(octets(&[(SOURCE, 4), (DESTINATION, 4), (0, 4), (3, 2), (4, 2), (7, 4), (900, 4)]));
    datagram.extend(octets(&[(UPTIME - 5000, 4), (UPTIME - 1000, 4), (40000, 2), (443, 2), (0, 1), (0x1b, 1), (6, 1)]));
    datagram.extend(octets(&[(8, 1), (0, 8)]));
    datagram
}

/// Elements, octets and values of one record, as v9 and IPFIX number them alike.
const FIELDS: [(u64, u64, u64); 13] = [
    (8, 4, SOURCE),
    (12, 4, DESTINATION),
    (7, 2, 40000),
    (11, 2, 443),
    (4, 1, 6),
    (5, 1, 8),
    (6, 2, 0x1b),
    (10, 4, 3),
    (14, 2, 4),
    (2, 8, 7),
    (1, 4, 900),
    (22, 4, UPTIME - 5000),
    (21, 4, UPTIME - 1000),
];

fn set(number: u64, body: &[u8]) -> Vec<u8> {
    [octets(&[(number, 2), (body.len() as u64 + 4, 2)]), body.to_vec()].concat()
}

fn v9(sets: &[Vec<u8>]) -> Vec<u8> {
    let header = octets(&[(9, 2), (1, 2), (UPTIME, 4), (NOW.as_secs(), 4), (1, 4), (77, 4)]);
    [header, sets.concat()].concat()
}

fn v9_template() -> Vec<u8> {
    let fields = FIELDS.map(|(element, length, _)| octets(&[(element, 2), (length, 2)])).concat();
    set(0, &[octets(&[(300, 2), (FIELDS.len() as u64, 2)]), fields].concat())
}

fn v9_data() -> Vec<u8> {
    let record = FIELDS.map(|(_, length, value)| octets(&[(value, length as usize)])).concat();
    set(300, &[record.clone(), record, vec![0, 0]].concat())
}

fn ipfix(domain: u64, sets: &[Vec<u8>]) -> Vec<u8> {
    let sets = sets.concat();
    let header = octets(&[(10, 2), (sets.len() as u64 + 16, 2), (NOW.as_secs(), 4), (1, 4), (domain, 4)]);
    [header, sets].concat()
}

/// With what only IPFIX has: an enterprise's element, a value of variable length, a list, times since 1970.
fn ipfix_template() -> Vec<u8> {
    let mut fields = octets(&[(0x8000 | 8, 2), (4, 2), (29305, 4), (82, 2), (0xffff, 2), (291, 2), (0xffff, 2)]);
    fields.extend(FIELDS[..11].iter().flat_map(|(element, length, _)| octets(&[(*element, 2), (*length, 2)])));
    fields.extend(octets(&[(152, 2), (8, 2), (153, 2), (8, 2)]));
    set(2, &[octets(&[(400, 2), (16, 2)]), fields].concat())
}

fn ipfix_data() -> Vec<u8> {
    let millis = NOW.as_micros() / 1000;
    let mut record = octets(&[(0xffff_ffff, 4), (3, 1), (0x657468, 3), (255, 1), (2, 2), (0, 2)]);
    record.extend(FIELDS[..11].iter().flat_map(|(_, length, value)| octets(&[(*value, *length as usize)])));
    record.extend(octets(&[(millis - 5000, 8), (millis - 1000, 8)]));
    set(400, &record)
}

fn sflow() -> Vec<u8> {
    let mut packet = octets(&[(0, 6), (0, 6), (0x8100, 2), (5, 2), (0x0800, 2)]);
    packet.extend(octets(&[
        (0x45, 1),
        (8, 1),
        (882, 2),
        (0, 4),
        (64, 1),
        (6, 1),
        (0, 2),
        (SOURCE, 4),
        (DESTINATION, 4),
    ]));
    packet.extend(octets(&[(40000, 2), (443, 2), (0, 8), (0x501b, 2), (0, 6)]));
    packet.resize(packet.len().next_multiple_of(4), 0);
    let mut raw = octets(&[(1, 4), (900 + 18 + 4, 4), (4, 4), (packet.len() as u64, 4)]);
    raw.extend(packet);
    let mut sample = octets(&[(1, 4), (3, 4), (7, 4), (0, 4), (0, 4), (3, 4), (4, 4), (2, 4)]);
    sample.extend(octets(&[(1001, 4), (4, 4), (0, 4), (1, 4), (raw.len() as u64, 4)]));
    sample.extend(raw);
    let mut datagram = octets(&[(5, 4), (1, 4), (0xc000_0201, 4), (12, 4), (1, 4), (UPTIME, 4), (2, 4)]);
    datagram.extend(octets(&[(2, 4), (8, 4), (0, 8)]));
    datagram.extend(octets(&[(1, 4), (sample.len() as u64, 4)]));
    datagram.extend(sample);
    datagram
}

#[test]
fn netflow_5_reads_as_it_was_written() {
    assert_eq!(decode(&mut Decoder::default(), &v5()), (vec![expected(0x0102)], Ok(Passed::default())));
}

#[test]
fn netflow_9_reads_by_its_templates_and_not_before_they_came() {
    let mut decoder = Decoder::default();
    let (records, passed) = decode(&mut decoder, &v9(&[v9_data()]));
    assert_eq!((records.len(), passed.unwrap().without_template), (0, 1));
    let (records, passed) = decode(&mut decoder, &v9(&[v9_template(), v9_data()]));
    assert_eq!((records, passed), (vec![expected(77), expected(77)], Ok(Passed::default())));
    assert_eq!(decode(&mut decoder, &v9(&[v9_data()])).0.len(), 2);
}

#[test]
fn ipfix_of_routers_reads_with_enterprise_elements_lists_and_variable_lengths_passed_over() {
    let mut decoder = Decoder::default();
    let (records, passed) = decode(&mut decoder, &ipfix(5, &[ipfix_template(), ipfix_data()]));
    assert_eq!((records, passed), (vec![expected(5)], Ok(Passed::default())));
}

#[test]
fn a_withdrawn_template_is_used_no_more_and_other_domains_keep_theirs() {
    for withdrawal in [400, 2] {
        let mut decoder = Decoder::default();
        for domain in [5, 6] {
            decode(&mut decoder, &ipfix(domain, &[ipfix_template()])).1.unwrap();
        }
        decode(&mut decoder, &ipfix(5, &[set(2, &octets(&[(withdrawal, 2), (0, 2)]))])).1.unwrap();
        assert_eq!(decode(&mut decoder, &ipfix(5, &[ipfix_data()])).1.unwrap().without_template, 1);
        assert_eq!(decode(&mut decoder, &ipfix(6, &[ipfix_data()])).0, [expected(6)]);
    }
}

#[test]
fn options_are_measured_and_passed_over() {
    let options = [
        v9(&[set(1, &octets(&[(310, 2), (4, 2), (4, 2), (1, 2), (4, 2), (34, 2), (4, 2)])), set(310, &[0; 8])]),
        ipfix(7, &[set(3, &octets(&[(310, 2), (2, 2), (1, 2), (8, 2), (4, 2), (12, 2), (4, 2)])), set(310, &[9; 8])]),
    ];
    for datagram in options {
        let expected = Passed { no_flows: 1, without_template: 0 };
        assert_eq!(decode(&mut Decoder::default(), &datagram), (vec![], Ok(expected)));
    }
}

/// Options of v9 (scope: the whole exporter) and of IPFIX (scope: the selector), and one for an interface alone.
fn sampling_options() -> [(Vec<u8>, Vec<u8>); 3] {
    let v9_options = |scope: u64| {
        let template = octets(&[(310, 2), (4, 2), (8, 2), (scope, 2), (4, 2), (34, 2), (4, 2), (35, 2), (1, 2)]);
        v9(&[set(1, &template), set(310, &octets(&[(9, 4), (100, 4), (2, 1)]))])
    };
    let selector = octets(&[(310, 2), (3, 2), (1, 2), (302, 2), (8, 2), (305, 2), (4, 2), (306, 2), (4, 2)]);
    let selector = ipfix(5, &[set(3, &selector), set(310, &octets(&[(9, 8), (2, 4), (198, 4)]))]);
    let v9_flow = v9(&[v9_template(), v9_data()]);
    let mut template = octets(&[(302, 2), (1, 2)]);
    template.extend(FIELDS[..11].iter().flat_map(|(element, length, _)| octets(&[(*element, 2), (*length, 2)])));
    let mut record = vec![9];
    record.extend(FIELDS[..11].iter().flat_map(|(_, length, value)| octets(&[(*value, *length as usize)])));
    let ipfix_flow = ipfix(5, &[set(2, &[octets(&[(400, 2), (12, 2)]), template].concat()), set(400, &record)]);
    [(v9_options(1), v9_flow.clone()), (selector, ipfix_flow), (v9_options(2), v9_flow)]
}

#[test]
fn flows_of_a_sampling_exporter_are_counted_for_all_that_they_stand_for() {
    for ((options, flows), rate) in sampling_options().into_iter().zip([100, 100, 1]) {
        let mut decoder = Decoder::default();
        let before = decode(&mut decoder, &flows).0;
        assert_eq!(decode(&mut decoder, &options).1, Ok(Passed { no_flows: 1, without_template: 0 }));
        let after = decode(&mut decoder, &flows).0;
        assert!(!before.is_empty() && before.len() == after.len());
        for (before, after) in before.iter().zip(after) {
            assert_eq!((before.packets, before.bytes, before.sampling_rate), (7, 900, 1));
            assert_eq!(
                (after.packets, after.bytes, after.sampling_rate),
                (7 * u64::from(rate), 900 * u64::from(rate), rate)
            );
        }
    }
}

#[test]
fn netflow_5_tells_its_sampling_in_the_header() {
    let mut datagram = v5();
    datagram[22..24].copy_from_slice(&(0x4000_u16 | 10).to_be_bytes());
    let record = decode(&mut Decoder::default(), &datagram).0.remove(0);
    assert_eq!((record.packets, record.bytes, record.sampling_rate), (70, 9000, 10));
}

#[test]
fn withdrawing_all_options_templates_leaves_those_of_flows() {
    let mut decoder = Decoder::default();
    decode(&mut decoder, &ipfix(5, &[ipfix_template()])).1.unwrap();
    decode(&mut decoder, &ipfix(5, &[set(3, &octets(&[(3, 2), (0, 2), (0, 2)]))])).1.unwrap();
    assert_eq!(decode(&mut decoder, &ipfix(5, &[ipfix_data()])).0, [expected(5)]);
    let options = set(3, &octets(&[(310, 2), (2, 2), (1, 2), (8, 2), (4, 2), (12, 2), (4, 2)]));
    decode(&mut decoder, &ipfix(5, &[options])).1.unwrap();
    decode(&mut decoder, &ipfix(5, &[set(3, &octets(&[(3, 2), (0, 2)]))])).1.unwrap();
    assert_eq!(decode(&mut decoder, &ipfix(5, &[set(310, &[0; 8])])).1.unwrap().without_template, 1);
}

/// A list of templates' records inside a record is passed over by its length, in either form of it.
#[test]
fn lists_of_records_are_passed_over() {
    for (list, length) in [(292, vec![3, 1, 2, 3]), (293, [vec![255, 1, 4], vec![7; 260]].concat())] {
        let mut fields = octets(&[(list, 2), (0xffff, 2)]);
        fields.extend(FIELDS[..11].iter().flat_map(|(element, length, _)| octets(&[(*element, 2), (*length, 2)])));
        let mut record = length;
        record.extend(FIELDS[..11].iter().flat_map(|(_, length, value)| octets(&[(*value, *length as usize)])));
        let template = set(2, &[octets(&[(400, 2), (12, 2)]), fields].concat());
        let (records, _) = decode(&mut Decoder::default(), &ipfix(5, &[template, set(400, &record)]));
        let expected = ForeignRecord { start: NOW, end: NOW, ..expected(5) };
        assert_eq!(records, [expected]);
    }
}

#[test]
fn a_sampled_packet_stands_for_as_many_as_the_rate_says() {
    let (records, passed) = decode(&mut Decoder::default(), &sflow());
    let expected = ForeignRecord { start: NOW, end: NOW, bytes: 900 * 7, sampling_rate: 7, ..expected(12) };
    assert_eq!((records, passed), (vec![expected], Ok(Passed { no_flows: 1, without_template: 0 })));
}

#[test]
fn a_flood_of_templates_costs_its_sender_the_oldest_ones_and_no_more_memory() {
    let mut templates = Templates::default();
    let fields: Vec<plan::Field> =
        (0..200).map(|n| plan::Field { element: Some(8 + 4 * (n % 2)), length: 4 }).collect();
    let plan = plan::Plan::compile(&fields, false).unwrap();
    for number in 256..=u16::MAX {
        templates.put(1, number, plan.clone());
        assert!(templates.weight() <= Templates::MOST);
    }
    assert!(templates.get(1, u16::MAX).is_some());
    assert!(templates.get(1, 256).is_none());
}

#[test]
fn exporters_beyond_the_most_push_out_the_silent_ones() {
    let mut decoder = Decoder::default();
    for number in 0..Decoder::MOST_EXPORTERS as u32 + 5 {
        let exporter = Ipv4Addr::from_bits(number).into();
        decoder.decode(exporter, &v9(&[v9_template()]), NOW, &mut |_| {}).unwrap();
    }
    assert_eq!(decoder.exporters.len(), Decoder::MOST_EXPORTERS);
    assert!(!decoder.exporters.contains_key(&Ipv4Addr::from_bits(0).into()));
}

/// An independent decoder reads the same of the same octets.
#[test]
fn netflow_parser_agrees() {
    let [_, (_, ipfix), _] = sampling_options();
    for (name, datagram) in [("v5", v5()), ("v9", v9(&[v9_template(), v9_data()])), ("ipfix", ipfix)] {
        let (theirs, error) =
            netflow_parser::NetflowParser::default().parse_bytes_as_netflow_common_flowsets(&datagram);
        assert!(error.is_none(), "{name}: {error:?}");
        let ours = decode(&mut Decoder::default(), &datagram).0;
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!((Some(ours.source), Some(ours.destination)), (theirs.src_addr, theirs.dst_addr), "{name}");
            assert_eq!(
                (Some(ours.source_port), Some(ours.destination_port)),
                (theirs.src_port, theirs.dst_port),
                "{name}"
            );
            assert_eq!(Some(ours.protocol), theirs.protocol_number, "{name}");
        }
    }
}

/// One datagram of each kind.
fn all() -> Vec<Vec<u8>> {
    let flows = [v5(), v9(&[v9_template(), v9_data()]), ipfix(5, &[ipfix_template(), ipfix_data()]), sflow()];
    flows.into_iter().chain(sampling_options().into_iter().flat_map(|(options, flows)| [options, flows])).collect()
}

proptest! {
    /// Whatever comes, decoding ends, gives no more records than octets, and remembers no more than its bound.
    #[test]
    fn no_octets_make_it_panic_or_grow(
        datagrams in prop::collection::vec(
            (prop::sample::select(all()),
             prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12), any::<prop::sample::Index>()),
            1..20,
        ),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut decoder = Decoder::default();
        for (mut datagram, changes, cut) in datagrams {
            for (at, octet) in changes {
                let at = at.index(datagram.len());
                datagram[at] = octet;
            }
            datagram.truncate(cut.index(datagram.len() + 1));
            let (records, _) = decode(&mut decoder, &datagram);
            prop_assert!(records.len() <= datagram.len());
        }
        let _ = decode(&mut decoder, &noise);
        prop_assert!(decoder.exporters.values().all(|exporter| exporter.templates.weight() <= Templates::MOST));
        prop_assert!(decoder.exporters.values().all(|exporter| exporter.rates.count() <= Rates::MOST));
    }
}
