//! The kinds of resources: one table of all that the controller keeps documents of.
//!
//! Owns the vocabulary. What the store must know of each is beside its `Resource`, and how each is replicated is a match without
//! a rest in the room `replica`: a kind that is added here does not compile before it has said so.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($name:ident = $text:literal;)*) => {
        /// A kind of resource. Its name is the store's word for it too, and so never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ResourceKind { $(#[serde(rename = $text)] $name,)* }

        impl ResourceKind {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

kinds! {
    Account = "account";
    User = "user";
    AccessKey = "access-key";
    Host = "host";
    RemovedHost = "removed-host";
    Tpm = "tpm";
    TpmMaker = "tpm-maker";
    Vpc = "vpc";
    Subnet = "subnet";
    RouteTable = "route-table";
    NetworkAcl = "network-acl";
    SecurityGroup = "security-group";
    NetworkInterface = "network-interface";
    Instance = "instance";
    Attestation = "attestation";
    Volume = "volume";
    Snapshot = "snapshot";
    Image = "image";
    FlowLog = "flow-log";
    FlowLogCredentials = "flow-log-credentials";
    Mitigation = "mitigation";
    PriceBook = "price-book";
    KnownMeasurement = "known-measurement";
    Notary = "notary";
    Publisher = "publisher";
    Job = "job";
    Replica = "replica";
    Recording = "recording";
    Replay = "replay";
    Load = "load";
    Trigger = "trigger";
    ScalingGroup = "scaling-group";
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: BTreeSet<_> = ResourceKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ResourceKind::ALL.len());
    }
}
