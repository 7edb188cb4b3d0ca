//! Parts in a store that speaks as S3 does: found there and only there, brought once, and waited for while it is away.

#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod support;

#[path = "../src/test_store.rs"]
mod test_store;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use lucarne_collector::{Connection, PartStore};
use lucarne_model::{
    flow_log::{Destination, StoreCredentials},
    flow_sql::SqlQuestion,
};
use support::{
    Collector, Process, QUICK, all, answering, ask, everything, export, exported, health, settings,
    test_records::{numbered, record},
    until,
};
use test_store::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Of the store, in the environment of a collector's own process.
const URL: &str = "COLLECTOR_TEST_STORE";
/// So little that what is in the store is not on the disk.
const NO_CACHE: u64 = 1;

fn part_store(url: &str, cache: u64) -> PartStore {
    bounded_store(url, cache, u64::MAX)
}

fn bounded_store(url: &str, cache: u64, most_waiting: u64) -> PartStore {
    let Destination::S3(bucket) = url.parse().unwrap() else { panic!("{url} is no bucket") };
    // moto lets nobody read who signs nothing; whether the signature is right is looked at in another test.
    let key = StoreCredentials { access_key_id: "AKIATESTS".into(), secret_access_key: "any".into() };
    PartStore { bucket, credentials: Some(key), cache, most_waiting }
}

/// moto and an empty bucket.
async fn store() -> (Store, SocketAddr) {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = Store::start(address).await;
    store.make_bucket("parts").await;
    (store, address)
}

fn url(address: SocketAddr) -> String {
    format!("s3://parts/lab?endpoint=http://{address}")
}

/// Flow ids of both accounts of the made-up records, as often as they are found.
async fn ids(connection: &Connection) -> Vec<u64> {
    let mut ids = Vec::new();
    for account in [record(0).account, record(1).account] {
        ids.extend(all(connection, everything(account)).await.iter().map(|record| record.flow_id));
    }
    ids.sort_unstable();
    ids
}

async fn count_by_sql(connection: &Connection) -> u64 {
    let answer = ask(connection, "v1/sql", &SqlQuestion::new(None, "SELECT count(*) AS n FROM flows")).await;
    assert_eq!(answer.status(), 200);
    answer.json::<serde_json::Value>().await.unwrap()["rows"][0]["n"].as_u64().unwrap()
}

/// Waits until all records are in parts and all parts are in the store.
async fn stored(connection: &Connection) {
    until("the store has all parts", async || {
        let health = health(connection).await;
        (health.unsealed == 0 && health.unstored == 0 && health.not_storing.is_none()).then_some(())
    })
    .await;
}

/// Waits until the store holds both files of parts of which none covers another, and nothing else; gives their names. To be
/// asked while the collector runs, which removes what was merged.
async fn settled(store: &Store) -> BTreeSet<String> {
    until("the store holds what counts and nothing else", async || {
        let keys = store.keys("parts").await;
        let below = |folder: &str| -> BTreeSet<String> {
            let names = keys.iter().map(|key| key.replace("%3D", "="));
            names.filter_map(|key| key.strip_prefix(&format!("lab/{folder}/")).map(Into::into)).collect()
        };
        let (shown, own) = (below("flows"), below("operator"));
        (shown == own && shown.len() * 2 == keys.len() && !do_overlap(&shown)).then_some(shown)
    })
    .await
}

fn do_overlap(names: &BTreeSet<String>) -> bool {
    let segments = |name: &String| {
        let (folder, file) = name.rsplit_once('/').unwrap();
        let (from, to) = file.strip_suffix(".parquet").unwrap().split_once('-').unwrap();
        (folder.to_owned(), from.parse::<u64>().unwrap(), to.parse::<u64>().unwrap())
    };
    let parts: Vec<_> = names.iter().map(segments).collect();
    let is_beside = |part: &(String, u64, u64)| {
        parts.iter().filter(|other| other.0 == part.0 && other.1 <= part.2 && part.1 <= other.2).count() > 1
    };
    parts.iter().any(is_beside)
}

async fn start(dir: &Path, store: PartStore) -> Collector {
    Collector::start_with(dir, QUICK, Some(store)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_store_need_not_be_on_the_disk_and_is_found_from_an_empty_one() {
    let (store, address) = store().await;
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path(), part_store(&url(address), NO_CACHE)).await;
    exported(&collector.connection, 1, numbered(0..2000)).await;
    stored(&collector.connection).await;
    until("the disk is given back", async || collector.parts().is_empty().then_some(())).await;
    assert_eq!(ids(&collector.connection).await, (0..2000).collect::<Vec<_>>());
    assert_eq!(count_by_sql(&collector.connection).await, 2000);
    assert!(!settled(&store).await.is_empty());
    collector.stop().await;
    // A machine that was lost with its disk.
    let fresh = tempfile::tempdir().unwrap();
    let collector = start(fresh.path(), part_store(&url(address), u64::MAX)).await;
    assert_eq!(ids(&collector.connection).await, (0..2000).collect::<Vec<_>>());
    exported(&collector.connection, 2, numbered(2000..2100)).await;
    stored(&collector.connection).await;
    assert_eq!(ids(&collector.connection).await, (0..2100).collect::<Vec<_>>());
    assert!(!collector.parts().is_empty(), "within its bound the disk keeps what was used");
    settled(&store).await;
    collector.stop().await;
}

/// moto behind a door that can be shut.
struct Door {
    address: SocketAddr,
    is_shut: Arc<AtomicBool>,
}

impl Door {
    async fn before(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_shut = Arc::new(AtomicBool::new(false));
        let shut = is_shut.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if shut.load(Relaxed) {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut to) = TcpStream::connect(behind).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { address, is_shut }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_parts_stay_on_the_disk_up_to_a_bound_and_that_is_told() {
    let (_store, address) = store().await;
    let door = Door::before(address).await;
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path(), bounded_store(&url(door.address), NO_CACHE, 1)).await;
    let connection = &collector.connection;
    exported(connection, 1, numbered(0..200)).await;
    stored(connection).await;
    until("the disk is given back", async || collector.parts().is_empty().then_some(())).await;
    door.is_shut.store(true, Relaxed);
    exported(connection, 1, numbered(0..400)).await;
    until("it is told that parts wait", async || {
        let health = health(connection).await;
        (health.not_storing.is_some() && health.unstored > 0).then_some(())
    })
    .await;
    exported(connection, 1, numbered(0..800)).await;
    let told = until("it is told that no more may wait", async || {
        let health = health(connection).await;
        health.not_sealing.as_ref().is_some_and(|why| why.contains("wait for")).then_some(health)
    })
    .await;
    assert!(told.not_storing.is_some() && told.unsealed > 0, "{told:?}");
    assert!(told.not_taking.is_none(), "records are taken all the same");
    // What is nowhere but there is not found, and that is said; the rest is.
    let page = support::page(connection, &everything(record(0).account)).await;
    assert!(page.unreadable > 0);
    door.is_shut.store(false, Relaxed);
    stored(connection).await;
    assert_eq!(ids(connection).await, (0..800).collect::<Vec<_>>());
    assert!(health(connection).await.not_sealing.is_none());
    collector.stop().await;
}

/// Hosts keep what they have while nobody can say which parts count.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_store_and_can_be_given_up() {
    let (_store, address) = store().await;
    let door = Door::before(address).await;
    door.is_shut.store(true, Relaxed);
    let (dir, shutdown) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let run = lucarne_collector::run_with(
        settings(dir.path()),
        QUICK,
        Some(part_store(&url(door.address), 1 << 30)),
        shutdown.clone(),
    );
    let running = tokio::spawn(run);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!running.is_finished());
    shutdown.cancel();
    let given_up = running.await.unwrap();
    assert!(matches!(given_up, Err(lucarne_collector::Error::Shelf(_))), "{given_up:?}");
}

#[test]
#[ignore = "the process that other tests kill"]
fn collector_process() {
    let Ok(url) = std::env::var(URL) else { return };
    Process::body_with(Some(part_store(&url, NO_CACHE)));
}

/// Killed at whatever it is doing, again and again: sealing, bringing, merging, removing there and here.
#[tokio::test(flavor = "multi_thread")]
async fn after_kills_at_any_instant_each_record_is_found_once_and_the_store_holds_nothing_else() {
    const RECORDS: u64 = 3_000;
    let (store, address) = store().await;
    let dir = tempfile::tempdir().unwrap();
    let mut sent = false;
    for kill_after in [150, 400, 700, 250, 1000, 550, 1300, 850] {
        let process = Process::start_with(dir.path(), &[(URL, &url(address))]);
        let connection = answering(dir.path()).await;
        let exporting = tokio::task::spawn_blocking(move || export(&connection, 1, &numbered(0..RECORDS), 50).is_ok());
        tokio::time::sleep(Duration::from_millis(kill_after)).await;
        process.kill();
        sent |= exporting.await.unwrap();
    }
    let collector = start(dir.path(), part_store(&url(address), NO_CACHE)).await;
    if !sent {
        exported(&collector.connection, 1, numbered(0..RECORDS)).await;
    }
    stored(&collector.connection).await;
    assert_eq!(ids(&collector.connection).await, (0..RECORDS).collect::<Vec<_>>());
    settled(&store).await;
    collector.stop().await;
}
