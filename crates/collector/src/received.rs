//! Records as a host sent them: as columns for questions, and as octets for the log.
//!
//! Owns that both say the same. Octets that stand as we write them go to the log as they came; where a record was changed,
//! left out, or written by a sender of another version, the log gets its run of records written anew.

use lucarne_flows::{
    columns::{FlowColumns, millis},
    ipfix::{DecodeError, Decoded, Decoder, Exporter, Run},
};
use lucarne_model::{HostId, Moment};

/// Why nothing of a message was taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("a message cannot be decoded: {0}")]
    Message(#[source] DecodeError),
    #[error("its certificate is of {certified} and a record claims {claimed}: nothing of the message is kept")]
    Impostor { certified: HostId, claimed: HostId },
}

#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) columns: FlowColumns,
    /// The runs of the records, and the place of the message that brought each.
    runs: Vec<(Run, usize)>,
    /// As they came: what goes to the log is copied once, from here.
    messages: Vec<Vec<u8>>,
}

impl Received {
    /// Appends a message's records, all of which must be of the host that sent it: every host speaks of itself alone, and
    /// its certificate is the proof, not the record.
    pub(crate) fn take(&mut self, decoder: &mut Decoder, message: Vec<u8>, host: HostId) -> Result<Decoded, Refused> {
        let (rows, known) = (self.columns.len(), self.columns.identity.values().len());
        let decoded = decoder.decode(&message, &mut self.columns).map_err(Refused::Message)?;
        let new = self.columns.identity.values().iter().skip(known).map(|identity| identity.host);
        let claims = new.chain(decoded.losses.iter().map(|loss| loss.host));
        if let Some(claimed) = claims.into_iter().find(|claimed| *claimed != host) {
            self.columns.truncate(rows);
            return Err(Refused::Impostor { certified: host, claimed });
        }
        self.keep(&decoded.runs, message);
        Ok(decoded)
    }

    /// Keeps a message of which the records are in the columns.
    pub(crate) fn keep(&mut self, runs: &[Run], message: Vec<u8>) {
        if runs.is_empty() {
            return;
        }
        self.runs.extend(runs.iter().map(|run| (run.clone(), self.messages.len())));
        self.messages.push(message);
    }

    pub(crate) const fn len(&self) -> usize {
        self.columns.len()
    }

    /// Octets of the messages that are kept.
    pub(crate) fn octets(&self) -> usize {
        self.messages.iter().map(Vec::len).sum()
    }

    /// Drops so many records from the front.
    pub(crate) fn leave_out(&mut self, count: usize) {
        let mut left = count.min(self.len());
        self.columns.leave_out(left);
        for (run, _) in &mut self.runs {
            let gone = left.min(run.records);
            if gone > 0 {
                (run.records, run.own) = (run.records - gone, None);
                left -= gone;
            }
        }
        self.runs.retain(|(run, _)| run.records > 0);
    }

    /// Gives what ended after `latest` the time of its arrival, and tells how many that were.
    pub(crate) fn redate(&mut self, latest: Moment, now: Moment) -> usize {
        let (latest, now) = (millis(latest), millis(now));
        let mut changed = 0;
        let mut first = 0;
        for (run, _) in &mut self.runs {
            let rows = first..first + run.records;
            first = rows.end;
            let before = changed;
            let times = self.columns.start[rows.clone()].iter_mut().zip(&mut self.columns.end[rows]);
            for (start, end) in times.filter(|(_, end)| **end > latest) {
                (*start, *end) = ((*start).min(now), now);
                changed += 1;
            }
            if changed > before {
                run.own = None;
            }
        }
        changed
    }

    /// The messages for the log.
    pub(crate) fn messages(&self, exporter: &mut Exporter, now: Moment) -> Vec<Vec<u8>> {
        let runs = self.runs.iter().map(|(run, at)| (run, self.messages.get(*at).map_or(&[][..], Vec::as_slice)));
        exporter.pass_on(&self.columns, runs, now)
    }
}

#[cfg(test)]
impl Received {
    /// Of records that are written to the log anew.
    pub(crate) fn of(records: &[lucarne_model::FlowRecord]) -> Self {
        let columns = FlowColumns::of(records);
        Self { runs: vec![(Run { records: columns.len(), own: None }, 0)], columns, messages: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lucarne_model::FlowRecord;
    use proptest::prelude::*;

    use super::*;
    use crate::test_records::{HOST, NOW, numbered};

    /// What a host sent in messages of a few records.
    fn sent(records: &[FlowRecord]) -> Received {
        let (mut decoder, mut received) = (Decoder::new(), Received::default());
        for message in Exporter::new(9).encode(records, NOW) {
            received.take(&mut decoder, message, HOST).unwrap();
        }
        received
    }

    fn logged(received: &Received) -> Vec<FlowRecord> {
        let (mut exporter, mut decoder) = (Exporter::new(0).with_limit(Exporter::STREAM), Decoder::new());
        let messages = received.messages(&mut exporter, NOW);
        messages.iter().flat_map(|message| decoder.decode_rows(message).unwrap()).collect()
    }

    proptest! {
        /// Whatever is left out and dated anew, the log has just the records that questions see.
        #[test]
        fn the_log_and_the_columns_say_the_same(count in 0u64..60, gone in 0usize..70, late in 0u64..80) {
            let records = numbered(0..count);
            let mut received = sent(&records);
            received.leave_out(gone);
            let latest = NOW.plus(Duration::from_secs(late));
            let changed = received.redate(latest, NOW);
            let kept = &records[gone.min(records.len())..];
            prop_assert_eq!(changed, kept.iter().filter(|record| record.end > latest).count());
            let expected = kept.iter().cloned().map(|record| match record.end > latest {
                true => FlowRecord { start: record.start.min(NOW), end: NOW, ..record },
                false => record,
            });
            prop_assert_eq!(received.columns.rows().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            prop_assert_eq!(logged(&received), received.columns.rows().collect::<Vec<_>>());
        }
    }

    #[test]
    fn of_a_message_with_another_hosts_record_nothing_is_taken() {
        let mut received = sent(&numbered(0..5));
        let records =
            [numbered(5..6), vec![FlowRecord { host: HostId::from_bits(77), ..numbered(6..7).remove(0) }]].concat();
        let message = Exporter::new(9).with_limit(Exporter::STREAM).encode(&records, NOW).remove(0);
        let refused = received.take(&mut Decoder::new(), message, HOST).unwrap_err();
        assert!(matches!(refused, Refused::Impostor { certified: HOST, .. }), "{refused}");
        assert_eq!(logged(&received), numbered(0..5));
        assert_eq!(received.len(), 5);
    }
}
