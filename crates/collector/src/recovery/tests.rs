//! Every instant at which a collector can be killed while it seals and merges: whatever is on the disk then, a new start
//! finds each acknowledged record exactly once.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use lucarne_flows::{ipfix::Mark, receipts};
use lucarne_model::Moment;

use super::*;
use crate::{
    Kept,
    hour::Hour,
    part::{Effort, PartReader, merge},
    receipts::Receipts,
    received::Received,
    sealer::{seal, write_parts},
    test_records::{NOW, numbered, record},
};

fn recover(state_dir: &Path) -> Result<Recovered, RecoveryError> {
    super::recover(state_dir, &Folders::of(state_dir))
}

/// What a collector has on its disk after some segments of 40 records, the last of them open.
fn write_segments(state_dir: &Path, count: u64) {
    let Recovered { mut log, .. } = recover(state_dir).unwrap();
    for segment in 0..count {
        log.rotate(&[Mark { session: 9, next: segment * 40 }], NOW).unwrap();
        let group = log.prepare(
            vec![Received::of(&numbered(segment * 40..segment * 40 + 40))],
            &[Mark { session: 9, next: segment * 40 + 40 }],
            NOW,
        );
        log.append(&group.unwrap()).unwrap();
    }
}

/// All that a start finds: the records by their flow id, with how often each is there.
fn found(recovered: &Recovered) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for account in [record(0).account, record(1).account] {
        let snapshot = recovered.catalog.snapshot(account, Hour::of(Moment::EPOCH), Hour::of(Moment(u64::MAX)));
        let parts = snapshot.hours.iter().flat_map(|(_, parts)| parts).flat_map(|part| PartReader::all(part).unwrap());
        let unsealed = snapshot.unsealed.iter().flat_map(|chunk| chunk.records_of(None));
        let all: Vec<Kept> = parts.map(Result::unwrap).chain(unsealed).collect();
        for kept in all.iter().filter(|kept| kept.record.account == account) {
            assert_eq!(kept.record, record(kept.record.flow_id));
            *times.entry(kept.record.flow_id).or_default() += 1;
        }
    }
    times
}

/// A start on a copy of what is on the disk at this instant.
fn assert_all_once(state_dir: &Path, records: u64) {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(state_dir, copy.path());
    for start in ["first", "second"] {
        let recovered = recover(copy.path()).unwrap();
        assert_eq!(found(&recovered), (0..records).map(|id| (id, 1)).collect(), "at the {start} start");
        assert_eq!(recovered.sessions.next(9), Some(records));
        assert_receipts_hold(copy.path(), &recovered);
    }
}

/// After a start each part that counts has its receipt, and the chain is whole. Receipts of parts that will be sealed
/// again may be there too.
fn assert_receipts_hold(state_dir: &Path, recovered: &Recovered) {
    let store = Receipts::open(state_dir).unwrap();
    store.reconcile(&recovered.parts, NOW).unwrap();
    for account in [record(0).account, record(1).account] {
        let page = store.page(account, 0).unwrap();
        let of_account = || recovered.parts.iter().filter(|part| part.place.account == account);
        let file = |name: &str| {
            let path = &of_account().find(|part| part.place.name() == name)?.path;
            let octets = fs::read(path).unwrap();
            Some((octets.len() as u64, receipts::Digest::of(&octets)))
        };
        let receipted =
            page.receipts.iter().map(|signed| (signed.receipt.part.name.clone(), signed.receipt.part.clone()));
        let receipted: BTreeMap<_, _> = receipted.collect();
        let anything = |name: &str| file(name).or_else(|| receipted.get(name).map(|part| (part.size, part.sha256)));
        let chain = receipts::verify(account, &page.key, &page.receipts, None, anything).unwrap();
        let current: Vec<&str> = chain.current().map(|(_, part)| part.name.as_str()).collect();
        assert!(of_account().all(|part| current.contains(&part.place.name().as_str())));
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn killed_at_any_step_of_sealing_no_record_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 3);
    assert_all_once(dir.path(), 120);
    let (log_dir, folders) = (dir.path().join(LOG_DIR), Folders::of(dir.path()));
    let store = Receipts::open(dir.path()).unwrap();
    while let Some((segment, chunks)) = recover(dir.path()).unwrap().catalog.next_to_seal() {
        let parts = write_parts(&folders, segment, Effort::Fresh, &chunks).unwrap();
        let parts: Vec<_> = parts.into_iter().map(|new| new.part).collect();
        assert_eq!(parts.len(), 4); // of two accounts in two locations
        assert_all_once(dir.path(), 120); // parts are there, the segment is too
        fs::rename(&parts[0].path, parts[0].path.with_extension("parquet.tmp")).unwrap();
        assert_all_once(dir.path(), 120); // one part is half-written
        fs::write(&parts[1].path, b"cut").unwrap();
        assert_all_once(dir.path(), 120); // and the other is damaged: they do not count yet
        seal(&log_dir, &folders, &store, segment, &chunks).unwrap();
        assert_all_once(dir.path(), 120); // the segment is gone
    }
    assert_eq!(log::segments(&log_dir).unwrap(), [3]);
}

#[test]
fn killed_at_any_step_of_merging_no_record_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 4);
    let (log_dir, folders) = (dir.path().join(LOG_DIR), Folders::of(dir.path()));
    let store = Receipts::open(dir.path()).unwrap();
    let recovered = recover(dir.path()).unwrap();
    while let Some((segment, chunks)) = recovered.catalog.next_to_seal() {
        let parts = seal(&log_dir, &folders, &store, segment, &chunks).unwrap();
        recovered.catalog.sealed(segment, parts);
    }
    let crowded = recovered.catalog.crowded_folders();
    assert_eq!(crowded.len(), 4); // an hour of each account and location
    for parts in crowded {
        let merged = merge(&folders, &parts).unwrap().unwrap().part;
        assert_eq!((merged.place.from, merged.place.to), (1, 3));
        assert_all_once(dir.path(), 160); // the merged part and all that it covers are there
        fs::remove_file(&parts[1].path).unwrap();
        assert_all_once(dir.path(), 160); // one of the covered ones is removed, of the operator's own columns not yet
        recovered.catalog.merged(merged);
    }
    assert_eq!(found(&recovered).len(), 160);
    assert!(recovered.catalog.crowded_folders().is_empty());
    assert_all_once(dir.path(), 160);
}

/// The file of a merged part stays as long as a question that began before reads it.
#[test]
fn a_merged_part_is_removed_when_its_last_reader_is_done() {
    let dir = tempfile::tempdir().unwrap();
    write_segments(dir.path(), 3);
    let (log_dir, folders) = (dir.path().join(LOG_DIR), Folders::of(dir.path()));
    let store = Receipts::open(dir.path()).unwrap();
    let catalog = Arc::new(recover(dir.path()).unwrap().catalog);
    while let Some((segment, chunks)) = catalog.next_to_seal() {
        catalog.sealed(segment, seal(&log_dir, &folders, &store, segment, &chunks).unwrap());
    }
    let reading = catalog.crowded_folders().remove(0);
    let old: Vec<_> = reading.iter().flat_map(|part| [part.path.clone(), part.own_path.clone()]).collect();
    catalog.merged(merge(&folders, &reading).unwrap().unwrap().part);
    assert!(old.iter().all(|path| path.exists()));
    drop(reading);
    assert!(old.iter().all(|path| !path.exists()));
}

#[test]
fn files_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let strange = Folders::of(dir.path()).shown.join("AWSLogs/aws-account-id=x");
    fs::create_dir_all(&strange).unwrap();
    fs::write(strange.join("0-0.parquet"), b"theirs").unwrap();
    recover(dir.path()).unwrap();
    assert!(strange.join("0-0.parquet").exists());
}
