//! A collector in a process of its own, and a host that sends it made-up records.
//!
//! Owns the scene of benches that look at a running collector from outside: the process is this very program again, told by
//! its environment to be the collector; the host has a certificate of a CA made for the occasion.

use std::{
    collections::BTreeSet,
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lucarne_collector::{Connection, Health, Settings};
use lucarne_flows::ipfix::{Exporter, Greeting};
use lucarne_model::{FlowRecord, HostId, HostTrust, Moment};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::Client;
use serde::{Serialize, de::DeserializeOwned};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
};
use tokio_util::sync::CancellationToken;

const STATE_DIR: &str = "LUCARNE_BENCH_COLLECTOR";
/// The host that sends.
pub const HOST: HostId = HostId::from_bits(7);

/// Is the collector where this process was started to be it, until it is killed; else gives `work` a try.
pub fn collector_or(work: impl FnOnce(&tokio::runtime::Runtime) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let Some(state_dir) = env::var_os(STATE_DIR) else { return work(&runtime) };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { state_dir: state_dir.into(), listen_ipfix: any, listen_query: any, listen_flows: None };
    Ok(runtime.block_on(lucarne_collector::run(settings, CancellationToken::new()))?)
}

/// The collector's process, which ends with this value.
#[derive(Debug)]
pub struct Collector {
    process: Child,
    connection: Connection,
    client: Client,
    issuer: Issuer<'static, KeyPair>,
}

impl Collector {
    /// Starts it on an empty folder and waits until it lets the host in.
    pub async fn start(state_dir: &Path) -> Result<Self> {
        let process = Command::new(env::current_exe()?).env(STATE_DIR, state_dir).spawn()?;
        let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority = params.self_signed(&key)?.pem();
        let (connection, client) = reached(state_dir).await?;
        let put = client.put(format!("http://{}/host-trust", connection.query)).bearer_auth(&connection.query_token);
        let collector = Self { process, connection, client, issuer: Issuer::new(params, key) };
        put.json(&HostTrust { authority, removed: BTreeSet::new() }).send().await?.error_for_status()?;
        Ok(collector)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub async fn health(&self) -> Result<Health> {
        let get = self.client.get(format!("http://{}/health", self.connection.query));
        Ok(get.bearer_auth(&self.connection.query_token).send().await?.error_for_status()?.json().await?)
    }

    /// Asks it, as the controller does.
    pub async fn ask<T: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<T> {
        let post = self.client.post(format!("http://{}/{path}", self.connection.query));
        let answer = post.bearer_auth(&self.connection.query_token).json(question).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// A connection of [`HOST`].
    pub fn connect(&self, session: u64) -> Result<Host> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new([HOST.to_string()])?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.connection.certificate.as_bytes())?)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        let stream = TcpStream::connect(self.connection.ipfix)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("collector.lucarne.internal")?;
        let stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream);
        let mut host = Host { stream, exporter: Exporter::new(1).with_limit(Exporter::STREAM), sent: 0, durable: 0 };
        host.stream.write_all(Greeting { session }.to_line().as_bytes())?;
        host.read_acknowledgement()?;
        host.sent = host.durable;
        host.stream.write_all(&host.durable.to_be_bytes())?;
        Ok(host)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// A host's connection, over a blocking socket.
#[derive(Debug)]
pub struct Host {
    stream: StreamOwned<ClientConnection, TcpStream>,
    exporter: Exporter,
    sent: u64,
    durable: u64,
}

impl Host {
    /// Records that may be on their way.
    const WINDOW: u64 = 20_000;

    /// Sends records of this host, once not too many are on their way.
    pub fn send(&mut self, records: &[FlowRecord], now: Moment) -> Result<()> {
        while self.sent - self.durable > Self::WINDOW {
            self.read_acknowledgement()?;
        }
        for message in self.exporter.encode(records, now) {
            self.stream.write_all(&message)?;
        }
        self.stream.flush()?;
        self.sent += records.len() as u64;
        Ok(())
    }

    /// Sends them at a steady rate, so many a second, a hundredth of it at a time; gives the rate that was kept.
    pub fn send_steadily(&mut self, records: &[FlowRecord], rate: usize, now: Moment) -> Result<f64> {
        let began = Instant::now();
        for (batch, number) in records.chunks((rate / 100).max(1)).zip(0..) {
            let due = Duration::from_millis(10) * number;
            thread::sleep(due.saturating_sub(began.elapsed()));
            self.send(batch, now)?;
        }
        while self.durable < self.sent {
            self.read_acknowledgement()?;
        }
        Ok(records.len() as f64 / began.elapsed().as_secs_f64())
    }

    fn read_acknowledgement(&mut self) -> Result<()> {
        let mut octets = [0; 8];
        self.stream.read_exact(&mut octets).context("the collector closed the connection")?;
        self.durable = u64::from_be_bytes(octets);
        Ok(())
    }
}

async fn reached(state_dir: &Path) -> Result<(Connection, Client)> {
    let client = Client::new();
    for _ in 0..600 {
        if let Ok(connection) = Connection::read(&state_dir.join(Connection::FILE)) {
            let get = client.get(format!("http://{}/health", connection.query)).bearer_auth(&connection.query_token);
            if get.send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok((connection, client));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the collector does not answer")
}
