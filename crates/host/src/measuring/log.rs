//! Which events the log has, and which it lacks.
//!
//! Owns both decisions, pure. The log is written before the TPM is told, so after a kill at any point its last events may
//! not be in the registers yet, and never the other way round.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_attest::{
    canonical::CanonicalError,
    event_log::{Event, EventLog},
    measure::{self, MeasureError},
    pcr::{self, Values},
    wire::HashAlgorithm,
};
use lucarne_model::Measurement;

/// The registers that tell of the host: all that are quoted but the one of launches.
pub(super) fn of_the_host() -> Vec<u8> {
    pcr::QUOTED.into_iter().filter(|register| *register != pcr::GUEST).collect()
}

/// A firmware's log with the digests of SHA-256 alone, which is the one bank that we extend and anybody believes.
pub(super) fn of_sha256_alone(mut log: EventLog) -> EventLog {
    let sha256 = HashAlgorithm::Sha256.id();
    log.header.algorithms.retain(|(algorithm, _)| *algorithm == sha256);
    for event in &mut log.events {
        event.digests.retain(|(algorithm, _)| *algorithm == sha256);
    }
    log
}

/// Where a log goes on: its events, and how many of them the TPM has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resumed {
    pub(super) log: EventLog,
    pub(super) extended: usize,
}

/// Goes on with what was kept, if that tells of this boot: it begins with what the `firmware` logged, and the events up to
/// one of ours give the registers their values. Else, and where the TPM has none of ours, begins anew with the firmware's:
/// what ran before the TPM's registers were reset is no part of what runs since. None if not even that explains the
/// registers: then somebody extended them whose log we do not have.
pub(super) fn resume(kept: Option<EventLog>, firmware: &EventLog, registers: &Values) -> Option<Resumed> {
    let kept = kept.filter(|kept| kept.header == firmware.header && kept.events.starts_with(&firmware.events));
    let own = |log: &EventLog| {
        (firmware.events.len() + 1..=log.events.len()).rev().find(|count| explains(log, *count, registers))
    };
    match kept.as_ref().and_then(own).zip(kept) {
        Some((extended, log)) => Some(Resumed { log, extended }),
        None => {
            let extended = firmware.events.len();
            let log = firmware.clone();
            explains(&log, extended, registers).then_some(Resumed { log, extended })
        }
    }
}

fn explains(log: &EventLog, count: usize, registers: &Values) -> bool {
    let begun = EventLog { header: log.header.clone(), events: log.events[..count].to_vec() };
    begun.explains(registers, &of_the_host()).is_ok()
}

/// Why a log cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("an event of ours in it cannot be read")]
    Read(#[source] MeasureError),
    #[error("a measurement has no form in it")]
    Write(#[source] CanonicalError),
}

/// An event for each measurement of which the log says something else, or nothing.
pub(super) fn news(log: &EventLog, found: &[Measurement], firmware_measures: bool) -> Result<Vec<Event>, LogError> {
    let told = measure::measurements(log).map_err(LogError::Read)?;
    let last: BTreeMap<_, _> = told.iter().map(|told| ((told.component, told.name.as_str()), &told.digest)).collect();
    let is_news = |found: &&Measurement| last.get(&(found.component, found.name.as_str())) != Some(&&found.digest);
    let events = found.iter().filter(is_news).map(|found| {
        measure::event(found, measure::register(found.component, firmware_measures)).map_err(LogError::Write)
    });
    events.collect()
}

#[cfg(test)]
mod tests {
    use lucarne_model::{Component, storage::Digest};
    use proptest::prelude::*;

    use super::*;

    fn measured(component: Component, name: &str, digest: u8) -> Measurement {
        Measurement { component, name: name.to_owned(), digest: Digest::from_bytes([digest; 32]) }
    }

    fn firmware() -> EventLog {
        EventLog { events: vec![Event::over_data(0, 8, b"bios".to_vec())], ..EventLog::new() }
    }

    proptest! {
        /// However far the TPM had come when the agent was killed, the log goes on from there and loses nothing; what it had
        /// nothing of is told anew.
        #[test]
        fn a_log_is_gone_on_with_from_where_the_tpm_is(
            digests in prop::collection::vec(any::<u8>(), 0..12), has_firmware in any::<bool>(), cut in any::<prop::sample::Index>(),
        ) {
            let firmware = if has_firmware { firmware() } else { EventLog::new() };
            let found = digests.iter().enumerate().map(|(at, digest)| measured(Component::Hypervisor, &at.to_string(), *digest));
            let found: Vec<Measurement> = found.collect();
            let mut log = firmware.clone();
            log.events.extend(news(&log, &found, has_firmware).unwrap());
            prop_assert_eq!(log.events.len(), firmware.events.len() + found.len());
            prop_assert!(news(&log, &found, has_firmware).unwrap().is_empty());
            let extended = firmware.events.len() + cut.index(found.len() + 1);
            let begun = EventLog { events: log.events[..extended].to_vec(), ..log.clone() };
            let resumed = resume(Some(log.clone()), &firmware, &begun.replay());
            let log = if extended == firmware.events.len() { firmware } else { log };
            prop_assert_eq!(resumed, Some(Resumed { log, extended }));
        }
    }

    #[test]
    fn a_log_of_another_boot_is_begun_anew() {
        let mut kept = firmware();
        kept.events.extend(news(&kept, &[measured(Component::Agent, "lucarne", 1)], true).unwrap());
        let anew = Some(Resumed { log: firmware(), extended: 1 });
        assert_eq!(
            resume(Some(kept.clone()), &firmware(), &kept.replay()),
            Some(Resumed { log: kept.clone(), extended: 2 })
        );
        assert_eq!(resume(Some(kept), &firmware(), &firmware().replay()), anew, "the registers were reset since");
        assert_eq!(resume(Some(EventLog::new()), &firmware(), &firmware().replay()), anew);
        assert_eq!(resume(None, &firmware(), &firmware().replay()), anew);
    }

    #[test]
    fn registers_that_somebody_else_extended_are_not_explained() {
        let mut registers = firmware().replay();
        registers.extend(pcr::HYPERVISOR, [1; 32]);
        assert_eq!(resume(None, &firmware(), &registers), None);
        assert_eq!(resume(Some(firmware()), &firmware(), &registers), None);
    }

    #[test]
    fn what_changes_back_is_told_again() {
        let (old, new) = (measured(Component::Hypervisor, "qemu", 1), measured(Component::Hypervisor, "qemu", 2));
        let mut log = EventLog::new();
        for found in [&old, &new, &old] {
            let events = news(&log, std::slice::from_ref(found), false).unwrap();
            assert_eq!(events.len(), 1);
            log.events.extend(events);
        }
        assert_eq!(measure::measurements(&log), Ok(vec![old.clone(), new, old]));
    }

    #[test]
    fn a_firmware_s_digests_of_other_banks_are_left_out() {
        let mut log = firmware();
        log.header.algorithms.insert(0, (HashAlgorithm::Sha1.id(), 20));
        log.events[0].digests.insert(0, (HashAlgorithm::Sha1.id(), vec![1; 20]));
        let alone = of_sha256_alone(log.clone());
        assert_eq!(alone, firmware());
        assert_eq!(alone.replay(), log.replay());
    }
}
