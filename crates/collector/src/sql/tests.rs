//! Questions in SQL against made-up records: what they find, what they may not see, and where they are stopped.

use std::{sync::Arc, time::Duration};

use datafusion::physical_plan::{ExecutionPlan, displayable};
use futures::TryStreamExt as _;
use lucarne_model::{FlowRecord, InstanceId, TenantFlowRecord, flow_sql::SqlFormat};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{bounded::Share, engine::start, progress::Running, *};
use crate::{
    catalog::Catalog,
    chunk::Chunk,
    foreign::Foreign,
    part::{Effort, Folders},
    sealer::write_parts,
    test_records::{NOW, numbered, record},
};

const COUNT: u64 = 20_000;

/// A store of made-up records: the first half in parts, the rest in the log.
pub(super) struct Store {
    engine: Engine,
    _dir: tempfile::TempDir,
}

pub(super) fn store_of(records: Vec<FlowRecord>, limits: Limits) -> Store {
    let dir = tempfile::tempdir().unwrap();
    let folders = Folders::of(dir.path());
    std::fs::create_dir_all(&folders.shown).unwrap();
    let (sealed, unsealed) = records.split_at(records.len() / 2);
    let parts = write_parts(&folders, 1, Effort::Fresh, &[Chunk::of(0, sealed)]).unwrap();
    let catalog = Catalog::new(parts.into_iter().map(|new| new.part).collect());
    catalog.open(2);
    let chunks = (sealed.len() as u64..).step_by(500).zip(unsealed.chunks(500));
    catalog.add(2, chunks.map(|(first, records)| Chunk::of(first, records)));
    let foreign = Arc::new(Foreign::open(dir.path()).unwrap());
    Store { engine: Engine::start(&folders, Arc::new(catalog), foreign, limits).unwrap(), _dir: dir }
}

fn store() -> Store {
    store_of(numbered(0..COUNT), Limits::default())
}

fn question(account: Option<AccountId>, sql: &str) -> SqlQuestion {
    SqlQuestion::new(account, sql)
}

impl Store {
    async fn ask(&self, account: Option<AccountId>, sql: &str) -> Result<SqlAnswer, SqlError> {
        match self.engine.ask(&question(account, sql)).await? {
            Answer::Json(answer) => Ok(answer),
            Answer::Arrow { .. } => panic!("JSON was asked for"),
        }
    }

    pub(super) async fn rows(&self, account: Option<AccountId>, sql: &str) -> Vec<Value> {
        self.ask(account, sql).await.unwrap().rows.into_iter().map(Value::from).collect()
    }

    pub(super) async fn refusal(&self, sql: &str) -> (&'static str, String) {
        let error = self.ask(Some(tenant()), sql).await.unwrap_err();
        (error.code().name(), error.to_string())
    }

    /// Runs a question to its end and gives its plan with what each step did.
    async fn plan(&self, sql: &str) -> Arc<dyn ExecutionPlan> {
        let session = self.engine.session(Some(tenant()), &Share::of(1 << 30)).unwrap();
        let statement = statement::one_select(sql).unwrap();
        let running = Running::default();
        let question = running.add(None).question.clone();
        let stream = start(&session, statement, 1000, Limits::default(), &Share::of(1 << 30), &question).await.unwrap();
        stream.try_collect::<Vec<_>>().await.unwrap();
        question.plan().unwrap()
    }
}

pub(super) fn tenant() -> AccountId {
    record(0).account
}

fn of_tenant() -> impl Iterator<Item = FlowRecord> {
    numbered(0..COUNT).into_iter().filter(|record| record.account == tenant())
}

#[tokio::test]
async fn records_of_the_log_and_of_parts_are_counted_once() {
    let store = store();
    let rows = store
        .rows(Some(tenant()), "SELECT count(*) AS n, sum(bytes) AS b, count(DISTINCT serial) AS s FROM flows")
        .await;
    let bytes: u64 = of_tenant().map(|record| record.bytes).sum();
    assert_eq!(rows, [serde_json::json!({"n": COUNT / 2, "b": bytes, "s": COUNT / 2})]);
    let rows = store.rows(None, "SELECT count(*) AS n, count(DISTINCT account) AS a FROM flows").await;
    assert_eq!(rows, [serde_json::json!({"n": COUNT, "a": 2})]);
}

#[tokio::test]
async fn a_question_finds_what_the_same_filter_finds_in_memory() {
    let store = store();
    let sql = "SELECT flow_id FROM flows WHERE verdict = 'reject' AND source LIKE '10.0.0.%' AND bytes > 600000 \
               AND \"end\" >= '2026-01-15T12:00:00Z' ORDER BY flow_id";
    let found: Vec<u64> =
        store.rows(Some(tenant()), sql).await.iter().map(|row| row["flow_id"].as_u64().unwrap()).collect();
    let is_meant = |record: &FlowRecord| {
        record.verdict == lucarne_model::flow::Verdict::Reject
            && record.source.to_string().starts_with("10.0.0.")
            && record.bytes > 600_000
    };
    let expected: Vec<u64> = of_tenant().filter(is_meant).map(|record| record.flow_id).take(1000).collect();
    assert!(!expected.is_empty());
    assert_eq!(found, expected);
}

#[tokio::test]
async fn groups_and_the_operators_own_columns_can_be_asked_for() {
    let store = store();
    let group = record(1).groups[0];
    let sql = format!("SELECT count(*) AS n FROM flows WHERE array_has(groups, '{group}')");
    let expected = of_tenant().filter(|record| record.groups.contains(&group)).count();
    assert_eq!(store.rows(Some(tenant()), &sql).await, [serde_json::json!({"n": expected})]);
    let host = record(1).host;
    let sql =
        format!("SELECT account, count(*) AS n FROM flows WHERE host = '{host}' GROUP BY account ORDER BY account");
    let count = |account| numbered(0..COUNT).iter().filter(|r| r.host == host && r.account == account).count();
    let mut expected: Vec<AccountId> = vec![record(0).account, record(1).account];
    expected.sort_unstable();
    let expected: Vec<Value> =
        expected.into_iter().map(|account| serde_json::json!({"account": account, "n": count(account)})).collect();
    assert_eq!(store.rows(None, &sql).await, expected);
}

fn columns_of(store: &Store, account: Option<AccountId>) -> Vec<String> {
    store.engine.tables(account).remove(0).columns.into_iter().map(|column| column.name).collect()
}

#[tokio::test]
async fn a_tenants_table_has_no_column_of_the_operators() {
    let store = store();
    let tenant_row = serde_json::to_value(TenantFlowRecord::from(&record(1))).unwrap();
    let columns: Vec<String> = columns_of(&store, Some(tenant()));
    for column in store.engine.tables(None).remove(0).columns {
        let is_tenants = column.name == "serial" || tenant_row.get(&column.name).is_some();
        assert_eq!(columns.contains(&column.name), is_tenants, "{}", column.name);
        if !is_tenants {
            let (code, told) = store.refusal(&format!("SELECT {} FROM flows", column.name)).await;
            assert_eq!(code, "InvalidSql");
            assert!(told.contains(&column.name), "{told}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// No text of another account's is in any answer, whoever's records lie side by side in the log and the parts.
    #[test]
    fn no_answer_of_one_tenant_has_a_bit_of_another(owners in prop::collection::vec(0u64..4, 40..200), asking in 0u64..4) {
        let records: Vec<FlowRecord> = (0..).zip(&owners).map(|(number, owner)| {
            let mut record = record(number);
            record.account = AccountId::from_bits(7000 + owner);
            record.instance = InstanceId::from_bits(u128::from(1000 + owner));
            record
        }).collect();
        let store = store_of(records, Limits::default());
        let account = AccountId::from_bits(7000 + asking);
        let own = owners.iter().filter(|owner| **owner == asking).count();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for sql in [
            "SELECT * FROM flows",
            "SELECT * FROM flows WHERE account <> '000000000000' OR true",
            "SELECT a.* FROM flows a JOIN flows b ON a.serial = b.serial",
            "SELECT * FROM flows UNION ALL SELECT * FROM flows WHERE false",
        ] {
            let rows = runtime.block_on(store.rows(Some(account), sql));
            prop_assert_eq!(rows.len(), own, "{}", sql);
            for row in rows {
                prop_assert_eq!(&row["account"], &serde_json::json!(account));
                prop_assert_eq!(&row["instance"], &serde_json::json!(InstanceId::from_bits(u128::from(1000 + asking))));
                prop_assert!(row.get("host").is_none() && row.get("mitigation").is_none());
            }
        }
    }
}

#[tokio::test]
async fn records_of_other_exporters_are_the_operators_alone() {
    let store = store();
    assert_eq!(store.rows(None, "SELECT count(*) AS n FROM foreign_flows").await, [serde_json::json!({"n": 0})]);
    let names = |account| store.engine.tables(account).into_iter().map(|table| table.name).collect::<Vec<_>>();
    assert_eq!(names(None), ["flows", "flow_sums", "lopsided_flows", "foreign_flows"]);
    assert_eq!(names(Some(tenant())), ["flows", "flow_sums", "lopsided_flows"]);
    let (code, told) = store.refusal("SELECT count(*) FROM foreign_flows").await;
    assert_eq!(code, "InvalidSql");
    assert!(told.contains("not found"), "{told}");
}

#[tokio::test]
async fn nothing_but_flows_can_be_read() {
    let store = store();
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd.csv\"",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM datafusion.public.other",
        "SELECT read_text('/etc/passwd')",
        "SELECT version2()",
    ] {
        let (code, told) = store.refusal(sql).await;
        assert_eq!(code, "InvalidSql", "{sql}: {told}");
    }
}

#[tokio::test]
async fn a_question_that_would_eat_the_machine_is_stopped_with_a_word() {
    let hasty = store_of(numbered(0..COUNT), Limits { time: Duration::from_secs(2), ..Limits::default() });
    let narrow = store_of(numbered(0..COUNT), Limits { memory: 4 << 20, answer: 1 << 18, ..Limits::default() });
    for (store, sql, code, word) in [
        (
            &hasty,
            "SELECT sum(length(a.source || b.source || a.instance || b.instance || a.subnet || b.subnet || a.vpc || \
             b.vpc || a.rule || b.rule)) FROM flows a, flows b",
            "SqlTooSlow",
            "ask for less time",
        ),
        (
            &hasty,
            "SELECT a.serial, b.serial FROM flows a, flows b, flows c ORDER BY a.bytes + b.bytes + c.bytes, 1, 2",
            "SqlToo",
            "ask for",
        ),
        (&narrow, "SELECT sum(a.bytes * b.bytes * c.bytes) FROM flows a, flows b, flows c", "SqlTooLarge", "memory"),
        (&narrow, "SELECT * FROM flows", "SqlTooLarge", "larger than"),
        (&narrow, "SELECT repeat('x', 2000000000) FROM flows", "InvalidSql", "repeat"),
        (&narrow, "SELECT array_repeat(1, 2000000000) FROM flows", "InvalidSql", "array_repeat"),
        (&narrow, "SELECT 1 / (bytes - bytes) FROM flows", "InvalidSql", "ivide"),
    ] {
        let (given, told) = store.refusal(sql).await;
        assert!(given.starts_with(code), "{sql}: {given}: {told}");
        assert!(told.contains(word), "{sql}: {told}");
    }
    // And they answer on at once: what was stopped has let the processors go.
    for store in [hasty, narrow] {
        assert_eq!(store.rows(Some(tenant()), "SELECT 1 AS one").await, [json!({"one": 1})]);
    }
}

/// Joins that would run for minutes give way between batches: whoever stops waiting stops them, and others are answered
/// meanwhile, by the one thread that there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_nobody_waits_for_any_longer_lets_the_processors_go() {
    let limits = Limits { at_once: 1, of_one: 1, wait: Duration::from_secs(1), ..Limits::default() };
    let store = Arc::new(store_of(numbered(0..COUNT), limits));
    // A quarter of a million rows, which are soon there and little to keep; their pairs are what takes so long.
    let with = "WITH few AS (SELECT bytes, protocol FROM flows LIMIT 12), \
                wide AS (SELECT a.bytes, a.protocol FROM few a, few b, few c, few d, few e)";
    for (sums, condition) in [
        ("sum(l.bytes + r.bytes)", "true"),
        ("count(*)", "l.bytes < r.bytes + 9"),
        ("sum(l.bytes + r.bytes)", "l.protocol = r.protocol"),
    ] {
        let endless = format!("{with} SELECT {sums} FROM wide l JOIN wide r ON {condition}");
        let question = SqlQuestion { progress: Some("endless".into()), ..question(Some(tenant()), &endless) };
        let asked = store.clone();
        let asking = tokio::spawn(async move { asked.engine.ask(&question).await.map(drop) });
        tokio::time::sleep(Duration::from_millis(700)).await;
        if asking.is_finished() {
            panic!("{endless}: {:?}", asking.await);
        }
        let progress = store.engine.progress("endless").unwrap();
        assert!(!progress.waits && progress.rows > 0 && progress.files_done <= progress.files, "{progress:?}");
        asking.abort();
        let again = store.rows(Some(tenant()), "SELECT 1 AS one");
        let again = tokio::time::timeout(Duration::from_secs(1), again).await;
        assert_eq!(again.expect("it is stopped soon"), [json!({"one": 1})], "{endless}");
        assert_eq!(store.engine.progress("endless"), None);
    }
}

#[tokio::test]
async fn deep_and_long_texts_do_not_overflow_the_stack() {
    let store = store();
    let sums = format!("SELECT {} FROM flows LIMIT 1", vec!["bytes"; 1300].join("+"));
    let ands = format!("SELECT 1 FROM flows WHERE {} LIMIT 1", vec!["tos<9"; 900].join(" AND "));
    for sql in [sums, ands] {
        // Answered or refused, but not the end of the process.
        let _ = store.ask(Some(tenant()), &sql).await;
    }
    let parentheses = format!("SELECT {}1{}", "(".repeat(2000), ")".repeat(2000));
    assert_eq!(store.refusal(&parentheses).await.0, "InvalidSql");
}

#[tokio::test]
async fn an_answer_has_the_rows_that_were_asked_for_and_says_that_there_are_more() {
    let store = store();
    let mut question = question(Some(tenant()), "SELECT serial FROM flows");
    for (most, truncated) in [(10, true), (10_000, false), (9_999, true)] {
        question.max_rows = Some(most);
        let Answer::Json(answer) = store.engine.ask(&question).await.unwrap() else { panic!("JSON was asked for") };
        assert_eq!((answer.rows.len() as u32, answer.truncated), (most, truncated));
    }
    question.format = SqlFormat::Arrow;
    let Answer::Arrow { octets, truncated } = store.engine.ask(&question).await.unwrap() else {
        panic!("Arrow was asked for")
    };
    assert!(truncated);
    let batches = datafusion::arrow::ipc::reader::StreamReader::try_new(octets.as_slice(), None).unwrap();
    assert_eq!(batches.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 9_999);
}

/// The sum of a metric over all steps of a plan.
fn metric(plan: &Arc<dyn ExecutionPlan>, name: &str) -> usize {
    let own = plan.metrics().and_then(|metrics| metrics.sum_by_name(name)).map_or(0, |value| value.as_usize());
    own + plan.children().into_iter().map(|child| metric(child, name)).sum::<usize>()
}

#[tokio::test]
async fn a_time_leads_to_the_parts_of_its_hours_and_an_instance_to_its_pages() {
    let store = store();
    let at = |seconds: u64| jiff::Timestamp::from_microsecond((NOW.as_micros() + seconds * 1_000_000) as i64).unwrap();
    // Half of the records, one a second, lie in three hours of two locations; this asks for the last hour.
    let as_text = format!("SELECT sum(bytes) FROM flows WHERE \"end\" >= '{}' AND \"end\" < '{}'", at(9000), at(9100));
    let as_number = format!(
        "SELECT sum(bytes) FROM flows WHERE \"end\" >= arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')",
        at(9000).as_microsecond()
    );
    let all = store.plan("SELECT sum(bytes) FROM flows").await;
    let files =
        |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string().matches(".parquet").count();
    for by_time in [as_text, as_number] {
        let one = store.plan(&by_time).await;
        assert_eq!((files(&all), files(&one)), (6, 2), "{by_time}");
        assert!(metric(&one, "bytes_scanned") < metric(&all, "bytes_scanned"), "{by_time}");
    }

    let nobody = format!("SELECT sum(bytes) FROM flows WHERE instance = '{}'", InstanceId::from_bits(99));
    let nobody = store.plan(&nobody).await;
    assert_eq!(metric(&nobody, "bytes_scanned"), 0);
    // Both lie within the statistics; the bloom filter knows that the second is not there.
    let address = |last: u8| format!("SELECT sum(bytes) FROM flows WHERE source = '10.0.0.{last}'");
    let (there, not_there) = (store.plan(&address(150)).await, store.plan(&address(250)).await);
    assert!(metric(&not_there, "bytes_scanned") < metric(&there, "bytes_scanned"));
}

#[test]
fn whose_records_are_meant_must_be_said() {
    let missing = serde_json::from_str::<SqlQuestion>(r#"{"sql": "SELECT 1"}"#);
    assert!(missing.unwrap_err().to_string().contains("account"));
    let operator: SqlQuestion = serde_json::from_str(r#"{"account": null, "sql": "SELECT 1"}"#).unwrap();
    assert_eq!(operator.account, None);
}
