//! A cloud of real processes: collector, controller and hosts, each to be killed and started again by the test.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::Api,
    eventually,
    process::{Process, lucarne, processes_of, sweep},
};

/// How the hosts run machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Qemu,
    Simulated,
}

const START: Duration = Duration::from_secs(90);
/// Until a machine runs, whatever else the processors have to do.
const RUNNING: Duration = Duration::from_secs(240);

#[derive(Debug)]
pub struct Cloud {
    dir: TempDir,
    driver: Driver,
    port: u16,
    pub collector: Option<Process>,
    pub controller: Option<Process>,
    pub hosts: Vec<Option<Process>>,
}

impl Cloud {
    /// Starts everything and returns when all hosts are up.
    pub fn start(driver: Driver, hosts: usize) -> anyhow::Result<Self> {
        // Short, because paths of unix sockets are.
        let dir = tempfile::Builder::new().prefix("lu").tempdir_in("/tmp")?;
        // Machines run as a user of their own, who must be let through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut cloud = Self { dir, driver, port, collector: None, controller: None, hosts: Vec::new() };
        cloud.start_collector()?;
        cloud.start_controller(None)?;
        for host in 0..hosts {
            cloud.hosts.push(None);
            cloud.start_host(host, |_| {})?;
        }
        let operator = cloud.operator()?;
        eventually("all hosts are up", START, || {
            let up = operator.list("/v1/hosts").ok()?.iter().filter(|host| host["state"] == "up").count();
            (up == hosts).then_some(())
        })
        .with_context(|| cloud.logs())?;
        Ok(cloud)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn host_dir(&self, host: usize) -> PathBuf {
        self.dir().join(format!("h{host}"))
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(lucarne()?);
        command.args(arguments).env("RUST_LOG", "info").current_dir(self.dir());
        Ok(command)
    }

    fn path(&self, name: &str) -> String {
        self.dir().join(name).to_string_lossy().into_owned()
    }

    pub fn start_collector(&mut self) -> anyhow::Result<()> {
        let command = self.command(&["collector", "--state-dir", &self.path("c")])?;
        self.collector = Some(Process::start(command, &self.dir().join("collector.log"))?);
        let connection = self.dir().join("c/connection.json");
        eventually("the collector listens", START, || connection.exists().then_some(())).with_context(|| self.logs())
    }

    /// Starts the controller; with `hold`, it stops working on jobs at that point.
    pub fn start_controller(&mut self, hold: Option<&str>) -> anyhow::Result<()> {
        let (state, collector) = (self.path("k"), self.path("c/connection.json"));
        let listen = format!("127.0.0.1:{}", self.port);
        let arguments = ["controller", "--state-dir", &state, "--listen", &listen, "--collector", &collector];
        let mut command = self.command(&arguments)?;
        command.env_remove("LUCARNE_HOLD_AT");
        if let Some(hold) = hold {
            command.env("LUCARNE_HOLD_AT", hold);
        }
        self.controller = Some(Process::start(command, &self.dir().join("controller.log"))?);
        let health = format!("http://{listen}/v1/health");
        let http = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        eventually("the controller answers", START, || {
            http.get(&health).send().ok().filter(|answer| answer.status().is_success()).map(drop)
        })
        .with_context(|| self.logs())
    }

    pub fn kill_controller(&mut self) {
        self.controller.take().into_iter().for_each(Process::kill);
    }

    /// Starts a host; `change` may change its command.
    pub fn start_host(&mut self, host: usize, change: impl FnOnce(&mut Command)) -> anyhow::Result<()> {
        let token = self.join_token()?;
        let driver = match self.driver {
            Driver::Qemu => "qemu",
            Driver::Simulated => "simulated",
        };
        let (state, endpoint) = (self.path(&format!("h{host}")), self.endpoint());
        let (address, name) = (format!("127.0.2.{}", host + 1), format!("host-{}", host + 1));
        let token = token.to_string_lossy().into_owned();
        let mut command = self.command(&["host", "--state-dir", &state, "--controller", &endpoint])?;
        command.args(["--join-token-file", &token, "--address", &address, "--name", &name, "--driver", driver]);
        // Several hosts on one machine cannot share its TPM.
        command.args(["--tpm", "software", "--stop-machines"]);
        change(&mut command);
        self.hosts[host] = Some(Process::start(command, &self.dir().join(format!("host-{host}.log")))?);
        Ok(())
    }

    pub fn kill_host(&mut self, host: usize) {
        self.hosts[host].take().into_iter().for_each(Process::kill);
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The file with it. A host that was just started may be reading it, so it is never there in part.
    fn join_token(&self) -> anyhow::Result<PathBuf> {
        let (token, part) = (self.dir().join("join-token"), self.dir().join("join-token.part"));
        if !token.exists() {
            fs::write(&part, self.operator_file()?["join_token"].as_str().context("no join token")?)?;
            fs::rename(&part, &token)?;
        }
        Ok(token)
    }

    fn operator_file(&self) -> anyhow::Result<Value> {
        let path = self.dir().join("k/operator.json");
        let text = eventually("the operator's file", START, || fs::read_to_string(&path).ok())?;
        Ok(serde_json::from_str(&text)?)
    }

    pub fn operator(&self) -> anyhow::Result<Api> {
        let file = self.operator_file()?;
        let field = |name: &str| file[name].as_str().unwrap_or_default();
        Api::sign_in(&self.endpoint(), field("account"), field("access_key_id"), field("secret_access_key"))
    }

    /// A new account and its administrator.
    pub fn tenant(&self, name: &str) -> anyhow::Result<Api> {
        let made = self.operator()?.post("/v1/accounts", &json!({"name": name}))?.ok()?;
        let text = |pointer: &str| made.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (key, secret) = (text("/access_key/access_key/id"), text("/access_key/secret_access_key"));
        Api::sign_in(&self.endpoint(), text("/account/id"), key, secret)
    }

    /// Lets an account ask as fast as it can.
    pub fn hasten(&self, api: &Api) -> anyhow::Result<()> {
        let (operator, path) = (self.operator()?, format!("/v1/accounts/{}", api.account));
        let mut quota = operator.get(&path)?.ok()?["quota"].clone();
        quota["requests_per_second"] = json!(100_000);
        quota["request_burst"] = json!(100_000);
        Api::send(operator.request(Method::PUT, &format!("{path}/quota")).json(&quota))?.ok().map(drop)
    }

    /// The root of a host's software TPM, once that is made.
    pub fn tpm_root(&self, host: usize) -> PathBuf {
        self.host_dir(host).join("attestation/authority/issuercert.pem")
    }

    /// Has the operator trust the hosts' software TPMs, and waits until all hosts have proved theirs.
    pub fn prove_tpms(&self) -> anyhow::Result<()> {
        let operator = self.operator()?;
        for host in 0..self.hosts.len() {
            let pem = eventually("a software TPM is made", START, || fs::read_to_string(self.tpm_root(host)).ok())
                .with_context(|| self.logs())?;
            let root: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
            operator.post("/v1/tpm-makers", &json!({"name": "software", "certificate": root}))?.ok()?;
        }
        let is_proved = |host: &Value| host.pointer("/tpm/proved").is_some_and(Value::is_u64);
        eventually("all hosts have proved their TPM", START, || {
            operator.list("/v1/hosts").ok()?.iter().all(is_proved).then_some(())
        })
        .with_context(|| self.logs())
    }

    /// The last lines of all logs, for failures.
    pub fn logs(&self) -> String {
        let names = fs::read_dir(self.dir()).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = names.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            format!("--- {}\n{tail}\n", path.display())
        })
        .collect()
    }

    /// The QEMU processes of a host.
    pub fn machines(&self, host: usize) -> Vec<u32> {
        let is_machine = |line: &str| Path::new(line.split('\0').next().unwrap_or_default()).ends_with(QEMU);
        self.children(host).into_iter().filter(|(_, line)| is_machine(line)).map(|(pid, _)| pid).collect()
    }

    /// The pagers of a host's machines.
    pub fn pagers(&self, host: usize) -> Vec<u32> {
        self.children(host).into_iter().filter(|(_, line)| is(line, "pager")).map(|(pid, _)| pid).collect()
    }

    /// What lends a host's memory to others.
    pub fn lenders(&self, host: usize) -> Vec<u32> {
        self.children(host).into_iter().filter(|(_, line)| is(line, "lender")).map(|(pid, _)| pid).collect()
    }

    /// The processes of a host but its agent, with their command lines.
    fn children(&self, host: usize) -> Vec<(u32, String)> {
        let agent = self.hosts[host].as_ref().map(Process::pid);
        let line = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let all = processes_of(&self.host_dir(host)).into_iter().filter(|pid| Some(*pid) != agent);
        all.map(|pid| (pid, line(pid))).collect()
    }
}

/// The program of a VM.
const QEMU: &str = "qemu-system-x86_64";

/// Arguments end in zeros.
fn is(command_line: &str, command: &str) -> bool {
    command_line.split('\0').nth(1) == Some(command)
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for host in self.hosts.drain(..).flatten() {
            let _ = host.end(Duration::from_secs(10));
        }
        self.kill_controller();
        self.collector.take().into_iter().for_each(Process::kill);
        sweep(self.dir());
    }
}

/// Commands of the CLI, as a user types them.
impl Cloud {
    /// A command with the principal's credentials in its environment.
    pub fn cli(&self, api: &Api, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.command(arguments)?;
        command.env("LUCARNE_ENDPOINT", self.endpoint());
        command.env("LUCARNE_ACCESS_KEY_ID", &api.key).env("LUCARNE_SECRET_ACCESS_KEY", &api.secret);
        command.env("XDG_CONFIG_HOME", self.dir()).env_remove("RUST_LOG");
        Ok(command)
    }

    /// Runs a command to its end and gives what it printed.
    pub fn run(&self, api: &Api, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.cli(api, arguments)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "lucarne {}: {said}\n{}", arguments.join(" "), self.logs());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Types a line at an instance's serial console, through `lucarne instance console`.
    pub fn type_line(&self, api: &Api, instance: &str, line: &str) -> anyhow::Result<()> {
        let mut command = self.cli(api, &["instance", "console", instance])?;
        let mut console = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut input = console.stdin.take().context("the console takes input")?;
        writeln!(input, "{line}")?;
        input.flush()?;
        std::thread::sleep(Duration::from_millis(700));
        drop(input);
        let _ = console.kill();
        console.wait()?;
        Ok(())
    }

    /// A network of the tenant's that lies across the first two hosts: a machine on each, of 128 MiB, with its address and user-data.
    /// The VPC, and the machines when they run.
    pub fn network_of_two(&self, tenant: &Api, machines: [(&str, &str); 2]) -> anyhow::Result<(String, [String; 2])> {
        let (image, hosts) = (self.tiny()?, self.operator()?.list("/v1/hosts")?);
        let (vpc, subnet) = tenant.network()?;
        let launch = |host: usize| {
            let (address, user_data) = machines[host];
            tenant.launch(json!({
                "image": image, "subnet": subnet, "address": address, "memory": 128 << 20,
                "placement": {"host": hosts[host]["id"]}, "user_data": user_data,
            }))
        };
        let launched = [launch(0)?, launch(1)?];
        for machine in &launched {
            let path = format!("/v1/instances/{machine}");
            tenant.await_state(&path, "state", "running", RUNNING).with_context(|| self.logs())?;
        }
        Ok((vpc, launched))
    }

    /// Builds the image `tiny` and registers it for everyone; its id.
    pub fn tiny(&self) -> anyhow::Result<String> {
        let made = self.run(&self.operator()?, &["image", "build", "tiny", "--public", "--output", "json"])?;
        let image: Value = serde_json::from_str(&made)?;
        image["id"].as_str().map(Into::into).with_context(|| format!("no id in {made}"))
    }
}
