//! What the store must know of a kind of resource, and whose resources a question may see.
//!
//! Owns [`Resource`] and [`Scope`]. The kinds themselves are in [`super::resources`], workflows and hosts beside their code.

use std::fmt::Display;

use lucarne_model::{AccountId, ErrorCode, ResourceKind, Tags};
use serde::{Serialize, de::DeserializeOwned};

/// A kind of document in the store.
pub(crate) trait Resource: Serialize + DeserializeOwned + Clone + Send + 'static {
    const KIND: ResourceKind;
    /// What is answered for an id that does not exist, or not for the one who asks.
    const NOT_FOUND: ErrorCode;
    type Id: Display + Clone;

    fn id(&self) -> Self::Id;
    fn account(&self) -> AccountId;
    /// Ids of all resources that this one points at: they cannot be deleted while it stands, and are touched when it changes.
    fn references(&self) -> Vec<String> {
        Vec::new()
    }
    fn tags_mut(&mut self) -> Option<&mut Tags>;
    /// Whether every account sees it.
    fn public(&self) -> bool {
        false
    }
    /// What of its account's quota it takes.
    fn uses(&self) -> Vec<(Item, u64)> {
        Vec::new()
    }
}

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    Instances,
    Vcpus,
    Memory,
    Vpcs,
    Volumes,
    VolumeBytes,
    Snapshots,
    Images,
}

impl Item {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Vcpus => "vcpus",
            Self::Memory => "memory",
            Self::Vpcs => "vpcs",
            Self::Volumes => "volumes",
            Self::VolumeBytes => "volume_bytes",
            Self::Snapshots => "snapshots",
            Self::Images => "images",
        }
    }
}

/// Whose resources may be seen. This and [`Scope::condition`] are the one place where tenants are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What the account owns.
    Account(AccountId),
    /// What the account owns, and what is public.
    Visible(AccountId),
    /// All accounts': for operators and for the controller's own work.
    Everything,
}

impl Scope {
    /// A condition over `resource` with [`Scope::parameter`] as `$1`.
    pub(super) const fn condition(self) -> &'static str {
        match self {
            Self::Account(_) => "resource.account = $1",
            Self::Visible(_) => "(resource.account = $1 OR resource.public = 1)",
            Self::Everything => "$1 = ''",
        }
    }
    pub(super) fn parameter(self) -> String {
        match self {
            Self::Account(account) | Self::Visible(account) => account.to_string(),
            Self::Everything => String::new(),
        }
    }
}
