//! Reading the spool for the connection, from any number on, while the store writes behind.
//!
//! Owns the position. It reads only below the number of which the store said that it is durable, so it never sees what may
//! still be cut back. All of it blocks.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use super::{
    frame::{HEAD, HEADER, Header},
    store::{path, segments},
};

/// Octets that one reading gives, about.
const CHUNK: usize = 256 << 10;

/// What is to be sent next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// IPFIX messages, whole.
    pub(crate) messages: Vec<u8>,
    /// The number behind the last record.
    pub(crate) end: u64,
}

#[derive(Debug)]
pub(crate) struct Reader {
    dir: PathBuf,
    segment: Option<Segment>,
    /// The number of the next record.
    next: u64,
}

#[derive(Debug)]
struct Segment {
    file: File,
    first: u64,
    position: u64,
}

impl Reader {
    /// A reader that gives record `wanted` first, or the frame that it is in, or the oldest behind it.
    /// [`Reader::next`] says which.
    pub(crate) fn open(dir: PathBuf, wanted: u64, durable: u64) -> io::Result<Self> {
        let firsts = segments(&dir)?;
        let oldest = firsts.first().copied().unwrap_or(wanted);
        let mut reader = Self { dir, segment: None, next: wanted.clamp(oldest.min(durable), durable) };
        reader.enter(&firsts)?;
        // Frames before the wanted one are passed over by their headers alone.
        while let Some(header) = reader.header()?
            && header.end() <= reader.next
            && let Some(segment) = &mut reader.segment
        {
            segment.position += (HEADER + header.length) as u64;
        }
        if reader.next < durable
            && let Some(header) = reader.header()?
        {
            reader.next = reader.next.min(header.first);
        }
        Ok(reader)
    }

    /// The number of the record that is given next.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// What follows, below number `durable`, with templates where a segment begins. None at damage: then [`Reader::next`]
    /// has moved on, and the receiver must be told of the gap.
    pub(crate) fn read(&mut self, durable: u64) -> io::Result<Option<Chunk>> {
        let mut messages = Vec::new();
        while self.next < durable && messages.len() < CHUNK {
            match self.frame()? {
                Some((header, payload)) => {
                    messages.extend(payload);
                    self.next = self.next.max(header.end());
                }
                None if self.enter_next()? => {}
                // What stands before the damage is sent first.
                None if !messages.is_empty() => break,
                None => {
                    self.pass_damage()?;
                    return Ok(None);
                }
            }
        }
        Ok(Some(Chunk { messages, end: self.next }))
    }

    /// The templates of the segment at hand: what a connection begins with.
    pub(crate) fn templates(&self) -> io::Result<Vec<u8>> {
        let Some(segment) = &self.segment else { return Ok(Vec::new()) };
        let start = Segment { file: segment.file.try_clone()?, first: segment.first, position: HEAD.len() as u64 };
        let found = start.header()?.filter(|header| header.count == 0);
        let payload = found.map(|header| start.payload(&header)).transpose()?;
        payload.flatten().ok_or_else(|| io::Error::other("a segment of the spool has no templates"))
    }

    /// The whole frame at the position, if it is the one that should stand there.
    fn frame(&mut self) -> io::Result<Option<(Header, Vec<u8>)>> {
        let next = self.next;
        let Some(header) = self.header()?.filter(|header| header.first == next) else { return Ok(None) };
        let Some(segment) = &mut self.segment else { return Ok(None) };
        let payload = segment.payload(&header)?;
        if payload.is_some() {
            segment.position += (HEADER + header.length) as u64;
        }
        Ok(payload.map(|payload| (header, payload)))
    }

    fn header(&self) -> io::Result<Option<Header>> {
        self.segment.as_ref().map_or(Ok(None), Segment::header)
    }

    /// Opens the segment that the next record is in.
    fn enter(&mut self, firsts: &[u64]) -> io::Result<()> {
        let first = firsts.iter().rev().find(|first| **first <= self.next).copied();
        self.segment = first
            .map(|first| {
                let file = File::open(path(&self.dir, first))?;
                io::Result::Ok(Segment { file, first, position: HEAD.len() as u64 })
            })
            .transpose()?;
        Ok(())
    }

    /// Goes on to the segment that begins with the next record; false if there is none but the one at hand.
    fn enter_next(&mut self) -> io::Result<bool> {
        let firsts = segments(&self.dir)?;
        let at_hand = self.segment.as_ref().map(|segment| segment.first);
        if at_hand == Some(self.next) || !firsts.contains(&self.next) {
            return Ok(false);
        }
        self.enter(&firsts)?;
        Ok(true)
    }

    /// Goes on to the next segment behind what cannot be read.
    fn pass_damage(&mut self) -> io::Result<()> {
        let firsts = segments(&self.dir)?;
        let behind = firsts.iter().copied().find(|first| *first > self.next);
        let behind = behind.ok_or_else(|| io::Error::other("the newest segment of the spool cannot be read"))?;
        tracing::error!(from = self.next, to = behind, "flow records in the spool are damaged and lost");
        self.next = behind;
        self.enter(&firsts)
    }
}

impl Segment {
    /// The header at the position; none at the end of the file, or where none can be.
    fn header(&self) -> io::Result<Option<Header>> {
        let mut octets = [0; HEADER];
        match self.file.read_exact_at(&mut octets, self.position) {
            Ok(()) => Ok(Header::parse(&octets)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What belongs to the header at the position; none when it is damaged.
    fn payload(&self, header: &Header) -> io::Result<Option<Vec<u8>>> {
        let mut payload = vec![0; header.length];
        match self.file.read_exact_at(&mut payload, self.position + HEADER as u64) {
            Ok(()) => Ok(Some(payload).filter(|payload| header.fits(payload))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}
