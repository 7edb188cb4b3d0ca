//! Descriptors that the runtime watches, and what a process is born with: where tokio and std ask for `unsafe`.
#![allow(unsafe_code)]

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::setsid,
};

use tokio::io::{Interest, unix::AsyncFd};

/// Lets the runtime tell when `descriptor` can be read; of a pidfd that is when its process has ended.
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, gives the same number at every call and is closed only when it is dropped; the
    // `AsyncFd` owns it and lends it only as `&OwnedFd`, from which it cannot be taken.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}

/// Lets `command`'s process, and no other that is started meanwhile, have these under the numbers that they have here.
pub(crate) fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let keep = move || Ok(descriptors.iter().try_for_each(|descriptor| fcntl_setfd(descriptor, FdFlags::empty()))?);
    // SAFETY: between fork and exec it makes one call of the kernel for each and nothing else: no memory, no locks.
    unsafe { command.pre_exec(keep) };
}

/// Lets `command`'s process be the first of a session, and so of a process group too.
pub(super) fn lead_a_session(command: &mut Command) {
    // SAFETY: between fork and exec it makes one call of the kernel and nothing else: no memory, no locks.
    unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
}
