//! JSON in its one canonical form, RFC 8785: what is hashed and signed.
//!
//! Owns the form, for documents without fractions: numbers are whole and below 2^53, as ours all are. What the documents
//! say is their modules'.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The greatest number that every reader of JSON keeps as it is.
const MOST: u64 = (1 << 53) - 1;

/// Why a document has no canonical form, or is not in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    #[error("a number is not whole or not below 2^53")]
    Number,
    #[error("not a document of this kind: {0}")]
    Shape(String),
    #[error("the document is not in its canonical form")]
    Form,
}

/// The canonical octets of a document.
pub fn write(document: &impl Serialize) -> Result<Vec<u8>, CanonicalError> {
    let value = serde_json::to_value(document).map_err(|error| CanonicalError::Shape(error.to_string()))?;
    let mut text = String::new();
    put(&value, &mut text)?;
    Ok(text.into_bytes())
}

/// Reads a document that must be in its canonical form: there is no second text that says the same.
pub fn read<T: DeserializeOwned + Serialize>(octets: &[u8]) -> Result<T, CanonicalError> {
    let document = serde_json::from_slice(octets).map_err(|error| CanonicalError::Shape(error.to_string()))?;
    if write(&document)? == octets { Ok(document) } else { Err(CanonicalError::Form) }
}

fn put(value: &Value, text: &mut String) -> Result<(), CanonicalError> {
    match value {
        Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            whole.filter(|whole| *whole <= MOST).ok_or(CanonicalError::Number)?;
            text.push_str(&number.to_string());
        }
        Value::Array(items) => put_all('[', items, ']', text, put)?,
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
            put_all('{', &members, '}', text, |(name, value), text| {
                text.push_str(&Value::String((*name).clone()).to_string());
                text.push(':');
                put(value, text)
            })?;
        }
        Value::Null | Value::Bool(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
    Ok(())
}

fn put_all<T>(
    open: char,
    items: &[T],
    close: char,
    text: &mut String,
    put: impl Fn(&T, &mut String) -> Result<(), CanonicalError>,
) -> Result<(), CanonicalError> {
    text.push(open);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        put(item, text)?;
    }
    text.push(close);
    Ok(())
}

#[cfg(test)]
mod tests {
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
}
