//! A host of the demonstration's own, whose agent is a copy of this program: what is done to it changes nothing that others use.
//!
//! Owns the process, its folder and its entry in the cloud. It runs on this machine, so its scenes hold where the controller
//! runs here too, as with `lucarne dev`. Its VMs outlive an update of the agent, and end with its last one.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use lucarne_api::client::Client;
use lucarne_attest::signing::{PublicKey, from_pem};
use lucarne_model::{Bytes, HostId, TpmMakerId, actual::Host, storage::Digest};
use ring::digest::{SHA256, digest};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::tenant::patiently;
use crate::{
    commands::{host::join_token, tpm_maker},
    dev::supervisor::{last_words, signal},
    failure::{Failure, LocalCode},
    kind::HOST,
    listing::list,
    private_file,
    session::{Session, answer, now, random_key},
};

const START_TIME: Duration = Duration::from_secs(60);
const END_TIME: Duration = Duration::from_secs(20);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
const CERTIFICATE: &str = "CERTIFICATE";

/// What it promises.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) memory: Bytes,
    /// Memory promised for each byte of that.
    pub(super) oversubscription: &'static str,
}

/// A host that is being brought up, or is up. Whatever it has come to, [`Self::end`] takes it away.
pub(super) struct OwnHost {
    folder: TempDir,
    name: String,
    endpoint: String,
    size: Size,
    agent: Option<Child>,
    host: Option<HostId>,
    maker: Option<TpmMakerId>,
}

impl OwnHost {
    /// Copies this program and what it needs to join. Nothing runs yet.
    pub(super) async fn prepare(operator: &Session, size: Size) -> Result<Self, Failure> {
        let folder = TempDir::new().map_err(failed)?;
        // Machines run as a user of their own, who must be let through.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).map_err(failed)?;
        let (name, endpoint) = (format!("demo-{}", &random_key()[..8]), operator.endpoint().to_owned());
        let host = Self { folder, name, endpoint, size, agent: None, host: None, maker: None };
        fs::copy(std::env::current_exe().map_err(failed)?, host.program()).map_err(failed)?;
        private_file::write(&host.token(), join_token(operator).await?.as_bytes())?;
        Ok(host)
    }

    /// Has it go by seal policies of this key.
    pub(super) fn going_by(self, policy: &PublicKey) -> Result<Self, Failure> {
        private_file::write(&self.policy_key(), policy.to_pem().as_bytes())?;
        Ok(self)
    }

    /// All that it has on this machine.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the agent, and returns when the host is up and has proved its TPM.
    pub(super) async fn begin(&mut self, operator: &Session) -> Result<HostId, Failure> {
        let host = self.start(operator).await?;
        let root = self.folder.path().join("state/attestation/authority/issuercert.pem");
        let root = self.await_or_say_why(async || {
            let text = fs::read_to_string(&root).ok();
            Ok(text.and_then(|text| from_pem(&text, CERTIFICATE).pop()))
        });
        let made = tpm_maker::add(operator, &self.name, root.await?.into()).await?;
        self.maker = made["id"].as_str().and_then(|id| id.parse().ok());
        let is_proved = |host: &Host| host.tpm.as_ref().is_some_and(|tpm| tpm.is_proved());
        self.await_or_say_why(async || Ok(self.look(operator).await?.filter(is_proved))).await?;
        Ok(host)
    }

    /// Ends the agent at once, lets `change` have its program, and starts that.
    pub(super) async fn update(
        &mut self,
        operator: &Session,
        change: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().await.map_err(failed)?;
        }
        // Beside, and then renamed: the pagers of machines that run on are the program of before.
        let new = self.program().with_extension("new");
        fs::copy(self.program(), &new).map_err(failed)?;
        File::options().append(true).open(&new).and_then(|mut file| change(&mut file)).map_err(failed)?;
        fs::rename(&new, self.program()).map_err(failed)?;
        self.start(operator).await.map(drop)
    }

    /// SHA-256 of the program that is its agent.
    pub(super) fn digest(&self) -> Result<Digest, Failure> {
        let mut octets = [0; 32];
        octets.copy_from_slice(digest(&SHA256, &fs::read(self.program()).map_err(failed)?).as_ref());
        Ok(Digest::from_bytes(octets))
    }

    /// Takes it out of the cloud, and ends its agent. Nothing may run on it any more.
    pub(super) async fn end(mut self, operator: &Session) -> Result<(), Failure> {
        let left = self.leave(operator).await;
        if let Some(mut agent) = self.agent.take() {
            signal(&agent, Signal::TERM);
            if tokio::time::timeout(END_TIME, agent.wait()).await.is_err() {
                agent.kill().await.map_err(failed)?;
            }
        }
        left
    }

    async fn leave(&self, operator: &Session) -> Result<(), Failure> {
        if let Some(host) = self.host {
            let delete = async |client: Client| answer::<_, Value>(client.delete_host(&host, None, None, None)).await;
            patiently(async || operator.change(delete).await).await?;
        }
        if let Some(maker) = self.maker {
            let remove = async |client: Client| answer::<_, Value>(client.remove_tpm_maker(&maker, None, None)).await;
            operator.change(remove).await?;
        }
        Ok(())
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("lucarne")
    }
    fn token(&self) -> PathBuf {
        self.folder.path().join("join-token")
    }
    fn policy_key(&self) -> PathBuf {
        self.folder.path().join("seal-policy.pub")
    }
    fn log(&self) -> PathBuf {
        self.folder.path().join("host.log")
    }

    /// Starts the agent, and returns when the controller has heard it.
    async fn start(&mut self, operator: &Session) -> Result<HostId, Failure> {
        let log = File::options().create(true).append(true).open(self.log()).map_err(failed)?;
        let began = now();
        let mut command = Command::new(self.program());
        command.args(["host", "--address", "127.0.0.1", "--tpm", "software", "--stop-machines"]);
        let memory = self.size.memory.0.to_string();
        command.args(["--memory", &memory, "--memory-oversubscription", self.size.oversubscription]);
        command.args(["--die-with-parent", "--controller", &self.endpoint, "--name", &self.name]);
        command.arg("--state-dir").arg(self.folder.path().join("state"));
        command.arg("--join-token-file").arg(self.token());
        if self.policy_key().exists() {
            command.arg("--seal-policy-key").arg(self.policy_key());
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log).kill_on_drop(true);
        self.agent = Some(command.spawn().map_err(failed)?);
        let heard = async || Ok(self.look(operator).await?.filter(|host| host.last_heard > began));
        let host = self.await_or_say_why(heard).await?.id;
        self.host = Some(host);
        Ok(host)
    }

    async fn look(&self, operator: &Session) -> Result<Option<Host>, Failure> {
        let hosts = list(operator, &HOST, None, None).await?;
        let own = hosts.into_iter().find(|host| host["name"] == self.name.as_str());
        own.map(serde_json::from_value)
            .transpose()
            .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, format!("a host: {cause}")))
    }

    /// Looks until there is something.
    async fn await_or_say_why<T>(&self, look: impl AsyncFn() -> Result<Option<T>, Failure>) -> Result<T, Failure> {
        let found = async {
            loop {
                match look().await? {
                    Some(found) => return Ok(found),
                    None => tokio::time::sleep(BETWEEN_LOOKS).await,
                }
            }
        };
        tokio::time::timeout(START_TIME, found).await.unwrap_or_else(|_| {
            let (said, log) = (last_words(&self.log()), self.log());
            let detail = format!("{} was not there in time: {said} ({})", self.name, log.display());
            Err(Failure::local(LocalCode::ProcessFailed, detail))
        })
    }
}

fn failed(cause: io::Error) -> Failure {
    Failure::local(LocalCode::ProcessFailed, format!("the demonstration's own host: {cause}"))
}
