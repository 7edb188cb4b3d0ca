//! Our age files open for their readers and for nobody else, and nothing that was changed opens. That other tools agree is
//! tried in `tests/other_tools.rs`.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    AgeError, Header, Identity, Recipient, Seed,
    p256::{Agreement, InMemory, Point},
    reader::Reader,
    stream::{CHUNK, Place, SEALED_CHUNK},
    writer::{Writer, begin},
};
use crate::example::identity;

fn chip(octet: u8) -> Identity {
    Identity::P256(Arc::new(InMemory::from_octets(&[octet; 32]).expect("a key")))
}

fn seal(content: &[u8], recipients: &[Recipient]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::begin(&Seed::new([3; 32]), recipients, &mut out).expect("begun");
    for part in content.chunks(10_007) {
        writer.push(part, &mut out).expect("pushed");
    }
    writer.finish(&mut out).expect("finished");
    out
}

fn open(file: &[u8], identity: Identity, step: usize) -> Result<Vec<u8>, AgeError> {
    let (mut reader, mut out) = (Reader::new(identity), Vec::new());
    for part in file.chunks(step) {
        reader.push(part, &mut out)?;
    }
    reader.finish(&mut out)?;
    Ok(out)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn content_of_any_length_opens_for_each_of_its_readers() {
    let recipients = [identity(1).recipient(), identity(2).recipient()];
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
        let content = content(length);
        let file = seal(&content, &recipients);
        for reader in [1, 2] {
            for step in [1000, SEALED_CHUNK, SEALED_CHUNK + 1, 1 << 20] {
                assert_eq!(open(&file, identity(reader), step).as_ref(), Ok(&content), "{length} {step}");
            }
        }
        assert_eq!(open(&file, identity(3), 1000), Err(AgeError::NotForYou));
    }
}

/// A file that the `age` crate (0.12.1) made for this key, with a stanza beside it that means nothing.
#[test]
fn what_another_tool_seals_for_a_chip_opens() {
    let recipient = "age1tag1qv0ps5e06365cqhnqswecawwkvac8l7crtruunlgstxtrjvtckykuxc64jj";
    assert_eq!(chip(7).recipient().to_string(), recipient);
    assert_eq!(recipient.parse(), Ok(chip(7).recipient()));
    let file = include_bytes!("../../tests/vectors/p256tag.age");
    assert_eq!(open(file, chip(7), 1000).as_deref(), Ok(&b"a secret of another tool"[..]));
    assert_eq!(open(file, chip(8), 1000), Err(AgeError::NotForYou));
    assert_eq!(open(file, identity(1), 1000), Err(AgeError::NotForYou));
}

#[test]
fn a_file_for_a_person_and_a_chip_opens_for_both() {
    let file = seal(b"content", &[identity(1).recipient(), chip(7).recipient()]);
    for reader in [identity(1), chip(7)] {
        assert_eq!(open(&file, reader, 1000).as_deref(), Ok(&b"content"[..]));
    }
    assert_eq!(open(&file, chip(8), 1000), Err(AgeError::NotForYou));
}

/// A chip that is away, or was told to refuse.
struct Away(Point);
impl Agreement for Away {
    fn public(&self) -> Point {
        self.0
    }
    fn agree(&self, _: &Point) -> Option<[u8; 32]> {
        None
    }
}

#[test]
fn a_chip_is_asked_for_its_own_files_only_and_its_refusal_is_told() {
    let Identity::P256(own) = chip(7) else { unreachable!("a chip") };
    let away = || Identity::P256(Arc::new(Away(own.public())));
    assert_eq!(open(&seal(b"content", &[chip(7).recipient()]), away(), 1000), Err(AgeError::KeyUnusable));
    assert_eq!(open(&seal(b"content", &[chip(8).recipient()]), away(), 1000), Err(AgeError::NotForYou));
}

#[test]
fn octets_off_the_curve_are_no_recipient() {
    assert_eq!(Point::read(&[0]), None, "the neutral element");
    assert_eq!(Point::read(&[&[2], &[0xff; 32][..]].concat()), None);
    assert_eq!(Point::of_coordinates(&[1; 32], &[1; 32]), None);
    let Recipient::P256(point) = chip(7).recipient() else { unreachable!("a chip") };
    assert_eq!(Point::read(&point.uncompressed()), Some(point));
}

/// Chunks that threads sealed in any order are the file that one writer makes.
#[test]
fn chunks_sealed_apart_make_the_same_file() {
    let (recipients, content) = ([identity(1).recipient()], content(5 * CHUNK + 9));
    let begun = begin(&Seed::new([3; 32]), &recipients).expect("begun");
    let last = content.len() / CHUNK;
    let mut parts: Vec<(usize, Vec<u8>)> = content.chunks(CHUNK).map(<[u8]>::to_vec).enumerate().collect();
    parts.reverse();
    let chunks = &begun.chunks;
    std::thread::scope(|scope| {
        for (number, chunk) in &mut parts {
            scope.spawn(move || {
                let place = Place { number: *number as u64, last: *number == last };
                let tag = chunks.seal(place, chunk).expect("sealed");
                chunk.extend_from_slice(&tag);
            });
        }
    });
    parts.sort();
    let file: Vec<u8> = begun.octets.into_iter().chain(parts.into_iter().flat_map(|(_, chunk)| chunk)).collect();
    assert_eq!(file, seal(&content, &recipients));
}

#[test]
fn a_chunk_that_is_not_the_last_is_whole() {
    let begun = begin(&Seed::new([3; 32]), &[identity(1).recipient()]).expect("begun");
    assert!(begun.chunks.seal(Place { number: 0, last: false }, &mut [0; 5]).is_err());
    assert!(begun.chunks.seal(Place { number: 0, last: true }, &mut vec![0; CHUNK + 1]).is_err());
}

/// Attacks: truncate at and beside chunks' borders, extend, reorder, duplicate, drop.
#[test]
fn nothing_that_was_cut_moved_or_added_opens() {
    let file = seal(&content(3 * CHUNK), &[identity(1).recipient()]);
    let begin = file.len() - 3 * SEALED_CHUNK;
    let chunk = |at: usize| file[begin + at * SEALED_CHUNK..begin + (at + 1) * SEALED_CHUNK].to_vec();
    let with = |chunks: &[usize]| {
        let chunks = chunks.iter().flat_map(|at| chunk(*at));
        file[..begin].iter().copied().chain(chunks).collect::<Vec<u8>>()
    };
    assert_eq!(with(&[0, 1, 2]), file);
    let wrong = [
        with(&[]),
        with(&[0]),
        with(&[0, 1]),
        with(&[0, 2]),
        with(&[1, 0, 2]),
        with(&[0, 1, 1, 2]),
        with(&[0, 1, 2, 2]),
        [&file[..], b"x"].concat(),
        file[..file.len() - 1].to_vec(),
        file[..begin - 1].to_vec(),
        file[..20].to_vec(),
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        for step in [1000, 1 << 20] {
            assert!(open(wrong, identity(1), step).is_err(), "{number}");
        }
    }
}

/// The format wants the last chunk to hold something, where there is another.
#[test]
fn an_empty_last_chunk_behind_another_does_not_open() {
    let begun = begin(&Seed::new([3; 32]), &[identity(1).recipient()]).expect("begun");
    let mut chunk = content(CHUNK);
    let tag = begun.chunks.seal(Place { number: 0, last: false }, &mut chunk).expect("sealed");
    let empty = begun.chunks.seal(Place { number: 1, last: true }, &mut []).expect("sealed");
    let file = [&begun.octets[..], &chunk, &tag, &empty].concat();
    assert_eq!(open(&file, identity(1), 1000), Err(AgeError::ChunkChanged(1)));
}

#[test]
fn no_single_bit_of_a_file_can_be_changed() {
    for reader in [identity(1), chip(7)] {
        let file = seal(b"a secret", &[reader.recipient()]);
        for at in 0..file.len() * 8 {
            let mut changed = file.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(open(&changed, reader.clone(), 1000).is_err(), "bit {at}");
        }
    }
}

#[test]
fn a_key_that_shares_no_secret_is_no_recipient() {
    assert_eq!(begin(&Seed::new([3; 32]), &[Recipient::X25519([0; 32])]).map(|_| ()), Err(AgeError::WeakRecipient));
    assert_eq!(begin(&Seed::new([3; 32]), &[]).map(|_| ()), Err(AgeError::Recipients));
}

/// The key pair of the age specification's own example.
#[test]
fn keys_are_written_as_age_writes_them() {
    let secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    let identity: Identity = secret.parse().expect("an identity");
    assert_eq!(Identity::text_of(&[0x42; 32]), secret);
    let public = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    assert_eq!(identity.recipient().to_string(), public);
    assert_eq!(public.parse(), Ok(identity.recipient()));
    assert!(public.to_uppercase().parse::<Recipient>().is_err());
    assert!(secret.to_lowercase().parse::<Identity>().is_err());
    let file = format!("# created: 2026\n# public key: {public}\n{secret}\n");
    assert_eq!(Identity::from_file(&file).map(|it| it.recipient()), Ok(identity.recipient()));
    assert!(Identity::from_file(&format!("{secret}\n{secret}\n")).is_err());
    assert!(!format!("{identity:?}").contains("SECRET"), "a key is not printed");
}

proptest! {
    #[test]
    fn a_header_reads_back_as_it_was_written(count in 1..16u8) {
        let recipients: Vec<_> = (1..=count).map(|octet| identity(octet).recipient()).collect();
        let header = begin(&Seed::new([count; 32]), &recipients).expect("begun").header;
        let octets = header.to_octets();
        prop_assert_eq!(Header::read(&octets), Ok((header, octets.len())));
    }

    #[test]
    fn no_octets_make_the_reader_fall_over(octets: Vec<u8>, step in 1..64usize) {
        prop_assert!(open(&octets, identity(1), step).is_err());
    }
}
