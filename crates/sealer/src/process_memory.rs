//! The memory of the process that plays a guest's machine, without the guest's own.
//!
//! Owns which of its addresses may be looked at: those that are mapped, and are not what the guest has as its memory. Whoever
//! may look into a hypervisor may not thereby look into a guest.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use crate::{guest_memory, monitor::Monitor, order::Failure};

const DOING: &str = "read the memory of the machine's process";

/// It was opened before the process was locked in.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    file: File,
    /// Mapped, from the first address to behind the last.
    mapped: Vec<(u64, u64)>,
    guest: Vec<(u64, u64)>,
}

impl ProcessMemory {
    pub(crate) fn open(process: u32, writable: bool, monitor: &mut Monitor) -> Result<Self, Failure> {
        let opened = File::options().read(true).write(writable).open(format!("/proc/{process}/mem"));
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Failure::impossible("this host does not let its agent look into processes")
            }
            _ => Failure::broken(DOING)(error),
        })?;
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).map_err(Failure::broken(DOING))?;
        Ok(Self { file, mapped: maps.lines().filter_map(mapping).collect(), guest: guest_memory::places(monitor)? })
    }

    pub(crate) fn read(&self, address: u64, length: u64) -> Result<Vec<u8>, Failure> {
        self.check(address, length)?;
        let mut octets = vec![0; length as usize];
        self.file.read_exact_at(&mut octets, address).map_err(Failure::broken(DOING))?;
        Ok(octets)
    }

    pub(crate) fn write(&self, address: u64, octets: &[u8]) -> Result<(), Failure> {
        self.check(address, octets.len() as u64)?;
        self.file.write_all_at(octets, address).map_err(Failure::broken("write the memory of the machine's process"))
    }

    fn check(&self, address: u64, length: u64) -> Result<(), Failure> {
        let end = address.checked_add(length).filter(|end| covers(&self.mapped, address, *end));
        let end = end
            .ok_or_else(|| Failure::Impossible(format!("not all of {length} octets from {address:#x} on is mapped")))?;
        match self.guest.iter().any(|(first, behind)| address < *behind && *first < end) {
            false => Ok(()),
            true => Err(Failure::impossible("that is the guest's own memory")),
        }
    }
}

/// A line of /proc/PID/maps that can be read: `7f1b5c000000-7f1b60000000 rw-s 00000000 00:01 1024 /memfd:...`.
fn mapping(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (first, behind) = words.next()?.split_once('-')?;
    let readable = words.next()?.starts_with('r');
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    readable.then_some((number(first)?, number(behind)?))
}

/// Whether ranges that are in order hold all of it.
fn covers(ranges: &[(u64, u64)], address: u64, end: u64) -> bool {
    let mut next = address;
    for (first, behind) in ranges {
        if (*first..*behind).contains(&next) {
            next = *behind;
        }
        if next >= end {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_what_cannot_be_read_are_not_covered() {
        let maps = "1000-2000 r-xp 00000000 00:00 0\n2000-3000 rw-p 00000000 00:00 0 [heap]\n3000-4000 ---p 0 0 0\n\
                    5000-6000 r--s 0 0 0 /x y\nnonsense";
        let mapped: Vec<_> = maps.lines().filter_map(mapping).collect();
        assert_eq!(mapped, [(0x1000, 0x2000), (0x2000, 0x3000), (0x5000, 0x6000)]);
        assert!(covers(&mapped, 0x1fff, 0x2001) && covers(&mapped, 0x1000, 0x3000));
        for (address, end) in [(0xfff, 0x1001), (0x2fff, 0x3001), (0x5fff, 0x6001), (0x8000, 0x8001)] {
            assert!(!covers(&mapped, address, end), "{address:#x}");
        }
    }
}
