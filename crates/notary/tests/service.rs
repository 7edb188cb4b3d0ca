//! A notary as others meet it: over HTTP, with its answers judged by the room `attest` and never taken on its word.
#![allow(clippy::unwrap_used)] // a test says by it what must not fail

use std::{fs, path::Path, time::Duration};

use lucarne_attest::{
    log::{self, Consistency, Head},
    manifest::{Manifest, Published, Seen},
    series::Series,
    signing::{Envelope, PublicKey},
};
use lucarne_model::{Component, ErrorCode, Measurement, Moment, storage::Digest};
use lucarne_notary::{Inspected, ManifestRow, PublishRequest, RevokeRequest, Settings, Submission, Submitted};
use reqwest::{Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Notary {
    base: String,
    token: String,
    key: PublicKey,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), lucarne_notary::NotaryError>>,
}

impl Notary {
    /// Starts a notary in a state folder, which may be that of one before.
    async fn start(folder: &Path) -> Self {
        let _ = fs::remove_file(folder.join("listen"));
        let shutdown = CancellationToken::new();
        let listen = ([127, 0, 0, 1], 0).into();
        let inspect = Some(folder.join("built"));
        let settings = Settings { state_dir: folder.to_owned(), listen, name: "notary".into(), inspect };
        let running = tokio::spawn(lucarne_notary::run(settings, shutdown.clone()));
        let address = loop {
            assert!(!running.is_finished(), "the notary ended");
            match fs::read_to_string(folder.join("listen")) {
                Ok(address) => break address,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let key = PublicKey::from_pem(&read(lucarne_notary::PUBLIC_KEY_FILE)).unwrap();
        let token = read(lucarne_notary::PUBLISH_TOKEN_FILE);
        Self { base: format!("http://{address}"), token, key, shutdown, running }
    }
    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        reqwest::get(format!("{}{path}", self.base)).await.unwrap().json().await.unwrap()
    }
    async fn post(&self, path: &str, token: &str, body: &impl Serialize) -> Response {
        let request = reqwest::Client::new().post(format!("{}{path}", self.base)).bearer_auth(token);
        request.json(body).send().await.unwrap()
    }
    async fn submit(&self, octet: u8) -> Submitted {
        self.post("/v1/submissions", &self.token, &submission(octet)).await.json().await.unwrap()
    }
    /// Submits and publishes the next version.
    async fn publish(&self, octet: u8, oldest_accepted: Option<u64>) -> Published {
        let request = PublishRequest { submission: self.submit(octet).await.id, valid_seconds: 3600, oldest_accepted };
        self.post("/v1/manifests", &self.token, &request).await.json().await.unwrap()
    }
    async fn show(&self, version: u64) -> Published {
        self.get(&format!("/v1/manifests/host?version={version}")).await
    }
    fn judge(&self, published: &Published) -> Result<Manifest, ErrorCode> {
        published.verify(&self.key, now(), None).map_err(|error| error.code())
    }
}

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Moment(since.as_micros() as u64)
}

fn submission(octet: u8) -> Submission {
    let digest = Digest::from_bytes([octet; 32]);
    let qemu = Measurement { component: Component::Hypervisor, name: "qemu".into(), digest };
    Submission { name: "host".into(), measurements: vec![qemu], note: "a new version".into() }
}

#[tokio::test]
async fn what_was_published_is_there_after_a_new_start_with_the_same_history() {
    let folder = TempDir::new().unwrap();
    let notary = Notary::start(folder.path()).await;
    let first = notary.publish(1, None).await;
    assert_eq!(notary.judge(&first).unwrap().version, 1);
    let seen = Head::open(&first.head, &notary.key).unwrap();
    notary.publish(2, None).await;
    notary.stop().await;

    let notary = Notary::start(folder.path()).await;
    assert_eq!(notary.publish(3, None).await.inclusion.index, 2);
    let newest: Published = notary.get("/v1/manifests/host").await;
    let proof: Consistency = notary.get("/v1/log/consistency?before=1&size=3").await;
    let remembered = Seen { head: &seen, consistency: Some(&proof) };
    assert_eq!(newest.verify(&notary.key, now(), Some(remembered)).unwrap().version, 3);
    let entries: Vec<Envelope> = notary.get("/v1/log/entries").await;
    assert_eq!(entries.len(), 3);
    assert_eq!(log::leaf(&entries[2]), log::leaf(&newest.manifest));
    notary.stop().await;
}

#[tokio::test]
async fn a_version_that_is_revoked_or_rolled_back_does_not_hold_and_the_others_do() {
    let folder = TempDir::new().unwrap();
    let notary = Notary::start(folder.path()).await;
    for octet in 1..=3 {
        notary.publish(octet, None).await;
    }
    let request = RevokeRequest { version: 2, reason: "a flaw".into() };
    assert!(notary.post("/v1/manifests/host/revoke", &notary.token, &request).await.status().is_success());
    let again = notary.post("/v1/manifests/host/revoke", &notary.token, &request).await;
    assert_eq!(again.status(), StatusCode::BAD_REQUEST, "once is for good");
    assert_eq!(notary.judge(&notary.show(2).await), Err(ErrorCode::ManifestRevoked));
    assert!(notary.judge(&notary.show(1).await).is_ok());

    notary.publish(4, Some(3)).await;
    assert_eq!(notary.judge(&notary.show(1).await), Err(ErrorCode::ManifestRolledBack));
    assert!(notary.judge(&notary.show(3).await).is_ok());
    let rows: Vec<ManifestRow> = notary.get("/v1/manifests").await;
    assert_eq!(rows.iter().map(|row| row.stands).collect::<Vec<_>>(), [false, false, true, true]);
    notary.stop().await;
}

#[tokio::test]
async fn a_series_is_shown_whole_under_one_head_that_goes_on_from_what_was_seen() {
    let folder = TempDir::new().unwrap();
    let notary = Notary::start(folder.path()).await;
    let empty: Series = notary.get("/v1/series/host").await;
    assert!(empty.verify(&notary.key, "host", now(), None).is_ok() && empty.versions.is_empty());
    notary.publish(1, None).await;
    let first: Series = notary.get("/v1/series/host?seen=0").await;
    let seen = first.verify(&notary.key, "host", now(), None).unwrap().head;
    for octet in 2..=10 {
        notary.publish(octet, None).await;
    }
    let later: Series = notary.get("/v1/series/host?seen=1").await;
    let shown = later.verify(&notary.key, "host", now(), Some(&seen)).unwrap();
    assert_eq!((later.versions.len(), shown.head.size), (8, 10));
    assert_eq!(shown.vouch(&submission(10).measurements).unwrap().manifest.version, 10);
    assert_eq!(shown.vouch(&submission(2).measurements).unwrap_err().code(), ErrorCode::MeasurementUnknown);
    let unproved: Series = notary.get("/v1/series/host").await;
    let refused = unproved.verify(&notary.key, "host", now(), Some(&seen)).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::LogForked, "whoever does not ask for the proof has none");
    notary.stop().await;
}

#[tokio::test]
async fn anyone_reads_and_nobody_writes_without_a_token() {
    let folder = TempDir::new().unwrap();
    let notary = Notary::start(folder.path()).await;
    let submitted = notary.submit(1).await;
    let request = PublishRequest { submission: submitted.id, valid_seconds: 60, oldest_accepted: None };
    let submit_token = fs::read_to_string(folder.path().join(lucarne_notary::SUBMIT_TOKEN_FILE)).unwrap();
    for token in ["", "guess", &submit_token] {
        let refused = notary.post("/v1/manifests", token, &request).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["code"], "AuthFailure");
    }
    assert!(notary.post("/v1/submissions", &submit_token, &submission(2)).await.status().is_success());
    assert_eq!(notary.post("/v1/submissions", "guess", &submission(2)).await.status(), StatusCode::UNAUTHORIZED);
    let head: Envelope = notary.get("/v1/log/head").await;
    assert_eq!(Head::open(&head, &notary.key).unwrap().size, 0);
    let missing = reqwest::get(format!("{}/v1/manifests/host", notary.base)).await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    notary.stop().await;
}

#[tokio::test]
async fn what_is_submitted_is_compared_with_what_the_notary_built_itself() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("built")).unwrap();
    fs::write(folder.path().join("built/qemu"), b"built here").unwrap();
    let notary = Notary::start(folder.path()).await;
    let shown = notary.submit(1).await;
    assert_eq!((shown.inspections[0].own, shown.inspections[0].published), (Inspected::Different, Inspected::Unknown));
    notary.publish(1, None).await;
    assert_eq!(notary.submit(1).await.inspections[0].published, Inspected::Same);
    assert_eq!(notary.submit(2).await.inspections[0].published, Inspected::Different);
    notary.stop().await;
}

#[tokio::test]
async fn keys_and_tokens_are_their_owners_alone_and_one_notary_has_the_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let notary = Notary::start(folder.path()).await;
    for name in [lucarne_notary::KEY_FILE, lucarne_notary::PUBLISH_TOKEN_FILE, lucarne_notary::SUBMIT_TOKEN_FILE] {
        assert_eq!(fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let listen = ([127, 0, 0, 1], 0).into();
    let settings = Settings { state_dir: folder.path().to_owned(), listen, name: "notary".into(), inspect: None };
    let second = lucarne_notary::run(settings, CancellationToken::new()).await;
    assert!(matches!(second, Err(lucarne_notary::NotaryError::Locked(_))));
    notary.stop().await;
}
