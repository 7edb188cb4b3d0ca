//! The process in which a sealed operation is carried out and its result encrypted: what it reads leaves it as an age file.
//!
//! Here the room of seals meets guests' memory and hosts' kernels. Whether a request is carried out is judged before, by the
//! agent, which starts one such process an operation, gives it an [`Order`], and gets ciphertext and [`Done`] from it.

mod order;

pub use order::{Done, Failure, Machine, Order};
