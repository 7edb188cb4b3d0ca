//! Typed ids in EC2's form: a prefix that names the kind, a dash, and 17 hexadecimal digits (68 random bits).
//!
//! Owns the textual form and its parsing. Where the random bits come from is the caller's business: see `from_bits`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id: expected {expected}")]
pub struct ParseIdError {
    pub text: String,
    pub kind: &'static str,
    pub expected: String,
}

const DIGITS: usize = 17;
const MASK: u128 = (1 << (4 * DIGITS)) - 1;

/// What all ids of the `prefix-17 hex` form share, for code that handles any kind of resource.
pub trait ResourceId: Copy + Ord + fmt::Display + FromStr<Err = ParseIdError> + Send + Sync + 'static {
    const PREFIX: &'static str;
    /// The kind in words, as errors name it.
    const KIND: &'static str;
    fn from_bits(bits: u128) -> Self;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(u128);

        impl $name {
            /// Keeps the low 68 bits of `bits`, which the caller draws from a good random source.
            pub const fn from_bits(bits: u128) -> Self { Self(bits & MASK) }
            /// The 68 bits behind the prefix.
            pub const fn bits(self) -> u128 { self.0 }
        }
        impl ResourceId for $name {
            const PREFIX: &'static str = $prefix;
            const KIND: &'static str = $kind;
            fn from_bits(bits: u128) -> Self { $name::from_bits(bits) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                pad_digits(f, $prefix, self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_digits(text, $prefix).map(Self).ok_or_else(|| ParseIdError {
                    text: text.chars().take(64).collect(),
                    kind: $kind,
                    expected: format!("`{}-` and {DIGITS} lower-case hexadecimal digits", $prefix),
                })
            }
        }
        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> { text.parse() }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String { id.to_string() }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": concat!("The id of a ", $kind, "."),
                    "pattern": concat!("^", $prefix, "-[0-9a-f]{17}$"),
                })
            }
        }
    )*};
}

/// Writes an id. Records are told by the million with eight ids each, so this goes without the heap and without the long
/// division of 128 bits.
fn pad_digits(f: &mut fmt::Formatter<'_>, prefix: &str, bits: u128) -> fmt::Result {
    let mut text = [0; 32];
    let length = prefix.len() + 1 + DIGITS;
    let (head, digits) = text.get_mut(..length).ok_or(fmt::Error)?.split_at_mut(prefix.len() + 1);
    head[..prefix.len()].copy_from_slice(prefix.as_bytes());
    head[prefix.len()] = b'-';
    for (at, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(bits >> (4 * (DIGITS - 1 - at))) as usize & 0xf];
    }
    f.pad(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
}

fn parse_digits(text: &str, prefix: &str) -> Option<u128> {
    let digits = text.strip_prefix(prefix)?.strip_prefix('-')?;
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() != DIGITS || !digits.bytes().all(lower_hex) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok()
}

ids! {
    VpcId = "vpc", "VPC";
    SubnetId = "subnet", "subnet";
    RouteTableId = "rtb", "route table";
    SecurityGroupId = "sg", "security group";
    RuleId = "sgr", "security group rule";
    InterfaceId = "eni", "network interface";
    InstanceId = "i", "instance";
    VolumeId = "vol", "volume";
    SnapshotId = "snap", "snapshot";
    ImageId = "ami", "image";
    HostId = "host", "host";
    UserId = "user", "user";
    JobId = "job", "job";
    NetworkAclId = "acl", "network ACL";
    FlowLogId = "fl", "flow log";
    FindingId = "find", "finding";
    MitigationId = "mit", "mitigation";
    PriceBookId = "pb", "price book";
    KnownMeasurementId = "meas", "known measurement";
    TpmMakerId = "maker", "TPM maker";
    NotaryId = "notary", "notary";
    PublisherId = "pub", "publisher";
    ReplicaId = "rep", "replica";
    RecordingId = "rec", "recording";
    ReplayId = "play", "replay";
    LoadId = "load", "load";
    TriggerId = "trig", "trigger";
    ScalingGroupId = "asg", "scaling group";
}

/// An account: 12 decimal digits, the owner of every resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AccountId(u64);

impl AccountId {
    /// The account of those who run the cloud; the only one whose principals may see hosts and other accounts.
    pub const OPERATOR: Self = Self(1);
    const LIMIT: u64 = 1_000_000_000_000;

    /// Maps any number into the 12 digits that tenants' accounts use (100000000000 upwards).
    pub const fn from_bits(bits: u64) -> Self {
        Self(100_000_000_000 + bits % 900_000_000_000)
    }
    pub const fn number(self) -> u64 {
        self.0
    }
    /// The account of that number, if it has at most 12 digits and is not 0.
    pub const fn from_number(number: u64) -> Option<Self> {
        if number == 0 || number >= Self::LIMIT { None } else { Some(Self(number)) }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; 12];
        let mut left = self.0;
        for digit in text.iter_mut().rev() {
            *digit += (left % 10) as u8;
            left /= 10;
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}
impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for AccountId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten().filter(|n| (1..Self::LIMIT).contains(n));
        number.map(Self).ok_or_else(|| ParseIdError {
            text: text.chars().take(64).collect(),
            kind: "account",
            expected: "12 decimal digits".into(),
        })
    }
}
impl TryFrom<String> for AccountId {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}
impl From<AccountId> for String {
    fn from(id: AccountId) -> String {
        id.to_string()
    }
}
impl JsonSchema for AccountId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AccountId".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "The id of an account.", "pattern": "^[0-9]{12}$"})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_reads_back_as_it_was_written(bits: u128, number: u64) {
            let id = InstanceId::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
            let account = AccountId::from_bits(number);
            prop_assert_eq!(account.to_string().parse::<AccountId>().unwrap(), account);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<VpcId>();
            let _ = text.parse::<AccountId>();
        }
    }

    #[test]
    fn all_digits_are_written_and_widths_are_kept() {
        assert_eq!(SubnetId::from_bits(0xabc).to_string(), "subnet-00000000000000abc");
        assert_eq!(format!("{:>20}", InstanceId::from_bits(u128::MAX)), " i-fffffffffffffffff");
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let volume = VolumeId::from_bits(7).to_string();
        assert!(volume.parse::<InstanceId>().is_err());
        assert!("i-0000000000000000G".parse::<InstanceId>().is_err());
        assert!("i-7".parse::<InstanceId>().is_err());
        assert!("000000000000".parse::<AccountId>().is_err());
    }
}
