//! Networks made up for tests: one that has something of everything, and any that a property test asks for.

use lucarne_model::{
    AccountId, Bytes, Cidr, FlowLogId, HostId, ImageId, InstanceId, InterfaceId, MacAddress, Moment, NetworkAclId,
    RouteTableId, RuleId, ScalingGroupId, SecurityGroupId, SubnetId, Tags, Vcpus, VolumeId, VpcId,
    flow::{Direction, Verdict},
    flow_log::{Destination, FlowLog, FlowLogTarget, LoggedTraffic},
    instance::{Attachment, Instance, InstanceState, Placement},
    memory::MemorySettings,
    network::{NetworkInterface, Route, RouteTable, RouteTarget, Subnet, Vpc},
    network_acl::{AclEntry, NetworkAcl},
    replication::{ReplicaTerms, TagMatch},
    scaling::{LaunchTemplate, ScalingGroup},
    security_group::{Peer, Rule, RuleSpec, SecurityGroup, Traffic},
    storage::{Volume, VolumeState},
};
use proptest::prelude::*;

use crate::Network;

pub(crate) const ACCOUNT: AccountId = AccountId::from_bits(7);
pub(crate) const HOST: HostId = HostId::from_bits(1);

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub(crate) fn tag(value: &str) -> TagMatch {
    TagMatch { key: "tier".into(), value: value.into() }
}

fn tier(value: u8) -> Tags {
    Tags([("tier".to_owned(), ["web", "data", "none"][usize::from(value % 3)].to_owned())].into())
}

/// Instance `n` is in subnet `n % subnets`, has group `n % groups` and a volume for each of `volumes`.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) subnets: u8,
    pub(crate) groups: u8,
    pub(crate) instances: u8,
    pub(crate) volumes: u8,
    /// By which group `n` names group `(n + k) % groups`.
    pub(crate) names: u8,
    /// What the tags are, one number for each object.
    pub(crate) tiers: Vec<u8>,
    pub(crate) stopped: Vec<bool>,
}

impl Shape {
    fn tags(&self, at: usize) -> Tags {
        tier(self.tiers.get(at % self.tiers.len().max(1)).copied().unwrap_or(2))
    }

    pub(crate) fn network(&self) -> Network {
        let count = |n: u8| (0..u128::from(n)).map(move |at| (at, usize::try_from(at).unwrap()));
        let vpc = vpc();
        let volumes = count(self.instances)
            .flat_map(|(n, at)| count(self.volumes).map(move |(slot, _)| (n * 8 + slot, n, at)))
            .map(|(id, n, at)| volume(id, n, self.tags(at + 3)));
        Network {
            route_tables: vec![main_table(&vpc), table(&vpc, self.instances)],
            network_acls: vec![acl(&vpc, 1), acl(&vpc, 2)],
            subnets: count(self.subnets).map(|(n, at)| subnet(&vpc, n, self.tags(at))).collect(),
            security_groups: count(self.groups)
                .map(|(n, at)| {
                    let named = (n + u128::from(self.names)) % u128::from(self.groups);
                    group(&vpc, n, named, self.tags(at + 1))
                })
                .collect(),
            interfaces: count(self.instances).map(|(n, _)| interface(&vpc, n, self)).collect(),
            volumes: volumes.collect(),
            flow_logs: vec![
                flow_log(&vpc, 1, Destination::Store),
                flow_log(&vpc, 2, "ipfix://192.0.2.1".parse().unwrap()),
            ],
            instances: count(self.instances).map(|(n, at)| instance(&vpc, n, self, self.tags(at + 2))).collect(),
            scaling_groups: vec![scaling_group(&vpc, self)],
            vpc,
        }
    }
}

pub(crate) fn three_tiers() -> Network {
    Shape { subnets: 2, groups: 3, instances: 4, volumes: 1, names: 1, tiers: vec![0, 1], stopped: vec![false] }
        .network()
}

fn vpc() -> Vpc {
    Vpc {
        id: VpcId::from_bits(1),
        account: ACCOUNT,
        cidr: cidr("10.0.0.0/16"),
        vni: 5,
        main_route_table: RouteTableId::from_bits(1),
        default_network_acl: NetworkAclId::from_bits(1),
        default_security_group: SecurityGroupId::from_bits(0),
        attest_policy: None,
        clock_behind_micros: 0,
        created: Moment::EPOCH,
        tags: Tags::default(),
    }
}

fn main_table(vpc: &Vpc) -> RouteTable {
    let routes = vec![Route { destination: vpc.cidr, target: RouteTarget::Local }];
    let (id, account, vpc) = (vpc.main_route_table, ACCOUNT, vpc.id);
    RouteTable { id, account, vpc, routes, main: true, created: Moment::EPOCH, tags: Tags::default() }
}

/// It leads by way of the last instance, as one that forwards would have it.
fn table(vpc: &Vpc, instances: u8) -> RouteTable {
    let mut table = RouteTable { id: RouteTableId::from_bits(2), main: false, ..main_table(vpc) };
    if instances > 0 {
        let target = RouteTarget::Interface { interface: InterfaceId::from_bits(u128::from(instances) - 1) };
        table.routes.push(Route { destination: cidr("192.168.0.0/16"), target });
    }
    table
}

fn acl(vpc: &Vpc, n: u128) -> NetworkAcl {
    let entry = AclEntry {
        id: RuleId::from_bits(100 + n),
        created: Moment::EPOCH,
        number: 10,
        direction: Direction::Ingress,
        action: Verdict::Accept,
        traffic: Traffic::All,
        cidr: Cidr::ANY,
    };
    NetworkAcl {
        id: NetworkAclId::from_bits(n),
        account: ACCOUNT,
        vpc: vpc.id,
        is_default: n == 1,
        entries: vec![entry],
        created: Moment::EPOCH,
        tags: Tags::default(),
    }
}

fn subnet(vpc: &Vpc, n: u128, tags: Tags) -> Subnet {
    Subnet {
        id: SubnetId::from_bits(n),
        account: ACCOUNT,
        vpc: vpc.id,
        cidr: cidr(&format!("10.0.{n}.0/24")),
        route_table: RouteTableId::from_bits(1 + n % 2),
        network_acl: NetworkAclId::from_bits(1 + n % 2),
        available_addresses: 0,
        created: Moment::EPOCH,
        tags,
    }
}

fn group(vpc: &Vpc, n: u128, named: u128, tags: Tags) -> SecurityGroup {
    let spec = |peer| RuleSpec { direction: Direction::Ingress, traffic: Traffic::All, peer };
    let peers = [Peer::Group { group: SecurityGroupId::from_bits(named) }, Peer::Cidr { cidr: cidr("10.0.0.0/16") }];
    let rule = |(at, peer)| Rule { id: RuleId::from_bits(n * 2 + at), created: Moment::EPOCH, spec: spec(peer) };
    SecurityGroup {
        id: SecurityGroupId::from_bits(n),
        account: ACCOUNT,
        vpc: vpc.id,
        name: format!("group {n}"),
        description: String::new(),
        rules: (0..).zip(peers).map(rule).collect(),
        created: Moment::EPOCH,
        tags,
    }
}

fn address(n: u128, shape: &Shape) -> std::net::Ipv4Addr {
    let subnets = u128::from(shape.subnets);
    format!("10.0.{}.{}", n % subnets, 10 + n / subnets).parse().unwrap()
}

fn interface(vpc: &Vpc, n: u128, shape: &Shape) -> NetworkInterface {
    NetworkInterface {
        id: InterfaceId::from_bits(n),
        account: ACCOUNT,
        vpc: vpc.id,
        subnet: SubnetId::from_bits(n % u128::from(shape.subnets)),
        instance: InstanceId::from_bits(n),
        address: address(n, shape),
        mac: MacAddress::from_bits(u64::try_from(n).unwrap()),
        groups: vec![SecurityGroupId::from_bits(n % u128::from(shape.groups))],
        created: Moment::EPOCH,
        counters: None,
        tags: Tags::default(),
    }
}

fn volume(id: u128, instance: u128, tags: Tags) -> Volume {
    Volume {
        id: VolumeId::from_bits(id),
        account: ACCOUNT,
        size: Bytes::mib(64),
        snapshot: None,
        state: VolumeState::InUse,
        state_reason: None,
        instance: Some(InstanceId::from_bits(instance)),
        host: Some(HOST),
        delete_on_termination: false,
        created: Moment::EPOCH,
        tags,
    }
}

fn instance(vpc: &Vpc, n: u128, shape: &Shape, tags: Tags) -> Instance {
    let at = usize::try_from(n).unwrap();
    let stopped = shape.stopped.get(at % shape.stopped.len().max(1)).copied().unwrap_or_default();
    let volumes = (0..shape.volumes)
        .map(|slot| Attachment { volume: VolumeId::from_bits(n * 8 + u128::from(slot)), slot: slot + 1 });
    Instance {
        id: InstanceId::from_bits(n),
        account: ACCOUNT,
        image: ImageId::from_bits(1),
        vcpus: Vcpus(2),
        memory: Bytes::mib(256),
        memory_settings: MemorySettings::default(),
        vpc: vpc.id,
        subnet: SubnetId::from_bits(n % u128::from(shape.subnets)),
        interface: InterfaceId::from_bits(n),
        address: address(n, shape),
        mac: MacAddress::from_bits(u64::try_from(n).unwrap()),
        security_groups: vec![SecurityGroupId::from_bits(n % u128::from(shape.groups))],
        volumes: volumes.collect(),
        state: if stopped { InstanceState::Stopped } else { InstanceState::Running },
        state_reason: None,
        host: Some(HOST),
        placement: Placement::default(),
        generation: 1,
        user_data: None,
        cold: false,
        virtual_tpm: false,
        attestation: None,
        began: None,
        launched: Moment::EPOCH,
        changed: Moment::EPOCH,
        tags,
    }
}

fn flow_log(vpc: &Vpc, n: u128, to: Destination) -> FlowLog {
    FlowLog {
        id: FlowLogId::from_bits(n),
        account: ACCOUNT,
        target: FlowLogTarget::Subnet { subnet: SubnetId::from_bits(0) },
        vpc: vpc.id,
        traffic: LoggedTraffic::All,
        interval_millis: 10_000,
        format: "default".into(),
        to,
        delivery: None,
        created: Moment::EPOCH,
        changed: Moment::EPOCH,
        tags: Tags::default(),
    }
}

/// In all subnets, with every other instance.
fn scaling_group(vpc: &Vpc, shape: &Shape) -> ScalingGroup {
    ScalingGroup {
        id: ScalingGroupId::from_bits(1),
        account: ACCOUNT,
        name: "web".into(),
        vpc: vpc.id,
        subnets: (0..shape.subnets).map(|n| SubnetId::from_bits(n.into())).collect(),
        template: LaunchTemplate {
            image: ImageId::from_bits(1),
            vcpus: None,
            memory: None,
            memory_settings: MemorySettings::default(),
            security_groups: vec![SecurityGroupId::from_bits(0)],
            user_data: None,
            cold: false,
            tags: Tags::default(),
        },
        min: 0,
        max: 9,
        target: "cpu=50".parse().unwrap(),
        cool_down_seconds: 60,
        desired: 4,
        instances: (0..shape.instances).step_by(2).map(|n| InstanceId::from_bits(n.into())).collect(),
        changed: Moment::EPOCH,
        decisions: Vec::new(),
        value: None,
        waits: None,
        created: Moment::EPOCH,
        tags: Tags::default(),
    }
}

pub(crate) fn networks() -> impl Strategy<Value = Network> {
    let tiers = proptest::collection::vec(0..3u8, 1..8);
    let stopped = proptest::collection::vec(any::<bool>(), 1..4);
    (1..5u8, 1..5u8, 0..9u8, 0..3u8, 0..5u8, tiers, stopped).prop_map(
        |(subnets, groups, instances, volumes, names, tiers, stopped)| {
            Shape { subnets, groups, instances, volumes, names, tiers, stopped }.network()
        },
    )
}

/// Any filters; most of them meet something.
pub(crate) fn terms() -> impl Strategy<Value = ReplicaTerms> {
    let tags = || {
        let one = proptest::sample::select(vec!["web", "data", "none", "nobody's"]);
        proptest::collection::vec(one.prop_map(tag), 0..2)
    };
    let subnets = proptest::collection::vec((0..5u128).prop_map(SubnetId::from_bits), 0..3);
    let cidrs = vec![cidr("10.0.0.0/16"), cidr("10.0.0.0/23"), cidr("10.0.1.8/29"), cidr("172.16.0.0/12")];
    let addresses = proptest::collection::vec(proptest::sample::select(cidrs), 0..2);
    (subnets, tags(), tags(), addresses).prop_map(|(subnets, include_tags, exclude_tags, addresses)| ReplicaTerms {
        subnets,
        include_tags,
        exclude_tags,
        addresses,
        ..ReplicaTerms::default()
    })
}
