//! Numbers as octets, in the encodings of Parquet's pages.
//!
//! Owns the four that parts are written in: places in a dictionary (runs, or so many bits each), differences, octets apart,
//! and as they are. Reading them is Parquet's own work, against which the tests hold this. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Values that are packed together in a run of bits.
const PACK: usize = 8;
/// Octets of flags that are all the same from which on they are said as a run.
const OCTETS_OF_RUN: usize = 4;
/// Differences of a block, and of each part of it that has a width of its own.
const BLOCK: usize = 128;
const MINIBLOCK: usize = 32;

/// Bits that the numbers up to this one take.
pub(super) const fn width(most: u32) -> u32 {
    u32::BITS - most.leading_zeros()
}

/// Numbers of at most `width` bits: those that repeat as runs, others bit by bit.
pub(super) fn put_codes(codes: &[u32], width: u32, out: &mut Vec<u8>) {
    let (mut at, mut literal) = (0, 0);
    while at < codes.len() {
        let run = run_length(&codes[at..]);
        if run >= PACK {
            put_literals(&codes[literal..at], width, out);
            put_varint((run as u64) << 1, out);
            out.extend_from_slice(&codes[at].to_le_bytes()[..width.div_ceil(8) as usize]);
            at += run;
            literal = at;
        } else {
            // Only the last ones may be fewer.
            at = codes.len().min(at + PACK);
        }
    }
    put_literals(&codes[literal..], width, out);
}

/// How many numbers from the first on are the same, if they are enough for a run.
fn run_length(codes: &[u32]) -> usize {
    match codes.first_chunk::<PACK>() {
        Some(pack) if pack.iter().all(|code| *code == pack[0]) => {
            codes.iter().take_while(|code| **code == pack[0]).count()
        }
        _ => 0,
    }
}

fn put_literals(codes: &[u32], width: u32, out: &mut Vec<u8>) {
    if codes.is_empty() {
        return;
    }
    let packs = codes.len().div_ceil(PACK);
    put_varint((packs as u64) << 1 | 1, out);
    let end = out.len() + packs * width as usize;
    put_bits(codes.iter().map(|code| u64::from(*code)), width, out);
    out.resize(end, 0);
}

/// Numbers of `width` bits one behind the other, the lowest bit first, in whole octets.
fn put_bits(numbers: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut held, mut bits) = (0u128, 0);
    for number in numbers {
        held |= u128::from(number) << bits;
        bits += width;
        if bits >= u64::BITS {
            out.extend_from_slice(&(held as u64).to_le_bytes());
            held >>= u64::BITS;
            bits -= u64::BITS;
        }
    }
    out.extend_from_slice(&held.to_le_bytes()[..bits.div_ceil(8) as usize]);
}

/// Single bits, of which each octet of `bits` has eight, the lowest first: as [`put_codes`] of width 1.
pub(super) fn put_flags(bits: &[u8], count: usize, out: &mut Vec<u8>) {
    let (whole, rest) = (count / PACK, count % PACK);
    let (mut at, mut literal) = (0, 0);
    let put_literal = |octets: &[u8], out: &mut Vec<u8>| {
        if !octets.is_empty() {
            put_varint((octets.len() as u64) << 1 | 1, out);
            out.extend_from_slice(octets);
        }
    };
    while at < whole {
        let octet = bits[at];
        let run =
            if matches!(octet, 0 | u8::MAX) { bits[at..whole].iter().take_while(|o| **o == octet).count() } else { 0 };
        if run >= OCTETS_OF_RUN {
            put_literal(&bits[literal..at], out);
            // What is left of the last octet belongs to the run where it is of the same.
            let mask = (1 << rest) - 1;
            let tail = if at + run == whole && rest > 0 && bits[whole] & mask == octet & mask { rest } else { 0 };
            put_varint(((run * PACK + tail) as u64) << 1, out);
            out.push(octet & 1);
            at += run;
            literal = at;
            if tail > 0 {
                return;
            }
        } else {
            at += 1;
        }
    }
    put_literal(&bits[literal..count.div_ceil(PACK)], out);
}

/// Numbers as the first and the differences from one to the next (DELTA_BINARY_PACKED).
pub(super) fn put_deltas(numbers: &[i64], out: &mut Vec<u8>) {
    put_varint(BLOCK as u64, out);
    put_varint((BLOCK / MINIBLOCK) as u64, out);
    put_varint(numbers.len() as u64, out);
    put_varint(zigzag(numbers.first().copied().unwrap_or(0)), out);
    let mut deltas = [0; BLOCK];
    for start in (1..numbers.len()).step_by(BLOCK) {
        let end = numbers.len().min(start + BLOCK);
        let pairs = numbers[start - 1..end - 1].iter().zip(&numbers[start..end]);
        deltas.iter_mut().zip(pairs).for_each(|(delta, (before, number))| *delta = number.wrapping_sub(*before));
        put_block(&deltas[..end - start], out);
    }
}

fn put_block(deltas: &[i64], out: &mut Vec<u8>) {
    let least = deltas.iter().copied().min().unwrap_or(0);
    let above = |delta: &i64| delta.wrapping_sub(least).cast_unsigned();
    put_varint(zigzag(least), out);
    let widths = out.len();
    out.resize(widths + BLOCK / MINIBLOCK, 0);
    for (part, deltas) in deltas.chunks(MINIBLOCK).enumerate() {
        let width = u64::BITS - deltas.iter().map(above).fold(0, |all, above| all | above).leading_zeros();
        out[widths + part] = width as u8;
        let end = out.len() + MINIBLOCK / 8 * width as usize;
        put_bits(deltas.iter().map(above), width, out);
        out.resize(end, 0);
    }
}

/// Of numbers of `N` octets first all their first octets, then all their second ones (BYTE_STREAM_SPLIT).
pub(super) fn put_split<const N: usize>(numbers: &[i64], out: &mut Vec<u8>) {
    for at in 0..N {
        out.extend(numbers.iter().map(|number| (number >> (8 * at)) as u8));
    }
}

/// The lower `N` octets of numbers, as they are.
pub(super) fn put_plain<const N: usize>(numbers: &[i64], out: &mut Vec<u8>) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes()[..N]);
    }
}

/// Seven bits an octet, the lowest first.
fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Small numbers of either sign as small numbers.
const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}
