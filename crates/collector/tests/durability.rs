//! The promise behind an acknowledgement: kill -9, reconnects and full disks lose nothing and double nothing.

#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod support;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use lucarne_collector::Connection;
use lucarne_flows::columns::FlowColumns;
use lucarne_model::FlowRecord;
use support::{
    Authority, Collector, NEVER, Process, QUICK, Wire, all, answering, everything, export, exported, files, health,
    test_records::{HOST, numbered, record},
    until,
};

/// How often each flow id is found, over both accounts of the made-up records.
async fn found(connection: &Connection) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for account in [record(0).account, record(1).account] {
        for found in all(connection, everything(account)).await {
            assert_eq!(found, record(found.flow_id));
            *times.entry(found.flow_id).or_default() += 1;
        }
    }
    times
}

fn once(ids: impl Iterator<Item = u64>) -> BTreeMap<u64, usize> {
    ids.map(|id| (id, 1)).collect()
}

#[test]
#[ignore = "the process that other tests kill"]
fn collector_process() {
    Process::body();
}

/// Two exporters send without pause while the collector is killed at any instants of taking, sealing and merging.
#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_at_any_instant_loses_no_acknowledged_record_and_doubles_none() {
    const EACH: u64 = 4000;
    const KILLS: u64 = 15;
    let dir = tempfile::tempdir().unwrap();
    let current: Arc<Mutex<Option<Connection>>> = Arc::default();
    let enough = Arc::new(AtomicBool::new(false));
    let exporter = |session: u64| {
        let (current, enough) = (current.clone(), enough.clone());
        let records = numbered(session * EACH..(session + 1) * EACH);
        std::thread::spawn(move || {
            let sent = |connection: &Connection| export(connection, session, &records, 20).is_ok();
            loop {
                let connection = current.lock().unwrap().clone();
                if connection.is_some_and(|connection| sent(&connection)) && enough.load(Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let exporters = [exporter(0), exporter(1)];
    for kill in 0..KILLS {
        let process = Process::start(dir.path());
        *current.lock().unwrap() = Some(answering(dir.path()).await);
        tokio::time::sleep(Duration::from_millis(40 + kill * 67 % 230)).await;
        process.kill();
    }
    enough.store(true, Relaxed);
    let process = Process::start(dir.path());
    let connection = answering(dir.path()).await;
    *current.lock().unwrap() = Some(connection.clone());
    for exporter in exporters {
        tokio::task::spawn_blocking(|| exporter.join().unwrap()).await.unwrap();
    }
    assert_eq!(found(&connection).await, once(0..2 * EACH));
    process.kill();
    let _process = Process::start(dir.path());
    let connection = answering(dir.path()).await;
    assert_eq!(found(&connection).await, once(0..2 * EACH));
    until("sealing", async || (health(&connection).await.unsealed == 0).then_some(())).await;
    assert_eq!(found(&connection).await, once(0..2 * EACH));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_after_a_reconnect_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    let connection = collector.connection.clone();
    let overlapping = move || {
        let records = numbered(0..100);
        let mut old = Wire::connect(&connection, 7, 0).unwrap();
        old.write(&records[..60]).unwrap();
        while old.next < 60 {
            old.read_next().unwrap();
        }
        // The old connection is still open, and what it brings late is numbered as before.
        let mut new = Wire::connect(&connection, 7, 10).unwrap();
        assert_eq!(new.next, 60);
        // The collector may have closed it by now.
        let _ = old.write(&records[60..80]);
        new.write(&records[60..100]).unwrap();
        while new.next < 100 {
            new.read_next().unwrap();
        }
        // A host that gave up some says so, and goes on from there.
        let mut gave_up = Wire::connect(&connection, 7, 500).unwrap();
        gave_up.write(&numbered(500..510)).unwrap();
        while gave_up.next < 510 {
            gave_up.read_next().unwrap();
        }
        assert_eq!(Wire::connect(&connection, 8, 3).unwrap().next, 3);
    };
    tokio::task::spawn_blocking(overlapping).await.unwrap();
    assert_eq!(found(&collector.connection).await, once((0..100).chain(500..510)));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_exporters_at_once_are_both_taken_whole() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    let (one, two) = (numbered(0..3000), numbered(3000..6000));
    tokio::join!(exported(&collector.connection, 1, one), exported(&collector.connection, 2, two));
    assert_eq!(found(&collector.connection).await, once(0..6000));
    collector.sealed().await;
    assert_eq!(found(&collector.connection).await, once(0..6000));
    collector.stop().await;
}

/// Unlike a kill, a stop; and what was only in the log is found by the next process.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_records_sessions_addresses_and_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    let before = collector.connection.clone();
    exported(&before, 5, numbered(0..50)).await;
    let second = lucarne_collector::run(support::settings(dir.path()), Default::default()).await;
    assert!(matches!(second, Err(lucarne_collector::Error::InUse { .. })));
    collector.stop().await;
    let collector = Collector::start(dir.path(), NEVER).await;
    assert_eq!(collector.connection, before);
    assert_eq!(found(&before).await, once(0..50));
    exported(&before, 5, numbered(0..70)).await;
    assert_eq!(found(&before).await, once(0..70));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_parts_of_an_hour_become_few() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    for start in (0..4000).step_by(200) {
        exported(&collector.connection, start, numbered(start..start + 200)).await;
    }
    collector.sealed().await;
    // The made-up records are of two hours that are over, so all is merged: one part for each account, location and
    // hour.
    until("merging", async || (collector.parts().len() == 8).then_some(())).await;
    assert_eq!(found(&collector.connection).await, once(0..4000));
    collector.stop().await;
}

/// A file system of its own, so small that it fills.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where mounting is not allowed.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "lucarne-test"]).arg(dir.path()).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_acknowledging_and_nothing_else_and_room_lets_it_go_on() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("passed over: this user may not mount a file system");
        return;
    };
    let collector = Collector::start(disk.path(), QUICK).await;
    let connection = collector.connection.clone();
    exported(&connection, 1, numbered(0..300)).await;
    collector.sealed().await;
    let filler = disk.path().join("filler");
    // Fills the file system to its last page.
    let fill = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())).output();
    assert!(!fill.unwrap().status.success());

    let (sender, later) = (connection.clone(), numbered(0..2000));
    let sending = tokio::task::spawn_blocking(move || export(&sender, 1, &later, 100));
    let reason = until("trouble", async || health(&connection).await.not_taking).await;
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(!sending.is_finished());
    assert!(found(&connection).await.len() >= 300);

    std::fs::remove_file(&filler).unwrap();
    sending.await.unwrap().unwrap();
    assert_eq!(health(&connection).await.not_taking, None);
    assert_eq!(found(&connection).await, once(0..2000));
    collector.sealed().await;
    assert_eq!(found(&connection).await, once(0..2000));
    collector.stop().await;
    assert!(files(disk.path()).iter().all(|path| path.extension().is_none_or(|extension| extension != "tmp")));
}

/// The collector's answer to what no exporter of ours sends: the end of that connection, and of no other.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_greetings_and_messages_end_their_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    let connection = collector.connection.clone();
    let speak = move || {
        let mut good = Wire::connect(&connection, 1, 0).unwrap();
        for line in ["hello\n".to_owned(), "x".repeat(5000), "\u{0}\n".into()] {
            let mut plain = std::net::TcpStream::connect(connection.ipfix).unwrap();
            let mut secure = Authority::of_tests().connect(HOST, &connection).unwrap();
            // The collector may close before all is written.
            let _ = plain.write_all(line.as_bytes());
            let _ = secure.write_all(line.as_bytes());
            // What the plain one may get is TLS's alert, after which it is closed, or reset where more was on its way.
            assert!(plain.read_to_end(&mut Vec::new()).map_or(true, |octets| octets < 16));
            assert!(matches!(secure.read(&mut [0]), Ok(0) | Err(_)));
        }
        let mut cut = good.encoder.encode(&numbered(0..3), support::test_records::NOW).concat();
        good.encoder = Wire::connect(&connection, 3, 0).unwrap().encoder;
        let (length, version) = (cut.len() - 7, [0, 9]);
        cut.truncate(length);
        cut[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        for message in [
            &cut[..],
            &version[..],
            &[0; 64],
            &[0, 10, 0, 15],
            &[0, 10, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4],
        ] {
            let mut wire = Wire::connect(&connection, 4, 0).unwrap();
            wire.stream.write_all(message).unwrap();
            wire.stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(wire.read_next().is_err());
        }
        good.write(&numbered(0..10)).unwrap();
        while good.next < 10 {
            good.read_next().unwrap();
        }
    };
    tokio::task::spawn_blocking(speak).await.unwrap();
    assert_eq!(found(&collector.connection).await, once(0..10));
    collector.stop().await;
}

/// The log is what RFC 5655 calls an IPFIX file: messages back to back, templates first, sequence numbers without gap.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_an_ipfix_file_that_any_collector_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    exported(&collector.connection, 1, numbered(0..300)).await;
    collector.stop().await;
    let mut records: Vec<FlowRecord> = Vec::new();
    for segment in files(&dir.path().join("log")) {
        let octets = std::fs::read(segment).unwrap();
        let mut decoder = lucarne_flows::ipfix::Decoder::new();
        let mut rest = &octets[..];
        while !rest.is_empty() {
            let (message, behind) = rest.split_at(u16::from_be_bytes([rest[2], rest[3]]).into());
            let mut columns = FlowColumns::default();
            let decoded = decoder.decode(message, &mut columns).unwrap();
            assert_eq!((decoded.lost, decoded.unknown_sets, decoded.foreign), (0, 0, 0));
            records.extend(columns.rows());
            rest = behind;
        }
    }
    assert_eq!(records, numbered(0..300));
}
