//! The processes of a cloud on one machine: in which order they begin, what each is told, and in which order they end.
//!
//! Owns the children through their supervisors. What is made in the cloud before it is ready is [`super::furnish`]'s.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use lucarne_attest::signing::SigningKey;
use lucarne_model::{Bytes, OversubscriptionFactor};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    state_dir::StateDir,
    supervisor::{Program, Supervised, last_words},
};
use crate::{
    failure::{Failure, LocalCode},
    nonces, private_file,
};

/// How long collector and controller may take to answer.
const START_TIME: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Memory of the machine that no host promises.
const KEPT_BACK: Bytes = Bytes::gib(1);

/// What each host may promise.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct HostSize {
    /// Virtual processors that each host may promise; eight for each of the machine's if not given
    #[arg(long, value_name = "COUNT")]
    vcpus: Option<u32>,
    /// Memory that each host may use; an equal share of the machine's if not given
    #[arg(long, value_name = "AMOUNT")]
    memory: Option<Bytes>,
    /// Memory promised for each byte that there is: 1 to 16, such as 1.5
    #[arg(long, default_value = "1", value_name = "FACTOR")]
    memory_oversubscription: OversubscriptionFactor,
    /// Memory that each host keeps unallocated
    #[arg(long, default_value = "0", value_name = "AMOUNT")]
    memory_pool: Bytes,
}

pub(crate) struct House<'a> {
    state: &'a StateDir,
    executable: PathBuf,
    kill: CancellationToken,
    collector: Option<Supervised>,
    controller: Option<Supervised>,
    hosts: Vec<Supervised>,
}

impl<'a> House<'a> {
    /// Cancelling `kill` makes [`Self::end`] sudden.
    pub(crate) fn new(state: &'a StateDir, kill: CancellationToken) -> Result<Self, Failure> {
        let executable = std::env::current_exe()
            .map_err(|cause| Failure::local(LocalCode::ProcessFailed, format!("where this program is: {cause}")))?;
        Ok(Self { state, executable, kill, collector: None, controller: None, hosts: Vec::new() })
    }

    pub(crate) async fn start_collector(&mut self) -> Result<(), Failure> {
        // So soon that whoever tries things out need not wait for receipts.
        let arguments = ["collector", "--seal-after", "10s"].map(str::to_owned).to_vec();
        let program = self.program("collector", arguments);
        let file = self.connection_file();
        self.collector = Some(Supervised::start(program.clone(), self.kill.clone()));
        answers(&program, async || match lucarne_collector::Connection::read(&file) {
            Ok(connection) => TcpStream::connect(connection.query).await.ok().map(drop),
            Err(_) => None,
        })
        .await
    }

    /// Starts the controller and returns what it wrote for operators.
    pub(crate) async fn start_controller(
        &mut self,
        listen: SocketAddr,
        allow_plaintext: bool,
    ) -> Result<lucarne_control::OperatorFile, Failure> {
        // A port that is chosen must stay the same when the controller is started again.
        let listen = settled(listen)?;
        let collector = self.connection_file().display().to_string();
        let mut arguments =
            vec!["controller".into(), "--listen".into(), listen.to_string(), "--collector".into(), collector];
        if allow_plaintext {
            arguments.push("--allow-plaintext".into());
        }
        let program = self.program("controller", arguments);
        let file = self.state.of("controller").join("operator.json");
        self.controller = Some(Supervised::start(program.clone(), self.kill.clone()));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build();
        let http = http.map_err(|error| Failure::caused(LocalCode::ProcessFailed, &error))?;
        answers(&program, async || {
            let operator = lucarne_control::OperatorFile::read(&file).ok()?;
            // The file may be of the run before, with another address.
            if !operator.endpoint.ends_with(&format!(":{}", listen.port())) {
                return None;
            }
            let health = http.get(format!("{}/v1/health", operator.endpoint)).send().await.ok()?;
            health.status().is_success().then_some(operator)
        })
        .await
    }

    /// Starts `count` host agents with addresses of their own.
    pub(crate) fn start_hosts(
        &mut self,
        count: u8,
        (endpoint, join_token): (&str, &str),
        driver: &str,
        size: HostSize,
    ) -> Result<(), Failure> {
        let token_file = self.state.path().join("join-token");
        private_file::write(&token_file, join_token.as_bytes())?;
        let policy_key = policy_key(self.state.path())?;
        let share = size.memory.or_else(|| memory_share(count));
        for number in 1..=count {
            let name = host_name(number);
            let address = IpAddr::V4(Ipv4Addr::new(127, 0, 1, number));
            let mut arguments: Vec<String> = vec!["host".into(), "--stop-machines".into()];
            let options = [
                ("--controller", endpoint.to_owned()),
                ("--join-token-file", token_file.display().to_string()),
                ("--address", address.to_string()),
                ("--name", name.clone()),
                ("--driver", driver.to_owned()),
                // A chip is one machine's, and these are several hosts on one.
                ("--tpm", "software".to_owned()),
                ("--memory-oversubscription", size.memory_oversubscription.to_string()),
                ("--memory-pool", size.memory_pool.0.to_string()),
                ("--seal-policy-key", policy_key.display().to_string()),
            ];
            arguments.extend(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
            arguments.extend(share.into_iter().flat_map(|memory| ["--memory".to_owned(), memory.0.to_string()]));
            arguments.extend(size.vcpus.into_iter().flat_map(|vcpus| ["--vcpus".to_owned(), vcpus.to_string()]));
            let program = self.program(&name, arguments);
            self.hosts.push(Supervised::start(program, self.kill.clone()));
        }
        Ok(())
    }

    /// Where the root of each host's software TPM is, once that was made.
    pub(crate) fn tpm_roots(&self, count: u8) -> Vec<PathBuf> {
        let root = |number| self.state.of(&host_name(number)).join("attestation/authority/issuercert.pem");
        (1..=count).map(root).collect()
    }

    /// Ends the hosts first, who take their machines with them, then the controller, then the collector, so that the
    /// last word of each is still heard by the next.
    pub(crate) async fn end(self) {
        futures::future::join_all(self.hosts.into_iter().map(Supervised::end)).await;
        for process in [self.controller, self.collector].into_iter().flatten() {
            process.end().await;
        }
    }

    /// The collector's addresses and secrets, written by itself.
    fn connection_file(&self) -> PathBuf {
        self.state.of("collector").join("connection.json")
    }

    fn program(&self, name: &str, mut arguments: Vec<String>) -> Program {
        arguments.extend(["--state-dir".into(), self.state.of(name).display().to_string(), "--die-with-parent".into()]);
        Program { name: name.into(), executable: self.executable.clone(), arguments, logs: self.state.logs() }
    }
}

/// The public half of the key by which these hosts take policies of sealed operations; made at the first start.
fn policy_key(folder: &Path) -> Result<PathBuf, Failure> {
    let (secret, public) = (folder.join("seal-policy.key"), folder.join("seal-policy.key.pub"));
    if !public.exists() {
        let key = SigningKey::from_seed(nonces::random::<32>()?);
        let key = key.map_err(|error| Failure::caused(LocalCode::NoRandomNumbers, &error))?;
        private_file::write(&secret, key.to_pem().as_bytes())?;
        private_file::write(&public, key.public().to_pem().as_bytes())?;
    }
    Ok(public)
}

fn host_name(number: u8) -> String {
    format!("host-{number}")
}

/// Looks until `look` finds what it looks for.
async fn answers<T>(program: &Program, look: impl AsyncFn() -> Option<T>) -> Result<T, Failure> {
    let found = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(BETWEEN_LOOKS).await,
            }
        }
    };
    tokio::time::timeout(START_TIME, found).await.map_err(|_| {
        let (name, log) = (&program.name, program.log());
        let detail =
            format!("{name} did not answer in {} s: {} ({})", START_TIME.as_secs(), last_words(&log), log.display());
        Failure::local(LocalCode::ProcessFailed, detail)
    })
}

/// The address with a port that is free now, where it asks for any.
fn settled(listen: SocketAddr) -> Result<SocketAddr, Failure> {
    let bound = std::net::TcpListener::bind(listen).and_then(|listener| listener.local_addr());
    bound.map_err(|cause| Failure::local(LocalCode::ProcessFailed, format!("--listen {listen}: {cause}")))
}

/// What each of the hosts may promise of the one machine's memory, so that they do not promise it twice.
fn memory_share(hosts: u8) -> Option<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total: Bytes = line.trim().parse().ok()?;
    Some(Bytes(total.saturating_sub(KEPT_BACK).0 / u64::from(hosts.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_share_the_memory_of_the_machine() {
        let (one, two) = (memory_share(1).unwrap(), memory_share(2).unwrap());
        assert!(two.0 > 0 && two.0 * 2 <= one.0 + 1);
    }

    #[test]
    fn a_port_that_is_taken_is_said_before_anything_starts() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(settled(taken.local_addr().unwrap()).is_err());
        assert_ne!(settled("127.0.0.1:0".parse().unwrap()).unwrap().port(), 0);
    }
}
