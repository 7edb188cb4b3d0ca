//! Octets in JSON: base64 (RFC 4648, with padding), one text however they are made or used.
//!
//! Owns the textual form. What the octets mean is said by whoever has a field of them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Octets whose inner structure is not JSON's business: standard base64 in JSON.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Octets(pub Vec<u8>);

/// A text that is not base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not base64 with its padding")]
pub struct ParseOctetsError;

impl std::ops::Deref for Octets {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
impl From<Vec<u8>> for Octets {
    fn from(octets: Vec<u8>) -> Self {
        Self(octets)
    }
}
impl From<&[u8]> for Octets {
    fn from(octets: &[u8]) -> Self {
        Self(octets.to_vec())
    }
}
impl From<Octets> for String {
    fn from(octets: Octets) -> Self {
        STANDARD.encode(octets.0)
    }
}
impl TryFrom<String> for Octets {
    type Error = ParseOctetsError;
    fn try_from(text: String) -> Result<Self, ParseOctetsError> {
        STANDARD.decode(text).map(Self).map_err(|_| ParseOctetsError)
    }
}
impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}
impl JsonSchema for Octets {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Octets".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "Octets in base64.", "pattern": "^[A-Za-z0-9+/]*={0,2}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_base64_in_json_and_nothing_else() {
        let octets = Octets(vec![0xff, 0x54, 0x43, 0x47]);
        let text = serde_json::to_string(&octets).expect("a text");
        assert_eq!(text, "\"/1RDRw==\"");
        assert_eq!(serde_json::from_str::<Octets>(&text).expect("octets"), octets);
        for wrong in ["\"/1RDRw\"", "\"ff 54\"", "[255]"] {
            assert!(serde_json::from_str::<Octets>(wrong).is_err(), "{wrong}");
        }
    }
}
