//! Room 3: whose pages stay where. Decides; a VM's pager and the host agent act.
//!
//! For one VM: [`residency`] knows which of its pages are in the host's memory and which leave next, by a [`policy`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod bucket;
pub mod dice;
pub mod governor;
pub mod ledger;
pub mod oversubscription;
pub mod policy;
pub mod prefetch;
pub mod price;
pub mod refaults;
pub mod residency;
pub mod run;
pub mod settings;
pub mod usage;
