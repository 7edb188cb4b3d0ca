//! A collector under test, exporters that speak to it, and questions.
#![allow(dead_code)] // each test file uses a part of it

#[path = "../../src/test_records.rs"]
pub(crate) mod test_records;

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lucarne_collector::{Connection, Health, Pace, Settings};
use lucarne_flows::ipfix::{Exporter, Greeting};
use lucarne_model::{AccountId, FlowPage, FlowQuery, FlowRecord, Moment};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// So quick that a test sees sealing and merging.
pub(crate) const QUICK: Pace = Pace {
    seal_records: 200,
    seal_after: Duration::from_millis(50),
    most_unsealed: 20_000,
    retry: Duration::from_millis(50),
    compact_every: Duration::from_millis(100),
};
/// So slow that nothing is sealed.
pub(crate) const NEVER: Pace = Pace { seal_records: usize::MAX, seal_after: Duration::from_secs(3600), ..QUICK };

pub(crate) fn settings(dir: &Path) -> Settings {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings { state_dir: dir.to_owned(), listen_ipfix: any, listen_query: any, listen_flows: None }
}

/// Waits for something that is to happen soon.
pub(crate) async fn until<T>(what: &str, mut happened: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = happened().await {
            return value;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A collector in this process.
pub(crate) struct Collector {
    pub(crate) connection: Connection,
    pub(crate) state_dir: PathBuf,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), lucarne_collector::Error>>,
}

impl Collector {
    pub(crate) async fn start(dir: &Path, pace: Pace) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(lucarne_collector::run_at(settings(dir), pace, shutdown.clone()));
        let connection = answering(dir).await;
        Self { connection, state_dir: dir.to_owned(), shutdown, task }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Files of parts.
    pub(crate) fn parts(&self) -> Vec<PathBuf> {
        files(&self.state_dir.join("flows"))
    }

    /// Waits until all records are in parts.
    pub(crate) async fn sealed(&self) {
        until("sealing", async || (health(&self.connection).await.unsealed == 0).then_some(())).await;
    }
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The connection file of a collector that answers.
pub(crate) async fn answering(dir: &Path) -> Connection {
    until("the start of the collector", async || {
        let connection = Connection::read(&dir.join(Connection::FILE)).ok()?;
        let answer = get_health(&connection).await.ok()?;
        answer.status().is_success().then_some(connection)
    })
    .await
}

async fn get_health(connection: &Connection) -> reqwest::Result<reqwest::Response> {
    let url = format!("http://{}/health", connection.query);
    reqwest::Client::new().get(url).bearer_auth(&connection.query_token).send().await
}

pub(crate) async fn health(connection: &Connection) -> Health {
    get_health(connection).await.unwrap().json().await.unwrap()
}

/// Asks and gives the answer, whatever its status.
pub(crate) async fn ask(connection: &Connection, path: &str, question: &impl serde::Serialize) -> reqwest::Response {
    let url = format!("http://{}/{path}", connection.query);
    reqwest::Client::new().post(url).bearer_auth(&connection.query_token).json(question).send().await.unwrap()
}

pub(crate) async fn page(connection: &Connection, query: &FlowQuery) -> FlowPage {
    let answer = ask(connection, "flows/list", query).await;
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// All pages of an answer.
pub(crate) async fn all(connection: &Connection, mut query: FlowQuery) -> Vec<FlowRecord> {
    let mut records = Vec::new();
    loop {
        let page = page(connection, &query).await;
        assert_eq!(page.unreadable, 0);
        assert!(page.records.len() <= query.limit as usize);
        records.extend(page.records);
        query.cursor = page.next;
        if query.cursor.is_none() {
            return records;
        }
    }
}

pub(crate) fn everything(account: AccountId) -> FlowQuery {
    FlowQuery { limit: FlowQuery::MAX_LIMIT, ..FlowQuery::new(account, Moment::EPOCH) }
}

/// One connection of an exporter, over a blocking socket.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    pub(crate) encoder: Exporter,
    /// What the collector wants next.
    pub(crate) next: u64,
}

impl Wire {
    pub(crate) fn connect(connection: &Connection, session: u64, first: u64) -> io::Result<Self> {
        let mut stream = TcpStream::connect(connection.ipfix)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let greeting = Greeting { token: connection.exporter_token.clone(), session, first };
        stream.write_all(greeting.to_line().as_bytes())?;
        let mut wire = Self { stream, encoder: Exporter::new(1).with_limit(Exporter::STREAM), next: 0 };
        wire.read_next()?;
        Ok(wire)
    }

    pub(crate) fn read_next(&mut self) -> io::Result<()> {
        let mut octets = [0; 8];
        self.stream.read_exact(&mut octets)?;
        self.next = u64::from_be_bytes(octets);
        Ok(())
    }

    pub(crate) fn write(&mut self, records: &[FlowRecord]) -> io::Result<()> {
        self.stream.write_all(&self.encoder.encode(records, test_records::NOW).concat())
    }
}

/// Sends the records of a session that are not yet taken, `batch` at a time, each acknowledged before the next.
pub(crate) fn export(connection: &Connection, session: u64, records: &[FlowRecord], batch: usize) -> io::Result<()> {
    let mut wire = Wire::connect(connection, session, 0)?;
    while let Some(rest) = records.get(wire.next as usize..).filter(|rest| !rest.is_empty()) {
        let batch = &rest[..rest.len().min(batch)];
        let wanted = wire.next + batch.len() as u64;
        wire.write(batch)?;
        while wire.next < wanted {
            wire.read_next()?;
        }
    }
    Ok(())
}

/// As [`export`], on a thread where it may block.
pub(crate) async fn exported(connection: &Connection, session: u64, records: Vec<FlowRecord>) {
    let connection = connection.clone();
    tokio::task::spawn_blocking(move || export(&connection, session, &records, 100)).await.unwrap().unwrap();
}

/// A collector in a process of its own, which ends with this value at the latest.
pub(crate) struct Process(Child);

const STATE_DIR: &str = "COLLECTOR_TEST_STATE_DIR";

impl Process {
    /// Runs the test `collector_process` of this test binary, whose body is [`Process::body`].
    pub(crate) fn start(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "collector_process", "--ignored"]).env(STATE_DIR, dir);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What the process does. In a usual run of all tests, nothing.
    pub(crate) fn body() {
        let Some(dir) = std::env::var_os(STATE_DIR) else { return };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let run = lucarne_collector::run_at(settings(Path::new(&dir)), QUICK, CancellationToken::new());
        runtime.block_on(run).unwrap();
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already when `kill` was called.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
