//! Flow records as columns: one vector for each field, in the layout of Arrow's arrays.
//!
//! Owns the shape in which records are decoded, held in memory and laid down: numbers as they are, and what repeats (who
//! saw it, its groups, its rule, its history) once in a dictionary ([`Coded`]) with a code for each record. A row, as
//! [`FlowRecord`], is made where one is wanted. Reading messages is the matter of [`crate::ipfix`].

mod coded;

use std::net::{IpAddr, Ipv6Addr};

use lucarne_model::{
    AccountId, ConnState, EndReason, FlowRecord, History, HostId, InstanceId, InterfaceId, MitigationId, Moment,
    RuleId, SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Location, Path, RoundTrip, Side, Verdict},
};

pub use coded::Coded;

/// Who saw a flow: the interface and what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub account: AccountId,
    pub vpc: VpcId,
    pub subnet: SubnetId,
    pub interface: InterfaceId,
    pub instance: InstanceId,
    pub host: HostId,
}

impl Identity {
    const NOBODY: Self = Self {
        account: AccountId::OPERATOR,
        vpc: VpcId::from_bits(0),
        subnet: SubnetId::from_bits(0),
        interface: InterfaceId::from_bits(0),
        instance: InstanceId::from_bits(0),
        host: HostId::from_bits(0),
    };

    const fn of(record: &FlowRecord) -> Self {
        let FlowRecord { account, vpc, subnet, interface, instance, host, .. } = *record;
        Self { account, vpc, subnet, interface, instance, host }
    }
}

/// In the columns of small numbers that may be absent: there is none.
pub const ABSENT: u16 = u16::MAX;

/// An address in a column: the octets of an IPv6 one, of an IPv4 one as it is mapped into IPv6. All zero where there is none.
pub type AddressOctets = [u8; 16];

/// As a column has an address.
pub const fn address_octets(address: IpAddr) -> AddressOctets {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of a column's octets.
pub const fn address(octets: AddressOctets) -> IpAddr {
    Ipv6Addr::from_octets(octets).to_canonical()
}

macro_rules! flow_columns {
    (
        plain { $($(#[$doc:meta])* $name:ident: $type:ty = $missing:expr;)* }
        coded { $($(#[$coded_doc:meta])* $coded:ident: $value:ty = $default:expr;)* }
    ) => {
        /// Records as columns, all of the same length.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct FlowColumns {
            $($(#[$doc])* pub $name: Vec<$type>,)*
            $($(#[$coded_doc])* pub $coded: Coded<$value>,)*
        }

        impl FlowColumns {
            /// Keeps the first so many.
            pub fn truncate(&mut self, rows: usize) {
                $(self.$name.truncate(rows);)*
                $(self.$coded.truncate(rows);)*
            }

            /// Drops so many from the front.
            pub fn leave_out(&mut self, count: usize) {
                $(self.$name.drain(..count.min(self.$name.len()));)*
                $(self.$coded.leave_out(count);)*
            }

            /// Appends all records of others.
            pub fn append(&mut self, others: &Self) {
                $(self.$name.extend_from_slice(&others.$name);)*
                $(self.$coded.append(&others.$coded);)*
            }

            /// Makes room for so many more.
            pub fn reserve(&mut self, rows: usize) {
                $(self.$name.reserve(rows);)*
                $(self.$coded.reserve(rows);)*
            }

            /// Gives columns of which a set of records said nothing the value that stands for it.
            pub(crate) fn fill(&mut self, rows: usize) {
                $(self.$name.resize(rows, $missing);)*
                $(self.$coded.fill(rows, || $default);)*
            }

            /// Lets go of what only helps to append, and of room where much of it is not used: cutting off a little from
            /// each of so many vectors would leave memory in pieces that nobody can use.
            pub fn settle(&mut self) {
                $(cut_to_size(&mut self.$name);)*
                $(self.$coded.settle();)*
            }

            /// Octets that the columns take, without those of the dictionaries' own values.
            pub fn octets(&self) -> usize {
                0 $(+ size_of::<$type>() * self.$name.capacity())* $(+ self.$coded.octets())*
            }
        }
    };
}

flow_columns! {
    plain {
        flow_id: u64 = 0;
        verdict: Verdict = Verdict::Reject;
        end_reason: EndReason = EndReason::Invalid;
        direction: Direction = Direction::Ingress;
        path: Path = Path::Nowhere;
        side: Side = Side::Initiator;
        conn_state: ConnState = ConnState::Oth;
        /// Milliseconds since 1970, as all moments on the wire.
        start: i64 = 0;
        end: i64 = 0;
        packets: u64 = 0;
        bytes: u64 = 0;
        source: AddressOctets = [0; 16];
        destination: AddressOctets = [0; 16];
        next_hop: AddressOctets = [0; 16];
        source_port: u16 = 0;
        destination_port: u16 = 0;
        protocol: u8 = 0;
        tos: u8 = 0;
        ttl: u8 = 0;
        tcp_flags: u16 = 0;
        /// A number of 8 bits, or [`ABSENT`].
        icmp_type: u16 = ABSENT;
        icmp_code: u16 = ABSENT;
        /// 0 where it is not known.
        source_prefix_length: u8 = 0;
        destination_prefix_length: u8 = 0;
        /// All five are 0 where nothing was measured.
        round_trip_count: u32 = 0;
        round_trip_min: u32 = 0;
        round_trip_mean: u32 = 0;
        round_trip_max: u32 = 0;
        round_trip_smoothed: u32 = 0;
        retransmissions: u32 = 0;
        zero_windows: u32 = 0;
        ingress_interface: u32 = 0;
        egress_interface: u32 = 0;
    }
    coded {
        identity: Identity = Identity::NOBODY;
        groups: Vec<SecurityGroupId> = Vec::new();
        rule: Option<RuleId> = None;
        location: Location = Location::default();
        history: History = History::default();
        mitigation: Option<MitigationId> = None;
    }
}

impl FlowColumns {
    pub const fn len(&self) -> usize {
        self.flow_id.len()
    }
    pub const fn is_empty(&self) -> bool {
        self.flow_id.is_empty()
    }

    /// Of these records. Moments are cut to milliseconds, as the wire cuts them.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a FlowRecord>) -> Self {
        let mut columns = Self::default();
        records.into_iter().for_each(|record| columns.push(record));
        columns.settle();
        columns
    }

    /// When a record's last packet was.
    pub fn ended(&self, row: usize) -> Moment {
        moment(self.end[row])
    }

    /// Whose a record is.
    pub fn identity(&self, row: usize) -> &Identity {
        self.identity.get(row)
    }

    pub fn rows(&self) -> impl Iterator<Item = FlowRecord> {
        (0..self.len()).map(|row| self.row(row))
    }

    /// What was measured in a record's interval.
    pub fn round_trip(&self, row: usize) -> Option<RoundTrip> {
        let trip = RoundTrip {
            count: self.round_trip_count[row],
            min: self.round_trip_min[row],
            mean: self.round_trip_mean[row],
            max: self.round_trip_max[row],
            smoothed: self.round_trip_smoothed[row],
        };
        let RoundTrip { count, min, mean, max, smoothed } = trip;
        (count | min | mean | max | smoothed != 0).then_some(trip)
    }

    /// A record, of a row that is there.
    pub fn row(&self, row: usize) -> FlowRecord {
        let Identity { account, vpc, subnet, interface, instance, host } = *self.identity(row);
        FlowRecord {
            flow_id: self.flow_id[row],
            account,
            instance,
            interface,
            subnet,
            vpc,
            host,
            location: self.location.get(row).clone(),
            groups: self.groups.get(row).clone(),
            rule: *self.rule.get(row),
            verdict: self.verdict[row],
            end_reason: self.end_reason[row],
            direction: self.direction[row],
            path: self.path[row],
            side: self.side[row],
            start: moment(self.start[row]),
            end: self.ended(row),
            packets: self.packets[row],
            bytes: self.bytes[row],
            source: address(self.source[row]),
            destination: address(self.destination[row]),
            source_port: self.source_port[row],
            destination_port: self.destination_port[row],
            protocol: self.protocol[row],
            icmp_type: u8::try_from(self.icmp_type[row]).ok(),
            icmp_code: u8::try_from(self.icmp_code[row]).ok(),
            tos: self.tos[row],
            ttl: self.ttl[row],
            tcp_flags: self.tcp_flags[row],
            source_prefix_length: present(self.source_prefix_length[row]),
            destination_prefix_length: present(self.destination_prefix_length[row]),
            next_hop: present(self.next_hop[row]).map(address),
            history: *self.history.get(row),
            conn_state: self.conn_state[row],
            round_trip: self.round_trip(row),
            retransmissions: self.retransmissions[row],
            zero_windows: self.zero_windows[row],
            ingress_interface: self.ingress_interface[row],
            egress_interface: self.egress_interface[row],
            mitigation: *self.mitigation.get(row),
        }
    }

    /// Appends a record.
    pub fn push(&mut self, record: &FlowRecord) {
        let trip = record.round_trip.unwrap_or(RoundTrip { count: 0, min: 0, mean: 0, max: 0, smoothed: 0 });
        self.flow_id.push(record.flow_id);
        self.identity.push(Identity::of(record));
        self.location.push(record.location.clone());
        self.groups.push(record.groups.clone());
        self.rule.push(record.rule);
        self.verdict.push(record.verdict);
        self.end_reason.push(record.end_reason);
        self.direction.push(record.direction);
        self.path.push(record.path);
        self.side.push(record.side);
        self.start.push(millis(record.start));
        self.end.push(millis(record.end));
        self.packets.push(record.packets);
        self.bytes.push(record.bytes);
        self.source.push(address_octets(record.source));
        self.destination.push(address_octets(record.destination));
        self.source_port.push(record.source_port);
        self.destination_port.push(record.destination_port);
        self.protocol.push(record.protocol);
        self.icmp_type.push(record.icmp_type.map_or(ABSENT, u16::from));
        self.icmp_code.push(record.icmp_code.map_or(ABSENT, u16::from));
        self.tos.push(record.tos);
        self.ttl.push(record.ttl);
        self.tcp_flags.push(record.tcp_flags);
        self.source_prefix_length.push(record.source_prefix_length.unwrap_or(0));
        self.destination_prefix_length.push(record.destination_prefix_length.unwrap_or(0));
        self.next_hop.push(record.next_hop.map_or([0; 16], address_octets));
        self.history.push(record.history);
        self.conn_state.push(record.conn_state);
        self.round_trip_count.push(trip.count);
        self.round_trip_min.push(trip.min);
        self.round_trip_mean.push(trip.mean);
        self.round_trip_max.push(trip.max);
        self.round_trip_smoothed.push(trip.smoothed);
        self.retransmissions.push(record.retransmissions);
        self.zero_windows.push(record.zero_windows);
        self.ingress_interface.push(record.ingress_interface);
        self.egress_interface.push(record.egress_interface);
        self.mitigation.push(record.mitigation);
    }
}

/// Milliseconds that a column holds as a moment; it holds none that could not be one.
fn moment(millis: i64) -> Moment {
    Moment(u64::try_from(millis).unwrap_or(0).saturating_mul(1000))
}

/// A moment as a column holds it.
pub fn millis(moment: Moment) -> i64 {
    i64::try_from(moment.as_millis()).unwrap_or(i64::MAX)
}

fn cut_to_size<T>(column: &mut Vec<T>) {
    if column.capacity() > column.len() + column.len() / 2 {
        column.shrink_to_fit();
    }
}

fn present<T: PartialEq + Default>(number: T) -> Option<T> {
    (number != T::default()).then_some(number)
}
