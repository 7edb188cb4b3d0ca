//! Recordings: the frames of a network as its interfaces saw them, kept in files that other people's programs open.
//!
//! Owns their shapes, which frames a [`RecordingFilter`] is about, and the words between controller and host. Frames are taken by
//! the switches of hosts and written by their agents; the files of several hosts are made one by the controller.
//!
//! A frame between two instances is recorded twice: as it left the one's interface, and as it reached the other's. One that was
//! refused on its way, or answered by the network itself, was seen by one interface, and is recorded once.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, Bytes, Cidr, InstanceId, Moment, RecordingId, SubnetId, Tags, VpcId, flow::Direction};

/// Which frames of a network. What is left empty asks for nothing; of each list one must fit, and all that is asked for must.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingFilter {
    /// At the interfaces of these.
    pub instances: Vec<InstanceId>,
    /// At interfaces in these.
    pub subnets: Vec<SubnetId>,
    /// Of packets from or to these.
    pub addresses: Vec<Cidr>,
    /// Of packets from or to these ports of TCP or UDP.
    pub ports: Vec<u16>,
    /// IP protocol numbers.
    pub protocols: Vec<u8>,
    /// As the instance sees it.
    pub direction: Option<Direction>,
}

/// What a filter asks of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPacket {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    /// 0 where the protocol has none.
    pub source_port: u16,
    pub destination_port: u16,
}

impl RecordingFilter {
    /// How many values each list may have.
    pub const MOST: usize = 64;

    /// Whether it is about what such an interface sees this way at all.
    pub fn is_about(&self, instance: InstanceId, subnet: SubnetId, direction: Direction) -> bool {
        allows(&self.instances, |wanted| *wanted == instance)
            && allows(&self.subnets, |wanted| *wanted == subnet)
            && self.direction.is_none_or(|wanted| wanted == direction)
    }

    /// Whether it asks what is in a frame.
    pub fn looks_inside(&self) -> bool {
        !(self.addresses.is_empty() && self.ports.is_empty() && self.protocols.is_empty())
    }

    /// Whether it is about such a packet. None: the frame holds none of IPv4.
    pub fn matches(&self, packet: Option<&SeenPacket>) -> bool {
        let Some(packet) = packet else { return !self.looks_inside() };
        let ends = [(packet.source, packet.source_port), (packet.destination, packet.destination_port)];
        allows(&self.addresses, |wanted| ends.iter().any(|(address, _)| wanted.contains(*address)))
            && allows(&self.ports, |wanted| ends.iter().any(|(_, port)| *port != 0 && port == wanted))
            && allows(&self.protocols, |wanted| *wanted == packet.protocol)
    }
}

fn allows<T>(wanted: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

/// What becomes of frames when there is no more room, which each host has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RecordingRoom {
    /// The oldest go.
    Ring { size: Bytes },
    /// No more are recorded, and the recording says that it is full.
    Max { size: Bytes },
}

impl RecordingRoom {
    pub const SMALLEST: Bytes = Bytes::mib(1);
    pub const LARGEST: Bytes = Bytes::mib(4096);

    pub const fn size(self) -> Bytes {
        match self {
            Self::Ring { size } | Self::Max { size } => size,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecordingState {
    Recording,
    Stopped,
}

/// A recording of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recording {
    pub id: RecordingId,
    pub account: AccountId,
    pub vpc: VpcId,
    pub filter: RecordingFilter,
    pub room: RecordingRoom,
    pub state: RecordingState,
    pub started: Moment,
    /// When it stops by itself, or did.
    pub until: Option<Moment>,
    /// When it and its files are deleted by themselves.
    #[serde(default)]
    pub expires: Option<Moment>,
    /// What hosts have told of it so far.
    #[serde(default)]
    pub recorded: Recorded,
    #[serde(default)]
    pub tags: Tags,
}

impl Recording {
    /// The same as it is at `now`.
    pub fn at(mut self, now: Moment) -> Self {
        if self.until.is_some_and(|until| until <= now) {
            self.state = RecordingState::Stopped;
        }
        self
    }
}

/// What there is of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recorded {
    /// Frames in the files.
    pub frames: u64,
    /// The files' size.
    pub size: Bytes,
    /// Frames that were to be recorded and are not: they came faster than they could be written, or when there was no room.
    pub lost: u64,
    /// A host has no more room for it, and records no more.
    pub full: bool,
    /// Why a host does not record it; none when all do.
    #[serde(default)]
    pub trouble: Option<String>,
}

impl Recorded {
    /// With what another host has.
    pub fn and(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            size: Bytes(self.size.0 + other.size.0),
            lost: self.lost + other.lost,
            full: self.full || other.full,
            trouble: self.trouble.or(other.trouble),
        }
    }
}

/// What a host should do for a recording. Nothing is deleted by being left out: an end is said with
/// [`DesiredRecordingState::Absent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredRecording {
    pub id: RecordingId,
    pub state: DesiredRecordingState,
    /// Streams by which the host's file is to be sent.
    #[serde(default)]
    pub streams: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DesiredRecordingState {
    /// Frames of the network are recorded, until then.
    Recording { vpc: VpcId, filter: RecordingFilter, room: RecordingRoom, until: Option<Moment> },
    /// What was recorded is kept.
    Stopped,
    /// Nothing is.
    Absent,
}

/// What a host has of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActualRecording {
    pub id: RecordingId,
    pub recorded: Recorded,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> impl Strategy<Value = SeenPacket> {
        let address = || (0u8..4).prop_map(|last| Ipv4Addr::new(10, 0, last, 1));
        let ports = (0u16..4, 0u16..4);
        (address(), address(), prop_oneof![Just(6u8), Just(17)], ports).prop_map(
            |(source, destination, protocol, (source_port, destination_port))| SeenPacket {
                source,
                destination,
                protocol,
                source_port,
                destination_port,
            },
        )
    }

    fn filter() -> impl Strategy<Value = RecordingFilter> {
        let networks = prop::collection::vec((0u8..4).prop_map(|n| format!("10.0.{n}.0/24").parse().unwrap()), 0..3);
        let (ports, protocols) =
            (prop::collection::vec(0u16..4, 0..3), prop::collection::vec(prop_oneof![Just(6u8), Just(17)], 0..2));
        (networks, ports, protocols).prop_map(|(addresses, ports, protocols)| RecordingFilter {
            addresses,
            ports,
            protocols,
            ..RecordingFilter::default()
        })
    }

    proptest! {
        /// What is asked of a packet is asked of either end, and asking for more never lets more through.
        #[test]
        fn a_filter_sees_both_ends_alike_and_each_word_narrows_it(filter in filter(), packet in packet()) {
            let turned = SeenPacket {
                source: packet.destination,
                destination: packet.source,
                source_port: packet.destination_port,
                destination_port: packet.source_port,
                ..packet
            };
            let fits = filter.matches(Some(&packet));
            prop_assert_eq!(fits, filter.matches(Some(&turned)));
            let without = [
                RecordingFilter { addresses: Vec::new(), ..filter.clone() },
                RecordingFilter { ports: Vec::new(), ..filter.clone() },
                RecordingFilter { protocols: Vec::new(), ..filter.clone() },
            ];
            prop_assert_eq!(fits, without.iter().all(|wider| wider.matches(Some(&packet))) && {
                let alone = |kept: RecordingFilter| kept.matches(Some(&packet));
                alone(RecordingFilter { addresses: filter.addresses.clone(), ..RecordingFilter::default() })
                    && alone(RecordingFilter { ports: filter.ports.clone(), ..RecordingFilter::default() })
                    && alone(RecordingFilter { protocols: filter.protocols.clone(), ..RecordingFilter::default() })
            });
            prop_assert_eq!(filter.matches(None), !filter.looks_inside());
        }
    }

    #[test]
    fn a_filter_tells_interfaces_and_directions_apart() {
        let (instance, subnet) = (InstanceId::from_bits(1), SubnetId::from_bits(2));
        let filter = RecordingFilter {
            instances: vec![instance],
            subnets: vec![subnet],
            direction: Some(Direction::Egress),
            ..RecordingFilter::default()
        };
        assert!(filter.is_about(instance, subnet, Direction::Egress));
        assert!(!filter.is_about(instance, subnet, Direction::Ingress));
        assert!(!filter.is_about(InstanceId::from_bits(9), subnet, Direction::Egress));
        assert!(!filter.is_about(instance, SubnetId::from_bits(9), Direction::Egress));
        assert!(RecordingFilter::default().is_about(instance, subnet, Direction::Ingress));
    }

    #[test]
    fn a_port_is_a_port_of_either_end_and_nothing_is_no_port() {
        let filter = RecordingFilter { ports: vec![0, 80], ..RecordingFilter::default() };
        let end = Ipv4Addr::LOCALHOST;
        let packet = |source_port, destination_port| SeenPacket {
            source: end,
            destination: end,
            protocol: 6,
            source_port,
            destination_port,
        };
        assert!(filter.matches(Some(&packet(80, 1))) && filter.matches(Some(&packet(1, 80))));
        assert!(!filter.matches(Some(&packet(1, 2))) && !filter.matches(Some(&packet(0, 0))));
    }
}
