//! A guest's memory as of one instant, read while the guest runs on: the reader's side, and the name for all of it.
//!
//! Owns one connection to a pager. [`Capture::begin`] *arms* it: the guest runs, and its memory is write-protected a part at a
//! time. The caller then stops the guest's processors and calls [`Capture::freeze`], which has little left to do, however much
//! memory there is; and lets them go on. From then on [`Capture::next`] gives what the memory was at that instant, in the order
//! of its pages. What the guest writes over meanwhile its pager keeps; what is away is read where it is, and nothing is brought in
//! or sent out for it. Dropping the capture ends it, whatever is left, and then nothing of the guest is held for it any more.
//!
//! A guest without a pager is read as it stands ([`Still`]), by the same words.
//!
//! A capture may have a name instead ([`crate::client::Client::hold`]): then it is there until it is let go, whoever reads it
//! ([`crate::parent`]), and what was read stays until the reader says that it has it. Several may be under way.
//!
//! Inside: `wire` is what both sides say, `held` which pages still are what they were, `under_way` all of those, `kept` what
//! other pages were, `record` where a next pager finds all that, `taking` and `serving` the pager's side.

pub(crate) mod held;
pub(crate) mod kept;
pub(crate) mod record;
pub(crate) mod serving;
mod still;
pub(crate) mod taking;
pub(crate) mod under_way;
pub(crate) mod wire;

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use lucarne_model::{InstanceId, memory::Pages};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
pub use serving::LONGEST;
pub use still::Still;
pub use wire::Over;
use wire::{ANSWER, Answer, Ask, CHUNK, CHUNK_BYTES, ROOM, SLOTS};

use crate::{
    client::{Client, ClientError},
    page::PAGE,
    shared::Arena,
};

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("a capture cannot begin")]
    Refused(#[source] ClientError),
    #[error("there is no room for a capture")]
    NoRoom(#[source] io::Error),
    #[error("the guest's memory cannot be read")]
    Unreadable(#[source] io::Error),
    /// The pager or its guest has ended, or does not answer. The guest, if it runs, is unharmed.
    #[error("the pager broke off a capture")]
    Broken(#[source] io::Error),
    #[error("a capture is over: {0}")]
    Over(Over),
}

/// Up to 64 pages in a row as they were.
#[derive(Debug)]
pub struct Taken<'a> {
    first: u64,
    occupied: u64,
    contents: &'a [u8],
}

impl<'a> Taken<'a> {
    /// The number of the first page.
    pub const fn first(&self) -> u64 {
        self.first
    }
    /// Which of the pages were not zeros, a bit each.
    pub const fn occupied(&self) -> u64 {
        self.occupied
    }
    /// How many pages.
    pub const fn count(&self) -> u64 {
        self.contents.len() as u64 / Pages::SIZE
    }
    /// The contents of the pages from `first + at` on that are alike, `most` at most, and how many those are; none: they were
    /// zeros.
    pub fn alike(&self, at: u64, most: u64) -> (u64, Option<&'a [u8]>) {
        let most = most.min(self.count().saturating_sub(at));
        if most == 0 {
            return (0, None);
        }
        let from = self.occupied >> at;
        let is_occupied = from & 1 == 1;
        let count = u64::from(if is_occupied { from.trailing_ones() } else { from.trailing_zeros() }).min(most);
        (count, is_occupied.then(|| &self.contents[at as usize * PAGE..][..count as usize * PAGE]))
    }
}

/// Pages in one of the words of [`Capture::occupied`], and in one [`Taken`].
pub const TOGETHER: u64 = CHUNK;

#[derive(Debug)]
pub struct Capture {
    stream: UnixStream,
    room: Arena,
    instance: InstanceId,
    pages: u64,
    /// The next chunk to be asked for, and to be given.
    asked: u64,
    given: u64,
}

impl Capture {
    /// Arms a capture at the pager that listens at `control`, for at most so many seconds. It takes some milliseconds for each
    /// GiB of the guest, which runs on. Later calls wait at most `patience` each.
    pub fn begin(control: &Path, seconds: u32, patience: Duration) -> Result<Self, CaptureError> {
        let (room, arena) = make_room().map_err(CaptureError::NoRoom)?;
        let client = Client::connect(control, patience).map_err(CaptureError::Refused)?;
        let (instance, Pages(pages)) = (client.instance(), client.memory());
        let stream = client.capture(seconds).map_err(CaptureError::Refused)?;
        send_room(&stream, &room).map_err(CaptureError::Broken)?;
        Ok(Self { stream, room: arena, instance, pages, asked: 0, given: 0 })
    }

    pub const fn instance(&self) -> InstanceId {
        self.instance
    }
    pub const fn memory(&self) -> Pages {
        Pages(self.pages)
    }
    const fn chunks(&self) -> u64 {
        self.pages.div_ceil(CHUNK)
    }

    /// This is the instant. To be called while the guest's processors stand still; they can go on as soon as it has returned. How
    /// long the pager took for it.
    pub fn freeze(&mut self, patience: Duration) -> Result<Duration, CaptureError> {
        let before = self.stream.read_timeout().map_err(CaptureError::Broken)?;
        self.stream.set_read_timeout(Some(patience)).map_err(CaptureError::Broken)?;
        let frozen = self.ask(Ask::Freeze).and_then(|()| self.answer());
        self.stream.set_read_timeout(before).map_err(CaptureError::Broken)?;
        frozen.map(|answer| Duration::from_micros(answer.1))
    }

    /// Which pages were not zeros: bit `i % 64` of word `i / 64`. To be asked before the first [`next`](Self::next), which
    /// agrees with it.
    pub fn occupied(&mut self) -> Result<Vec<u64>, CaptureError> {
        let chunks = self.chunks();
        let mut words = Vec::with_capacity(chunks as usize);
        for chunk in 0..chunks.min(SLOTS as u64) {
            self.ask(Ask::Look { chunk })?;
        }
        for chunk in 0..chunks {
            words.push(self.answer()?.1);
            if chunk + (SLOTS as u64) < chunks {
                self.ask(Ask::Look { chunk: chunk + SLOTS as u64 })?;
            }
        }
        Ok(words)
    }

    /// The next pages; none at the end. While the caller is busy with these, the pager reads those behind them.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend, and what it lends is not copied")]
    pub fn next(&mut self) -> Result<Option<Taken<'_>>, CaptureError> {
        let chunks = self.chunks();
        // The slot of the one that was given last is free by now.
        while self.asked < chunks.min(self.given + SLOTS as u64) {
            self.ask(Ask::Take { chunk: self.asked, slot: (self.asked % SLOTS as u64) as u32 })?;
            self.asked += 1;
        }
        if self.given == chunks {
            return Ok(None);
        }
        let (chunk, occupied) = self.answer()?;
        if chunk != self.given {
            return Err(CaptureError::Over(Over::NotUnderstood));
        }
        self.given += 1;
        let first = chunk * CHUNK;
        let octets = CHUNK.min(self.pages - first) as usize * PAGE;
        let contents = &self.room.bytes()[(chunk % SLOTS as u64) as usize * CHUNK_BYTES..][..octets];
        Ok(Some(Taken { first, occupied, contents }))
    }

    fn ask(&self, ask: Ask) -> Result<(), CaptureError> {
        // One who has given up may have said why.
        match (&mut &self.stream).write_all(&ask.encode()) {
            Err(error) => Err(self.answer().err().unwrap_or(CaptureError::Broken(error))),
            Ok(()) => Ok(()),
        }
    }

    fn answer(&self) -> Result<(u64, u64), CaptureError> {
        let mut octets = [0; ANSWER];
        (&mut &self.stream).read_exact(&mut octets).map_err(CaptureError::Broken)?;
        let Answer { chunk, word } = Answer::decode(&octets);
        word.map(|word| (chunk, word)).map_err(CaptureError::Over)
    }
}

impl Drop for Capture {
    /// Waits until the pager has let go of everything, but for no longer than for an answer.
    fn drop(&mut self) {
        if self.stream.shutdown(std::net::Shutdown::Write).is_ok() {
            // What was asked for and is not wanted any more, then the end.
            while matches!((&mut &self.stream).read(&mut [0; ANSWER]), Ok(1..)) {}
        }
    }
}

/// Room for contents, which the pager writes and this process reads. It keeps its size.
pub(crate) fn make_room() -> io::Result<(OwnedFd, Arena)> {
    let room = memfd_create("lucarne-capture", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let file: File = room.try_clone()?.into();
    let arena = Arena::map(&file, ROOM)?;
    fcntl_add_seals(&room, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok((room, arena))
}

pub(crate) fn send_room(stream: &UnixStream, room: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [room.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
