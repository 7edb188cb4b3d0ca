//! The calls of libc and of the kernel that the shim needs, with their layouts.
//!
//! Owns every foreign declaration. Each face ends the process with a reason where the shim could not go on without it.

use core::{
    ffi::{CStr, c_char, c_int, c_long, c_uint, c_void},
    mem::size_of,
    ptr,
};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const MAP_SHARED: c_int = 1;
pub(crate) const PUNCH_HOLE: c_int = 2;
pub(crate) const MADV_DONTNEED: c_int = 4;
pub(crate) const MADV_REMOVE: c_int = 9;
pub(crate) const MADV_HUGEPAGE: c_int = 14;
const MADV_NOHUGEPAGE: c_int = 15;
const PROT_READ_WRITE: c_int = 3;
const CLOEXEC: c_int = 0o2000000;
const NONBLOCK: c_int = 0o4000;
const F_DUPFD_CLOEXEC: c_int = 1030;
const SEEK_END: c_int = 2;
const SEEK_SET: c_int = 0;
const MFD_CLOEXEC: c_uint = 1;
/// What the process ends with when the shim ends it.
const STATUS: c_int = 70;

#[cfg(target_arch = "x86_64")]
mod numbers {
    pub(crate) const SYS_MMAP: i64 = 9;
    pub(crate) const SYS_MADVISE: i64 = 28;
    pub(crate) const SYS_FALLOCATE: i64 = 285;
}
#[cfg(target_arch = "aarch64")]
mod numbers {
    pub(crate) const SYS_MMAP: i64 = 222;
    pub(crate) const SYS_MADVISE: i64 = 233;
    pub(crate) const SYS_FALLOCATE: i64 = 47;
}
pub(crate) use numbers::{SYS_FALLOCATE, SYS_MADVISE, SYS_MMAP};

#[link(name = "c")]
unsafe extern "C" {
    pub(crate) fn syscall(number: c_long, ...) -> c_long;
    fn ioctl(fd: c_int, request: u64, ...) -> c_int;
    fn getenv(name: *const c_char) -> *const c_char;
    fn readlink(path: *const c_char, buffer: *mut u8, length: usize) -> isize;
    fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
    fn ftruncate(fd: c_int, length: i64) -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn write(fd: c_int, buffer: *const u8, length: usize) -> isize;
    fn _exit(status: c_int) -> !;
    fn __errno_location() -> *mut c_int;
}

/// Says why on stderr and ends the process.
pub(crate) fn end(reason: &str, errno: c_int) -> ! {
    let mut line = Text::<1280>::new();
    line.push("lucarne-pager: ");
    line.push(reason);
    if errno != 0 {
        line.push(" (errno ");
        line.push_number(errno as u64);
        line.push(")");
    }
    line.push("\n");
    // SAFETY: the bytes are there; nothing of the process is needed afterwards.
    unsafe {
        write(2, line.bytes().as_ptr(), line.bytes().len());
        _exit(STATUS)
    }
}

fn errno() -> c_int {
    // SAFETY: libc's errno of this thread.
    unsafe { *__errno_location() }
}

fn needed(result: c_int, doing: &str) -> c_int {
    if result < 0 { end(doing, errno()) } else { result }
}

/// A text of at most `N` bytes; what is beyond is left out.
pub(crate) struct Text<const N: usize> {
    room: [u8; N],
    used: usize,
}

impl<const N: usize> Text<N> {
    pub(crate) const fn new() -> Self {
        Self { room: [0; N], used: 0 }
    }
    pub(crate) fn push(&mut self, text: &str) {
        for byte in text.bytes().take(N - self.used) {
            self.room[self.used] = byte;
            self.used += 1;
        }
    }
    pub(crate) fn push_number(&mut self, number: u64) {
        if number > 9 {
            self.push_number(number / 10);
        }
        let digit = [b'0' + (number % 10) as u8];
        self.push(core::str::from_utf8(&digit).unwrap_or(""));
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[..self.used]
    }
}

pub(crate) fn environment(name: &CStr) -> Option<&'static str> {
    // SAFETY: the environment of a process that does not change it; it is read before the guest runs.
    let value = unsafe { getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: what getenv returns is a C string.
    unsafe { CStr::from_ptr(value) }.to_str().ok()
}

pub(crate) fn file_size(fd: c_int) -> u64 {
    // SAFETY: moves the descriptor's position alone, which nobody uses of a mapped memfd, and back to the start.
    let end = unsafe { lseek(fd, 0, SEEK_END) };
    // SAFETY: as above.
    unsafe { lseek(fd, 0, SEEK_SET) };
    end.max(0) as u64
}

pub(crate) fn is_memfd(fd: c_int) -> bool {
    const MEMFD: &[u8] = b"/memfd:";
    let mut path = Text::<64>::new();
    path.push("/proc/self/fd/");
    path.push_number(fd as u64);
    path.push("\0");
    let mut target = [0; MEMFD.len()];
    // SAFETY: path ends with a zero byte, the buffer is as long as said.
    let length = unsafe { readlink(path.bytes().as_ptr().cast(), target.as_mut_ptr(), target.len()) };
    length == MEMFD.len() as isize && target == MEMFD
}

pub(crate) fn duplicate(fd: c_int) -> c_int {
    // SAFETY: makes a descriptor and touches nothing else.
    needed(unsafe { fcntl(fd, F_DUPFD_CLOEXEC, 3) }, "the guest's memory cannot be held")
}

pub(crate) fn memfd(name: &CStr, length: u64) -> c_int {
    // SAFETY: the name is a C string.
    let fd = needed(unsafe { memfd_create(name.as_ptr(), MFD_CLOEXEC) }, "no memory file can be made");
    // SAFETY: a file of our own.
    needed(unsafe { ftruncate(fd, length as i64) }, "a memory file cannot be made large enough");
    fd
}

pub(crate) fn map_shared(fd: c_int, length: u64) -> *mut c_void {
    // SAFETY: a new mapping at a place of the kernel's choice.
    let mapped = unsafe {
        let nowhere = ptr::null_mut::<c_void>();
        syscall(SYS_MMAP, nowhere, length, i64::from(PROT_READ_WRITE), i64::from(MAP_SHARED), i64::from(fd), 0_i64)
    };
    if mapped == -1 { end("the notes of discards cannot be mapped", errno()) }
    mapped as *mut c_void
}

pub(crate) fn open_pagemap() -> c_int {
    // SAFETY: the path is a C string. Where it cannot be had, access bits are not to be had either, and it is -1.
    unsafe { open(c"/proc/self/pagemap".as_ptr(), CLOEXEC) }
}

pub(crate) fn keep_small(base: u64, length: u64) {
    // SAFETY: changes how the kernel backs the pages and nothing that is in them.
    unsafe { syscall(SYS_MADVISE, base, length, i64::from(MADV_NOHUGEPAGE)) };
}

/// Forgets where pages are mapped; they stay in the shared file, and the next touch maps them again.
pub(crate) fn unmap_pages(base: u64, length: u64) -> bool {
    // SAFETY: of a shared file mapping, this drops page table entries and no content.
    unsafe { syscall(SYS_MADVISE, base, length, i64::from(MADV_DONTNEED)) == 0 }
}

const USERFAULTFD_NEW: u64 = 0xAA00;
const UFFDIO_API: u64 = 0xC018_AA3F;
const UFFDIO_REGISTER: u64 = 0xC020_AA00;
const API: u64 = 0xAA;
const FEATURE_WP: u64 = 1;
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const FEATURE_WP_SHMEM: u64 = 1 << 12;
const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const MODE_MINOR: u64 = 4;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}
#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}
const _: () = assert!(size_of::<Api>() == 24 && size_of::<Register>() == 32);

/// A userfaultfd for all faults of this process, those of the kernel on its behalf too.
pub(crate) fn userfaultfd(device: c_int) -> c_int {
    // SAFETY: this request takes flags and no pointer.
    let made = unsafe { ioctl(device, USERFAULTFD_NEW, i64::from(CLOEXEC | NONBLOCK)) };
    let uffd = needed(made, "/dev/userfaultfd gives no descriptor");
    let features = FEATURE_WP | FEATURE_MISSING_SHMEM | FEATURE_MINOR_SHMEM | FEATURE_WP_SHMEM;
    let mut api = Api { api: API, features, ioctls: 0 };
    // SAFETY: the kernel reads and writes a struct of this layout.
    needed(unsafe { ioctl(uffd, UFFDIO_API, &raw mut api) }, "the kernel cannot page shared memory");
    uffd
}

pub(crate) fn register(uffd: c_int, start: u64, length: u64, minor: bool) {
    let mode = MODE_MISSING | MODE_WP | if minor { MODE_MINOR } else { 0 };
    let mut register = Register { start, length, mode, ioctls: 0 };
    // SAFETY: the kernel reads and writes a struct of this layout.
    let done = unsafe { ioctl(uffd, UFFDIO_REGISTER, &raw mut register) };
    needed(done, "the guest's memory cannot be registered");
}

const PAGEMAP_SCAN: u64 = 0xC060_6610;
const IS_PRESENT: u64 = 1 << 3;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PageRegion {
    pub(crate) start: u64,
    pub(crate) end: u64,
    categories: u64,
}

impl PageRegion {
    pub(crate) const NONE: Self = Self { start: 0, end: 0, categories: 0 };
}

#[repr(C)]
struct PagemapScan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}
const _: () = assert!(size_of::<PagemapScan>() == 96 && size_of::<PageRegion>() == 24);

/// Finds what is mapped between `start` and `end`: how many regions were written to `found`, and how far it came.
pub(crate) fn mapped_pages(pagemap: c_int, start: u64, end: u64, found: &mut [PageRegion]) -> Option<(usize, u64)> {
    let mut scan = PagemapScan {
        size: size_of::<PagemapScan>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: found.as_mut_ptr() as u64,
        vec_len: found.len() as u64,
        max_pages: 0,
        category_inverted: 0,
        category_mask: IS_PRESENT,
        category_anyof_mask: 0,
        return_mask: IS_PRESENT,
    };
    // SAFETY: the kernel reads and writes a struct of this layout, and at most `vec_len` regions at `vec`.
    let count = unsafe { ioctl(pagemap, PAGEMAP_SCAN, &raw mut scan) };
    (count >= 0).then_some((count as usize, scan.walk_end))
}
