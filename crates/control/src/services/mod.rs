//! What each route does: one function of the route's name, in the file of its subject.
//!
//! Owns the behaviour of the cloud as its users meet it. Each function takes a [`Call`](lucarne_api::Call) and works in a
//! transaction of the store; HTTP is left to `lucarne_api`, so that another protocol can stand on the same functions.

pub(crate) mod about;
pub(crate) mod access_keys;
pub(crate) mod accounts;
pub(crate) mod addresses;
pub(crate) mod attachments;
pub(crate) mod attest_policies;
pub(crate) mod attestations;
pub(crate) mod blobs;
pub(crate) mod checks;
pub(crate) mod events;
pub(crate) mod findings;
pub(crate) mod flow_logs;
pub(crate) mod flow_questions;
pub(crate) mod flows;
pub(crate) mod host_removal;
pub(crate) mod hosts;
pub(crate) mod identity;
pub(crate) mod images;
pub(crate) mod instances;
pub(crate) mod interfaces;
pub(crate) mod jobs;
pub(crate) mod judgements;
pub(crate) mod launch;
pub(crate) mod losses;
pub(crate) mod measurements;
pub(crate) mod memory;
pub(crate) mod migration;
pub(crate) mod mitigations;
pub(crate) mod network_acls;
pub(crate) mod notaries;
pub(crate) mod price_books;
pub(crate) mod publishers;
pub(crate) mod receipts;
pub(crate) mod rechecks;
pub(crate) mod recordings;
pub(crate) mod replicas;
pub(crate) mod route_tables;
pub(crate) mod seal_policy;
pub(crate) mod sealing;
pub(crate) mod security_groups;
pub(crate) mod shown;
pub(crate) mod snapshots;
pub(crate) mod streams;
pub(crate) mod subnets;
pub(crate) mod tags;
pub(crate) mod tpm_makers;
pub(crate) mod tpms;
pub(crate) mod triggers;
pub(crate) mod usage;
pub(crate) mod users;
pub(crate) mod volumes;
pub(crate) mod vpcs;
pub(crate) mod why;
