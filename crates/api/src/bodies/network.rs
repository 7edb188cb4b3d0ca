//! Bodies of VPCs, subnets, route tables, network ACLs and security groups. Owns their shapes.

use lucarne_model::{
    Cidr, NetworkAclId, RouteTableId, Tags, VpcId,
    flow::{Direction, Verdict},
    network::Route,
    security_group::{RuleSpec, Traffic},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVpc {
    /// A prefix of 16 to 28 bits.
    pub cidr: Cidr,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSubnet {
    pub vpc: VpcId,
    /// Inside the VPC's network, apart from its other subnets; a prefix of 16 to 28 bits.
    pub cidr: Cidr,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRouteTable {
    pub vpc: VpcId,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssociateRouteTable {
    pub route_table: RouteTableId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRoute {
    pub route: Route,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteRoute {
    pub destination: Cidr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSecurityGroup {
    pub vpc: VpcId,
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthorizeRule {
    pub rule: RuleSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNetworkAcl {
    pub vpc: VpcId,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddAclEntry {
    /// 1 to 32766; the lowest number that matches decides.
    pub number: u16,
    /// Ingress is into the subnet.
    pub direction: Direction,
    pub action: Verdict,
    pub traffic: Traffic,
    /// The other end.
    pub cidr: Cidr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssociateNetworkAcl {
    pub network_acl: NetworkAclId,
}
