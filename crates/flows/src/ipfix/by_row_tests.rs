//! Records read one by one, as the format's text says: what the plan of columns is held against, over octets of any kind.

use std::{collections::BTreeMap, net::IpAddr};

use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, HostId, InstanceId, InterfaceId, MitigationId, Moment, RuleId,
    SubnetId, VpcId,
    flow::{Direction, Location, Path, RoundTrip, Side, Verdict},
};
use proptest::prelude::*;

use super::{
    Decoder,
    elements::{find, group_list},
    tests::{fixed_records, message_of, rearranged},
    wire::{ENTERPRISE_BIT, Reader, VARIABLE, id, unsigned},
};

/// Elements that only repeat what others say.
const REPETITIONS: [&str; 8] = [
    "commonPropertiesId",
    "flowEndReason",
    "firewallEvent",
    "forwardingStatus",
    "flowStartSysUpTime",
    "flowEndSysUpTime",
    "icmpTypeCodeIPv4",
    "icmpTypeCodeIPv6",
];

/// What one record says, by the field of ours; of a round trip by the element.
type Said<'a> = BTreeMap<&'static str, &'a [u8]>;

/// The records of a set by the field specifiers of its template; none when one of them cannot be read.
fn by_row(specifiers: &[u8], body: &[u8]) -> Option<Vec<FlowRecord>> {
    let (mut specifiers, mut columns) = (Reader(specifiers), Vec::new());
    while specifiers.left() > 0 {
        let (number, length) = (specifiers.u16().ok()?, specifiers.u16().ok()?);
        let enterprise = if number & ENTERPRISE_BIT == 0 { None } else { Some(specifiers.u32().ok()?) };
        columns.push((find(number & !ENTERPRISE_BIT, enterprise), length));
    }
    let shortest: usize =
        columns.iter().map(|(_, length)| if *length == VARIABLE { 1 } else { (*length).into() }).sum();
    let (mut body, mut records) = (Reader(body), Vec::new());
    while body.left() >= shortest {
        let mut said = Said::new();
        for (field, length) in &columns {
            let value = body.value(*length).ok()?;
            if let Some(field) = field.filter(|field| !REPETITIONS.contains(&field.element.name)) {
                said.insert(if field.of == "round_trip" { field.element.name } else { field.of }, value);
            }
        }
        records.push(record(&said)?);
    }
    Some(records)
}

fn record(said: &Said<'_>) -> Option<FlowRecord> {
    fn number<T: TryFrom<u64>>(said: &Said<'_>, name: &str) -> Option<T> {
        unsigned(said.get(name)?).ok()
    }
    let bits = |name: &str| id(said.get(name)?).ok();
    let optional = |name: &str| {
        let value = said.get(name)?;
        if value.is_empty() { Some(None) } else { id(value).ok().map(Some) }
    };
    let text = |name: &str| std::str::from_utf8(said.get(name)?).ok();
    let address = |name: &str| match *said.get(name)? {
        [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d])),
        value => <[u8; 16]>::try_from(value).ok().map(|octets| IpAddr::from(octets).to_canonical()),
    };
    let moment = |name: &str| number::<u64>(said, name)?.checked_mul(1000).map(Moment);
    let small = |name: &str| match said.get(name) {
        None => Some(None),
        Some(value) => unsigned(value).ok().map(Some),
    };
    let length = |name: &str| number::<u8>(said, name).map(|length| (length > 0).then_some(length));
    let trip = RoundTrip {
        count: number(said, "roundTripCount")?,
        min: number(said, "roundTripMinMicroseconds")?,
        mean: number(said, "roundTripMeanMicroseconds")?,
        max: number(said, "roundTripMaxMicroseconds")?,
        smoothed: number(said, "roundTripSmoothedMicroseconds")?,
    };
    let is_measured = [trip.count, trip.min, trip.mean, trip.max, trip.smoothed] != [0; 5];
    Some(FlowRecord {
        flow_id: number(said, "flow_id")?,
        account: AccountId::from_number(number(said, "account")?)?,
        instance: InstanceId::from_bits(bits("instance")?),
        interface: InterfaceId::from_bits(bits("interface")?),
        subnet: SubnetId::from_bits(bits("subnet")?),
        vpc: VpcId::from_bits(bits("vpc")?),
        host: HostId::from_bits(bits("host")?),
        location: text("location")?.parse::<Location>().ok()?,
        groups: group_list(said.get("groups")?).ok()?.unwrap_or_default(),
        rule: optional("rule")?.map(RuleId::from_bits),
        verdict: [Verdict::Accept, Verdict::Reject].get(usize::from(number::<u8>(said, "verdict")?)).copied()?,
        end_reason: EndReason::from_code(number(said, "end_reason")?)?,
        direction: [Direction::Ingress, Direction::Egress]
            .get(usize::from(number::<u8>(said, "direction")?))
            .copied()?,
        path: Path::from_code(number(said, "path")?)?,
        side: match number(said, "side")? {
            1u8 => Side::Initiator,
            2 => Side::Responder,
            _ => return None,
        },
        start: moment("start")?,
        end: moment("end")?,
        packets: number(said, "packets")?,
        bytes: number(said, "bytes")?,
        source: address("source")?,
        destination: address("destination")?,
        source_port: number(said, "source_port")?,
        destination_port: number(said, "destination_port")?,
        protocol: number(said, "protocol")?,
        icmp_type: small("icmp_type")?,
        icmp_code: small("icmp_code")?,
        tos: number(said, "tos")?,
        ttl: number(said, "ttl")?,
        tcp_flags: number(said, "tcp_flags")?,
        source_prefix_length: length("source_prefix_length")?,
        destination_prefix_length: length("destination_prefix_length")?,
        next_hop: Some(address("next_hop")?).filter(|hop| !hop.is_unspecified()),
        history: text("history")?.parse().ok()?,
        conn_state: ConnState::from_code(number(said, "conn_state")?)?,
        round_trip: is_measured.then_some(trip),
        retransmissions: number(said, "retransmissions")?,
        zero_windows: number(said, "zero_windows")?,
        ingress_interface: number(said, "ingress_interface")?,
        egress_interface: number(said, "egress_interface")?,
        mitigation: optional("mitigation")?.map(MitigationId::from_bits),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// However elements are ordered, repeated and shortened, and whatever octets stand in the records: columns say what a
    /// reading of one record after the other says, or both refuse.
    #[test]
    fn columns_and_rows_agree(
        order in prop::collection::vec(any::<prop::sample::Index>(), 5..80),
        trims in prop::collection::vec(any::<bool>(), 1..9),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in 0usize..12,
    ) {
        let (specifiers, data, count) = rearranged(&order, &trims, &fixed_records()[0]);
        let mut body = [&data[..], &data, &data].concat();
        for (at, octet) in mutations {
            let at = at.index(body.len());
            body[at] = octet;
        }
        body.truncate(body.len() - cut);
        let template = [&256u16.to_be_bytes()[..], &(count as u16).to_be_bytes(), &specifiers].concat();
        let decoded = Decoder::new().decode_rows(&message_of(&[(2, &template), (256, &body)]));
        prop_assert_eq!(decoded.ok(), by_row(&specifiers, &body));
    }
}
