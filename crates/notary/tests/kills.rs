//! A notary that is killed again and again: what it answered holds, and everyone is shown one history.
//!
//! The notary is a process of its own and the kill is `kill -9`. What a lost power would leave beside that, a part of what was
//! written after the last answer, is made by cutting the log off there.
#![allow(clippy::unwrap_used)] // a test says by it what must not fail

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lucarne_attest::{
    canonical,
    log::{self, Head},
    manifest::{Manifest, Published, Seen},
    series::Series,
    signing::{Envelope, PublicKey},
};
use lucarne_model::{Component, Measurement, Moment, storage::Digest};
use lucarne_notary::{PublishRequest, Settings, Submission, Submitted};
use reqwest::Client;
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const KILLS: u64 = 30;
/// The longest that one lives after it has begun to be asked, or has answered, in milliseconds.
const LIFE: u64 = 60;
/// Of what was answered before, so much is asked of each notary; of the last one, all.
const LOOKED_AT: usize = 10;
/// Names the state folder in the process that is the notary.
const VARIABLE: &str = "LUCARNE_TEST_NOTARY";
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: the process that is killed.
#[tokio::test]
#[ignore = "is started by the test below"]
async fn role_of_the_notary() {
    let Some(folder) = env::var_os(VARIABLE) else { return };
    let listen = ([127, 0, 0, 1], 0).into();
    let settings = Settings { state_dir: folder.into(), listen, name: "notary".into(), inspect: None };
    lucarne_notary::run(settings, CancellationToken::new()).await.unwrap();
}

struct Notary {
    process: Child,
    base: String,
}

impl Notary {
    async fn start(folder: &Path) -> Self {
        let listen = folder.join("listen");
        let _ = fs::remove_file(&listen);
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "role_of_the_notary", "--ignored", "--test-threads=1"]).env(VARIABLE, folder);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + PATIENCE;
        let address = loop {
            assert_eq!(process.try_wait().unwrap(), None, "it does not serve what it left");
            assert!(Instant::now() < end, "it does not answer");
            match fs::read_to_string(&listen) {
                Ok(address) => break address,
                Err(_) => sleep(Duration::from_millis(2)).await,
            }
        };
        Self { process, base: format!("http://{address}") }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Notary {
    /// Where an assertion fails, no process is left.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What has been told to somebody, and must hold for ever.
struct Told {
    key: PublicKey,
    head: Option<Head>,
    /// By version: the leaf that was published.
    versions: BTreeMap<u64, Envelope>,
    /// Questions that no answer came to.
    unanswered: u64,
}

impl Told {
    /// How many entries the log must have at least.
    fn size(&self) -> u64 {
        let answered = self.versions.keys().last().copied().unwrap_or(0);
        self.head.as_ref().map_or(0, |head| head.size).max(answered)
    }

    /// Takes what a notary shows, which must go on from all that was seen before.
    fn see(&mut self, series: &Series) {
        let seen = series.verify(&self.key, "host", now(), self.head.as_ref());
        self.head = Some(seen.expect("one history").head);
    }
}

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Moment(since.as_micros() as u64)
}

/// The octets of a submission tell which it was.
fn submission(number: u64) -> Submission {
    let mut octets = [0; 32];
    octets[..8].copy_from_slice(&number.to_be_bytes());
    let digest = Digest::from_bytes(octets);
    let qemu = Measurement { component: Component::Hypervisor, name: "qemu".into(), digest };
    Submission { name: "host".into(), measurements: vec![qemu], note: "a new version".into() }
}

struct Operator {
    http: Client,
    base: String,
    token: String,
}

impl Operator {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        self.http.get(format!("{}{path}", self.base)).send().await.ok()?.json().await.ok()
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Option<T> {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.token).json(body);
        request.send().await.ok()?.json().await.ok()
    }

    /// None where no whole answer came.
    async fn publish(&self, number: u64) -> Option<Published> {
        let submitted: Submitted = self.post("/v1/submissions", &submission(number)).await?;
        let request = PublishRequest { submission: submitted.id, valid_seconds: 3600, oldest_accepted: None };
        self.post("/v1/manifests", &request).await
    }
}

/// Submits and publishes one version after the other, until no answer comes.
async fn publishes(operator: Operator, told: Arc<Mutex<Told>>, first: u64) {
    for number in first.. {
        let answer = operator.publish(number).await;
        let mut told = told.lock().unwrap();
        let Some(published) = answer else {
            told.unanswered += 1;
            return;
        };
        let manifest: Manifest = told.key.open(&published.manifest).unwrap();
        let before = told.versions.insert(manifest.version, published.manifest);
        assert_eq!(before, None, "two manifests were published as version {}", manifest.version);
    }
}

/// Reads as controllers do, each time going on from what was seen, until no answer comes.
async fn reads(reader: Operator, told: Arc<Mutex<Told>>) {
    loop {
        let seen = told.lock().unwrap().head.as_ref().map_or(0, |head| head.size);
        let Some(series) = reader.get::<Series>(&format!("/v1/series/host?seen={seen}")).await else { return };
        told.lock().unwrap().see(&series);
    }
}

/// What was told, asked of the one that has just been started: its history, and the newest so many versions.
async fn holds(reader: &Operator, told: &Mutex<Told>, newest: usize) {
    let seen = told.lock().unwrap().head.clone();
    let size = seen.as_ref().map_or(0, |head| head.size);
    let series: Series = reader.get(&format!("/v1/series/host?seen={size}")).await.expect("an answer");
    let (key, versions) = {
        let mut told = told.lock().unwrap();
        told.see(&series);
        (told.key.clone(), told.versions.clone())
    };
    for (version, manifest) in versions.into_iter().rev().take(newest) {
        let shown: Published = reader.get(&format!("/v1/manifests/host?version={version}")).await.expect("it is there");
        assert_eq!(shown.manifest, manifest, "version {version} is another one");
        let remembered = seen.as_ref().filter(|seen| seen.size == shown.inclusion.size);
        let remembered = remembered.map(|head| Seen { head, consistency: None });
        shown.verify(&key, now(), remembered).expect("it is in the log");
    }
}

/// What a lost power leaves: of what nobody was told, a part.
fn cut(log: &Path, told: u64, draw: u64) {
    let content = fs::read(log).unwrap();
    let ends = content.iter().enumerate().filter(|(_, octet)| **octet == b'\n').map(|(at, _)| at as u64 + 1);
    let kept = ends.take(usize::try_from(told).unwrap()).last().unwrap_or(0);
    let length = kept + draw % (content.len() as u64 - kept + 1);
    fs::File::options().write(true).open(log).unwrap().set_len(length).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_answered_is_lost_or_shown_otherwise_whenever_the_notary_is_killed() {
    let folder = TempDir::new().unwrap();
    let log: PathBuf = folder.path().join("log.jsonl");
    let notary = Notary::start(folder.path()).await;
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let key = PublicKey::from_pem(&read(lucarne_notary::PUBLIC_KEY_FILE)).unwrap();
    let token = read(lucarne_notary::PUBLISH_TOKEN_FILE);
    notary.kill();
    let told = Told { key, head: None, versions: BTreeMap::new(), unanswered: 0 };
    let told = Arc::new(Mutex::new(told));
    for kill in 0..KILLS {
        let notary = Notary::start(folder.path()).await;
        let client = || Operator {
            http: Client::builder().no_proxy().build().unwrap(),
            base: notary.base.clone(),
            token: token.clone(),
        };
        holds(&client(), &told, LOOKED_AT).await;
        // Each of them asks for as long as it is answered.
        let asking = [
            tokio::spawn(publishes(client(), told.clone(), kill * 100_000)),
            tokio::spawn(publishes(client(), told.clone(), kill * 100_000 + 50_000)),
            tokio::spawn(reads(client(), told.clone())),
        ];
        // Every second one is killed whether it has come to anything or not.
        if kill % 2 == 0 {
            let before = told.lock().unwrap().versions.len();
            let end = Instant::now() + PATIENCE;
            while told.lock().unwrap().versions.len() == before {
                assert!(Instant::now() < end, "it publishes nothing");
                sleep(Duration::from_millis(1)).await;
            }
        }
        sleep(Duration::from_millis(kill * 37 % LIFE)).await;
        notary.kill();
        for task in asking {
            task.await.unwrap();
        }
        cut(&log, told.lock().unwrap().size(), kill.wrapping_mul(7919));
    }
    let notary = Notary::start(folder.path()).await;
    let reader = Operator { http: Client::new(), base: notary.base.clone(), token };
    holds(&reader, &told, usize::MAX).await;
    let told = Arc::into_inner(told).unwrap().into_inner().unwrap();
    assert!(
        told.unanswered > KILLS && told.versions.len() as u64 >= KILLS / 2,
        "too little was interrupted or answered"
    );
    // The log as a whole: versions without a gap, under the head that everyone has seen.
    let text = fs::read(&log).unwrap();
    let lines = text.split_inclusive(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\n").unwrap());
    let entries: Vec<Envelope> = lines.map(|line| canonical::read(line).unwrap()).collect();
    let versions: Vec<u64> = entries.iter().map(|entry| told.key.open::<Manifest>(entry).unwrap().version).collect();
    assert_eq!(versions, (1..=entries.len() as u64).collect::<Vec<_>>());
    let mut tree = lucarne_attest::merkle::Tree::default();
    entries.iter().for_each(|entry| tree.push(log::leaf(entry).unwrap()));
    let head = told.head.unwrap();
    assert_eq!((tree.size(), tree.root(tree.size())), (head.size, Some(head.root.to_bytes())));
}
