//! What a bucket says that it holds: the answer to S3's `ListObjectsV2`. Pure.
//!
//! Owns the question's text and what is read of the answer: names, sizes, and where to go on. It is no reader of XML: the
//! elements that are looked for have text in them and nothing else, in every store.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::signature;

/// An object's name, as far as the bucket is concerned, and its octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
}

/// One answer: a thousand objects, and where the next thousand begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) objects: Vec<Object>,
    pub(crate) next: Option<String>,
}

/// As it stands behind the question mark, and as it is signed: in the order of names, all octets encoded.
pub(super) fn query(prefix: &str, from: Option<&str>) -> String {
    let from = from.map_or(String::new(), |from| format!("continuation-token={}&", encoded(from)));
    format!("{from}encoding-type=url&list-type=2&prefix={}", encoded(prefix))
}

/// Slashes too, which stand for themselves in a path alone.
fn encoded(value: &str) -> String {
    signature::encoded(value).replace('/', "%2F")
}

impl Listing {
    /// None where the text is no such answer.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (_, inside) = text.split_once("<ListBucketResult")?;
        let objects = inside.split("<Contents>").skip(1).map(object).collect::<Option<Vec<_>>>()?;
        let next = element(inside, "NextContinuationToken").map(unescaped);
        Some(Self { objects, next })
    }
}

fn object(text: &str) -> Option<Object> {
    let key = decoded(&unescaped(element(text, "Key")?))?;
    Some(Object { key, size: element(text, "Size")?.parse().ok()? })
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
}

fn unescaped(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// Undoes the encoding of a URL; none where it is not one.
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>logs</Name><KeyCount>2</KeyCount>\
        <NextContinuationToken>1/a&amp;b=</NextContinuationToken>\
        <Contents><Key>lab/day%3D1/a%20b</Key><LastModified>x</LastModified><Size>7</Size></Contents>\
        <Contents><Key>lab/c</Key><Size>0</Size></Contents></ListBucketResult>";

    #[test]
    fn names_sizes_and_the_next_page_are_read() {
        let listing = Listing::parse(ANSWER).unwrap();
        let object = |key: &str, size| Object { key: key.into(), size };
        assert_eq!(listing.objects, [object("lab/day=1/a b", 7), object("lab/c", 0)]);
        assert_eq!(listing.next.as_deref(), Some("1/a&b="));
        assert_eq!(Listing::parse("<ListBucketResult></ListBucketResult>"), Some(Listing::default()));
    }

    #[test]
    fn an_answer_that_is_none_is_not_taken_for_an_empty_bucket() {
        for other in ["", "<html>login</html>", "<ListBucketResult><Contents><Key>a</Key></Contents>"] {
            assert_eq!(Listing::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_name_comes_back_from_its_encoding(name in ".{0,40}") {
            prop_assert_eq!(decoded(&encoded(&name)), Some(name));
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,200}") {
            let _ = Listing::parse(&format!("<ListBucketResult{text}"));
        }
    }
}
