//! Receipts: a signed chain, one for each account, by which a tenant can tell that no kept record was taken away.
//!
//! Owns what a receipt says, the text that is signed, and the rules of a whole chain: numbers without gaps, each with the
//! digest of the one before; a part that was merged from others holds as many records of each minute as they did; what is
//! not replaced is on the disk, octet for octet. No files are read here: who checks brings the digests. Pure.
//!
//! A merge of parts is a receipt that names the receipts it takes the place of, so nothing is ever rewritten. Whoever has
//! kept a [`Head`] can tell that a chain shown later goes on from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    str::FromStr,
};

use lucarne_model::{AccountId, Moment};
use ring::{digest, signature};
use serde::{Deserialize, Serialize};

/// Octets that are written as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A SHA-256 digest.
pub type Sha256 = Hex<32>;
/// An Ed25519 public key.
pub type PublicKey = Hex<32>;
/// An Ed25519 signature.
pub type Signature = Hex<64>;

/// A text that is not so many octets in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0} octets as lower-case hexadecimal digits")]
pub struct ParseHexError(usize);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}
impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl<const N: usize> FromStr for Hex<N> {
    type Err = ParseHexError;
    fn from_str(text: &str) -> Result<Self, ParseHexError> {
        let is_hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() != 2 * N || !is_hex {
            return Err(ParseHexError(N));
        }
        let octet = |n: usize| u8::from_str_radix(text.get(2 * n..2 * n + 2).unwrap_or_default(), 16).unwrap_or(0);
        Ok(Self(std::array::from_fn(octet)))
    }
}
impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = ParseHexError;
    fn try_from(text: String) -> Result<Self, ParseHexError> {
        text.parse()
    }
}
impl<const N: usize> From<Hex<N>> for String {
    fn from(hex: Hex<N>) -> Self {
        hex.to_string()
    }
}

/// A SHA-256 digest in the making.
#[derive(Clone)]
pub struct Digest(digest::Context);

impl Digest {
    pub fn begin() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
    pub fn add(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }
    pub fn finish(self) -> Sha256 {
        let mut octets = [0; 32];
        self.0.finish().as_ref().iter().zip(&mut octets).for_each(|(from, to)| *to = *from);
        Hex(octets)
    }
    /// Of all of the octets.
    pub fn of(octets: &[u8]) -> Sha256 {
        let mut digest = Self::begin();
        digest.add(octets);
        digest.finish()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest").finish_non_exhaustive()
    }
}

/// A file of records and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartContents {
    /// Its path below the folder of all parts.
    pub name: String,
    /// Octets of the file.
    pub size: u64,
    /// Of the file.
    pub sha256: Sha256,
    /// Minutes since 1970 and how many records ended in each; those without records are left out.
    pub minutes: Vec<(u64, u64)>,
}

impl PartContents {
    /// Records in the part.
    pub fn rows(&self) -> u64 {
        self.minutes.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// What a collector says of a part at the time it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub account: AccountId,
    /// 0, 1, 2, ... in an account's chain.
    pub number: u64,
    /// The digest of the receipt before; zeros in the first.
    pub previous: Sha256,
    pub issued: Moment,
    pub part: PartContents,
    /// The receipts whose parts were merged into this one, in growing order.
    pub replaces: Vec<u64>,
}

impl Receipt {
    /// The text that is signed: one line for each thing said, so that any language can make it.
    pub fn text(&self) -> String {
        let Self { account, number, previous, issued, part, replaces } = self;
        let mut text = format!("lucarne-receipt 1\naccount {account}\nnumber {number}\nprevious {previous}\n");
        // Writing to a text does not fail.
        let _ = writeln!(text, "issued {}", issued.as_micros());
        let _ = writeln!(text, "part {}\nsize {}\nsha256 {}", part.name, part.size, part.sha256);
        for (minute, count) in &part.minutes {
            let _ = writeln!(text, "minute {minute} {count}");
        }
        for number in replaces {
            let _ = writeln!(text, "replaces {number}");
        }
        text
    }

    /// What the next receipt carries as [`Receipt::previous`].
    pub fn digest(&self) -> Sha256 {
        Digest::of(self.text().as_bytes())
    }
}

/// A receipt and the collector's signature of its [`Receipt::text`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    #[serde(flatten)]
    pub receipt: Receipt,
    pub signature: Signature,
}

impl SignedReceipt {
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, &key.0);
        key.verify(self.receipt.text().as_bytes(), &self.signature.0).is_ok()
    }
}

/// How far a chain has come: enough to tell later that what is shown then goes on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the next receipt.
    pub next: u64,
    /// The digest of the last one; zeros where there is none.
    pub digest: Sha256,
}

impl Head {
    pub const START: Self = Self { next: 0, digest: Hex([0; 32]) };
}

/// `NEXT:DIGEST`, as people keep it.
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.next, self.digest)
    }
}
impl FromStr for Head {
    type Err = ParseHeadError;
    fn from_str(text: &str) -> Result<Self, ParseHeadError> {
        let (next, digest) = text.split_once(':').ok_or(ParseHeadError)?;
        let next = next.parse().map_err(|_| ParseHeadError)?;
        Ok(Self { next, digest: digest.parse().map_err(|_| ParseHeadError)? })
    }
}

/// A text that is not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number, a colon and 64 lower-case hexadecimal digits")]
pub struct ParseHeadError;

/// What is wrong with a chain, or with what it speaks of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    #[error("receipt {number} is of account {account}")]
    Account { number: u64, account: AccountId },
    #[error("receipt {expected} is missing: {found} comes in its place")]
    Gap { expected: u64, found: u64 },
    #[error("receipt {number} does not go on from the one before")]
    Previous { number: u64 },
    #[error("receipt {number} does not go on from the head that was kept")]
    Head { number: u64 },
    #[error("receipt {number} is not signed with the key")]
    Signature { number: u64 },
    #[error("receipt {number} names a part in a way that could be read as something else")]
    Name { number: u64 },
    #[error("receipt {number} replaces {replaced}, which is not there to be replaced")]
    Replaced { number: u64, replaced: u64 },
    #[error("receipt {number} has {found} records of minute {minute} where what it replaces had {expected}")]
    Counts { number: u64, minute: u64, expected: u64, found: u64 },
    #[error("the part {name} of receipt {number} is not there")]
    Missing { number: u64, name: String },
    #[error("the part {name} is not what receipt {number} says")]
    Changed { number: u64, name: String },
    #[error("the part {name} has {found} records of minute {minute} where receipt {number} says {expected}")]
    Miscounted { number: u64, name: String, minute: u64, expected: u64, found: u64 },
}

impl ReceiptError {
    /// The number of the receipt at which it was noticed.
    pub const fn number(&self) -> u64 {
        match self {
            Self::Account { number, .. }
            | Self::Gap { expected: number, .. }
            | Self::Previous { number }
            | Self::Head { number }
            | Self::Signature { number }
            | Self::Name { number }
            | Self::Replaced { number, .. }
            | Self::Counts { number, .. }
            | Self::Missing { number, .. }
            | Self::Changed { number, .. }
            | Self::Miscounted { number, .. } => *number,
        }
    }
}

/// The chain of an account as far as it was followed.
#[derive(Clone, Debug)]
pub struct Chain {
    account: AccountId,
    head: Head,
    /// Parts that are not replaced, by the numbers of their receipts.
    current: BTreeMap<u64, PartContents>,
}

impl Chain {
    pub const fn new(account: AccountId) -> Self {
        Self { account, head: Head::START, current: BTreeMap::new() }
    }

    pub const fn head(&self) -> Head {
        self.head
    }

    /// Parts that are not replaced, with the numbers of their receipts.
    pub fn current(&self) -> impl Iterator<Item = (u64, &PartContents)> {
        self.current.iter().map(|(number, part)| (*number, part))
    }

    /// Records of each minute since 1970 that had any.
    pub fn minutes(&self) -> BTreeMap<u64, u64> {
        sum(self.current.values())
    }

    /// The receipt that would come next.
    pub fn next(&self, part: PartContents, mut replaces: Vec<u64>, issued: Moment) -> Receipt {
        replaces.sort_unstable();
        Receipt { account: self.account, number: self.head.next, previous: self.head.digest, issued, part, replaces }
    }

    /// Goes on by one receipt, whose signature was looked at. After an error the chain is as it was.
    pub fn follow(&mut self, receipt: &Receipt) -> Result<(), ReceiptError> {
        let Receipt { account, number, previous, part, replaces, .. } = receipt;
        let number = *number;
        if *account != self.account {
            return Err(ReceiptError::Account { number, account: *account });
        }
        if number != self.head.next {
            return Err(ReceiptError::Gap { expected: self.head.next, found: number });
        }
        if *previous != self.head.digest {
            return Err(ReceiptError::Previous { number });
        }
        if part.name.is_empty() || part.name.chars().any(char::is_control) {
            return Err(ReceiptError::Name { number });
        }
        self.check_replacement(receipt)?;
        replaces.iter().for_each(|replaced| drop(self.current.remove(replaced)));
        self.current.insert(number, part.clone());
        self.head = Head { next: number.saturating_add(1), digest: receipt.digest() };
        Ok(())
    }

    /// What is replaced is there, once, and had as many records of each minute.
    fn check_replacement(&self, receipt: &Receipt) -> Result<(), ReceiptError> {
        let number = receipt.number;
        if receipt.replaces.is_empty() {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let replaced = receipt.replaces.iter().map(|replaced| {
            let part = self.current.get(replaced).filter(|_| seen.insert(*replaced));
            part.ok_or(ReceiptError::Replaced { number, replaced: *replaced })
        });
        let expected = sum(replaced.collect::<Result<Vec<_>, _>>()?);
        match first_difference(&expected, &sum([&receipt.part])) {
            Some((minute, expected, found)) => Err(ReceiptError::Counts { number, minute, expected, found }),
            None => Ok(()),
        }
    }
}

/// The first minute of which two have not the same number of records, and both numbers.
fn first_difference(expected: &BTreeMap<u64, u64>, found: &BTreeMap<u64, u64>) -> Option<(u64, u64, u64)> {
    let minutes: BTreeSet<u64> = expected.keys().chain(found.keys()).copied().collect();
    let counts = minutes.into_iter().map(|minute| {
        let [expected, found] = [expected, found].map(|counts| counts.get(&minute).copied().unwrap_or(0));
        (minute, expected, found)
    });
    counts.into_iter().find(|(_, expected, found)| expected != found)
}

fn sum<'a>(parts: impl IntoIterator<Item = &'a PartContents>) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for (minute, count) in parts.into_iter().flat_map(|part| &part.minutes) {
        let sum: &mut u64 = counts.entry(*minute).or_default();
        *sum = sum.saturating_add(*count);
    }
    counts
}

/// Follows an account's whole chain.
///
/// `kept` is the head of an earlier look, if there was one: the chain must go on from it.
pub fn follow<'a>(
    account: AccountId,
    key: &PublicKey,
    receipts: impl IntoIterator<Item = &'a SignedReceipt>,
    kept: Option<Head>,
) -> Result<Chain, ReceiptError> {
    let mut chain = Chain::new(account);
    let mut is_kept_met = kept.is_none_or(|head| head == Head::START);
    for signed in receipts {
        let number = signed.receipt.number;
        chain.follow(&signed.receipt)?;
        if !signed.is_signed_by(key) {
            return Err(ReceiptError::Signature { number });
        }
        is_kept_met |= kept == Some(chain.head);
        // Whoever has another history behind the kept head is told where it parts, not only that it does.
        if !is_kept_met && kept.is_some_and(|head| head.next == chain.head.next) {
            return Err(ReceiptError::Head { number });
        }
    }
    match kept {
        Some(head) if !is_kept_met => Err(ReceiptError::Head { number: head.next }),
        _ => Ok(chain),
    }
}

/// Holds size and digest of a part's file, if there is one, against its receipt.
pub fn check_file(number: u64, part: &PartContents, found: Option<(u64, Sha256)>) -> Result<(), ReceiptError> {
    let name = || part.name.clone();
    match found {
        None => Err(ReceiptError::Missing { number, name: name() }),
        Some(found) if found != (part.size, part.sha256) => Err(ReceiptError::Changed { number, name: name() }),
        Some(_) => Ok(()),
    }
}

/// Holds the records that were counted in a part against its receipt, minute by minute.
pub fn check_counts(number: u64, part: &PartContents, found: &PartContents) -> Result<(), ReceiptError> {
    match first_difference(&sum([part]), &sum([found])) {
        Some((minute, expected, found)) => {
            Err(ReceiptError::Miscounted { number, name: part.name.clone(), minute, expected, found })
        }
        None => Ok(()),
    }
}

/// Follows an account's whole chain and holds the parts against it: [`follow`] and [`check_file`].
///
/// `file` gives size and digest of the part of a name, if it is there. The result says how many records of each minute
/// there are, and the head to keep.
pub fn verify<'a>(
    account: AccountId,
    key: &PublicKey,
    receipts: impl IntoIterator<Item = &'a SignedReceipt>,
    kept: Option<Head>,
    mut file: impl FnMut(&str) -> Option<(u64, Sha256)>,
) -> Result<Chain, ReceiptError> {
    let chain = follow(account, key, receipts, kept)?;
    for (number, part) in chain.current() {
        check_file(number, part, file(&part.name))?;
    }
    Ok(chain)
}

#[cfg(test)]
mod tests;
