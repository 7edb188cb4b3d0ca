//! What the store keeps of replays beyond what the API shows, and what a replay makes of its network while it is played.
//!
//! Owns the record. Each played client stands where its own duplicate stood, which has no interface meanwhile, or outside the network:
//! how is the word of [`Visitors`].

use std::net::Ipv4Addr;

use lucarne_model::{
    AccountId, Cidr, ErrorCode, HostId, Moment, ReplayId, ResourceKind, Tags, UserId,
    desired::DesiredNetwork,
    replay::{DesiredReplayState, Replay, ReplayPort},
    replication::AddressMapping,
};
use lucarne_replica::changes::Ids;
use serde::{Deserialize, Serialize};

use crate::{
    store::Resource,
    visitors::{Outside, Taken, Visitors},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReplayRecord {
    #[serde(flatten)]
    pub(crate) replay: Replay,
    /// Where it is played.
    pub(crate) host: HostId,
    /// The addresses of the recorded network.
    pub(crate) network: Cidr,
    /// Of the one instance that is played.
    pub(crate) client: Option<Ipv4Addr>,
    pub(crate) map: Vec<AddressMapping>,
    /// One for each client, in their order; none before they are known.
    pub(crate) ports: Vec<ReplayPort>,
    pub(crate) outside: Outside,
    #[serde(default)]
    pub(crate) reapplied: Option<Reapplied>,
}

/// What is needed to ask of the duplicate what was asked of its source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reapplied {
    /// With whose rights.
    pub(crate) by: UserId,
    /// When what is played began in the recording; none before it was read.
    pub(crate) first: Option<Moment>,
    /// What the duplicate has for the source's ids, and for those of what changes made.
    pub(crate) ids: Ids,
    /// Changes that were asked, or left out.
    pub(crate) done: usize,
}

impl Resource for ReplayRecord {
    const KIND: ResourceKind = ResourceKind::Replay;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidReplayNotFound;
    type Id = ReplayId;
    fn id(&self) -> ReplayId {
        self.replay.id
    }
    fn account(&self) -> AccountId {
        self.replay.account
    }
    /// Its network and its host, which so hear of it, until it is over.
    fn references(&self) -> Vec<String> {
        if self.replay.state.is_over() {
            return Vec::new();
        }
        vec![self.replay.vpc.to_string(), self.host.to_string()]
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.replay.tags)
    }
}

impl ReplayRecord {
    /// What its host is told.
    pub(crate) fn desired(&self) -> DesiredReplayState {
        if self.replay.state.is_over() {
            return DesiredReplayState::Absent;
        }
        DesiredReplayState::Played {
            account: self.replay.account,
            vpc: self.replay.vpc,
            terms: self.replay.terms,
            network: self.network,
            client: self.client,
            map: self.map.clone(),
            ports: self.ports.clone(),
        }
    }

    /// Puts the played clients into their network.
    pub(crate) fn join(&self, network: &mut DesiredNetwork) {
        let (host, ports, outside) = (self.host, &self.ports, self.outside);
        Visitors { host, ports, outside, groups: &[], taken: Taken::Replaces }.join(network);
    }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        InstanceId, InterfaceId, MacAddress, Moment, RecordingId, ReplicaId, RuleId, SecurityGroupId, SubnetId, VpcId,
        desired::{DesiredSubnet, Endpoint},
        flow::Direction,
        replay::{ReplayFrom, ReplaySpeed, ReplayState, ReplayTerms},
    };

    use super::*;
    use crate::visitors::local;

    const HOSTS: [HostId; 2] = [HostId::from_bits(1), HostId::from_bits(2)];

    fn endpoint(number: u8) -> Endpoint {
        Endpoint {
            interface: InterfaceId::from_bits(number.into()),
            instance: InstanceId::from_bits(number.into()),
            subnet: SubnetId::from_bits(1),
            address: Ipv4Addr::new(10, 0, 1, number),
            mac: MacAddress::from_bits(number.into()),
            groups: vec![SecurityGroupId::from_bits(number.into())],
            host: HOSTS[0],
            name: None,
        }
    }

    fn network() -> DesiredNetwork {
        let cidr = "10.0.0.0/16".parse().unwrap();
        let subnet = DesiredSubnet {
            id: SubnetId::from_bits(1),
            cidr: "10.0.1.0/24".parse().unwrap(),
            routes: vec![local(cidr)],
            acl: Vec::new(),
        };
        let (vpc, account) = (VpcId::from_bits(1), AccountId::from_bits(1));
        let endpoints = vec![endpoint(10), endpoint(20)];
        DesiredNetwork {
            vpc,
            account,
            vni: 1,
            cidr,
            subnets: vec![subnet],
            groups: Vec::new(),
            endpoints,
            clock_behind_micros: 0,
        }
    }

    fn played_from(addresses: &[&str]) -> ReplayRecord {
        let terms = ReplayTerms { from: ReplayFrom::All, speed: ReplaySpeed::Max, times: 1, amplify: 1 };
        let port = |(at, address): (usize, &&str)| ReplayPort {
            interface: InterfaceId::from_bits(100 + at as u128),
            instance: InstanceId::from_bits(100 + at as u128),
            address: address.parse().unwrap(),
            mac: MacAddress::from_bits(100 + at as u64),
        };
        let replay = Replay {
            id: ReplayId::from_bits(1),
            account: AccountId::from_bits(1),
            recording: RecordingId::from_bits(1),
            replica: ReplicaId::from_bits(1),
            vpc: VpcId::from_bits(1),
            terms,
            state: ReplayState::Preparing,
            state_reason: None,
            clients: Vec::new(),
            bystanders: Vec::new(),
            score: None,
            reports: Vec::new(),
            changes: None,
            created: Moment::EPOCH,
            began: None,
            ended: None,
            tags: Tags::default(),
        };
        ReplayRecord {
            replay,
            host: HOSTS[1],
            network: Cidr::ANY,
            client: None,
            map: Vec::new(),
            ports: addresses.iter().enumerate().map(port).collect(),
            outside: Outside {
                subnet: SubnetId::from_bits(9),
                group: SecurityGroupId::from_bits(9),
                rule: RuleId::from_bits(9),
            },
            reapplied: None,
        }
    }

    /// So no frame of it leaves its machine's host, and none is brought to it.
    #[test]
    fn a_played_instance_has_its_place_with_all_rights_at_the_players_host_and_none_of_its_own() {
        let (before, mut network) = (network(), network());
        played_from(&["10.0.1.10"]).join(&mut network);
        let place = Endpoint { interface: InterfaceId::from_bits(100), host: HOSTS[1], ..endpoint(10) };
        assert_eq!(network, DesiredNetwork { endpoints: vec![place, endpoint(20)], ..before });
    }

    #[test]
    fn who_stands_outside_has_a_way_in_and_back_and_rights_of_its_own_alone() {
        let (before, mut network) = (network(), network());
        played_from(&["203.0.113.9", "10.0.1.30"]).join(&mut network);
        let (outside, left_out) = (&network.endpoints[2], &network.endpoints[3]);
        assert_eq!(network.endpoints[..2], before.endpoints[..]);
        assert_eq!((outside.subnet, left_out.subnet), (SubnetId::from_bits(9), SubnetId::from_bits(1)));
        assert_eq!([&outside.groups, &left_out.groups], [&[SecurityGroupId::from_bits(9)]; 2]);
        let ways: Vec<String> = network.subnets[0].routes.iter().map(|route| route.destination.to_string()).collect();
        assert_eq!(ways, ["10.0.0.0/16", "203.0.113.9/32"]);
        assert_eq!(network.subnets[1].routes, [local(before.cidr)]);
        assert!(network.groups[0].rules.iter().all(|rule| rule.spec.direction == Direction::Egress));
    }

    #[test]
    fn before_its_clients_are_known_and_after_its_end_a_replay_changes_nothing() {
        let (before, mut network) = (network(), network());
        let mut record = played_from(&[]);
        record.join(&mut network);
        assert_eq!(network, before);
        record.replay.state = ReplayState::Done;
        assert_eq!((record.desired(), record.references()), (DesiredReplayState::Absent, Vec::new()));
    }
}
