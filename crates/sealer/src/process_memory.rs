//! The memory of the process that plays a guest's machine, without the guest's own.
//!
//! Owns which of its addresses may be looked at: those that are mapped, and are not what the guest has as its memory. Whoever
//! may look into a hypervisor may not thereby look into a guest.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use crate::{core_file::PAGE, guest_memory, monitor::Monitor, order::Failure};

const DOING: &str = "read the memory of the machine's process";
/// Of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst): in memory, in swap, a file's or shared.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const SHARED: u64 = 1 << 61;

/// It was opened before the process was locked in.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    process: u32,
    file: File,
    /// In their order.
    mapped: Vec<Mapping>,
}

/// A piece of its addresses that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) first: u64,
    pub(crate) behind: u64,
    is_shared: bool,
    /// Where in the file it begins, which file that is, and its name; without a file the name is the kernel's word for it.
    offset: u64,
    file: Option<String>,
    name: String,
    is_guests: bool,
}

impl ProcessMemory {
    pub(crate) fn open(process: u32, writable: bool, monitor: &mut Monitor) -> Result<Self, Failure> {
        Self::open_beside(process, writable, &guest_memory::places(monitor)?)
    }

    /// The same, where it is known what the guest's own memory is.
    pub(crate) fn open_beside(process: u32, writable: bool, guest: &[(u64, u64)]) -> Result<Self, Failure> {
        let opened = File::options().read(true).write(writable).open(format!("/proc/{process}/mem"));
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Failure::impossible("this host does not let its agent look into processes")
            }
            _ => Failure::broken(DOING)(error),
        })?;
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).map_err(Failure::broken(DOING))?;
        Ok(Self { process, file, mapped: mappings(&maps, guest) })
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

    /// The mappings that a dump of it has: not the guest's, and not devices', whose registers change when they are read.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Mapping> {
        self.mapped.iter().filter(|mapping| !mapping.is_guests && !mapping.is_device())
    }

    /// The files that it has mapped: from the first address to behind the last, from which octet of the file on, and its name.
    pub(crate) fn files(&self) -> impl Iterator<Item = (u64, u64, u64, &str)> {
        let of_files = self.own().filter(|mapping| mapping.file.is_some() && mapping.name.starts_with('/'));
        of_files.map(|mapping| (mapping.first, mapping.behind, mapping.offset, mapping.name.as_str()))
    }

    /// What its kernel told it at its start.
    pub(crate) fn auxiliary(&self) -> Result<Vec<u8>, Failure> {
        fs::read(format!("/proc/{}/auxv", self.process)).map_err(Failure::broken(DOING))
    }

    /// Of each page of a mapping, whether the process has it for itself: in memory or in swap, and not as a file has it.
    pub(crate) fn pages(&self, mapping: &Mapping) -> Result<Vec<bool>, Failure> {
        let pages = File::open(format!("/proc/{}/pagemap", self.process)).map_err(Failure::broken(DOING))?;
        let mut entries = vec![0; ((mapping.behind - mapping.first) / PAGE * 8) as usize];
        pages.read_exact_at(&mut entries, mapping.first / PAGE * 8).map_err(Failure::broken(DOING))?;
        let entries = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        Ok(entries.map(|entry| mapping.has(entry)).collect())
    }

    fn check(&self, address: u64, length: u64) -> Result<(), Failure> {
        let end = address.checked_add(length).filter(|end| covers(&self.mapped, address, *end));
        let end = end
            .ok_or_else(|| Failure::Impossible(format!("not all of {length} octets from {address:#x} on is mapped")))?;
        let guests = |mapping: &Mapping| mapping.is_guests && address < mapping.behind && mapping.first < end;
        match self.mapped.iter().any(guests) {
            false => Ok(()),
            true => Err(Failure::impossible("that is the guest's own memory")),
        }
    }
}

impl Mapping {
    /// A line of /proc/PID/maps, of what can be read: `7f1b5c000000-7f1b60000000 rw-s 00000000 00:01 1024 /memfd:... (deleted)`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (first, behind) = words.next()?.split_once('-')?;
        let rights = words.next()?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let offset = words.next().and_then(number)?;
        let (device, inode) = (words.next()?, words.next()?);
        // The name is the rest of the line, with its blanks.
        let name = line.splitn(6, ' ').nth(5).unwrap_or_default().trim_start().to_owned();
        let file = (inode != "0").then(|| format!("{device} {inode}"));
        let (first, behind) = (number(first)?, number(behind)?);
        let is_shared = rights.ends_with('s');
        (rights.starts_with('r') && first < behind).then_some(Self {
            first,
            behind,
            is_shared,
            offset,
            file,
            name,
            is_guests: false,
        })
    }

    /// Not memory, or not memory that is read as such.
    fn is_device(&self) -> bool {
        let is_of_a_device = self.name.starts_with("/dev/")
            && !self.name.starts_with("/dev/shm/")
            && !self.name.starts_with("/dev/zero");
        is_of_a_device || self.name.starts_with("anon_inode:") || self.name.starts_with("[v") && self.name != "[vdso]"
    }

    /// By the entry of one of its pages. The kernel's piece of code is in no file.
    fn has(&self, entry: u64) -> bool {
        let is_memory = entry & SHARED == 0 || self.is_shared && self.name.starts_with("/memfd:");
        self.name == "[vdso]" || entry & (PRESENT | SWAPPED) != 0 && is_memory
    }
}

/// What is mapped, with what is the guest's: where its memory is seen, and what else is of the same file, which it may have
/// written before something else came to lie in front of it.
fn mappings(maps: &str, guest: &[(u64, u64)]) -> Vec<Mapping> {
    let mut mapped: Vec<Mapping> = maps.lines().filter_map(Mapping::parse).collect();
    for mapping in &mut mapped {
        mapping.is_guests = guest.iter().any(|(first, behind)| mapping.first < *behind && *first < mapping.behind);
    }
    let files: Vec<String> = mapped.iter().filter(|it| it.is_guests).filter_map(|it| it.file.clone()).collect();
    for mapping in &mut mapped {
        mapping.is_guests |= mapping.file.as_ref().is_some_and(|file| files.contains(file));
    }
    mapped
}

/// Whether mappings that are in order hold all of it.
fn covers(mapped: &[Mapping], address: u64, end: u64) -> bool {
    let mut next = address;
    for mapping in mapped {
        if (mapping.first..mapping.behind).contains(&next) {
            next = mapping.behind;
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
        let maps = "1000-2000 r-xp 00000000 00:00 0\n2000-3000 rw-p 00000000 00:00 0 [heap]\n3000-4000 ---p 0 0:0 0\n\
                    5000-6000 r--s 0 0:0 0 /x y\nnonsense";
        let mapped = mappings(maps, &[]);
        let found: Vec<_> = mapped.iter().map(|it| (it.first, it.behind, it.name.as_str())).collect();
        assert_eq!(found, [(0x1000, 0x2000, ""), (0x2000, 0x3000, "[heap]"), (0x5000, 0x6000, "/x y")]);
        assert!(covers(&mapped, 0x1fff, 0x2001) && covers(&mapped, 0x1000, 0x3000));
        for (address, end) in [(0xfff, 0x1001), (0x2fff, 0x3001), (0x5fff, 0x6001), (0x8000, 0x8001)] {
            assert!(!covers(&mapped, address, end), "{address:#x}");
        }
    }

    /// A guest's memory is hidden where firmware lies in front of it, and is its own all the same.
    #[test]
    fn all_of_the_file_that_is_a_guests_memory_is_the_guests() {
        let maps = "1000-2000 rw-s 00000000 00:01 77 /memfd:ram (deleted)\n2000-3000 rw-s 00001000 00:01 77 /memfd:ram (deleted)\n\
                    3000-4000 rw-s 00000000 00:01 78 /memfd:other (deleted)\n4000-5000 rw-p 00000000 00:00 0";
        let guests: Vec<bool> = mappings(maps, &[(0x1000, 0x1800)]).iter().map(|mapping| mapping.is_guests).collect();
        assert_eq!(guests, [true, true, false, false]);
    }

    #[test]
    fn a_dump_has_what_the_process_has_for_itself_and_nothing_of_devices() {
        let of = |line: &str| Mapping::parse(line).unwrap();
        let heap = of("2000-3000 rw-p 00000000 00:00 0 [heap]");
        assert!(heap.has(PRESENT) && heap.has(SWAPPED) && !heap.has(0) && !heap.has(PRESENT | SHARED));
        let shared = of("2000-3000 rw-s 00000000 00:01 9 /memfd:undo (deleted)");
        assert!(shared.has(PRESENT | SHARED) && !shared.has(0) && !shared.is_device());
        let file = of("2000-3000 r--s 00000000 08:01 9 /etc/file");
        assert!(!file.has(PRESENT | SHARED) && !file.is_device());
        for device in [
            "/dev/vfio/1",
            "anon_inode:[vfio-device]",
            "anon_inode:kvm-vcpu:0",
            "[vvar]",
            "[vvar_vclock]",
            "[vsyscall]",
        ] {
            assert!(of(&format!("2000-3000 rw-s 00000000 00:01 9 {device}")).is_device(), "{device}");
        }
        assert!(!of("2000-3000 r-xp 00000000 00:00 0 [vdso]").is_device());
    }
}
