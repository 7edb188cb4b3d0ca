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

use io_uring::{IoUring, opcode, squeue, types::Fd};

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
    /// To be called by the thread that uses it, and by no other one: the kernel then need not interrupt it for what is done.
    pub(crate) fn new() -> Self {
        let own = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(DEPTH);
        // Before Linux 6.1 there are only those that any thread may use.
        let ring = own.or_else(|_| IoUring::new(DEPTH));
        if let Err(error) = &ring {
            tracing::info!(%error, "no io_uring here: the store is read and written one place after the other");
        }
        Self(ring.ok())
    }

    /// Does all of it, or says what failed. One transfer is done at once, without a ring: it has nobody to overlap with.
    pub(crate) fn transfer(&mut self, file: &File, mut transfers: Vec<Transfer<'_>>) -> io::Result<()> {
        let mut results = vec![0; transfers.len()];
        if let Some(ring) = self.0.as_mut().filter(|_| transfers.len() > 1) {
            for (transfers, results) in transfers.chunks_mut(DEPTH as usize).zip(results.chunks_mut(DEPTH as usize)) {
                let mut flight = Flight { ring, open: 0 };
                for (at, transfer) in transfers.iter_mut().enumerate() {
                    flight.push(at, &entry(file, transfer))?;
                }
                while flight.open > 0 {
                    flight.wait(|at, result| results[at] = result);
                }
            }
        }
        transfers.into_iter().zip(results).try_for_each(|(transfer, result)| finish(file, transfer, result))
    }

    /// Begins to read `pages`, which lie at `place`, and then all of `others` too; calls `arrived` as soon as the former are
    /// there, although the latter may still be under way. Returns when all is read, with what `arrived` returned.
    pub(crate) fn read_first<T>(
        &mut self,
        file: &File,
        (place, pages): (u64, &mut [Page]),
        mut others: Vec<Transfer<'_>>,
        arrived: impl FnOnce(&mut [Page]) -> T,
    ) -> io::Result<T> {
        let Some(ring) = self.0.as_mut().filter(|_| (1..DEPTH as usize).contains(&others.len())) else {
            finish(file, Transfer::Read(place, pages), 0)?;
            let returned = arrived(pages);
            return self.transfer(file, others).map(|()| returned);
        };
        let first = others.len();
        let mut results = vec![None; first + 1];
        let mut flight = Flight { ring, open: 0 };
        flight.push(first, &entry(file, &mut Transfer::Read(place, pages)))?;
        // The disk begins with it while the others are prepared.
        flight.submit();
        for (at, transfer) in others.iter_mut().enumerate() {
            flight.push(at, &entry(file, transfer))?;
        }
        while results[first].is_none() {
            flight.wait(|at, result| results[at] = Some(result));
        }
        finish(file, Transfer::Read(place, pages), results[first].unwrap_or(0))?;
        let returned = arrived(pages);
        while flight.open > 0 {
            flight.wait(|at, result| results[at] = Some(result));
        }
        let done = others.into_iter().zip(results);
        done.map(|(transfer, result)| (transfer, result.unwrap_or(0)))
            .try_for_each(|(transfer, result)| finish(file, transfer, result))?;
        Ok(returned)
    }
}

/// What the kernel is doing. It writes into memory that is borrowed by whoever holds this, so it ends only when all is done,
/// however it ends.
struct Flight<'a> {
    ring: &'a mut IoUring,
    open: usize,
}

impl Flight<'_> {
    /// At most [`DEPTH`] in one flight.
    fn push(&mut self, number: usize, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the memory and the file of the entry are borrowed by the functions above, which begin flights after that
        // and so end them before it.
        let pushed = unsafe { self.ring.submission().push(&entry.clone().user_data(number as u64)) };
        pushed.map_err(|_| io::ErrorKind::QuotaExceeded)?;
        self.open += 1;
        Ok(())
    }

    fn submit(&self) {
        // What is not submitted now is by the next wait.
        let _ = self.ring.submit();
    }

    /// Until at least one is done; its number and what the kernel says of it.
    fn wait(&mut self, mut done: impl FnMut(usize, i32)) {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The kernel may still write into memory that is about to be used otherwise: there is no going on.
            Err(_) => std::process::abort(),
        }
        for completion in self.ring.completion() {
            self.open -= 1;
            done(completion.user_data() as usize, completion.result());
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        while self.open > 0 {
            self.wait(|_, _| {});
        }
    }
}

fn entry(file: &File, transfer: &mut Transfer<'_>) -> squeue::Entry {
    let fd = Fd(file.as_raw_fd());
    match transfer {
        Transfer::Read(place, pages) => {
            let into = page::bytes_mut(pages);
            opcode::Read::new(fd, into.as_mut_ptr(), into.len() as u32).offset(*place).build()
        }
        Transfer::Write(place, pages) => {
            let from = page::bytes(pages);
            opcode::Write::new(fd, from.as_ptr(), from.len() as u32).offset(*place).build()
        }
    }
}

/// Takes what the kernel says of a transfer, octets or an error, and does what it left undone: all, where there is no ring.
fn finish(file: &File, transfer: Transfer<'_>, result: i32) -> io::Result<()> {
    let done = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))? / PAGE * PAGE;
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
        // What is waited for is handed out before the others, and they come too.
        let mut rest = page::zeroed(3);
        let [wanted, others @ ..] = &mut rest[..] else { unreachable!() };
        let others = others.iter_mut().zip([5, 9]);
        let others = others.map(|(page, at)| Transfer::Read(place(at), std::slice::from_mut(page)));
        let first = (place(7), std::slice::from_mut(wanted));
        let seen = disk.read_first(&file, first, others.collect(), |wanted| wanted[0].0[9]).unwrap();
        assert_eq!((seen, rest[1].0[9], rest[2].0[9]), (7, 5, 9));
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
