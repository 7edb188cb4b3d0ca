//! How an answer is written: JSON, a created resource, nothing, bytes, a stream of lines, or a WebSocket.
//!
//! Owns statuses and media types of success. Failures are [`crate::Problem`]s.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Value, json};

use crate::input::{Json, schema_of};

/// What a route gives when it succeeds.
pub trait Answer: Send {
    const STREAMS: bool = false;
    /// The OpenAPI responses object, without the problem that every route can give.
    fn document(generator: &mut SchemaGenerator) -> Value;
    fn respond(self) -> Response;
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    (status, axum::Json(body)).into_response()
}

impl<T: Serialize + JsonSchema + Send> Answer for Json<T> {
    fn document(generator: &mut SchemaGenerator) -> Value {
        json!({"200": {"description": "Done.", "content": {"application/json": {"schema": schema_of::<T>(generator)}}}})
    }
    fn respond(self) -> Response {
        json_response(StatusCode::OK, &self.0)
    }
}

/// A resource that was made.
#[derive(Clone, Debug)]
pub struct Created<T>(pub T);

impl<T: Serialize + JsonSchema + Send> Answer for Created<T> {
    fn document(generator: &mut SchemaGenerator) -> Value {
        json!({"201": {"description": "Made.", "content": {"application/json": {"schema": schema_of::<T>(generator)}}}})
    }
    fn respond(self) -> Response {
        json_response(StatusCode::CREATED, &self.0)
    }
}

/// Done, and nothing to say.
#[derive(Clone, Copy, Debug)]
pub struct Done;

impl Answer for Done {
    fn document(_: &mut SchemaGenerator) -> Value {
        json!({"204": {"description": "Done."}})
    }
    fn respond(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

/// Bytes, as they come.
#[derive(Debug)]
pub struct Download(pub Body);

impl Answer for Download {
    const STREAMS: bool = true;
    fn document(_: &mut SchemaGenerator) -> Value {
        let schema = json!({"type": "string", "format": "binary"});
        json!({"200": {"description": "The bytes.", "content": {"application/octet-stream": {"schema": schema}}}})
    }
    fn respond(self) -> Response {
        stream(self.0, "application/octet-stream")
    }
}

/// One JSON value a line, for as long as the client listens.
#[derive(Debug)]
pub struct Lines(pub Body);

impl Answer for Lines {
    const STREAMS: bool = true;
    fn document(_: &mut SchemaGenerator) -> Value {
        let schema = json!({"type": "string", "format": "binary"});
        json!({"200": {"description": "A JSON value a line.", "content": {"application/x-ndjson": {"schema": schema}}}})
    }
    fn respond(self) -> Response {
        stream(self.0, "application/x-ndjson")
    }
}

fn stream(body: Body, media_type: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The answer to [`crate::input::Socket`].
#[derive(Debug)]
pub struct Upgraded(pub Response);

impl Answer for Upgraded {
    const STREAMS: bool = true;
    fn document(_: &mut SchemaGenerator) -> Value {
        json!({"101": {"description": "Goes on as a WebSocket of bytes."}})
    }
    fn respond(self) -> Response {
        self.0
    }
}
