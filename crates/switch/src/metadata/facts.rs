//! What an instance is told about itself: the tree of EC2's names over the plan's facts.
//!
//! Owns the tree's paths and the identity document. Who may read them is decided in [`super::router`].

use std::{collections::BTreeSet, net::Ipv4Addr};

use jiff::Timestamp;
use lucarne_model::{
    AccountId, Cidr, HostName, ImageId, InstanceId, InterfaceId, MacAddress, Moment, SecurityGroupId, SubnetId, VpcId,
    replica::DuplicateOrigin,
};
use serde::Serialize;

use crate::plan::{Plan, PortPlan};

/// One site so far; its name in the form that clients expect.
const REGION: &str = "lucarne-1";
const ZONE: &str = "lucarne-1a";

/// All that the service says of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) interface: InterfaceId,
    pub(super) mac: MacAddress,
    pub(super) user_data: Option<String>,
    account: AccountId,
    instance: InstanceId,
    image: ImageId,
    vpc: VpcId,
    subnet: SubnetId,
    address: Ipv4Addr,
    vpc_cidr: Cidr,
    subnet_cidr: Cidr,
    groups: Vec<SecurityGroupId>,
    host_name: HostName,
    launched: Moment,
    origin: Option<DuplicateOrigin>,
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Value(String),
    /// Its children in order, directories with a slash behind them.
    Directory(Vec<String>),
}

impl Facts {
    pub(super) fn interface_of(port: &PortPlan) -> InterfaceId {
        port.interface
    }

    /// None when the plan has nothing to tell at the port, or its networks do not know the port's interface: then it has no
    /// address to be asked from.
    pub(super) fn of(port: &PortPlan, plan: &Plan) -> Option<Self> {
        let metadata = port.metadata.as_ref()?;
        let network = plan.networks.iter().find(|network| network.vpc == port.vpc)?;
        let endpoint = network.endpoints.iter().find(|endpoint| endpoint.interface == port.interface)?;
        let subnet = network.subnets.iter().find(|subnet| subnet.id == endpoint.subnet)?;
        Some(Self {
            interface: port.interface,
            mac: endpoint.mac,
            user_data: metadata.user_data.clone(),
            account: port.account,
            instance: port.instance,
            image: metadata.image,
            vpc: port.vpc,
            subnet: subnet.id,
            address: endpoint.address,
            vpc_cidr: network.cidr,
            subnet_cidr: subnet.cidr,
            groups: endpoint.groups.clone(),
            host_name: endpoint.host_name(),
            launched: metadata.launched,
            origin: metadata.origin,
        })
    }

    /// What stands at `path` under `meta-data`, given as segments. `directory` says that a slash stood behind it.
    pub(super) fn entry(&self, path: &[&str], directory: bool) -> Option<Entry> {
        let mut children = BTreeSet::new();
        for (leaf, value) in self.leaves() {
            let mut segments = leaf.split('/');
            if !path.iter().all(|wanted| segments.next() == Some(wanted)) {
                continue;
            }
            match (segments.next(), segments.next()) {
                (None, _) if directory => return None,
                (None, _) => return Some(Entry::Value(value)),
                (Some(name), None) => children.insert(name.to_owned()),
                (Some(name), Some(_)) => children.insert(format!("{name}/")),
            };
        }
        (!children.is_empty()).then(|| Entry::Directory(children.into_iter().collect()))
    }

    fn leaves(&self) -> Vec<(String, String)> {
        let mac = self.mac;
        let groups: Vec<_> = self.groups.iter().map(SecurityGroupId::to_string).collect();
        let instance = [
            ("ami-id", self.image.to_string()),
            ("ami-launch-index", "0".into()),
            ("hostname", self.host_name.to_string()),
            ("instance-action", "none".into()),
            ("instance-id", self.instance.to_string()),
            ("local-hostname", self.host_name.to_string()),
            ("local-ipv4", self.address.to_string()),
            ("mac", mac.to_string()),
            ("placement/availability-zone", ZONE.into()),
            ("placement/region", REGION.into()),
            // EC2 gives names here; the plan has only ids, which mean the same to whoever asks.
            ("security-groups", groups.join("\n")),
            ("services/domain", "lucarne.internal".into()),
        ];
        let interface = [
            ("device-number", "0".into()),
            ("interface-id", self.interface.to_string()),
            ("local-hostname", self.host_name.to_string()),
            ("local-ipv4s", self.address.to_string()),
            ("mac", mac.to_string()),
            ("owner-id", self.account.to_string()),
            ("security-group-ids", groups.join("\n")),
            ("subnet-id", self.subnet.to_string()),
            ("subnet-ipv4-cidr-block", self.subnet_cidr.to_string()),
            ("vpc-id", self.vpc.to_string()),
            ("vpc-ipv4-cidr-block", self.vpc_cidr.to_string()),
            ("vpc-ipv4-cidr-blocks", self.vpc_cidr.to_string()),
        ];
        let interface = interface.map(|(leaf, value)| (format!("network/interfaces/macs/{mac}/{leaf}"), value));
        let instance = instance.into_iter().chain(self.origin()).map(|(leaf, value)| (leaf.to_owned(), value));
        instance.chain(interface).collect()
    }

    /// What a duplicate learns of itself; of what is none these names are not there.
    fn origin(&self) -> impl Iterator<Item = (&'static str, String)> {
        let leaves = self.origin.map(|DuplicateOrigin { source, replica, cut }| {
            let cut = cut.map(|cut| ("duplicate/cut", time(cut).to_string()));
            [("duplicate/of", source.to_string()), ("duplicate/replica", replica.to_string())].into_iter().chain(cut)
        });
        leaves.into_iter().flatten()
    }

    /// The instance identity document, as JSON.
    pub(super) fn identity_document(&self) -> String {
        let document = IdentityDocument {
            account_id: self.account,
            architecture: "x86_64",
            availability_zone: ZONE,
            image_id: self.image,
            instance_id: self.instance,
            pending_time: time(self.launched).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            private_ip: self.address,
            region: REGION,
            version: "2017-09-30",
        };
        serde_json::to_string_pretty(&document).unwrap_or_default()
    }
}

fn time(moment: Moment) -> Timestamp {
    let micros = i64::try_from(moment.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IdentityDocument {
    account_id: AccountId,
    architecture: &'static str,
    availability_zone: &'static str,
    image_id: ImageId,
    instance_id: InstanceId,
    pending_time: String,
    private_ip: Ipv4Addr,
    region: &'static str,
    version: &'static str,
}
