//! What could not be kept, counted by account and cause until it can be told.
//!
//! Owns the counting. A tally is bounded by accounts times causes, however much is lost. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_model::{AccountId, FlowLoss, FlowRecord, HostId, LossCause, Moment};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally(BTreeMap<(AccountId, LossCause), Lost>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lost {
    since: Moment,
    until: Moment,
    records: u64,
}

impl Tally {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Records of an account were lost at some time from `since` to `until`.
    pub(super) fn note(
        &mut self,
        account: AccountId,
        cause: LossCause,
        records: u64,
        (since, until): (Moment, Moment),
    ) {
        if records == 0 {
            return;
        }
        let lost = self.0.entry((account, cause)).or_insert(Lost { since, until, records: 0 });
        lost.since = lost.since.min(since);
        lost.until = lost.until.max(until);
        lost.records = lost.records.saturating_add(records);
    }

    /// These records are lost: each since its first packet.
    pub(super) fn note_records(&mut self, records: &[FlowRecord], cause: LossCause) {
        records.iter().for_each(|record| self.note(record.account, cause, 1, (record.start, record.end)));
    }

    /// What was counted elsewhere is counted here.
    pub(super) fn add(&mut self, loss: &FlowLoss) {
        self.note(loss.account, loss.cause, loss.records, (loss.since, loss.until));
    }

    /// What there is to tell.
    pub(super) fn losses(&self, host: HostId) -> Vec<FlowLoss> {
        let loss = |(&(account, cause), lost): (&(AccountId, LossCause), &Lost)| FlowLoss {
            account,
            host,
            since: lost.since,
            until: lost.until,
            records: lost.records,
            cause,
        };
        self.0.iter().map(loss).collect()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_by_account_and_cause_with_the_time_that_they_span() {
        let (a, b, host) = (AccountId::from_bits(1), AccountId::from_bits(2), HostId::from_bits(3));
        let at = Moment::from_secs;
        let mut tally = Tally::default();
        tally.note(a, LossCause::SpoolFull, 2, (at(10), at(11)));
        tally.note(a, LossCause::SpoolFull, 3, (at(5), at(9)));
        tally.note(a, LossCause::DiskError, 1, (at(1), at(1)));
        tally.note(b, LossCause::SpoolFull, 7, (at(2), at(3)));
        tally.note(b, LossCause::DiskError, 0, (at(2), at(3)));
        let loss = |account, since, until, records, cause| FlowLoss {
            account,
            host,
            since: at(since),
            until: at(until),
            records,
            cause,
        };
        let told = tally.losses(host);
        let expected = [
            loss(a, 5, 11, 5, LossCause::SpoolFull),
            loss(a, 1, 1, 1, LossCause::DiskError),
            loss(b, 2, 3, 7, LossCause::SpoolFull),
        ];
        assert_eq!(told, expected);
        let mut again = Tally::default();
        told.iter().for_each(|loss| again.add(loss));
        assert_eq!(again, tally);
    }
}
