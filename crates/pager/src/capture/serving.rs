//! The pager's end of a capture's connection.
//!
//! Owns the talk from the first word to the end, whoever brings that about: the reader who has all or is gone, the time that
//! is over, or the pager, which has marked the capture as over. In the end nothing of the guest is held any more.

use std::{
    fs::File,
    io::{self, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use lucarne_memory::run::Run;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::SealFlags,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

use super::{
    held::{Held, Phase},
    taking::Way,
    wire::{ASK, Answer, Ask, CHUNK, CHUNK_BYTES, Over, ROOM},
};
use crate::{disk::Disk, page, pager::Pager, shared::Arena, step::Step};

/// How often it is looked whether the capture is over.
const TICK: Duration = Duration::from_millis(20);
/// Captures of longer are not begun.
pub const LONGEST: u32 = 3600;

/// One capture while a connection to it lasts.
#[derive(Debug)]
pub(crate) struct Serving<'a> {
    pager: &'a Pager,
    number: u64,
    /// Of one that ends with this connection: when it ends at the latest.
    end: Option<Instant>,
}

impl<'a> Serving<'a> {
    /// Arms one that ends with this. `Err`: why there is none.
    pub(crate) fn begin(pager: &'a Pager, seconds: u32) -> Result<Self, String> {
        if !(1..=LONGEST).contains(&seconds) {
            return Err(format!("a capture takes between 1 and {LONGEST} seconds"));
        }
        let number = pager.begin_capture(None)?;
        Ok(Self { pager, number, end: Some(Instant::now() + Duration::from_secs(seconds.into())) })
    }

    /// Reads one that goes on without this.
    pub(crate) fn of(pager: &'a Pager, name: &str) -> Result<Self, String> {
        let number = pager.book().captures.named(name);
        number.map(|number| Self { pager, number, end: None }).ok_or_else(|| format!("there is no capture {name}"))
    }

    /// Until its end; the reader has heard that it is armed.
    pub(crate) fn run(self, stream: &UnixStream) -> io::Result<()> {
        let last = self.talk(stream)?;
        // Who hears that it is over may begin another.
        drop(self);
        last.map_or(Ok(()), |last| (&mut &*stream).write_all(&last.encode()))
    }

    /// Answers until the last word, which is returned; none, if nobody listens any more.
    fn talk(&self, stream: &UnixStream) -> io::Result<Option<Answer>> {
        let mut room = receive_room(stream)?;
        let mut disk = Disk::new();
        let mut octets = [0; ASK];
        loop {
            match self.wait(stream)? {
                Waited::Heard => {}
                Waited::Gone => return Ok(None),
                Waited::Over(over) => return Ok(Some(Answer { chunk: u64::MAX, word: Err(over) })),
            }
            if (&mut &*stream).read_exact(&mut octets).is_err() {
                return Ok(None);
            }
            let answer = self.answer(Ask::decode(&octets), &mut disk, &mut room);
            if answer.word.is_err() {
                return Ok(Some(answer));
            }
            (&mut &*stream).write_all(&answer.encode())?;
        }
    }

    fn answer(&self, ask: Option<Ask>, disk: &mut Disk, room: &mut Arena) -> Answer {
        let slot = match ask {
            Some(Ask::Take { slot, .. }) => slot as usize,
            _ => 0,
        };
        let contents = page::pages_mut(&mut room.bytes_mut()[slot * CHUNK_BYTES..][..CHUNK_BYTES]);
        let number = self.number;
        let mut read = |run, way| self.pager.read_run(number, run, way, (&mut *disk, &mut *contents));
        let whole = |chunk: u64| Run::new(chunk.saturating_mul(CHUNK), CHUNK);
        let (chunk, word) = match ask {
            Some(Ask::Freeze) => (0, self.pager.freeze_capture(number).map(|took| took.as_micros() as u64)),
            Some(Ask::Look { chunk }) => (chunk, read(whole(chunk), Way::Look)),
            Some(Ask::Take { chunk, .. }) => (chunk, read(whole(chunk), Way::Take)),
            Some(Ask::Find { chunk }) => (chunk, self.pager.find_run(number, whole(chunk))),
            Some(Ask::Read(few)) => (few.first, read(Run::new(few.first, few.count.into()), Way::Read)),
            Some(Ask::Have(few)) => (few.first, read(Run::new(few.first, few.count.into()), Way::LetGo)),
            None => return Answer { chunk: 0, word: Err(Over::NotUnderstood) },
        };
        self.pager.observer.at(Step::Lent);
        let word = word.map_err(|error| {
            tracing::warn!(instance = %self.pager.instance, %error, "a capture ends");
            error.over()
        });
        Answer { chunk, word }
    }

    fn wait(&self, stream: &UnixStream) -> io::Result<Waited> {
        loop {
            match self.pager.book().captures.get(self.number).map(Held::phase) {
                Some(Phase::Over(over)) => return Ok(Waited::Over(over)),
                Some(Phase::Armed | Phase::Frozen) => {}
                None => return Ok(Waited::Over(Over::LetGo)),
            }
            if self.end.is_some_and(|end| Instant::now() > end) {
                return Ok(Waited::Over(Over::Expired));
            }
            if self.pager.ending.has_begun() {
                return Ok(Waited::Over(Over::MachineGone));
            }
            let mut polled = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
            poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) }))?;
            let events = polled[0].revents();
            if events.contains(PollFlags::IN) && !events.intersects(PollFlags::RDHUP | PollFlags::HUP) {
                return Ok(Waited::Heard);
            }
            if !events.is_empty() {
                return Ok(Waited::Gone);
            }
        }
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.pager.end_capture(self.number, Over::Expired);
            self.pager.lift_capture(self.number);
        }
    }
}

enum Waited {
    Heard,
    Gone,
    Over(Over),
}

/// The room for contents, which the reader has made. It cannot become shorter under this process.
fn receive_room(stream: &UnixStream) -> io::Result<Arena> {
    let strange = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let [room] = <[OwnedFd; 1]>::try_from(descriptors.flatten().collect::<Vec<_>>())
        .map_err(|_| strange("a capture's room is one descriptor"))?;
    let seals = rustix::fs::fcntl_get_seals(&room)?;
    let room: File = room.into();
    if !seals.contains(SealFlags::SHRINK) || room.metadata()?.len() != ROOM as u64 {
        return Err(strange("a capture's room is a memory file of its size that cannot become shorter"));
    }
    Arena::map(&room, ROOM)
}

const _: () = assert!(CHUNK == 64);
