//! How a request is read: path, query and body, each with its limits and its clear refusal.
//!
//! Owns the extractors and the one function that every route goes through, [`answer`]. Admission comes before the body is
//! read, so that strangers cannot make the server hold bytes for them.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, Path, Request, WebSocketUpgrade},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lucarne_model::ErrorCode;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Api, Call, Problem, Route, answer::Answer};

/// What one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest JSON body.
    pub body_bytes: usize,
    /// How long a JSON body may take to arrive.
    pub body_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes: 1 << 20, body_time: Duration::from_secs(10) }
    }
}

/// Reads the request, calls `handler`, and writes its answer or its problem.
pub(crate) async fn answer<A, P, Q, B, R>(
    request: Request,
    route: &'static Route,
    limits: Limits,
    api: Arc<A>,
    handler: impl AsyncFnOnce(&A, Call<A::Caller, P, Q, B>) -> Result<R, Problem>,
) -> Response
where
    A: Api,
    P: PathParameters,
    Q: DeserializeOwned,
    B: Input,
    R: Answer,
{
    let (mut head, body) = request.into_parts();
    let read = async {
        let caller = api.admit(route, &head).await?;
        let path = P::read(&mut head).await?;
        let query = read_query(head.uri.query().unwrap_or_default())?;
        let body = B::read(&mut head, body, limits).await?;
        handler(&api, Call { caller, path, query, body, headers: head.headers }).await
    };
    match read.await {
        Ok(answer) => answer.respond(),
        Err(problem) => problem.into_response(),
    }
}

fn read_query<Q: DeserializeOwned>(text: &str) -> Result<Q, Problem> {
    let uri = format!("/?{text}");
    let malformed =
        |why: String| Problem::new(ErrorCode::MalformedRequest, format!("the query could not be read: {why}"));
    let uri = uri.parse().map_err(|_| malformed("it is not a URI query".into()))?;
    let query = axum::extract::Query::try_from_uri(&uri).map_err(|error| malformed(error.body_text()))?;
    Ok(query.0)
}

/// Parameters in the path: `()`, one id, or a pair of them.
pub trait PathParameters: Sized + Send {
    fn schemas(generator: &mut SchemaGenerator) -> Vec<Value>;
    fn read(head: &mut Parts) -> impl Future<Output = Result<Self, Problem>> + Send;
}

async fn read_path<T: DeserializeOwned + Send>(head: &mut Parts) -> Result<T, Problem> {
    let path = Path::<T>::from_request_parts(head, &()).await;
    path.map(|path| path.0).map_err(|error| Problem::new(ErrorCode::MalformedRequest, error.body_text()))
}

impl PathParameters for () {
    fn schemas(_: &mut SchemaGenerator) -> Vec<Value> {
        Vec::new()
    }
    async fn read(_: &mut Parts) -> Result<Self, Problem> {
        Ok(())
    }
}
impl<T: DeserializeOwned + JsonSchema + Send> PathParameters for (T,) {
    fn schemas(generator: &mut SchemaGenerator) -> Vec<Value> {
        vec![schema_of::<T>(generator)]
    }
    async fn read(head: &mut Parts) -> Result<Self, Problem> {
        read_path(head).await
    }
}
impl<T: DeserializeOwned + JsonSchema + Send, U: DeserializeOwned + JsonSchema + Send> PathParameters for (T, U) {
    fn schemas(generator: &mut SchemaGenerator) -> Vec<Value> {
        vec![schema_of::<T>(generator), schema_of::<U>(generator)]
    }
    async fn read(head: &mut Parts) -> Result<Self, Problem> {
        read_path(head).await
    }
}

pub(crate) fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// A request body.
pub trait Input: Sized + Send {
    const STREAMS: bool = false;
    /// The OpenAPI request body; none where the route takes none.
    fn document(generator: &mut SchemaGenerator) -> Option<Value>;
    fn read(head: &mut Parts, body: Body, limits: Limits) -> impl Future<Output = Result<Self, Problem>> + Send;
}

/// No body is taken; one that comes is not read.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Input for Nothing {
    fn document(_: &mut SchemaGenerator) -> Option<Value> {
        None
    }
    async fn read(_: &mut Parts, _: Body, _: Limits) -> Result<Self, Problem> {
        Ok(Self)
    }
}

/// A JSON body. Fields that the type does not have are refused where the type denies them.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + JsonSchema + Send> Input for Json<T> {
    fn document(generator: &mut SchemaGenerator) -> Option<Value> {
        let schema = schema_of::<T>(generator);
        Some(json!({"required": true, "content": {"application/json": {"schema": schema}}}))
    }

    async fn read(head: &mut Parts, body: Body, limits: Limits) -> Result<Self, Problem> {
        let media_type =
            head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if media_type.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json")) {
            let given = if media_type.is_empty() { "none" } else { media_type };
            let detail = format!("send `Content-Type: application/json`; it was {given}");
            return Err(Problem::new(ErrorCode::UnsupportedMediaType, detail));
        }
        let bytes = read_bounded(body, limits).await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Problem::new(ErrorCode::MalformedRequest, format!("the body could not be read: {error}")))
    }
}

async fn read_bounded(body: Body, limits: Limits) -> Result<bytes::Bytes, Problem> {
    let collected = tokio::time::timeout(limits.body_time, Limited::new(body, limits.body_bytes).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is larger than {} bytes", limits.body_bytes);
            Err(Problem::new(ErrorCode::RequestTooLarge, detail))
        }
        Ok(Err(error)) => Err(Problem::new(ErrorCode::MalformedRequest, format!("the body broke off: {error}"))),
        Err(_) => {
            let detail = format!("the body did not arrive in {} s", limits.body_time.as_secs());
            Err(Problem::new(ErrorCode::RequestTimeout, detail))
        }
    }
}

/// A body of bytes of any length, read by the handler as it comes.
#[derive(Debug)]
pub struct Upload(pub Body);

impl Input for Upload {
    const STREAMS: bool = true;
    fn document(_: &mut SchemaGenerator) -> Option<Value> {
        let schema = json!({"type": "string", "format": "binary"});
        Some(json!({"required": true, "content": {"application/octet-stream": {"schema": schema}}}))
    }
    async fn read(_: &mut Parts, body: Body, _: Limits) -> Result<Self, Problem> {
        Ok(Self(body))
    }
}

/// A request to go on as a WebSocket.
#[derive(Debug)]
pub struct Socket(pub WebSocketUpgrade);

impl Input for Socket {
    const STREAMS: bool = true;
    fn document(_: &mut SchemaGenerator) -> Option<Value> {
        None
    }
    async fn read(head: &mut Parts, _: Body, _: Limits) -> Result<Self, Problem> {
        let upgrade = WebSocketUpgrade::from_request_parts(head, &()).await;
        upgrade.map(Self).map_err(|error| {
            Problem::new(ErrorCode::MalformedRequest, format!("this path speaks WebSocket: {}", error.body_text()))
        })
    }
}
