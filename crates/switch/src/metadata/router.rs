//! Which request is answered with what: a pure function of the request, the instance's facts and the time.
//!
//! Owns the routes and their status codes, as EC2's service has them with tokens required. How requests arrive is the
//! work of [`super::stack`].

use std::time::Duration;

use super::{
    facts::{Entry, Facts},
    request::{Head, Request},
    token::Tokens,
};
use lucarne_model::Moment;

const TOKEN_PATH: [&str; 3] = ["latest", "api", "token"];
const TOKEN_TTL_SECONDS: std::ops::RangeInclusive<u64> = 1..=21_600;
const TTL_HEADER: &str = "X-aws-ec2-metadata-token-ttl-seconds";
/// The versions that cloud-init asks for, and curl's users. They are all the same here.
const VERSIONS: [&str; 6] = ["2009-04-04", "2014-11-05", "2016-09-02", "2018-09-24", "2021-03-23", "latest"];
const PLAIN: &str = "text/plain";

/// What is sent back; the connection ends with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    /// How long the token in the body holds. Such an answer leaves with hop limit 1, so that a guest that forwards, or
    /// a container behind one, cannot be used to carry tokens out.
    pub(super) token_ttl: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::Unauthorized => "401 Unauthorized",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
        }
    }
}

impl Answer {
    fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: Status::Ok, content_type, body: body.into(), token_ttl: None }
    }

    /// The whole message, as HTTP/1.1 clients and those of 1.0 understand it.
    pub(super) fn to_octets(&self) -> Vec<u8> {
        let (line, kind, length) = (self.status.line(), self.content_type, self.body.len());
        let ttl = self.token_ttl.map(|ttl| format!("{TTL_HEADER}: {ttl}\r\n")).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{ttl}Connection: close\r\n\r\n"
        );
        [head.as_bytes(), &self.body].concat()
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        let body = format!("{}\n", status.line()).into_bytes();
        Self { status, content_type: PLAIN, body, token_ttl: None }
    }
}

/// The answer to what was received, or none while the request is not whole.
pub(super) fn answer(head: Head<'_>, facts: &Facts, tokens: &Tokens, now: Moment) -> Option<Answer> {
    let request = match head {
        Head::Partial => return None,
        Head::Malformed => return Some(Status::BadRequest.into()),
        Head::Whole(request) => request,
    };
    let path = request.path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    Some(match request.method {
        "PUT" if segments == TOKEN_PATH => issue(&request, facts, tokens, now),
        "GET" if segments == TOKEN_PATH => Status::MethodNotAllowed.into(),
        "GET" if request.token.is_some_and(|token| tokens.is_valid(facts.interface, token, now)) => {
            read(&segments, path.ends_with('/'), facts)
        }
        "GET" => Status::Unauthorized.into(),
        _ => Status::MethodNotAllowed.into(),
    })
}

fn issue(request: &Request<'_>, facts: &Facts, tokens: &Tokens, now: Moment) -> Answer {
    if request.forwarded {
        return Status::Forbidden.into();
    }
    let given = request.token_ttl.and_then(|ttl| std::str::from_utf8(ttl).ok()).and_then(|ttl| ttl.trim().parse().ok());
    match given.filter(|ttl| TOKEN_TTL_SECONDS.contains(ttl)) {
        Some(ttl) => {
            let token = tokens.issue(facts.interface, Duration::from_secs(ttl), now);
            Answer { token_ttl: Some(ttl), ..Answer::ok(PLAIN, token) }
        }
        None => Status::BadRequest.into(),
    }
}

/// What a request with a valid token reads. `directory` says that its path ended with a slash.
fn read(segments: &[&str], directory: bool, facts: &Facts) -> Answer {
    let Some((version, below)) = segments.split_first() else {
        return Answer::ok(PLAIN, VERSIONS.join("\n"));
    };
    if !VERSIONS.contains(version) {
        return Status::NotFound.into();
    }
    match below {
        [] => Answer::ok(PLAIN, "dynamic\nmeta-data\nuser-data"),
        ["meta-data", path @ ..] => match facts.entry(path, directory) {
            Some(Entry::Value(value)) => Answer::ok(PLAIN, value),
            Some(Entry::Directory(children)) => Answer::ok(PLAIN, children.join("\n")),
            None => Status::NotFound.into(),
        },
        ["user-data"] => match &facts.user_data {
            Some(data) => Answer::ok("application/octet-stream", data.as_bytes()),
            None => Status::NotFound.into(),
        },
        ["dynamic"] => Answer::ok(PLAIN, "instance-identity/"),
        ["dynamic", "instance-identity"] => Answer::ok(PLAIN, "document"),
        ["dynamic", "instance-identity", "document"] => Answer::ok("application/json", facts.identity_document()),
        _ => Status::NotFound.into(),
    }
}
