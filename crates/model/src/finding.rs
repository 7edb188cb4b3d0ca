//! Findings: what flow records show of an address or a machine that somebody should look at.
//!
//! Owns the closed list of kinds, with what each means, how it was decided and what to do, and the shape of a finding. What
//! is found when is decided in the room `flows`.

use std::{net::IpAddr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, EndReason, FindingId, HostId, InstanceId, Moment, VpcId, flow::Verdict};

macro_rules! finding_kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $counted:literal, $advice:literal;)*) => {
        /// What was found.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum FindingKind { $($(#[doc = $doc])* #[serde(rename = $text)] $name,)* }

        impl FindingKind {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The name in the API and on the command line.
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str { match self { $(Self::$name => concat!($($doc),*).trim(),)* } }
            /// What [`Finding::count`] and [`Finding::threshold`] are numbers of.
            pub const fn counted(self) -> &'static str { match self { $(Self::$name => $counted,)* } }
            /// What to do about it.
            pub const fn advice(self) -> &'static str { match self { $(Self::$name => $advice,)* } }
        }
    };
}

finding_kinds! {
    /// An address outside tried to reach machines of many different customers.
    ScannerAcrossAccounts = "scanner-across-accounts", "different customers within five minutes",
        "Look at who had the ports closed to it (`flow closed-port`), and block the address if it is nobody's that you \
         know (`mitigation create --block --address`).";
    /// A machine tried very many addresses and ports.
    Sweep = "sweep", "different addresses with their ports within five minutes",
        "If nothing on the machine is meant to look around, take it for broken into: take its groups' outbound rules away, \
         keep its volumes, and look at whom it reached (`flow list --instance`).";
    /// A machine was refused at many addresses and ports by the machines that it asked.
    RefusedByMany = "refused-by-many", "different addresses with their ports within five minutes",
        "Look at which ports it asked for: a service that was moved or is down if it is one port, a search for open ports if \
         it is many.";
    /// A machine asked at many addresses and ports and was not answered or not let through.
    NoAnswers = "no-answers", "different addresses with their ports within five minutes",
        "Ask `flow why` of one of the flows: it names the rule that does not let it through, or says that the way is open \
         and nobody answers.";
    /// A machine sends or receives far more than it is used to.
    SuddenChange = "sudden-change", "bytes within one minute",
        "Look at its largest flows of that minute: a copy or a release if they go where the machine always talks to, data \
         that leaves if they do not.";
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
    /// Some of the flows that counted, in the order in which they came.
    #[serde(default)]
    pub examples: Vec<Example>,
}

/// A flow that counted, as its record says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Example {
    /// The machine at whose port it was recorded, and whose it is.
    pub account: AccountId,
    pub instance: InstanceId,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub destination_port: u16,
    /// The IANA protocol number.
    pub protocol: u8,
    pub verdict: Verdict,
    pub end_reason: EndReason,
    pub packets: u64,
    pub bytes: u64,
    /// When its record ended.
    pub end: Moment,
}

impl Finding {
    /// Flows that a finding names as its evidence.
    pub const EXAMPLES: usize = 5;
    /// The standard error of counts that are not exact, in thousandths.
    pub const STANDARD_ERROR_PER_MILLE: u64 = 16;

    /// How it was decided, in a sentence.
    pub fn decision(&self) -> String {
        let Self { kind, count, threshold, .. } = self;
        let how = if self.exact { "counted one by one" } else { "estimated, with a standard error of 1.6 %" };
        format!("{count} {}, {how}; from {threshold} on it is a finding.", kind.counted())
    }

    /// Where it stands in lists, which have the newest first. It stays while the finding goes on.
    pub const fn place(&self) -> (Moment, FindingId) {
        (self.first_seen, self.id)
    }
}

/// Which findings; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FindingQuery {
    /// Whom they concern; all accounts' if none is given.
    pub account: Option<AccountId>,
    pub id: Option<FindingId>,
    pub kind: Option<FindingKind>,
    pub instance: Option<InstanceId>,
    /// Seen at this time or later.
    pub since: Option<Moment>,
    /// Only those that stand behind this place of the list; both or neither are given.
    pub behind_seen: Option<Moment>,
    pub behind_id: Option<FindingId>,
    /// At most so many; all if not given.
    pub limit: Option<u32>,
}

impl FindingQuery {
    pub fn matches(&self, finding: &Finding) -> bool {
        self.account.is_none_or(|account| account == finding.account)
            && self.id.is_none_or(|id| id == finding.id)
            && self.kind.is_none_or(|kind| kind == finding.kind)
            && self.instance.is_none_or(|instance| Subject::Instance(instance) == finding.subject)
            && self.since.is_none_or(|since| finding.last_seen >= since)
            && self.behind_seen.zip(self.behind_id).is_none_or(|place| finding.place() < place)
    }
}

/// An address outside, and how many different customers it tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scanner {
    pub address: IpAddr,
    pub accounts: u64,
    /// Of `accounts`, in accounts; 0 where they were counted one by one.
    pub standard_error: u64,
}

/// Which addresses outside tried at least so many customers within the time before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScannerQuery {
    pub min_accounts: u64,
    pub window_seconds: u64,
}

impl ScannerQuery {
    /// Windows that can be asked for: what was seen is remembered so long, by the minute.
    pub const SHORTEST: Duration = Duration::from_secs(60);
    pub const LONGEST: Duration = Duration::from_secs(3600);

    pub const fn window(&self) -> Duration {
        Duration::from_secs(self.window_seconds)
    }
}

/// The scanners of a window, most customers first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scanners {
    /// When the window began: at the minute in which it was asked to begin.
    pub from: Moment,
    /// From when on nobody is missing; later than `from` where the collector was started since or had no room.
    pub complete_since: Moment,
    /// Addresses that are left out because the answer is full.
    pub left_out: u64,
    pub items: Vec<Scanner>,
}

/// A machine that had a port closed to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedPort {
    pub account: AccountId,
    pub instance: InstanceId,
    pub host: HostId,
    /// The IANA protocol number.
    pub protocol: u8,
    /// Who had it closed: the machine itself, or a group, an ACL, a mitigation.
    pub end_reason: EndReason,
    pub last_seen: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedPortQuery {
    pub source: IpAddr,
    pub port: u16,
    pub since: Moment,
}

/// Answers, and from when on none is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete<T> {
    pub since: Moment,
    pub items: Vec<T>,
}
