//! Reads and writes of many places of one file at once, past the kernel's cache where the file system allows it.
//!
//! Owns the io_uring of one thread and the way without it, for kernels that refuse it. All lengths and places are
//! multiples of a page, and memory is aligned to it, as direct I/O wants.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
};

use io_uring::{IoUring, opcode, types::Fd};

use crate::page::{self, PAGE, Page};

/// Operations that are under way at once.
const DEPTH: u32 = 64;

/// Opens the file for direct I/O, or without where the file system has none.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
    };
    open(direct).or_else(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() => open(0),
        _ => Err(error),
    })
}

/// A thread's way to the disk.
pub(crate) struct Disk(Option<IoUring>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Disk(io_uring)" } else { "Disk" })
    }
}

/// A place of the file, in octets, and what is to be read from there or written.
#[derive(Debug)]
pub(crate) enum Transfer<'a> {
    Read(u64, &'a mut [Page]),
    Write(u64, &'a [Page]),
}

impl Disk {
    pub(crate) fn new() -> Self {
        let ring = IoUring::new(DEPTH);
        if let Err(error) = &ring {
            tracing::info!(%error, "no io_uring here: the store is read and written one place after the other");
        }
        Self(ring.ok())
    }

    /// Does all of it, or says what failed. One transfer is done at once, without a ring: it has nobody to overlap with.
    pub(crate) fn transfer(&mut self, file: &File, mut transfers: Vec<Transfer<'_>>) -> io::Result<()> {
        let mut lengths = vec![0; transfers.len()];
        if let Some(ring) = self.0.as_mut().filter(|_| transfers.len() > 1) {
            for (transfers, lengths) in transfers.chunks_mut(DEPTH as usize).zip(lengths.chunks_mut(DEPTH as usize)) {
                submit(ring, file, transfers, lengths)?;
            }
        }
        // What the ring left undone, because it was interrupted or there is none, is done here.
        transfers.into_iter().zip(lengths).try_for_each(|(transfer, length)| finish(file, transfer, length))
    }
}

/// Has the kernel do all of `transfers`, and notes how many whole octets of each it did.
fn submit(ring: &mut IoUring, file: &File, transfers: &mut [Transfer<'_>], lengths: &mut [usize]) -> io::Result<()> {
    let fd = Fd(file.as_raw_fd());
    for (at, transfer) in transfers.iter_mut().enumerate() {
        let entry = match transfer {
            Transfer::Read(place, pages) => {
                let into = page::bytes_mut(pages);
                opcode::Read::new(fd, into.as_mut_ptr(), into.len() as u32).offset(*place).build()
            }
            Transfer::Write(place, pages) => {
                let from = page::bytes(pages);
                opcode::Write::new(fd, from.as_ptr(), from.len() as u32).offset(*place).build()
            }
        };
        // SAFETY: the memory and the file are borrowed until this function returns, and it returns only when every entry
        // has completed. There is room: at most DEPTH are pushed, into a queue that was empty.
        unsafe { ring.submission().push(&entry.user_data(at as u64)) }.map_err(|_| io::ErrorKind::QuotaExceeded)?;
    }
    let mut open = transfers.len();
    let mut failed = None;
    while open > 0 {
        match ring.submit_and_wait(open) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The kernel may still write into memory that is about to be used otherwise: there is no going on.
            Err(_) => std::process::abort(),
        }
        for done in ring.completion() {
            open -= 1;
            match done.result() {
                result @ 0.. => lengths[done.user_data() as usize] = result as usize / PAGE * PAGE,
                code => failed = Some(io::Error::from_raw_os_error(-code)),
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn finish(file: &File, transfer: Transfer<'_>, done: usize) -> io::Result<()> {
    match transfer {
        Transfer::Read(place, pages) => file.read_exact_at(&mut page::bytes_mut(pages)[done..], place + done as u64),
        Transfer::Write(place, pages) => file.write_all_at(&page::bytes(pages)[done..], place + done as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(mut disk: Disk) {
        let folder = tempfile::tempdir().unwrap();
        let file = open(&folder.path().join("file")).unwrap();
        let written: Vec<Page> = (0..200).map(|at| Page([at as u8; PAGE])).collect();
        let place = |at: usize| (at * 7 % 200 * PAGE) as u64;
        let writes =
            written.iter().enumerate().map(|(at, page)| Transfer::Write(place(at), std::slice::from_ref(page)));
        disk.transfer(&file, writes.collect()).unwrap();
        let mut read = page::zeroed(200);
        let reads = read.iter_mut().enumerate().map(|(at, page)| Transfer::Read(place(at), std::slice::from_mut(page)));
        disk.transfer(&file, reads.collect()).unwrap();
        assert!(read.iter().zip(&written).all(|(read, written)| read.0 == written.0));
        // Beyond the end there is nothing to be had, and it is not taken for zeros.
        let [first, second] = read.first_chunk_mut().unwrap();
        let beyond =
            [Transfer::Read(200 << 12, std::slice::from_mut(first)), Transfer::Read(0, std::slice::from_mut(second))];
        let error = disk.transfer(&file, beyond.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_was_written_at_many_places_is_read_there() {
        round_trip(Disk::new());
    }

    #[test]
    fn without_a_ring_the_same_is_read() {
        round_trip(Disk(None));
    }
}
