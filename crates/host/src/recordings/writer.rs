//! The thread that writes a recording: frames in, files out.
//!
//! Owns the open file, and what is told of the recording while it is written. Where the next frame goes is the
//! [`Ring`]'s decision. What has been written is in the system's hands after each burst of frames, so that it outlives this
//! process.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use lucarne_model::{
    Bytes, Moment, VpcId, pcapng,
    recording::{Recorded, RecordingFilter, RecordingRoom},
};
use lucarne_switch::shell::{SeenFrame, Tap};
use tokio::sync::mpsc;

use super::{
    ring::{Placement, Ring},
    shelf::Shelf,
};

/// Frames that may wait to be written.
const WAITING: usize = 8192;
/// Octets that are written together.
const TOGETHER: usize = 256 << 10;

/// A recording that is being written.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) tap: Tap,
    told: Arc<Mutex<Recorded>>,
    thread: JoinHandle<()>,
}

impl Writing {
    /// Begins to write behind what is there.
    pub(super) fn begin(
        shelf: Shelf,
        (vpc, filter, room): (VpcId, RecordingFilter, RecordingRoom),
        before: Recorded,
    ) -> io::Result<Self> {
        shelf.open()?;
        let (parts, found) = shelf.repair()?;
        let (frames, taken) = mpsc::channel(WAITING);
        let lost = AtomicU64::new(before.lost).into();
        let told = Arc::new(Mutex::new(Recorded { lost: 0, full: false, trouble: None, ..found }));
        let ring = Ring::new(room, parts);
        let counts = told.clone();
        let writer =
            Writer { shelf, ring, told: counts, file: None, numbers: BTreeMap::new(), pending: Pending::default() };
        let thread = std::thread::Builder::new().name("recording".into()).spawn(move || writer.run(taken))?;
        Ok(Self { tap: Tap { vpc, filter, frames, lost }, told, thread })
    }

    pub(super) fn recorded(&self) -> Recorded {
        let told = lock(&self.told).clone();
        Recorded { lost: told.lost + self.tap.lost.load(Ordering::Relaxed), ..told }
    }

    /// Waits until all is written; the switch must not have the tap any more.
    pub(super) fn end(self) -> Recorded {
        let Self { tap: Tap { frames, lost, .. }, told, thread } = self;
        drop(frames);
        if thread.join().is_err() {
            tracing::error!("the writer of a recording has panicked");
        }
        let told = lock(&told).clone();
        Recorded { lost: told.lost + lost.load(Ordering::Relaxed), ..told }
    }
}

/// The count is whole at any time.
fn lock(told: &Mutex<Recorded>) -> MutexGuard<'_, Recorded> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    shelf: Shelf,
    ring: Ring,
    told: Arc<Mutex<Recorded>>,
    file: Option<File>,
    /// The interfaces of the open file: their numbers, and what was seen and lost there.
    numbers: BTreeMap<pcapng::Interface, (u32, u64, u64)>,
    pending: Pending,
}

/// What is not written yet.
#[derive(Default)]
struct Pending {
    octets: Vec<u8>,
    frames: u64,
    last: Moment,
}

impl Writer {
    fn run(mut self, mut frames: mpsc::Receiver<SeenFrame>) {
        while let Some(frame) = frames.blocking_recv() {
            self.take(&frame);
            while let Ok(frame) = frames.try_recv() {
                self.take(&frame);
                if self.pending.octets.len() > TOGETHER {
                    self.flush();
                }
            }
            self.flush();
        }
        self.close();
    }

    fn take(&mut self, seen: &SeenFrame) {
        let interface = pcapng::interface(&seen.interface);
        // With each interface goes, at the file's end, what was seen of it.
        let statistics = pcapng::statistics(0, seen.at, 0, 0).len();
        let frame = |number| pcapng::frame(number, seen.at, seen.direction, seen.lost, &seen.frame);
        let (known, length) = (self.numbers.get(&seen.interface), frame(0).len());
        let new = interface.len() + statistics;
        let behind = length + if known.is_some() { 0 } else { new };
        let anew = pcapng::section().len() + new + length;
        let (placement, gone) = self.ring.place(behind as u64, anew as u64);
        for number in gone {
            self.drop_part(number);
        }
        match placement {
            Placement::Here => {}
            Placement::New(number) => {
                self.close();
                if let Err(error) = self.open(number) {
                    return self.fail(&error, 1);
                }
            }
            Placement::Full => {
                self.flush();
                let mut told = lock(&self.told);
                told.full = true;
                told.lost += 1;
                return;
            }
        }
        let next = self.numbers.len() as u32;
        let counted = self.numbers.entry(seen.interface).or_insert_with(|| {
            self.pending.octets.extend_from_slice(&interface);
            (next, 0, 0)
        });
        counted.1 += 1;
        counted.2 += seen.lost;
        self.pending.octets.extend(frame(counted.0));
        self.pending.frames += 1;
        self.pending.last = seen.at;
    }

    fn open(&mut self, number: u64) -> io::Result<()> {
        self.file = Some(File::create(self.shelf.path(number))?);
        self.pending.octets.extend(pcapng::section());
        Ok(())
    }

    fn flush(&mut self) {
        let Pending { octets, frames, .. } = &mut self.pending;
        let (octets, frames) = (std::mem::take(octets), std::mem::take(frames));
        let Some(file) = self.file.as_mut().filter(|_| !octets.is_empty()) else { return };
        match file.write_all(&octets) {
            Ok(()) => {
                let mut told = lock(&self.told);
                told.frames += frames;
                told.size = Bytes(told.size.0 + octets.len() as u64);
                told.trouble = None;
            }
            Err(error) => self.fail(&error, frames),
        }
    }

    /// Ends the open file.
    fn close(&mut self) {
        for (number, seen, lost) in std::mem::take(&mut self.numbers).into_values() {
            self.pending.octets.extend(pcapng::statistics(number, self.pending.last, seen, lost));
        }
        self.flush();
        self.file = None;
    }

    /// What could not be written is lost; the next frame tries another file.
    fn fail(&mut self, error: &io::Error, frames: u64) {
        tracing::warn!(%error, folder = %self.shelf.folder().display(), "a recording cannot be written");
        self.ring.close();
        (self.file, self.numbers) = (None, BTreeMap::new());
        let mut told = lock(&self.told);
        told.trouble = Some(error.to_string());
        told.lost += frames;
    }

    /// The oldest part goes.
    fn drop_part(&mut self, number: u64) {
        let dropped = self.shelf.read(number).and_then(|octets| self.shelf.remove(number).map(|()| octets));
        match dropped {
            Ok(octets) => {
                let mut told = lock(&self.told);
                told.frames = told.frames.saturating_sub(pcapng::whole(&octets).1);
                told.size = Bytes(told.size.0.saturating_sub(octets.len() as u64));
            }
            Err(error) => self.fail(&error, 0),
        }
    }
}
