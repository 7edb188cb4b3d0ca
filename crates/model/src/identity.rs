//! Who asks: accounts, users, roles and access keys.
//!
//! Owns their shapes. Secrets are never in them: a secret is shown once, when its key is made. Whether someone may do
//! something is decided by the policies in `control`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, Bytes, Moment, Tags, UserId};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub quota: Quota,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// The most that an account may have at one time, and how fast it may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quota {
    pub instances: u32,
    pub vcpus: u32,
    pub memory: Bytes,
    pub vpcs: u32,
    pub volumes: u32,
    pub volume_bytes: Bytes,
    pub snapshots: u32,
    pub images: u32,
    /// Requests a second in the long run.
    pub requests_per_second: u32,
    /// Requests that may come at once.
    pub request_burst: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            instances: 100,
            vcpus: 200,
            memory: Bytes::gib(256),
            vpcs: 20,
            volumes: 200,
            volume_bytes: Bytes::gib(4096),
            snapshots: 200,
            images: 50,
            requests_per_second: 100,
            request_burst: 400,
        }
    }
}

/// What a user of an account may do; the policies say what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything in the account.
    Admin,
    /// Instances, volumes and snapshots, but not users, keys or networks.
    Operator,
    /// Reads only.
    Reader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Reader => "reader",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    pub id: UserId,
    pub account: AccountId,
    pub name: String,
    pub role: Role,
    pub created: Moment,
    #[serde(default)]
    pub tags: Tags,
}

/// A pair of key id and secret with which a user's programs get tokens. The secret is not kept, only its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessKey {
    /// `LK` and 18 upper-case letters and digits.
    pub id: String,
    pub account: AccountId,
    pub user: UserId,
    pub created: Moment,
}
