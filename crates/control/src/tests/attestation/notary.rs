//! A notary on paper: it signs what it is told to, and shows it as the test wants it to be seen.
//!
//! Owns good answers, and answers that are good but for one thing.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::get,
};
use lucarne_attest::{
    log::{self, Head, Standing},
    manifest::{Manifest, Revocation},
    merkle::Tree,
    series::{FRESH, Logged, Series},
    signing::{Envelope, SigningKey},
};
use lucarne_model::{Measurement, Moment, storage::Digest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Scene, path};

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// What is wrong with what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It answers nobody.
    Away,
    /// Its head is signed by another key.
    OtherKey,
    /// Its first entry was another once.
    Forked,
    /// Its last entry is gone.
    Shrunk,
    /// A manifest is shown that is not in the log.
    Unlogged,
    /// The head is an old one.
    Stale,
}

struct Ledger {
    key: SigningKey,
    entries: Vec<Envelope>,
    /// Where in the log each version is, from 1.
    versions: Vec<usize>,
    oldest_accepted: u64,
    revoked: Vec<u64>,
    fault: Option<Fault>,
}

pub(super) struct Notary {
    pub(super) url: String,
    ledger: Arc<Mutex<Ledger>>,
    _serving: tokio_util::task::AbortOnDropHandle<()>,
}

fn other_key() -> SigningKey {
    SigningKey::from_seed([66; 32]).unwrap()
}

impl Notary {
    pub(super) async fn start() -> Self {
        let key = SigningKey::from_seed([42; 32]).unwrap();
        let (entries, versions, revoked) = (Vec::new(), Vec::new(), Vec::new());
        let ledger = Ledger { key, entries, versions, oldest_accepted: 1, revoked, fault: None };
        let ledger = Arc::new(Mutex::new(ledger));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/series/{name}", get(series)).with_state(ledger.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, ledger, _serving: tokio_util::task::AbortOnDropHandle::new(serving) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        change(&mut self.ledger.lock().unwrap())
    }

    /// The next version, which holds for an hour, or has held until an hour ago.
    pub(super) fn publish(&self, measurements: &[Measurement], holds: bool) {
        self.with(|ledger| {
            let (version, now) = (ledger.versions.len() as u64 + 1, crate::clock::now());
            let end = if holds { now.plus(HOUR) } else { now.minus(HOUR) };
            let mut measurements = measurements.to_vec();
            measurements.sort();
            let manifest = Manifest {
                publisher: "notary".into(),
                name: "host".into(),
                version,
                valid_from: Moment::EPOCH,
                valid_until: end,
                oldest_accepted: ledger.oldest_accepted,
                measurements,
            };
            ledger.versions.push(ledger.entries.len());
            ledger.entries.push(ledger.key.sign(&manifest).unwrap());
        });
    }

    pub(super) fn revoke(&self, version: u64) {
        self.with(|ledger| {
            let (publisher, name, reason) = ("notary".into(), "host".into(), "a flaw".into());
            let revocation = Revocation { publisher, name, version, reason, time: crate::clock::now() };
            ledger.entries.push(ledger.key.sign(&revocation).unwrap());
            ledger.revoked.push(version);
        });
    }

    pub(super) fn accept_from(&self, version: u64) {
        self.with(|ledger| ledger.oldest_accepted = version);
    }

    pub(super) fn fault(&self, fault: Option<Fault>) {
        self.with(|ledger| ledger.fault = fault);
    }

    pub(super) fn public_key(&self) -> lucarne_attest::signing::PublicKey {
        self.with(|ledger| ledger.key.public())
    }

    /// An operator enters it, and the scene's tenant trusts it as `acme`. Gives the publisher's path.
    pub(super) async fn is_trusted(&self, scene: &Scene) -> String {
        let (cloud, operator) = (&scene.cloud, scene.cloud.operator().await);
        let (status, notary) = cloud.post(&operator, "/v1/notaries", json!({"name": "n", "url": self.url})).await;
        assert_eq!(status, 201, "{notary}");
        let body = json!({"name": "acme", "notary": notary["id"], "key": self.public_key().to_pem()});
        let (status, publisher) = cloud.post(&scene.tenant, "/v1/publishers", body).await;
        assert_eq!(status, 201, "{publisher}");
        path("publishers", &publisher)
    }
}

#[derive(Deserialize)]
struct Seen {
    seen: u64,
}

async fn series(
    State(ledger): State<Arc<Mutex<Ledger>>>,
    Path(name): Path<String>,
    Query(Seen { seen }): Query<Seen>,
) -> Result<Json<Value>, StatusCode> {
    assert_eq!(name, "host");
    let ledger = ledger.lock().unwrap();
    match ledger.fault {
        Some(Fault::Away) => Err(StatusCode::SERVICE_UNAVAILABLE),
        _ => Ok(Json(serde_json::to_value(ledger.show(seen)).unwrap())),
    }
}

impl Ledger {
    fn show(&self, seen: u64) -> Series {
        let is = |fault: Fault| self.fault == Some(fault);
        let mut entries = self.entries.clone();
        if is(Fault::Forked) {
            let forged = Revocation {
                publisher: "notary".into(),
                name: "guest".into(),
                version: 1,
                reason: "what was there before is not to be seen".into(),
                time: Moment::EPOCH,
            };
            entries[0] = self.key.sign(&forged).unwrap();
        }
        if is(Fault::Shrunk) {
            entries.pop();
        }
        let mut tree = Tree::default();
        entries.iter().for_each(|entry| tree.push(log::leaf(entry).unwrap()));
        let (size, newest) = (tree.size(), self.versions.len() as u64);
        let logged = |index: &usize| {
            let mut manifest = entries.get(*index)?.clone();
            if is(Fault::Unlogged) {
                let mut statement: Manifest = self.key.public().open(&manifest).unwrap();
                statement.valid_until = statement.valid_until.plus(HOUR);
                manifest = self.key.sign(&statement).unwrap();
            }
            Some(Logged { manifest, inclusion: log::prove_inclusion(&tree, *index as u64, size)? })
        };
        // One that is not there any more cannot be shown, and the first is not a manifest any more.
        let versions = self.versions.iter().skip(usize::from(is(Fault::Forked))).rev().filter_map(logged).collect();
        let (revoked, oldest_accepted) = (self.revoked.clone(), self.oldest_accepted);
        let standing = Standing { name: "host".into(), newest, oldest_accepted, revoked };
        let now = crate::clock::now();
        let time = if is(Fault::Stale) { now.minus(FRESH * 2) } else { now };
        let root = Digest::from_bytes(tree.root(size).unwrap());
        let head = Head { publisher: "notary".into(), size, root, time, standings: vec![standing] };
        let signed = if is(Fault::OtherKey) { other_key().sign(&head) } else { self.key.sign(&head) };
        let consistency = log::prove_consistency(&tree, seen, size).filter(|_| (1..size).contains(&seen));
        Series { head: signed.unwrap(), consistency, versions }
    }
}
