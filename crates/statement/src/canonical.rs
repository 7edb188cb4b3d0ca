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
mod tests;
