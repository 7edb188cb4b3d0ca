//! The control plane at size: 1,000 hosts on the simulated driver and 10,000 instances, over real HTTP, in one process.
//!
//! Owns the scene and the figures: launches admitted, placed and run a second, and API reads, with their p50 and p99. Hosts
//! and controller share the machine's processors with the clients, as they do nowhere else: figures are lower bounds. There
//! is no peer that could be installed from packages beside it; the table says what each figure is bound by instead.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use lucarne_control::OperatorFile;
use lucarne_host::{AtEnd, DriverKind};
use lucarne_model::{Bytes, actual::HostState};
use reqwest::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const HOSTS: usize = 1000;
const ACCOUNTS: usize = 20;
const SUBNETS: usize = 10;
const INSTANCES: usize = 10_000;
/// Requests under way at one time.
const CLIENTS: usize = 16;
const READS: usize = 5000;
/// Enough for two connections of each host, both ends of them in this process.
const FILES: u64 = 16_384;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let limit = rustix::process::Rlimit { current: Some(FILES), maximum: Some(FILES) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
    let dir = tempfile::Builder::new().prefix("lu").tempdir_in("/tmp")?;
    let shutdown = CancellationToken::new();
    let scene = Scene::start(dir.path(), &shutdown).await?;
    println!("{HOSTS} hosts, {INSTANCES} instances in {ACCOUNTS} accounts, {CLIENTS} clients, one process\n");
    println!("| what | a second | p50 ms | p99 ms |\n|---|---:|---:|---:|");
    let tenants = scene.tenants().await?;
    launch(&tenants).await?;
    read(&tenants).await?;
    shutdown.cancel();
    Ok(())
}

/// The processes' work, as tasks.
struct Scene {
    operator: Principal,
    image: String,
}

impl Scene {
    async fn start(dir: &Path, shutdown: &CancellationToken) -> anyhow::Result<Self> {
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        let state_dir = dir.join("c");
        let collector =
            lucarne_collector::Settings { state_dir, listen_ipfix: any, listen_query: any, listen_flows: None };
        let connection = dir.join("c/connection.json");
        tokio::spawn(lucarne_collector::run(collector, shutdown.clone()));
        wait_for(|| connection.exists()).await;
        let mut settings = lucarne_control::Settings::new(dir.join("k"), any, connection);
        settings.heartbeat = Duration::from_secs(5);
        settings.host_timeout = Duration::from_secs(60);
        tokio::spawn(lucarne_control::run(settings, shutdown.clone()));
        let path = dir.join("k").join(OperatorFile::NAME);
        wait_for(|| path.exists()).await;
        let file = OperatorFile::read(&path)?;
        let operator = Principal::sign_in(&file.endpoint, &file.access_key_id, &file.secret_access_key).await?;
        let began = Instant::now();
        for host in 0..HOSTS {
            tokio::spawn(lucarne_host::run(host_settings(dir, host, &file), shutdown.clone()));
        }
        operator.await_count("/v1/hosts", HOSTS, |host| host["state"] == json!(HostState::Up)).await?;
        eprintln!("{HOSTS} hosts enrolled in {:.1} s", began.elapsed().as_secs_f64());
        let image = operator.image().await?;
        Ok(Self { operator, image })
    }

    /// Accounts with ten networks each, and room for what they launch.
    async fn tenants(&self) -> anyhow::Result<Vec<Tenant>> {
        let quota = json!({"instances": 20_000, "vcpus": 20_000, "memory": Bytes::gib(100_000), "vpcs": 20, "volumes": 1,
            "volume_bytes": 1, "snapshots": 1, "images": 1, "requests_per_second": 100_000, "request_burst": 100_000});
        let mut tenants = Vec::new();
        for account in 0..ACCOUNTS {
            let body = json!({"name": format!("tenant-{account}"), "quota": quota});
            let made = self.operator.post("/v1/accounts", &body).await?;
            let text = |pointer: &str| made.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (key, secret) = (text("/access_key/access_key/id"), text("/access_key/secret_access_key"));
            let principal = Principal::sign_in(&self.operator.endpoint, key, secret).await?;
            let mut subnets = Vec::new();
            for _ in 0..SUBNETS {
                let vpc = principal.make("/v1/vpcs", json!({"cidr": "10.0.0.0/16"})).await?;
                let body = json!({"vpc": vpc, "cidr": "10.0.0.0/24"});
                subnets.push(principal.make("/v1/subnets", body).await?);
            }
            tenants.push(Tenant { principal, subnets, image: self.image.clone() });
        }
        Ok(tenants)
    }
}

fn host_settings(dir: &Path, host: usize, file: &OperatorFile) -> lucarne_host::Settings {
    let address = [127, 1, (host / 250) as u8, (host % 250 + 1) as u8];
    let name = format!("host-{host}");
    let mut settings = lucarne_host::Settings::new(
        dir.join(format!("h{host}")),
        file.endpoint.clone(),
        name,
        std::net::Ipv4Addr::from(address).into(),
    );
    settings.join_token = Some(file.join_token.clone());
    settings.driver = DriverKind::Simulated { records_per_second: 0 };
    settings.vcpus = Some(64);
    settings.memory = Some(Bytes::gib(64));
    settings.disk = Some(Bytes::gib(64));
    settings.at_end = AtEnd::LeaveMachines;
    settings
}

async fn wait_for(ready: impl Fn() -> bool) {
    while !ready() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Someone with a token.
#[derive(Clone)]
struct Principal {
    endpoint: String,
    token: String,
    http: Client,
}

impl Principal {
    async fn sign_in(endpoint: &str, key: &str, secret: &str) -> anyhow::Result<Self> {
        let http = Client::builder().no_proxy().build()?;
        let mut principal = Self { endpoint: endpoint.into(), token: String::new(), http };
        let token = principal.post("/v1/tokens", &json!({"access_key_id": key, "secret_access_key": secret})).await?;
        principal.token = token["token"].as_str().context("no token came")?.into();
        Ok(principal)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}{path}", self.endpoint)).bearer_auth(&self.token).json(body);
        answer(request).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        answer(self.http.get(format!("{}{path}", self.endpoint)).bearer_auth(&self.token)).await
    }

    async fn make(&self, path: &str, body: Value) -> anyhow::Result<String> {
        let made = self.post(path, &body).await?;
        made["id"].as_str().map(Into::into).with_context(|| format!("no id in {made}"))
    }

    /// Waits until so many items of a list are as wanted.
    async fn await_count(&self, list: &str, count: usize, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        loop {
            let (mut seen, mut next) = (0, String::new());
            loop {
                let page = self.get(&format!("{list}?limit=1000{next}")).await?;
                seen += page["items"].as_array().into_iter().flatten().filter(|item| wanted(item)).count();
                match page["next"].as_str() {
                    Some(token) => next = format!("&page_token={token}"),
                    None => break,
                }
            }
            if seen >= count {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn upload(&self, bytes: Vec<u8>) -> anyhow::Result<String> {
        let request = self.http.post(format!("{}/v1/blobs", self.endpoint)).bearer_auth(&self.token).body(bytes);
        let blob = answer(request).await?;
        blob["digest"].as_str().map(Into::into).context("no digest came")
    }

    /// Something with the marks of a kernel: hosts that simulate do not boot it.
    async fn image(&self) -> anyhow::Result<String> {
        let mut kernel = vec![0; 0x1000];
        kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        let kernel = self.upload(kernel).await?;
        let initramfs = self.upload(b"070701 and nothing more".to_vec()).await?;
        let source = json!({"kind": "kernel", "kernel": kernel, "initramfs": initramfs, "command_line": ""});
        self.make("/v1/images", json!({"name": "bench", "source": source, "public": true})).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    // A connection that was idle for long may be closed by the server in the instant in which it is used again.
    let again = request.try_clone();
    let response = match (request.send().await, again) {
        (Err(error), Some(again)) if error.is_request() => again.send().await?,
        (answer, _) => answer?,
    };
    let status = response.status();
    let body = response.text().await?;
    anyhow::ensure!(status.is_success(), "{status}: {body}");
    Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
}

struct Tenant {
    principal: Principal,
    subnets: Vec<String>,
    image: String,
}

/// Times `work` for each of `count` numbers with [`CLIENTS`] under way, and prints a row.
async fn time<F: Future<Output = anyhow::Result<()>>>(
    name: &str,
    count: usize,
    work: impl Fn(usize) -> F,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let timed = |number| {
        let work = work(number);
        async move {
            let began = Instant::now();
            work.await.map(|()| began.elapsed())
        }
    };
    let mut times: Vec<Duration> = stream::iter(0..count).map(timed).buffer_unordered(CLIENTS).try_collect().await?;
    let whole = began.elapsed().as_secs_f64();
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    println!("| {name} | {:.0} | {:.1} | {:.1} |", count as f64 / whole, at(50), at(99));
    Ok(())
}

async fn launch(tenants: &[Tenant]) -> anyhow::Result<()> {
    let began = Instant::now();
    let one = |number: usize| {
        let tenant = &tenants[number % ACCOUNTS];
        let subnet = &tenant.subnets[number / ACCOUNTS % SUBNETS];
        let body = json!({"image": tenant.image, "subnet": subnet, "memory": 64 << 20});
        async move { tenant.principal.post("/v1/instances", &body).await.map(drop) }
    };
    time("launch requests answered, one instance each", INSTANCES, one).await?;
    for tenant in tenants {
        tenant.principal.await_count("/v1/instances", INSTANCES / ACCOUNTS, |one| one["state"] == "running").await?;
    }
    let whole = began.elapsed().as_secs_f64();
    println!("| instances placed and reported running by their hosts | {:.0} | | |", INSTANCES as f64 / whole);
    Ok(())
}

async fn read(tenants: &[Tenant]) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    for tenant in tenants {
        let page = tenant.principal.get("/v1/instances?limit=1000").await?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        ids.push(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect::<Vec<_>>());
    }
    let show = |number: usize| {
        let (tenant, ids) = (&tenants[number % ACCOUNTS], &ids[number % ACCOUNTS]);
        let path = format!("/v1/instances/{}", ids[number / ACCOUNTS % ids.len()]);
        async move { tenant.principal.get(&path).await.map(drop) }
    };
    time("instance show", READS, show).await?;
    let list = |number: usize| {
        let tenant = &tenants[number % ACCOUNTS];
        async move { tenant.principal.get("/v1/instances?limit=100").await.map(drop) }
    };
    time("instance list, 100 of 500", READS / 10, list).await?;
    let filtered = |number: usize| {
        let tenant = &tenants[number % ACCOUNTS];
        let path = format!("/v1/instances?limit=100&filter=subnet%3D{}", tenant.subnets[0]);
        async move { tenant.principal.get(&path).await.map(drop) }
    };
    time("instance list with a filter, 50 of 500", READS / 10, filtered).await
}
