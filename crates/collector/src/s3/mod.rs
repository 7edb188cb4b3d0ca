//! Requests to one bucket of a store that speaks as S3 does, over HTTP/1.1, with TLS or without.
//!
//! Owns the connection, one for each request, and what an answer means. It connects to the addresses that it is given and
//! follows no redirection, so that an answer leads nowhere else; of an error only the store's own code is shown. Whom to
//! connect to is decided by whoever asks: tenants' buckets by [`crate::delivery`], the collector's own by [`crate::shelf`],
//! and who runs a command says it for [`Uploads`].

mod listing;
pub(crate) mod signature;
mod upload;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST},
    http::request,
};
use hyper_util::rt::TokioIo;
use lucarne_model::{
    Moment,
    flow_log::{Bucket, StoreCredentials},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};

pub(crate) use listing::Listing;
pub use upload::{UploadError, Uploads};

/// Octets of an error's text that are read.
const LONGEST_ERROR: usize = 64 * 1024;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketError {
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

/// What is asked of a bucket.
#[derive(Clone, Debug)]
pub(crate) enum Ask<'a> {
    Put {
        key: &'a str,
        octets: Bytes,
    },
    Get {
        key: &'a str,
    },
    /// Of one that is not there, nothing is refused.
    Delete {
        key: &'a str,
    },
    /// The names that begin with this, from where the last answer ended.
    List {
        prefix: &'a str,
        from: Option<&'a str>,
    },
}

impl Ask<'_> {
    const fn method(&self) -> Method {
        match self {
            Self::Put { .. } => Method::PUT,
            Self::Get { .. } | Self::List { .. } => Method::GET,
            Self::Delete { .. } => Method::DELETE,
        }
    }
}

/// One bucket, as whoever has the credentials.
#[derive(Debug)]
pub(crate) struct Client {
    bucket: Bucket,
    credentials: Option<StoreCredentials>,
}

impl Client {
    pub(crate) const fn new(bucket: Bucket, credentials: Option<StoreCredentials>) -> Self {
        Self { bucket, credentials }
    }

    /// As errors name it.
    pub(crate) fn endpoint(&self) -> &str {
        &self.bucket.endpoint
    }

    /// Whether TLS is spoken, with which host, at which port.
    pub(crate) fn endpoint_parts(&self) -> Result<(bool, String, u16), BucketError> {
        self.bucket.endpoint_parts().ok_or(BucketError::Endpoint)
    }

    /// Asks at one of the addresses, which are the endpoint's; gives the answer if the store did it.
    pub(crate) async fn ask(
        &self,
        addresses: &[SocketAddr],
        ask: Ask<'_>,
        now: Moment,
    ) -> Result<Response<Incoming>, BucketError> {
        let request = self.request(ask, now).map_err(BucketError::Request)?;
        self.send(addresses, request).await
    }

    /// Sends a request to one of the addresses; gives the answer if the store did it.
    async fn send<B>(&self, addresses: &[SocketAddr], request: Request<B>) -> Result<Response<Incoming>, BucketError>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + Unpin + 'static,
    {
        let (is_secure, host, _) = self.endpoint_parts()?;
        let stream = TcpStream::connect(addresses).await.map_err(BucketError::Connect)?;
        let answer = if is_secure {
            let connector = AUTHORITIES.as_ref().ok_or(BucketError::NoAuthorities)?;
            exchange(secured(connector, host, stream).await?, request).await?
        } else {
            exchange(stream, request).await?
        };
        done(answer).await
    }

    fn request(&self, ask: Ask<'_>, now: Moment) -> hyper::http::Result<Request<Full<Bytes>>> {
        let method = ask.method();
        let (path, query, octets) = match ask {
            Ask::Put { key, octets } => (self.object_path(key), String::new(), octets),
            Ask::Get { key } | Ask::Delete { key } => (self.object_path(key), String::new(), Bytes::new()),
            Ask::List { prefix, from } => {
                (format!("/{}", self.bucket.name), listing::query(&self.bucket_key(prefix), from), Bytes::new())
            }
        };
        let payload = (octets.len() as u64, &*signature::sha256(&octets));
        self.head(&method, (&path, &query), payload, now).body(Full::new(octets))
    }

    /// In the path's style, which every store knows: the bucket is the path's first part.
    fn object_path(&self, key: &str) -> String {
        format!("/{}/{}", self.bucket.name, self.bucket_key(key))
    }

    /// A signed request for so many octets of this SHA-256, which follow.
    fn head(
        &self,
        method: &Method,
        (path, query): (&str, &str),
        (length, payload): (u64, &str),
        now: Moment,
    ) -> request::Builder {
        let Bucket { endpoint, region, .. } = &self.bucket;
        let path = signature::encoded(path);
        let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
        let time = signature::time(now);
        let headers = [("host", host), ("x-amz-content-sha256", payload), ("x-amz-date", time.as_str())];
        let signed = signature::Request { method: method.as_str(), path: &path, query, headers: &headers, payload };
        let uri = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let mut request = Request::builder().method(method).uri(uri).header(HOST, host).header(CONTENT_LENGTH, length);
        for (name, value) in &headers[1..] {
            request = request.header(*name, *value);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, signature::authorization(&signed, credentials, region, now));
        }
        request
    }

    /// All names lie below the prefix.
    pub(crate) fn bucket_key(&self, key: &str) -> String {
        match self.bucket.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
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

async fn exchange<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<B>,
) -> Result<Response<Incoming>, BucketError>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(BucketError::Exchange)?;
    // It ends with the sender or with the answer's body, and what fails on it is told there.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(BucketError::Exchange)
}

async fn done(answer: Response<Incoming>) -> Result<Response<Incoming>, BucketError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
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
            let client = Client::new(bucket.clone(), credentials);
            let put = Ask::Put { key: "day=1/file", octets: Bytes::from_static(&[1, 2]) };
            let request = client.request(put, Moment::from_secs(1)).unwrap();
            assert_eq!(request.uri(), "/logs/lab/day%3D1/file");
            assert_eq!(request.headers()[HOST], "store.example:9000");
            assert_eq!(request.headers().contains_key(AUTHORIZATION), is_signed);
            assert!(!format!("{request:?}").contains("geheim"));
            let list = client.request(Ask::List { prefix: "flows/", from: Some("a+b") }, Moment::from_secs(1)).unwrap();
            let wanted = "/logs?continuation-token=a%2Bb&encoding-type=url&list-type=2&prefix=lab%2Fflows%2F";
            assert_eq!(list.uri(), wanted);
        }
    }
}
