//! The laws of the codec: what goes in comes out, old messages open, and no bytes hurt.
#![allow(clippy::disallowed_methods)] // reads and writes the golden file and the documentation page

use proptest::prelude::*;

use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, HostId, InstanceId, InterfaceId, MitigationId, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Path, RoundTrip, Side, Verdict},
};

use super::{
    elements::{DataType, ENTERPRISE, FIELDS, markdown, own_elements},
    wire::{moment, put_moment},
    *,
};
use crate::columns::FlowColumns;

pub(super) const NOW: Moment = Moment::from_secs(1_800_000_000);
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ipfix/golden/v1.ipfix");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ipfix.md");
const BOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/book/flows.md");

type Bits = (u128, u128, u128, u128, u128, u64, u64);

fn identities() -> impl Strategy<Value = Bits> {
    any::<Bits>()
}

#[derive(Clone, Debug)]
struct More {
    location: String,
    path: Path,
    side: Side,
    ttl: u8,
    prefixes: (Option<u8>, Option<u8>),
    has_hop: bool,
    history: String,
    conn_state: ConnState,
    round_trip: Option<RoundTrip>,
    counts: [u32; 4],
    mitigation: Option<MitigationId>,
}

prop_compose! {
    /// What a record has beside its identity, key and counters.
    fn more()(
        (location, history) in ("[a-z0-9.-]{1,64}", "[SHADFRIQTWshadfriqtw]{0,12}"),
        (path, conn_state) in (prop::sample::select(&Path::ALL[..]), prop::sample::select(ConnState::ALL)),
        (responds, ttl, has_hop, counts) in any::<(bool, u8, bool, [u32; 4])>(),
        prefixes in (prop::option::of(1u8..=128), prop::option::of(1u8..=128)),
        round_trip in prop::option::of((1u32.., any::<[u32; 4]>())),
        mitigation in prop::option::of(any::<u128>().prop_map(MitigationId::from_bits)),
    ) -> More {
        let side = if responds { Side::Responder } else { Side::Initiator };
        let round_trip = round_trip.map(|(count, [min, mean, max, smoothed])| RoundTrip { count, min, mean, max, smoothed });
        More { location, path, side, ttl, prefixes, has_hop, history, conn_state, round_trip, counts, mitigation }
    }
}

prop_compose! {
    /// Any record that the flow table could make, and stranger ones.
    pub(super) fn record()(
        (vpc, subnet, interface, instance, host, account, flow_id) in identities(),
        groups in prop::collection::vec(any::<u128>().prop_map(SecurityGroupId::from_bits), 0..=MAX_GROUPS),
        rule in prop::option::of(any::<u128>().prop_map(RuleId::from_bits)),
        (reject, egress, reason) in (any::<bool>(), any::<bool>(), prop::sample::select(EndReason::ALL)),
        (start, end) in (0u64..4_233_462_143_000_000, 0u64..4_233_462_143_000_000),
        (packets, bytes) in any::<(u64, u64)>(),
        (source, destination) in prop_oneof![
            any::<(std::net::Ipv4Addr, std::net::Ipv4Addr)>().prop_map(|(a, b)| (a.into(), b.into())),
            any::<(std::net::Ipv6Addr, std::net::Ipv6Addr)>().prop_map(|(a, b)| (a.to_canonical(), b.to_canonical())),
        ],
        (source_port, destination_port, protocol, tos, tcp_flags) in any::<(u16, u16, u8, u8, u16)>(),
        icmp in prop::option::of(any::<(u8, u8)>()),
        more in more(),
    ) -> FlowRecord {
        FlowRecord {
            flow_id,
            account: AccountId::from_bits(account),
            instance: InstanceId::from_bits(instance),
            interface: InterfaceId::from_bits(interface),
            subnet: SubnetId::from_bits(subnet),
            vpc: VpcId::from_bits(vpc),
            host: HostId::from_bits(host),
            location: more.location.parse().unwrap(),
            groups,
            rule,
            verdict: if reject { Verdict::Reject } else { Verdict::Accept },
            end_reason: reason,
            direction: if egress { Direction::Egress } else { Direction::Ingress },
            path: more.path,
            side: more.side,
            // Times are sent in milliseconds.
            start: Moment(start / 1000 * 1000),
            end: Moment(end / 1000 * 1000),
            packets,
            bytes,
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            icmp_type: icmp.map(|(icmp_type, _)| icmp_type),
            icmp_code: icmp.map(|(_, code)| code),
            tos,
            ttl: more.ttl,
            tcp_flags,
            source_prefix_length: more.prefixes.0,
            destination_prefix_length: more.prefixes.1,
            next_hop: more.has_hop.then_some(source).filter(|hop| !hop.is_unspecified()),
            history: more.history.parse().unwrap(),
            conn_state: more.conn_state,
            round_trip: more.round_trip,
            retransmissions: more.counts[0],
            zero_windows: more.counts[1],
            ingress_interface: more.counts[2],
            egress_interface: more.counts[3],
            mitigation: more.mitigation,
        }
    }
}

pub(super) fn fixed_records() -> Vec<FlowRecord> {
    let tcp = FlowRecord {
        flow_id: 0x1122_3344_5566_7788,
        account: AccountId::from_bits(12345),
        instance: InstanceId::from_bits(0xf_0000_0000_0000_0001),
        interface: InterfaceId::from_bits(2),
        subnet: SubnetId::from_bits(3),
        vpc: VpcId::from_bits(4),
        host: HostId::from_bits(5),
        location: "east-1".parse().unwrap(),
        groups: vec![SecurityGroupId::from_bits(6), SecurityGroupId::from_bits(7)],
        rule: Some(RuleId::from_bits(8)),
        verdict: Verdict::Accept,
        end_reason: EndReason::FinBothSides,
        direction: Direction::Egress,
        path: Path::OtherHost,
        side: Side::Initiator,
        start: Moment(1_800_000_000_123_000),
        end: Moment(1_800_000_001_999_000),
        packets: 10,
        bytes: 5_000,
        source: "10.0.1.4".parse().unwrap(),
        destination: "10.0.2.5".parse().unwrap(),
        source_port: 40_000,
        destination_port: 80,
        protocol: 6,
        icmp_type: None,
        icmp_code: None,
        tos: 0x10,
        ttl: 64,
        tcp_flags: 0x01b,
        source_prefix_length: Some(24),
        destination_prefix_length: Some(16),
        next_hop: None,
        history: "ShADadFf".parse().unwrap(),
        conn_state: ConnState::Sf,
        round_trip: Some(RoundTrip { count: 3, min: 100, mean: 150, max: 200, smoothed: 120 }),
        retransmissions: 1,
        zero_windows: 2,
        ingress_interface: 2,
        egress_interface: 1,
        mitigation: None,
    };
    let ping = FlowRecord {
        groups: vec![],
        rule: None,
        round_trip: None,
        mitigation: Some(MitigationId::from_bits(9)),
        verdict: Verdict::Reject,
        end_reason: EndReason::DeniedByGroupAtDestination,
        direction: Direction::Ingress,
        source_port: 0,
        destination_port: 0,
        protocol: 1,
        icmp_type: Some(8),
        icmp_code: Some(0),
        tcp_flags: 0,
        ..tcp.clone()
    };
    let six = FlowRecord { source: "fd00::1".parse().unwrap(), destination: "fd00::2".parse().unwrap(), ..tcp.clone() };
    vec![tcp, ping, six]
}

/// What a message brought, with its records as rows.
pub(super) fn read(decoder: &mut Decoder, message: &[u8]) -> Result<(Decoded, Vec<FlowRecord>), DecodeError> {
    let mut columns = FlowColumns::default();
    decoder.decode(message, &mut columns).map(|decoded| (decoded, columns.rows().collect()))
}

fn read_all(decoder: &mut Decoder, messages: &[Vec<u8>]) -> Vec<FlowRecord> {
    messages.iter().flat_map(|message| decoder.decode_rows(message).unwrap()).collect()
}

proptest! {
    #[test]
    fn records_come_out_as_they_went_in(
        records in prop::collection::vec(record(), 0..40),
        limit in 0usize..70_000,
    ) {
        let mut exporter = Exporter::new(7).with_limit(limit);
        let mut decoder = Decoder::new();
        for part in records.chunks(15) {
            let messages = exporter.encode(part, NOW);
            prop_assert!(messages.iter().all(|message| message.len() <= limit.max(900)));
            prop_assert_eq!(read_all(&mut decoder, &messages), part);
        }
    }

    #[test]
    fn every_microsecond_up_to_2104_reads_back(micros in 0u64..4_233_462_144_000_000) {
        let mut bytes = Vec::new();
        put_moment(Moment(micros), &mut bytes);
        prop_assert_eq!(moment(&bytes).unwrap(), Moment(micros));
    }

    #[test]
    fn marks_come_out_as_they_went_in(marks in prop::collection::vec(any::<(u64, u64)>(), 0..200)) {
        let marks: Vec<Mark> = marks.into_iter().map(|(session, next)| Mark { session, next }).collect();
        let mut decoder = Decoder::new();
        let messages = Exporter::new(0).encode_marks(&marks, NOW);
        let read: Vec<Mark> = messages.iter().flat_map(|m| read(&mut decoder, m).unwrap().0.marks).collect();
        prop_assert_eq!(read, marks);
    }

    #[test]
    fn what_a_foreign_exporter_adds_is_skipped(extra in prop::collection::vec((1u16..500, 1u16..40), 0..20)) {
        // Our template with unknown elements of another enterprise before every field of ours.
        let message = &Exporter::new(7).with_limit(Exporter::STREAM).encode(&fixed_records()[..1], NOW)[0];
        let (template, data) = only_template_and_record(message);
        let (mut specifiers, mut values) = (Vec::new(), Vec::new());
        for (number, length) in &extra {
            specifiers.extend((number | 0x8000).to_be_bytes());
            specifiers.extend(length.to_be_bytes());
            specifiers.extend(9u32.to_be_bytes());
            values.extend(vec![0xaa; usize::from(*length)]);
        }
        let count = u16::from_be_bytes([template[2], template[3]]) + extra.len() as u16;
        let template = [&template[..2], &count.to_be_bytes(), &specifiers, &template[4..]].concat();
        let message = message_of(&[(2, &template), (256, &[values, data].concat())]);
        prop_assert_eq!(Decoder::new().decode_rows(&message).unwrap(), &fixed_records()[..1]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// 60 messages a case: 120,000 in all.
    #[test]
    fn no_mutated_message_makes_the_decoder_panic(
        mutations in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), 60),
        cut in any::<prop::sample::Index>(),
    ) {
        let good = Exporter::new(7).with_limit(Exporter::STREAM).encode(&fixed_records(), NOW).remove(0);
        let mut decoder = Decoder::new();
        for mutation in mutations {
            let mut message = good.clone();
            for (index, byte) in mutation {
                let at = index.index(message.len());
                message[at] = byte;
            }
            let length = (message.len() as u16).to_be_bytes();
            message[2..4].copy_from_slice(&length); // else most would be refused for their length alone
            if let Ok((decoded, records)) = read(&mut decoder, &message) {
                prop_assert!(records.len() + decoded.marks.len() <= message.len());
            }
        }
        let _ = decoder.decode_rows(&good[..cut.index(good.len())]);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(sets in prop::collection::vec(any::<u8>(), 0..300), set in 0u16..260) {
        let mut decoder = Decoder::new();
        let _ = decoder.decode_rows(&message_of(&[(2, &sets), (set, &sets)]));
        let _ = decoder.decode_rows(&message_of(&[(3, &sets), (set, &sets)]));
        let _ = decoder.decode_rows(&sets);
    }
}

/// Elements as another sender might write them: in another order, some twice, numbers without their leading zeros.
pub(super) fn rearranged(
    order: &[prop::sample::Index],
    trims: &[bool],
    record: &FlowRecord,
) -> (Vec<u8>, Vec<u8>, usize) {
    let message = Exporter::new(7).with_limit(Exporter::STREAM).encode(std::slice::from_ref(record), NOW).concat();
    let (_, data) = only_template_and_record(&message);
    let fields: Vec<_> =
        FIELDS.iter().filter(|f| matches!(f.when, elements::When::Always | elements::When::Ipv4)).collect();
    let mut reader = wire::Reader(&data);
    let values: Vec<&[u8]> = fields.iter().map(|field| reader.value(field.element.length).unwrap()).collect();
    let mut places: Vec<usize> = (0..fields.len()).collect();
    order.iter().enumerate().for_each(|(at, to)| places.swap(at % fields.len(), to.index(fields.len())));
    places.extend(order.iter().take(5).map(|again| again.index(fields.len())));
    let (mut template, mut out) = (Vec::new(), Vec::new());
    for (place, trim) in places.iter().zip(trims.iter().cycle()) {
        let (element, mut value) = (fields[*place].element, values[*place]);
        let is_number = matches!(element.data_type, DataType::Unsigned32 | DataType::Unsigned64);
        while *trim && is_number && value.len() > 1 && value[0] == 0 {
            value = &value[1..];
        }
        let bit = if element.enterprise.is_some() { wire::ENTERPRISE_BIT } else { 0 };
        template.extend((element.number | bit).to_be_bytes());
        let is_variable = element.length == wire::VARIABLE;
        let length = if is_variable { element.length } else { value.len() as u16 };
        template.extend(length.to_be_bytes());
        element.enterprise.iter().for_each(|number| template.extend(number.to_be_bytes()));
        if is_variable {
            wire::put_length(value.len(), &mut out);
        }
        out.extend_from_slice(value);
    }
    (template, out, places.len())
}

proptest! {
    /// However a sender orders, repeats and shortens the elements, a record says the same.
    #[test]
    fn the_order_and_length_of_elements_say_nothing(
        record in record().prop_filter("of IPv4", |r| r.source.is_ipv4() && r.destination.is_ipv4() && r.icmp_type.is_none()),
        order in prop::collection::vec(any::<prop::sample::Index>(), 6..80),
        trims in prop::collection::vec(any::<bool>(), 1..9),
    ) {
        let (template, data, count) = rearranged(&order, &trims, &record);
        let template = [&256u16.to_be_bytes()[..], &(count as u16).to_be_bytes(), &template].concat();
        let message = message_of(&[(2, &template), (256, &[&data[..], &data].concat())]);
        prop_assert_eq!(Decoder::new().decode_rows(&message).unwrap(), vec![record.clone(), record]);
    }

    /// Whether records are copied as they came or written anew, the same come out at the end.
    #[test]
    fn what_is_passed_on_is_what_came(
        records in prop::collection::vec(record(), 0..40),
        is_copied in prop::collection::vec(any::<bool>(), 1..5),
    ) {
        let (mut decoder, mut columns) = (Decoder::new(), FlowColumns::default());
        let mut runs: Vec<(Run, Vec<u8>)> = Vec::new();
        for message in Exporter::new(7).with_limit(Exporter::STREAM).encode(&records, NOW) {
            let decoded = decoder.decode(&message, &mut columns).unwrap();
            runs.extend(decoded.runs.into_iter().map(|run| (run, message.clone())));
        }
        prop_assert!(runs.iter().all(|(run, _)| run.own.is_some()));
        runs.iter_mut().zip(is_copied.iter().cycle()).filter(|(_, is)| !**is).for_each(|((run, _), _)| run.own = None);
        let runs = runs.iter().map(|(run, message)| (run, &message[..]));
        let messages = Exporter::new(0).with_limit(Exporter::STREAM).pass_on(&columns, runs, NOW);
        prop_assert_eq!(read_all(&mut Decoder::new(), &messages), records);
    }
}

/// A message of domain 7 and sequence 0 with these sets.
pub(super) fn message_of(sets: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (id, content) in sets {
        body.extend(id.to_be_bytes());
        body.extend((content.len() as u16 + 4).to_be_bytes());
        body.extend(*content);
    }
    let length = (HEADER_LENGTH + body.len()) as u16;
    [&Header { length, export_time: 0, sequence: 0, domain: 7 }.to_bytes()[..], &body].concat()
}

/// The first template and the first record of a message of one IPv4 record.
pub(super) fn only_template_and_record(message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut rest = &message[HEADER_LENGTH..];
    let (mut template, mut data) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        match u16::from_be_bytes([rest[0], rest[1]]) {
            2 => {
                let specifiers =
                    FIELDS.iter().filter(|f| matches!(f.when, elements::When::Always | elements::When::Ipv4));
                let octets: usize = specifiers.map(|f| if f.element.enterprise.is_some() { 8 } else { 4 }).sum();
                template = rest[4..8 + octets].to_vec();
            }
            256 => data = rest[4..length].to_vec(),
            _ => {}
        }
        rest = &rest[length..];
    }
    (template, data)
}

#[test]
fn a_message_written_by_the_first_version_still_opens() {
    let golden = std::fs::read(GOLDEN).unwrap();
    let (decoded, records) = read(&mut Decoder::new(), &golden).unwrap();
    assert_eq!(records, fixed_records());
    assert_eq!(decoded.header.domain, 42);
}

#[test]
#[ignore = "writes the golden file; only for a new version of the format, beside the old ones"]
fn write_golden_file() {
    let messages = Exporter::new(42).with_limit(Exporter::STREAM).encode(&fixed_records(), NOW);
    std::fs::write(GOLDEN, messages.concat()).unwrap();
}

#[test]
fn the_documented_table_is_current() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    assert!(page.contains(&markdown()), "docs/ipfix.md does not have this table:\n{}", markdown());
}

#[test]
fn the_book_has_every_end_reason_with_its_code_and_meaning() {
    let book = std::fs::read_to_string(BOOK).unwrap();
    for reason in EndReason::ALL {
        let begin = format!("| {} | `{}`", reason.code(), reason.name());
        let row = book.lines().find(|line| line.starts_with(&begin));
        assert!(row.is_some_and(|row| row.contains(reason.meaning().trim())), "docs/book/flows.md lacks {reason}");
    }
}

#[test]
fn sequence_numbers_count_data_records_and_tell_of_losses() {
    let mut exporter = Exporter::new(7);
    let records = fixed_records();
    let messages: Vec<_> = (0..4).flat_map(|_| exporter.encode(&records, NOW)).collect();
    let mut decoder = Decoder::new();
    let decoded: Vec<_> = messages.iter().map(|message| read(&mut decoder, message).unwrap()).collect();
    assert!(decoded.iter().all(|(d, _)| d.lost == 0 && d.unknown_sets == 0));

    let mut decoder = Decoder::new();
    let lost: u32 = messages
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != messages.len() - 2)
        .map(|(_, message)| read(&mut decoder, message).unwrap().0.lost)
        .sum();
    assert_eq!(lost as usize, decoded[messages.len() - 2].1.len());
}

#[test]
fn templates_come_first_and_again_when_asked() {
    let mut exporter = Exporter::new(7).with_limit(Exporter::STREAM);
    let sizes: Vec<_> = (0..2).map(|_| exporter.encode(&fixed_records(), NOW).concat().len()).collect();
    assert!(sizes[1] < sizes[0] / 2);
    exporter.resend_templates();
    assert_eq!(exporter.encode(&fixed_records(), NOW).concat().len(), sizes[0]);
}

#[test]
fn data_without_its_template_is_counted_and_templates_are_of_one_domain() {
    let mut exporter = Exporter::new(7).with_limit(Exporter::STREAM);
    let with = exporter.encode(&fixed_records(), NOW).remove(0);
    let without = exporter.encode(&fixed_records(), NOW).remove(0);
    let mut decoder = Decoder::new();
    assert_eq!(read(&mut decoder, &without).unwrap().0.unknown_sets, 3);
    decoder.decode_rows(&with).unwrap();
    assert_eq!(decoder.decode_rows(&without).unwrap(), fixed_records());
    let mut other_domain = without;
    other_domain[15] = 8;
    assert_eq!(decoder.decode_rows(&other_domain).unwrap(), []);
}

#[test]
fn a_withdrawn_template_is_forgotten() {
    let mut exporter = Exporter::new(7).with_limit(Exporter::STREAM);
    let mut decoder = Decoder::new();
    decoder.decode_rows(&exporter.encode(&fixed_records(), NOW)[0]).unwrap();
    decoder.decode_rows(&message_of(&[(2, &[1, 0, 0, 0])])).unwrap();
    assert_eq!(read(&mut decoder, &exporter.encode(&fixed_records(), NOW)[0]).unwrap().0.unknown_sets, 1);
    decoder.decode_rows(&message_of(&[(2, &[0, 2, 0, 0])])).unwrap();
    assert_eq!(read(&mut decoder, &exporter.encode(&fixed_records(), NOW)[0]).unwrap().0.unknown_sets, 3);
}

#[test]
fn records_without_our_identity_are_counted_and_not_taken() {
    let template = [&256u16.to_be_bytes()[..], &[0, 2, 0, 1, 0, 4, 0, 2, 0, 4]].concat();
    let (decoded, records) = read(&mut Decoder::new(), &message_of(&[(2, &template), (256, &[1; 16])])).unwrap();
    assert_eq!((decoded.foreign, records.len()), (2, 0));
}

#[test]
fn hostile_templates_are_refused_by_name() {
    let decode = |template: &[u8]| Decoder::new().decode_rows(&message_of(&[(2, template)])).unwrap_err();
    assert_eq!(decode(&[1, 0, 0, 1, 0, 1, 0, 0]), DecodeError::NoLength { template: 256 });
    assert_eq!(decode(&[1, 0, 0xff, 0xff, 0, 1, 0, 0]), DecodeError::TooManyFields { template: 256 });
    assert_eq!(decode(&[0, 9, 0, 1, 0, 1, 0, 4]), DecodeError::ReservedTemplate(9));
    assert_eq!(decode(&[1, 0, 0, 2, 0, 1, 0, 4]), DecodeError::Truncated { set: 2 });
    let many: Vec<u8> = (256u16..400).flat_map(|id| [&id.to_be_bytes()[..], &[0, 1, 0, 1, 0, 4]].concat()).collect();
    assert_eq!(decode(&many), DecodeError::TooManyTemplates);
}

#[test]
fn a_value_that_does_not_exist_is_refused_by_name() {
    let good = Exporter::new(7).with_limit(Exporter::STREAM).encode(&fixed_records()[..1], NOW).remove(0);
    let (template, mut data) = only_template_and_record(&good);
    data[8..16].fill(0); // the account
    let error = Decoder::new().decode_rows(&message_of(&[(2, &template), (256, &data)])).unwrap_err();
    assert_eq!(error, DecodeError::Value { element: "accountId" });
}

#[test]
fn every_element_of_ours_is_described_once_and_under_our_number() {
    let mut numbers: Vec<u16> = own_elements().map(|element| element.number).collect();
    assert!(own_elements().all(|e| e.enterprise == Some(ENTERPRISE) && e.data_type != DataType::BasicList));
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count);
}
