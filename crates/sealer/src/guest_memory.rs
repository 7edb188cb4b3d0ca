//! A guest's memory, read by the machine that has it.
//!
//! Owns the way of the octets: QEMU itself copies them into a pipe of ours. So they are what the guest's processors see,
//! wherever they are kept at the moment, nobody has to look into QEMU's process, and on their way they are in a pipe's
//! buffers, which are never swapped out, and in no file.

use std::{
    io::{self, PipeReader, Read},
    os::fd::AsFd,
};

use lucarne_seal::bounded::AddressSpace;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Gid, Uid, fchown},
    pipe::fcntl_setpipe_size,
};
use serde_json::json;

use crate::{
    memory_map::MemoryMap,
    monitor::Monitor,
    order::Failure,
    page_tables::{NoMemory, Paging},
    processors::{self, Processor},
};

const READING: &str = "read the guest's memory";
const NO_TABLES: &str = "control registers are not among them";
const REGISTERS: &str = "read the registers of the guest's processors";
/// How long QEMU may take for the next octets: it may have to bring them back from a disk or another host.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
const PAGE: u64 = 4096;
/// Of a pipe.
const ROOM: usize = 1 << 20;

/// A pipe into which QEMU writes what it is told to.
#[derive(Debug)]
pub(crate) struct Passage {
    reader: PipeReader,
    /// The set that QEMU has its end in, and the end's number there.
    set: u64,
    number: u64,
}

impl Passage {
    /// Gives QEMU, whose process `process` is, the end of a pipe.
    pub(crate) fn open(monitor: &mut Monitor, process: u32) -> Result<Self, Failure> {
        let doing = "give the machine a pipe";
        let (reader, writer) = std::io::pipe().map_err(Failure::broken(doing))?;
        // What QEMU writes at once has room, or it would wait for us while we wait for its answer. If it is refused, a machine of
        // more than some sixty processors may not be answered in time. And the guest stands still for less of a large read.
        let _ = fcntl_setpipe_size(&writer, ROOM);
        // QEMU opens it anew by its number, as the user that it is.
        let owner = std::fs::metadata(format!("/proc/{process}")).map_err(Failure::broken(doing))?;
        let (user, group) = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        if user != rustix::process::geteuid().as_raw() {
            let given = fchown(&writer, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            given.map_err(|error| Failure::broken(doing)(error.into()))?;
        }
        let set = monitor.ask_with(doing, ("add-fd", json!({ "opaque": "sealed operation" })), writer.as_fd())?;
        let (Some(number), Some(set)) = (set["fd"].as_u64(), set["fdset-id"].as_u64()) else {
            return Err(Failure::Broken { doing, cause: "the machine did not say what it is called there".to_owned() });
        };
        Ok(Self { reader, set, number })
    }

    /// What QEMU calls its end.
    pub(crate) fn name(&self) -> String {
        format!("/proc/self/fd/{}", self.number)
    }

    /// Takes exactly `length` octets, appended to `into`, of what `monitor` was asked for. If that is refused, nothing comes.
    pub(crate) fn take(&mut self, length: u64, monitor: &mut Monitor, into: &mut Vec<u8>) -> Result<(), Failure> {
        let mut left = length;
        while left > 0 {
            let mut waits = [PollFd::new(&self.reader, PollFlags::IN), PollFd::new(monitor.stream(), PollFlags::IN)];
            let ready = poll(&mut waits, Some(&PATIENCE)).map_err(|error| Failure::broken(READING)(error.into()))?;
            let [comes, said] = waits.map(|wait| !wait.revents().is_empty());
            match (ready, comes, said) {
                (0, ..) => {
                    return Err(Failure::Broken { doing: READING, cause: "the machine is too slow".to_owned() });
                }
                (_, false, _) => monitor.hear(READING)?,
                (_, true, _) => left -= self.read_available(left, into).map_err(Failure::broken(READING))?,
            }
        }
        Ok(())
    }

    /// All that QEMU has written, and has said to be done with.
    pub(crate) fn take_rest(&mut self) -> Result<Vec<u8>, Failure> {
        let mut taken = Vec::new();
        loop {
            let mut waits = [PollFd::new(&self.reader, PollFlags::IN)];
            let ready = poll(&mut waits, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            if ready.map_err(|error| Failure::broken(READING)(error.into()))? == 0 {
                return Ok(taken);
            }
            self.read_available(ROOM as u64, &mut taken).map_err(Failure::broken(READING))?;
        }
    }

    /// One read(2) of what is there.
    fn read_available(&mut self, most: u64, into: &mut Vec<u8>) -> io::Result<u64> {
        let mut piece = [0; 64 << 10];
        let most = piece.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        match self.reader.read(&mut piece[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                into.extend_from_slice(&piece[..length]);
                Ok(length as u64)
            }
        }
    }

    /// Takes QEMU's end away.
    pub(crate) fn close(self, monitor: &mut Monitor) -> Result<(), Failure> {
        monitor.ask("take a pipe back", "remove-fd", json!({ "fdset-id": self.set })).map(drop)
    }
}

/// The memory of one guest.
#[derive(Debug)]
pub(crate) struct GuestMemory<'a> {
    monitor: &'a mut Monitor,
    passage: &'a mut Passage,
    map: MemoryMap,
}

impl<'a> GuestMemory<'a> {
    pub(crate) fn of(monitor: &'a mut Monitor, passage: &'a mut Passage) -> Result<Self, Failure> {
        let map = map(monitor)?;
        Ok(Self { monitor, passage, map })
    }

    pub(crate) const fn map(&self) -> &MemoryMap {
        &self.map
    }

    /// The pieces of physical memory that these octets are in.
    pub(crate) fn pieces(
        &mut self,
        space: AddressSpace,
        address: u64,
        length: u64,
    ) -> Result<Vec<(u64, u64)>, Failure> {
        match space {
            AddressSpace::Physical => Ok(vec![(address, length)]),
            AddressSpace::Kernel => {
                let mut found = Err(Failure::Broken { doing: REGISTERS, cause: NO_TABLES.to_owned() });
                for paging in kernels_tables(&registers(self.monitor)?) {
                    // Tables are read a page at a time: neighbours are in the same.
                    let mut last: Option<(u64, Vec<u8>)> = None;
                    let entry = |at| self.entry(at, &mut last);
                    found = paging.map_err(Failure::from).and_then(|paging| paging.pieces(address, length, entry));
                    if !matches!(found, Err(Failure::Impossible(_))) {
                        break;
                    }
                }
                found
            }
        }
    }

    fn entry(&mut self, at: u64, last: &mut Option<(u64, Vec<u8>)>) -> Result<u64, Failure> {
        let page = at & !(PAGE - 1);
        if last.as_ref().is_none_or(|(kept, _)| *kept != page) {
            let mut table = Vec::with_capacity(PAGE as usize);
            self.read(page, PAGE, &mut table)?;
            *last = Some((page, table));
        }
        let table = last.as_ref().map_or(&[][..], |(_, table)| table);
        let octets = table.get((at - page) as usize..).and_then(<[u8]>::first_chunk);
        Ok(octets.map_or(0, |octets| u64::from_le_bytes(*octets)))
    }

    /// Appends `length` octets of physical memory to `into`. Only memory is read: a device's registers would change.
    pub(crate) fn read(&mut self, address: u64, length: u64, into: &mut Vec<u8>) -> Result<(), Failure> {
        if !self.map.covers(address, length) {
            return Err(Failure::Impossible(format!("not all of {length} octets from {address:#x} on is memory")));
        }
        let arguments = json!({ "val": address, "size": length, "filename": self.passage.name() });
        self.monitor.begin(READING, "pmemsave", arguments)?;
        self.passage.take(length, self.monitor, into)?;
        self.monitor.answer(READING).map(drop)
    }
}

/// The tables by which the guest's kernel may see its memory, the likeliest first. A processor in a program may be using
/// tables without the kernel (page-table isolation): of the pair that Linux keeps side by side, the kernel's is the even page.
fn kernels_tables(processors: &[Processor]) -> Vec<Result<Paging, NoMemory>> {
    let tables = |processor: &Processor| {
        let of = |register| processor.number(register);
        let (cr0, cr3, cr4, efer) = (of("cr0")?, of("cr3")?, of("cr4")?, of("efer")?);
        Some((of("cpl") != Some(0), [cr3, cr3 & !PAGE].map(|cr3| (cr0, cr3, cr4, efer))))
    };
    let mut all: Vec<_> = processors.iter().filter_map(tables).collect();
    all.sort_by_key(|(in_program, _)| *in_program);
    let firsts = all.iter().map(|(_, [own, _])| *own);
    let others = all.iter().map(|(_, [_, other])| *other);
    let mut tried = std::collections::BTreeSet::new();
    let each = firsts.chain(others).filter(|tables| tried.insert(*tables));
    each.map(|(cr0, cr3, cr4, efer)| Paging::new(cr0, cr3, cr4, efer)).collect()
}

impl From<NoMemory> for Failure {
    fn from(error: NoMemory) -> Self {
        Self::Impossible(error.to_string())
    }
}

/// Where QEMU's process has the guest's memory, from the first address to behind the last of each piece.
pub(crate) fn places(monitor: &mut Monitor) -> Result<Vec<(u64, u64)>, Failure> {
    let doing = "ask where the machine has its guest's memory";
    let map = map(monitor)?;
    let place = |(first, last): (u64, u64)| {
        // `Host virtual address for 0x1000 (ram) is 0x7f1b5c000000`
        let said = monitor.ask_in_words(doing, &format!("gpa2hva {first:#x}"))?;
        let address = said.trim().rsplit_once(" is 0x").and_then(|(_, digits)| u64::from_str_radix(digits, 16).ok());
        let address = address.ok_or_else(|| Failure::Broken { doing, cause: said.trim().to_owned() })?;
        Ok((address, address.saturating_add(last - first).saturating_add(1)))
    };
    map.writable().map(place).collect()
}

pub(crate) fn map(monitor: &mut Monitor) -> Result<MemoryMap, Failure> {
    let doing = "ask where the guest's memory is";
    let text = monitor.ask_in_words(doing, "info mtree -f")?;
    let strange = || Failure::Broken { doing, cause: "the machine's answer was not understood".to_owned() };
    MemoryMap::parse(&text).ok_or_else(strange)
}

/// The registers of all of a guest's processors.
pub(crate) fn registers(monitor: &mut Monitor) -> Result<Vec<Processor>, Failure> {
    let processors = processors::parse(&monitor.ask_in_words(REGISTERS, "info registers -a")?);
    match processors.is_empty() {
        true => Err(Failure::Broken { doing: REGISTERS, cause: "the machine's answer was not understood".to_owned() }),
        false => Ok(processors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(index: u32, cr3: &str, cpl: &str) -> Processor {
        let registers = [("cr0", "0x80050033"), ("cr3", cr3), ("cr4", "0x6b0"), ("efer", "0xd01"), ("cpl", cpl)];
        let registers = registers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Processor { index, registers, ..Processor::default() }
    }

    /// Attack on the reading: at the moment that was hit, the first processor is in a program that does not map the kernel.
    #[test]
    fn a_processor_in_the_kernel_is_asked_first_and_of_isolated_tables_the_kernels_half_too() {
        let processors = [processor(0, "0x5000", "0x3"), processor(1, "0x8000", "0x0")];
        let tried: Vec<Paging> =
            kernels_tables(&processors).into_iter().map(|paging| paging.expect("paging")).collect();
        let expected = [0x8000, 0x5000, 0x4000].map(|cr3| Paging::new(0x8005_0033, cr3, 0x6b0, 0xd01).expect("paging"));
        assert_eq!(tried, expected);
        assert!(kernels_tables(&[Processor::default()]).is_empty());
    }
}
