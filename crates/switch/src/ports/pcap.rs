//! A port that reads a capture: frames as `tcpdump -w` keeps them, for benches and replays.
//!
//! Owns the classic file format (draft-ietf-opsawg-pcap), in both byte orders and both resolutions of time. A capture
//! cannot be sent to: what is given is counted.

use std::io::{self, ErrorKind, Read};

use lucarne_model::Moment;

use super::{Batch, Port};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// The largest snapshot length that tcpdump writes.
const LONGEST: usize = 262_144;

/// Why a file is not a capture that can be read.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    #[error("the capture cannot be read")]
    Read(#[source] io::Error),
    #[error("{0:#010x} is not the beginning of a pcap file")]
    Magic(u32),
    #[error("the capture has link type {0}, and not that of Ethernet (1)")]
    LinkType(u32),
    #[error("a record of {0} octets is longer than any capture has")]
    TooLong(usize),
}

/// A capture from its first frame to its last.
#[derive(Debug)]
pub struct PcapPort<R> {
    from: R,
    swapped: bool,
    nanoseconds: bool,
    /// When the last frame that was read had been captured.
    captured: Moment,
    ended: bool,
    frame: Vec<u8>,
    given: u64,
}

impl<R: Read> PcapPort<R> {
    /// Reads the file's header from `from`, which should be buffered.
    pub fn open(mut from: R) -> Result<Self, PcapError> {
        let mut header = [0; FILE_HEADER];
        from.read_exact(&mut header).map_err(PcapError::Read)?;
        let magic = word(&header, 0, false);
        let (swapped, nanoseconds) = match (magic, magic.swap_bytes()) {
            (MICROSECONDS, _) => (false, false),
            (NANOSECONDS, _) => (false, true),
            (_, MICROSECONDS) => (true, false),
            (_, NANOSECONDS) => (true, true),
            _ => return Err(PcapError::Magic(magic)),
        };
        // The upper bits may say how long a check sequence follows each frame.
        match word(&header, 20, swapped) & 0xffff {
            ETHERNET => {}
            other => return Err(PcapError::LinkType(other)),
        }
        let frame = Vec::new();
        Ok(Self { from, swapped, nanoseconds, captured: Moment::EPOCH, ended: false, frame, given: 0 })
    }

    /// When the last frame that was read had been captured.
    pub const fn captured(&self) -> Moment {
        self.captured
    }
    /// Whether the last frame was read.
    pub const fn is_at_end(&self) -> bool {
        self.ended
    }
    /// How many frames were given to the port.
    pub const fn given(&self) -> u64 {
        self.given
    }

    /// Reads the next record into `self.frame`; false at the end. A capture that was cut in a record ends before it, as
    /// one does whose writer was killed.
    fn next(&mut self) -> io::Result<bool> {
        let mut header = [0; RECORD_HEADER];
        if !read_whole(&mut self.from, &mut header)? {
            return Ok(false);
        }
        let [seconds, fraction, length] = [0, 4, 8].map(|at| word(&header, at, self.swapped));
        let length = length as usize;
        if length > LONGEST {
            return Err(io::Error::new(ErrorKind::InvalidData, PcapError::TooLong(length)));
        }
        self.frame.resize(length, 0);
        let micros = if self.nanoseconds { fraction / 1000 } else { fraction };
        self.captured = Moment(u64::from(seconds) * 1_000_000 + u64::from(micros));
        read_whole(&mut self.from, &mut self.frame)
    }
}

impl<R: Read> Port for PcapPort<R> {
    fn receive(&mut self, into: &mut Batch) -> io::Result<()> {
        while !into.is_full() && !self.ended {
            match self.next() {
                Ok(true) => {}
                Ok(false) => {
                    self.ended = true;
                    break;
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
            let frame = &self.frame;
            // What is longer than the batch's frames is cut, as on any port.
            let copied = into.fill(|room| {
                let length = frame.len().min(room.len());
                room[..length].copy_from_slice(&frame[..length]);
                Ok::<_, io::Error>(length)
            });
            copied?;
        }
        Ok(())
    }

    fn send(&mut self, frames: &Batch) -> usize {
        self.given += frames.len() as u64;
        frames.len()
    }
}

fn word(bytes: &[u8], at: usize, swapped: bool) -> u32 {
    let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if swapped { word.swap_bytes() } else { word }
}

/// False when `from` ends before `into` is full.
fn read_whole(from: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capture(magic: u32, big_endian: bool, frames: &[&[u8]]) -> Vec<u8> {
        let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut file = Vec::new();
        for value in [magic, 0x0004_0002, 0, 0, 65_535, ETHERNET] {
            file.extend(word(value));
        }
        for (number, frame) in frames.iter().enumerate() {
            for value in [100 + number as u32, 7000, frame.len() as u32, frame.len() as u32] {
                file.extend(word(value));
            }
            file.extend_from_slice(frame);
        }
        file
    }

    fn frames(file: &[u8]) -> Vec<Vec<u8>> {
        let mut port = PcapPort::open(file).unwrap();
        let mut batch = Batch::new(2, 100);
        let mut all = Vec::new();
        while !port.is_at_end() {
            batch.clear();
            port.receive(&mut batch).unwrap();
            all.extend(batch.iter().map(<[u8]>::to_vec));
        }
        all
    }

    #[test]
    fn both_byte_orders_and_resolutions_are_read() {
        for big_endian in [false, true] {
            for (magic, micros) in [(MICROSECONDS, 7000), (NANOSECONDS, 7)] {
                let file = capture(magic, big_endian, &[b"one", b"two", b"three"]);
                assert_eq!(frames(&file), [&b"one"[..], b"two", b"three"]);
                let mut port = PcapPort::open(&file[..]).unwrap();
                port.receive(&mut Batch::new(1, 100)).unwrap();
                assert_eq!(port.captured(), Moment(100_000_000 + micros));
            }
        }
    }

    #[test]
    fn a_capture_that_was_cut_gives_its_whole_frames() {
        let file = capture(MICROSECONDS, false, &[b"one", b"two"]);
        for cut in FILE_HEADER..file.len() {
            let whole = (cut - FILE_HEADER) / (RECORD_HEADER + 3);
            assert_eq!(frames(&file[..cut]).len(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_a_capture_of_ethernet_is_refused_by_reason() {
        assert!(matches!(PcapPort::open(&b"short"[..]), Err(PcapError::Read(_))));
        assert!(matches!(PcapPort::open(&[0x0a; 24][..]), Err(PcapError::Magic(0x0a0a_0a0a))));
        let mut wifi = capture(MICROSECONDS, false, &[]);
        wifi[20] = 105;
        assert!(matches!(PcapPort::open(&wifi[..]), Err(PcapError::LinkType(105))));
        let mut huge = capture(MICROSECONDS, false, &[b"one"]);
        huge[FILE_HEADER + 11] = 0xff;
        let mut port = PcapPort::open(&huge[..]).unwrap();
        assert_eq!(port.receive(&mut Batch::new(1, 100)).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn no_octets_make_the_reader_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let file = [capture(MICROSECONDS, false, &[]), octets].concat();
            let mut port = PcapPort::open(&file[..]).unwrap();
            let _ = port.receive(&mut Batch::new(9, 100));
        }
    }
}
