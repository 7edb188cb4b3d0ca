//! Launch, terminate, migrate and replicate as durable workflows (sagas): steps in order, undone in reverse when one fails, resumed after a kill.
//!
//! Owns the jobs. [`steps`] decides, [`effects`] changes the records, [`engine`] keeps at it; for replicas it is [`replication`]
//! that decides, and [`replication_effects`] that changes.

mod attested;
#[cfg(test)]
mod attested_tests;
pub(crate) mod effects;
pub(crate) mod engine;
#[cfg(test)]
mod migration_tests;
pub(crate) mod replication;
pub(crate) mod replication_effects;
#[cfg(test)]
mod replication_tests;
pub(crate) mod steps;
#[cfg(test)]
pub(crate) mod tests;
