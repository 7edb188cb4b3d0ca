//! Guest images that are built here, from the packages of a Debian system, and not downloaded ready-made.
//!
//! Owns what goes into an image and how its files are made. Importing them is the work of the commands, keeping them that
//! of the controller.

mod cpio;
mod error;
mod modules;
mod packages;
pub(crate) mod tiny;

pub(crate) use error::ImageError;
