//! Which hosts the collector lets in, as the controller tells it.
//!
//! Owns the shape. Who signs a host's certificate and when a host is removed is the controller's; what that means to a
//! connection is the collector's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::HostId;

/// Hosts with a certificate of `authority` are let in, but for those that are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTrust {
    /// The host CA's certificate, in PEM.
    pub authority: String,
    /// Hosts that are no more, though their certificates may still hold. Whoever is told adds them to what it was told
    /// before: a host's id is never given twice, so that nothing has to be taken back, and nothing can come too late.
    pub removed: BTreeSet<HostId>,
}
