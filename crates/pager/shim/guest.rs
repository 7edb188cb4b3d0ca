//! The guest's memory as the shim holds it: its place, its userfaultfd, the notes of what was discarded.
//!
//! Owns taking hold of it, and the shared bitmap of discards: one bit a page, set here before a page is discarded and
//! cleared by the pager before it evicts a page. So a pager learns of every discard at the fault that would need it,
//! without a message, and one that was dead meanwhile learns of it too. Nobody waits for anybody. The rest of the file,
//! as much again and a page, is the pager's: what it notes there lives as long as the guest does. One word of it is read here:
//! while it is not zero nothing is discarded, because a capture of the memory has yet to be read. Who discards has no more
//! use for the pages, so it does not matter to the guest that they keep their content.

use core::{
    ffi::c_int,
    sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering},
};

use crate::{
    kernel::{self, PAGE},
    settings::Settings,
};

static BASE: AtomicU64 = AtomicU64::new(0);
static LENGTH: AtomicU64 = AtomicU64::new(0);
/// QEMU's own descriptor of the memory, by which it discards.
static FD: AtomicI32 = AtomicI32::new(-1);
static DISCARDED: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
/// Behind the pager's own note.
static HOLD: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

/// What is lent, and kept for as long as the process lives.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    pub(crate) base: u64,
    pub(crate) length: u64,
    pub(crate) minor: bool,
    pub(crate) uffd: c_int,
    pub(crate) memory: c_int,
    pub(crate) key: c_int,
    pub(crate) discarded: c_int,
    /// Where the pager keeps compressed pages, so that they outlive it; empty until it makes it larger.
    pub(crate) pool: c_int,
    pub(crate) pagemap: c_int,
}

/// Registers the memory at `base`; ends the process where that cannot be.
pub(crate) fn take(settings: &Settings, base: usize, fd: c_int) -> Guest {
    let (base, length) = (base as u64, settings.memory);
    kernel::keep_small(base, length);
    let uffd = kernel::userfaultfd(settings.device);
    kernel::register(uffd, base, length, settings.minor);
    let bits = 2 * (length / PAGE).div_ceil(8).next_multiple_of(PAGE) + PAGE;
    let discarded = kernel::memfd(c"lucarne-discarded", bits);
    let notes: *mut AtomicU64 = kernel::map_shared(discarded, bits).cast();
    DISCARDED.store(notes, Ordering::Relaxed);
    HOLD.store(notes.wrapping_add(((bits - PAGE) / 8 + 1) as usize), Ordering::Relaxed);
    BASE.store(base, Ordering::Relaxed);
    LENGTH.store(length, Ordering::Relaxed);
    FD.store(fd, Ordering::Release);
    Guest {
        base,
        length,
        minor: settings.minor,
        uffd,
        memory: kernel::duplicate(fd),
        key: settings.key,
        discarded,
        pool: kernel::memfd(c"lucarne-pool", 0),
        pagemap: kernel::open_pagemap(),
    }
}

pub(crate) fn holds(place: u64) -> bool {
    let base = BASE.load(Ordering::Relaxed);
    base != 0 && place >= base && place < base + LENGTH.load(Ordering::Relaxed)
}

/// Whether it may be done.
pub(crate) fn note_discard_of(fd: c_int, offset: u64, length: u64) -> bool {
    fd != FD.load(Ordering::Acquire) || note(offset, length)
}

/// Whether it may be done.
pub(crate) fn note_discard_at(place: u64, length: u64) -> bool {
    !holds(place) || note(place - BASE.load(Ordering::Relaxed), length)
}

/// Only pages that are discarded whole: of the others a part stays.
fn note(offset: u64, length: u64) -> bool {
    // SAFETY: a word of the map, which nobody ever unmaps; it was set before the memory was known here.
    if unsafe { &*HOLD.load(Ordering::Relaxed) }.load(Ordering::SeqCst) != 0 {
        return false;
    }
    let memory = LENGTH.load(Ordering::Relaxed);
    let first = offset.div_ceil(PAGE);
    let end = offset.saturating_add(length).min(memory) / PAGE;
    let words = DISCARDED.load(Ordering::Relaxed);
    for page in first..end {
        // SAFETY: the map has a bit for each page of the memory, `end` is at most that, and nobody ever unmaps it.
        let word = unsafe { &*words.add((page / 64) as usize) };
        word.fetch_or(1 << (page % 64), Ordering::SeqCst);
    }
    true
}
