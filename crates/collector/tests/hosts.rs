//! Who may bring records, what they may say, and what hostile or broken ones can do: nothing to others.

#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod support;

use std::io::Write as _;

use lucarne_collector::Connection;
use lucarne_model::{AccountId, FlowLoss, HostId, LossCause, Moment};
use support::{
    Authority, Collector, NEVER, QUICK, Wire, all, everything, health, losses, started,
    test_records::{HOST, NOW, numbered, record},
    trust, trust_but,
};

const OTHER: HostId = HostId::from_bits(0xbad);

/// Flow ids of both accounts of the made-up records.
async fn ids(connection: &Connection) -> Vec<u64> {
    let mut ids = Vec::new();
    for account in [record(0).account, record(1).account] {
        ids.extend(all(connection, everything(account)).await.iter().map(|record| record.flow_id));
    }
    ids.sort_unstable();
    ids
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn loss(number: u64, host: HostId) -> FlowLoss {
    let (since, until) = (Moment::from_secs(number), Moment::from_secs(number + 10));
    FlowLoss {
        account: AccountId::from_bits(number % 2),
        host,
        since,
        until,
        records: number,
        cause: LossCause::SpoolFull,
    }
}

/// Its certificate is good, what it says of another host is not: the connection ends, and nothing of it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_claims_to_be_another_is_sent_away_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    let connection = collector.connection.clone();
    blocking(move || {
        let as_other = |session| Wire::connect_as(Authority::of_tests(), OTHER, &connection, session, 0).unwrap();
        // Its own record before the other's, in one message: not even that is kept.
        let mut mixed = numbered(0..2);
        mixed[0].host = OTHER;
        let mut wire = as_other(1);
        wire.write(&mixed).unwrap();
        assert!(wire.read_next().is_err());
        let mut wire = as_other(2);
        let told = wire.encoder.encode_losses(&[loss(1, HOST)], NOW).concat();
        wire.stream.write_all(&told).unwrap();
        assert!(wire.read_next().is_err());
        // The real one is not hindered.
        let mut wire = Wire::connect(&connection, 3, 0).unwrap();
        wire.write(&numbered(10..12)).unwrap();
        wire.read_next().unwrap();
        assert_eq!(wire.next, 2);
    })
    .await;
    assert_eq!(ids(&collector.connection).await, [10, 11]);
    assert_eq!(losses(&collector.connection, "").await, []);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_the_controllers_ca_are_let_in_and_the_ca_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut task = None;
    for start in 0..2 {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let running = lucarne_collector::run_at(support::settings(dir.path()), NEVER, shutdown.clone());
        let running = tokio::spawn(running);
        let connection = started(dir.path()).await;
        let connects = |authority: &'static Authority| {
            let connection = connection.clone();
            blocking(move || Wire::connect_as(authority, HOST, &connection, 1, 0).is_ok())
        };
        if start == 0 {
            assert!(!connects(Authority::of_tests()).await, "before the CA is known nobody is let in");
            assert_eq!(trust(&connection, Authority::of_tests()).await, 200);
            assert_eq!(trust(&connection, Authority::of_tests()).await, 200);
        }
        assert!(connects(Authority::of_tests()).await);
        assert!(!connects(Box::leak(Box::new(Authority::new()))).await);
        shutdown.cancel();
        task = Some(running.await.unwrap());
    }
    task.unwrap().unwrap();
}

/// Its certificate holds for weeks: what ends it is that the collector was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_cut_off_and_not_let_in_again_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    let connection = collector.connection.clone();
    let others = |range: std::ops::Range<u64>| {
        let mut records = numbered(range);
        records.iter_mut().for_each(|record| record.host = OTHER);
        records
    };
    let (mut stays, mut goes) = blocking(move || {
        let mut stays = Wire::connect(&connection, 1, 0).unwrap();
        let mut goes = Wire::connect_as(Authority::of_tests(), OTHER, &connection, 2, 0).unwrap();
        for (wire, records) in [(&mut stays, numbered(0..1)), (&mut goes, others(1..2))] {
            wire.write(&records).unwrap();
            wire.read_next().unwrap();
        }
        (stays, goes)
    })
    .await;
    assert_eq!(trust_but(&collector.connection, Authority::of_tests(), &[OTHER]).await, 200);
    let connection = collector.connection.clone();
    blocking(move || {
        // Told to end: nothing that it writes is answered. The write itself may already fail.
        let _ = goes.write(&others(2..3));
        assert!(goes.read_next().is_err());
        assert!(Wire::connect_as(Authority::of_tests(), OTHER, &connection, 3, 0).is_err());
        stays.write(&numbered(3..4)).unwrap();
        stays.read_next().unwrap();
        assert_eq!(stays.next, 2);
    })
    .await;
    assert_eq!(
        ids(&collector.connection).await,
        [0, 1, 3],
        "what it brought before stays, what it sends after does not"
    );
    collector.stop().await;
    // A restart does not forgive.
    let collector = Collector::start(dir.path(), NEVER).await;
    let connection = collector.connection.clone();
    let back = blocking(move || Wire::connect_as(Authority::of_tests(), OTHER, &connection, 4, 0).is_ok()).await;
    assert!(!back);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_are_numbered_with_the_records_kept_once_and_found_by_account_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    let connection = collector.connection.clone();
    let tell = |connection: Connection, from: u64| {
        blocking(move || {
            let mut wire = Wire::connect(&connection, 7, 0).unwrap();
            assert_eq!(wire.next, from);
            wire.write(&numbered(0..3)).unwrap();
            let told = wire.encoder.encode_losses(&[loss(5, HOST), loss(40, HOST)], NOW).concat();
            wire.stream.write_all(&told).unwrap();
            while wire.next < from + 5 {
                wire.read_next().unwrap();
            }
        })
    };
    tell(connection.clone(), 0).await;
    collector.stop().await;
    let collector = Collector::start(dir.path(), NEVER).await;
    let connection = collector.connection.clone();
    // A sender that says it begins at 0 again repeats what is known.
    blocking({
        let connection = connection.clone();
        move || {
            let mut stream = Authority::of_tests().connect(HOST, &connection).unwrap();
            stream.write_all(lucarne_flows::ipfix::Greeting { session: 7 }.to_line().as_bytes()).unwrap();
            stream.write_all(&0u64.to_be_bytes()).unwrap();
            let mut wire = Wire { stream, encoder: lucarne_flows::ipfix::Exporter::new(1), next: 0 };
            wire.read_next().unwrap();
            assert_eq!(wire.next, 5);
            wire.write(&numbered(0..3)).unwrap();
            let told = wire.encoder.encode_losses(&[loss(5, HOST), loss(40, HOST), loss(60, HOST)], NOW).concat();
            wire.stream.write_all(&told).unwrap();
            while wire.next < 6 {
                wire.read_next().unwrap();
            }
            assert_eq!(wire.next, 6);
        }
    })
    .await;
    assert_eq!(ids(&connection).await, [0, 1, 2]);
    assert_eq!(losses(&connection, "").await, [loss(5, HOST), loss(40, HOST), loss(60, HOST)]);
    let one = format!("account={}", loss(5, HOST).account);
    assert_eq!(losses(&connection, &one).await, [loss(5, HOST)]);
    assert_eq!(losses(&connection, "since=16000000&until=50000000").await, [loss(40, HOST)]);
    collector.stop().await;
}

/// A host whose clock is wrong does not stand before all others in every answer, nor make days of the future.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_the_future_is_kept_as_of_its_arrival() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    let connection = collector.connection.clone();
    let mut records = numbered(0..2);
    records[0].end = Moment::from_secs(4_000_000_000);
    records[0].start = Moment::from_secs(3_999_999_999);
    blocking(move || {
        let mut wire = Wire::connect(&connection, 1, 0).unwrap();
        wire.write(&records).unwrap();
        wire.read_next().unwrap();
    })
    .await;
    let kept = all(&collector.connection, everything(record(0).account)).await;
    let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(kept[0].end.as_secs() <= today && kept[0].start <= kept[0].end);
    assert_eq!(health(&collector.connection).await.misdated, 1);
    assert_eq!(all(&collector.connection, everything(record(1).account)).await, [record(1)]);
    collector.stop().await;
}

/// A message of one set.
fn message(set: u16, body: &[u8]) -> Vec<u8> {
    let length = |octets: usize| (octets as u16).to_be_bytes();
    let mut message = vec![0, 10];
    message.extend(length(20 + body.len()));
    message.extend([0; 12]);
    message[15] = 1; // the domain that the tests' encoder has
    message.extend(set.to_be_bytes());
    message.extend(length(4 + body.len()));
    message.extend_from_slice(body);
    message
}

/// Templates cost memory for as long as a connection lasts, so there is a number of them that ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_templates_ends_its_connection_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    let connection = collector.connection.clone();
    blocking(move || {
        let mut good = Wire::connect(&connection, 1, 0).unwrap();
        let mut flood = Wire::connect(&connection, 2, 0).unwrap();
        let template = |id: u16| [id.to_be_bytes(), [0, 1], [0, 1], [0, 8]].concat();
        for from in (1000..40_000).step_by(1000) {
            let templates: Vec<u8> = (from..from + 1000).flat_map(template).collect();
            if flood.stream.write_all(&message(2, &templates)).is_err() {
                break;
            }
        }
        assert!(flood.read_next().is_err());
        good.write(&numbered(0..4)).unwrap();
        good.read_next().unwrap();
    })
    .await;
    assert_eq!(ids(&collector.connection).await, [0, 1, 2, 3]);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_a_withdrawn_template_is_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    let connection = collector.connection.clone();
    blocking(move || {
        let mut wire = Wire::connect(&connection, 1, 0).unwrap();
        wire.write(&numbered(0..4)).unwrap();
        wire.read_next().unwrap();
        // All templates of the domain, at once (RFC 7011 section 8.1).
        wire.stream.write_all(&message(2, &[0, 2, 0, 0])).unwrap();
        wire.write(&numbered(4..8)).unwrap();
        wire.encoder.resend_templates();
        wire.write(&numbered(4..8)).unwrap();
        while wire.next < 8 {
            wire.read_next().unwrap();
        }
    })
    .await;
    assert_eq!(ids(&collector.connection).await, (0..8).collect::<Vec<_>>());
    collector.stop().await;
}
