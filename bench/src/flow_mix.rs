//! A made-up account's flow records, alike in what costs room: many instances, few services, the internet.
//!
//! Owns the mix, which is stated in [`MIX`] and drawn from one seed, so that a figure can be had again. Each conversation
//! gives what the switch would give: a record of each direction, at each end that is an instance of the account, and one
//! more of each for every interval that it lasts, told together when the interval is over. Times are independent, ports and
//! remote addresses are as many and as scattered as those of real clients, sizes and round trips spread over orders of
//! magnitude: this is what no encoding can take away.

use std::net::{IpAddr, Ipv4Addr};

use lucarne_flows::{FlowKey, key::flow_id};
use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Location, Path, RoundTrip, Side, Verdict},
};

use crate::dice::Dice;

/// Kinds of conversations, and of how many in a hundred.
pub const MIX: [(Kind, u64); 6] =
    [(Kind::Call, 40), (Kind::Lookup, 18), (Kind::Visit, 22), (Kind::Session, 6), (Kind::Scan, 10), (Kind::Ping, 4)];

/// What a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP or gRPC between two instances, over in a second.
    Call,
    /// DNS from an instance to a resolver of the account.
    Lookup,
    /// HTTPS from the internet to a front end.
    Visit,
    /// A database connection that lasts, reported once a minute.
    Session,
    /// A SYN from the internet to a port that no rule allows.
    Scan,
    /// Monitoring by ICMP echo.
    Ping,
}

const INSTANCES: u64 = 200;
const HOSTS: u64 = 10;
const SUBNETS: u64 = 4;
/// Of which a few come often.
const VISITORS: u64 = 50_000;
const INTERVAL: u64 = 60_000_000;

/// Makes records of one account, in the hour that begins at `since`.
#[derive(Debug)]
pub struct FlowMix {
    seed: u64,
    since: Moment,
}

/// A conversation between two ends; the first is who began it.
struct Talk {
    kind: Kind,
    ends: [End; 2],
    protocol: u8,
    at: u64,
    lasts: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    trip: u64,
    accepted: bool,
}

#[derive(Clone, Copy)]
struct End {
    address: u32,
    port: u16,
    /// Its number, if it is an instance of the account.
    instance: Option<u64>,
}

impl FlowMix {
    pub const fn new(seed: u64, since: Moment) -> Self {
        Self { seed, since }
    }

    /// About so many records, in the order in which they would come.
    pub fn records(&self, count: usize) -> Vec<FlowRecord> {
        let mut dice = Dice(self.seed);
        let mut reports: Vec<Vec<FlowRecord>> = Vec::with_capacity(count / 2);
        let mut told = 0;
        while told < count {
            let talk = self.talk(&mut dice);
            let before = reports.len();
            report(&talk, &mut dice, &mut reports);
            told += reports[before..].iter().map(Vec::len).sum::<usize>();
        }
        let end = Moment(self.since.as_micros() + 3_600_000_000);
        let last = |report: &Vec<FlowRecord>| report.iter().map(|record| record.end).max();
        reports.retain(|report| last(report).is_some_and(|last| last < end));
        reports.sort_by_key(last);
        reports.into_iter().flatten().collect()
    }

    fn talk(&self, dice: &mut Dice) -> Talk {
        let mut roll = dice.below(100);
        let kind = MIX.iter().find(|(_, share)| {
            let is_it = roll < *share;
            roll = roll.saturating_sub(*share);
            is_it
        });
        let kind = kind.map_or(Kind::Ping, |(kind, _)| *kind);
        let instance = |number: u64, port: u64| End {
            address: 0x0a00_0004 + ((number % SUBNETS) << 8) as u32 + (number / SUBNETS) as u32,
            port: port as u16,
            instance: Some(number),
        };
        let ephemeral = 32_768 + dice.below(28_232);
        let client = instance(dice.below(INSTANCES), ephemeral);
        let visitor = dice.favourite(VISITORS).wrapping_mul(0x9e37_79b1) as u32 | 0x4000_0000;
        let ends = match kind {
            Kind::Call => [client, instance(dice.favourite(40), [8080, 443, 9090][dice.favourite(3) as usize])],
            Kind::Lookup => [client, instance(0, 53)],
            Kind::Visit => {
                [End { address: visitor, port: ephemeral as u16, instance: None }, instance(dice.below(8), 443)]
            }
            Kind::Session => [client, instance(10 + dice.below(4), 5432)],
            Kind::Scan => {
                let ports = [22, 23, 80, 445, 3389, 8080, 5900, 6379];
                let from = End { address: dice.roll() as u32 | 0x4000_0000, port: ephemeral as u16, instance: None };
                [from, instance(dice.below(INSTANCES), ports[dice.favourite(8) as usize])]
            }
            Kind::Ping => [instance(1, 0), instance(dice.below(INSTANCES), 0)],
        };
        let lasts = match kind {
            Kind::Call => dice.spread(80_000.0),
            Kind::Visit => dice.spread(900_000.0),
            Kind::Session => dice.spread(400_000_000.0),
            Kind::Lookup | Kind::Ping => dice.spread(700.0),
            Kind::Scan => 0,
        };
        let (sent, got) = match kind {
            Kind::Call => (dice.spread(6.0) + 3, dice.spread(8.0) + 2),
            Kind::Visit => (dice.spread(9.0) + 3, dice.spread(14.0) + 2),
            Kind::Session => (dice.spread(4000.0), dice.spread(5000.0)),
            Kind::Lookup | Kind::Ping => (1, 1),
            Kind::Scan => (1, 0),
        };
        let bytes = match kind {
            Kind::Lookup => [60 + dice.below(40), 76 + dice.below(300)],
            Kind::Ping => [84, 84],
            Kind::Scan => [40 + 4 * dice.below(6), 0],
            _ => [sent * 40 + dice.spread(700.0), got * 40 + dice.spread(9000.0)],
        };
        let protocol = match kind {
            Kind::Lookup => 17,
            Kind::Ping => 1,
            _ => 6,
        };
        let trip = dice.spread(if kind == Kind::Visit { 30_000.0 } else { 250.0 });
        let at = self.since.as_micros() + dice.below(3_600_000_000);
        Talk { kind, ends, protocol, at, lasts, packets: [sent, got], bytes, trip, accepted: kind != Kind::Scan }
    }
}

/// The reports of a conversation: for each end that is an instance and each interval one, with a record of each direction
/// that had packets.
fn report(talk: &Talk, dice: &mut Dice, reports: &mut Vec<Vec<FlowRecord>>) {
    let slices = talk.lasts / INTERVAL + 1;
    for end in 0..2 {
        let Some(instance) = talk.ends[end].instance else { continue };
        // A rejected packet is seen by the receiver alone.
        if !talk.accepted && end == 0 {
            continue;
        }
        for slice in 0..slices {
            // As the switch does: what the instance sent comes first.
            let senders = [end, 1 - end].into_iter().filter(|sender| talk.packets[*sender] / slices > 0);
            reports.push(senders.map(|sender| record(talk, dice, end, sender, instance, slice, slices)).collect());
        }
    }
}

fn record(
    talk: &Talk,
    dice: &mut Dice,
    end: usize,
    sender: usize,
    instance: u64,
    slice: u64,
    slices: u64,
) -> FlowRecord {
    let (from, to) = (talk.ends[sender], talk.ends[1 - sender]);
    let bits = |kind: u64, number: u64| u128::from(Dice(kind << 32 | number).roll()) << 4 | u128::from(number & 15);
    let first = talk.at + slice * INTERVAL + if sender == 1 { talk.trip / 2 } else { 0 } + dice.below(40);
    let lasts = (talk.lasts - slice * INTERVAL).min(INTERVAL);
    let vpc = VpcId::from_bits(bits(1, 0));
    let key = FlowKey::new(
        1,
        talk.ends[0].address,
        talk.ends[1].address,
        talk.ends[0].port,
        talk.ends[1].port,
        talk.protocol,
    );
    let is_over = slice + 1 == slices;
    let measured = talk.protocol != 1 && talk.accepted && sender == 0;
    let round_trip = measured.then(|| {
        let count = (talk.packets[sender] / slices / 2).clamp(1, 64) as u32;
        let mean = talk.trip as u32 + dice.below(1 + talk.trip / 10) as u32;
        let spread = if count == 1 { 0 } else { dice.below(1 + talk.trip / 4) as u32 };
        let (min, max) = (mean.saturating_sub(spread), mean.saturating_add(2 * spread));
        RoundTrip { count, min, mean, max, smoothed: mean + spread / 8 }
    });
    let letters = match (talk.kind, is_over) {
        (Kind::Scan, _) => "S",
        (Kind::Lookup | Kind::Ping, _) => "Dd",
        (_, true) => "ShADadFf",
        (_, false) => "ShADad",
    };
    let history: History = letters.parse().unwrap_or_default();
    FlowRecord {
        flow_id: flow_id(vpc, key),
        account: AccountId::from_bits(1),
        instance: InstanceId::from_bits(bits(2, instance)),
        interface: InterfaceId::from_bits(bits(3, instance)),
        subnet: SubnetId::from_bits(bits(4, instance % SUBNETS)),
        vpc,
        location: Location::default(),
        groups: (0..1 + instance % 3).map(|group| SecurityGroupId::from_bits(bits(5, group))).collect(),
        rule: talk.accepted.then(|| RuleId::from_bits(bits(6, u64::from(talk.ends[1].port) % 7))),
        verdict: if talk.accepted { Verdict::Accept } else { Verdict::Reject },
        end_reason: match (talk.kind, is_over) {
            (Kind::Scan, _) => EndReason::DeniedByGroupAtDestination,
            (_, false) => EndReason::ActiveSlice,
            (Kind::Lookup | Kind::Ping, _) => EndReason::Idle,
            _ => EndReason::FinBothSides,
        },
        direction: if sender == end { Direction::Egress } else { Direction::Ingress },
        path: match (talk.ends[1 - end].instance, talk.accepted) {
            (_, false) => Path::Nowhere,
            (None, _) => Path::Internet,
            (Some(other), _) if other % HOSTS == instance % HOSTS => Path::SameHost,
            _ => Path::OtherHost,
        },
        side: if sender == 0 { Side::Initiator } else { Side::Responder },
        start: Moment(first),
        end: Moment(first + if talk.packets[sender] / slices == 1 { 0 } else { lasts }),
        packets: talk.packets[sender] / slices,
        bytes: talk.bytes[sender] / slices,
        source: IpAddr::V4(Ipv4Addr::from_bits(from.address)),
        destination: IpAddr::V4(Ipv4Addr::from_bits(to.address)),
        source_port: from.port,
        destination_port: to.port,
        protocol: talk.protocol,
        icmp_type: (talk.protocol == 1).then_some(if sender == 0 { 8 } else { 0 }),
        icmp_code: (talk.protocol == 1).then_some(0),
        tos: 0,
        ttl: if from.instance.is_some() { 64 } else { 40 + (from.address % 20) as u8 },
        tcp_flags: match (talk.kind, talk.protocol, is_over) {
            (Kind::Scan, ..) => 0x02,
            (_, 6, true) => 0x1b,
            (_, 6, false) => 0x18,
            _ => 0,
        },
        source_prefix_length: from.instance.map(|_| 24),
        destination_prefix_length: to.instance.map(|_| 24),
        next_hop: None,
        history,
        conn_state: ConnState::of(talk.protocol, history),
        round_trip,
        retransmissions: if talk.protocol == 6 && dice.below(50) == 0 { 1 } else { 0 },
        zero_windows: 0,
        host: HostId::from_bits(bits(7, instance % HOSTS)),
        ingress_interface: 10 + instance as u32,
        egress_interface: if talk.accepted { 10 + talk.ends[1 - end].instance.unwrap_or(0) as u32 } else { 0 },
        mitigation: None,
    }
}
