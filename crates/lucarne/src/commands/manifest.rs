//! `lucarne manifest`: what a notary publishes; and publishing and revoking, for those who have its token.
//!
//! Owns the calls to the notary. Whether a manifest holds is judged here, by the room `attest`, and never taken from the
//! notary's word.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use lucarne_attest::{
    log::{Consistency, Head},
    manifest::{Published, Seen},
    signing::{Envelope, PublicKey},
};
use lucarne_model::{ErrorCode, Measurement, storage::Digest};
use lucarne_notary::{ManifestRow, PublishRequest, RevokeRequest, Submission, Submitted};
use reqwest::{Method, Url};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    attestation_verify::{read_key, read_text},
    flow::parse_span,
};
use crate::{
    failure::{Failure, LocalCode},
    kind::{INSPECTION_COLUMNS, MANIFEST_COLUMNS},
    output::Format,
    private_file,
    session::{check_endpoint, json_of, now},
};

const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(60);
const DAY: u64 = 24 * 3600;

#[derive(Args, Clone, Debug)]
pub(crate) struct NotaryArgs {
    /// The notary
    #[arg(long, value_name = "URL", env = "LUCARNE_NOTARY", default_value = "http://127.0.0.1:7090")]
    notary: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WriterArgs {
    #[command(flatten)]
    notary: NotaryArgs,
    /// The file with the notary's token, from its state folder
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ManifestCommand {
    /// Show a notary the measurements of a new version, and print what it finds of them
    Submit {
        #[command(flatten)]
        notary: WriterArgs,
        #[command(flatten)]
        version: NewVersion,
    },
    /// Sign and publish the next version of a series, from a submission or from measurements
    Publish(PublishArgs),
    /// List a notary's manifests, and which of them stand
    List(NotaryArgs),
    /// Show a manifest with its head and proof
    Show {
        #[command(flatten)]
        notary: NotaryArgs,
        /// The series
        name: String,
        /// The newest if not given
        // By an id of its own: `version` is that of the option that every command has.
        #[arg(id = "manifest_version", value_name = "VERSION")]
        version: Option<u64>,
    },
    /// Judge a manifest here: signature, log, history, version, time; exits 1 with the reason if it does not hold
    Verify(VerifyArgs),
    /// Revoke a version for good
    Revoke {
        #[command(flatten)]
        notary: WriterArgs,
        /// The series
        name: String,
        /// The version
        #[arg(id = "manifest_version", value_name = "VERSION")]
        version: u64,
        /// Why it does not hold any more
        #[arg(long)]
        reason: String,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct NewVersion {
    /// The series
    #[arg(long)]
    name: String,
    /// A JSON list of measurements: component, name and digest
    #[arg(long, value_name = "FILE")]
    measurements: PathBuf,
    /// What is new
    #[arg(long, default_value = "")]
    note: String,
}

impl NewVersion {
    fn submission(&self) -> Result<Submission, Failure> {
        let measurements: Vec<Measurement> = read_json(&self.measurements)?;
        Ok(Submission { name: self.name.clone(), measurements, note: self.note.clone() })
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    notary: WriterArgs,
    /// What was submitted
    #[arg(long, value_name = "SHA256", conflicts_with_all = ["name", "measurements"], required_unless_present = "name")]
    submission: Option<Digest>,
    /// The series
    #[arg(long, requires = "measurements")]
    name: Option<String>,
    /// A JSON list of measurements: component, name and digest
    #[arg(long, value_name = "FILE", requires = "name")]
    measurements: Option<PathBuf>,
    /// For how long it holds; 90 days if not given
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    valid: Option<Duration>,
    /// Versions before this one are rolled back; as before if not given
    #[arg(long, value_name = "VERSION")]
    oldest_accepted: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    notary: NotaryArgs,
    /// The series
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// The newest if not given
    #[arg(id = "manifest_version", value_name = "VERSION")]
    version: Option<u64>,
    /// A manifest that was kept, in place of the notary's; nobody is asked then
    #[arg(long, conflicts_with = "name")]
    file: Option<PathBuf>,
    /// The notary's public key, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Keep the newest head in this file, and hold the next one against it: a log that forks is found
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    state: Option<PathBuf>,
}

impl ManifestCommand {
    pub(crate) async fn run(&self, format: Format, allow_plaintext: bool) -> Result<(), Failure> {
        match self {
            Self::Submit { notary, version } => {
                let submitted = notary.open(allow_plaintext)?.submit(&version.submission()?).await?;
                tell_submission(&submitted, format)
            }
            Self::Publish(args) => args.run(format, allow_plaintext).await,
            Self::List(notary) => {
                let rows: Vec<ManifestRow> = notary.open()?.get("/v1/manifests").await?;
                let rows = rows.iter().map(json_of).collect::<Result<Vec<_>, _>>()?;
                format.print_list(&rows, MANIFEST_COLUMNS)
            }
            Self::Show { notary, name, version } => {
                let published = notary.open()?.manifest(name, *version).await?;
                show(&published, format)
            }
            Self::Verify(args) => args.run(format).await,
            Self::Revoke { notary, name, version, reason } => {
                let request = RevokeRequest { version: *version, reason: reason.clone() };
                let notary = notary.open(allow_plaintext)?;
                let head: Envelope = notary.post(&format!("/v1/manifests/{name}/revoke"), &request).await?;
                format.print_change(&json_of(&head)?, &format!("{name} {version}"))
            }
        }
    }
}

impl PublishArgs {
    async fn run(&self, format: Format, allow_plaintext: bool) -> Result<(), Failure> {
        let notary = self.notary.open(allow_plaintext)?;
        let submission = match (&self.submission, &self.name, &self.measurements) {
            (Some(submission), ..) => submission.clone(),
            (None, Some(name), Some(measurements)) => {
                let (name, measurements) = (name.clone(), measurements.clone());
                let version = NewVersion { name, measurements, note: String::new() };
                notary.submit(&version.submission()?).await?.id
            }
            _ => return Err(Failure::wrong_usage("say --submission, or --name and --measurements")),
        };
        let valid_seconds = self.valid.map_or(90 * DAY, |valid| valid.as_secs());
        let request = PublishRequest { submission, valid_seconds, oldest_accepted: self.oldest_accepted };
        let published = notary.publish(&request).await?;
        let manifest = statement(&published.manifest)?;
        let name = manifest["name"].as_str().unwrap_or_default();
        format.print_change(&json_of(&published)?, &format!("{name} {}", manifest["version"]))
    }
}

impl VerifyArgs {
    async fn run(&self, format: Format) -> Result<(), Failure> {
        let key = read_key(&self.key)?;
        let seen = self.seen(&key)?;
        let (published, consistency) = match (&self.file, &self.name) {
            (Some(path), _) => (read_json(path)?, None),
            (None, Some(name)) => self.ask(name, seen.as_ref(), &key).await?,
            (None, None) => return Err(Failure::wrong_usage("say a series, or --file")),
        };
        let remembered = seen.as_ref().map(|head| Seen { head, consistency: consistency.as_ref() });
        let manifest = published.verify(&key, now(), remembered);
        let manifest = manifest.map_err(|error| Failure::problem(error.code(), error.to_string()))?;
        if let Some(path) = &self.state {
            private_file::write(path, json_of(&published.head)?.to_string().as_bytes())?;
        }
        format.print_value(&json_of(&manifest)?)
    }

    /// The head that was shown last, believed only with its signature.
    fn seen(&self, key: &PublicKey) -> Result<Option<Head>, Failure> {
        let Some(path) = self.state.as_ref().filter(|path| path.exists()) else { return Ok(None) };
        let envelope: Envelope = read_json(path)?;
        let head = Head::open(&envelope, key);
        head.map(Some).map_err(|error| Failure::problem(error.code(), error.to_string()))
    }

    async fn ask(
        &self,
        name: &str,
        seen: Option<&Head>,
        key: &PublicKey,
    ) -> Result<(Published, Option<Consistency>), Failure> {
        let notary = self.notary.open()?;
        let published = notary.manifest(name, self.version).await?;
        let head =
            Head::open(&published.head, key).map_err(|error| Failure::problem(error.code(), error.to_string()))?;
        let grown = seen.filter(|seen| seen.size < head.size);
        let Some(seen) = grown else { return Ok((published, None)) };
        let path = format!("/v1/log/consistency?before={}&size={}", seen.size, head.size);
        Ok((published, Some(notary.get(&path).await?)))
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display())))
}

/// What an envelope says, for people to read: nothing is judged.
fn statement(envelope: &Envelope) -> Result<Value, Failure> {
    serde_json::from_slice(&envelope.payload)
        .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, cause.to_string()))
}

fn show(published: &Published, format: Format) -> Result<(), Failure> {
    if format != Format::Table {
        return format.print_value(&json_of(published)?);
    }
    let (manifest, head) = (statement(&published.manifest)?, statement(&published.head)?);
    format.print_value(&json!({ "manifest": manifest, "index": published.inclusion.index, "head": head }))
}

fn tell_submission(submitted: &Submitted, format: Format) -> Result<(), Failure> {
    if format != Format::Table {
        return format.print_value(&json_of(submitted)?);
    }
    crate::output::print(&format!("{}\n\n", submitted.id))?;
    let rows = submitted.inspections.iter().map(json_of).collect::<Result<Vec<_>, _>>()?;
    format.print_list(&rows, INSPECTION_COLUMNS)
}

/// A notary and, for those who write, its token.
pub(crate) struct NotaryClient {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

impl NotaryArgs {
    /// For reading: what is read is signed, so that it may go in the clear.
    fn open(&self) -> Result<NotaryClient, Failure> {
        check_endpoint(&self.notary, true)?;
        NotaryClient::new(&self.notary, None)
    }
}

impl WriterArgs {
    fn open(&self, allow_plaintext: bool) -> Result<NotaryClient, Failure> {
        check_endpoint(&self.notary.notary, allow_plaintext)?;
        NotaryClient::new(&self.notary.notary, Some(read_text(&self.token_file)?.trim().to_owned()))
    }
}

impl NotaryClient {
    pub(crate) fn new(base: &str, token: Option<String>) -> Result<Self, Failure> {
        let wrong = |cause: String| Failure::local(LocalCode::ConfigurationInvalid, format!("`{base}`: {cause}"));
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIME).timeout(ANSWER_TIME).no_proxy().build();
        let http = http.map_err(|cause| wrong(cause.to_string()))?;
        let base = Url::parse(base).map_err(|cause| wrong(cause.to_string()))?;
        Ok(Self { http, base, token })
    }

    pub(crate) async fn submit(&self, submission: &Submission) -> Result<Submitted, Failure> {
        self.post("/v1/submissions", submission).await
    }

    pub(crate) async fn publish(&self, request: &PublishRequest) -> Result<Published, Failure> {
        self.post("/v1/manifests", request).await
    }

    async fn manifest(&self, name: &str, version: Option<u64>) -> Result<Published, Failure> {
        let version = version.map_or_else(String::new, |version| format!("?version={version}"));
        self.get(&format!("/v1/manifests/{name}{version}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None::<&()>).await
    }
    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let unexpected = |cause: String| Failure::local(LocalCode::UnexpectedAnswer, cause);
        let url = self.base.join(path).map_err(|cause| unexpected(cause.to_string()))?;
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |cause: reqwest::Error| {
            Failure::local(LocalCode::NotaryUnreachable, format!("the notary at {}: {cause}", self.base))
        };
        let response = request.send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return response.json().await.map_err(|cause| unexpected(cause.to_string()));
        }
        let status = response.status();
        let problem: Value = response.json().await.unwrap_or_default();
        let code: Option<ErrorCode> = serde_json::from_value(problem["code"].clone()).ok();
        let detail = problem["detail"].as_str().unwrap_or_default().to_owned();
        Err(code
            .map_or_else(|| unexpected(format!("the notary answered {status}")), |code| Failure::problem(code, detail)))
    }
}
