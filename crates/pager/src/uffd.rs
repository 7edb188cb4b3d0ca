//! Faults of another process's memory, taken and answered: userfaultfd(2) with what this house needs of it.
//!
//! Owns the layouts and requests of the kernel, and how each of its refusals is met. It is our own and not the crate
//! `userfaultfd`, which has no write-protection of shared memory and no poison. Addresses are those of the process that
//! registered the memory; what is done when is the pager's.
#![allow(unsafe_code)]

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    ioctl::{self, Updater, opcode},
};

use crate::page::PAGE;

#[repr(C)]
struct Range {
    start: u64,
    length: u64,
}
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}
/// Of UFFDIO_ZEROPAGE, UFFDIO_CONTINUE and UFFDIO_POISON alike.
#[repr(C)]
struct Fill {
    range: Range,
    mode: u64,
    filled: i64,
}
#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}
/// `struct uffd_msg` of a page fault.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}
const _: () = assert!(size_of::<Range>() == 16 && size_of::<Copy>() == 40 && size_of::<Fill>() == 32);
const _: () = assert!(size_of::<WriteProtect>() == 24 && size_of::<Message>() == 32);

const WAKE: ioctl::Opcode = opcode::read::<Range>(0xAA, 0x02);
const COPY: ioctl::Opcode = opcode::read_write::<Copy>(0xAA, 0x03);
const ZERO: ioctl::Opcode = opcode::read_write::<Fill>(0xAA, 0x04);
const WRITE_PROTECT: ioctl::Opcode = opcode::read_write::<WriteProtect>(0xAA, 0x06);
const CONTINUE: ioctl::Opcode = opcode::read_write::<Fill>(0xAA, 0x07);

const EVENT_FAULT: u8 = 0x12;
const FLAG_WRITE: u64 = 1;
const FLAG_WP: u64 = 1 << 1;
const FLAG_MINOR: u64 = 1 << 2;
const PROTECT: u64 = 1;
const COPY_PROTECTED: u64 = 1 << 1;

/// Why a thread of the guest waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// There is no page.
    Missing,
    /// It wrote to a page that is write-protected.
    Protected,
    /// There is a page which is not mapped, and the tripwire is set.
    Minor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) address: u64,
    /// Whether it waits to write.
    pub(crate) writes: bool,
}

/// The process whose memory it was has ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UffdError {
    #[error("the machine has ended")]
    Gone,
    #[error("the kernel refused to {doing}: {errno}")]
    Refused { doing: &'static str, errno: Errno },
}

#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl From<OwnedFd> for Uffd {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One thread's way to wait for faults. Of all that wait the kernel wakes one for each fault; with `poll` it would wake all
/// of them, and the others would take processors away from the one that has something to do.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Uffd {
    pub(crate) fn listen(&self) -> Result<Listener, UffdError> {
        let refused = |errno| UffdError::Refused { doing: "let a thread wait for faults", errno };
        let listener = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(refused)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&listener, &self.0, epoll::EventData::new_u64(0), events).map_err(refused)?;
        Ok(Listener(listener))
    }

    /// The next fault; none when there is none within `patience`. One at a time: what this thread took with it would wait
    /// for it, although another thread has time.
    pub(crate) fn fault(&self, listener: &Listener, patience: Duration) -> Result<Option<Fault>, UffdError> {
        if let Some(fault) = self.take()? {
            return Ok(Some(fault));
        }
        let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        let mut events = [MaybeUninit::uninit(); 1];
        match epoll::wait(&listener.0, &mut events, Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => self.take(),
            Err(errno) => Err(UffdError::Refused { doing: "tell faults", errno }),
        }
    }

    fn take(&self) -> Result<Option<Fault>, UffdError> {
        let mut room = [0_u8; size_of::<Message>()];
        match rustix::io::read(&self.0, &mut room) {
            Ok(length) => Ok(read_message(&room[..length])),
            // Another thread was quicker, or the waiter has gone again.
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(UffdError::Refused { doing: "tell faults", errno }),
        }
    }

    /// Puts pages where there are none, and wakes who waited for them. A page that is there already stays as it is.
    pub(crate) fn copy(&self, address: u64, content: &[u8]) -> Result<(), UffdError> {
        self.put(address, content, 0)
    }

    /// The same, and a write into them waits.
    pub(crate) fn copy_protected(&self, address: u64, content: &[u8]) -> Result<(), UffdError> {
        self.put(address, content, COPY_PROTECTED)
    }

    fn put(&self, address: u64, content: &[u8], mode: u64) -> Result<(), UffdError> {
        self.step_through(address, content.len(), |address, done| {
            let from = content[done..].as_ptr() as u64;
            let length = (content.len() - done) as u64;
            let mut copy = Copy { to: address, from, length, mode, copied: 0 };
            // SAFETY: the kernel reads `length` bytes of `content`, and writes only into the registered memory.
            let result = unsafe { ioctl::ioctl(&self.0, Updater::<COPY, _>::new(&mut copy)) };
            (result, copy.copied, "put pages into the guest's memory")
        })
    }

    /// The same with zeros.
    pub(crate) fn zero(&self, address: u64, length: usize) -> Result<(), UffdError> {
        self.step_through(address, length, |address, done| {
            let mut fill = fill(address, (length - done) as u64);
            // SAFETY: the kernel writes only into the registered memory.
            let result = unsafe { ioctl::ioctl(&self.0, Updater::<ZERO, _>::new(&mut fill)) };
            (result, fill.filled, "put zeros into the guest's memory")
        })
    }

    /// Lets the guest have the pages that are there.
    pub(crate) fn resume(&self, address: u64, length: usize) -> Result<(), UffdError> {
        self.step_through(address, length, |address, done| {
            let mut fill = fill(address, (length - done) as u64);
            // SAFETY: the kernel maps pages of the registered memory.
            let result = unsafe { ioctl::ioctl(&self.0, Updater::<CONTINUE, _>::new(&mut fill)) };
            (result, fill.filled, "map pages of the guest's memory")
        })
    }

    /// Calls `step` until all of the range is done: the kernel may do a part, find pages there, or ask to come again
    /// because the process is changing its mappings. In the end whoever waited within the range is woken.
    fn step_through(
        &self,
        address: u64,
        length: usize,
        mut step: impl FnMut(u64, usize) -> (Result<(), Errno>, i64, &'static str),
    ) -> Result<(), UffdError> {
        let mut done = 0;
        let mut whole = true;
        while done < length {
            let (result, progress, doing) = step(address + done as u64, done);
            match result {
                Ok(()) => done = length,
                Err(Errno::AGAIN) if progress > 0 => done += progress as usize,
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                Err(Errno::EXIST) => {
                    whole = false;
                    done += PAGE;
                }
                Err(errno) => return Err(failed(doing, errno)),
            }
        }
        if whole { Ok(()) } else { self.wake(address, length) }
    }

    /// From now on a write into the range waits.
    pub(crate) fn protect(&self, address: u64, length: usize) -> Result<(), UffdError> {
        self.write_protect(address, length, PROTECT)
    }

    /// Writes go on, and those that waited too.
    pub(crate) fn unprotect(&self, address: u64, length: usize) -> Result<(), UffdError> {
        self.write_protect(address, length, 0)
    }

    fn write_protect(&self, address: u64, length: usize, mode: u64) -> Result<(), UffdError> {
        loop {
            let mut protect = WriteProtect { range: Range { start: address, length: length as u64 }, mode };
            // SAFETY: the kernel changes who may write to the registered memory.
            match unsafe { ioctl::ioctl(&self.0, Updater::<WRITE_PROTECT, _>::new(&mut protect)) } {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                Err(errno) => return Err(failed("write-protect the guest's memory", errno)),
            }
        }
    }

    /// Lets all who wait in the range try again.
    pub(crate) fn wake(&self, address: u64, length: usize) -> Result<(), UffdError> {
        let mut range = Range { start: address, length: length as u64 };
        // SAFETY: the kernel reads the range.
        let woken = unsafe { ioctl::ioctl(&self.0, Updater::<WAKE, _>::new(&mut range)) };
        woken.map_err(|errno| failed("wake the guest", errno))
    }
}

const fn fill(start: u64, length: u64) -> Fill {
    Fill { range: Range { start, length }, mode: 0, filled: 0 }
}

fn failed(doing: &'static str, errno: Errno) -> UffdError {
    match errno {
        // No such mapping any more, or no such process.
        Errno::NOENT | Errno::SRCH => UffdError::Gone,
        errno => UffdError::Refused { doing, errno },
    }
}

fn read_message(bytes: &[u8]) -> Option<Fault> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().map(u64::from_ne_bytes).ok();
    let (flags, address) = (word(8)?, word(16)?);
    let kind = match flags {
        flags if flags & FLAG_WP != 0 => FaultKind::Protected,
        flags if flags & FLAG_MINOR != 0 => FaultKind::Minor,
        _ => FaultKind::Missing,
    };
    (*bytes.first()? == EVENT_FAULT).then_some(Fault { kind, address, writes: flags & FLAG_WRITE != 0 })
}
