//! The host agent: desired state in, actual state out.
//!
//! [`reconcile`] decides, pure; [`Agent`] is the owner that selects, decides and begins steps; around it stand the hands.
//! An agent may be killed at any point: VMs run on, and the next one adopts them. In reading order: `reconcile`, `agent`,
//! `perform`, `virtual_tpms`, `links`, `figures`, `challenges`, `peers`, `identity`, `measuring`, `spool`, `exporter`, `sealing`, `run`.

mod agent;
mod backoff;
mod blobs;
mod capacity;
mod certificate;
mod challenges;
mod controller;
mod durable;
mod error;
mod exporter;
mod figures;
mod folder;
mod http;
mod identity;
mod layers;
mod layout;
mod links;
mod measuring;
mod memory;
mod network;
mod peers;
mod perform;
mod prover;
pub mod reconcile;
mod recordings;
mod replays;
mod run;
mod sealing;
mod settings;
mod simulated_network;
mod spool;
mod streams;
mod switch_network;
mod virtual_tpms;

pub use agent::{Agent, Parts};
pub use controller::{Controller, StreamEnd};
pub use error::{Error, IdentityError};
pub use folder::Folder;
pub use http::HttpController;
pub use layout::Layout;
pub use memory::Memory;
pub use network::{Network, NetworkError, NoNetwork};
pub use peers::Peers;
pub use prover::{Prover, ProverError};
pub use run::run;
pub use sealing::LocalOffice;
pub use settings::{AtEnd, DriverKind, Pace, SealRecipient, Settings, TpmChoice};
