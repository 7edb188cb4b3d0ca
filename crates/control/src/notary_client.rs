//! Questions to notaries.
//!
//! Owns that a question is one request to an address that an operator has entered, follows no redirect, takes a bounded time,
//! and that no more is read of the answer than an answer has. What it says is believed by nobody here: it is signed, and
//! judged in the room `attest`.

use std::time::Duration;

use futures::TryStreamExt as _;
use lucarne_attest::series::Series;
use reqwest::{Client, StatusCode, Url, redirect::Policy};

const CONNECT_TIME: Duration = Duration::from_secs(3);
/// For all of it.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Octets of an answer: eight versions of some thousand measurements each.
const LARGEST: usize = 8 << 20;

/// Why a notary gave no answer. None of it repeats what was read: whoever asks is not to see other services by it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotaryError {
    #[error("it has no address that can be asked")]
    Address,
    #[error("it does not answer")]
    NoAnswer(#[source] reqwest::Error),
    #[error("it answered with status {0}")]
    Status(StatusCode),
    #[error("its answer is longer than {LARGEST} octets")]
    TooLong,
    #[error("its answer is not one of a notary")]
    Malformed(#[source] serde_json::Error),
}

#[derive(Clone, Debug)]
pub(crate) struct NotaryClient {
    http: Client,
}

impl NotaryClient {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let http = Client::builder().redirect(Policy::none()).no_proxy();
        Ok(Self { http: http.connect_timeout(CONNECT_TIME).timeout(ANSWER_TIME).build()? })
    }

    /// The newest versions of a series, under a head that goes on from the one of `seen` entries.
    pub(crate) async fn series(&self, notary: &str, series: &str, seen: u64) -> Result<Series, NotaryError> {
        let mut url = Url::parse(notary).map_err(|_| NotaryError::Address)?;
        url.path_segments_mut().map_err(|()| NotaryError::Address)?.extend(["v1", "series", series]);
        url.query_pairs_mut().append_pair("seen", &seen.to_string());
        let answer = self.http.get(url).send().await.map_err(NotaryError::NoAnswer)?;
        if answer.status() != StatusCode::OK {
            return Err(NotaryError::Status(answer.status()));
        }
        let mut octets = Vec::new();
        let mut parts = answer.bytes_stream();
        while let Some(part) = parts.try_next().await.map_err(NotaryError::NoAnswer)? {
            if octets.len() + part.len() > LARGEST {
                return Err(NotaryError::TooLong);
            }
            octets.extend_from_slice(&part);
        }
        serde_json::from_slice(&octets).map_err(NotaryError::Malformed)
    }
}

/// The address of a notary as it is kept: scheme, host and port; none of a text that says anything else.
pub(crate) fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    let says_no_more = url.query().is_none() && url.fragment().is_none() && url.host().is_some();
    let speaks_http = matches!(url.scheme(), "http" | "https");
    (is_plain && says_no_more && speaks_http).then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_origin_and_nothing_else() {
        for (text, kept) in [
            ("http://127.0.0.1:7090", "http://127.0.0.1:7090"),
            ("https://notary.example/", "https://notary.example"),
            ("HTTPS://Notary.Example:443", "https://notary.example"),
        ] {
            assert_eq!(origin(text).as_deref(), Some(kept));
        }
        for wrong in [
            "",
            "notary.example",
            "file:///etc/passwd",
            "unix:/run/notary",
            "http://user@notary.example",
            "http://notary.example/v1",
            "http://notary.example/?to=elsewhere",
            "http://notary.example/#x",
        ] {
            assert_eq!(origin(wrong), None, "{wrong}");
        }
    }
}
