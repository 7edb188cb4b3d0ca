//! A log is read as it was written; every way to change it is found by replay or refused.

use proptest::{collection::vec, prelude::*};

use super::*;

const BOOT: [u8; 4] = [0, 2, 9, 11];

/// A firmware's log: two banks, an unknown hash, an event that extends nothing, kinds that nobody knows.
fn log() -> impl Strategy<Value = EventLog> {
    let algorithms = vec![(0x0004, 20), (0x000b, 32), (0x0012, 32)];
    let header = Header { platform_class: 0, version: [0, 2, 0, 2], algorithms: algorithms.clone(), vendor: vec![7] };
    let event = (proptest::sample::select(BOOT.to_vec()), any::<u32>(), any::<[u8; 32]>(), vec(any::<u8>(), 0..40));
    let event = event.prop_map(move |(register, kind, digest, data)| Event {
        register: register.into(),
        kind,
        digests: algorithms.iter().map(|(id, size)| (*id, digest[..usize::from(*size)].to_vec())).collect(),
        data,
    });
    vec(event, 2..20).prop_map(move |events| EventLog { header: header.clone(), events })
}

proptest! {
    #[test]
    fn a_log_reads_back_as_it_was_written(log in log()) {
        prop_assert_eq!(EventLog::parse(&log.to_octets()), Ok(log));
    }

    /// Any octets at all: refused, or the same octets again; and never a panic.
    #[test]
    fn what_is_read_writes_the_same_octets(log in log(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut octets = log.to_octets();
        let at = at.index(octets.len());
        octets[at] = to;
        if let Ok(read) = EventLog::parse(&octets) {
            prop_assert_eq!(read.to_octets(), octets);
        }
    }

    #[test]
    fn a_log_that_is_cut_inside_an_event_is_refused(log in log(), cut in any::<prop::sample::Index>()) {
        let whole = log.to_octets();
        let last = EventLog { events: log.events[..log.events.len() - 1].to_vec(), ..log.clone() }.to_octets().len();
        let cut = last + 1 + cut.index(whole.len() - last - 1);
        prop_assert_eq!(EventLog::parse(&whole[..cut]), Err(EventLogError::Short { event: log.events.len() }));
    }

    /// The events that extend are all there, once, and in their order, or the registers say so.
    #[test]
    fn an_event_that_is_added_missing_changed_or_elsewhere_is_found(
        log in log(),
        at in any::<prop::sample::Index>(),
        other in any::<[u8; 32]>(),
    ) {
        let quoted = log.replay();
        prop_assert_eq!(log.explains(&quoted, &BOOT), Ok(()));
        let at = at.index(log.events.len());
        prop_assume!(log.events[at].kind != NO_ACTION);
        let tampered = |change: &dyn Fn(&mut Vec<Event>)| {
            let mut events = log.events.clone();
            change(&mut events);
            EventLog { events, ..log.clone() }.explains(&quoted, &BOOT)
        };
        let refused = |result| matches!(result, Err(EventLogError::OtherValue { .. }));
        let missing = tampered(&|events| drop(events.remove(at)));
        let added = tampered(&|events| events.insert(at, events[at].clone()));
        let changed = tampered(&|events| events[at].digests[1].1 = other.to_vec());
        let elsewhere = tampered(&|events| events[at].register = 12);
        for result in [missing, added, changed, elsewhere] {
            prop_assert!(refused(result));
        }
        let next = (at + 1..log.events.len()).find(|next| {
            let (one, two) = (&log.events[at], &log.events[*next]);
            two.register == one.register && two.kind != NO_ACTION && two.digests != one.digests
        });
        if let Some(next) = next {
            prop_assert!(refused(tampered(&|events| events.swap(at, next))));
        }
    }
}

#[test]
fn a_log_of_sha1_alone_is_refused_as_such() {
    let old = [&0u32.to_le_bytes()[..], &8u32.to_le_bytes(), &[1; 20], &2u32.to_le_bytes(), b"ab"].concat();
    assert_eq!(EventLog::parse(&old), Err(EventLogError::Sha1Only));
    let mut log = EventLog::new();
    log.header.algorithms = vec![(0x0004, 20)];
    assert_eq!(EventLog::parse(&log.to_octets()), Err(EventLogError::Sha1Only));
    assert_eq!(EventLogError::Sha1Only.code(), ErrorCode::EvidenceSha1Only);
}

#[test]
fn a_digest_too_few_too_many_or_of_another_hash_is_refused() {
    let whole = Event::over_data(11, TAGGED, b"qemu".to_vec());
    let with = |digests| EventLog { events: vec![Event { digests, ..whole.clone() }], ..EventLog::new() }.to_octets();
    let digest = whole.digests[0].clone();
    for digests in [vec![], vec![digest.clone(), digest], vec![(0x000c, vec![0; 48])]] {
        assert!(matches!(EventLog::parse(&with(digests)), Err(EventLogError::Malformed { event: 1, .. })));
    }
}

#[test]
fn no_action_extends_nothing_and_a_startup_locality_begins_register_0() {
    let mut log = EventLog::new();
    let mut event = Event::over_data(0, NO_ACTION, [&LOCALITY[..], &[3]].concat());
    event.digests[0].1 = vec![0; 32];
    log.events.push(event);
    let begin: [u8; 32] = std::array::from_fn(|at| if at == 31 { 3 } else { 0 });
    assert_eq!(log.replay().get(0), Some(begin));
}

#[test]
fn a_register_that_nobody_tells_of_must_be_as_it_was_at_the_start() {
    let mut quoted = Values::default();
    assert_eq!(EventLog::new().explains(&quoted, &BOOT), Ok(()));
    quoted.set(11, [1; 32]);
    let refused = EventLog::new().explains(&quoted, &BOOT).expect_err("nobody told of it");
    assert_eq!(refused.code(), ErrorCode::EventLogMismatch);
}

#[test]
fn an_events_data_is_what_was_measured_only_if_its_digest_says_so() {
    let mut event = Event::over_data(11, TAGGED, b"qemu".to_vec());
    assert!(event.is_over_data());
    event.data[0] ^= 1;
    assert!(!event.is_over_data());
}
