//! The shim: a library that is preloaded into an unmodified QEMU and lends the guest's memory to a pager outside it.
//!
//! Owns the three calls that it stands before (`mmap`, `fallocate`, `madvise`) and what is done at the first mapping of the
//! guest's memory: a userfaultfd of this process's own memory is made and registered, and a thread listens for whoever
//! may have it ([`server`]). It holds every descriptor for as long as the process lives: the kernel answers faults with
//! zeros, silently, once the last userfaultfd is closed.
//!
//! It is compiled by the build script of `lucarne-pager` into that crate, without std, and uses nothing but libc: it must
//! not allocate, unwind or start a runtime inside of a program that does not know of it. Where it cannot do its work it
//! ends the process with a reason, before the guest has run: a VM that was to be paged must not run unpaged unnoticed.
#![no_std]

mod guest;
mod kernel;
mod server;
mod settings;

use core::{
    ffi::{c_int, c_void},
    sync::atomic::{AtomicBool, Ordering},
};

use kernel::{MADV_HUGEPAGE, MADV_REMOVE, MAP_SHARED, PUNCH_HOLE, SYS_FALLOCATE, SYS_MADVISE, SYS_MMAP};

/// Set by the first mapping of the guest's memory.
static TAKEN: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    kernel::end("the shim failed within itself", 0)
}

/// Maps as asked; the guest's memory is taken hold of.
///
/// # Safety
/// As that of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    place: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the very call that was asked for.
    let mapped = unsafe { kernel::syscall(SYS_MMAP, place, length, protection as i64, flags as i64, fd as i64, offset) };
    let shared = flags & MAP_SHARED != 0 && fd >= 0 && mapped != -1;
    if shared && !TAKEN.load(Ordering::Relaxed) {
        consider(mapped as usize, length, fd, offset);
    }
    mapped as *mut c_void
}

/// The same call under its other name.
///
/// # Safety
/// As that of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    place: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: as above.
    unsafe { mmap(place, length, protection, flags, fd, offset) }
}

/// Is this mapping the guest's memory? Then it is taken, once.
fn consider(base: usize, length: usize, fd: c_int, offset: i64) {
    let Some(settings) = settings::read() else { return };
    let is_whole = offset == 0 && length as u64 >= settings.memory && kernel::file_size(fd) == settings.memory;
    if is_whole && kernel::is_memfd(fd) && !TAKEN.swap(true, Ordering::AcqRel) {
        server::start(guest::take(&settings, base, fd), &settings);
    }
}

/// Discards of the guest's memory are noted before they happen: what a pager has kept of these pages is void. They do not
/// happen while a capture holds the memory.
///
/// # Safety
/// As that of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, offset: i64, length: i64) -> c_int {
    let discards = mode & PUNCH_HOLE != 0 && offset >= 0 && length > 0;
    if discards && !guest::note_discard_of(fd, offset as u64, length as u64) {
        return 0;
    }
    // SAFETY: the very call that was asked for.
    unsafe { kernel::syscall(SYS_FALLOCATE, fd as i64, mode as i64, offset, length) as c_int }
}

/// The same call under its other name.
///
/// # Safety
/// As that of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: i64, length: i64) -> c_int {
    // SAFETY: as above.
    unsafe { fallocate(fd, mode, offset, length) }
}

/// Pages of the guest stay small: large ones could leave and come back only whole.
///
/// # Safety
/// As that of libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(place: *mut c_void, length: usize, advice: c_int) -> c_int {
    let is_held = advice == MADV_REMOVE && !guest::note_discard_at(place as u64, length as u64);
    if is_held || advice == MADV_HUGEPAGE && guest::holds(place as u64) {
        return 0;
    }
    // SAFETY: the very call that was asked for.
    unsafe { kernel::syscall(SYS_MADVISE, place, length, advice as i64) as c_int }
}
