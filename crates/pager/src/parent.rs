//! The memory of another guest, as a capture holds it, from which a duplicate of that guest goes on.
//!
//! Owns the line to the other guest's pager, one for all threads, and opens it again when it breaks: a pager that dies is followed
//! by another that holds the same, and what was asked for is asked for again. What is read there stays there until it is said that
//! it is here ([`Parent::have`]), so that nothing is lost with a pager that dies in between, whichever of the two; after it a
//! page is this guest's own. The line's words are [`crate::capture::wire`]'s.
//!
//! Once no page is to be had there any more, that is noted in the folder ([`WHOLE`]): then the other guest is not asked for.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lucarne_memory::run::Run;
use lucarne_model::memory::Pages;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    capture::{
        make_room, send_room,
        wire::{ANSWER, Answer, Ask, CHUNK, Few, Over, SLOTS},
    },
    client::{Client, ClientError},
    disk::Disk,
    page::{self, Page},
    pager::locked,
    places::{Away, Word},
    shared::Arena,
    source::{FetchError, Lost, Source},
};

/// In a pager's folder: all of the memory that it went on from is here.
pub(crate) const WHOLE: &str = "whole";
/// How long the other pager may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it is tried to reach one that has ended, if it is not known whether its machine has too: its host's agent starts another
/// as soon as it sees that.
const RETURN: Duration = Duration::from_secs(60);
/// How long, where not even a socket is: that goes with its machine, and is made anew with each pager.
const APPEAR: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);

/// Why nothing comes from there.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    #[error("the memory that it goes on from is not held any more")]
    Gone(#[source] ClientError),
    #[error("the memory that it goes on from is not held any more: {0}")]
    Over(Over),
    #[error("the pager that holds the memory that it goes on from does not answer")]
    Broken(#[source] io::Error),
    #[error("it goes on from a guest with {there} pages and has {here}")]
    OtherSize { there: u64, here: u64 },
}

#[derive(Debug)]
pub(crate) struct Parent {
    control: PathBuf,
    capture: String,
    pages: u64,
    line: Mutex<Option<Line>>,
    /// The other machine's process, once its pager has told it.
    machine: Mutex<Option<OwnedFd>>,
    is_given_up: AtomicBool,
    /// Whether all of it is to be fetched.
    is_to_be_whole: AtomicBool,
}

#[derive(Debug)]
struct Line {
    stream: UnixStream,
    room: Arena,
}

/// Whether all that was to be had of another guest is in this folder.
pub fn is_whole(folder: &Path) -> bool {
    folder.join(WHOLE).exists()
}

/// Notes that it is.
pub(crate) fn note_whole(folder: &Path) -> io::Result<()> {
    File::create(folder.join(WHOLE))?.sync_all()?;
    File::open(folder)?.sync_all()
}

impl Parent {
    /// Reaches the capture of this name at the pager that listens at `control`, of a guest of so many pages.
    pub(crate) fn reach(control: &Path, capture: &str, pages: u64, is_to_be_whole: bool) -> Result<Self, ParentError> {
        let (control, capture) = (control.to_owned(), capture.to_owned());
        let (line, machine, is_given_up) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let is_to_be_whole = AtomicBool::new(is_to_be_whole);
        let parent = Self { control, capture, pages, line, machine, is_given_up, is_to_be_whole };
        *locked(&parent.line) = Some(parent.open()?);
        Ok(parent)
    }

    /// All of it is to be fetched from now on.
    pub(crate) fn want_all(&self) {
        self.is_to_be_whole.store(true, Ordering::Relaxed);
    }
    pub(crate) fn is_to_be_whole(&self) -> bool {
        self.is_to_be_whole.load(Ordering::Relaxed)
    }

    /// Where the pages of the duplicate are before any was fetched, or after those that were.
    pub(crate) fn words(&self) -> Result<Vec<Word>, ParentError> {
        let mut words = vec![Word::UNTOUCHED; self.pages as usize];
        let chunks = self.pages.div_ceil(CHUNK);
        self.with(|line| {
            (0..chunks.min(SLOTS as u64)).try_for_each(|chunk| line.ask(Ask::Find { chunk }))?;
            for (chunk, words) in (0..chunks).zip(words.chunks_mut(CHUNK as usize)) {
                let mask = line.answer()?;
                let there = words.iter_mut().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
                there.for_each(|(_, word)| *word = Word::away(Away::Snapshot));
                if chunk + (SLOTS as u64) < chunks {
                    line.ask(Ask::Find { chunk: chunk + SLOTS as u64 })?;
                }
            }
            Ok(())
        })?;
        Ok(words)
    }

    /// These pages are here, and will not be asked for any more.
    pub(crate) fn have(&self, run: Run) {
        for few in parts(run) {
            // If nobody hears it, more is kept there than is needed.
            if let Err(error) = self.with(|line| line.ask(Ask::Have(few)).and_then(|()| line.answer())) {
                tracing::debug!(%error, "what has come from another guest is still held there");
                return;
            }
        }
    }

    /// Nothing will be asked for any more.
    pub(crate) fn close(&self) {
        *locked(&self.line) = None;
    }

    /// Who waits for a pager there waits no longer.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn read(&self, run: Run, contents: &mut [Page]) -> Result<(), ParentError> {
        let mut rest = contents;
        for few in parts(run) {
            let (these, others) = rest.split_at_mut(few.count as usize);
            self.with(|line| {
                line.ask(Ask::Read(few))?;
                let mask = line.answer()?;
                let octets = page::bytes_mut(these);
                octets.copy_from_slice(&line.room.bytes()[..octets.len()]);
                for (_, content) in these.iter_mut().enumerate().filter(|(at, _)| mask >> at & 1 == 0) {
                    content.fill(0);
                }
                Ok(())
            })?;
            rest = others;
        }
        Ok(())
    }

    /// Over the line, which is opened anew if it broke. Who asks twice is answered twice.
    fn with<T>(&self, mut talk: impl FnMut(&mut Line) -> Result<T, ParentError>) -> Result<T, ParentError> {
        let mut kept = locked(&self.line);
        let mut in_vain = Duration::ZERO;
        loop {
            let mut line = match kept.take() {
                Some(line) => line,
                None => self.open()?,
            };
            let began = Instant::now();
            match talk(&mut line) {
                Err(ParentError::Broken(error)) if in_vain < RETURN && !self.is_given_up() => {
                    tracing::debug!(%error, "the line to another guest's pager broke");
                    thread::sleep(RETRY);
                    in_vain += began.elapsed();
                }
                Ok(told) => {
                    *kept = Some(line);
                    return Ok(told);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn open(&self) -> Result<Line, ParentError> {
        let began = Instant::now();
        loop {
            let error = match self.try_open() {
                Ok(line) => return Ok(line),
                Err(error) => error,
            };
            let is_over = match (patience(&error), self.has_ended()) {
                (Duration::ZERO, _) => true,
                // Whoever starts its pagers may be away for a while, and until then it waits as this guest does.
                (_, Some(has_ended)) => has_ended,
                (patience, None) => began.elapsed() > patience,
            };
            if is_over || self.is_given_up() {
                return Err(error);
            }
            thread::sleep(RETRY);
        }
    }

    /// Whether the other machine has; none: that is not known.
    fn has_ended(&self) -> Option<bool> {
        let machine = locked(&self.machine);
        let mut polled = [PollFd::new(machine.as_ref()?, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).ok()?;
        Some(!polled[0].revents().is_empty())
    }

    fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    fn try_open(&self) -> Result<Line, ParentError> {
        let client = Client::connect(&self.control, PATIENCE).map_err(ParentError::Gone)?;
        // Its pager answers, so it is there, and nobody else has its number.
        let process = client.machine().and_then(Pid::from_raw);
        if let Some(process) = process.and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok()) {
            *locked(&self.machine) = Some(process);
        }
        let Pages(there) = client.memory();
        if there != self.pages {
            return Err(ParentError::OtherSize { there, here: self.pages });
        }
        let stream = client.read(&self.capture).map_err(ParentError::Gone)?;
        let (descriptor, room) = make_room().map_err(ParentError::Broken)?;
        send_room(&stream, &descriptor).map_err(ParentError::Broken)?;
        Ok(Line { stream, room })
    }
}

impl Line {
    fn ask(&self, ask: Ask) -> Result<(), ParentError> {
        (&mut &self.stream).write_all(&ask.encode()).map_err(ParentError::Broken)
    }

    fn answer(&self) -> Result<u64, ParentError> {
        let mut octets = [0; ANSWER];
        (&mut &self.stream).read_exact(&mut octets).map_err(ParentError::Broken)?;
        Answer::decode(&octets).word.map_err(ParentError::Over)
    }
}

/// How long it may help to try again.
fn patience(error: &ParentError) -> Duration {
    match error {
        ParentError::Gone(ClientError::Unreachable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            APPEAR
        }
        ParentError::Gone(ClientError::Unreachable { .. } | ClientError::NoAnswer { .. }) => RETURN,
        ParentError::Broken(_) => RETURN,
        _ => Duration::ZERO,
    }
}

/// The pages of a run, by the chunks in which they lie.
fn parts(run: Run) -> impl Iterator<Item = Few> {
    let chunks = run.first / CHUNK..run.end().div_ceil(CHUNK);
    chunks.filter_map(move |chunk| {
        let (first, end) = (run.first.max(chunk * CHUNK), run.end().min((chunk + 1) * CHUNK));
        Few::new(first, end.saturating_sub(first) as u32)
    })
}

impl Source for Parent {
    fn fetch(&self, _: &mut Disk, pages: &[(u64, Away)], contents: &mut [Page]) -> Result<(), FetchError> {
        let mut rest = contents;
        for run in pages.chunk_by(|(page, _), (next, _)| page + 1 == *next) {
            let (these, others) = rest.split_at_mut(run.len());
            let first = run[0].0;
            let lost = |error| FetchError { page: first, lost: Lost::Parent(error) };
            self.read(Run::new(first, run.len() as u64), these).map_err(lost)?;
            rest = others;
        }
        Ok(())
    }
    fn free(&self, _: Away) {}
}
