//! How each kind of resource is replicated.
//!
//! Owns the answer for every kind there is: the match has no rest, so a new kind must be decided on before anything compiles. Which
//! objects of a kind a network has is [`crate::network::Network`]'s word.

use lucarne_model::{
    ResourceKind,
    replication::{Fate, OtherKind},
};

/// What becomes of a kind when a network is duplicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Each is made anew in the duplicate.
    Copied,
    /// The duplicate's objects point to the same one, which knows nothing of it.
    PointedTo,
    LeftOut,
}

pub const fn treatment(kind: ResourceKind) -> Treatment {
    use ResourceKind as Kind;
    match kind {
        Kind::Vpc
        | Kind::Subnet
        | Kind::RouteTable
        | Kind::NetworkAcl
        | Kind::SecurityGroup
        | Kind::NetworkInterface
        | Kind::Instance
        | Kind::Volume
        | Kind::ScalingGroup
        | Kind::FlowLog => Treatment::Copied,
        // What instances and volumes began from never changes, so that two can go by one.
        Kind::Image | Kind::Snapshot => Treatment::PointedTo,
        // The account's: the duplicate is in the same one, under the same people, prices and trust.
        Kind::Account
        | Kind::User
        | Kind::AccessKey
        | Kind::PriceBook
        | Kind::KnownMeasurement
        | Kind::Notary
        | Kind::Publisher => Treatment::PointedTo,
        // The provider's machines, and what is known of them.
        Kind::Host | Kind::RemovedHost | Kind::Tpm | Kind::TpmMaker => Treatment::LeftOut,
        // What was proved is proved of one start of one instance, and a sealed key is sealed for one log.
        Kind::Attestation | Kind::FlowLogCredentials => Treatment::LeftOut,
        // An order against one network's traffic says nothing of another's.
        Kind::Mitigation => Treatment::LeftOut,
        // Records of what was done, and of other duplicates.
        Kind::Job | Kind::Replica | Kind::Recording | Kind::Replay | Kind::Load => Treatment::LeftOut,
        // Made anew, it would duplicate duplicates whenever these are due or found out again.
        Kind::Trigger => Treatment::LeftOut,
    }
}

/// The kinds that are not copied, for whoever is shown a plan.
pub fn other_kinds() -> Vec<OtherKind> {
    let other = |kind| {
        let fate = match treatment(kind) {
            Treatment::Copied => return None,
            Treatment::PointedTo => Fate::PointedTo,
            Treatment::LeftOut => Fate::LeftOut,
        };
        Some(OtherKind { kind, fate })
    };
    ResourceKind::ALL.iter().copied().filter_map(other).collect()
}
