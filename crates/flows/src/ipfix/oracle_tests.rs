//! Our messages read by a decoder that somebody else wrote (`netflow_parser`): each field says to it what it says to us.
//!
//! Owns the list of what each element must say of a record, written down a second time. `netflow_parser` 1.0 found nothing in
//! our messages for two reasons. Without its feature `parse_unknown_fields` it gives up a set's records at the first element
//! that it has no name for, as all of an enterprise's own are. And it takes a value of variable length for broken when that
//! has no octets, as ours have wherever there is nothing to say (no rule, no mitigation, no history yet), unlike `tshark`,
//! `nfdump` and pmacct. So it is asked about records that say something everywhere; those with nothing to say are held
//! against [`super::by_row_tests`] and those tools.
//!
//! Why `netgauze-flow-pkt` is no second one is told in ARCHITECTURE.md.

use std::net::IpAddr;

use netflow_parser::{
    FieldValue, IpfixField, IpfixFlowRecord, NetflowPacket, NetflowParser, variable_versions::ipfix::FlowSetBody,
};
use proptest::prelude::*;

use lucarne_model::{
    FlowRecord, History, MitigationId, RuleId,
    flow::{Direction, Side, Verdict},
    history::Happening,
};

use super::{
    Decoder, Exporter,
    elements::{ENTERPRISE, FIELDS, group_set_id},
    tests::{NOW, record},
};
use crate::columns::address_octets;

/// The element whose value is a list, which their decoder leaves as octets.
const GROUPS: &str = "securityGroupId list";

fn address_bits(address: IpAddr) -> u128 {
    u128::from_be_bytes(address_octets(address))
}

/// What IANA's element of this number must say of a record.
fn iana(number: u16, record: &FlowRecord) -> u128 {
    let millis = |moment: lucarne_model::Moment| moment.as_micros() / 1000;
    let icmp = [record.icmp_type.unwrap_or(0), record.icmp_code.unwrap_or(0)];
    let hop = record.next_hop.map_or(0, address_bits);
    match number {
        1 => record.bytes.into(),
        2 => record.packets.into(),
        4 => record.protocol.into(),
        5 => record.tos.into(),
        // They keep the nine flags that have names.
        6 => u128::from(record.tcp_flags & 0x1ff),
        7 => record.source_port.into(),
        8 => u128::from(address_bits(record.source) as u32),
        12 => u128::from(address_bits(record.destination) as u32),
        15 => u128::from(hop as u32),
        27 => address_bits(record.source),
        28 => address_bits(record.destination),
        62 => hop,
        9 | 29 => record.source_prefix_length.unwrap_or(0).into(),
        13 | 30 => record.destination_prefix_length.unwrap_or(0).into(),
        10 => record.ingress_interface.into(),
        11 => record.destination_port.into(),
        14 => record.egress_interface.into(),
        22 => u128::from(millis(record.start) as u32),
        21 => u128::from(millis(record.end) as u32),
        32 | 139 => u16::from_be_bytes(icmp).into(),
        61 => u128::from(record.direction == Direction::Egress),
        89 => record.forwarding_status().into(),
        136 => record.end_reason.flow_end_reason().into(),
        137 => group_set_id(&record.groups).into(),
        148 => record.flow_id.into(),
        152 => millis(record.start).into(),
        153 => millis(record.end).into(),
        176 | 178 => icmp[0].into(),
        177 | 179 => icmp[1].into(),
        192 => record.ttl.into(),
        233 => record.firewall_event().into(),
        239 => 1 + u128::from(record.side == Side::Responder),
        _ => panic!("nobody has said what element {number} must say"),
    }
}

/// What our own element of this number must say of a record, without the zeros in front of a number.
fn own(number: u16, record: &FlowRecord) -> Vec<u8> {
    let trip = record.round_trip.map_or([0; 5], |trip| [trip.count, trip.min, trip.mean, trip.max, trip.smoothed]);
    let said: u128 = match number {
        1 => record.account.number().into(),
        2 => record.vpc.bits(),
        3 => record.subnet.bits(),
        4 => record.interface.bits(),
        5 => record.instance.bits(),
        6 => record.host.bits(),
        8 => record.rule.map_or(0, RuleId::bits),
        9 => u128::from(record.verdict == Verdict::Reject),
        10 => record.end_reason.code().into(),
        11 => return record.location.as_str().as_bytes().to_vec(),
        12 => record.path.code().into(),
        13 => return record.history.to_string().into_bytes(),
        14 => record.conn_state.code().into(),
        15..=19 => trip[usize::from(number) - 15].into(),
        20 => record.retransmissions.into(),
        21 => record.zero_windows.into(),
        22 => record.mitigation.map_or(0, MitigationId::bits),
        _ => panic!("nobody has said what our element {number} must say"),
    };
    without_zeros(&said.to_be_bytes())
}

fn without_zeros(octets: &[u8]) -> Vec<u8> {
    octets.iter().copied().skip_while(|octet| *octet == 0).collect()
}

/// The flow records that their decoder finds.
fn theirs(parser: &mut NetflowParser, message: &[u8]) -> Vec<IpfixFlowRecord> {
    let parsed = parser.parse_bytes(message);
    assert!(parsed.error.is_none(), "{:?}", parsed.error);
    let sets = parsed.packets.into_iter().flat_map(|packet| match packet {
        NetflowPacket::IPFix(message) => message.flowsets,
        other => panic!("not taken for IPFIX: {other:?}"),
    });
    let records = sets.flat_map(|set| match set.body {
        FlowSetBody::Data(data) => data.fields,
        _ => Vec::new(),
    });
    records.collect()
}

/// What a field says to their decoder.
fn said(field: &IpfixField, value: &FieldValue, record: &FlowRecord) -> (Vec<u8>, Vec<u8>, &'static str) {
    let is_it = |number, enterprise| IpfixField::new(number, enterprise) == *field;
    let known = FIELDS.iter().map(|field| field.element).find(|element| is_it(element.number, element.enterprise));
    let element = known.unwrap_or_else(|| panic!("{field:?} is none that we sent"));
    let expected = match element.enterprise {
        None if element.number == 291 => return (Vec::new(), Vec::new(), GROUPS),
        None => without_zeros(&iana(element.number, record).to_be_bytes()),
        Some(enterprise) => {
            assert_eq!(enterprise, ENTERPRISE);
            own(element.number, record)
        }
    };
    let mut octets = Vec::new();
    value.write_be_bytes(&mut octets).unwrap();
    (without_zeros(&octets), expected, element.name)
}

fn talkative(record: FlowRecord) -> FlowRecord {
    let history = match record.history == History::default() {
        true => History::default().with(Happening::Syn, Side::Initiator),
        false => record.history,
    };
    FlowRecord {
        rule: record.rule.or(Some(RuleId::from_bits(1))),
        mitigation: record.mitigation.or(Some(MitigationId::from_bits(2))),
        history,
        ..record
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// As many records, and each with all of our elements that its layout has, of which each says the same.
    #[test]
    fn another_decoder_reads_every_field_as_we_do(records in prop::collection::vec(record(), 1..20)) {
        let records: Vec<FlowRecord> = records.into_iter().map(talkative).collect();
        let (mut decoder, mut parser) = (Decoder::new(), NetflowParser::default());
        let mut found = 0;
        for message in Exporter::new(9).encode(&records, NOW) {
            let ours = decoder.decode_rows(&message).unwrap();
            let theirs = theirs(&mut parser, &message);
            prop_assert_eq!(ours.len(), theirs.len());
            for (record, fields) in ours.iter().zip(&theirs) {
                prop_assert!(fields.len() > 45, "{} fields", fields.len());
                for (field, value) in fields {
                    let (said, expected, name) = said(field, value, record);
                    prop_assert_eq!(said, expected, "{} of {:?}", name, value);
                }
            }
            found += theirs.len();
        }
        prop_assert_eq!(found, records.len());
    }
}

/// Why the other decoder is asked only about records that say something everywhere. When this fails it can be asked about all.
#[test]
fn the_other_decoder_gives_up_at_a_value_without_octets() {
    let whole = talkative(super::tests::fixed_records().remove(0));
    let read = |record: &FlowRecord| {
        let message = Exporter::new(9).with_limit(Exporter::STREAM).encode(std::slice::from_ref(record), NOW).remove(0);
        (Decoder::new().decode_rows(&message).unwrap().len(), theirs(&mut NetflowParser::default(), &message).len())
    };
    assert_eq!(read(&whole), (1, 1));
    assert_eq!(read(&FlowRecord { mitigation: None, ..whole }), (1, 0));
}
