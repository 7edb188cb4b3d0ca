//! The process in which a sealed operation is carried out and its result encrypted: what it reads leaves it as an age file.
//!
//! Here the room of seals meets guests' memory and hosts' kernels. Whether a request is carried out is judged before, by the
//! agent, which gives an [`Order`] to [`carry_out`]. That starts [`serve_one`] as a process of its own, which locks itself
//! in ([`confinement`]), does what it was told ([`operations`]), and answers with [`Done`] or [`Failure`].
//!
//! In reading order: `order`, `client`, `process`, `confinement`, `content`, `operations`; below them what these reach with:
//! `monitor`, `standstill`, `memory_map`, `guest_memory`, `page_tables`, `processors`, `core_file`, `core_notes`.

mod client;
mod confinement;
mod content;
mod core_file;
mod core_notes;
mod debugger;
mod guest_memory;
mod memory_map;
mod monitor;
mod operations;
mod order;
pub mod page_tables;
mod process;
mod process_memory;
mod processors;
mod standstill;
mod threads;
mod undo;

pub use client::{Program, carry_out, carry_out_by, recover, recover_by};
pub use order::{Done, Failure, Machine, Order};
pub use process::serve_one;
