//! The controller: store, authentication, authorisation, placement and workflows behind the HTTP API.
//!
//! Owns all state that outlives a process, and every decision about whose it is. Machines, packets and flow records are the
//! work of hosts and collector; paths and bodies of the API are `lucarne_api`'s.

mod clock;
mod store;

pub use store::StoreError;
