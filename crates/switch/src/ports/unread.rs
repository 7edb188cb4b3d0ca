//! How much of what was sent through a socket its receiver has not read: the second place of this crate that needs `unsafe`.
//!
//! Owns the question to the kernel. A unix datagram is charged to its sender from when it is sent until it is read
//! (`skb_set_owner_w` in net/unix/af_unix.c, and `sock_wfree`), so the answer is exact.
#![allow(unsafe_code)]

use std::{ffi::c_int, io, os::fd::BorrowedFd};

use rustix::ioctl::{Getter, Opcode, ioctl};

/// SIOCOUTQ of <linux/sockios.h>.
const SIOCOUTQ: Opcode = 0x5411;

/// Octets, with what the kernel needs around them; 0: all has been read.
pub(super) fn octets(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: of a unix socket SIOCOUTQ is "octets not yet read", and writes one `int` (unix_ioctl in net/unix/af_unix.c).
    Ok(unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) }?)
}
