//! Changes on request: each in one transaction, at most once for each idempotency key, and not at all when it is a dry run.
//!
//! Owns what the headers `idempotency-key` and `dry-run` mean. The rows of earlier requests are the store's, and
//! [`crate::upkeep`] forgets them after a day.
//!
//! An answer may hold a new secret, and no secret is kept in the clear. So answers are sealed with a key made from the
//! idempotency key, of which only a digest is kept: who repeats the request can open the answer, who reads the disk cannot.

use axum::http::HeaderMap;
use base64::{Engine, engine::general_purpose::STANDARD};
use lucarne_api::{
    Call, Problem,
    input::{Json, Nothing},
};
use lucarne_model::{AccountId, ErrorCode};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Caller, Controller,
    auth::secret::digest_of,
    change_recording::Asked,
    random,
    store::{Remembered, Tx},
};

const MAX_KEY: usize = 128;

/// A body that is part of what makes two requests the same.
pub(crate) trait Parameters {
    fn to_json(&self) -> serde_json::Result<String>;
}
impl Parameters for Nothing {
    fn to_json(&self) -> serde_json::Result<String> {
        Ok(String::new())
    }
}
impl<T: Serialize> Parameters for Json<T> {
    fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.0)
    }
}

/// What the headers of a change say.
struct Terms {
    account: AccountId,
    key: Option<String>,
    /// Digest of the route and the parameters.
    request: String,
    dry_run: bool,
    /// What is noted of it if its network is recorded.
    asked: Option<Asked>,
}

impl Controller {
    /// Carries out the change that `call` asks for. The same request with the same idempotency key is answered again as
    /// it was, and does nothing.
    pub(crate) async fn change<P, Q, B, R>(
        &self,
        call: &Call<Caller, P, Q, B>,
        f: impl FnOnce(&mut Tx<'_>) -> Result<R, Problem> + Send + 'static,
    ) -> Result<R, Problem>
    where
        P: Serialize,
        B: Parameters,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let terms = read_terms(call)?;
        self.store.write(move |tx| once(tx, &terms, f)).await
    }
}

fn read_terms<P: Serialize, Q, B: Parameters>(call: &Call<Caller, P, Q, B>) -> Result<Terms, Problem> {
    let path = serde_json::to_string(&call.path).map_err(|error| internal(&error))?;
    let body = call.body.to_json().map_err(|error| internal(&error))?;
    Ok(Terms {
        asked: Asked::of(call.caller.account, call.caller.route.name, &path, &body),
        account: call.caller.account,
        key: read_key(&call.headers)?,
        request: digest_of(format!("{}\n{path}\n{body}", call.caller.route.name).as_bytes()),
        dry_run: read_dry_run(&call.headers)?,
    })
}

fn read_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let detail = || format!("the idempotency key has 1 to {MAX_KEY} printable characters");
    key.map(|key| Some(key.to_owned())).ok_or_else(|| Problem::new(ErrorCode::InvalidParameterValue, detail()))
}

fn read_dry_run(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get("dry-run").map(|value| value.as_bytes()) {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(Problem::new(ErrorCode::InvalidParameterValue, "`dry-run` is `true` or `false`")),
    }
}

fn once<R: Serialize + DeserializeOwned>(
    tx: &mut Tx<'_>,
    terms: &Terms,
    f: impl FnOnce(&mut Tx<'_>) -> Result<R, Problem>,
) -> Result<R, Problem> {
    let Some(key) = &terms.key else { return noted(tx, terms, f) };
    let row = digest_of(format!("row {key}").as_bytes());
    if let Some(earlier) = tx.remembered(terms.account, &row)? {
        if earlier.request != terms.request {
            let detail = "this idempotency key was used for another request in the last 24 hours";
            return Err(Problem::new(ErrorCode::IdempotentParameterMismatch, detail));
        }
        return unseal(key, &earlier.answer);
    }
    let answer = noted(tx, terms, f)?;
    let sealed = seal(key, &answer)?;
    tx.remember(terms.account, &row, &Remembered { request: terms.request.clone(), answer: sealed })?;
    Ok(answer)
}

/// Makes the change, and notes it if its network is recorded.
fn noted<R: Serialize>(
    tx: &mut Tx<'_>,
    terms: &Terms,
    f: impl FnOnce(&mut Tx<'_>) -> Result<R, Problem>,
) -> Result<R, Problem> {
    let takes = terms.asked.as_ref().map(|asked| asked.takes(tx)).transpose()?;
    let answer = dry_or_done(f(tx)?, terms)?;
    if let Some((asked, takes)) = terms.asked.as_ref().zip(takes) {
        asked.note(tx, takes, &answer)?;
    }
    Ok(answer)
}

/// A dry run ends as an error, so that the transaction takes back what was tried.
fn dry_or_done<R>(answer: R, terms: &Terms) -> Result<R, Problem> {
    if terms.dry_run { Err(dry()) } else { Ok(answer) }
}

fn dry() -> Problem {
    Problem::new(ErrorCode::DryRunOperation, "the request would have succeeded; nothing was changed")
}

/// For a change that is no transaction of the store's: asked before it is made.
pub(crate) fn end_dry_run(headers: &HeaderMap) -> Result<(), Problem> {
    if read_dry_run(headers)? { Err(dry()) } else { Ok(()) }
}

fn sealing_key(key: &str) -> Result<LessSafeKey, Problem> {
    let bytes = digest(&SHA256, format!("answer {key}").as_bytes());
    UnboundKey::new(&AES_256_GCM, bytes.as_ref()).map(LessSafeKey::new).map_err(|error| internal(&error))
}

/// Nonce, ciphertext and tag in base64. The nonce is random: accounts may use the same keys, and again after a day.
fn seal<R: Serialize>(key: &str, answer: &R) -> Result<String, Problem> {
    let nonce: [u8; NONCE_LEN] = random::bytes();
    let mut bytes = serde_json::to_vec(answer).map_err(|error| internal(&error))?;
    let sealing = sealing_key(key)?;
    let nonce_once = Nonce::assume_unique_for_key(nonce);
    sealing.seal_in_place_append_tag(nonce_once, Aad::empty(), &mut bytes).map_err(|error| internal(&error))?;
    Ok(STANDARD.encode([&nonce, bytes.as_slice()].concat()))
}

fn unseal<R: DeserializeOwned>(key: &str, sealed: &str) -> Result<R, Problem> {
    let mut bytes = STANDARD.decode(sealed).map_err(|error| internal(&error))?;
    let (nonce, sealed) =
        bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(|| internal(&"a kept answer is too short"))?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|error| internal(&error))?;
    let plain = sealing_key(key)?.open_in_place(nonce, Aad::empty(), sealed).map_err(|error| internal(&error))?;
    serde_json::from_slice(plain).map_err(|error| internal(&error))
}

fn internal(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "an idempotent request could not be kept or answered again");
    Problem::new(ErrorCode::Internal, "something went wrong inside; it has been logged")
}
