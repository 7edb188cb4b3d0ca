//! The model's resources as the store's kinds: what points at what, and what counts against a quota.
//!
//! Owns those two lists for each kind, and [`AccessKeyRecord`]. Kinds of which more is kept than the API shows are in
//! [`crate::records`].

use std::fmt::Display;

use lucarne_api::bodies::mitigation::Mitigation;
use lucarne_model::{
    AccountId, ErrorCode, FlowLogId, ImageId, InterfaceId, KnownMeasurementId, MitigationId, NetworkAclId, NotaryId,
    PriceBookId, RecordingId, ResourceKind, RouteTableId, SecurityGroupId, SnapshotId, SubnetId, Tags, TpmMakerId,
    UserId, VpcId,
    attestation::KnownMeasurement,
    flow_log::FlowLog,
    identity::{AccessKey, Account, User},
    network::{NetworkInterface, RouteTable, Subnet, Vpc},
    network_acl::NetworkAcl,
    price::PriceBook,
    publisher::Notary,
    recording::Recording,
    security_group::{Peer, SecurityGroup},
    storage::{Image, Snapshot, SnapshotState},
    tpm::TpmMaker,
};
use serde::{Deserialize, Serialize};

use super::{Item, Resource};
use crate::services::rechecks::WITH_POLICY;

/// The parts of [`Resource`] that read the same for every kind with an id, an account and tags.
macro_rules! common_fields {
    ($kind:ident, $not_found:ident, $id:ty) => {
        const KIND: ResourceKind = ResourceKind::$kind;
        const NOT_FOUND: ErrorCode = ErrorCode::$not_found;
        type Id = $id;
        fn id(&self) -> $id {
            self.id
        }
        fn account(&self) -> AccountId {
            self.account
        }
        fn tags_mut(&mut self) -> Option<&mut Tags> {
            Some(&mut self.tags)
        }
    };
}

fn ids<T: ToString>(ids: impl IntoIterator<Item = T>) -> impl Iterator<Item = String> {
    ids.into_iter().map(|id| id.to_string())
}

/// An account owns itself, so that a tenant's scope holds its own account and no other.
impl Resource for Account {
    const KIND: ResourceKind = ResourceKind::Account;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidAccountNotFound;
    type Id = AccountId;
    fn id(&self) -> AccountId {
        self.id
    }
    fn account(&self) -> AccountId {
        self.id
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.tags)
    }
}

impl Resource for User {
    common_fields!(User, InvalidUserNotFound, UserId);
}

/// An access key with the digest of its secret. Only `key` is ever shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccessKeyRecord {
    pub(crate) key: AccessKey,
    /// SHA-256 of the secret, in hexadecimal digits.
    pub(crate) secret_digest: String,
}

impl Resource for AccessKeyRecord {
    const KIND: ResourceKind = ResourceKind::AccessKey;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidAccessKeyNotFound;
    type Id = String;
    fn id(&self) -> String {
        self.key.id.clone()
    }
    fn account(&self) -> AccountId {
        self.key.account
    }
    fn references(&self) -> Vec<String> {
        vec![self.key.user.to_string()]
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        None
    }
}

/// It does not point at its main route table, default ACL and default group: they point at it, and go with it.
impl Resource for Vpc {
    common_fields!(Vpc, InvalidVpcNotFound, VpcId);
    fn references(&self) -> Vec<String> {
        self.attest_policy.iter().map(|_| WITH_POLICY.to_owned()).collect()
    }
    fn uses(&self) -> Vec<(Item, u64)> {
        vec![(Item::Vpcs, 1)]
    }
}

impl Resource for Subnet {
    common_fields!(Subnet, InvalidSubnetNotFound, SubnetId);
    fn references(&self) -> Vec<String> {
        vec![self.vpc.to_string(), self.route_table.to_string(), self.network_acl.to_string()]
    }
}

impl Resource for RouteTable {
    common_fields!(RouteTable, InvalidRouteTableNotFound, RouteTableId);
    /// Interfaces as targets are not counted: one that ends leaves a route that leads nowhere, as in EC2.
    fn references(&self) -> Vec<String> {
        vec![self.vpc.to_string()]
    }
}

impl Resource for FlowLog {
    common_fields!(FlowLog, InvalidFlowLogNotFound, FlowLogId);
    /// Its VPC, whose hosts so hear of it. Not what it is about: instances come and go, and their records stay.
    fn references(&self) -> Vec<String> {
        vec![self.vpc.to_string()]
    }
}

impl Resource for Recording {
    common_fields!(Recording, InvalidRecordingNotFound, RecordingId);
    /// Its VPC, whose hosts so hear of it.
    fn references(&self) -> Vec<String> {
        vec![self.vpc.to_string()]
    }
}

impl Resource for NetworkAcl {
    common_fields!(NetworkAcl, InvalidNetworkAclNotFound, NetworkAclId);
    fn references(&self) -> Vec<String> {
        vec![self.vpc.to_string()]
    }
}

/// It does not point at its instance, which may end before it.
impl Resource for Mitigation {
    common_fields!(Mitigation, InvalidMitigationNotFound, MitigationId);
}

/// It does not point at its account, whose usage keeps its price when the account is gone.
impl Resource for PriceBook {
    const KIND: ResourceKind = ResourceKind::PriceBook;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidPriceBookNotFound;
    type Id = PriceBookId;
    fn id(&self) -> PriceBookId {
        self.id
    }
    fn account(&self) -> AccountId {
        self.account.unwrap_or(AccountId::OPERATOR)
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        None
    }
    fn public(&self) -> bool {
        self.account.is_none()
    }
}

impl Resource for TpmMaker {
    common_fields!(TpmMaker, InvalidTpmMakerNotFound, TpmMakerId);
}

impl Resource for KnownMeasurement {
    common_fields!(KnownMeasurement, InvalidMeasurementNotFound, KnownMeasurementId);
}

/// Every account may name one as the place where a publisher of its own publishes.
impl Resource for Notary {
    common_fields!(Notary, InvalidNotaryNotFound, NotaryId);
    fn public(&self) -> bool {
        true
    }
}

impl Resource for SecurityGroup {
    common_fields!(SecurityGroup, InvalidGroupNotFound, SecurityGroupId);
    fn references(&self) -> Vec<String> {
        let named = self.rules.iter().filter_map(|rule| match rule.spec.peer {
            Peer::Group { group } if group != self.id => Some(group),
            _ => None,
        });
        ids([self.vpc]).chain(ids(named)).collect()
    }
}

impl Resource for NetworkInterface {
    common_fields!(NetworkInterface, InvalidInterfaceNotFound, InterfaceId);
    fn references(&self) -> Vec<String> {
        let places = [self.vpc.to_string(), self.subnet.to_string(), self.instance.to_string()];
        let held = [held(self.subnet, self.address), held(self.vpc, self.mac)];
        places.into_iter().chain(held).chain(ids(&self.groups)).collect()
    }
}

/// What an interface holds of a subnet or VPC, as something to point at: who looks for it finds its holder.
pub(crate) fn held(within: impl Display, address: impl Display) -> String {
    format!("{within}/{address}")
}

impl Resource for Image {
    common_fields!(Image, InvalidImageNotFound, ImageId);
    fn public(&self) -> bool {
        self.public
    }
    fn uses(&self) -> Vec<(Item, u64)> {
        vec![(Item::Images, 1)]
    }
}

impl Resource for Snapshot {
    common_fields!(Snapshot, InvalidSnapshotNotFound, SnapshotId);
    /// It holds its volume while it is being taken, and outlives it afterwards.
    fn references(&self) -> Vec<String> {
        if self.state == SnapshotState::Pending { vec![self.volume.to_string()] } else { Vec::new() }
    }
    fn uses(&self) -> Vec<(Item, u64)> {
        vec![(Item::Snapshots, 1)]
    }
}
