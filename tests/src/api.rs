//! The API over bare HTTP.

use std::time::Duration;

use anyhow::Context;
use reqwest::{
    Method,
    blocking::{Client, RequestBuilder},
};
use serde_json::{Value, json};

use crate::eventually;

/// An answer: its status, and its body as JSON (null where it is none).
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The stable code of a problem document.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
    /// The body of a success; the problem as an error otherwise.
    pub fn ok(self) -> anyhow::Result<Value> {
        anyhow::ensure!(self.is_success(), "status {}: {}", self.status, self.body);
        Ok(self.body)
    }
}

/// One principal at one endpoint.
#[derive(Clone, Debug)]
pub struct Api {
    pub endpoint: String,
    pub account: String,
    pub key: String,
    pub secret: String,
    token: String,
    http: Client,
}

impl Api {
    /// Signs in.
    pub fn sign_in(endpoint: &str, account: &str, key: &str, secret: &str) -> anyhow::Result<Self> {
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?;
        let mut api = Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            account: account.into(),
            key: key.into(),
            secret: secret.into(),
            token: String::new(),
            http,
        };
        let body = json!({"access_key_id": key, "secret_access_key": secret});
        let token = api.post("/v1/tokens", &body)?.ok().context("signing in failed")?;
        api.token = token["token"].as_str().context("no token came")?.into();
        Ok(api)
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.endpoint));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    pub fn send(request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send()?;
        let status = response.status().as_u16();
        let body = response.bytes()?;
        Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Answer> {
        Self::send(self.request(Method::GET, path))
    }
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        Self::send(self.request(Method::POST, path).json(body))
    }
    pub fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        Self::send(self.request(Method::DELETE, path))
    }

    /// A field of a made resource: its id mostly.
    pub fn make(&self, path: &str, body: Value, field: &str) -> anyhow::Result<String> {
        let made = self.post(path, &body)?.ok().with_context(|| format!("POST {path} {body}"))?;
        made.pointer(field).and_then(Value::as_str).map(Into::into).with_context(|| format!("no {field} in {made}"))
    }

    /// All items of a list.
    pub fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let page = self.get(&format!("{path}?limit=1000"))?.ok()?;
        Ok(page["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until the resource's field has the value, and gives the resource.
    pub fn await_state(&self, path: &str, field: &str, value: &str, patience: Duration) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let wanted = format!("{path} has {field} {value}");
        let found = eventually(&wanted, patience, || {
            last = self.get(path).ok()?.body;
            (last[field] == *value).then(|| last.clone())
        });
        found.with_context(|| format!("last seen: {last}"))
    }

    /// A VPC 10.0.0.0/16 with one subnet 10.0.1.0/24.
    pub fn network(&self) -> anyhow::Result<(String, String)> {
        let vpc = self.make("/v1/vpcs", json!({"cidr": "10.0.0.0/16"}), "/id")?;
        let subnet = self.make("/v1/subnets", json!({"vpc": vpc, "cidr": "10.0.1.0/24"}), "/id")?;
        Ok((vpc, subnet))
    }

    pub fn launch(&self, body: Value) -> anyhow::Result<String> {
        self.make("/v1/instances", body, "/instances/0/id")
    }

    pub fn log(&self, instance: &str) -> anyhow::Result<String> {
        let response = self.request(Method::GET, &format!("/v1/instances/{instance}/log")).send()?;
        anyhow::ensure!(response.status().is_success(), "{}", response.text()?);
        Ok(String::from_utf8_lossy(&response.bytes()?).into_owned())
    }

    /// Waits until the instance's serial console has printed `text`, and gives all that it printed.
    pub fn await_log(&self, instance: &str, text: &str, patience: Duration) -> anyhow::Result<String> {
        let mut last = String::new();
        let found = eventually(&format!("{instance} prints `{text}`"), patience, || {
            last = self.log(instance).ok()?;
            last.contains(text).then(|| last.clone())
        });
        found.with_context(|| format!("the console says:\n{last}"))
    }
}
