//! Questions by name over a large store of flow records, beside nfdump over files of as many.
//!
//! Owns the comparison: so many made-up hours of one account ([`lucarne_bench::flow_mix`]) in a collector's state folder, asked
//! over its HTTP in the SQL of the controller's named questions; and one such hour as `nfcapd` keeps it, copied for each of
//! the hours. `LUCARNE_BENCH_RECORDS` says how many records, in whole hours of a million. nfdump is left out where its package is
//! missing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lucarne_bench::{
    figures::{median, table},
    flow_mix::FlowMix,
    nfcapd,
};
use lucarne_collector::{Connection, Effort, Hot, Settings};
use lucarne_control::named_question_sql;
use lucarne_model::{
    AccountId, FlowRecord, InstanceId, Moment,
    flow::Direction,
    flow_sql::{SqlAnswer, SqlQuestion},
};
use reqwest::Client;
use tokio_util::sync::CancellationToken;

/// 2026-01-15, an hour; the others come behind it.
const SINCE: Moment = Moment::from_secs(1_768_478_400);
const HOUR: Duration = Duration::from_secs(3600);
const RECORDS_OF_HOUR: usize = 1_000_000;
const RECORDS: usize = 100_000_000;
/// Of so many runs the one in the middle counts.
const ROUNDS: usize = 3;

/// A question, and how nfdump is asked for the like of it, if it can be.
struct Question {
    name: &'static str,
    /// All hours, or the last one.
    is_of_all: bool,
    /// `ADDRESS` stands for the instance's.
    nfdump: Option<&'static [&'static str]>,
}

const QUESTIONS: [Question; 15] = [
    Question { name: "peers", is_of_all: false, nfdump: Some(&["-s", "ip/bytes", "ip ADDRESS"]) },
    Question { name: "peers", is_of_all: true, nfdump: Some(&["-s", "ip/bytes", "ip ADDRESS"]) },
    Question { name: "account-peers", is_of_all: false, nfdump: Some(&["-s", "ip/bytes"]) },
    Question { name: "account-peers", is_of_all: true, nfdump: Some(&["-s", "ip/bytes"]) },
    Question { name: "top-talkers", is_of_all: false, nfdump: Some(&["-s", "srcip/bytes"]) },
    Question { name: "top-talkers", is_of_all: true, nfdump: Some(&["-s", "srcip/bytes"]) },
    Question { name: "top-ports", is_of_all: false, nfdump: Some(&["-s", "dstport/bytes"]) },
    Question { name: "top-ports", is_of_all: true, nfdump: Some(&["-s", "dstport/bytes"]) },
    Question { name: "top-rejects", is_of_all: false, nfdump: None },
    Question { name: "top-rejects", is_of_all: true, nfdump: None },
    Question { name: "asymmetric", is_of_all: false, nfdump: None },
    Question { name: "asymmetric", is_of_all: true, nfdump: None },
    Question { name: "blackholes", is_of_all: false, nfdump: None },
    Question { name: "blackholes", is_of_all: true, nfdump: None },
    Question { name: "unused-rules", is_of_all: true, nfdump: None },
];

#[tokio::main]
async fn main() -> Result<()> {
    let records = env::var("LUCARNE_BENCH_RECORDS").map_or(Ok(RECORDS), |text| text.parse())?;
    let hours = u32::try_from(records.div_ceil(RECORDS_OF_HOUR))?.max(1);
    let dir = tempfile::tempdir()?;
    let (state_dir, peer_dir) = (dir.path().join("collector"), dir.path().join("nfdump"));
    let began = Instant::now();
    let scene = lay_hours(&state_dir, hours)?;
    let laying = began.elapsed();
    let peer = lay_peer(&peer_dir, hours).inspect_err(|error| eprintln!("nfdump is left out: {error:#}")).ok();
    let shutdown = CancellationToken::new();
    let any = "127.0.0.1:0".parse()?;
    let settings = Settings { state_dir: state_dir.clone(), listen_ipfix: any, listen_query: any, listen_flows: None };
    let collector = tokio::spawn(lucarne_collector::run(settings, shutdown.clone()));
    let asked = ask_all(&state_dir, &scene, peer.as_deref()).await;
    shutdown.cancel();
    collector.await??;
    println!("{} records in {hours} hours, laid down in {:.0} s", scene.records, laying.as_secs_f64());
    println!("{}", table(&["question", "of", "rows", "lucarne, s", "nfdump, s"], &asked?));
    Ok(())
}

/// What is asked about.
#[derive(Clone)]
struct Scene {
    records: usize,
    instance: InstanceId,
    address: String,
    last_hour: Moment,
    end: Moment,
}

/// Fills a state folder with hours that were merged, on all cores.
fn lay_hours(state_dir: &Path, hours: u32) -> Result<Scene> {
    let workers = u32::try_from(thread::available_parallelism()?.get())?.min(hours);
    let lay = |worker: u32| (worker..hours).step_by(workers as usize).map(|hour| lay_hour(state_dir, hour)).collect();
    let laid: Vec<Result<Vec<Scene>>> = thread::scope(|scope| {
        let laying: Vec<_> = (0..workers).map(|worker| scope.spawn(move || lay(worker))).collect();
        laying.into_iter().map(|worker| worker.join().unwrap_or_else(|_| bail!("an hour was not laid down"))).collect()
    });
    let laid = laid.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let records = laid.iter().map(|scene| scene.records).sum();
    let last = laid.into_iter().max_by_key(|scene| scene.last_hour).context("there is no hour")?;
    Ok(Scene { records, ..last })
}

/// Makes up an hour and lays it down as one part; what it gives is of that hour alone.
fn lay_hour(state_dir: &Path, hour: u32) -> Result<Scene> {
    let since = SINCE.plus(HOUR * hour);
    let records = FlowMix::new(hour.into(), since).records(RECORDS_OF_HOUR);
    let sent = |record: &&FlowRecord| record.direction == Direction::Egress;
    let one = records.iter().find(sent).context("nobody sent anything")?;
    Hot::of(&records).seal(state_dir, Effort::Merged, 1)?;
    let (instance, address) = (one.instance, one.source.to_string());
    Ok(Scene { records: records.len(), instance, address, last_hour: since, end: since.plus(HOUR) })
}

/// One hour as nfcapd keeps it, under as many names as there are hours: links, so that it takes the room of one. It is so
/// read from memory, which is nfdump's gain.
fn lay_peer(dir: &Path, hours: u32) -> Result<PathBuf> {
    let records = FlowMix::new(0, SINCE).records(RECORDS_OF_HOUR);
    let made = nfcapd::keep(&records, "-y")?;
    fs::create_dir(dir)?;
    let file = made.file()?;
    for hour in 0..hours {
        fs::hard_link(&file, dir.join(format!("nfcapd.20260115{hour:04}")))?;
    }
    Ok(dir.to_owned())
}

async fn ask_all(state_dir: &Path, scene: &Scene, peer: Option<&Path>) -> Result<Vec<Vec<String>>> {
    let connection = reached(state_dir).await?;
    let client = Client::new();
    let mut rows = Vec::new();
    for question in &QUESTIONS {
        let since = if question.is_of_all { SINCE } else { scene.last_hour };
        let instance = (question.name == "peers").then_some(scene.instance);
        let sql = named_question_sql(question.name, since, scene.end, instance).context("there is no such question")?;
        let asked = SqlQuestion::new(Some(AccountId::from_bits(1)), sql);
        let mut took = Vec::new();
        let mut said = String::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            said = ask(&client, &connection, &asked).await?;
            took.push(began.elapsed().as_secs_f64());
        }
        let theirs = match (peer, question.nfdump) {
            (Some(dir), Some(arguments)) => Some(ask_nfdump(dir, question, arguments, &scene.address)?),
            _ => None,
        };
        let seconds = |took: Option<f64>| took.map_or_else(|| "-".into(), |took| format!("{took:.3}"));
        let of = if question.is_of_all { "all" } else { "the last hour" };
        rows.push(vec![question.name.into(), of.into(), said, seconds(median(&took)), seconds(theirs)]);
    }
    Ok(rows)
}

/// How many rows there are, or why there are none.
async fn ask(client: &Client, connection: &Connection, question: &SqlQuestion) -> Result<String> {
    let url = format!("http://{}/v1/sql", connection.query);
    let answer = client.post(url).bearer_auth(&connection.query_token).json(question).send().await?;
    if !answer.status().is_success() {
        return Ok(format!("refused: {}", answer.text().await?));
    }
    Ok(answer.json::<SqlAnswer>().await?.rows.len().to_string())
}

/// Waits until the collector has read its folder and listens.
async fn reached(state_dir: &Path) -> Result<Connection> {
    let client = Client::new();
    for _ in 0..600 {
        if let Ok(connection) = Connection::read(&state_dir.join(Connection::FILE)) {
            let url = format!("http://{}/health", connection.query);
            if client.get(url).bearer_auth(&connection.query_token).send().await.is_ok() {
                return Ok(connection);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the collector does not answer")
}

/// Seconds that nfdump took, the middle of the rounds.
fn ask_nfdump(dir: &Path, question: &Question, arguments: &[&str], address: &str) -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = Command::new("nfdump");
        if question.is_of_all {
            command.arg("-R").arg(dir);
        } else {
            command.arg("-r").arg(dir.join("nfcapd.202601150000"));
        }
        command.args(["-q", "-n", "1000"]).args(arguments.iter().map(|word| word.replace("ADDRESS", address)));
        let began = Instant::now();
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        took.push(began.elapsed().as_secs_f64());
    }
    median(&took).context("nfdump was not asked")
}
