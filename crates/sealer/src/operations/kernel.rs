//! `host.kernel.read`: a piece of the memory of the host's kernel.
//!
//! Owns the reading of /proc/kallsyms and /proc/kcore, and the refusals where a kernel does not give them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use lucarne_seal::operation::HostKernelRead;

use crate::{confinement::Needs, order::Failure};

const SYMBOLS: &str = "/proc/kallsyms";
const MEMORY: &str = "/proc/kcore";
const DOING: &str = "read the memory of the host's kernel";
/// Headers of segments that are looked at; a large host has some hundreds.
const MOST_SEGMENTS: usize = 4096;
const LOAD: u32 = 1;

pub(super) fn needs() -> Needs {
    Needs { reads: vec!["/proc".into()], ..Needs::default() }
}

pub(super) fn read(read: &HostKernelRead) -> Result<Vec<u8>, Failure> {
    let symbols = fs::read_to_string(SYMBOLS).map_err(Failure::broken(DOING))?;
    let address = match address(&symbols, read.symbol.as_str()) {
        Some(0) => return Err(Failure::impossible("this kernel does not say where its symbols are")),
        Some(address) => address.wrapping_add(read.offset.get()),
        None => return Err(Failure::impossible("this kernel has no such symbol")),
    };
    let core = File::open(MEMORY).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::impossible("this kernel gives its memory to nobody: it has no /proc/kcore"),
        io::ErrorKind::PermissionDenied => Failure::impossible("this kernel is locked down, or the agent is not root"),
        _ => Failure::broken(DOING)(error),
    })?;
    let mut headers = vec![0; 64 + 56 * MOST_SEGMENTS];
    let length = core.read_at(&mut headers, 0).map_err(Failure::broken(DOING))?;
    let place = place(&headers[..length], address, read.length.get());
    let place = place.ok_or_else(|| Failure::impossible("not all of that is memory of the kernel"))?;
    let mut octets = vec![0; read.length.get() as usize];
    core.read_exact_at(&mut octets, place).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::impossible("this kernel is locked down"),
        _ => Failure::broken(DOING)(error),
    })?;
    Ok(octets)
}

/// The first symbol of that name; lines such as `ffffffff81000000 T _stext`.
fn address(symbols: &str, name: &str) -> Option<u64> {
    let mut lines = symbols.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut words| {
        let (address, _, symbol) = (words.next()?, words.next()?, words.next()?);
        if symbol == name { u64::from_str_radix(address, 16).ok() } else { None }
    })
}

/// Where in the file `length` octets from `address` on are: in one segment of it (an ELF core of 64 bits).
fn place(core: &[u8], address: u64, length: u64) -> Option<u64> {
    let half = |at: usize| Some(u16::from_le_bytes(*core.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_le_bytes(*core.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_le_bytes(*core.get(at..)?.first_chunk()?));
    if core.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (first, size, count) = (usize::try_from(long(32)?).ok()?, usize::from(half(54)?), usize::from(half(56)?));
    (0..count.min(MOST_SEGMENTS)).find_map(|segment| {
        let at = first.checked_add(segment.checked_mul(size)?)?;
        let (kind, offset) = (word(at)?, long(at.checked_add(8)?)?);
        let (begins, stored) = (long(at.checked_add(16)?)?, long(at.checked_add(32)?)?);
        let within =
            address.checked_sub(begins).filter(|within| within.checked_add(length).is_some_and(|end| end <= stored))?;
        (kind == LOAD).then(|| offset.checked_add(within))?
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two segments: of notes, and of memory at `KERNEL`, which is stored at 0x3000.
    fn core() -> Vec<u8> {
        let mut core = vec![0; 64 + 2 * 56];
        core[..6].copy_from_slice(b"\x7fELF\x02\x01");
        core[32] = 64;
        core[54] = 56;
        core[56] = 2;
        core[64] = 4;
        let at = 64 + 56;
        core[at] = 1;
        core[at + 8..][..8].copy_from_slice(&0x3000u64.to_le_bytes());
        core[at + 16..][..8].copy_from_slice(&KERNEL.to_le_bytes());
        core[at + 32..][..8].copy_from_slice(&0x1000u64.to_le_bytes());
        core
    }
    const KERNEL: u64 = 0xffff_ffff_8100_0000;

    #[test]
    fn a_symbol_is_found_and_memory_beyond_a_segment_is_not() {
        let symbols = "ffffffff81000000 T _stext\nffffffffc0000000 t twice\t[module]\nffffffffc0000010 t twice\n";
        assert_eq!(address(symbols, "_stext"), Some(KERNEL));
        assert_eq!(address(symbols, "twice"), Some(0xffff_ffff_c000_0000));
        assert_eq!(address(symbols, "stext"), None);
        assert_eq!(place(&core(), KERNEL + 0xff0, 16), Some(0x3ff0));
        assert_eq!(place(&core(), KERNEL + 0xff1, 16), None);
        assert_eq!(place(&core(), KERNEL - 1, 16), None);
        assert_eq!(place(b"\x7fELF\x01\x01", KERNEL, 1), None);
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(changes in prop::collection::vec((0usize..176, any::<u8>()), 0..12),
                                          cut in 0usize..177, address: u64, length in 1u64..65536) {
            let mut core = core();
            changes.into_iter().for_each(|(at, octet)| core[at] = octet);
            place(&core[..cut], address, length);
        }
    }
}
