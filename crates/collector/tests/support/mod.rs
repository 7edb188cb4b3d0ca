//! A collector under test, hosts that speak to it, and questions.
#![allow(dead_code)] // each test file uses a part of it

#[path = "../../src/test_records.rs"]
pub(crate) mod test_records;

mod authority;

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub(crate) use authority::Authority;

use lucarne_collector::{Connection, Health, Pace, PartStore, Settings};
use lucarne_flows::ipfix::{Exporter, Greeting};
use lucarne_model::{AccountId, FlowLoss, FlowPage, FlowQuery, FlowRecord, HostId, HostTrust, Moment};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};
use tokio_util::sync::CancellationToken;

/// So quick that a test sees sealing and merging.
pub(crate) const QUICK: Pace = Pace {
    findings: lucarne_flows::findings::Settings::DEFAULT,
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
        Self::start_with(dir, pace, None).await
    }

    pub(crate) async fn start_with(dir: &Path, pace: Pace, store: Option<PartStore>) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(lucarne_collector::run_with(settings(dir), pace, store, shutdown.clone()));
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

/// The connection file of a collector that answers and lets the tests' hosts in.
pub(crate) async fn answering(dir: &Path) -> Connection {
    let connection = started(dir).await;
    assert_eq!(trust(&connection, Authority::of_tests()).await, 200);
    connection
}

/// Tells a collector which CA's hosts to let in; gives the status.
pub(crate) async fn trust(connection: &Connection, authority: &Authority) -> u16 {
    trust_but(connection, authority, &[]).await
}

/// As [`trust`], but for these hosts.
pub(crate) async fn trust_but(connection: &Connection, authority: &Authority, removed: &[HostId]) -> u16 {
    let url = format!("http://{}/host-trust", connection.query);
    let trust = HostTrust { authority: authority.certificate.clone(), removed: removed.iter().copied().collect() };
    let put = reqwest::Client::new().put(url).bearer_auth(&connection.query_token).json(&trust);
    put.send().await.unwrap().status().as_u16()
}

/// What hosts lost, as the collector has it; `question` is the query of the URL.
pub(crate) async fn losses(connection: &Connection, question: &str) -> Vec<FlowLoss> {
    let url = format!("http://{}/losses?{question}", connection.query);
    let answer = reqwest::Client::new().get(url).bearer_auth(&connection.query_token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// The connection file of a collector that answers.
pub(crate) async fn started(dir: &Path) -> Connection {
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

/// One connection of a host, over a blocking socket.
pub(crate) struct Wire {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
    pub(crate) encoder: Exporter,
    /// What the collector wants next.
    pub(crate) next: u64,
}

impl Wire {
    /// Connects as the host of the made-up records, which has nothing below `first` any more.
    pub(crate) fn connect(connection: &Connection, session: u64, first: u64) -> io::Result<Self> {
        Self::connect_as(Authority::of_tests(), test_records::HOST, connection, session, first)
    }

    pub(crate) fn connect_as(
        authority: &Authority,
        host: HostId,
        connection: &Connection,
        session: u64,
        first: u64,
    ) -> io::Result<Self> {
        let stream = authority.connect(host, connection)?;
        let mut wire = Self { stream, encoder: Exporter::new(1).with_limit(Exporter::STREAM), next: 0 };
        wire.stream.write_all(Greeting { session }.to_line().as_bytes())?;
        wire.read_next()?;
        wire.next = wire.next.max(first);
        wire.stream.write_all(&wire.next.to_be_bytes())?;
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
        Self::start_with(dir, &[])
    }

    /// With more in its environment.
    pub(crate) fn start_with(dir: &Path, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "collector_process", "--ignored"]).env(STATE_DIR, dir).envs(more.iter().copied());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What the process does. In a usual run of all tests, nothing.
    pub(crate) fn body() {
        Self::body_with(None);
    }

    pub(crate) fn body_with(store: Option<PartStore>) {
        let Some(dir) = std::env::var_os(STATE_DIR) else { return };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let run = lucarne_collector::run_with(settings(Path::new(&dir)), QUICK, store, CancellationToken::new());
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
