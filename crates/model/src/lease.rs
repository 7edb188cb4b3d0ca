//! Memory that one host lends to another: who lends, who borrows, how much, and what hosts tell so that it can be decided.
//!
//! Owns the words. Who gets what from whom is decided in the room `memory`; the pages are brought and fetched by the
//! borrower's pagers. What is lent holds copies only: a lender that is gone costs time and never a page.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Bytes, HostId};

/// So much of the lender's memory is for pages of the borrower's VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    pub lender: HostId,
    pub borrower: HostId,
    pub bytes: Bytes,
    /// Rises with every lease that is given: copies that were brought under an older one are not there any more.
    pub epoch: u64,
}

/// A lease, as both of its hosts are told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct DesiredLease {
    #[serde(flatten)]
    pub lease: Lease,
    /// Where the lender takes pages.
    pub address: SocketAddr,
}

/// What a host tells of lending, beside what it has lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lending {
    /// What it would lend in all, with what it has lent already.
    pub lendable: Bytes,
    /// Its VMs' pages on disk, as far as there is no room for them here: what it would borrow.
    pub wanted: Bytes,
    /// Its VMs' pages of which another host has a copy.
    pub borrowed: Bytes,
    /// The port at which it takes pages; none from a host that lends nothing.
    #[serde(default)]
    pub port: Option<u16>,
}
