//! A descriptor that the runtime watches: the one place of this crate where tokio asks for `unsafe`.
#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Lets the runtime tell when `descriptor` can be read; of a pidfd that is when its process has ended.
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, gives the same number at every call and is closed only when it is dropped; the
    // `AsyncFd` owns it and lends it only as `&OwnedFd`, from which it cannot be taken.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}
