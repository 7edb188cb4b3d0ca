//! What arguments are made of: numbers, texts, octets and addresses that cannot be beyond their limits.
//!
//! Owns the limits as types: what was read lies within them. Which argument has which is said in the table of
//! [`operation`](crate::operation).

use std::fmt;

use lucarne_model::Octets;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A value beyond its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct OutOfBounds(String);

/// How policies see an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Number(i64),
    Text(String),
}

/// The two ways in which an argument is written in JSON, and in which policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Number,
    Text,
    /// Written as an object, of which policies see a number.
    Replacement,
    /// Written as text, of which policies see a number.
    Address,
}

/// A type that arguments have.
pub trait Argument: Serialize + DeserializeOwned {
    const FORM: Form;
    /// The limits, as people read them.
    fn limits() -> String;
    fn seen(&self) -> Seen;
}

/// A whole number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct Whole<const LEAST: u64, const MOST: u64>(u64);

impl<const LEAST: u64, const MOST: u64> Whole<LEAST, MOST> {
    pub const fn get(self) -> u64 {
        self.0
    }
}
impl<const LEAST: u64, const MOST: u64> TryFrom<u64> for Whole<LEAST, MOST> {
    type Error = OutOfBounds;
    fn try_from(number: u64) -> Result<Self, OutOfBounds> {
        if (LEAST..=MOST).contains(&number) { Ok(Self(number)) } else { Err(OutOfBounds(Self::limits())) }
    }
}
impl<const LEAST: u64, const MOST: u64> From<Whole<LEAST, MOST>> for u64 {
    fn from(whole: Whole<LEAST, MOST>) -> Self {
        whole.0
    }
}
impl<const LEAST: u64, const MOST: u64> Argument for Whole<LEAST, MOST> {
    const FORM: Form = Form::Number;
    fn limits() -> String {
        format!("{LEAST} to {MOST}")
    }
    fn seen(&self) -> Seen {
        Seen::Number(i64::try_from(self.0).unwrap_or(i64::MAX))
    }
}

/// A text of 1 to `MOST` octets without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Text<const MOST: usize>(String);

impl<const MOST: usize> Text<MOST> {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl<const MOST: usize> TryFrom<String> for Text<MOST> {
    type Error = OutOfBounds;
    fn try_from(text: String) -> Result<Self, OutOfBounds> {
        let fits = (1..=MOST).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(Self(text)) } else { Err(OutOfBounds(Self::limits())) }
    }
}
impl<const MOST: usize> std::str::FromStr for Text<MOST> {
    type Err = OutOfBounds;
    fn from_str(text: &str) -> Result<Self, OutOfBounds> {
        text.to_owned().try_into()
    }
}
impl<const MOST: usize> From<Text<MOST>> for String {
    fn from(text: Text<MOST>) -> Self {
        text.0
    }
}
impl<const MOST: usize> fmt::Display for Text<MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl<const MOST: usize> Argument for Text<MOST> {
    const FORM: Form = Form::Text;
    fn limits() -> String {
        format!("text of at most {MOST} octets")
    }
    fn seen(&self) -> Seen {
        Seen::Text(self.0.clone())
    }
}

/// Octets that are to be there, and as many that are to be there instead: what is not as expected is not replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenReplacement<MOST>", into = "WrittenReplacement<MOST>")]
pub struct Replacement<const MOST: usize> {
    expected: Octets,
    replacement: Octets,
}

impl<const MOST: usize> Replacement<MOST> {
    pub fn new(expected: Octets, replacement: Octets) -> Result<Self, OutOfBounds> {
        let fits = expected.len() == replacement.len() && (1..=MOST).contains(&expected.len());
        if fits { Ok(Self { expected, replacement }) } else { Err(OutOfBounds(Self::limits())) }
    }
    pub fn expected(&self) -> &[u8] {
        &self.expected
    }
    pub fn replacement(&self) -> &[u8] {
        &self.replacement
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenReplacement<const MOST: usize> {
    expected: Octets,
    replacement: Octets,
}

impl<const MOST: usize> TryFrom<WrittenReplacement<MOST>> for Replacement<MOST> {
    type Error = OutOfBounds;
    fn try_from(written: WrittenReplacement<MOST>) -> Result<Self, OutOfBounds> {
        Self::new(written.expected, written.replacement)
    }
}
impl<const MOST: usize> From<Replacement<MOST>> for WrittenReplacement<MOST> {
    fn from(replacement: Replacement<MOST>) -> Self {
        Self { expected: replacement.expected, replacement: replacement.replacement }
    }
}
impl<const MOST: usize> Argument for Replacement<MOST> {
    const FORM: Form = Form::Replacement;
    fn limits() -> String {
        format!("`expected` and `replacement` in base64, equally many octets, at most {MOST}")
    }
    fn seen(&self) -> Seen {
        Seen::Number(i64::try_from(self.expected.len()).unwrap_or(i64::MAX))
    }
}

/// An address of 64 bits, as `0x` and its hexadecimal digits: JSON's numbers are not wide enough for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address(pub u64);

impl TryFrom<String> for Address {
    type Error = OutOfBounds;
    fn try_from(text: String) -> Result<Self, OutOfBounds> {
        let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).map(Self);
        // One address has one text.
        let own_text = number.filter(|number| String::from(*number) == text);
        own_text.ok_or_else(|| OutOfBounds(Self::limits()))
    }
}
impl From<Address> for String {
    fn from(address: Address) -> Self {
        format!("{:#x}", address.0)
    }
}
impl Argument for Address {
    const FORM: Form = Form::Address;
    fn limits() -> String {
        "0x and hexadecimal digits, lower case, without leading zeros".to_owned()
    }
    /// As the signed number of the same bits, since policies have no other.
    fn seen(&self) -> Seen {
        Seen::Number(self.0.cast_signed())
    }
}

/// How memory of a guest is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressSpace {
    /// The guest's physical memory.
    Physical,
    /// The kernel's, by the page tables that its processor 0 uses.
    Kernel,
}

impl Argument for AddressSpace {
    const FORM: Form = Form::Text;
    fn limits() -> String {
        "physical or kernel".to_owned()
    }
    fn seen(&self) -> Seen {
        Seen::Text(match self {
            Self::Physical => "physical".to_owned(),
            Self::Kernel => "kernel".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_value_beyond_its_limits_cannot_be_read() {
        type Small = Whole<1, 16>;
        assert_eq!(from_value::<Small>(json!(16)).map(Whole::get).ok(), Some(16));
        for wrong in [json!(0), json!(17), json!(-1), json!(1.5), json!("1")] {
            assert!(from_value::<Small>(wrong.clone()).is_err(), "{wrong}");
        }
        for wrong in ["", "12345", "a\n", "a\u{85}"] {
            assert!(wrong.parse::<Text<4>>().is_err(), "{wrong:?}");
        }
        let replacement = |expected: &[u8], other: &[u8]| Replacement::<2>::new(expected.into(), other.into());
        assert!(replacement(b"ab", b"cd").is_ok());
        for (expected, other) in [(&b""[..], &b""[..]), (b"a", b"cd"), (b"abc", b"cde")] {
            assert!(replacement(expected, other).is_err());
        }
        for wrong in ["", "0x", "10", "0x00", "0xAB", "0x+1", "0x10000000000000000"] {
            assert!(Address::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn an_address_reads_back_as_it_was_written(number: u64) {
            prop_assert_eq!(Address::try_from(String::from(Address(number))), Ok(Address(number)));
        }
    }
}
