//! The controller over HTTP, by the client that is generated from the API.
//!
//! Owns the connection: the host's key as bearer token, time limits, and the WebSocket of a stream. When to try again is
//! decided by the loops in [`crate::links`].

use std::{io, path::Path, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt, future, stream::BoxStream};
use lucarne_api::{
    Problem,
    bodies::host::{EnrolHost, Enrolled, HostSettings},
    client::{ByteStream, Client, Error as ClientError, ResponseValue, problem_of, types::EnrolHostIdempotencyKey},
};
use lucarne_model::{
    ErrorCode, Octets, ReplayId,
    actual::{HostDescription, Report},
    desired::Desired,
    storage::{Blob, Digest},
    tpm::{ChallengeAnswer, PresentedTpm},
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tokio_tungstenite::{
    connect_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};
use tokio_util::io::ReaderStream;

use crate::{
    controller::{Controller, StreamEnd},
    error::Error,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than the controller takes for anything but a wait that was asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A transfer that gives no byte for so long is broken off. Longer than a long poll.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest message of a stream in either direction.
const MESSAGE_BYTES: usize = 1 << 20;

/// A controller behind a URL.
pub struct HttpController {
    client: Client,
    base: String,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for HttpController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpController").field("base", &self.base).finish_non_exhaustive()
    }
}

impl HttpController {
    /// Connects with each call; `host_key` is none until the host is enrolled.
    pub fn new(url: &str, host_key: Option<&str>) -> Result<Self, Error> {
        let refuse = || Error::ControllerUrl { url: url.to_owned() };
        let base = url.trim_end_matches('/').to_owned();
        let host = base.strip_prefix("http://").ok_or_else(refuse)?;
        if host.is_empty() || reqwest::Url::parse(&base).is_err() {
            return Err(refuse());
        }
        let authorization = host_key.map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose();
        let authorization = authorization.map_err(|_| refuse())?.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let headers = authorization.iter().map(|value| (AUTHORIZATION, value.clone())).collect::<HeaderMap>();
        // A proxy of the environment would see the host's key, and hosts reach their controller directly.
        let http = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|_| refuse())?;
        Ok(Self { client: Client::new_with_client(&base, http), base, authorization })
    }
}

/// Waits for an answer, and reads a problem where there is one.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<ResponseValue<T>, ClientError<ByteStream>>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(error)) => Err(problem_of(error).await),
        Err(_) => Err(unreachable(format!("the controller has not answered within {} s", limit.as_secs()))),
    }
}

fn unreachable(detail: String) -> Problem {
    Problem::new(ErrorCode::ControllerUnreachable, detail)
}

#[async_trait]
impl Controller for HttpController {
    async fn enrol(&self, request: &EnrolHost) -> Result<Enrolled, Problem> {
        // An answer that was lost is given again: one public key is one host.
        let once = EnrolHostIdempotencyKey::try_from(format!("enrol-{}", request.host.public_key)).ok();
        within(ANSWER_TIMEOUT, self.client.enrol_host(None, once.as_ref(), request)).await
    }

    async fn hello(&self, host: &HostDescription) -> Result<HostSettings, Problem> {
        within(ANSWER_TIMEOUT, self.client.hello_host(None, None, host)).await
    }

    async fn report(&self, report: &Report) -> Result<(), Problem> {
        within(ANSWER_TIMEOUT, self.client.report_host(None, None, report)).await
    }

    async fn present_tpm(&self, presented: &PresentedTpm) -> Result<(), Problem> {
        within(ANSWER_TIMEOUT, self.client.present_tpm(None, None, presented)).await
    }

    async fn answer_challenge(&self, token: &str, answer: &ChallengeAnswer) -> Result<(), Problem> {
        within(ANSWER_TIMEOUT, self.client.answer_challenge(token, None, None, answer)).await
    }

    async fn desired(&self, have: Option<u64>, wait: Duration) -> Result<Option<Desired>, Problem> {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let answer = within(wait + ANSWER_TIMEOUT, self.client.get_desired(have, Some(millis))).await?;
        Ok(answer.desired)
    }

    async fn seal_policy(&self) -> Result<Octets, Problem> {
        Ok(within(ANSWER_TIMEOUT, self.client.fetch_seal_policy()).await?.policy)
    }

    async fn download(&self, digest: &Digest) -> Result<BoxStream<'static, io::Result<Bytes>>, Problem> {
        let bytes = within(ANSWER_TIMEOUT, self.client.download_blob(digest)).await?;
        Ok(bytes.into_inner().map_err(io::Error::other).boxed())
    }

    async fn replayed_frames(&self, replay: ReplayId) -> Result<BoxStream<'static, io::Result<Bytes>>, Problem> {
        let bytes = within(2 * ANSWER_TIMEOUT, self.client.fetch_replayed_frames(&replay)).await?;
        Ok(bytes.into_inner().map_err(io::Error::other).boxed())
    }

    async fn upload(&self, file: &Path) -> Result<Blob, Problem> {
        let file = tokio::fs::File::open(file).await.map_err(|error| {
            Problem::new(ErrorCode::Internal, format!("the file to upload cannot be opened: {error}"))
        })?;
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 64 << 10));
        let blob = match self.client.upload_host_blob(body).await {
            Ok(answer) => answer.into_inner(),
            Err(error) => return Err(problem_of(error).await),
        };
        Ok(Blob { digest: blob.digest, size: lucarne_model::Bytes(*blob.size) })
    }

    async fn open_stream(&self, token: &str) -> Result<StreamEnd, Problem> {
        let address = self.base.replacen("http", "ws", 1);
        let malformed = |error: tungstenite::Error| Problem::new(ErrorCode::MalformedRequest, error.to_string());
        let mut request = format!("{address}/v1/host/streams/{token}").into_client_request().map_err(malformed)?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES))
            .read_buffer_size(16 << 10)
            .max_write_buffer_size(2 * MESSAGE_BYTES);
        let connecting = connect_async_with_config(request, Some(config), true);
        let connected = tokio::time::timeout(ANSWER_TIMEOUT, connecting).await;
        let (socket, _) = connected
            .map_err(|_| unreachable("the controller has not opened the stream in time".into()))?
            .map_err(refusal)?;
        let (sender, receiver) = socket.split();
        let incoming = receiver.map_err(io::Error::other).try_filter_map(|message| future::ok(payload(message)));
        let outgoing = sender.sink_map_err(io::Error::other).with(|bytes: Bytes| future::ok(Message::Binary(bytes)));
        Ok(StreamEnd { incoming: incoming.boxed(), outgoing: Box::pin(outgoing) })
    }
}

fn payload(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        _ => None,
    }
}

/// Why the controller did not go on as a WebSocket.
fn refusal(error: tungstenite::Error) -> Problem {
    let told = match &error {
        tungstenite::Error::Http(response) => response.body().as_deref(),
        _ => None,
    };
    told.and_then(|body| serde_json::from_slice(body).ok())
        .unwrap_or_else(|| unreachable(format!("the stream could not be opened: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_url_of_a_controller_is_taken() {
        assert!(HttpController::new("http://127.0.0.1:7070/", Some("key")).is_ok());
        for url in ["", "http://", "ftp://x", "127.0.0.1:7070", "http://[", "https://x"] {
            assert!(matches!(HttpController::new(url, None), Err(Error::ControllerUrl { .. })), "{url}");
        }
    }

    #[test]
    fn the_host_key_is_not_shown_when_the_controller_is_printed() {
        let controller = HttpController::new("http://127.0.0.1:7070", Some("secret")).unwrap();
        assert!(!format!("{controller:?}").contains("secret"));
    }
}
