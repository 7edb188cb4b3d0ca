//! Room 3: whose pages stay where. Decides; a VM's pager and the host agent act, and `control` promises and charges.
//!
//! Read it in this order; `docs/book/memory.md` tells the same for operators:
//! - of one VM's pages: [`run`], their shape; [`residency`], which are here and which leave next, by a [`policy`];
//!   [`looks`], when access bits are worth a look; [`refaults`], how far away those were that came back;
//! - of one VM among others: [`settings`], what an owner may ask for; [`bucket`], what it must give back; [`governor`], what
//!   each VM of a host may hold, run with and give up;
//! - of the cloud: [`oversubscription`], what may be promised on a host; [`lending`], whose idle memory keeps whose pages;
//!   [`moves`], who goes to another host for want of memory; [`usage`], what was had; [`ledger`], how that is kept; [`price`], what it costs.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod bucket;
pub mod dice;
pub mod governor;
pub mod ledger;
pub mod lending;
pub mod looks;
pub mod moves;
pub mod oversubscription;
pub mod policy;
pub mod price;
pub mod refaults;
pub mod residency;
pub mod run;
pub mod settings;
pub mod usage;
