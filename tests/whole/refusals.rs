//! Requests that are malformed, oversized, slow, repeated, too many, or at odds with what is there.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::{Answer, Api},
    cloud::{Cloud, Driver},
    image,
};
use reqwest::Method;
use serde_json::{Value, json};

fn expect(answer: &Answer, status: u16, code: &str) -> anyhow::Result<()> {
    ensure!((answer.status, answer.code()) == (status, code), "wanted {status} {code}, got {answer:?}");
    for field in ["type", "title", "detail", "request_id"] {
        ensure!(answer.body[field].as_str().is_some_and(|text| !text.is_empty()), "no {field} in {answer:?}");
    }
    Ok(())
}

#[test]
fn bad_requests_are_refused_with_a_code_and_change_nothing() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 1)?;
    let tenant = cloud.tenant("first")?;
    let (vpc, subnet) = tenant.network()?;
    malformed(&tenant)?;
    networks(&tenant, &vpc)?;
    launches(&tenant, &subnet)?;
    dependencies(&tenant, &vpc, &subnet)?;
    repeated(&tenant)?;
    ensure!(tenant.list("/v1/instances")?.is_empty() && tenant.list("/v1/interfaces")?.is_empty());
    ensure!(tenant.list("/v1/subnets")?.len() == 1);
    Ok(())
}

fn malformed(api: &Api) -> anyhow::Result<()> {
    let raw = |body: &str, kind: &str| {
        let request = api.request(Method::POST, "/v1/vpcs").header("content-type", kind).body(body.to_owned());
        Api::send(request)
    };
    expect(&raw("{\"cidr\": ", "application/json")?, 400, "MalformedRequest")?;
    expect(&raw("[]", "application/json")?, 400, "MalformedRequest")?;
    expect(&raw("{\"cidr\": \"10.0.0.0/16\", \"sidecar\": 1}", "application/json")?, 400, "MalformedRequest")?;
    expect(&raw("{}", "text/plain")?, 415, "UnsupportedMediaType")?;
    expect(&raw(&format!("{{\"cidr\": \"{}\"}}", "9".repeat(2 << 20)), "application/json")?, 413, "RequestTooLarge")?;
    expect(&api.get("/v1/nothing")?, 404, "NoSuchRoute")?;
    expect(&Api::send(api.request(Method::PATCH, "/v1/vpcs"))?, 405, "MethodNotAllowed")?;
    expect(&api.get("/v1/vpcs/vpc-zzz")?, 400, "MalformedRequest")?;
    expect(&api.get("/v1/vpcs/vpc-00000000000000000")?, 404, "InvalidVpcId.NotFound")?;
    expect(&api.get("/v1/vpcs?page_token=nonsense")?, 400, "InvalidPageToken")?;
    ensure!(api.get("/v1/vpcs?limit=0")?.status == 400);
    ensure!(api.get("/v1/vpcs?colour=blue")?.status == 400);
    Ok(())
}

fn networks(api: &Api, vpc: &str) -> anyhow::Result<()> {
    let subnet = |cidr: &str| api.post("/v1/subnets", &json!({"vpc": vpc, "cidr": cidr}));
    expect(&subnet("10.0.1.0/24")?, 409, "InvalidSubnet.Conflict")?;
    expect(&subnet("10.0.0.0/16")?, 409, "InvalidSubnet.Conflict")?;
    expect(&subnet("10.0.1.128/28")?, 409, "InvalidSubnet.Conflict")?;
    expect(&subnet("10.1.0.0/24")?, 400, "InvalidSubnet.Range")?;
    ensure!(subnet("10.0.9.0/30")?.status == 400 && subnet("10.0.9.1/24")?.status == 400);
    ensure!(api.post("/v1/vpcs", &json!({"cidr": "10.0.0.0/8"}))?.status == 400);
    Ok(())
}

fn launches(api: &Api, subnet: &str) -> anyhow::Result<()> {
    let image = image::fake(api, false)?;
    let launch = |change: Value| {
        let mut body = json!({"image": image, "subnet": subnet});
        let fields = change.as_object().cloned().unwrap_or_default();
        fields.into_iter().for_each(|(name, value)| body[name] = value);
        api.post("/v1/instances", &body)
    };
    expect(&launch(json!({"memory": 1 << 20}))?, 400, "InvalidParameterValue")?;
    expect(&launch(json!({"vcpus": 0}))?, 400, "InvalidParameterValue")?;
    expect(&launch(json!({"count": 101}))?, 400, "InvalidParameterValue")?;
    expect(&launch(json!({"count": 0}))?, 400, "InvalidParameterValue")?;
    expect(&launch(json!({"address": "10.0.1.1"}))?, 400, "InvalidParameterValue")?;
    expect(&launch(json!({"address": "192.168.0.1"}))?, 400, "InvalidParameterValue")?;
    expect(&launch(json!({"user_data": "x".repeat(65 << 10)}))?, 400, "InvalidParameterValue")?;
    expect(&launch(json!({"image": "ami-00000000000000000"}))?, 404, "InvalidImageId.NotFound")?;
    expect(&launch(json!({"memory": 1u64 << 40}))?, 403, "ResourceLimitExceeded")?;
    Ok(())
}

fn dependencies(api: &Api, vpc: &str, subnet: &str) -> anyhow::Result<()> {
    expect(&api.delete(&format!("/v1/vpcs/{vpc}"))?, 409, "DependencyViolation")?;
    let shown = api.get(&format!("/v1/vpcs/{vpc}"))?.ok()?;
    let group = shown["default_security_group"].as_str().context("a VPC is born with a group")?;
    ensure!(!api.delete(&format!("/v1/security-groups/{group}"))?.is_success());
    let table = shown["main_route_table"].as_str().context("a VPC is born with a route table")?;
    ensure!(!api.delete(&format!("/v1/route-tables/{table}"))?.is_success());
    ensure!(api.get(&format!("/v1/subnets/{subnet}"))?.is_success());
    Ok(())
}

/// A request that is sent twice with one idempotency key is done once; a dry run is not done at all.
fn repeated(api: &Api) -> anyhow::Result<()> {
    let send = |cidr: &str, header: &str, value: &str| {
        Api::send(api.request(Method::POST, "/v1/vpcs").header(header, value).json(&json!({"cidr": cidr})))
    };
    let before = api.list("/v1/vpcs")?.len();
    expect(&send("10.7.0.0/16", "dry-run", "true")?, 412, "DryRunOperation")?;
    ensure!(api.list("/v1/vpcs")?.len() == before);
    let (first, second) =
        (send("10.7.0.0/16", "idempotency-key", "k1")?.ok()?, send("10.7.0.0/16", "idempotency-key", "k1")?.ok()?);
    ensure!(first == second && api.list("/v1/vpcs")?.len() == before + 1);
    expect(&send("10.8.0.0/16", "idempotency-key", "k1")?, 409, "IdempotentParameterMismatch")
}

#[test]
fn two_identical_requests_at_once_with_one_key_are_done_once() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 0)?;
    let tenant = cloud.tenant("first")?;
    let answers: Vec<anyhow::Result<Value>> = std::thread::scope(|scope| {
        let send = || {
            let request = tenant.request(Method::POST, "/v1/vpcs").header("idempotency-key", "once");
            Api::send(request.json(&json!({"cidr": "10.0.0.0/16"})))?.ok()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|thread| thread.join().expect("the thread ended")).collect()
    });
    let answers = answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    ensure!(tenant.list("/v1/vpcs")?.len() == 1);
    Ok(())
}

/// Sends bytes, then waits for what the server says or does.
fn raw(endpoint: &str, bytes: &[u8], patience: Duration) -> anyhow::Result<(String, Duration)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(endpoint.trim_start_matches("http://"))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok((String::from_utf8_lossy(&answer).into_owned(), began.elapsed()))
}

#[test]
fn slow_and_endless_requests_end_and_others_are_served_meanwhile() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 0)?;
    let tenant = cloud.tenant("first")?;
    let endpoint = cloud.endpoint();
    let slow = std::thread::scope(|scope| -> anyhow::Result<_> {
        let head = scope.spawn(|| raw(&endpoint, b"POST /v1/vpcs HTTP/1.1\r\nhost: x\r\n", Duration::from_secs(40)));
        let body =
            b"POST /v1/tokens HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
        let body = scope.spawn(|| raw(&endpoint, body, Duration::from_secs(40)));
        for _ in 0..20 {
            tenant.get("/v1/vpcs")?.ok()?;
        }
        let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<(String, Duration)>>| {
            thread.join().expect("it ended")
        };
        Ok((join(head)?, join(body)?))
    })?;
    let ((_, head), (answer, body)) = slow;
    ensure!(head < Duration::from_secs(30), "a request without an end to its head was held for {head:?}");
    ensure!(body < Duration::from_secs(30) && answer.contains("RequestTimeout"), "{body:?}: {answer}");
    let huge = format!("GET /v1/vpcs HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "y".repeat(1 << 20));
    let (answer, _) = raw(&endpoint, huge.as_bytes(), Duration::from_secs(10)).unwrap_or_default();
    ensure!(!answer.contains("HTTP/1.1 200"), "{answer}");
    tenant.get("/v1/vpcs")?.ok().map(drop)
}

#[test]
fn an_account_that_asks_too_fast_is_told_when_to_come_back_and_others_are_not_slowed() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 0)?;
    let (hasty, calm) = (cloud.tenant("hasty")?, cloud.tenant("calm")?);
    let operator = cloud.operator()?;
    let account = operator.get(&format!("/v1/accounts/{}", hasty.account))?.ok()?;
    let mut quota = account["quota"].clone();
    quota["requests_per_second"] = json!(5);
    quota["request_burst"] = json!(5);
    let set = operator.request(Method::PUT, &format!("/v1/accounts/{}/quota", hasty.account)).json(&quota);
    Api::send(set)?.ok()?;
    let answers = (0..40).map(|_| hasty.get("/v1/vpcs")).collect::<anyhow::Result<Vec<_>>>()?;
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    ensure!(refused.len() > 10, "only {} of 40 were refused", refused.len());
    ensure!(
        refused.iter().all(|answer| answer.code() == "RequestLimitExceeded" && answer.body["retry_after"].is_u64())
    );
    calm.get("/v1/vpcs")?.ok().map(drop)
}

#[test]
fn a_deleted_access_key_stops_working_at_once() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 0)?;
    let tenant = cloud.tenant("first")?;
    let made = tenant.post("/v1/access-keys", &json!({}))?.ok()?;
    let text = |pointer: &str| made.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (key, secret) = (text("/access_key/id"), text("/secret_access_key"));
    let second = Api::sign_in(&cloud.endpoint(), &tenant.account, key, secret)?;
    second.get("/v1/vpcs")?.ok()?;
    tenant.delete(&format!("/v1/access-keys/{key}"))?.ok()?;
    expect(&second.get("/v1/vpcs")?, 401, "AuthFailure")?;
    ensure!(Api::sign_in(&cloud.endpoint(), &tenant.account, key, secret).is_err());
    Ok(())
}
