//! Events: what happened to an account's things without anybody asking for it, told to whom it concerns.
//!
//! Owns the vocabulary. When one happens is noticed by the controller; what stands out in flow records is a
//! [`finding`](crate::finding).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccountId, ErrorCode, Moment};

macro_rules! event_kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum EventKind { $($(#[doc = $doc])* #[serde(rename = $text)] $name,)* }

        impl EventKind {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The name in the API and on the command line.
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

event_kinds! {
    /// A host was not heard of for longer than its heartbeats allow: to tenants, the host of their instance.
    HostLost = "host-lost";
    /// A host that was lost is heard of again.
    HostBack = "host-back";
    /// A host has proved its TPM.
    TpmProved = "tpm-proved";
    /// What a host proved of its TPM does not count any more, or could not be proved.
    TpmNotProved = "tpm-not-proved";
    /// What was proved of an instance is not what was asked for, or was not proved.
    AttestationFailed = "attestation-failed";
    /// A scaling group launched or ended instances.
    ScalingGroupChanged = "scaling-group-changed";
    /// A scaling group could not launch what it needs.
    ScalingGroupRefused = "scaling-group-refused";
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When. No two events of an account have the same time: the later one is put a microsecond behind.
    pub at: Moment,
    /// Whom it concerns and who sees it.
    pub account: AccountId,
    pub kind: EventKind,
    /// The id of what it happened to.
    pub resource: String,
    /// The code of what is wrong, where something is.
    pub code: Option<ErrorCode>,
    /// What happened, in a sentence.
    pub message: String,
}
