//! Room 4: what of a running network is duplicated, and in which order. Decides; `control` makes the records, hosts the copies.
//!
//! Read it in this order; `docs/book/replicas.md` tells the same for users:
//! - [`kinds`], how each kind of resource is replicated; [`network`], the objects of one network;
//! - [`selection`], which of them the filters leave; [`breakage`], what the duplicate lacks by that; [`wishes`], how each is copied
//!   and how much alike it is to be; [`fidelity`], what that demands of a host;
//! - [`address_map`], whose addresses are others in the duplicate;
//! - [`order`], what must be there before what; [`estimate`], what it costs; [`plan`](mod@plan), all of this as one answer;
//! - [`difference`], what has come apart since, and [`flow_difference`], what is said on the network that was not;
//! - [`trigger`], when a network is duplicated without anybody asking;
//! - [`replay`], recorded traffic played into a duplicate, and what its answers are worth; [`changes`], what was changed of the
//!   network meanwhile, asked of the duplicate; [`load`], requests that are made up; [`clients`], what both are to whoever carries
//!   their frames.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod address_map;
pub mod breakage;
pub mod changes;
pub mod clients;
pub mod difference;
pub mod estimate;
pub mod fidelity;
pub mod flow_difference;
pub mod kinds;
pub mod load;
pub mod network;
pub mod order;
pub mod plan;
pub mod replay;
pub mod selection;
#[cfg(test)]
mod test_networks;
#[cfg(test)]
mod tests;
pub mod trigger;
pub mod wishes;

pub use address_map::{AddressMap, MapError};
pub use network::Network;
pub use plan::{HostTold, Surroundings, plan};
