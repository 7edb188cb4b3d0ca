//! Receipts of kept flow records as they are asked for and shown. What a chain of them means, and how it is checked, is stated
//! in the room `flows`; digests, keys and signatures are lower-case hexadecimal digits here.

use lucarne_model::{AccountId, Moment};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which part of the account's chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptsQuery {
    /// The number of the first receipt that is wanted; 0 if not given.
    pub from: Option<u64>,
}

/// A stretch of an account's chain of receipts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipts {
    /// The Ed25519 public key with which all receipts are signed.
    pub key: String,
    pub receipts: Vec<Receipt>,
    /// The number to go on from; none when these were the last.
    pub next: Option<u64>,
}

/// What the collector says of a part at the time it was written, and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    pub account: AccountId,
    /// 0, 1, 2, ... in an account's chain.
    pub number: u64,
    /// The SHA-256 digest of the receipt before; zeros in the first.
    pub previous: String,
    pub issued: Moment,
    pub part: ReceiptedPart,
    /// The receipts whose parts were merged into this one.
    pub replaces: Vec<u64>,
    /// Of the receipt's text.
    pub signature: String,
}

/// A file of records and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReceiptedPart {
    pub name: String,
    /// Octets of the file.
    pub size: u64,
    /// Of the file.
    pub sha256: String,
    /// Pairs of a minute since 1970 and how many records ended in it.
    #[schemars(with = "Vec<Vec<u64>>")]
    pub minutes: Vec<(u64, u64)>,
}

/// Which file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartQuery {
    /// As its receipt says it.
    pub name: String,
}
