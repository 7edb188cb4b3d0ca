//! The notary over HTTP: anyone reads, operators submit, the notary's own people publish and revoke.
//!
//! Owns the routes, the two tokens and their bodies. Answers are JSON; a refusal is a status and a problem with the stable
//! code. An answer to a change means that the change is on the disk.
//!
//! | route | who | |
//! |---|---|---|
//! | `GET /v1/key` | anyone | the public key, in PEM |
//! | `GET /v1/log/head` | anyone | the head, signed now |
//! | `GET /v1/log/entries?from=N` | anyone | at most 100 entries |
//! | `GET /v1/log/consistency?before=N&size=M` | anyone | the proof that its first M entries begin with its first N |
//! | `GET /v1/manifests` | anyone | all manifests, and which of them stand |
//! | `GET /v1/manifests/{name}?version=N` | anyone | a manifest, the newest if none is said, with head and proof |
//! | `GET /v1/series/{name}?seen=N` | anyone | its newest versions, under one head that goes on from N entries, with all proofs |
//! | `POST /v1/submissions` | either token | measurements of a new version |
//! | `GET /v1/submissions/{id}` | publish token | the same with what was found of it |
//! | `POST /v1/manifests` | publish token | signs and publishes |
//! | `POST /v1/manifests/{name}/revoke` | publish token | revokes |

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lucarne_attest::{
    canonical,
    log::Consistency,
    manifest::{Manifest, Published, Revocation},
    series::{Logged, Series, VERSIONS},
    signing::Envelope,
};
use lucarne_model::{ErrorCode, Measurement, Moment, storage::Digest};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    NotaryError, files,
    inspection::{Inspection, inspect},
    journal::{Journal, JournalError},
};

/// Octets of a body: some thousand measurements.
const LARGEST: usize = 1 << 20;
const ENTRIES: usize = 100;
/// How long a manifest may hold at most.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Never printed: neither this nor what holds it has a `Debug`.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub(crate) publish: String,
    pub(crate) submit: String,
}

/// What an operator shows of a new version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The series.
    pub name: String,
    pub measurements: Vec<Measurement>,
    pub note: String,
}

/// A submission by its id, which is the SHA-256 of its canonical form, and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submitted {
    pub id: Digest,
    pub submission: Submission,
    pub inspections: Vec<Inspection>,
}

/// What is to be signed and published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    pub submission: Digest,
    /// For how long it holds, from now.
    pub valid_seconds: u64,
    /// The oldest version that may be used beside it; as before if not given.
    #[serde(default)]
    pub oldest_accepted: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    pub version: u64,
    pub reason: String,
}

/// A manifest in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRow {
    pub name: String,
    pub version: u64,
    pub valid_from: Moment,
    pub valid_until: Moment,
    pub measurements: usize,
    /// Neither revoked nor rolled back.
    pub stands: bool,
}

/// A status, a stable code and a sentence.
#[derive(Debug)]
struct Refusal(ErrorCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(code, detail) = self;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(json!({ "code": code, "title": code.title(), "detail": detail }))).into_response()
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Refused(cause) => Self(ErrorCode::InvalidParameterValue, cause.to_string()),
            other => {
                tracing::error!(error = %other, "the log cannot be written");
                Self(ErrorCode::StoreUnavailable, "the log cannot be written".to_owned())
            }
        }
    }
}

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a submission cannot be kept or compared");
    Refusal(ErrorCode::StoreUnavailable, "the submission cannot be kept or compared".to_owned())
}

#[derive(Clone)]
pub(crate) struct Service(Arc<Parts>);

struct Parts {
    journal: Mutex<Journal>,
    tokens: Tokens,
    inspect: Option<PathBuf>,
    submissions: PathBuf,
}

type Answer<T> = Result<Json<T>, Refusal>;

impl Service {
    pub(crate) fn new(
        journal: Journal,
        tokens: Tokens,
        inspect: Option<PathBuf>,
        submissions: PathBuf,
    ) -> Result<Self, NotaryError> {
        let failed = |cause| NotaryError::File { path: submissions.clone(), cause };
        std::fs::create_dir_all(&submissions).map_err(failed)?;
        Ok(Self(Arc::new(Parts { journal: Mutex::new(journal), tokens, inspect, submissions })))
    }

    /// A holder that panicked had not changed anything: entries are held only after they are on the disk.
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what waits for the disk where it holds up nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let service = self.clone();
        let done = tokio::task::spawn_blocking(move || act(&service)).await;
        done.unwrap_or_else(|error| Err(unavailable(&error)))
    }

    fn published(&self, name: &str, version: Option<u64>) -> Result<Published, Refusal> {
        let journal = self.journal();
        let ledger = journal.ledger();
        let none = || Refusal(ErrorCode::InvalidManifestNotFound, format!("there is no such manifest of `{name}`"));
        let (index, envelope, _) = ledger.manifest(name, version).ok_or_else(none)?;
        let inclusion = ledger.inclusion(index, ledger.size()).ok_or_else(none)?;
        Ok(Published { manifest: envelope.clone(), head: journal.head(now())?, inclusion })
    }

    /// All of it under one lock, so that every proof is one under the same head.
    fn series(&self, name: &str, seen: u64) -> Result<Series, Refusal> {
        let journal = self.journal();
        let ledger = journal.ledger();
        let size = ledger.size();
        let prove = |(index, envelope): (u64, &Envelope)| {
            Some(Logged { manifest: envelope.clone(), inclusion: ledger.inclusion(index, size)? })
        };
        let versions = ledger.newest(name, VERSIONS).into_iter().filter_map(prove).collect();
        let consistency = ledger.consistency(seen, size).filter(|_| (1..size).contains(&seen));
        Ok(Series { head: journal.head(now())?, consistency, versions })
    }

    fn submitted(&self, id: &Digest) -> Result<Submitted, Refusal> {
        let path = self.0.submissions.join(format!("{id}.json"));
        let text = files::read(&path).map_err(|error| unavailable(&error))?;
        let none = || Refusal(ErrorCode::InvalidParameterValue, format!("there is no submission {id}"));
        let submission: Submission =
            canonical::read(text.ok_or_else(none)?.as_bytes()).map_err(|error| unavailable(&error))?;
        let published =
            self.journal().ledger().manifest(&submission.name, None).map(|(_, _, one)| one.measurements.clone());
        let found = inspect(&submission.measurements, self.0.inspect.as_deref(), &published.unwrap_or_default());
        let inspections = found.map_err(|error| unavailable(&error))?;
        Ok(Submitted { id: id.clone(), submission, inspections })
    }

    fn publish(&self, request: &PublishRequest) -> Result<Published, Refusal> {
        let valid = Duration::from_secs(request.valid_seconds);
        if valid.is_zero() || valid > LONGEST {
            return Err(Refusal(ErrorCode::InvalidParameterValue, "a manifest holds for a second to ten years".into()));
        }
        let Submission { name, measurements, .. } = self.submitted(&request.submission)?.submission;
        let mut journal = self.journal();
        let ledger = journal.ledger();
        let oldest_accepted = request.oldest_accepted.or(ledger.oldest_accepted(&name)).unwrap_or(1);
        let (publisher, version, valid_from) = (ledger.publisher().to_owned(), ledger.next_version(&name), now());
        let valid_until = valid_from.plus(valid);
        let manifest = Manifest { publisher, name, version, valid_from, valid_until, oldest_accepted, measurements };
        journal.append(&manifest)?;
        drop(journal);
        self.published(&manifest.name, Some(version))
    }
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Answers until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, service: Service, shutdown: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/key", get(key))
        .route("/v1/log/head", get(head))
        .route("/v1/log/entries", get(entries))
        .route("/v1/log/consistency", get(consistency))
        .route("/v1/manifests", get(list).post(publish))
        .route("/v1/manifests/{name}", get(show))
        .route("/v1/manifests/{name}/revoke", post(revoke))
        .route("/v1/series/{name}", get(series))
        .route("/v1/submissions", post(submit))
        .route("/v1/submissions/{id}", get(submission))
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(service);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn authorize(headers: &HeaderMap, token: &str) -> Result<(), Refusal> {
    let given = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    if bool::from(given.ct_eq(format!("Bearer {token}").as_bytes())) {
        Ok(())
    } else {
        Err(Refusal(ErrorCode::AuthFailure, "the request does not carry the token that this needs".to_owned()))
    }
}

async fn key(State(service): State<Service>) -> String {
    service.journal().public_key()
}

async fn head(State(service): State<Service>) -> Answer<Envelope> {
    Ok(Json(service.journal().head(now())?))
}

#[derive(Debug, Deserialize)]
struct Begin {
    #[serde(default)]
    from: usize,
}

async fn entries(State(service): State<Service>, Query(Begin { from }): Query<Begin>) -> Json<Vec<Envelope>> {
    Json(service.journal().ledger().entries().skip(from).take(ENTRIES).cloned().collect())
}

#[derive(Debug, Deserialize)]
struct Between {
    before: u64,
    /// The size of the head that is to begin with it; the log's own if not given.
    size: Option<u64>,
}

async fn consistency(
    State(service): State<Service>,
    Query(Between { before, size }): Query<Between>,
) -> Answer<Consistency> {
    let journal = service.journal();
    let size = size.unwrap_or(journal.ledger().size());
    let proof = journal.ledger().consistency(before, size);
    let none = || Refusal(ErrorCode::InvalidParameterValue, format!("the log has no {before} of {size} entries"));
    proof.map(Json).ok_or_else(none)
}

async fn list(State(service): State<Service>) -> Json<Vec<ManifestRow>> {
    let journal = service.journal();
    let rows = journal.ledger().manifests().map(|(manifest, stands)| ManifestRow {
        name: manifest.name.clone(),
        version: manifest.version,
        valid_from: manifest.valid_from,
        valid_until: manifest.valid_until,
        measurements: manifest.measurements.len(),
        stands,
    });
    Json(rows.collect())
}

#[derive(Debug, Deserialize)]
struct Version {
    version: Option<u64>,
}

async fn show(
    State(service): State<Service>,
    Path(name): Path<String>,
    Query(Version { version }): Query<Version>,
) -> Answer<Published> {
    service.published(&name, version).map(Json)
}

#[derive(Debug, Deserialize)]
struct SeenSize {
    /// How many entries the asker has seen a head of.
    #[serde(default)]
    seen: u64,
}

async fn series(
    State(service): State<Service>,
    Path(name): Path<String>,
    Query(SeenSize { seen }): Query<SeenSize>,
) -> Answer<Series> {
    service.series(&name, seen).map(Json)
}

async fn submit(
    State(service): State<Service>,
    headers: HeaderMap,
    Json(mut shown): Json<Submission>,
) -> Answer<Submitted> {
    // Whoever may publish may submit too.
    authorize(&headers, &service.0.tokens.submit).or_else(|_| authorize(&headers, &service.0.tokens.publish))?;
    let named = (1..=64).contains(&shown.name.len())
        && shown.name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'/');
    if !named || shown.measurements.is_empty() {
        let why = "a submission has a name of 1 to 64 letters and signs without `/`, and measurements";
        return Err(Refusal(ErrorCode::InvalidParameterValue, why.to_owned()));
    }
    shown.measurements.sort();
    shown.measurements.dedup();
    let keep = move |service: &Service| {
        let text = canonical::write(&shown).map_err(|error| unavailable(&error))?;
        let id = digest(&SHA256, &text);
        let id = Digest::from_bytes(std::array::from_fn(|at| id.as_ref()[at]));
        let path = service.0.submissions.join(format!("{id}.json"));
        files::write_whole(&path, &text, 0o600).map_err(|error| unavailable(&error))?;
        service.submitted(&id)
    };
    service.blocking(keep).await.map(Json)
}

async fn submission(State(service): State<Service>, headers: HeaderMap, Path(id): Path<Digest>) -> Answer<Submitted> {
    authorize(&headers, &service.0.tokens.publish)?;
    service.blocking(move |service| service.submitted(&id)).await.map(Json)
}

async fn publish(
    State(service): State<Service>,
    headers: HeaderMap,
    Json(request): Json<PublishRequest>,
) -> Answer<Published> {
    authorize(&headers, &service.0.tokens.publish)?;
    service.blocking(move |service| service.publish(&request)).await.map(Json)
}

async fn revoke(
    State(service): State<Service>,
    headers: HeaderMap,
    Path(name): Path<String>,
    Json(request): Json<RevokeRequest>,
) -> Answer<Envelope> {
    authorize(&headers, &service.0.tokens.publish)?;
    let act = move |service: &Service| {
        let mut journal = service.journal();
        let publisher = journal.ledger().publisher().to_owned();
        let RevokeRequest { version, reason } = request;
        journal.append(&Revocation { publisher, name, version, reason, time: now() })?;
        Ok(journal.head(now())?)
    };
    service.blocking(act).await.map(Json)
}
