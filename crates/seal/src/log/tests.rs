//! Nothing leaves the log, nothing in it changes, and what is not yet to be read cannot be guessed or exchanged.

use super::*;
use crate::example::{HOST, INSTANCE, NOW, TENANT, host_key, person};

fn record(number: u8) -> Record {
    Record {
        request: RequestId::of_octets(&[number]),
        verdict: if number.is_multiple_of(2) {
            Verdict::Allowed
        } else {
            Verdict::Refused(lucarne_model::ErrorCode::SealNotGranted)
        },
        asked: Some(Asked {
            operation: OperationName::GuestMemoryRead,
            instance: Some(INSTANCE),
            account: TENANT,
            signers: vec![person("alice")],
            purpose: "ticket 4711".to_owned(),
        }),
    }
}

fn filled(count: u8) -> (Log, Vec<Entry>) {
    let (mut log, mut entries) = (Log::default(), Vec::new());
    for number in 0..count {
        let entry = log.next(Content::Open(record(number)), NOW);
        log.hold(&entry).expect("the next entry");
        entries.push(entry);
    }
    (log, entries)
}

fn read_again(entries: &[Entry]) -> Result<Log, LogError> {
    entries.iter().try_fold(Log::default(), |mut log, entry| {
        log.hold(entry)?;
        Ok(log)
    })
}

#[test]
fn a_log_reads_back_and_an_entry_that_was_changed_or_taken_out_is_found() {
    let (log, entries) = filled(6);
    let again = read_again(&entries).expect("the log");
    assert_eq!(again.head(HOST, NOW), log.head(HOST, NOW));
    for at in 0..entries.len() - 1 {
        let mut changed = entries.clone();
        changed[at].content = Content::Open(record(77));
        assert_eq!(read_again(&changed).map(|log| log.size()), Err(LogError::Chain(at as u64 + 1)));
        let mut shorter = entries.clone();
        shorter.remove(at);
        assert!(matches!(read_again(&shorter), Err(LogError::Order { .. })));
    }
}

#[test]
fn a_tenant_proves_that_its_entry_is_in_the_log_that_the_host_signed() {
    let (log, entries) = filled(6);
    let envelope = host_key().sign(&log.head(HOST, NOW)).expect("an envelope");
    let head = Head::open(&envelope, &host_key().public()).expect("a head");
    for entry in &entries {
        let proof = log.prove_inclusion(entry.index, head.size).expect("a proof");
        assert_eq!(head.includes(entry, &proof), Ok(()));
        let mut other = entry.clone();
        other.content = Content::Open(record(77));
        assert!(head.includes(&other, &proof).is_err());
    }
}

#[test]
fn a_log_that_was_rewritten_does_not_continue_what_was_seen() {
    let (mut log, _) = filled(3);
    let seen = log.head(HOST, NOW);
    let next = log.next(Content::Open(record(3)), NOW);
    log.hold(&next).expect("the next entry");
    let proof = log.prove_consistency(3, 4).expect("a proof");
    assert_eq!(log.head(HOST, NOW).continues(&seen, &proof), Ok(()));
    let mut fork = Log::default();
    for number in 10..14 {
        let entry = fork.next(Content::Open(record(number)), NOW);
        fork.hold(&entry).expect("the next entry");
    }
    let forked = fork.prove_consistency(3, 4).expect("a proof");
    assert!(matches!(fork.head(HOST, NOW).continues(&seen, &forked), Err(LogError::Forked { .. })));
}

#[test]
fn an_entry_under_embargo_is_in_the_log_and_opens_as_nothing_else_later() {
    let mut log = Log::default();
    let opening = Opening::new(record(1), [3; BLINDING]);
    let commitment = opening.commitment().expect("a commitment");
    let entry = log.next(Content::Sealed { commitment, embargo_until: NOW }, NOW);
    log.hold(&entry).expect("the next entry");
    let text = serde_json::to_string(&entry).expect("a text");
    assert!(!text.contains("alice") && !text.contains("guest.memory"));
    assert_eq!(opening.opens(&entry), Ok(()));
    assert!(Opening::new(record(2), [3; BLINDING]).opens(&entry).is_err());
    assert!(Opening::new(record(1), [4; BLINDING]).opens(&entry).is_err());
}
