//! How a hypervisor's process is told to lend its guest's memory to a pager.
//!
//! Owns the environment variable by which the driver that starts the process speaks to the library that is preloaded into
//! it. The library is the pager's; starting the process is the driver's.

use std::{fmt, path::Path};

use crate::Bytes;

/// The variable's name.
pub const VARIABLE: &str = "LUCARNE_PAGING";
/// The kernel's door to page faults, those of kernel code too; whoever opens it needs to be allowed to, and nothing else.
pub const DEVICE: &str = "/dev/userfaultfd";
/// Bytes of the key under which a VM's pages are sealed.
pub const KEY: usize = 32;
const VERSION: u32 = 1;

/// The key of one VM's pages. It is in memory only, here and in the VM's process: to forget it is to erase the pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageKey(pub [u8; KEY]);

impl fmt::Debug for PageKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageKey")
    }
}

/// What the variable says; shown, it is its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingVariable<'a> {
    /// Numbers that inherited descriptors have in the process: of [`DEVICE`], and of a sealed memfd with the key.
    pub device: i32,
    pub key: i32,
    /// All of the guest's: the mapping of a memfd of this size is the guest's memory.
    pub memory: Bytes,
    /// Who may connect, beside root.
    pub peer: u32,
    /// Tell of every page that appears without the pager. It makes looks at access bits dear, because a page that a look
    /// unmaps is told of too; so it is for machines whose memory others map as well.
    pub tripwire: bool,
    /// Where the library listens.
    pub socket: &'a Path,
}

impl fmt::Display for PagingVariable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, key, memory, peer, tripwire, socket } = self;
        write!(f, "{VERSION} {device} {key} {} {peer} {} {}", memory.0, u8::from(*tripwire), socket.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_as_the_library_reads_it() {
        let socket = Path::new("/state/a machine/paging.sock");
        let variable = PagingVariable { device: 7, key: 8, memory: Bytes::mib(1), peer: 0, tripwire: true, socket };
        assert_eq!(variable.to_string(), "1 7 8 1048576 0 1 /state/a machine/paging.sock");
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", PageKey([7; KEY])), "PageKey");
    }
}
