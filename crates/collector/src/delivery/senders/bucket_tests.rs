//! Deliveries to a store that speaks as S3 does: moto's server, which checks signatures with botocore's code and none of ours.

use std::{
    env,
    io::Read as _,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use lucarne_model::flow_log::{DeliveryOrder, Destination, FlowLog, StoreCredentials};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::{Reach, SendError, bucket::BucketWriter};
use crate::{
    delivery::tests::{PATIENCE, catalog, deliveries, log, of_first_account, status},
    sealer::now,
    test_records::numbered,
};

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

struct Store {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Store {
    async fn start(address: SocketAddr) -> Self {
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
    async fn is_strict(&self, is_strict: bool) {
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

    async fn make_bucket(&self, bucket: &str) {
        self.http.put(format!("{}/{bucket}", self.url)).send().await.unwrap().error_for_status().unwrap();
    }

    /// A user who may write into every bucket.
    async fn make_user(&self) -> StoreCredentials {
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

    async fn objects(&self, bucket: &str) -> Vec<(String, Bytes)> {
        self.is_strict(false).await;
        let mut objects = Vec::new();
        for key in between(&self.text(&format!("{bucket}?list-type=2")).await, "<Key>", "<") {
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

fn order(format: &str, to: &str, credentials: Option<StoreCredentials>) -> DeliveryOrder {
    let order = log(to);
    DeliveryOrder { log: FlowLog { format: format.into(), ..order.log }, credentials }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_or_has_no_such_bucket_is_told_and_gets_everything_when_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let deliveries = deliveries(dir.path(), &catalog(100));
    deliveries.set(vec![order("default", &format!("s3://my-logs/lab?endpoint=http://{address}"), None)]).unwrap();
    let expected = of_first_account(numbered(0..100)).len();
    let away = status(&deliveries, |delivery| delivery.last_error.is_some()).await;
    assert_eq!((away.delivered, away.waiting), (0, expected as u64));
    let store = Store::start(address).await;
    status(&deliveries, |delivery| delivery.last_error.iter().any(|error| error.contains("NoSuchBucket"))).await;
    store.make_bucket("my-logs").await;
    let told = status(&deliveries, |delivery| delivery.delivered > 0 && delivery.last_error.is_none()).await;
    assert_eq!((told.delivered, told.waiting), (expected as u64, 0));
    let [(key, object)] = &store.objects("my-logs").await[..] else { panic!("not one object") };
    let account = log("store").log.account;
    let folder = format!("lab/AWSLogs/aws-account-id={account}/aws-service=vpcflowlogs/aws-region=");
    assert!(key.starts_with(&folder) && key.contains("/year=2026/month=01/day=15/hour=12/"), "{key}");
    let mut text = String::new();
    GzDecoder::new(&object[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), expected + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_takes_parquet_too() {
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = Store::start(address).await;
    store.make_bucket("my-logs").await;
    let deliveries = deliveries(dir.path(), &catalog(100));
    let to = format!("s3://my-logs/?endpoint=http://{address}&region=north-1");
    deliveries.set(vec![order("parquet", &to, None)]).unwrap();
    let expected = of_first_account(numbered(0..100)).len();
    status(&deliveries, |delivery| delivery.delivered == expected as u64).await;
    let (key, object) = store.objects("my-logs").await.pop().unwrap();
    assert!(key.starts_with("AWSLogs/") && key.ends_with(".log.parquet"), "{key}");
    let reader = ParquetRecordBatchReaderBuilder::try_new(object).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows() as usize, expected);
    assert!(reader.schema().field_with_name("host").is_err(), "the host is the operator's to know");
}

/// With a key without `=`: moto decodes a path before it signs it, so that botocore's own requests fail there too.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_signatures_takes_ours_and_no_forged_one() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = Store::start(address).await;
    store.make_bucket("my-logs").await;
    let right = store.make_user().await;
    store.is_strict(true).await;
    let Destination::S3(bucket) = format!("s3://my-logs/lab?endpoint=http://{address}").parse().unwrap() else {
        panic!("no bucket")
    };
    let put = async |credentials: StoreCredentials| {
        let writer = BucketWriter::new(bucket.clone(), Some(credentials), Reach::Anywhere);
        writer.put("a-b_c.d/file", b"flows".to_vec(), now()).await.map_err(|error| error.to_string())
    };
    assert_eq!(put(right.clone()).await, Ok(()));
    let forged = put(StoreCredentials { secret_access_key: "guessed".into(), ..right.clone() }).await.unwrap_err();
    assert!(forged.contains("SignatureDoesNotMatch"), "{forged}");
    let stranger = put(StoreCredentials { access_key_id: "AKIANOBODY".into(), ..right }).await.unwrap_err();
    assert!(stranger.contains("InvalidAccessKeyId"), "{stranger}");
    let objects = store.objects("my-logs").await;
    assert_eq!(objects, [("lab/a-b_c.d/file".to_owned(), Bytes::from_static(b"flows"))]);
}

/// Where only other addresses are allowed, a store on the machine itself is not even connected to.
#[tokio::test]
async fn a_store_on_the_collectors_own_machine_is_not_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let Destination::S3(bucket) = format!("s3://my-logs/?endpoint=http://{address}").parse().unwrap() else {
        panic!("no bucket")
    };
    let refused = BucketWriter::new(bucket, None, Reach::Elsewhere).put("file", Vec::new(), now()).await;
    assert!(matches!(refused, Err(SendError::Local(_))), "{refused:?}");
    assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err());
}
