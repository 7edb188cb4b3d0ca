//! Host names: what instances are called in their network.
//!
//! Owns what of a `Name` tag can be a label of DNS, and the names that follow from an address. DHCP and the metadata service
//! tell a guest its own; the network's resolver answers for all of them below [`HostName::DOMAIN`].

use std::{fmt, net::Ipv4Addr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::InstanceId;

/// One label of DNS (RFC 1123 section 2.1), in lower case. Cheap to clone: networks are copied for each of their hosts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HostName(Arc<str>);

/// Why a text is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host name: 1 to 63 of a to z, 0 to 9 and hyphens, with none of these at its ends")]
pub struct ParseHostNameError(String);

impl HostName {
    /// What all of them stand below; it is kept free for private networks.
    pub const DOMAIN: &'static str = "internal";
    const LONGEST: usize = 63;

    /// A `Name` made a label, with hyphens for what a label cannot have. None where nothing is left, and for what looks like
    /// the name that another instance has by its id or its address.
    pub fn from_tag(name: &str) -> Option<Self> {
        let letters = name.chars().map(|letter| match letter.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9') => letter,
            _ => '-',
        });
        let label: String = letters.skip_while(|letter| *letter == '-').take(Self::LONGEST).collect();
        let label = label.trim_end_matches('-');
        let is_anothers = label.parse::<InstanceId>().is_ok() || Self::address_in(label).is_some();
        (!label.is_empty() && !is_anothers).then(|| Self(label.into()))
    }

    /// Such as `ip-10-0-0-4`.
    pub fn of_address(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self(format!("ip-{a}-{b}-{c}-{d}").into())
    }

    /// The address that such a label tells.
    pub fn address_in(label: &str) -> Option<Ipv4Addr> {
        label.strip_prefix("ip-")?.replace('-', ".").parse().ok()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl TryFrom<String> for HostName {
    type Error = ParseHostNameError;
    fn try_from(text: String) -> Result<Self, ParseHostNameError> {
        let is_fit = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        let ends = text.starts_with('-') || text.ends_with('-');
        if (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(is_fit) && !ends {
            Ok(Self(text.into()))
        } else {
            Err(ParseHostNameError(text.chars().take(64).collect()))
        }
    }
}
impl From<HostName> for String {
    fn from(name: HostName) -> String {
        name.0.as_ref().to_owned()
    }
}
impl JsonSchema for HostName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostName".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A label of DNS.",
            "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_tag(name: &str) -> Option<String> {
        HostName::from_tag(name).map(String::from)
    }

    #[test]
    fn a_name_becomes_a_label_and_one_without_letters_none() {
        assert_eq!(from_tag("Web 1").as_deref(), Some("web-1"));
        assert_eq!(from_tag("-db.front-").as_deref(), Some("db-front"));
        assert_eq!(from_tag("--ä--"), None);
        assert_eq!(from_tag(""), None);
    }

    #[test]
    fn nobody_is_called_what_another_one_is_by_id_or_address() {
        assert_eq!(from_tag("I-0123456789ABCDEF0"), None);
        assert_eq!(from_tag("ip 10 0 0 9"), None);
        assert_eq!(from_tag("i-0123").as_deref(), Some("i-0123"));
        assert_eq!(from_tag("ip-10-0-0").as_deref(), Some("ip-10-0-0"));
    }

    proptest! {
        #[test]
        fn every_name_gives_a_valid_label_or_none(name: String) {
            if let Some(label) = HostName::from_tag(&name) {
                prop_assert_eq!(HostName::try_from(label.to_string()), Ok(label.clone()));
                let json = serde_json::to_string(&label).unwrap();
                prop_assert_eq!(serde_json::from_str::<HostName>(&json).unwrap(), label);
            }
        }
        #[test]
        fn an_address_is_read_back_from_its_name(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let name = HostName::of_address(address);
            prop_assert_eq!(HostName::address_in(name.as_str()), Some(address));
            prop_assert_eq!(HostName::try_from(name.to_string()), Ok(name));
        }
        #[test]
        fn what_is_no_label_is_refused(text in "[a-z0-9-]{0,70}|[A-Za-z0-9._-]{0,8}") {
            let is_label = regex(&text);
            prop_assert_eq!(HostName::try_from(text).is_ok(), is_label);
        }
    }

    /// The pattern of the schema, spelled out.
    fn regex(text: &str) -> bool {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let octets = text.as_bytes();
        octets.len() <= 63 && octets.iter().all(|b| inner(*b)) && outer(octets.first()) && outer(octets.last())
    }
}
