//! One VM: its processes, its disks, its console. What the host agent may ask of a hypervisor, and two that answer.
//!
//! [`driver`] has the words; [`qemu`] does it with processes, [`simulated`] without any. [`inspect_image`] says what an
//! untrusted disk image is. Which VM should run where, and what is in it, is decided elsewhere.
//!
//! In reading order: `driver`, `qemu` (`command_line`, then `vm`, `adoption`, `disks`), `volumes`, `image`; below them
//! the hands `process` (QEMU), `tool` (qemu-img), `limits` (both), `measuring`, `virtual_tpm`, `paging`, `passage`, `qmp`, `serial`, `ring`,
//! `files`.

pub mod driver;
mod error;
mod files;
mod image;
mod limits;
mod measuring;
mod paging;
mod passage;
mod process;
pub mod qemu;
pub mod qmp;
mod record;
mod ring;
mod serial;
pub mod simulated;
mod tool;
mod virtual_tpm;
mod volumes;

pub use error::Error;
pub use image::{ImageInfo, MAX_VIRTUAL_SIZE, file_below, inspect_image};
pub use measuring::{devices_digest, warm_state_digest};
pub use ring::contents as console_contents;
