//! Over HTTP: questions in SQL, and a tenant who checks receipts against the files that they speak of.

#![allow(clippy::unwrap_used)] // a test says by it what must not fail

mod support;

use std::collections::BTreeMap;

use lucarne_collector::{Connection, ReceiptPage, SqlAnswer, SqlFormat, SqlQuestion, SqlRefusal};
use lucarne_flows::receipts::{self, Chain, Digest, Head, ReceiptError};
use lucarne_model::AccountId;
use support::{
    Collector, QUICK, ask, exported,
    test_records::{numbered, record},
    until,
};

fn account() -> AccountId {
    record(0).account
}

fn question(sql: &str) -> SqlQuestion {
    SqlQuestion { account: Some(account()), sql: sql.to_owned(), max_rows: None, format: SqlFormat::Json }
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
        assert_eq!(answer.rows, [serde_json::json!({"n": (start + 500) / 2})]);
    }
    let refused = ask(&collector.connection, "v1/sql", &question("DROP TABLE flows")).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.json::<SqlRefusal>().await.unwrap().code, "SqlNotAllowed");
    let stranger = Connection { query_token: "guessed".into(), ..collector.connection.clone() };
    assert_eq!(ask(&stranger, "v1/sql", &question("SELECT 1")).await.status(), 401);
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
