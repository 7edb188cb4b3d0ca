//! The process whose memory is away: fills it, touches it, and takes the times.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs::File, io::BufRead, os::fd::AsRawFd, time::Instant};

use anyhow::{Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};

const WORDS: usize = 512;
/// A touch that takes less found its page, if perhaps unmapped by a look at access bits (2.1 us).
const FAULT: u128 = 5000;

unsafe extern "C" {
    /// That of libc, before which the shim stands.
    fn mmap(place: *mut c_void, length: usize, protection: i32, flags: i32, fd: i32, offset: i64) -> *mut c_void;
}

/// What kind of memory it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A memfd, as a guest's.
    Shared,
    /// Its own, as the kernel swaps it.
    Private,
}

struct Memory {
    start: *mut u64,
    pages: usize,
}

pub(crate) fn run(kind: Kind, pages: usize) -> Result<()> {
    let memory = Memory::map(kind, pages)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (name, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match name {
            "fill" => memory.fill(argument),
            "touch" => memory.touch(argument.parse()?),
            "churn" => memory.churn(argument.parse()?),
            "sweep" => memory.sweep(),
            other => bail!("{other}"),
        }
    }
    Ok(())
}

impl Memory {
    fn map(kind: Kind, pages: usize) -> Result<Self> {
        let file: File = memfd_create("guest", MemfdFlags::CLOEXEC)?.into();
        file.set_len((pages * 4096) as u64)?;
        let (flags, fd) = if kind == Kind::Shared { (1, file.as_raw_fd()) } else { (0x22, -1) };
        // SAFETY: a new mapping, readable and writable, that is never unmapped.
        let start = unsafe { mmap(std::ptr::null_mut(), pages * 4096, 3, flags, fd, 0) };
        if start as isize == -1 {
            bail!("no memory");
        }
        // The file is the mapping's from here on, and must not be closed under the shim.
        std::mem::forget(file);
        Ok(Self { start: start.cast(), pages })
    }

    fn word(&self, page: usize, at: usize) -> *mut u64 {
        assert!(page < self.pages);
        self.start.wrapping_add(page * WORDS + at)
    }

    /// `same`: one value in each page; `text`: compresses to about a half; `noise`: not at all.
    fn fill(&self, kind: &str) {
        let mut dice = 1_u64;
        for page in 0..self.pages {
            for at in 0..WORDS {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                let value = match kind {
                    "same" => page as u64,
                    "text" if at % 2 == 0 => page as u64,
                    _ => dice,
                };
                // SAFETY: within the mapping.
                unsafe { self.word(page, at).write_volatile(value) };
            }
        }
        println!("done");
    }

    /// One word of each `stride`th page, in random order.
    fn touch(&self, stride: usize) {
        let mut pages: Vec<usize> = (0..self.pages).step_by(stride).collect();
        let mut dice = 88_172_645_463_325_252_u64;
        for at in (1..pages.len()).rev() {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pages.swap(at, (dice >> 33) as usize % (at + 1));
        }
        // SAFETY: within the mapping.
        tell(pages.into_iter().map(|page| timed(|| unsafe { self.word(page, 7).read_volatile() })));
    }

    /// Reads and writes `count` random pages.
    fn churn(&self, count: usize) {
        let mut dice = 42_u64;
        let mut next = || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) as usize % self.pages
        };
        let pages: Vec<usize> = (0..count).map(|_| next()).collect();
        tell(pages.into_iter().map(|page| {
            timed(|| {
                let word = self.word(page, 9);
                // SAFETY: within the mapping, touched by this thread alone.
                unsafe {
                    word.write_volatile(word.read_volatile().wrapping_add(1));
                    word.read_volatile()
                }
            })
        }));
    }

    fn sweep(&self) {
        // SAFETY: within the mapping.
        let sum =
            (0..self.pages).fold(0_u64, |sum, page| sum.wrapping_add(unsafe { self.word(page, 3).read_volatile() }));
        println!("{sum}");
    }
}

fn timed(touch: impl FnOnce() -> u64) -> u128 {
    let began = Instant::now();
    std::hint::black_box(touch());
    began.elapsed().as_nanos()
}

/// Count, median and 99th percentile of those that faulted.
fn tell(times: impl Iterator<Item = u128>) {
    let mut times: Vec<u128> = times.filter(|time| *time >= FAULT).collect();
    times.sort_unstable();
    let at =
        |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied();
    println!("{} {} {}", times.len(), at(0.5).unwrap_or(0), at(0.99).unwrap_or(0));
}
