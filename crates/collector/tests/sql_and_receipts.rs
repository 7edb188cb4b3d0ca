//! Over HTTP: questions in SQL, and a tenant who checks receipts against the files that they speak of.

#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod support;

use std::collections::BTreeMap;

use lucarne_collector::{Connection, ReceiptPage};
use lucarne_flows::receipts::{self, Chain, Digest, Head, ReceiptError};
use lucarne_model::{
    AccountId, ErrorCode,
    flow_sql::{SqlAnswer, SqlProgress, SqlQuestion, SqlRefusal},
};
use serde_json::json;
use support::{
    Collector, QUICK, ask, exported,
    test_records::{numbered, record},
    until,
};

fn account() -> AccountId {
    record(0).account
}

fn question(sql: &str) -> SqlQuestion {
    SqlQuestion::new(Some(account()), sql)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_while_records_arrive_and_are_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    for start in (0..2000).step_by(500) {
        exported(&collector.connection, 1 + start, numbered(start..start + 500)).await;
        let answer = ask(&collector.connection, "v1/sql", &question("SELECT count(*) AS n FROM flows")).await;
        assert_eq!(answer.status(), 200);
        let answer: SqlAnswer = answer.json().await.unwrap();
        assert_eq!(json!(answer.rows), json!([{"n": (start + 500) / 2}]));
    }
    let refused = ask(&collector.connection, "v1/sql", &question("DROP TABLE flows")).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.json::<SqlRefusal>().await.unwrap().code, ErrorCode::SqlNotAllowed);
    let stranger = Connection { query_token: "guessed".into(), ..collector.connection.clone() };
    assert_eq!(ask(&stranger, "v1/sql", &question("SELECT 1")).await.status(), 401);
    collector.stop().await;
}

/// Who goes away is not worked for any longer: the question's name is known as long as it is, and gone soon after.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_takes_the_question_along() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    exported(&collector.connection, 1, numbered(0..4000)).await;
    let endless = "SELECT count(*) FROM flows a, flows b, flows c WHERE a.bytes + b.bytes < c.bytes";
    let question = SqlQuestion { progress: Some("endless".into()), ..question(endless) };
    let connection = collector.connection.clone();
    let asking = tokio::spawn(async move { ask(&connection, "v1/sql", &question).await.status() });
    let progress = async || get(&collector.connection, "v1/sql/progress", &[("name", "endless")]).await;
    let seen: SqlProgress = until("the question is worked on", async || {
        let seen: SqlProgress = progress().await.json().await.ok()?;
        Some(seen).filter(|seen| !seen.waits)
    })
    .await;
    assert!(seen.elapsed < 10_000 && seen.files_done <= seen.files, "{seen:?}");
    assert!(!asking.is_finished());
    asking.abort();
    until("the question is over", async || (progress().await.status() == 404).then_some(())).await;
    let other = ask(&collector.connection, "v1/sql", &self::question("SELECT 1 AS one")).await;
    assert_eq!(other.status(), 200);
    collector.stop().await;
}

async fn get(connection: &Connection, path: &str, query: &[(&str, &str)]) -> reqwest::Response {
    let url = format!("http://{}/{path}", connection.query);
    reqwest::Client::new().get(url).query(query).bearer_auth(&connection.query_token).send().await.unwrap()
}

/// What a tenant does who trusts nobody: fetch the chain and the files, and hold one against the other.
async fn checked(connection: &Connection, kept: Option<Head>) -> Result<Chain, ReceiptError> {
    let account = account().to_string();
    let page = get(connection, "v1/receipts", &[("account", &account)]).await;
    let page: ReceiptPage = page.json().await.unwrap();
    assert_eq!(page.next, None);
    let mut files = BTreeMap::new();
    for signed in &page.receipts {
        let name = &signed.receipt.part.name;
        let part = get(connection, "v1/parts", &[("account", &account), ("name", name)]).await;
        if part.status().is_success() {
            let octets = part.bytes().await.unwrap();
            files.insert(name.clone(), (octets.len() as u64, Digest::of(&octets)));
        }
    }
    receipts::verify(self::account(), &page.key, &page.receipts, kept, |name| files.get(name).copied())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_chain_counts_every_record_through_sealing_merging_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), QUICK).await;
    for start in (0..3000).step_by(300) {
        exported(&collector.connection, 1 + start, numbered(start..start + 300)).await;
    }
    collector.sealed().await;
    // Parts may be merged between two looks; then the next one fits.
    let chain = until("a whole chain", async || checked(&collector.connection, None).await.ok()).await;
    assert_eq!(chain.minutes().values().sum::<u64>(), 1500);
    let head = chain.head();
    collector.stop().await;

    let collector = Collector::start(dir.path(), QUICK).await;
    let chain = until("a whole chain", async || checked(&collector.connection, Some(head)).await.ok()).await;
    assert_eq!(chain.minutes().values().sum::<u64>(), 1500);
    let name = chain.current().next().unwrap().1.name.clone();
    let stranger = record(1).account.to_string();
    for (account, name) in [(stranger.as_str(), name.as_str()), (&stranger, "../receipt-key.pk8"), (&stranger, "")] {
        let part = get(&collector.connection, "v1/parts", &[("account", account), ("name", name)]).await;
        assert_eq!(part.status(), 404, "{name}");
    }
    collector.stop().await;
}
