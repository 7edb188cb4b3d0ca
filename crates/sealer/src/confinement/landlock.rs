//! Landlock: from here on no file but these.
//!
//! Owns the three calls of the kernel and their structures (linux/landlock.h), which neither rustix nor libc has.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    ptr,
};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::Needs;

const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_REG: u64 = 1 << 8;
/// All rights over files, by version of the interface: what a version does not know cannot be forbidden.
const HANDLED: [u64; 5] = [(1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1];
/// Since version 4: to bind and connect TCP sockets.
const NETWORK: u64 = 0b11;
/// Since version 6: abstract unix sockets.
const SCOPED: u64 = 0b1;

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Whether this kernel has it.
pub(super) fn restrict(needs: &Needs) -> io::Result<bool> {
    let Some(version) = version() else { return Ok(false) };
    let files = HANDLED[(version - 1).min(HANDLED.len() - 1)];
    let network = if version >= 4 { NETWORK } else { 0 };
    let scoped = if version >= 6 { SCOPED } else { 0 };
    // Older versions know a shorter structure, and take a longer one if the rest is zero.
    let ruleset = create(&Ruleset { files, network, scoped })?;
    for tree in &needs.reads {
        allow(&ruleset, tree, READ_FILE | READ_DIR)?;
    }
    if let Some(folder) = &needs.marks {
        allow(&ruleset, folder, READ_FILE | WRITE_FILE | REMOVE_FILE | MAKE_REG)?;
    }
    // SAFETY: a number and flags; restricts this thread, and is refused before `no_new_privs` is set.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) })?;
    Ok(true)
}

fn version() -> Option<usize> {
    const ASK_VERSION: u32 = 1;
    // SAFETY: with that flag the kernel takes no structure.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<Ruleset>(), 0usize, ASK_VERSION) };
    usize::try_from(version).ok().filter(|version| *version > 0)
}

fn create(ruleset: &Ruleset) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many octets as the structure has.
    let descriptor = checked(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(ruleset), size_of::<Ruleset>(), 0u32)
    })?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

fn allow(ruleset: &OwnedFd, tree: &Path, allowed: u64) -> io::Result<()> {
    const PATH_BENEATH: i32 = 1;
    let tree = open(tree, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let is_folder = FileType::from_raw_mode(fstat(&tree)?.st_mode) == FileType::Directory;
    // Of a file there are no rights over what is in it.
    let allowed = if is_folder { allowed } else { allowed & (READ_FILE | WRITE_FILE) };
    let rule = PathBeneath { allowed, parent: tree.as_fd().as_raw_fd() };
    // SAFETY: the kernel reads the structure, which is the one that belongs to the kind of rule.
    checked(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, ptr::from_ref(&rule), 0u32)
    })?;
    Ok(())
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
