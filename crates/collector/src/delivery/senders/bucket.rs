//! Objects of a store that speaks as S3 does, put over HTTP/1.1, with TLS or without.
//!
//! Owns the connection, one for each object, and what an answer means. It connects to addresses that [`Reach`] has allowed
//! and follows no redirection, so that a tenant's word leads nowhere else; of an answer only the store's own error code is
//! shown.

use std::{
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST},
};
use hyper_util::rt::TokioIo;
use lucarne_model::{
    Moment,
    flow_log::{Bucket, StoreCredentials},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};

use super::{Reach, SendError, signature};

/// How long an object may take: of a few megabytes at most.
const TIME: Duration = Duration::from_secs(60);
/// Octets of an error's text that are read.
const LONGEST_ERROR: usize = 64 * 1024;

/// Why a store did not take an object.
#[derive(Debug, thiserror::Error)]
pub(in crate::delivery) enum BucketError {
    #[error("its endpoint is no URL")]
    Endpoint,
    #[error("{0}")]
    Connect(io::Error),
    #[error("no TLS with it: {0}")]
    Tls(io::Error),
    #[error("this machine has no certificates of authorities that it trusts")]
    NoAuthorities,
    #[error("the request cannot be made: {0}")]
    Request(hyper::http::Error),
    #[error("it broke off: {0}")]
    Exchange(hyper::Error),
    #[error("it answered {status}{}", code.as_ref().map_or(String::new(), |code| format!(", {code}")))]
    Refused { status: StatusCode, code: Option<String> },
}

/// The authorities that this machine trusts, read once.
static AUTHORITIES: LazyLock<Option<TlsConnector>> = LazyLock::new(|| {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!trusted.is_empty()).then(|| connector(trusted)).flatten()
});

/// None where the cryptography has no TLS 1.3, which this one has.
fn connector(trusted: RootCertStore) -> Option<TlsConnector> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_protocol_versions(&[&rustls::version::TLS13]).ok()?;
    Some(TlsConnector::from(Arc::new(config.with_root_certificates(trusted).with_no_client_auth())))
}

/// Puts objects into one bucket.
#[derive(Debug)]
pub(super) struct BucketWriter {
    bucket: Bucket,
    credentials: Option<StoreCredentials>,
    reach: Reach,
}

impl BucketWriter {
    pub(super) const fn new(bucket: Bucket, credentials: Option<StoreCredentials>, reach: Reach) -> Self {
        Self { bucket, credentials, reach }
    }

    pub(super) async fn put(&self, key: &str, octets: Vec<u8>, now: Moment) -> Result<(), SendError> {
        let failed = |source| SendError::Bucket { to: self.bucket.endpoint.clone(), source };
        let (is_secure, host, port) = self.bucket.endpoint_parts().ok_or_else(|| failed(BucketError::Endpoint))?;
        let addresses = self.reach.resolve(&host, port).await?;
        let put = async {
            let request = self.request(key, octets, now).map_err(BucketError::Request)?;
            let stream = TcpStream::connect(addresses.as_slice()).await.map_err(BucketError::Connect)?;
            let answer = if is_secure {
                let connector = AUTHORITIES.as_ref().ok_or(BucketError::NoAuthorities)?;
                exchange(secured(connector, host, stream).await?, request).await?
            } else {
                exchange(stream, request).await?
            };
            taken(answer).await
        };
        let put = timeout(TIME, put).await.map_err(|_| SendError::Late { to: self.bucket.endpoint.clone() })?;
        put.map_err(failed)
    }

    /// In the path's style, which every store knows: the bucket is the path's first part.
    fn request(&self, key: &str, octets: Vec<u8>, now: Moment) -> hyper::http::Result<Request<Full<Bytes>>> {
        let Bucket { name, prefix, endpoint, region } = &self.bucket;
        let slash = if prefix.is_empty() { "" } else { "/" };
        let path = signature::encoded(&format!("/{name}/{prefix}{slash}{key}"));
        let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
        let (payload, time) = (signature::sha256(&octets), signature::time(now));
        let headers = [("host", host), ("x-amz-content-sha256", payload.as_str()), ("x-amz-date", time.as_str())];
        let signed = signature::Request { method: "PUT", path: &path, query: "", headers: &headers, payload: &payload };
        let mut request = Request::put(&path).header(HOST, host).header(CONTENT_LENGTH, octets.len());
        for (name, value) in &headers[1..] {
            request = request.header(*name, *value);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, signature::authorization(&signed, credentials, region, now));
        }
        request.body(Full::new(Bytes::from(octets)))
    }
}

async fn secured(
    connector: &TlsConnector,
    host: String,
    stream: TcpStream,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, BucketError> {
    let name = ServerName::try_from(host).map_err(|error| BucketError::Tls(io::Error::other(error)))?;
    connector.connect(name, stream).await.map_err(BucketError::Tls)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, BucketError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(BucketError::Exchange)?;
    // It ends with the sender or with the answer's body, and what fails on it is told there.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(BucketError::Exchange)
}

async fn taken(answer: Response<Incoming>) -> Result<(), BucketError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text = Limited::new(answer.into_body(), LONGEST_ERROR).collect().await.map(|text| text.to_bytes());
    let code = text.ok().and_then(|text| code(&String::from_utf8_lossy(&text)));
    Err(BucketError::Refused { status, code })
}

/// What stands in an error's element `Code`: a word, or nothing.
fn code(text: &str) -> Option<String> {
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    let is_word = (1..=64).contains(&code.len()) && code.bytes().all(|octet| octet.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_only_a_code_is_shown() {
        let answer = "<Error><Code>NoSuchBucket</Code><Message>internals</Message></Error>";
        assert_eq!(code(answer), Some("NoSuchBucket".into()));
        for other in ["", "<html>router login</html>", "<Code>a b</Code>", "<Code></Code>", "<Code>cut"] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn an_object_lies_below_the_prefix_and_is_signed_only_with_a_key() {
        let bucket = Bucket {
            name: "logs".into(),
            prefix: "lab".into(),
            endpoint: "http://store.example:9000".into(),
            region: "us-east-1".into(),
        };
        let key = StoreCredentials { access_key_id: "id".into(), secret_access_key: "geheim".into() };
        for (credentials, is_signed) in [(Some(key), true), (None, false)] {
            let writer = BucketWriter::new(bucket.clone(), credentials, Reach::Elsewhere);
            let request = writer.request("day=1/file", vec![1, 2], Moment::from_secs(1)).unwrap();
            assert_eq!(request.uri(), "/logs/lab/day%3D1/file");
            assert_eq!(request.headers()[HOST], "store.example:9000");
            assert_eq!(request.headers().contains_key(AUTHORIZATION), is_signed);
            assert!(!format!("{request:?}").contains("geheim"));
        }
    }
}
