//! A notary of the demonstration's own: what its tenant and an operator do with it when a host is patched.
//!
//! Owns the process, its folder and the calls to it. The notary runs on this machine, so its scene holds where the controller
//! runs here too, as with `lucarne dev`.

use std::{fs, process::Stdio, time::Duration};

use lucarne_api::{
    bodies::publisher::{CreateNotary, CreatePublisher},
    client::Client,
};
use lucarne_attest::{manifest::Published, signing::PublicKey};
use lucarne_model::{
    Measurement, NotaryId,
    publisher::{Notary, Publisher, SERIES},
};
use lucarne_notary::{PUBLIC_KEY_FILE, PUBLISH_TOKEN_FILE, PublishRequest, Submission};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::tenant::Tenant;
use crate::{
    commands::manifest::NotaryClient,
    failure::{Failure, LocalCode},
    session::{Session, answer, random_key},
};

const START_TIME: Duration = Duration::from_secs(20);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
const VALID: Duration = Duration::from_secs(3600);

/// A notary that runs, and that the controller may ask.
pub(super) struct Publishing {
    process: Child,
    folder: TempDir,
    url: String,
    id: NotaryId,
}

impl Publishing {
    /// Starts a notary, and has the operator enter it.
    pub(super) async fn begin(operator: &Session) -> Result<Self, Failure> {
        let failed = |cause: std::io::Error| Failure::local(LocalCode::ProcessFailed, format!("the notary: {cause}"));
        let folder = TempDir::new().map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["notary", "--listen", "127.0.0.1:0", "--name", "demo", "--die-with-parent", "--state-dir"]);
        command.arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().map_err(failed)?;
        let address = folder.path().join("listen");
        let listening = async {
            loop {
                match fs::read_to_string(&address) {
                    Ok(address) if !address.is_empty() => return address,
                    _ => tokio::time::sleep(BETWEEN_LOOKS).await,
                }
            }
        };
        let late = |_| Failure::local(LocalCode::ProcessFailed, "the notary did not answer in time");
        let url = format!("http://{}", tokio::time::timeout(START_TIME, listening).await.map_err(late)?);
        let body = CreateNotary { name: format!("demo {}", &random_key()[..8]), url: url.clone() };
        let call = async |client: Client| answer(client.create_notary(None, None, &body)).await;
        let entered: Notary = operator.change(call).await?;
        Ok(Self { process, folder, url, id: entered.id })
    }

    fn read(&self, name: &str) -> Result<String, Failure> {
        let path = self.folder.path().join(name);
        fs::read_to_string(&path)
            .map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display())))
    }

    /// The notary's public key, as it gives it to everybody.
    pub(super) fn key(&self) -> Result<PublicKey, Failure> {
        let wrong = |cause: lucarne_attest::signing::SigningError| {
            Failure::local(LocalCode::FileUnreadable, format!("the notary's key: {cause}"))
        };
        PublicKey::from_pem(&self.read(PUBLIC_KEY_FILE)?).map_err(wrong)
    }

    /// The tenant trusts it under this name.
    pub(super) async fn is_trusted_by(&self, tenant: &Tenant, name: &str) -> Result<(), Failure> {
        let (name, notary, key) = (name.to_owned(), self.id, self.key()?.to_pem());
        let body = CreatePublisher { name, notary, key, series: SERIES.to_owned() };
        let call = async |client: Client| answer::<_, Publisher>(client.create_publisher(None, None, &body)).await;
        tenant.session.change(call).await.map(drop)
    }

    /// An operator submits the measurements of a new version of hosts, and the notary publishes them.
    pub(super) async fn publish(&self, measurements: Vec<Measurement>, note: &str) -> Result<Published, Failure> {
        let notary = NotaryClient::new(&self.url, Some(self.read(PUBLISH_TOKEN_FILE)?))?;
        let submission = Submission { name: SERIES.to_owned(), measurements, note: note.to_owned() };
        let submission = notary.submit(&submission).await?.id;
        let request = PublishRequest { submission, valid_seconds: VALID.as_secs(), oldest_accepted: None };
        notary.publish(&request).await
    }

    /// The controller asks it no more, and it ends. Nobody may trust it any more by then.
    pub(super) async fn end(mut self, operator: &Session) -> Result<(), Failure> {
        let id = self.id;
        let call = async |client: Client| answer::<_, Value>(client.delete_notary(&id, None, None)).await;
        operator.change(call).await?;
        let failed = |cause: std::io::Error| Failure::local(LocalCode::ProcessFailed, format!("the notary: {cause}"));
        self.process.kill().await.map_err(failed)
    }
}
