//! Bodies of accounts, users, keys and tokens. Owns their shapes; secrets appear here once and are not kept.

use lucarne_model::{
    AccountId, Moment, Tags, UserId,
    identity::{AccessKey, Account, Quota, Role},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl std::fmt::Debug for CreateToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateToken").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// A bearer token: send it as `Authorization: Bearer TOKEN` until it expires.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    pub token: String,
    pub expires: Moment,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Who the caller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    pub account: AccountId,
    pub user: UserId,
    pub user_name: String,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    pub name: String,
    #[serde(default)]
    pub quota: Option<Quota>,
    #[serde(default)]
    pub tags: Tags,
}

/// A new account with its first user, who is its administrator.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NewAccount {
    pub account: Account,
    pub access_key: NewAccessKey,
}

/// The caller's account and what of its quota is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccountUsage {
    pub account: Account,
    pub used: Usage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    pub instances: u32,
    pub vcpus: u32,
    pub memory: lucarne_model::Bytes,
    pub vpcs: u32,
    pub volumes: u32,
    pub volume_bytes: lucarne_model::Bytes,
    pub snapshots: u32,
    pub images: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    pub name: String,
    pub role: Role,
    #[serde(default)]
    pub tags: Tags,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccessKey {
    /// Whose; the caller's own if not given.
    #[serde(default)]
    pub user: Option<UserId>,
}

/// An access key with its secret, which is shown only this once.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct NewAccessKey {
    pub access_key: AccessKey,
    pub secret_access_key: String,
}

impl std::fmt::Debug for NewAccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewAccessKey").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}
