//! AWS's Signature Version 4, with which requests to S3 are signed. Pure.
//!
//! Owns the canonical form of a request and the chain of keys. Which headers a request has is its sender's matter; all that
//! are given here are signed.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::Write as _;

use lucarne_model::{Moment, flow_log::StoreCredentials};
use ring::{
    digest::{SHA256, digest},
    hmac::{self, HMAC_SHA256},
};

use crate::delivery::strftime;

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// As it is sent, from the first slash on, see [`encoded`].
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    /// Names in lower case and in order, values without blanks around them.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// As `x-amz-content-sha256` says it.
    pub(crate) payload: &'a str,
}

/// The value of `x-amz-date`.
pub(crate) fn time(now: Moment) -> String {
    strftime(now, "%Y%m%dT%H%M%SZ")
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(octets: &[u8]) -> String {
    hex(digest(&SHA256, octets).as_ref())
}

/// A path with everything but letters, digits, `-._~` and slashes in percents.
pub(crate) fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for octet in path.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(octet.into()),
            // Writing into a string cannot fail.
            other => drop(write!(out, "%{other:02X}")),
        }
    }
    out
}

/// The value of the header `authorization`, for a request that is sent at `now`.
pub(crate) fn authorization(
    request: &Request<'_>,
    credentials: &StoreCredentials,
    region: &str,
    now: Moment,
) -> String {
    let (time, day) = (time(now), strftime(now, "%Y%m%d"));
    let scope = format!("{day}/{region}/s3/aws4_request");
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let signed = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical(request, &names).as_bytes()));
    let secret = format!("AWS4{}", credentials.secret_access_key);
    let key = [day.as_str(), region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
    let signature = hex(&mac(&key, signed.as_bytes()));
    let id = &credentials.access_key_id;
    format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}")
}

fn canonical(request: &Request<'_>, names: &str) -> String {
    let Request { method, path, query, headers, payload } = request;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{payload}")
}

fn mac(key: &[u8], octets: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, key), octets).as_ref().to_vec()
}

pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2013-05-24, 00:00 UTC.
    const NOW: Moment = Moment::from_secs(1_369_353_600);
    const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");
    const DATE: (&str, &str) = ("x-amz-date", "20130524T000000Z");

    fn signature(request: &Request<'_>) -> String {
        let credentials = StoreCredentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        };
        let value = authorization(request, &credentials, "us-east-1", NOW);
        assert!(value.contains("Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"), "{value}");
        value.rsplit("Signature=").next().unwrap_or_default().to_owned()
    }

    /// The examples of "Signature Calculations for the Authorization Header" in Amazon S3's API reference.
    #[test]
    fn signatures_are_those_of_amazons_examples() {
        let payload = sha256(b"Welcome to Amazon S3.");
        let put = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            HOST,
            ("x-amz-content-sha256", payload.as_str()),
            DATE,
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        let path = encoded("/test$file.text");
        let put = Request { method: "PUT", path: &path, query: "", headers: &put, payload: &payload };
        assert_eq!(signature(&put), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        let nothing = sha256(b"");
        let get = [HOST, ("x-amz-content-sha256", nothing.as_str()), DATE];
        let get = Request { method: "GET", path: "/", query: "lifecycle=", headers: &get, payload: &nothing };
        assert_eq!(signature(&get), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    }

    #[test]
    fn a_path_is_encoded_octet_by_octet() {
        assert_eq!(encoded("/a-b_c.d~/day=1/ü"), "/a-b_c.d~/day%3D1/%C3%BC");
    }
}
