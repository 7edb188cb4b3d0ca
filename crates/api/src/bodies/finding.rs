//! Findings, scanners, closed ports and losses as they are asked for and shown. Owns what of them operators alone are shown.

use std::net::IpAddr;

use lucarne_model::{
    AccountId, EndReason, FindingId, HostId, InstanceId, LossCause, Moment, VpcId,
    finding::{Example, Finding, FindingKind, Subject},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which findings; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FindingsQuery {
    /// Whom they concern: for operators, who are shown all accounts' if it is not given.
    pub account: Option<AccountId>,
    pub kind: Option<FindingKind>,
    /// The machine that stands out.
    pub instance: Option<InstanceId>,
    /// Seen at this time or later, in microseconds since 1970.
    pub since: Option<Moment>,
    /// At most this many, 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    pub page_token: Option<String>,
}

/// A finding, and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownFinding {
    pub id: FindingId,
    pub kind: FindingKind,
    /// Whom it concerns: the machine's account, or the operator's for what goes across accounts.
    pub account: AccountId,
    /// Who stands out.
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
    /// Some of the flows that counted.
    pub examples: Vec<Example>,
    /// What it means, in a sentence.
    pub meaning: String,
    /// How it was decided.
    pub decision: String,
    /// What to do about it.
    pub advice: String,
}

impl From<Finding> for ShownFinding {
    fn from(finding: Finding) -> Self {
        let (meaning, advice) = (finding.kind.meaning().into(), finding.kind.advice().into());
        let decision = finding.decision();
        let Finding { id, kind, account, subject, vpc, first_seen, last_seen, count, exact, threshold, examples } =
            finding;
        Self {
            id,
            kind,
            account,
            subject,
            vpc,
            first_seen,
            last_seen,
            count,
            exact,
            threshold,
            examples,
            meaning,
            decision,
            advice,
        }
    }
}

/// Which addresses outside tried many different customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScannersQuery {
    /// How many different customers at least, from 2 on; 1000 if not given.
    pub min_accounts: Option<u64>,
    /// Within how many seconds before now, 60 to 3600; 300 if not given. Counted from the beginning of a minute.
    pub window_seconds: Option<u64>,
}

/// Who had a port closed to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedPortsQuery {
    pub source: IpAddr,
    /// The destination port that it tried.
    pub port: u16,
    /// At this time or later, in microseconds since 1970; an hour ago if not given.
    pub since: Option<Moment>,
}

/// Machines that had a port closed to a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClosedPorts {
    /// From when on none is missing; later than asked for where the collector was started since or had no room.
    pub complete_since: Moment,
    pub items: Vec<ShownClosedPort>,
}

/// A machine that had the port closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownClosedPort {
    pub account: AccountId,
    pub instance: InstanceId,
    /// Where it ran; shown to operators only.
    pub host: Option<HostId>,
    /// The IANA protocol number.
    pub protocol: u8,
    /// Who had it closed: the machine itself, or a group, an ACL, a mitigation.
    pub end_reason: EndReason,
    pub last_seen: Moment,
}

/// Which losses of flow records; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LossesQuery {
    /// Whose records were lost: for operators, who are shown all accounts' if it is not given.
    pub account: Option<AccountId>,
    /// Losses that go on until this or later, in microseconds since 1970.
    pub since: Option<Moment>,
    /// Losses that began before this.
    pub until: Option<Moment>,
    /// At most this many, 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    pub page_token: Option<String>,
}

/// Flow records of one account that were made and could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShownLoss {
    /// Whose they were; the operator's account where damage hides whose.
    pub account: AccountId,
    /// Where they were lost; shown to operators only.
    pub host: Option<HostId>,
    /// Not before this were records lost...
    pub since: Moment,
    /// ...and not after this.
    pub until: Moment,
    /// How many were lost.
    pub records: u64,
    pub cause: LossCause,
}
