//! Who publishes what hosts should run: notaries that a controller asks, and publishers that an account trusts.
//!
//! Owns their shapes. Operators say where notaries answer, so that no tenant can have the controller ask anything else;
//! tenants say whose key they trust, so that no operator can put another in its place. What a manifest is, and whether it
//! holds, is the room `attest`'s.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, Moment, NotaryId, PublisherId, Tags, storage::Digest};

/// The series of manifests that hosts are held against where none is named.
pub const SERIES: &str = "host";

/// A notary that the controller may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notary {
    pub id: NotaryId,
    /// Always the operator's; every account sees it.
    pub account: AccountId,
    pub name: String,
    /// Where it answers.
    pub url: String,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// A publisher whose manifests an account trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Publisher {
    pub id: PublisherId,
    pub account: AccountId,
    /// What the account calls it, in `--attest manifest=NAME`.
    pub name: String,
    /// Where it publishes.
    pub notary: NotaryId,
    /// Its public key in PEM, as the account was given it.
    pub key: String,
    /// The series that hosts are held against.
    pub series: String,
    /// The newest head of its log that was shown to this account; a log that does not go on from there is refused.
    #[serde(default)]
    pub seen: Option<SeenHead>,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// A head of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SeenHead {
    pub size: u64,
    pub root: Digest,
    /// When it was signed.
    pub time: Moment,
}

/// One manifest, by who published it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManifestVersion {
    /// As the account calls it.
    pub publisher: String,
    pub series: String,
    pub version: u64,
}
