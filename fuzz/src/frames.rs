//! What guests, other hosts and captures give the switch.

use std::{io::Cursor, net::Ipv4Addr};

use lucarne_bench::trace;
use lucarne_model::{
    AccountId, Cidr, FlowRecord, HostId, HostName, ImageId, InstanceId, InterfaceId, MacAddress, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
    desired::{DesiredGroup, DesiredNetwork, DesiredSubnet, Endpoint, TunnelPeer},
    flow::{Direction, Location},
    network::{Route, RouteTarget},
    security_group::{Peer, Rule, RuleSpec, Traffic},
};
use lucarne_switch::{
    Output, Plan, PortIndex, Settings, Switch, geneve as tunnel,
    plan::{InstanceMetadata, PortPlan},
    ports::{Batch, Port as _, pcap::PcapPort},
};

const HERE: HostId = HostId::from_bits(1);
const THERE: HostId = HostId::from_bits(2);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const VNI: u32 = 1;
const NOW: Moment = Moment::from_secs(1_768_478_400);
const ETHERNET: usize = 14;
/// The largest frame that a guest may send.
const LONGEST: usize = 1414;

/// Counts what comes out, and holds it to what may.
#[derive(Default)]
struct Watch {
    given: u64,
}

impl Output for Watch {
    fn to_guest(&mut self, _: PortIndex, frame: &[u8]) {
        assert!(frame.len() <= LONGEST, "a guest was given more than fits");
        self.given += 1;
    }
    fn to_tunnel(&mut self, host: HostId, vni: u32, _: &[u8]) {
        assert_eq!((host, vni), (THERE, VNI), "a frame left its network");
        self.given += 1;
    }
    fn to_metadata(&mut self, _: PortIndex, _: &[u8]) {
        self.given += 1;
    }
    fn record(&mut self, record: FlowRecord) {
        assert_eq!(record.account, AccountId::from_bits(1), "a record of somebody else's");
    }
}

/// Frames one behind the other, each with an octet that says where it comes from and its length in two before it.
pub(crate) fn switch(octets: &[u8]) -> bool {
    let mut switch = Switch::new(HERE, Settings::default(), 7);
    let (mut out, mut now, mut rest) = (Watch::default(), NOW, octets);
    switch.apply(&plan(), now, &mut out);
    let Some(guest) = switch.port(interface(GUEST)) else { return false };
    while let Some(([from, high, low], behind)) = rest.split_first_chunk::<3>() {
        let length = usize::from(*high) << 8 | usize::from(*low);
        let (frame, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        let mut frame = frame.to_vec();
        repair(&mut frame);
        match from % 3 {
            0 => switch.handle_guest_frame(guest, &mut frame, now, &mut out),
            1 => switch.handle_tunnel_frame(THERE, VNI, &frame, now, &mut out),
            _ => switch.handle_metadata_frame(guest, &frame, now, &mut out),
        }
        now = now.plus(std::time::Duration::from_millis(u64::from(*from)));
    }
    let counted = switch.frame_counters();
    let ended = counted.to_guests + counted.to_tunnel + counted.to_metadata + counted.answered;
    assert_eq!(counted.received, ended + counted.dropped.values().sum::<u64>(), "a frame was counted twice or never");
    out.given > 0
}

/// Puts the sum of the IP header right, so that what was changed gets past it.
fn repair(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(ETHERNET..) else { return };
    let length = packet.first().map_or(0, |octet| usize::from(octet & 15) * 4);
    let Some(header) = packet.get_mut(..length).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A connection to another host and one to a neighbour, an ARP request, a DHCP discovery, an echo of the gateway, a question for a
/// name.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let tcp = |ports: [u16; 2], flags: u8| {
        let [from, to] = ports.map(u16::to_be_bytes);
        [&from[..], &to, &[0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 64, 0, 0, 0, 0, 0]].concat()
    };
    let ip = |source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, data: &[u8]| {
        let length = (20 + data.len() as u16).to_be_bytes();
        let ends = [mac(destination).0, mac(source).0].concat();
        let fixed = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        [&ends[..], &[8, 0], &fixed, &source.octets(), &destination.octets(), data].concat()
    };
    let sent = |from: u8, frame: &[u8]| [&[from][..], &(frame.len() as u16).to_be_bytes(), frame].concat();
    let handshake = |to: Ipv4Addr| {
        let back = sent(1, &ip(to, GUEST, 6, &tcp([80, 4000], 0x12)));
        [sent(0, &ip(GUEST, to, 6, &tcp([4000, 80], 2))), back, sent(0, &ip(GUEST, to, 6, &tcp([4000, 80], 16)))]
            .concat()
    };
    let ask = [&[0xff; 6][..], &mac(GUEST).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(GUEST).0, &GUEST.octets()].concat();
    let arp = [&ask[..], &[0; 6], &Ipv4Addr::new(10, 0, 0, 1).octets()].concat();
    let mut discovery = [&[1, 1, 6, 0, 9, 9, 9, 9][..], &[0; 20], &mac(GUEST).0, &[0; 202]].concat();
    discovery.extend([99, 130, 83, 99, 53, 1, 1, 55, 2, 1, 3, 255]);
    let datagram = [&[0, 68, 0, 67][..], &(discovery.len() as u16 + 8).to_be_bytes(), &[0, 0], &discovery].concat();
    let mut dhcp = ip(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &datagram);
    dhcp[..12].copy_from_slice(&[&[0xff; 6][..], &mac(GUEST).0].concat());
    let echo = ip(GUEST, Ipv4Addr::new(10, 0, 0, 1), 1, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);
    let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03web\x08internal\0", &[0, 1, 0, 1]].concat();
    let question = [&[4, 0, 0, 53][..], &(question.len() as u16 + 8).to_be_bytes(), &[0, 0], &question].concat();
    let dns = ip(GUEST, Ipv4Addr::new(10, 0, 0, 2), 17, &question);
    vec![handshake(REMOTE), handshake(NEIGHBOUR), sent(0, &arp), sent(0, &dhcp), sent(0, &echo), sent(0, &dns)]
}

/// A packet of the tunnel.
pub(crate) fn geneve(octets: &[u8]) -> bool {
    let Ok((content, vni, frame)) = tunnel::decapsulate(octets) else { return false };
    let mut again = Vec::new();
    let ends = (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
    if tunnel::encapsulate(ends, content, vni, frame, &mut again).is_ok() {
        assert_eq!(
            tunnel::decapsulate(&again),
            Ok((content, vni, frame)),
            "what was read is written and read as something else"
        );
    }
    true
}

pub(crate) fn geneve_seeds() -> Vec<Vec<u8>> {
    let ends = (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
    let packet = |content| {
        let mut packet = Vec::new();
        tunnel::encapsulate(ends, content, VNI, &[0; 60], &mut packet).map(|()| packet).ok()
    };
    [tunnel::Content::Frame, tunnel::Content::Word].into_iter().filter_map(packet).collect()
}

/// A capture.
pub(crate) fn pcap(octets: &[u8]) -> bool {
    let Ok(mut capture) = PcapPort::open(Cursor::new(octets)) else { return false };
    let mut batch = Batch::new(64, LONGEST);
    while !capture.is_at_end() {
        batch.clear();
        if capture.receive(&mut batch).is_err() {
            return false;
        }
        assert!(batch.len() <= 64, "more frames than were asked for");
    }
    true
}

pub(crate) fn pcap_seeds() -> Vec<Vec<u8>> {
    let mut capture = Vec::new();
    let written = trace::write(1, 3, &mut capture);
    written.map(|_| vec![capture]).unwrap_or_default()
}

fn mac(address: Ipv4Addr) -> MacAddress {
    MacAddress::from_bits(address.to_bits().into())
}

fn interface(address: Ipv4Addr) -> InterfaceId {
    InterfaceId::from_bits(address.to_bits().into())
}

/// Two machines here and one there, who may talk about anything.
fn plan() -> Plan {
    let group = SecurityGroupId::from_bits(1);
    let rule = |id, direction| Rule {
        id: RuleId::from_bits(id),
        created: Moment::EPOCH,
        spec: RuleSpec { direction, traffic: Traffic::All, peer: Peer::Cidr { cidr: Cidr::ANY } },
    };
    let rules = vec![rule(1, Direction::Ingress), rule(2, Direction::Egress)];
    let subnet = SubnetId::from_bits(1);
    let cidr: Cidr = "10.0.0.0/16".parse().expect("a CIDR");
    let endpoint = |(address, host): (Ipv4Addr, HostId)| Endpoint {
        interface: interface(address),
        instance: InstanceId::from_bits(address.to_bits().into()),
        subnet,
        address,
        mac: mac(address),
        groups: vec![group],
        name: HostName::from_tag("web"),
        host,
    };
    let routes = vec![Route { destination: cidr, target: RouteTarget::Local }];
    let network = DesiredNetwork {
        vpc: VpcId::from_bits(1),
        account: AccountId::from_bits(1),
        vni: VNI,
        cidr,
        subnets: vec![DesiredSubnet { id: subnet, cidr, routes, acl: Vec::new() }],
        groups: vec![DesiredGroup { id: group, rules }],
        endpoints: [(GUEST, HERE), (NEIGHBOUR, HERE), (REMOTE, THERE)].map(endpoint).to_vec(),
        clock_behind_micros: 0,
    };
    let (address, public_key) = (Ipv4Addr::LOCALHOST.into(), String::new());
    Plan {
        networks: vec![network],
        ports: [GUEST, NEIGHBOUR].map(port).to_vec(),
        peers: vec![TunnelPeer { host: THERE, address, port: 1, public_key, location: Location::default() }],
        mitigations: Vec::new(),
        removals: Vec::new(),
    }
}

fn port(address: Ipv4Addr) -> PortPlan {
    PortPlan {
        interface: interface(address),
        instance: InstanceId::from_bits(address.to_bits().into()),
        account: AccountId::from_bits(1),
        vpc: VpcId::from_bits(1),
        socket: "unused".into(),
        guest_socket: "unused".into(),
        metadata: Some(InstanceMetadata {
            image: ImageId::from_bits(1),
            user_data: None,
            launched: Moment::EPOCH,
            origin: None,
        }),
        flow_interval: None,
    }
}
