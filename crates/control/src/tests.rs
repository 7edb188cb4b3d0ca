//! A whole controller over a real socket: what its users, and those who are none, meet.

pub(crate) mod attestation;
mod enrolment;
mod events;
mod memory;
mod moves;
mod names;
mod orders;
mod recordings;
mod replicas;

use std::{path::Path, time::Duration};

use lucarne_api::Problem;
use lucarne_model::ErrorCode;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Error, ListenError, OperatorFile, Settings, run};

struct Cloud {
    operator: OperatorFile,
    dir: TempDir,
    http: Client,
    _running: DropGuard,
}

struct User {
    account: String,
    token: String,
    key: Value,
}

async fn start() -> Cloud {
    start_with(|_| {}).await
}

async fn start_with(change: impl FnOnce(&mut Settings)) -> Cloud {
    let dir = tempfile::tempdir().unwrap();
    let nobody = "127.0.0.1:0".parse().unwrap();
    let mut settings = Settings::new(dir.path().into(), nobody, dir.path().join("collector.json"));
    change(&mut settings);
    let shutdown = CancellationToken::new();
    tokio::spawn(run(settings, shutdown.clone()));
    let path = dir.path().join(OperatorFile::NAME);
    let operator = loop {
        match OperatorFile::read(&path) {
            Ok(file) => break file,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    };
    Cloud { operator, dir, http: Client::new(), _running: shutdown.drop_guard() }
}

impl Cloud {
    async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert!(response.headers().contains_key("x-request-id"));
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
    }
    fn request(&self, method: Method, path: &str, token: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.operator.endpoint)).bearer_auth(token)
    }
    async fn get(&self, user: &User, path: &str) -> (u16, Value) {
        self.send(self.request(Method::GET, path, &user.token)).await
    }
    async fn post(&self, user: &User, path: &str, body: Value) -> (u16, Value) {
        self.send(self.request(Method::POST, path, &user.token).json(&body)).await
    }
    async fn delete(&self, user: &User, path: &str) -> (u16, Value) {
        self.send(self.request(Method::DELETE, path, &user.token)).await
    }
    async fn sign_in(&self, id: &str, secret: &str) -> (u16, Value) {
        let body = json!({"access_key_id": id, "secret_access_key": secret});
        self.send(self.request(Method::POST, "/v1/tokens", "").json(&body)).await
    }
    async fn operator(&self) -> User {
        let (id, secret) = (&self.operator.access_key_id, &self.operator.secret_access_key);
        let (status, token) = self.sign_in(id, secret).await;
        assert_eq!(status, 201, "{token}");
        let account = self.operator.account.to_string();
        User { account, token: token["token"].as_str().unwrap().into(), key: Value::Null }
    }
    async fn tenant(&self, name: &str) -> User {
        let (status, made) = self.post(&self.operator().await, "/v1/accounts", json!({"name": name})).await;
        assert_eq!(status, 201, "{made}");
        let (id, secret) = (&made["access_key"]["access_key"]["id"], &made["access_key"]["secret_access_key"]);
        let (_, token) = self.sign_in(id.as_str().unwrap(), secret.as_str().unwrap()).await;
        let account = made["account"]["id"].as_str().unwrap().to_owned();
        User { account, token: token["token"].as_str().unwrap().into(), key: made["access_key"].clone() }
    }
    async fn vpc(&self, user: &User) -> Value {
        let (status, vpc) = self.post(user, "/v1/vpcs", json!({"cidr": "10.0.0.0/16"})).await;
        assert_eq!(status, 201, "{vpc}");
        vpc
    }
}

fn path(collection: &str, resource: &Value) -> String {
    format!("/v1/{collection}/{}", resource["id"].as_str().unwrap())
}

fn code((_, body): &(u16, Value)) -> ErrorCode {
    let problem: Problem = serde_json::from_value(body.clone()).unwrap_or_else(|_| panic!("no problem: {body}"));
    assert!(problem.request_id.is_some_and(|id| id.starts_with("req-")), "a problem names its request");
    problem.code
}

#[tokio::test]
async fn signing_in_takes_the_secret_and_failing_often_takes_time() {
    let cloud = start().await;
    let (me, tenant) = (cloud.operator().await, cloud.tenant("a").await);
    let (status, identity) = cloud.get(&me, "/v1/identity").await;
    assert_eq!((status, identity["role"].as_str()), (200, Some("admin")));
    for _ in 0..10 {
        assert_eq!(code(&cloud.sign_in(&cloud.operator.access_key_id, "guess").await), ErrorCode::AuthFailure);
    }
    let slowed = cloud.sign_in(&cloud.operator.access_key_id, "guess").await;
    assert_eq!(code(&slowed), ErrorCode::RequestLimitExceeded);
    assert!(slowed.1["retry_after"].is_u64());
    let (key, secret) = (&tenant.key["access_key"]["id"], &tenant.key["secret_access_key"]);
    let other = cloud.sign_in(key.as_str().unwrap(), secret.as_str().unwrap()).await;
    assert_eq!(other.0, 201, "the same address signs in with another key");
}

#[tokio::test]
async fn the_tokens_of_a_deleted_key_stop_at_once() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let (_, second) = cloud.post(&tenant, "/v1/access-keys", json!({})).await;
    let (id, secret) = (second["access_key"]["id"].as_str().unwrap(), second["secret_access_key"].as_str().unwrap());
    let (_, token) = cloud.sign_in(id, secret).await;
    let token = token["token"].as_str().unwrap();
    let holder = User { account: tenant.account.clone(), token: token.into(), key: Value::Null };
    assert_eq!(cloud.get(&holder, "/v1/identity").await.0, 200);
    assert_eq!(cloud.delete(&tenant, &format!("/v1/access-keys/{id}")).await.0, 204);
    assert_eq!(code(&cloud.get(&holder, "/v1/identity").await), ErrorCode::AuthFailure);
    assert_eq!(code(&cloud.sign_in(id, secret).await), ErrorCode::AuthFailure);
}

#[tokio::test]
async fn a_tenant_meets_another_ones_network_as_nothing_at_all() {
    let cloud = start().await;
    let (a, b) = (cloud.tenant("a").await, cloud.tenant("b").await);
    let vpc = cloud.vpc(&a).await;
    let mine = path("vpcs", &vpc);
    assert_eq!(code(&cloud.get(&b, &mine).await), ErrorCode::InvalidVpcNotFound);
    assert_eq!(code(&cloud.delete(&b, &mine).await), ErrorCode::InvalidVpcNotFound);
    let subnet = json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"});
    assert_eq!(code(&cloud.post(&b, "/v1/subnets", subnet).await), ErrorCode::InvalidVpcNotFound);
    let tags = cloud.request(Method::PUT, &path("tags", &vpc), &b.token).json(&json!({"add": {"Name": "b"}}));
    assert_eq!(code(&cloud.send(tags).await), ErrorCode::InvalidVpcNotFound);
    assert_eq!(cloud.get(&b, "/v1/vpcs").await.1["items"], json!([]));
    assert_eq!(code(&cloud.get(&b, "/v1/hosts").await), ErrorCode::UnauthorizedOperation);
    assert_eq!(cloud.get(&a, &mine).await.1["tags"], json!({}));
}

#[tokio::test]
async fn an_idempotency_key_gives_the_same_answer_and_keeps_no_secret() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let keyed = |path: &str, body: Value| {
        cloud.request(Method::POST, path, &tenant.token).header("idempotency-key", "k1").json(&body)
    };
    let first = cloud.send(keyed("/v1/access-keys", json!({}))).await;
    assert_eq!((first.0, &first), (201, &cloud.send(keyed("/v1/access-keys", json!({}))).await));
    let other = cloud.send(keyed("/v1/vpcs", json!({"cidr": "10.0.0.0/16"}))).await;
    assert_eq!(code(&other), ErrorCode::IdempotentParameterMismatch);
    let secret = first.1["secret_access_key"].as_str().unwrap().as_bytes();
    for file in ["lucarne.db", "lucarne.db-wal"] {
        let bytes = std::fs::read(cloud.dir.path().join(file)).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{file} has the secret");
    }
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let dry = |body| cloud.request(Method::POST, "/v1/vpcs", &tenant.token).header("dry-run", "true").json(&body);
    assert_eq!(code(&cloud.send(dry(json!({"cidr": "10.0.0.0/16"}))).await), ErrorCode::DryRunOperation);
    assert_eq!(code(&cloud.send(dry(json!({"cidr": "10.0.0.0/8"}))).await), ErrorCode::InvalidCidr);
    assert_eq!(cloud.get(&tenant, "/v1/vpcs").await.1["items"], json!([]));
}

#[tokio::test]
async fn a_vpc_is_born_whole_and_deleted_when_it_is_empty() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let vpc = cloud.vpc(&tenant).await;
    let group = format!("/v1/security-groups/{}", vpc["default_security_group"].as_str().unwrap());
    assert_eq!(cloud.get(&tenant, &group).await.1["rules"].as_array().unwrap().len(), 2);
    assert_eq!(code(&cloud.delete(&tenant, &group).await), ErrorCode::DependencyViolation);
    let subnet = |cidr: &str| json!({"vpc": vpc["id"], "cidr": cidr});
    let (_, made) = cloud.post(&tenant, "/v1/subnets", subnet("10.0.1.0/24")).await;
    assert_eq!(made["available_addresses"], 251);
    let conflict = cloud.post(&tenant, "/v1/subnets", subnet("10.0.1.128/25")).await;
    assert_eq!(code(&conflict), ErrorCode::SubnetConflict);
    assert_eq!(code(&cloud.post(&tenant, "/v1/subnets", subnet("10.1.0.0/24")).await), ErrorCode::SubnetRange);
    assert_eq!(code(&cloud.delete(&tenant, &path("vpcs", &vpc)).await), ErrorCode::DependencyViolation);
    assert_eq!(cloud.delete(&tenant, &path("subnets", &made)).await.0, 204);
    assert_eq!(cloud.delete(&tenant, &path("vpcs", &vpc)).await.0, 204);
    let operator = cloud.operator().await;
    assert_eq!(cloud.delete(&operator, &format!("/v1/accounts/{}", tenant.account)).await.0, 204);
    let (key, secret) = (&tenant.key["access_key"]["id"], &tenant.key["secret_access_key"]);
    let gone = cloud.sign_in(key.as_str().unwrap(), secret.as_str().unwrap()).await;
    assert_eq!(code(&gone), ErrorCode::AuthFailure);
}

#[tokio::test]
async fn a_quota_holds_for_what_there_is_and_for_how_fast_is_asked() {
    let cloud = start().await;
    let (operator, tenant) = (cloud.operator().await, cloud.tenant("a").await);
    let mut quota = cloud.get(&tenant, "/v1/account").await.1["account"]["quota"].clone();
    quota["vpcs"] = json!(1);
    quota["requests_per_second"] = json!(1);
    quota["request_burst"] = json!(3);
    let at = format!("/v1/accounts/{}/quota", tenant.account);
    assert_eq!(cloud.send(cloud.request(Method::PUT, &at, &operator.token).json(&quota)).await.0, 200);
    sleep(Duration::from_millis(50)).await;
    cloud.vpc(&tenant).await;
    let second = cloud.post(&tenant, "/v1/vpcs", json!({"cidr": "10.0.0.0/16"})).await;
    assert_eq!(code(&second), ErrorCode::ResourceLimitExceeded);
    let mut refusals = 0;
    for _ in 0..5 {
        refusals += usize::from(cloud.get(&tenant, "/v1/identity").await.0 == 429);
    }
    assert!(refusals >= 3, "{refusals} of 5 refused");
}

/// Uploads and gives the digest.
async fn upload(cloud: &Cloud, user: &User, bytes: Vec<u8>) -> String {
    let (status, blob) = cloud.send(cloud.request(Method::POST, "/v1/blobs", &user.token).body(bytes)).await;
    assert_eq!(status, 201, "{blob}");
    blob["digest"].as_str().unwrap().into()
}

#[tokio::test]
async fn an_image_is_made_of_what_the_account_itself_uploaded_and_what_can_boot() {
    let cloud = start().await;
    let (a, b) = (cloud.tenant("a").await, cloud.tenant("b").await);
    let mut kernel = vec![0; 0x210];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    let initramfs = b"070701 and so on".to_vec();
    let (theirs, _) = (upload(&cloud, &a, kernel.clone()).await, upload(&cloud, &a, initramfs.clone()).await);
    let small = upload(&cloud, &b, initramfs).await;
    let image = |kernel: &str, public: bool| {
        let source = json!({"kind": "kernel", "kernel": kernel, "initramfs": small, "command_line": "quiet"});
        json!({"name": "tiny", "source": source, "public": public})
    };
    assert_eq!(code(&cloud.post(&b, "/v1/images", image(&theirs, false)).await), ErrorCode::InvalidParameterValue);
    assert_eq!(code(&cloud.post(&b, "/v1/images", image(&small, false)).await), ErrorCode::ImageUnreadable);
    assert_eq!(code(&cloud.post(&a, "/v1/images", image(&theirs, true)).await), ErrorCode::UnauthorizedOperation);
    let (status, made) = cloud.post(&a, "/v1/images", image(&theirs, false)).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["boot"]["kernel"]["size"], 0x210);
    assert_eq!(code(&cloud.get(&b, &path("images", &made)).await), ErrorCode::InvalidImageNotFound);
    assert_eq!(std::fs::read_dir(cloud.dir.path().join("blobs/incoming")).unwrap().count(), 0, "nothing half-made");
}

#[tokio::test]
async fn requests_that_are_malformed_or_too_large_are_told_so() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let to_vpcs = || cloud.request(Method::POST, "/v1/vpcs", &tenant.token).header("content-type", "application/json");
    assert_eq!(code(&cloud.send(to_vpcs().body("{")).await), ErrorCode::MalformedRequest);
    assert_eq!(
        code(&cloud.send(to_vpcs().body(r#"{"cidr":"10.0.0.0/16","cdir":1}"#)).await),
        ErrorCode::MalformedRequest
    );
    let large = format!("{{\"cidr\":\"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(code(&cloud.send(to_vpcs().body(large)).await), ErrorCode::RequestTooLarge);
    assert_eq!(code(&cloud.get(&tenant, "/v1/vpcs/i-1").await), ErrorCode::MalformedRequest);
    assert_eq!(code(&cloud.get(&tenant, "/v1/nothing").await), ErrorCode::NoSuchRoute);
    assert_eq!(code(&cloud.get(&tenant, "/v1/vpcs?limit=0").await), ErrorCode::InvalidParameterValue);
    let strange = cloud.send(cloud.request(Method::GET, "/v1/vpcs", "lucarne-host.x.y")).await;
    assert_eq!(code(&strange), ErrorCode::AuthFailure);
}

#[tokio::test]
async fn a_header_that_is_too_large_or_too_slow_ends_its_connection_and_no_other() {
    let cloud = start().await;
    let address = cloud.operator.endpoint.strip_prefix("http://").unwrap();
    let mut large = TcpStream::connect(address).await.unwrap();
    let header = format!("GET /v1/health HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(100 << 10));
    // The server may answer and close before it has read it all.
    let _ = large.write_all(header.as_bytes()).await;
    let mut answer = [0; 12];
    let read = timeout(Duration::from_secs(5), large.read_exact(&mut answer)).await.unwrap();
    assert!(read.is_err() || &answer == b"HTTP/1.1 431", "{}", String::from_utf8_lossy(&answer));
    let (mut slow, begun) = (TcpStream::connect(address).await.unwrap(), Instant::now());
    slow.write_all(b"GET /v1/health HTTP/1.1\r\nhost:").await.unwrap();
    let health = cloud.http.get(format!("{}/v1/health", cloud.operator.endpoint)).send();
    assert_eq!(health.await.unwrap().status(), 204);
    let mut rest = Vec::new();
    timeout(Duration::from_secs(15), slow.read_to_end(&mut rest)).await.expect("the slow connection was ended").ok();
    assert!(begun.elapsed() >= Duration::from_secs(9));
}

#[tokio::test]
async fn plaintext_stays_on_the_machine_unless_it_is_allowed() {
    let settings = Settings::new("/nonexistent".into(), "0.0.0.0:0".parse().unwrap(), "none".into());
    let refused = run(settings, CancellationToken::new()).await;
    assert!(matches!(refused, Err(Error::Listen(ListenError::Plaintext(_)))));
}

#[test]
fn an_operator_file_is_for_its_owner_only_and_replaced_whole() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(OperatorFile::NAME);
    let file = OperatorFile {
        endpoint: "http://127.0.0.1:1".into(),
        account: lucarne_model::AccountId::OPERATOR,
        access_key_id: "LK1".into(),
        secret_access_key: "s".into(),
        join_token: "j".into(),
    };
    file.write(&path).unwrap();
    file.write(&path).unwrap();
    assert_eq!(OperatorFile::read(&path).unwrap(), file);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(OperatorFile::read(Path::new("/nonexistent")).is_err());
}
