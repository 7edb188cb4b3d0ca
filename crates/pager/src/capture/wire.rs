//! What the reader of a capture and its pager say to each other, once the control socket has become the capture's own.
//!
//! Owns the words: 16 octets asked, 24 answered, in the order in which they were asked, native-endian as both are on one
//! host. Contents lie in the room that the reader has made and both have mapped: [`SLOTS`] slots of a chunk each.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::page::PAGE;

/// Pages of a chunk: as many as a word has bits.
pub(crate) const CHUNK: u64 = 64;
pub(crate) const CHUNK_BYTES: usize = CHUNK as usize * PAGE;
/// Chunks that are asked for at once: 2 MiB, which a processor's cache holds while they are sealed.
pub(crate) const SLOTS: usize = 8;
pub(crate) const ROOM: usize = SLOTS * CHUNK_BYTES;

pub(crate) const ASK: usize = 16;
pub(crate) const ANSWER: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Now is the instant: the guest stands still. Answered once everything is held as it is.
    Freeze,
    /// Which pages of this chunk are not zeros.
    Look { chunk: u64 },
    /// The same, and their contents into this slot; the capture then has nothing to do with them any more.
    Take { chunk: u64, slot: u32 },
    /// Which pages of this chunk may be other than zeros, as far as is known without looking into them, and are still held.
    Find { chunk: u64 },
    /// Which of these pages, which lie in one chunk, are not zeros, and their contents into the first slot; they stay held.
    Read(Few),
    /// The reader has these: they need not be held for it any more.
    Have(Few),
}

/// Pages of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Few {
    pub(crate) first: u64,
    pub(crate) count: u32,
}

impl Few {
    /// None: they are none, or not of one chunk.
    pub(crate) fn new(first: u64, count: u32) -> Option<Self> {
        let fit = count > 0 && first % CHUNK + u64::from(count) <= CHUNK;
        fit.then_some(Self { first, count })
    }
}

/// Why a capture is over before its reader has all of it. The guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    #[error("its time is over")]
    Expired,
    #[error("the guest is put to sleep")]
    Asleep,
    #[error("what the guest has written over could not be kept")]
    CannotKeep,
    #[error("a page could not be read")]
    Unreadable,
    #[error("the machine has ended")]
    MachineGone,
    #[error("pages were on their way for too long")]
    Busy,
    #[error("it was asked for what there is not, or before it was frozen")]
    NotUnderstood,
    #[error("it was let go")]
    LetGo,
}

impl Over {
    const ALL: [Self; 8] = [
        Self::Expired,
        Self::Asleep,
        Self::CannotKeep,
        Self::Unreadable,
        Self::MachineGone,
        Self::Busy,
        Self::NotUnderstood,
        Self::LetGo,
    ];

    fn from_code(code: u64) -> Self {
        let at = usize::try_from(code).ok().and_then(|code| code.checked_sub(1));
        at.and_then(|at| Self::ALL.get(at)).copied().unwrap_or(Self::NotUnderstood)
    }
}

/// A word for what was asked (microseconds of a freeze, else a bit for each page that is not zeros, the first one's lowest), and
/// the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) chunk: u64,
    pub(crate) word: Result<u64, Over>,
}

impl Ask {
    pub(crate) fn encode(self) -> [u8; ASK] {
        let (kind, slot, chunk) = match self {
            Self::Freeze => (1_u32, 0, 0),
            Self::Look { chunk } => (2, 0, chunk),
            Self::Take { chunk, slot } => (3, slot, chunk),
            Self::Find { chunk } => (4, 0, chunk),
            Self::Read(Few { first, count }) => (5, count, first),
            Self::Have(Few { first, count }) => (6, count, first),
        };
        let mut octets = [0; ASK];
        octets[..4].copy_from_slice(&kind.to_ne_bytes());
        octets[4..8].copy_from_slice(&slot.to_ne_bytes());
        octets[8..].copy_from_slice(&chunk.to_ne_bytes());
        octets
    }

    /// None: it is none, or of a slot that there is not.
    pub(crate) fn decode(octets: &[u8; ASK]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, chunk @ ..] = *octets;
        let (slot, chunk) = (u32::from_ne_bytes([e, f, g, h]), u64::from_ne_bytes(chunk));
        match u32::from_ne_bytes([a, b, c, d]) {
            1 => Some(Self::Freeze),
            2 => Some(Self::Look { chunk }),
            3 if (slot as usize) < SLOTS => Some(Self::Take { chunk, slot }),
            4 => Some(Self::Find { chunk }),
            5 => Few::new(chunk, slot).map(Self::Read),
            6 => Few::new(chunk, slot).map(Self::Have),
            _ => None,
        }
    }
}

impl Answer {
    pub(crate) fn encode(self) -> [u8; ANSWER] {
        let (code, word) = match self.word {
            Ok(word) => (0, word),
            Err(over) => (Over::ALL.iter().position(|known| *known == over).map_or(0, |at| at as u64 + 1), 0),
        };
        let mut octets = [0; ANSWER];
        for (part, number) in octets.as_chunks_mut::<8>().0.iter_mut().zip([code, self.chunk, word]) {
            *part = number.to_ne_bytes();
        }
        octets
    }

    pub(crate) fn decode(octets: &[u8; ANSWER]) -> Self {
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(octets.as_chunks::<8>().0) {
            *number = u64::from_ne_bytes(*part);
        }
        let [code, chunk, word] = numbers;
        Self { chunk, word: if code == 0 { Ok(word) } else { Err(Over::from_code(code)) } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_said_is_what_is_heard(chunk in any::<u64>(), slot in 0..SLOTS as u32, word in any::<u64>()) {
            let few = Few::new(chunk & !(CHUNK - 1), slot + 1).unwrap();
            let named = [Ask::Find { chunk }, Ask::Read(few), Ask::Have(few)];
            for ask in [Ask::Freeze, Ask::Look { chunk }, Ask::Take { chunk, slot }].into_iter().chain(named) {
                prop_assert_eq!(Ask::decode(&ask.encode()), Some(ask));
            }
            for word in std::iter::once(Ok(word)).chain(Over::ALL.map(Err)) {
                let answer = Answer { chunk, word };
                prop_assert_eq!(Answer::decode(&answer.encode()), answer);
            }
        }

        #[test]
        fn no_octets_make_either_side_fail(ask in any::<[u8; ASK]>(), answer in any::<[u8; ANSWER]>()) {
            let slot = Ask::decode(&ask).and_then(|ask| match ask { Ask::Take { slot, .. } => Some(slot as usize), _ => None });
            prop_assert!(slot.is_none_or(|slot| slot < SLOTS));
            if let Some(Ask::Read(few) | Ask::Have(few)) = Ask::decode(&ask) {
                prop_assert_eq!(few.first / CHUNK, (few.first + u64::from(few.count) - 1) / CHUNK);
            }
            let _ = Answer::decode(&answer);
        }
    }
}
