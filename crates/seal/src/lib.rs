//! Room 5: privileged work on hosts and guests, asked for by signed requests, its results encrypted before they leave.
//!
//! Three parties need not trust each other's hands: an authoriser signs, a carrier submits and collects, a reader opens.
//! Decides and encodes; carrying operations out, disks, clocks and random octets are the host's. Read it in this order;
//! `docs/book/seals.md` tells the same for those who sign, read and operate:
//! - what can be asked: the table of [`mod@operation`]s, with arguments that are [`bounded`]; one [`request`], which may be a [`sealed_request`], or [`standing`] for many, also for whenever [`health`] is not what it should be;
//! - who signed it: a [`key`] of one algorithm, [`sshsig`] among them, of people in [`trust`];
//! - whether it is carried out: [`judge`], by [`grant`]s, and once only by the [`ledger`]; if not, a [`refusal`];
//! - what a host goes by, from its operator: a [`policy`]; what it says of itself: its [`card`];
//! - what comes of it: an [`age`] file, lengthened by [`padding`], with the host's [`receipt`]; all of it in the [`log`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod age;
pub mod bounded;
pub mod card;
#[cfg(test)]
mod example;
pub mod grant;
pub mod health;
pub mod judge;
pub mod key;
pub mod ledger;
pub mod log;
pub mod operation;
pub mod padding;
pub mod policy;
pub mod receipt;
pub mod refusal;
pub mod request;
pub mod sealed_request;
pub mod sshsig;
pub mod standing;
pub mod trust;
