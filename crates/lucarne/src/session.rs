//! A session with the controller: its client with a token that is kept until it expires, and calls that are tried again
//! where that is safe.
//!
//! Owns the rule about plaintext, the token cache and the retries. What is called is the commands' business. A change
//! carries an idempotency key, so that one whose answer was lost can be sent again without being done twice.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lucarne_api::{
    bodies::identity::{CreateToken, Token},
    client::{ByteStream, Client, Error, ResponseValue, problem_of},
};
use lucarne_model::{ErrorCode, Moment};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    configuration::{Configuration, Credentials, folder},
    failure::{Failure, LocalCode},
    private_file,
};

/// Connections that fail are tried so often in all.
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(250);
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The longest silence of a call that is not a stream.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// A token that ends sooner than this is not used any more.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);

pub(crate) struct Session {
    configuration: Configuration,
    /// Where the token is kept between commands; none keeps it in memory only.
    cache: Option<PathBuf>,
    token: Mutex<Option<Token>>,
    dry_run: bool,
    idempotency_key: String,
    changes: AtomicU32,
}

/// How a session is to behave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    pub(crate) allow_plaintext: bool,
    pub(crate) dry_run: bool,
    /// Drawn at random if not given.
    pub(crate) idempotency_key: Option<String>,
    /// Keep the token for the next command.
    pub(crate) keep_token: bool,
}

impl Session {
    pub(crate) fn new(configuration: Configuration, manners: Manners) -> Result<Self, Failure> {
        check_endpoint(&configuration.endpoint, manners.allow_plaintext)?;
        let cache = manners.keep_token.then_some(configuration.credentials.as_ref()).flatten();
        Ok(Self {
            cache: cache.map(|credentials| token_path(&configuration.endpoint, credentials)),
            configuration,
            token: Mutex::new(None),
            dry_run: manners.dry_run,
            idempotency_key: manners.idempotency_key.unwrap_or_else(random_key),
            changes: AtomicU32::new(0),
        })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.configuration.endpoint
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Calls a route that changes nothing.
    pub(crate) async fn read<T>(&self, call: impl AsyncFn(Client) -> Result<T, Failure>) -> Result<T, Failure> {
        self.try_again(HeaderMap::new(), Some(ANSWER_TIME), call).await
    }

    /// Calls a route that changes something. Each has an idempotency key of its own, the same for all its tries.
    pub(crate) async fn change<T>(&self, call: impl AsyncFn(Client) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut headers = HeaderMap::new();
        let key = match self.changes.fetch_add(1, Ordering::Relaxed) {
            0 => self.idempotency_key.clone(),
            number => format!("{}-{number}", self.idempotency_key),
        };
        headers.insert("idempotency-key", header_value(&key)?);
        if self.dry_run {
            headers.insert("dry-run", HeaderValue::from_static("true"));
        }
        self.try_again(headers, Some(ANSWER_TIME), call).await
    }

    /// Calls a route whose body or answer has no end that is known before.
    pub(crate) async fn stream<T>(&self, call: impl AsyncFn(Client) -> Result<T, Failure>) -> Result<T, Failure> {
        self.try_again(HeaderMap::new(), None, call).await
    }

    /// The bearer token, for connections that the generated client does not make.
    pub(crate) async fn token(&self) -> Result<String, Failure> {
        if let Some(token) = self.kept_token() {
            return Ok(token);
        }
        let credentials = self.configuration.credentials.clone().ok_or_else(|| {
            let detail =
                "set LUCARNE_ACCESS_KEY_ID and LUCARNE_SECRET_ACCESS_KEY, or make a profile with `lucarne login`";
            Failure::local(LocalCode::CredentialsMissing, detail)
        })?;
        let Credentials { access_key_id, secret_access_key } = credentials;
        let body = CreateToken { access_key_id, secret_access_key };
        let client = client(self.endpoint(), HeaderMap::new(), Some(ANSWER_TIME))?;
        let fresh: Token = tried(async || answer(client.create_token(None, None, &body)).await).await?;
        self.keep(&fresh);
        Ok(fresh.token)
    }

    async fn try_again<T>(
        &self,
        headers: HeaderMap,
        patience: Option<Duration>,
        call: impl AsyncFn(Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let once = async || {
            let mut headers = headers.clone();
            let mut authorization = header_value(&format!("Bearer {}", self.token().await?))?;
            authorization.set_sensitive(true);
            headers.insert(AUTHORIZATION, authorization);
            tried(async || call(client(self.endpoint(), headers.clone(), patience)?).await).await
        };
        let had_token = self.kept_token().is_some();
        match once().await {
            // The kept token is of a controller that is gone, or of a key that was deleted: ask with the key itself.
            Err(failure) if had_token && failure.code() == Some(ErrorCode::AuthFailure) => {
                self.forget_token();
                once().await
            }
            result => result,
        }
    }

    fn kept_token(&self) -> Option<String> {
        let mut kept = self.token.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if kept.is_none() {
            *kept = self.cache.as_ref().and_then(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok());
        }
        kept.as_ref().filter(|token| token.expires > now().plus(TOKEN_MARGIN)).map(|token| token.token.clone())
    }

    /// Keeps the token for later calls and commands. That it could not be written costs the next command a call, no more.
    fn keep(&self, token: &Token) {
        *self.token.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(token.clone());
        if let (Some(path), Ok(text)) = (&self.cache, serde_json::to_vec(token)) {
            let _ = private_file::write(path, &text);
        }
    }

    fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
        if let Some(path) = &self.cache {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The JSON of an answer, or the problem that came instead.
pub(crate) async fn answer<T: Serialize, V: DeserializeOwned>(
    call: impl Future<Output = Result<ResponseValue<T>, Error<ByteStream>>>,
) -> Result<V, Failure> {
    let unexpected = |cause: serde_json::Error| Failure::local(LocalCode::UnexpectedAnswer, cause.to_string());
    match call.await {
        Ok(response) => serde_json::from_value(json_of(&response.into_inner())?).map_err(unexpected),
        Err(error) => Err(Failure::Problem(problem_of(error).await)),
    }
}

/// The bytes of a streamed answer, as they come.
pub(crate) async fn byte_stream(
    call: impl Future<Output = Result<ResponseValue<ByteStream>, Error<ByteStream>>>,
) -> Result<ByteStream, Failure> {
    match call.await {
        Ok(response) => Ok(response.into_inner()),
        Err(error) => Err(Failure::Problem(problem_of(error).await)),
    }
}

pub(crate) fn json_of(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, cause.to_string()))
}

pub(crate) fn now() -> Moment {
    Moment(u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default())
}

/// A client of the controller at `endpoint` that sends `headers` with each request.
fn client(endpoint: &str, headers: HeaderMap, patience: Option<Duration>) -> Result<Client, Failure> {
    let mut builder = reqwest::Client::builder().default_headers(headers).connect_timeout(CONNECT_TIME).no_proxy();
    if let Some(patience) = patience {
        builder = builder.read_timeout(patience);
    }
    let http =
        builder.build().map_err(|cause| Failure::problem(ErrorCode::ControllerUnreachable, cause.to_string()))?;
    Ok(Client::new_with_client(endpoint, http))
}

async fn tried<T>(call: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut left = TRIES;
    loop {
        left -= 1;
        match call().await {
            Err(failure) if left > 0 && failure.code() == Some(ErrorCode::ControllerUnreachable) => {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            result => return result,
        }
    }
}

/// Keys and tokens go in the clear over http, so only to this machine unless the user says otherwise.
pub(crate) fn check_endpoint(endpoint: &str, allow_plaintext: bool) -> Result<(), Failure> {
    let refuse =
        |why: String| Err(Failure::local(LocalCode::ConfigurationInvalid, format!("endpoint `{endpoint}`: {why}")));
    let url = match reqwest::Url::parse(endpoint) {
        Ok(url) => url,
        Err(cause) => return refuse(cause.to_string()),
    };
    if url.scheme() != "http" {
        return refuse("only http:// is spoken; put a proxy on this machine in front of anything else".into());
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if loopback || allow_plaintext {
        return Ok(());
    }
    let detail = format!(
        "`{endpoint}` is not on this machine and http is not encrypted; --allow-plaintext sends keys all the same"
    );
    Err(Failure::local(LocalCode::PlaintextRefused, detail))
}

fn header_value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text)
        .map_err(|_| Failure::wrong_usage("an idempotency key or token has characters that no header can carry"))
}

/// One file for each endpoint, key and secret: a token must not outlive a change of any of them.
fn token_path(endpoint: &str, credentials: &Credentials) -> PathBuf {
    let text = format!("{endpoint}\n{}\n{}", credentials.access_key_id, credentials.secret_access_key);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let name: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    folder("XDG_CACHE_HOME", ".cache").join(format!("token-{name}.json"))
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_key() -> String {
    let mut bytes = [0; 16];
    // Without randomness the time has to do: a key need only differ from the account's other ones.
    if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).is_err() {
        bytes[..8].copy_from_slice(&now().as_micros().to_be_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_in_the_clear_to_this_machine_only() {
        for endpoint in ["http://127.0.0.1:7070", "http://localhost:1", "http://[::1]:7070", "http://127.0.1.2"] {
            assert!(check_endpoint(endpoint, false).is_ok(), "{endpoint}");
        }
        assert!(check_endpoint("http://10.0.0.1:7070", false).is_err());
        assert!(check_endpoint("http://10.0.0.1:7070", true).is_ok());
        assert!(check_endpoint("https://localhost", true).is_err());
        assert!(check_endpoint("not a URL", true).is_err());
    }

    #[test]
    fn a_changed_secret_does_not_find_the_old_token() {
        let credentials = |secret: &str| Credentials { access_key_id: "LK".into(), secret_access_key: secret.into() };
        assert_ne!(token_path("http://a", &credentials("one")), token_path("http://a", &credentials("two")));
        assert_ne!(token_path("http://a", &credentials("one")), token_path("http://b", &credentials("one")));
    }

    #[tokio::test]
    async fn a_lost_connection_is_tried_again_and_a_refusal_is_not() {
        let calls = AtomicU32::new(0);
        let count = async |code| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(Failure::problem(code, "no"))
        };
        assert!(tried(async || count(ErrorCode::ControllerUnreachable).await).await.is_err());
        assert_eq!(calls.swap(0, Ordering::Relaxed), TRIES);
        assert!(tried(async || count(ErrorCode::IncorrectState).await).await.is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
