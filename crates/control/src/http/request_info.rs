//! What names a request: its id, in the answer's header, in every problem, and in the log.
//!
//! Owns the id and the one line of the log that each problem leaves.

use std::net::IpAddr;

use axum::{
    body::{HttpBody, to_bytes},
    extract::Request,
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use lucarne_api::Problem;

/// Goes along with each request from the connection to the services.
#[derive(Clone, Debug)]
pub(crate) struct RequestInfo {
    pub(crate) id: String,
    pub(crate) remote: IpAddr,
}

impl RequestInfo {
    pub(super) fn new(remote: IpAddr) -> Self {
        Self { id: format!("req-{:017x}", crate::random::bits() & ((1 << 68) - 1)), remote }
    }
}

/// Problems are small; anything larger is not one of ours.
const PROBLEM_BYTES: usize = 64 << 10;

/// Puts the request's id on the answer, whatever it is.
pub(super) async fn attach(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestInfo>().map(|info| info.id.clone()).unwrap_or_default();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_large = has_large_body(&request);
    let mut response = next.run(request).await;
    let media_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if media_type == Some(Problem::MEDIA_TYPE.as_bytes()) {
        response = named(response, &id, |problem| {
            let (status, code, detail) = (problem.status, problem.code, &problem.detail);
            if status < 500 {
                tracing::info!(request = id, %method, path, status, %code, detail, "refused");
            } else {
                tracing::warn!(request = id, %method, path, status, %code, detail, "failed");
            }
        })
        .await;
        // What was refused may not have been read to its end, and what is left of it is no next request.
        if is_large {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// Small bodies are drained by the server itself.
fn has_large_body(request: &Request) -> bool {
    const SMALL: u64 = 64 << 10;
    request.body().size_hint().upper().is_none_or(|bytes| bytes > SMALL)
}

async fn named(response: Response, id: &str, log: impl FnOnce(&Problem)) -> Response {
    let (head, body) = response.into_parts();
    let bytes = to_bytes(body, PROBLEM_BYTES).await.unwrap_or_default();
    match serde_json::from_slice::<Problem>(&bytes) {
        Ok(mut problem) => {
            log(&problem);
            problem.request_id = Some(id.to_owned());
            problem.into_response()
        }
        Err(_) => Response::from_parts(head, bytes.into()),
    }
}
