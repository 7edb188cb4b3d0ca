//! A column of values that repeat: each value once, and for each record the code of its value.
//!
//! Owns how a value's code is found: while messages are read by the octets that it was read from, as most are one of the
//! last few, else by the value itself. What helps to find codes can be let go, and comes back when something is appended.

use std::{collections::HashMap, hash::Hash};

/// Places for octets that were seen lately. More are not remembered, only found more slowly.
const SLOTS: usize = 512;

#[derive(Clone, Debug)]
pub struct Coded<T> {
    codes: Vec<u32>,
    values: Vec<T>,
    index: HashMap<T, u32>,
    /// Whether the index has all values.
    is_indexed: bool,
    seen: Seen,
}

impl<T> Default for Coded<T> {
    fn default() -> Self {
        Self { codes: Vec::new(), values: Vec::new(), index: HashMap::new(), is_indexed: true, seen: Seen::default() }
    }
}

/// Two are equal when their records have equal values, whatever the codes.
impl<T: PartialEq> PartialEq for Coded<T> {
    fn eq(&self, other: &Self) -> bool {
        self.codes.len() == other.codes.len() && (0..self.codes.len()).all(|row| self.get(row) == other.get(row))
    }
}
impl<T: Eq> Eq for Coded<T> {}

impl<T> Coded<T> {
    /// For each record the place of its value among [`Coded::values`].
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// The values, where columns were put together each once; one that was read may stand there again, and some may be of
    /// no record any more.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The value of a record that is there.
    pub fn get(&self, row: usize) -> &T {
        &self.values[self.codes[row] as usize]
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.codes.truncate(rows);
    }

    pub(super) fn leave_out(&mut self, count: usize) {
        self.codes.drain(..count.min(self.codes.len()));
    }

    pub(super) fn reserve(&mut self, rows: usize) {
        self.codes.reserve(rows);
    }

    pub(super) fn octets(&self) -> usize {
        size_of::<u32>() * self.codes.capacity() + size_of::<T>() * self.values.capacity()
    }
}

impl<T: Clone + Eq + Hash> Coded<T> {
    pub(super) fn push(&mut self, value: T) {
        let code = self.code(value);
        self.codes.push(code);
    }

    pub(super) fn append(&mut self, others: &Self) {
        let codes: Vec<u32> = others.values.iter().map(|value| self.code(value.clone())).collect();
        self.codes.extend(others.codes.iter().map(|code| codes[*code as usize]));
    }

    pub(super) fn fill(&mut self, rows: usize, value: impl FnOnce() -> T) {
        if self.codes.len() < rows {
            let code = self.code(value());
            self.codes.resize(rows, code);
        }
    }

    pub(super) fn settle(&mut self) {
        super::cut_to_size(&mut self.codes);
        (self.index, self.is_indexed, self.seen) = (HashMap::new(), self.values.is_empty(), Seen::default());
    }

    /// Appends the value of each of these octets, which `read` reads when they have not just been seen.
    pub(crate) fn extend_from<'a, E>(
        &mut self,
        all: impl ExactSizeIterator<Item = &'a [u8]>,
        mut read: impl FnMut(&[u8]) -> Result<T, E>,
    ) -> Result<(), E> {
        self.codes.reserve(all.len());
        let mut last: Option<(&[u8], u32)> = None;
        for octets in all {
            let code = match last {
                Some((known, code)) if are_same(known, octets) => code,
                _ => self.code_of(octets, &mut read)?,
            };
            last = Some((octets, code));
            self.codes.push(code);
        }
        Ok(())
    }

    fn code_of<E>(&mut self, octets: &[u8], read: &mut impl FnMut(&[u8]) -> Result<T, E>) -> Result<u32, E> {
        if let Some(code) = self.seen.code(octets) {
            return Ok(code);
        }
        let code = self.values.len() as u32;
        self.values.push(read(octets)?);
        self.is_indexed = false;
        self.seen.remember(octets, code);
        Ok(code)
    }

    fn code(&mut self, value: T) -> u32 {
        if !self.is_indexed {
            self.index = self.values.iter().cloned().zip(0..).collect();
            self.is_indexed = true;
        }
        let (next, values) = (self.values.len() as u32, &mut self.values);
        *self.index.entry(value).or_insert_with_key(|value| {
            values.push(value.clone());
            next
        })
    }
}

/// Octets that were seen lately, with the codes of their values.
#[derive(Clone, Debug, Default)]
struct Seen {
    slots: Vec<Slot>,
    octets: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    at: u32,
    /// One more than the octets; 0 is an empty slot.
    length: u32,
    code: u32,
}

impl Seen {
    fn code(&self, octets: &[u8]) -> Option<u32> {
        let slot = *self.slots.get(place(octets))?;
        let known = self.octets.get(slot.at as usize..)?.get(..(slot.length as usize).checked_sub(1)?)?;
        are_same(known, octets).then_some(slot.code)
    }

    fn remember(&mut self, octets: &[u8], code: u32) {
        self.slots.resize(SLOTS, Slot::default());
        let slot = Slot { at: self.octets.len() as u32, length: octets.len() as u32 + 1, code };
        self.octets.extend_from_slice(octets);
        self.slots[place(octets)] = slot;
    }
}

/// Whether octets are the same: most are too few to be worth a call of the C library. What is left of them at the end of
/// their words is looked at in a word that overlaps the one before.
#[inline]
fn are_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    match (one.last_chunk::<16>(), other.last_chunk::<16>()) {
        (Some(end), Some(other_end)) => {
            let words = one.as_chunks::<16>().0.iter().zip(other.as_chunks::<16>().0);
            end == other_end && words.into_iter().all(|(one, other)| one == other)
        }
        _ => short_words(one) == short_words(other),
    }
}

/// Where octets are looked for: a sum of their words, each times a number of its own, so that no product waits for another.
/// Whoever chooses octets that meet makes them slower to find, and no more.
fn place(octets: &[u8]) -> usize {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let (mut factor, mut sum) = (MIX, octets.len() as u64);
    let mut add = |word: u64| {
        sum = sum.wrapping_add(word.wrapping_mul(factor));
        factor = factor.wrapping_add(MIX << 1);
    };
    let (words, rest) = octets.as_chunks::<8>();
    words.iter().for_each(|word| add(u64::from_le_bytes(*word)));
    add(short_words(octets.last_chunk::<8>().map_or(rest, |end| end)).1);
    ((sum ^ (sum >> 32)).wrapping_mul(MIX) >> (u64::BITS - SLOTS.ilog2())) as usize
}

/// The first and the last octets of fewer than 16 in two words, which together have all of them.
#[inline]
fn short_words(octets: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        return (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into());
    }
    (0, octets.iter().fold(0, |word, octet| word << 8 | u64::from(*octet)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However values come (read, pushed or from another column) and whatever is let go between, they come out again.
        #[test]
        fn values_come_out_as_they_went_in(
            runs in prop::collection::vec((0u8..3, any::<bool>(), prop::collection::vec(0u16..700, 0..60)), 0..8)
        ) {
            let (mut column, mut expected) = (Coded::<u16>::default(), Vec::new());
            for (how, settles, numbers) in runs {
                let octets: Vec<[u8; 2]> = numbers.iter().map(|number| number.to_be_bytes()).collect();
                match how {
                    0 => numbers.iter().for_each(|number| column.push(*number)),
                    1 => {
                        let read = |octets: &[u8]| Ok::<_, Infallible>(u16::from_be_bytes([octets[0], octets[1]]));
                        let all = octets.iter().map(|octets| &octets[..]);
                        prop_assert!(column.extend_from(all, read).is_ok());
                    }
                    _ => {
                        let mut other = Coded::default();
                        numbers.iter().for_each(|number| other.push(*number));
                        column.append(&other);
                    }
                }
                if settles {
                    column.settle();
                }
                expected.extend(numbers);
            }
            let found: Vec<u16> = (0..column.codes().len()).map(|row| *column.get(row)).collect();
            prop_assert_eq!(found, expected);
            let mut together = Coded::default();
            [&column, &column].into_iter().for_each(|column| together.append(column));
            let mut values = together.values().to_vec();
            values.sort_unstable();
            prop_assert!(values.windows(2).all(|pair| pair[0] != pair[1]), "a value of what was put together is there once");
        }
    }
}
