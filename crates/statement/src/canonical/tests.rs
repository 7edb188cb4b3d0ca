//! The form is the RFC's, a document has one text, and another reader agrees about which.

use proptest::{collection::vec, prelude::*};
use serde_json::json;

use super::*;

/// The order of members is that of UTF-16 code units, which puts a character beyond them before U+FB33: the RFC's
/// own example, without its fractions.
#[test]
fn members_are_in_the_order_of_rfc_8785() {
    let document = json!({
        "\u{20ac}": "Euro Sign", "\r": "Carriage Return", "\u{fb33}": "Hebrew Letter Dalet With Dagesh",
        "1": "One", "\u{1f600}": "Emoji: Grinning Face", "\u{80}": "Control", "\u{f6}": "o with Diaeresis"
    });
    let text = String::from_utf8(write(&document).expect("it has a form")).expect("text");
    let values: Vec<&str> =
        text.split('"').filter(|part| part.len() > 2 && part.is_ascii() && *part != "\\r").collect();
    let order = [
        "Carriage Return",
        "One",
        "Control",
        "o with Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ];
    assert_eq!(values, order);
}

#[test]
fn a_document_has_one_text() {
    let document = json!({"b": [1, -2, true, null], "a": "tab\t, nul\u{0}, quote\", é"});
    let octets = write(&document).expect("it has a form");
    let text = std::str::from_utf8(&octets).expect("text");
    assert_eq!(text, "{\"a\":\"tab\\t, nul\\u0000, quote\\\", é\",\"b\":[1,-2,true,null]}");
    assert_eq!(read::<Value>(&octets), Ok(document));
    assert_eq!(read::<Value>(b"{ \"a\":1}"), Err(CanonicalError::Form));
    assert_eq!(read::<Value>(b"{\"b\":1,\"a\":1}"), Err(CanonicalError::Form));
    assert_eq!(read::<Value>(b"{\"a\":1,\"a\":1}"), Err(CanonicalError::Form));
    assert_eq!(write(&json!({"a": 0.5})), Err(CanonicalError::Number));
    assert_eq!(write(&json!({"a": 1u64 << 53})), Err(CanonicalError::Number));
}

/// Canonical JSON by another way: its grammar, read octet by octet without making values. What is left, or nothing.
fn passes(text: &str, depth: u32) -> Option<&str> {
    let depth = depth.checked_sub(1)?;
    for word in ["null", "true", "false"] {
        if let Some(rest) = text.strip_prefix(word) {
            return Some(rest);
        }
    }
    match text.chars().next()? {
        '"' => string(text).map(|(_, rest)| rest),
        '[' => {
            let mut rest = text.strip_prefix('[')?;
            if let Some(rest) = rest.strip_prefix(']') {
                return Some(rest);
            }
            loop {
                rest = passes(rest, depth)?;
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => return rest.strip_prefix(']'),
                }
            }
        }
        '{' => {
            let mut rest = text.strip_prefix('{')?;
            if let Some(rest) = rest.strip_prefix('}') {
                return Some(rest);
            }
            let mut before: Option<Vec<u16>> = None;
            loop {
                let (name, after) = string(rest)?;
                let name: Vec<u16> = name.encode_utf16().collect();
                if before.is_some_and(|before| before >= name) {
                    return None;
                }
                before = Some(name);
                rest = passes(after.strip_prefix(':')?, depth)?;
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => return rest.strip_prefix('}'),
                }
            }
        }
        _ => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            let (number, rest) = digits.split_at(end);
            let own = number.parse::<u64>().ok().filter(|value| *value <= MOST && value.to_string() == number)?;
            (own != 0 || !text.starts_with('-')).then_some(rest)
        }
    }
}

fn string(text: &str) -> Option<(String, &str)> {
    let mut said = String::new();
    let mut rest = text.strip_prefix('"')?.chars();
    loop {
        match rest.next()? {
            '"' => return Some((said, rest.as_str())),
            '\\' => said.push(match rest.next()? {
                '"' => '"',
                '\\' => '\\',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String = rest.by_ref().take(4).collect();
                    let own = u8::from_str_radix(&digits, 16).ok().filter(|octet| format!("{octet:04x}") == digits)?;
                    let needed = own < 0x20 && !matches!(own, 8 | 9 | 10 | 12 | 13);
                    needed.then_some(char::from(own))?
                }
                _ => return None,
            }),
            plain if plain >= ' ' => said.push(plain),
            _ => return None,
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1i64 << 53)..=1 << 53).prop_map(Value::from),
        "[\\x00-\\x7f\u{e9}\u{1f600}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-c\\n\u{fb33}\u{1f600}]{0,2}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Attack: two parsers, two meanings. Of texts that are canonical, and of those one step beside, both readers take the same.
    #[test]
    fn another_reader_takes_exactly_the_same_texts(
        document in any_json(), at in any::<prop::sample::Index>(), put in "[ -~]{0,2}", take in 0..2usize,
    ) {
        let both = |text: &str| {
            let ours = read::<Value>(text.as_bytes()).is_ok();
            prop_assert_eq!(ours, passes(text, 100) == Some(""), "{}", text);
            Ok(())
        };
        if let Ok(octets) = write(&document) {
            let text = String::from_utf8(octets).expect("text");
            both(&text)?;
            let mut letters: Vec<char> = text.chars().collect();
            let place = at.index(letters.len() + 1);
            letters.splice(place..(place + take).min(letters.len()), put.chars());
            both(&letters.into_iter().collect::<String>())?;
        }
        both(&document.to_string())?;
    }
}
