//! Findings: what flow records show of an address or a machine that somebody should look at.
//!
//! Owns the closed list of kinds and the shape of a finding. What is found when is decided in the room `flows`.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, EndReason, FindingId, HostId, InstanceId, Moment, VpcId};

macro_rules! finding_kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)*) => {
        /// What was found.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum FindingKind { $($(#[doc = $doc])* #[serde(rename = $text)] $name,)* }

        impl FindingKind {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The name in the API and on the command line.
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str { match self { $(Self::$name => concat!($($doc),*),)* } }
        }
    };
}

finding_kinds! {
    /// An address outside tried to reach machines of many different customers.
    ScannerAcrossAccounts = "scanner-across-accounts";
    /// A machine tried very many addresses and ports.
    Sweep = "sweep";
    /// A machine was refused at many addresses and ports by the machines that it asked.
    RefusedByMany = "refused-by-many";
    /// A machine asked at many addresses and ports and was not answered or not let through.
    NoAnswers = "no-answers";
    /// A machine sends or receives far more than it is used to.
    SuddenChange = "sudden-change";
}

/// Who stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Address(IpAddr),
    Instance(InstanceId),
}

/// One thing that was found, from when it began until it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    pub id: FindingId,
    pub kind: FindingKind,
    /// Whom it concerns and who sees it: the machine's account, or the operator's for what goes across accounts.
    pub account: AccountId,
    pub subject: Subject,
    pub vpc: Option<VpcId>,
    pub first_seen: Moment,
    pub last_seen: Moment,
    /// The most that was counted within the window: accounts, addresses with their ports, or bytes a minute.
    pub count: u64,
    /// False where the count is an estimate, with a standard error of 1.6 %.
    pub exact: bool,
    /// From which count on it is a finding.
    pub threshold: u64,
}

/// Which findings; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FindingQuery {
    /// Whom they concern; all accounts' if none is given.
    pub account: Option<AccountId>,
    pub kind: Option<FindingKind>,
    /// Seen at this time or later.
    pub since: Option<Moment>,
}

impl FindingQuery {
    pub fn matches(&self, finding: &Finding) -> bool {
        self.account.is_none_or(|account| account == finding.account)
            && self.kind.is_none_or(|kind| kind == finding.kind)
            && self.since.is_none_or(|since| finding.last_seen >= since)
    }
}

/// An address outside, and how many different customers it tried within the last minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scanner {
    pub address: IpAddr,
    pub accounts: u64,
    /// False where the count is an estimate, with a standard error of 1.6 %.
    pub exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScannerQuery {
    pub min_accounts: u64,
}

/// A machine that had a port closed to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClosedPort {
    pub account: AccountId,
    pub instance: InstanceId,
    pub host: HostId,
    /// Who had it closed: the machine itself, or a group, an ACL, a mitigation.
    pub end_reason: EndReason,
    pub last_seen: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClosedPortQuery {
    pub source: IpAddr,
    pub port: u16,
    pub since: Moment,
}

/// Answers, and from when on none is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Complete<T> {
    pub since: Moment,
    pub items: Vec<T>,
}
