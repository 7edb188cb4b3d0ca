//! A store for tests that speaks as S3 does: moto's server, which checks signatures with botocore's code and none of ours.
#![allow(dead_code)] // each test binary uses a part of it

use std::{
    env,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use lucarne_model::flow_log::StoreCredentials;
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where `cargo xtask setup` puts it; else one that is on the path.
fn program() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let installed = cache.join("lucarne/moto/bin/moto_server");
    if installed.exists() { installed } else { "moto_server".into() }
}

/// Whoever signs nothing may read nothing, and while the store is not strict any signature will do.
fn nobody(service: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0")
}

pub(crate) struct Store {
    child: Child,
    pub(crate) url: String,
    http: reqwest::Client,
}

impl Store {
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let port = address.port().to_string();
        let mut command = Command::new(program());
        command.args(["-H", "127.0.0.1", "-p", &port]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("moto_server runs: `cargo xtask setup` installs it");
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let store = Self { child, url: format!("http://{address}"), http };
        let begun = tokio::time::Instant::now();
        while store.http.get(format!("{}/moto-api/", store.url)).send().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "moto_server does not listen");
            sleep(Duration::from_millis(50)).await;
        }
        store
    }

    /// Whether signatures and policies count from now on.
    pub(crate) async fn is_strict(&self, is_strict: bool) {
        let free = if is_strict { "0" } else { "inf" };
        self.http.post(format!("{}/moto-api/reset-auth", self.url)).body(free).send().await.unwrap();
    }

    async fn text(&self, path: &str) -> String {
        self.http.get(format!("{}/{path}", self.url)).send().await.unwrap().text().await.unwrap()
    }

    /// Asks its service for users.
    async fn manage(&self, body: &str) -> String {
        let request = self.http.post(&self.url).header("authorization", nobody("iam"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(format!("{body}&Version=2010-05-08&UserName=lucarne")).send().await.unwrap();
        answer.error_for_status().unwrap().text().await.unwrap()
    }

    pub(crate) async fn make_bucket(&self, bucket: &str) {
        self.http.put(format!("{}/{bucket}", self.url)).send().await.unwrap().error_for_status().unwrap();
    }

    /// A user who may write into every bucket.
    pub(crate) async fn make_user(&self) -> StoreCredentials {
        const POLICY: &str = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C\
                              %22Action%22%3A%22s3%3APutObject%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
        self.manage("Action=CreateUser").await;
        self.manage(&format!("Action=PutUserPolicy&PolicyName=write&PolicyDocument={POLICY}")).await;
        let key = self.manage("Action=CreateAccessKey").await;
        StoreCredentials {
            access_key_id: between(&key, "<AccessKeyId>", "<").remove(0),
            secret_access_key: between(&key, "<SecretAccessKey>", "<").remove(0),
        }
    }

    pub(crate) async fn keys(&self, bucket: &str) -> Vec<String> {
        self.is_strict(false).await;
        between(&self.text(&format!("{bucket}?list-type=2")).await, "<Key>", "<")
    }

    /// To be asked when nobody removes any meanwhile.
    pub(crate) async fn objects(&self, bucket: &str) -> Vec<(String, Bytes)> {
        let mut objects = Vec::new();
        for key in self.keys(bucket).await {
            let request = self.http.get(format!("{}/{bucket}/{key}", self.url));
            let object = request.header("authorization", nobody("s3")).send().await.unwrap();
            objects.push((key, object.error_for_status().unwrap().bytes().await.unwrap()));
        }
        objects
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn between(text: &str, begin: &str, end: &str) -> Vec<String> {
    text.split(begin).skip(1).filter_map(|rest| rest.split(end).next()).map(Into::into).collect()
}
