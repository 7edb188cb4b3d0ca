//! Evidence: some of the flows that made somebody stand out.
//!
//! Owns which flows are noted, and for how long. Nothing is noted of those who are far from standing out, so what is held
//! follows from the bounds of what is counted.

use std::collections::HashMap;

use lucarne_model::{
    InstanceId, Moment,
    finding::{Example, Finding, FindingKind, Subject},
};

use super::Sighting;

/// Flows are noted from this part of a threshold on.
const PART: u64 = 4;

#[derive(Debug, Default)]
pub(crate) struct Evidence {
    noted: HashMap<(FindingKind, Subject), Vec<Example>>,
    /// Each machine's record with the most bytes of the current minute.
    largest: HashMap<InstanceId, Example>,
}

impl Evidence {
    /// A record counted for `subject`, which has met `met` of the `least` that make a finding.
    pub(crate) fn see(&mut self, kind: FindingKind, subject: Subject, met: usize, least: u64, record: &Sighting) {
        if (met as u64).saturating_mul(PART) < least {
            return;
        }
        let noted = self.noted.entry((kind, subject)).or_default();
        let example = example(record);
        if noted.len() < Finding::EXAMPLES && !noted.iter().any(|other| is_same_flow(other, &example)) {
            noted.push(example);
        }
    }

    pub(crate) fn see_bytes(&mut self, record: &Sighting) {
        let largest = self.largest.entry(record.instance).or_insert_with(|| example(record));
        if largest.bytes < record.bytes {
            *largest = example(record);
        }
    }

    /// The machines' largest records of the minute that ends.
    pub(crate) fn take_largest(&mut self) -> HashMap<InstanceId, Example> {
        std::mem::take(&mut self.largest)
    }

    pub(crate) fn of(&self, kind: FindingKind, subject: Subject) -> Vec<Example> {
        self.noted.get(&(kind, subject)).cloned().unwrap_or_default()
    }

    /// Forgets those of whom nothing was noted since.
    pub(crate) fn forget_before(&mut self, since: Moment) {
        self.noted.retain(|_, noted| noted.last().is_some_and(|last| last.end >= since));
    }
}

fn is_same_flow(one: &Example, other: &Example) -> bool {
    let key = |flow: &Example| (flow.instance, flow.source, flow.destination, flow.destination_port, flow.protocol);
    key(one) == key(other)
}

fn example(record: &Sighting) -> Example {
    Example {
        account: record.account,
        instance: record.instance,
        source: record.source,
        destination: record.destination,
        destination_port: record.destination_port,
        protocol: record.protocol,
        verdict: record.verdict,
        end_reason: record.end_reason,
        packets: record.packets,
        bytes: record.bytes,
        end: record.end,
    }
}
