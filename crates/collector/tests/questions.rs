//! Questions: each filter, pages, accounts, watches, and who may ask.

#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod support;

use std::time::Duration;

use futures::StreamExt as _;
use lucarne_model::{
    AccountId, EndReason, FlowEvent, FlowFilter, FlowQuery, FlowRecord, FlowWatch, InstanceId, InterfaceId, Moment,
    SubnetId, VpcId,
    flow::{Direction, Verdict},
};
use support::{
    Collector, NEVER, QUICK, all, ask, everything, exported, page,
    test_records::{NOW, numbered, record},
};

const COUNT: u64 = 3000;

fn account() -> AccountId {
    record(0).account
}

/// What the answer must be: the same question asked of the records in memory.
fn expected(query: &FlowQuery) -> Vec<FlowRecord> {
    numbered(0..COUNT).into_iter().filter(|record| query.matches(record)).rev().collect()
}

fn filters() -> Vec<FlowFilter> {
    let any = FlowFilter::default;
    let some = record(42);
    vec![
        any(),
        FlowFilter { instance: Some(some.instance), ..any() },
        FlowFilter { instance: Some(InstanceId::from_bits(99)), ..any() },
        FlowFilter { interface: Some(some.interface), ..any() },
        FlowFilter { interface: Some(InterfaceId::from_bits(99)), ..any() },
        FlowFilter { vpc: Some(some.vpc), ..any() },
        FlowFilter { vpc: Some(VpcId::from_bits(99)), ..any() },
        FlowFilter { subnet: Some(some.subnet), ..any() },
        FlowFilter { subnet: Some(SubnetId::from_bits(99)), ..any() },
        FlowFilter { verdict: Some(Verdict::Reject), ..any() },
        FlowFilter { end_reason: Some(EndReason::FinBothSides), ..any() },
        FlowFilter { direction: Some(Direction::Egress), ..any() },
        FlowFilter { source: Some(some.source), ..any() },
        FlowFilter { destination: Some(some.destination), ..any() },
        FlowFilter { peer: Some(some.peer()), ..any() },
        FlowFilter { peer: Some(record(45).peer()), ..any() },
        FlowFilter { port: Some(some.source_port), ..any() },
        FlowFilter { port: Some(80), ..any() },
        FlowFilter { port: Some(81), ..any() },
        FlowFilter { protocol: Some(1), ..any() },
        FlowFilter { protocol: Some(17), ..any() },
        FlowFilter { instance: Some(some.instance), verdict: Some(Verdict::Accept), protocol: Some(6), ..any() },
    ]
}

async fn assert_every_question_is_answered(collector: &Collector) {
    for filter in filters() {
        let query = FlowQuery { filter, ..everything(account()) };
        assert_eq!(all(&collector.connection, query.clone()).await, expected(&query), "{:?}", query.filter);
    }
    let at = |seconds: u64| Moment(NOW.as_micros() + seconds * 1_000_000);
    for (since, until) in
        [(0, Some(1)), (1000, Some(1001)), (1000, Some(1500)), (2990, None), (5000, None), (9, Some(3))]
    {
        let query = FlowQuery { since: at(since), until: until.map(at), ..everything(account()) };
        assert_eq!(all(&collector.connection, query.clone()).await, expected(&query), "{since} to {until:?}");
    }
    assert_eq!(all(&collector.connection, everything(AccountId::OPERATOR)).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_its_records_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    exported(&collector.connection, 1, numbered(0..COUNT)).await;
    assert_every_question_is_answered(&collector).await;
    assert!(collector.parts().is_empty());
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_its_records_in_parts_and_in_both() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    exported(&collector.connection, 1, numbered(0..COUNT)).await;
    collector.sealed().await;
    assert!(!collector.parts().is_empty());
    assert_every_question_is_answered(&collector).await;
    collector.stop().await;

    // The newest and the oldest stay in the log this time.
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    exported(&collector.connection, 1, numbered(700..2500)).await;
    collector.sealed().await;
    collector.stop().await;
    let collector = Collector::start(dir.path(), NEVER).await;
    exported(&collector.connection, 2, [numbered(2500..COUNT), numbered(0..700)].concat()).await;
    assert_every_question_is_answered(&collector).await;
    collector.stop().await;
}

/// A cursor names a place in the order, not a place in a file.
#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_together_while_records_are_sealed_and_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    exported(&collector.connection, 1, numbered(0..1000)).await;
    let mut query = FlowQuery { limit: 7, ..everything(account()) };
    let mut pages = Vec::new();
    let mut newer = 1000;
    loop {
        let page = page(&collector.connection, &query).await;
        pages.extend(page.records);
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
        if newer < 2000 {
            exported(&collector.connection, 1 + newer, numbered(newer..newer + 50)).await;
            newer += 50;
        }
    }
    let expected = numbered(0..1000).into_iter().filter(|record| record.account == account());
    assert_eq!(pages, expected.rev().collect::<Vec<_>>());
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_nothing_gives_one_record_and_a_huge_one_the_most() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    exported(&collector.connection, 1, numbered(0..2 * u64::from(FlowQuery::MAX_LIMIT) + 10)).await;
    for (limit, given) in [(0, 1), (u32::MAX, FlowQuery::MAX_LIMIT)] {
        let page = page(&collector.connection, &FlowQuery { limit, ..everything(account()) }).await;
        assert_eq!(page.records.len() as u32, given);
        assert!(page.next.is_some());
    }
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_is_told_of_and_the_rest_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    exported(&collector.connection, 1, numbered(0..400)).await;
    collector.sealed().await;
    collector.stop().await;
    for part in support::files(&dir.path().join("flows")) {
        std::fs::write(part, b"not Parquet").unwrap();
    }
    let collector = Collector::start(dir.path(), NEVER).await;
    exported(&collector.connection, 2, numbered(400..500)).await;
    let page = page(&collector.connection, &everything(account())).await;
    assert!(page.unreadable > 0);
    assert_eq!(page.records.len(), 50);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_of_records_as_they_become_durable() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    exported(&collector.connection, 1, numbered(0..10)).await;
    let filter = FlowFilter { verdict: Some(Verdict::Reject), ..FlowFilter::default() };
    let watch = FlowWatch { account: account(), filter };
    let mut lines = ask(&collector.connection, "flows/watch", &watch).await.bytes_stream();
    exported(&collector.connection, 1, numbered(0..100)).await;
    let expected: Vec<_> = numbered(10..100).into_iter().filter(|record| watch.matches(record)).collect();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < expected.len() {
        text.extend(tokio::time::timeout(Duration::from_secs(20), lines.next()).await.unwrap().unwrap().unwrap());
    }
    let events = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events: Vec<FlowEvent> = events.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(
        events,
        expected.into_iter().map(|record| FlowEvent::Record(Box::new((&record).into()))).collect::<Vec<_>>()
    );
    collector.stop().await; // ends the watch too
    assert!(!matches!(lines.next().await, Some(Ok(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_without_the_token_or_without_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), NEVER).await;
    let mut stranger = collector.connection.clone();
    stranger.query_token.replace_range(..1, "x");
    for path in ["flows/list", "flows/watch", "health", "nowhere"] {
        assert_eq!(ask(&stranger, path, &everything(account())).await.status(), 401, "{path}");
    }
    let bad = FlowQuery { cursor: Some("not a cursor".into()), ..everything(account()) };
    let answer = ask(&collector.connection, "flows/list", &bad).await;
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("cursor"));
    // There is no question without an account.
    let nobody = serde_json::json!({"since": 0, "limit": 1});
    assert!(ask(&collector.connection, "flows/list", &nobody).await.status().is_client_error());
    let large = serde_json::json!({"filler": "x".repeat(100_000)});
    assert_eq!(ask(&collector.connection, "flows/list", &large).await.status(), 413);
    collector.stop().await;
}
