//! The role of the machine: a process with the shim that maps a memory file, writes to it and checks it.
//!
//! It takes commands as lines and answers each with a line that begins with `> `. Every page has a version, kept in memory
//! of its own, from which its whole content follows; a page that differs ends the process with `WRONG`.
#![allow(unsafe_code)]

use std::{
    env,
    ffi::c_void,
    fs::File,
    io::{BufRead, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rustix::fs::{MemfdFlags, memfd_create};

/// How many pages.
pub const VARIABLE: &str = "LUCARNE_TEST_MACHINE";
const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
const WRITERS: u64 = 3;
/// The word of each page that is counted in.
pub const COUNTER: u64 = 1;

// Those of libc, before which the shim stands; rustix would ask the kernel itself.
unsafe extern "C" {
    fn mmap(place: *mut c_void, length: usize, protection: i32, flags: i32, fd: i32, offset: i64) -> *mut c_void;
    fn fallocate(fd: i32, mode: i32, offset: i64, length: i64) -> i32;
    fn madvise(place: *mut c_void, length: usize, advice: i32) -> i32;
    fn ioctl(fd: i32, request: u64, argument: *mut c_void) -> i32;
    fn process_vm_writev(
        pid: i32,
        from: *const Part,
        from_count: u64,
        to: *const Part,
        to_count: u64,
        flags: u64,
    ) -> isize;
}

/// `struct iovec`.
#[repr(C)]
struct Part(*mut c_void, usize);

struct Memory {
    start: *mut u64,
    file: File,
    pages: u64,
    versions: Vec<AtomicU64>,
    operations: AtomicU64,
    storm: AtomicBool,
}
// SAFETY: plain memory; each page is touched by one thread at a time.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Never zero: that is what a page of version 0 reads as.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) | 1
}

/// What word `at` of a page holds. One page in eight is the same all over, two compress well, the others not at all.
pub fn word(page: u64, version: u64, at: u64) -> u64 {
    if version == 0 {
        return 0;
    }
    match page % 8 {
        0 => mix(page << 32 ^ version),
        1 | 2 if at >= 32 => 0,
        _ => mix((page << 32 ^ version).wrapping_mul(WORDS as u64) + at),
    }
}

impl Memory {
    fn map(pages: u64) -> Self {
        let file: File = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap().into();
        file.set_len(pages * PAGE as u64).unwrap();
        // SAFETY: a new shared mapping, readable and writable, that is never unmapped.
        let start = unsafe { mmap(std::ptr::null_mut(), pages as usize * PAGE, 3, 1, file.as_raw_fd(), 0) };
        assert!(start as isize != -1);
        let versions = (0..pages).map(|_| AtomicU64::new(0)).collect();
        let (operations, storm) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { start: start.cast(), file, pages, versions, operations, storm }
    }

    fn at(&self, page: u64, at: u64) -> *mut u64 {
        assert!(page < self.pages);
        self.start.wrapping_add(page as usize * WORDS + at as usize)
    }

    fn write(&self, page: u64, version: u64) {
        for at in 0..WORDS as u64 {
            // SAFETY: within the mapping.
            unsafe { self.at(page, at).write_volatile(word(page, version, at)) };
        }
        self.versions[page as usize].store(version, Ordering::Relaxed);
    }

    fn check(&self, page: u64) {
        let version = self.versions[page as usize].load(Ordering::Relaxed);
        for at in 0..WORDS as u64 {
            // SAFETY: within the mapping.
            let found = unsafe { self.at(page, at).read_volatile() };
            let right = word(page, version, at);
            if found != right {
                println!("\n> WRONG page {page} version {version} word {at}: {found:#x} and not {right:#x}");
                std::process::exit(99);
            }
        }
    }

    fn discard(&self, page: u64, count: u64) {
        // SAFETY: a call of libc; punches a hole and keeps the size, as QEMU does.
        let done = unsafe { fallocate(self.file.as_raw_fd(), 3, (page << 12) as i64, (count << 12) as i64) };
        assert_eq!(done, 0);
        (page..page + count).for_each(|page| self.versions[page as usize].store(0, Ordering::Relaxed));
    }

    /// A page that is being fetched beside another one while it is discarded may stay what it was; nothing else.
    fn discard_own(&self, page: u64) {
        let before = self.versions[page as usize].load(Ordering::Relaxed);
        self.discard(page, 1);
        // SAFETY: within the mapping.
        if unsafe { self.at(page, 0).read_volatile() } != 0 {
            self.versions[page as usize].store(before, Ordering::Relaxed);
        }
        self.check(page);
    }

    /// The same by the other call that QEMU uses.
    fn remove(&self, page: u64, count: u64) {
        // SAFETY: MADV_REMOVE within the mapping.
        let done = unsafe { madvise(self.at(page, 0).cast(), (count << 12) as usize, 9) };
        assert_eq!(done, 0);
        (page..page + count).for_each(|page| self.versions[page as usize].store(0, Ordering::Relaxed));
    }

    /// Touches a page through a mapping that nobody has registered.
    fn touch_alias(&self, page: u64) {
        // SAFETY: a second mapping, of which one word is read.
        let seen = unsafe {
            let alias = mmap(std::ptr::null_mut(), self.pages as usize * PAGE, 3, 1, self.file.as_raw_fd(), 0);
            alias.cast::<u64>().wrapping_add(page as usize * WORDS).read_volatile()
        };
        println!("\n> alias saw {seen}");
    }

    /// Puts a page there by its file, as somebody does who is quicker than the pager.
    fn put_first(&self, page: u64, version: u64) {
        let content: Vec<u8> = (0..WORDS as u64).flat_map(|at| word(page, version, at).to_ne_bytes()).collect();
        self.file.write_all_at(&content, page * PAGE as u64).unwrap();
        self.versions[page as usize].store(version, Ordering::Relaxed);
    }

    /// Several threads check the same page at once, as processors do.
    fn check_together(&self, page: u64, threads: u64) {
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| self.check(page)))));
    }

    /// Asks for large pages, as QEMU does; whether the kernel may give some.
    fn may_be_large(&self) -> bool {
        let length = self.pages as usize * PAGE;
        // SAFETY: MADV_HUGEPAGE on the mapping changes nothing that is in it.
        assert_eq!(unsafe { madvise(self.start.cast(), length, 14) }, 0);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let ours = maps.split_once(&format!("{:x}-", self.start as usize)).unwrap().1;
        let flags = ours.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        !flags.split_whitespace().any(|flag| flag == "nh")
    }

    /// The kernel writes into the page on behalf of this process.
    fn read_into(&self, page: u64, version: u64) {
        let file: File = memfd_create("source", MemfdFlags::CLOEXEC).unwrap().into();
        let content: Vec<u8> = (0..WORDS as u64).flat_map(|at| word(page, version, at).to_ne_bytes()).collect();
        file.write_all_at(&content, 0).unwrap();
        // SAFETY: the page's bytes, which no other thread touches now.
        let into = unsafe { std::slice::from_raw_parts_mut(self.at(page, 0).cast::<u8>(), PAGE) };
        file.read_exact_at(into, 0).unwrap();
        self.versions[page as usize].store(version, Ordering::Relaxed);
    }

    /// The same as a device does it: the kernel looks the page up and holds it, and writes where it lies.
    fn pin_into(&self, page: u64, version: u64) {
        let mut content: Vec<u8> = (0..WORDS as u64).flat_map(|at| word(page, version, at).to_ne_bytes()).collect();
        let (from, to) = (Part(content.as_mut_ptr().cast(), PAGE), Part(self.at(page, 0).cast(), PAGE));
        // SAFETY: the page's bytes, which no other thread touches now.
        let written = unsafe { process_vm_writev(std::process::id().cast_signed(), &from, 1, &to, 1, 0) };
        assert_eq!(written, PAGE as isize);
        self.versions[page as usize].store(version, Ordering::Relaxed);
    }

    /// Tries to have faults of this memory told to itself, as QEMU does for a post-copy migration; the error's number.
    fn listen_too(&self) -> i32 {
        let device = File::options().read(true).write(true).open("/dev/userfaultfd").unwrap();
        let (mut api, mut register) = ([0xAA_u64, 0, 0], [self.start as u64, self.pages * PAGE as u64, 1, 0]);
        // SAFETY: USERFAULTFD_IOC_NEW, UFFDIO_API and UFFDIO_REGISTER, with structures of those sizes.
        let result = unsafe {
            let uffd = ioctl(device.as_raw_fd(), 0xAA00, std::ptr::null_mut());
            assert_eq!(ioctl(uffd, 0xC018_AA3F, api.as_mut_ptr().cast()), 0);
            ioctl(uffd, 0xC020_AA00, register.as_mut_ptr().cast())
        };
        if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
    }

    /// Goes over its pages in their order, and writes the number of the pass into each.
    fn count(&self) {
        let mut pass = 1_u64;
        while self.storm.load(Ordering::Relaxed) {
            for page in 0..self.pages {
                // SAFETY: within the mapping.
                unsafe { self.at(page, COUNTER).write_volatile(pass) };
            }
            self.operations.fetch_add(self.pages, Ordering::Relaxed);
            pass += 1;
        }
    }

    /// What was counted in the first page, and in how many pages; in the others it is one less, or it is of no instant.
    fn counted(&self, version: u64) -> (u64, usize) {
        let found = |page, at| {
            // SAFETY: within the mapping.
            unsafe { self.at(page, at).read_volatile() }
        };
        let numbers: Vec<u64> = (0..self.pages).map(|page| found(page, COUNTER)).collect();
        let whole = |page| (0..WORDS as u64).all(|at| at == COUNTER || found(page, at) == word(page, version, at));
        let count = numbers.iter().take_while(|number| **number == numbers[0]).count();
        let is_torn = numbers[count..].iter().any(|number| number + 1 != numbers[0]);
        if is_torn || !(0..self.pages).all(whole) {
            println!("\n> WRONG {numbers:?}");
            std::process::exit(99);
        }
        (numbers[0], count)
    }

    /// Checks and changes its pages for as long as there is a storm.
    fn write_on(&self, writer: u64) {
        let mut dice = mix(writer);
        while self.storm.load(Ordering::Relaxed) {
            dice = mix(dice.wrapping_add(0x9e37_79b9_7f4a_7c15));
            let page = (dice >> 8) % (self.pages / WRITERS) * WRITERS + writer;
            self.check(page);
            match dice >> 56 {
                0..4 => self.discard_own(page),
                4..132 => self.write(page, self.versions[page as usize].load(Ordering::Relaxed) + 1),
                _ => {}
            }
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Not a test by itself: `house` starts it in a process of its own.
#[test]
#[ignore = "a role that other tests start"]
fn role_of_the_machine() {
    let Ok(pages) = env::var(VARIABLE) else { return };
    let memory = Arc::new(Memory::map(pages.parse().unwrap()));
    let mut writers = Vec::new();
    println!("\n> mapped");
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let mut parts = line.split(' ');
        let name = parts.next().unwrap();
        let numbers: Vec<u64> = parts.map(|number| number.parse().unwrap()).collect();
        match (name, &numbers[..]) {
            ("write", &[first, count, version]) => (first..first + count).for_each(|page| memory.write(page, version)),
            ("check", &[first, count]) => (first..first + count).for_each(|page| memory.check(page)),
            ("expect", &[first, count, version]) => {
                (first..first + count)
                    .for_each(|page| memory.versions[page as usize].store(version, Ordering::Relaxed));
            }
            ("discard", &[first, count]) => memory.discard(first, count),
            ("remove", &[first, count]) => memory.remove(first, count),
            ("alias", &[page]) => {
                memory.touch_alias(page);
                continue;
            }
            ("read-into", &[page, version]) => memory.read_into(page, version),
            ("pin-into", &[page, version]) => memory.pin_into(page, version),
            ("put-first", &[page, version]) => memory.put_first(page, version),
            ("check-together", &[page, threads]) => memory.check_together(page, threads),
            ("may-be-large", &[]) => {
                println!("\n> {}", memory.may_be_large());
                continue;
            }
            ("listen-too", &[]) => {
                println!("\n> error {}", memory.listen_too());
                continue;
            }
            ("storm", &[]) => {
                memory.storm.store(true, Ordering::Relaxed);
                for writer in 0..WRITERS {
                    let memory = memory.clone();
                    writers.push(thread::spawn(move || memory.write_on(writer)));
                }
            }
            ("count", &[]) => {
                memory.storm.store(true, Ordering::Relaxed);
                (0..memory.pages).for_each(|page| {
                    // SAFETY: within the mapping.
                    unsafe { memory.at(page, COUNTER).write_volatile(0) }
                });
                let memory = memory.clone();
                writers.push(thread::spawn(move || memory.count()));
            }
            ("counted", &[version]) => {
                let (number, count) = memory.counted(version);
                println!("\n> {number} {count}");
                continue;
            }
            ("calm", &[]) => {
                memory.storm.store(false, Ordering::Relaxed);
                writers.drain(..).for_each(|writer| writer.join().unwrap());
                println!("\n> {}", memory.operations.load(Ordering::Relaxed));
                continue;
            }
            other => panic!("{other:?}"),
        }
        println!("\n> done");
        std::io::stdout().flush().unwrap();
    }
}
