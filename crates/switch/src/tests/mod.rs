//! Tests of the whole switch on real packet bytes: a scene of two tenants on two hosts, and what is sent in it.
//!
//! Owns the scene. The files beside it each prove one side of the switch.

mod accounting;
mod answers;
mod denials;
mod duplicates;
mod frames;
mod ground_truth;
mod junk;
mod names;
mod paths;
mod reasons;
mod round_trips;

use std::{net::Ipv4Addr, time::Duration};

use frames::{Ends, Shape};
use lucarne_model::{
    AccountId, EndReason, FlowRecord, HostId, HostName, ImageId, InstanceId, InterfaceId, MacAddress, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
    desired::{DesiredGroup, DesiredNetwork, DesiredSubnet, Endpoint, TunnelPeer},
    flow::{Direction, Location, Verdict},
    network::{Route, RouteTarget},
    network_acl::AclEntry,
    security_group::{Peer, Rule, RuleSpec, Traffic},
};

use crate::{
    Output, Plan, PortCounters, PortIndex, Settings, Switch,
    plan::{InstanceMetadata, PortPlan},
};

const HERE: HostId = HostId::from_bits(1);
const THERE: HostId = HostId::from_bits(2);
const VNI_A: u32 = 100;
const VNI_B: u32 = 200;

/// The machines of the scene: A's first, then B's. B's has the address of A's web server.
const WEB: u128 = 1;
const APP: u128 = 2;
const DATABASE: u128 = 3;
/// On the other host, in the subnet of the web server.
const FAR: u128 = 4;
/// On the other host, in the database's subnet.
const FAR_DATABASE: u128 = 5;
/// On this host, without a port.
const STOPPED: u128 = 6;
const OTHER_TENANT: u128 = 7;

/// In: TCP 80 and 22, UDP 53, echo requests. Out: everything.
const SERVERS: SecurityGroupId = SecurityGroupId::from_bits(1);
/// In: everything from its own members. Out: to those only.
const MEMBERS: SecurityGroupId = SecurityGroupId::from_bits(2);
const RULE_HTTP: RuleId = RuleId::from_bits(11);

fn address(machine: u128) -> Ipv4Addr {
    match machine {
        WEB | OTHER_TENANT => Ipv4Addr::new(10, 0, 1, 10),
        APP => Ipv4Addr::new(10, 0, 1, 11),
        DATABASE => Ipv4Addr::new(10, 0, 2, 20),
        FAR => Ipv4Addr::new(10, 0, 1, 50),
        FAR_DATABASE => Ipv4Addr::new(10, 0, 2, 60),
        _ => Ipv4Addr::new(10, 0, 1, 99),
    }
}

fn mac(machine: u128) -> MacAddress {
    MacAddress::from_bits(machine as u64)
}
fn interface(machine: u128) -> InterfaceId {
    InterfaceId::from_bits(machine)
}
fn instance(machine: u128) -> InstanceId {
    InstanceId::from_bits(machine)
}
fn account(machine: u128) -> AccountId {
    AccountId::from_bits(if machine == OTHER_TENANT { 2 } else { 1 })
}
fn vpc(machine: u128) -> VpcId {
    VpcId::from_bits(if machine == OTHER_TENANT { 2 } else { 1 })
}

fn subnet(machine: u128) -> SubnetId {
    let vpc = vpc(machine).bits() << 8;
    SubnetId::from_bits(vpc + u128::from(address(machine).octets()[2]))
}

/// Where a machine is, and its groups.
fn endpoint(machine: u128) -> Endpoint {
    Endpoint {
        interface: interface(machine),
        instance: instance(machine),
        subnet: subnet(machine),
        address: address(machine),
        mac: mac(machine),
        groups: if matches!(machine, APP | FAR) { vec![SERVERS, MEMBERS] } else { vec![SERVERS] },
        host: if matches!(machine, FAR | FAR_DATABASE) { THERE } else { HERE },
        name: HostName::from_tag(&format!("machine-{machine}")),
    }
}

fn rule(id: u128, direction: Direction, traffic: Traffic, peer: Peer) -> Rule {
    Rule { id: RuleId::from_bits(id), created: Moment::EPOCH, spec: RuleSpec { direction, traffic, peer } }
}

fn groups() -> Vec<DesiredGroup> {
    let any = Peer::Cidr { cidr: lucarne_model::Cidr::ANY };
    let members = Peer::Group { group: MEMBERS };
    let tcp = |port| Traffic::Tcp { from_port: port, to_port: port };
    let servers = vec![
        rule(10, Direction::Egress, Traffic::All, any),
        rule(11, Direction::Ingress, tcp(80), any),
        rule(12, Direction::Ingress, tcp(22), any),
        rule(13, Direction::Ingress, Traffic::Udp { from_port: 53, to_port: 53 }, any),
        rule(14, Direction::Ingress, Traffic::Icmp { icmp_type: Some(8), icmp_code: None }, any),
    ];
    let of_members =
        vec![rule(20, Direction::Ingress, Traffic::All, members), rule(21, Direction::Egress, Traffic::All, members)];
    vec![DesiredGroup { id: SERVERS, rules: servers }, DesiredGroup { id: MEMBERS, rules: of_members }]
}

/// An entry for all traffic whose id is its number.
fn acl_entry(number: u16, direction: Direction, action: Verdict, cidr: &str) -> AclEntry {
    let (id, traffic, cidr) = (RuleId::from_bits(number.into()), Traffic::All, cidr.parse().unwrap());
    AclEntry { id, created: Moment::EPOCH, number, direction, action, traffic, cidr }
}

fn network(machines: &[u128], vni: u32) -> DesiredNetwork {
    let any = machines[0];
    let local = Route { destination: "10.0.0.0/16".parse().unwrap(), target: RouteTarget::Local };
    let subnet = |third: u128| DesiredSubnet {
        id: SubnetId::from_bits((vpc(any).bits() << 8) + third),
        cidr: format!("10.0.{third}.0/24").parse().unwrap(),
        routes: vec![local.clone()],
        acl: Vec::new(),
    };
    DesiredNetwork {
        vpc: vpc(any),
        account: account(any),
        vni,
        cidr: "10.0.0.0/16".parse().unwrap(),
        subnets: vec![subnet(1), subnet(2)],
        groups: groups(),
        endpoints: machines.iter().copied().map(endpoint).collect(),
        clock_behind_micros: 0,
    }
}

fn port_plan(machine: u128) -> PortPlan {
    PortPlan {
        interface: interface(machine),
        instance: instance(machine),
        account: account(machine),
        vpc: vpc(machine),
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

/// The other host, at the same location.
fn peer() -> TunnelPeer {
    let (address, public_key) = (Ipv4Addr::LOCALHOST.into(), String::new());
    TunnelPeer { host: THERE, address, port: 1, public_key, location: Location::default() }
}

fn plan() -> Plan {
    Plan {
        networks: vec![
            network(&[WEB, APP, DATABASE, FAR, FAR_DATABASE, STOPPED], VNI_A),
            network(&[OTHER_TENANT], VNI_B),
        ],
        ports: [WEB, APP, DATABASE, OTHER_TENANT].map(port_plan).to_vec(),
        peers: vec![peer()],
        mitigations: Vec::new(),
        removals: Vec::new(),
    }
}

/// What came out of the switch.
#[derive(Debug, Default)]
struct Outcome {
    to_guests: Vec<(PortIndex, Vec<u8>)>,
    to_tunnel: Vec<(HostId, u32, Vec<u8>)>,
    to_metadata: Vec<(PortIndex, Vec<u8>)>,
    records: Vec<FlowRecord>,
}

impl Output for Outcome {
    fn to_guest(&mut self, port: PortIndex, frame: &[u8]) {
        self.to_guests.push((port, frame.to_vec()));
    }
    fn to_tunnel(&mut self, host: HostId, vni: u32, frame: &[u8]) {
        self.to_tunnel.push((host, vni, frame.to_vec()));
    }
    fn to_metadata(&mut self, port: PortIndex, frame: &[u8]) {
        self.to_metadata.push((port, frame.to_vec()));
    }
    fn record(&mut self, record: FlowRecord) {
        self.records.push(record);
    }
}

/// A switch, its time, and all that came out of it.
struct Scene {
    switch: Switch,
    plan: Plan,
    now: Moment,
    out: Outcome,
}

impl Scene {
    /// The scene after the time in which old connections are taken up.
    fn new() -> Self {
        let mut scene = Self::young(Settings::default());
        scene.wait(Duration::from_secs(100));
        scene
    }

    /// The scene just after the ports appeared.
    fn young(settings: Settings) -> Self {
        let (plan, now) = (plan(), Moment::from_secs(1_000_000));
        let mut scene = Self { switch: Switch::new(HERE, settings, 7), plan, now, out: Outcome::default() };
        scene.apply();
        scene
    }

    fn apply(&mut self) {
        self.switch.apply(&self.plan, self.now, &mut self.out);
    }
    fn port(&self, machine: u128) -> PortIndex {
        self.switch.port(interface(machine)).unwrap()
    }

    fn counters(&self, machine: u128) -> PortCounters {
        self.switch.port_counters(self.port(machine)).unwrap()
    }

    /// A guest of this host sends a frame.
    fn send_frame(&mut self, machine: u128, frame: &[u8]) {
        let from = self.port(machine);
        self.switch.handle_guest_frame(from, &mut frame.to_vec(), self.now, &mut self.out);
    }

    /// One machine of A sends a packet to another, wherever both are: through the port or the tunnel.
    fn send(&mut self, from: u128, to: u128, shape: Shape) {
        let ends = Ends::between(from, to);
        if endpoint(from).host == HERE {
            self.send_frame(from, &ends.frame(&shape));
        } else {
            self.switch.handle_tunnel_frame(THERE, VNI_A, &ends.frame(&shape), self.now, &mut self.out);
        }
    }

    /// Lets time pass, and the switch do what it should in it.
    fn wait(&mut self, span: Duration) {
        let end = self.now.plus(span);
        while let Some(next) = self.switch.next_poll().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.switch.poll(self.now, &mut self.out);
        }
        self.now = end;
    }

    fn flush(&mut self) {
        self.switch.flush(EndReason::AgentRestart, &mut self.out);
    }

    /// The records of one machine, in order.
    fn records(&self, machine: u128) -> Vec<&FlowRecord> {
        self.out.records.iter().filter(|record| record.instance == instance(machine)).collect()
    }

    /// The one record of a machine in one direction.
    fn record(&self, machine: u128, direction: Direction) -> &FlowRecord {
        let found: Vec<_> = self.records(machine).into_iter().filter(|record| record.direction == direction).collect();
        assert_eq!(found.len(), 1, "one record expected: {found:#?}");
        found[0]
    }

    /// How many frames have left in any way.
    fn given_on(&self) -> usize {
        self.out.to_guests.len() + self.out.to_tunnel.len()
    }
}
