//! One HTTP request, as far as the service reads it.
//!
//! Owns the parsing (RFC 9112, by `httparse`) and its limits. What is answered is decided in [`super::router`].

/// The most octets that a request's head may have.
pub(super) const MAX_HEAD: usize = 4096;
const MAX_HEADERS: usize = 32;

/// A request's head; bodies are not read, as nothing that is answered has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) token: Option<&'a [u8]>,
    pub(super) token_ttl: Option<&'a [u8]>,
    /// Whether a proxy says that it stands between.
    pub(super) forwarded: bool,
}

/// What the octets so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head<'a> {
    /// Not whole yet.
    Partial,
    Whole(Request<'a>),
    /// Not HTTP/1, or longer than [`MAX_HEAD`].
    Malformed,
}

/// Reads the head of a request from what was received.
pub(super) fn parse(received: &[u8]) -> Head<'_> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(received) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => return Head::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Head::Malformed,
    }
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else { return Head::Malformed };
    let header = |name: &str| parsed.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    Head::Whole(Request {
        method,
        path,
        token: header("X-aws-ec2-metadata-token"),
        token_ttl: header("X-aws-ec2-metadata-token-ttl-seconds"),
        forwarded: header("X-Forwarded-For").is_some(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &[u8] = b"GET /latest/ HTTP/1.1\r\nhost: x\r\nX-AWS-EC2-Metadata-Token: abc\r\n\r\n";

    #[test]
    fn a_head_is_partial_until_its_last_octet() {
        for cut in 0..GET.len() {
            assert_eq!(parse(&GET[..cut]), Head::Partial, "{cut}");
        }
        let Head::Whole(request) = parse(GET) else { panic!("not whole") };
        assert_eq!((request.method, request.path, request.token), ("GET", "/latest/", Some(&b"abc"[..])));
        assert!(!request.forwarded);
    }

    #[test]
    fn what_is_not_http_or_does_not_end_is_malformed() {
        assert_eq!(parse(b"\x16\x03\x01\x02\x00\x01"), Head::Malformed, "TLS");
        let endless = [&b"GET / HTTP/1.1\r\nx: "[..], &[b'y'; MAX_HEAD]].concat();
        assert_eq!(parse(&endless), Head::Malformed);
        let many = [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(MAX_HEADERS + 1), b"\r\n"].concat();
        assert_eq!(parse(&many), Head::Malformed);
    }

    proptest! {
        #[test]
        fn no_octets_make_the_parser_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) { parse(&octets); }
    }
}
