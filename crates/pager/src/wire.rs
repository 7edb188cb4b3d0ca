//! What a borrower and a lender of memory say to each other: frames over one TLS connection, each asked and then answered.
//!
//! Owns the format and its bounds. A frame is `length u32, kind u8, body`, little-endian; the length counts what follows it.
//! Pages are sealed before they are here and opened after ([`crate::seal`]), so a lender has noise. A copy is named by its
//! VM and its generation, of which no two of a VM are equal; its page's number comes along only to be told back when the
//! lender gives the copy up.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::InstanceId;

use crate::page::{PAGE, Page};

pub(crate) const VERSION: u32 = 1;
/// Pages of one frame at most.
pub(crate) const BATCH: usize = 64;
/// Copies that one frame names at most.
pub(crate) const NAMES: usize = 4096;
/// The longest frame that is read.
pub(crate) const LONGEST: usize = BATCH * (STORED + 1) + 64;
/// A copy with its names.
const STORED: usize = 4 + 8 + PAGE;
const _: () = assert!(LONGEST > NAMES * 12 + 64);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Brings and frees copies. It is the session: what it brought is gone when it ends.
    Bring,
    /// Fetches copies of a session that another connection keeps.
    Fetch,
}

/// First on every connection: for which VM, under which lease, in which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) role: Role,
    pub(crate) instance: InstanceId,
    pub(crate) epoch: u64,
    pub(crate) session: u64,
}

/// A copy that leaves: whose, which, and what a lender can make nothing of.
#[derive(Clone, Debug)]
pub(crate) struct Brought {
    pub(crate) page: u32,
    pub(crate) generation: u64,
    pub(crate) sealed: Page,
}

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Hello(Hello),
    /// Keep these. None at all asks what was given up meanwhile.
    Bring(Vec<Brought>),
    /// These will not be asked for again.
    Free(Vec<u64>),
    Fetch(Vec<u64>),
}

/// A copy that the lender does not have any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) page: u32,
    pub(crate) generation: u64,
}

/// Why a lender does not talk on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it speaks another version")]
    Version,
    #[error("it has no such lease with this host")]
    NoLease,
    #[error("it knows no such session")]
    NoSession,
    #[error("it understood nothing")]
    NotUnderstood,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Welcome,
    Refused(Refusal),
    /// So many of those that were brought, from the first one on, were taken; and what was given up since the last time.
    Kept {
        taken: u32,
        given_up: Vec<GivenUp>,
    },
    /// In the order in which they were asked for; none: it is not there.
    Fetched(Vec<Option<Page>>),
}

impl Ask {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => frame(0, |body| {
                body.extend(hello.version.to_le_bytes());
                body.push(u8::from(hello.role == Role::Fetch));
                body.extend(hello.instance.bits().to_le_bytes());
                body.extend(hello.epoch.to_le_bytes());
                body.extend(hello.session.to_le_bytes());
            }),
            Self::Bring(all) => frame(1, |body| {
                for Brought { page, generation, sealed } in all {
                    body.extend(page.to_le_bytes());
                    body.extend(generation.to_le_bytes());
                    body.extend(sealed.0);
                }
            }),
            Self::Free(generations) => frame(2, |body| extend(body, generations)),
            Self::Fetch(generations) => frame(3, |body| extend(body, generations)),
        }
    }

    /// From a frame without its length; none: it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, body) = bytes.split_first()?;
        match kind {
            0 => hello(body).map(Self::Hello),
            1 => {
                let (all, rest) = body.as_chunks::<STORED>();
                (rest.is_empty() && all.len() <= BATCH).then(|| Self::Bring(all.iter().map(brought).collect()))
            }
            2 => generations(body, NAMES).map(Self::Free),
            3 => generations(body, BATCH).map(Self::Fetch),
            _ => None,
        }
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome => frame(0, |_| {}),
            Self::Refused(refusal) => frame(1, |body| body.push(*refusal as u8)),
            Self::Kept { taken, given_up } => frame(2, |body| {
                body.extend(taken.to_le_bytes());
                for GivenUp { page, generation } in given_up {
                    body.extend(page.to_le_bytes());
                    body.extend(generation.to_le_bytes());
                }
            }),
            Self::Fetched(pages) => frame(3, |body| {
                for page in pages {
                    body.push(u8::from(page.is_some()));
                    page.iter().for_each(|page| body.extend(page.0));
                }
            }),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, body) = bytes.split_first()?;
        match kind {
            0 => body.is_empty().then_some(Self::Welcome),
            1 => {
                let all = [Refusal::Version, Refusal::NoLease, Refusal::NoSession, Refusal::NotUnderstood];
                all.get(usize::from(*body.first()?)).copied().map(Self::Refused)
            }
            2 => {
                let (taken, rest) = body.split_first_chunk::<4>()?;
                let (all, rest) = rest.as_chunks::<12>();
                let given_up = all.iter().map(|one| GivenUp { page: word(one, 0), generation: long(one, 4) });
                rest.is_empty().then(|| Self::Kept { taken: u32::from_le_bytes(*taken), given_up: given_up.collect() })
            }
            3 => fetched(body).map(Self::Fetched),
            _ => None,
        }
    }
}

fn frame(kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, kind];
    fill(&mut bytes);
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn extend(body: &mut Vec<u8>, generations: &[u64]) {
    generations.iter().for_each(|generation| body.extend(generation.to_le_bytes()));
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

fn hello(body: &[u8]) -> Option<Hello> {
    let body: &[u8; 37] = body.try_into().ok()?;
    let role = match body[4] {
        0 => Role::Bring,
        1 => Role::Fetch,
        _ => return None,
    };
    let instance = u128::from(long(body, 5)) | u128::from(long(body, 13)) << 64;
    Some(Hello {
        version: word(body, 0),
        role,
        instance: InstanceId::from_bits(instance),
        epoch: long(body, 21),
        session: long(body, 29),
    })
}

fn brought(bytes: &[u8; STORED]) -> Brought {
    let mut sealed = Page::ZERO;
    sealed.0.copy_from_slice(&bytes[12..]);
    Brought { page: word(bytes, 0), generation: long(bytes, 4), sealed }
}

fn generations(body: &[u8], most: usize) -> Option<Vec<u64>> {
    let (all, rest) = body.as_chunks::<8>();
    (rest.is_empty() && all.len() <= most).then(|| all.iter().map(|one| u64::from_le_bytes(*one)).collect())
}

fn fetched(mut body: &[u8]) -> Option<Vec<Option<Page>>> {
    let mut pages = Vec::new();
    while let Some((is_there, rest)) = body.split_first() {
        body = rest;
        let page = match is_there {
            0 => None,
            1 => {
                let (content, rest) = body.split_first_chunk::<PAGE>()?;
                body = rest;
                Some(Page(*content))
            }
            _ => return None,
        };
        pages.push(page);
    }
    (pages.len() <= BATCH).then_some(pages)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(seed: u64) -> Page {
        Page(std::array::from_fn(|at| (seed as usize).wrapping_mul(31).wrapping_add(at * 7) as u8))
    }

    fn body(frame: &[u8]) -> &[u8] {
        assert_eq!(word(frame, 0) as usize, frame.len() - 4);
        assert!(frame.len() <= LONGEST);
        &frame[4..]
    }

    proptest! {
        #[test]
        fn what_is_said_is_what_is_heard(seeds in prop::collection::vec(any::<u64>(), 0..BATCH), odd in any::<bool>()) {
            let role = if odd { Role::Fetch } else { Role::Bring };
            let instance = InstanceId::from_bits(u128::from(seeds.len() as u64) << 40 | 7);
            let hello = Hello { version: VERSION, role, instance, epoch: 1 << 50, session: u64::MAX };
            let heard = Ask::decode(body(&Ask::Hello(hello).encode()));
            prop_assert!(matches!(heard, Some(Ask::Hello(other)) if other == hello));
            let all: Vec<Brought> = seeds.iter().map(|seed| Brought { page: *seed as u32, generation: !seed, sealed: page(*seed) }).collect();
            let Some(Ask::Bring(heard)) = Ask::decode(body(&Ask::Bring(all).encode())) else { panic!("another") };
            prop_assert!(heard.iter().zip(&seeds).all(|(one, seed)| one.page == *seed as u32 && one.generation == !seed && one.sealed.0 == page(*seed).0));
            prop_assert!(matches!(Ask::decode(body(&Ask::Fetch(seeds.clone()).encode())), Some(Ask::Fetch(heard)) if heard == seeds));
            prop_assert!(matches!(Ask::decode(body(&Ask::Free(seeds.clone()).encode())), Some(Ask::Free(heard)) if heard == seeds));
            let given_up: Vec<GivenUp> = seeds.iter().map(|seed| GivenUp { page: *seed as u32, generation: *seed }).collect();
            let kept = Answer::Kept { taken: 3, given_up: given_up.clone() };
            let Some(Answer::Kept { taken: 3, given_up: heard }) = Answer::decode(body(&kept.encode())) else { panic!("another") };
            prop_assert_eq!(heard, given_up);
            let pages: Vec<Option<Page>> = seeds.iter().map(|seed| (seed % 3 > 0).then(|| page(*seed))).collect();
            let Some(Answer::Fetched(heard)) = Answer::decode(body(&Answer::Fetched(pages.clone()).encode())) else { panic!("another") };
            prop_assert!(heard.len() == pages.len() && heard.iter().zip(&pages).all(|(a, b)| a.as_ref().map(|a| a.0) == b.as_ref().map(|b| b.0)));
        }

        #[test]
        fn no_octets_make_a_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Ask::decode(&bytes), Answer::decode(&bytes));
        }
    }

    #[test]
    fn a_frame_of_too_much_is_none() {
        let over = vec![7_u64; BATCH + 1];
        assert!(Ask::decode(body(&Ask::Fetch(over).encode())).is_none());
        assert!(matches!(
            Answer::decode(body(&Answer::Refused(Refusal::NoSession).encode())),
            Some(Answer::Refused(Refusal::NoSession))
        ));
    }

    /// The format, byte for byte: hosts of different versions talk to each other.
    #[test]
    fn the_format_is_as_it_was() {
        let hello = Hello { version: 1, role: Role::Fetch, instance: InstanceId::from_bits(2), epoch: 3, session: 4 };
        let frame = Ask::Hello(hello).encode();
        assert_eq!(frame.len(), 4 + 1 + 37);
        assert_eq!(frame[..11], [38, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2]);
        assert_eq!((frame[26], frame[34]), (3, 4));
        assert_eq!(Ask::Fetch(vec![5]).encode(), [9, 0, 0, 0, 3, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Answer::Kept { taken: 1, given_up: vec![] }.encode(), [5, 0, 0, 0, 2, 1, 0, 0, 0]);
    }
}
