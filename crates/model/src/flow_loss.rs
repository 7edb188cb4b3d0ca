//! Flow records that were made and could not be kept: a loss is itself a record.
//!
//! Owns the closed list of causes and the shape of what is told. Counting is the work of whoever loses something.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, HostId, Moment};

/// Why records were lost. The discriminant is the value of the IPFIX element `lossCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum LossCause {
    /// Flows ended faster than the host's spool took their records.
    SwitchQueueFull = 1,
    /// The host's spool had reached its size while the collector was away or too slow.
    SpoolFull = 2,
    /// The host's disk refused or damaged them.
    DiskError = 3,
}

impl LossCause {
    pub const ALL: &'static [Self] = &[Self::SwitchQueueFull, Self::SpoolFull, Self::DiskError];

    pub const fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.code() == code)
    }
}

/// Flow records of one account that one host lost within a time, for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowLoss {
    /// Whose records they were; the operator's account where damage hides whose.
    pub account: AccountId,
    pub host: HostId,
    /// Not before this were records lost...
    pub since: Moment,
    /// ...and not after this.
    pub until: Moment,
    /// How many were lost.
    pub records: u64,
    pub cause: LossCause,
}

/// A question for kept losses: those that touch the time from `since` to `until`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowLossQuery {
    /// Whose; none asks for all accounts' and is for operators only.
    pub account: Option<AccountId>,
    /// The earliest time, included; none asks from the first that is kept.
    pub since: Option<Moment>,
    /// The latest time, left out; none asks for everything up to now.
    pub until: Option<Moment>,
}

impl FlowLossQuery {
    pub fn matches(&self, loss: &FlowLoss) -> bool {
        self.account.is_none_or(|account| account == loss.account)
            && self.since.is_none_or(|since| loss.until >= since)
            && self.until.is_none_or(|until| loss.since < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_reads_back_from_its_code_and_no_other_code_names_one() {
        let codes: Vec<u8> = (0..=u8::MAX).filter(|code| LossCause::from_code(*code).is_some()).collect();
        assert_eq!(codes, LossCause::ALL.iter().map(|cause| cause.code()).collect::<Vec<_>>());
    }

    #[test]
    fn a_loss_is_found_by_any_time_that_it_touches_and_by_its_account_alone() {
        let (account, other) = (AccountId::from_bits(1), AccountId::from_bits(2));
        let at = Moment::from_secs;
        let loss = FlowLoss {
            account,
            host: HostId::from_bits(1),
            since: at(10),
            until: at(20),
            records: 1,
            cause: LossCause::SpoolFull,
        };
        let asks = |account, since, until| FlowLossQuery { account, since, until }.matches(&loss);
        assert!(asks(None, None, None) && asks(Some(account), Some(at(20)), Some(at(11))));
        assert!(!asks(Some(other), None, None));
        assert!(!asks(None, Some(at(21)), None) && !asks(None, None, Some(at(10))));
    }
}
