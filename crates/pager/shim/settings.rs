//! What the shim is told by whoever started QEMU: one environment variable.
//!
//! Owns its name and format: `VERSION DEVICE KEY MEMORY UID MINOR SOCKET`, apart by spaces. DEVICE and KEY are inherited
//! descriptors of /dev/userfaultfd and of the sealed memfd with the key of the pages; MEMORY is the guest's in bytes; UID,
//! beside root, may connect; MINOR (0 or 1) also registers the tripwire; SOCKET is the path to listen at, to the end.

use core::ffi::{CStr, c_int};

use crate::kernel;

const NAME: &CStr = c"LUCARNE_PAGING";
const VERSION: &str = "1";

pub(crate) struct Settings {
    pub(crate) device: c_int,
    pub(crate) key: c_int,
    pub(crate) memory: u64,
    pub(crate) peer: u32,
    pub(crate) minor: bool,
    pub(crate) socket: &'static str,
}

/// None: this process is not to be paged.
pub(crate) fn read() -> Option<Settings> {
    let text = kernel::environment(NAME)?;
    match parse(text) {
        Some(settings) => Some(settings),
        None => kernel::end("LUCARNE_PAGING cannot be understood", 0),
    }
}

fn parse(text: &'static str) -> Option<Settings> {
    let mut parts = text.splitn(7, ' ');
    if parts.next()? != VERSION {
        return None;
    }
    let [device, key] = [parts.next()?.parse().ok()?, parts.next()?.parse().ok()?];
    let memory = parts.next()?.parse().ok()?;
    let peer = parts.next()?.parse().ok()?;
    let minor = parts.next()? == "1";
    Some(Settings { device, key, memory, peer, minor, socket: parts.next()? })
}
