//! The format of a segment, version 1: a head, then frames to the end of the file.
//!
//! Owns the octets, all numbers big-endian. Head: `LUCSPOOL` and the version, 4 octets. Frame: the payload's length and the
//! checksum (4 octets each, CRC-32 over all that follows), the number of its first record (8), how many records it has (4),
//! and the payload: IPFIX messages, whole. A frame without records has templates. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// What a segment begins with.
pub(super) const HEAD: [u8; 12] = *b"LUCSPOOL\0\0\0\x01";
/// Octets before a frame's payload.
pub(super) const HEADER: usize = 20;
/// Octets of a payload that a reader is willing to believe; a batch is far smaller.
pub(super) const LARGEST: usize = 4 << 20;

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: usize,
    checksum: u32,
    /// The number of the first record.
    pub(super) first: u64,
    /// Records and losses in the payload.
    pub(super) count: u32,
}

impl Header {
    /// Reads a header; none when it cannot be one.
    pub(super) fn parse(octets: &[u8; HEADER]) -> Option<Self> {
        let number = |from: usize| octets[from..from + 4].iter().fold(0, |n: u32, octet| n << 8 | u32::from(*octet));
        let length = usize::try_from(number(0)).ok().filter(|length| (1..=LARGEST).contains(length))?;
        let first = u64::from(number(8)) << 32 | u64::from(number(12));
        Some(Self { length, checksum: number(4), first, count: number(16) })
    }

    /// Whether this is the payload that the header was written for.
    pub(super) fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.length && checksum(self.first, self.count, payload) == self.checksum
    }

    /// The number behind the last record.
    pub(super) const fn end(&self) -> u64 {
        self.first.saturating_add(self.count as u64)
    }
}

/// A whole frame.
pub(super) fn encode(first: u64, count: u32, payload: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(HEADER + payload.len());
    octets.extend_from_slice(&(payload.len() as u32).to_be_bytes()); // at most LARGEST by the size of batches
    octets.extend_from_slice(&checksum(first, count, payload).to_be_bytes());
    octets.extend_from_slice(&first.to_be_bytes());
    octets.extend_from_slice(&count.to_be_bytes());
    octets.extend_from_slice(payload);
    octets
}

fn checksum(first: u64, count: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&first.to_be_bytes());
    hasher.update(&count.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// How much of a segment counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Valid {
    /// Octets up to the end of the last whole frame; 0 when not even the head is there.
    pub(super) octets: u64,
    /// The number behind the last record.
    pub(super) end: u64,
}

/// Looks through a segment that begins with record `first`, up to where it is torn: frames follow each other without gap.
pub(super) fn valid(segment: &[u8], first: u64) -> Valid {
    let mut valid = Valid { octets: 0, end: first };
    let Some(mut rest) = segment.strip_prefix(&HEAD) else { return valid };
    valid.octets = HEAD.len() as u64;
    while let Some((head, behind)) = rest.split_first_chunk::<HEADER>() {
        let Some(header) = Header::parse(head).filter(|header| header.first == valid.end) else { break };
        let Some((payload, behind)) = behind.split_at_checked(header.length) else { break };
        if !header.fits(payload) {
            break;
        }
        valid = Valid { octets: valid.octets + (HEADER + header.length) as u64, end: header.end() };
        rest = behind;
    }
    valid
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<Valid>) {
        let (mut octets, mut ends, mut next) = (HEAD.to_vec(), Vec::new(), 7);
        ends.push(Valid { octets: HEAD.len() as u64, end: next });
        for payload in payloads {
            octets.extend(encode(next, payload.len() as u32, payload));
            next += payload.len() as u64;
            ends.push(Valid { octets: octets.len() as u64, end: next });
        }
        (octets, ends)
    }

    proptest! {
        /// Wherever a kill or a power cut ends the file, whole frames count and nothing else.
        #[test]
        fn a_segment_cut_anywhere_has_the_frames_before_the_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), cut: prop::sample::Index,
        ) {
            let (octets, ends) = segment(&payloads);
            let cut = cut.index(octets.len() + 1);
            let nothing = Valid { octets: 0, end: 7 };
            let expected = ends.iter().rev().find(|valid| valid.octets <= cut as u64).copied().unwrap_or(nothing);
            prop_assert_eq!(valid(&octets[..cut], 7), expected);
        }

        #[test]
        fn an_octet_that_changed_ends_what_counts_before_it(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..6),
            at: prop::sample::Index, change in 1u8..,
        ) {
            let (mut octets, _) = segment(&payloads);
            let at = at.index(octets.len());
            octets[at] ^= change;
            prop_assert!(valid(&octets, 7).octets <= at as u64);
        }

        #[test]
        fn no_octets_make_the_reader_panic(octets: Vec<u8>) {
            let _ = valid(&[&HEAD[..], &octets].concat(), 0);
        }
    }
}
