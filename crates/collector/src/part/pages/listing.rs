//! The values of a column, each once: the dictionary of a column chunk while it grows.
//!
//! Owns how a value's place is found. Where values come with places of their own, as in an array of dictionary keys, each
//! value is looked up once for all its rows; what comes again right behind itself is not looked up at all. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::HashMap, hash::Hash};

use arrow_array::{
    Array as _, ArrayRef, DictionaryArray, FixedSizeBinaryArray, StringArray, types::ArrowDictionaryKeyType,
};
use arrow_buffer::ArrowNativeType as _;
use foldhash::quality::RandomState;

use crate::columns::put_address;

/// Numbers below this one are looked up in a table.
const LOW: usize = 256;
const NOWHERE: u32 = u32::MAX;

/// Places by values; senders choose many of the values, so that the hash has a secret.
#[derive(Debug)]
struct Places<K>(HashMap<K, u32, RandomState>);

impl<K: Eq + Hash> Places<K> {
    fn new() -> Self {
        Self(HashMap::with_hasher(RandomState::default()))
    }
}

/// Texts in the order in which they came first.
#[derive(Debug)]
pub(super) struct Texts {
    places: Places<Box<str>>,
    /// As a page has them: each behind its length.
    page: Vec<u8>,
    /// Where each ends in the page.
    ends: Vec<usize>,
    /// The dictionary of the last array of keys, and the places of its values where they are known.
    last: Option<(ArrayRef, Vec<u32>)>,
    /// The places of addresses, whose texts are only made once.
    addresses: Places<Box<[u8]>>,
}

impl Texts {
    const LENGTH: usize = size_of::<u32>();

    pub(super) fn new() -> Self {
        Self { places: Places::new(), page: Vec::new(), ends: Vec::new(), last: None, addresses: Places::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The first so many as a page has them.
    pub(super) fn page(&self, count: usize) -> &[u8] {
        &self.page[..self.start(count)]
    }

    /// How many of them take at most so many octets of a page.
    pub(super) fn within(&self, octets: usize) -> usize {
        self.ends.partition_point(|end| *end <= octets)
    }

    pub(super) fn get(&self, place: u32) -> &[u8] {
        let place = place as usize;
        &self.page[self.start(place) + Self::LENGTH..self.ends[place]]
    }

    /// Puts one of them into a page that has no dictionary.
    pub(super) fn put(&self, place: u32, out: &mut Vec<u8>) {
        let place = place as usize;
        out.extend_from_slice(&self.page[self.start(place)..self.ends[place]]);
    }

    fn start(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn place(&mut self, text: &str) -> u32 {
        if let Some(place) = self.places.0.get(text) {
            return *place;
        }
        let place = self.ends.len() as u32;
        self.page.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.page.extend_from_slice(text.as_bytes());
        self.ends.push(self.page.len());
        self.places.0.insert(text.into(), place);
        place
    }

    /// Appends the places of some rows of an array, all of which have a text.
    pub(super) fn list(&mut self, array: &StringArray, rows: impl Iterator<Item = usize>, places: &mut Vec<u32>) {
        let mut last = None;
        for row in rows {
            let text = array.value(row);
            let place = match last {
                Some((known, place)) if known == text => place,
                _ => self.place(text),
            };
            last = Some((text, place));
            places.push(place);
        }
    }

    /// As [`Texts::list`], of keys; gives false where their dictionary is not of texts.
    pub(super) fn list_keys<K: ArrowDictionaryKeyType>(
        &mut self,
        array: &DictionaryArray<K>,
        rows: impl Iterator<Item = usize>,
        places: &mut Vec<u32>,
    ) -> bool {
        let Some(texts) = array.values().as_any().downcast_ref::<StringArray>() else { return false };
        let is_known = |(known, _): &(ArrayRef, _)| std::sync::Arc::ptr_eq(known, array.values());
        let last = self.last.take().filter(is_known);
        let (values, mut known) = last.unwrap_or_else(|| (array.values().clone(), vec![NOWHERE; texts.len()]));
        let keys = array.keys().values();
        places.extend(rows.map(|row| {
            let key = keys[row].as_usize();
            if known[key] == NOWHERE {
                known[key] = self.place(texts.value(key));
            }
            known[key]
        }));
        self.last = Some((values, known));
        true
    }
}

impl Texts {
    /// As [`Texts::list`], of the texts of addresses of which there are the octets.
    pub(super) fn list_addresses(
        &mut self,
        array: &FixedSizeBinaryArray,
        rows: impl Iterator<Item = usize>,
        places: &mut Vec<u32>,
    ) {
        let (mut last, mut text) = (None, String::new());
        for row in rows {
            let octets = array.value(row);
            let place = match last {
                Some((known, place)) if known == octets => place,
                _ => match self.addresses.0.get(octets) {
                    Some(place) => *place,
                    None => {
                        text.clear();
                        put_address(octets, &mut text);
                        let place = self.place(&text);
                        self.addresses.0.insert(octets.into(), place);
                        place
                    }
                },
            };
            last = Some((octets, place));
            places.push(place);
        }
    }
}

/// Numbers in the order in which they came first.
#[derive(Debug)]
pub(super) struct Numbers {
    low: Vec<u32>,
    places: Places<i64>,
    values: Vec<i64>,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self { low: vec![NOWHERE; LOW], places: Places::new(), values: Vec::new() }
    }

    pub(super) fn values(&self) -> &[i64] {
        &self.values
    }

    /// The places of numbers.
    pub(super) fn list(&mut self, numbers: &[i64]) -> Vec<u32> {
        let mut last = None;
        let place = |number: &i64| match last {
            Some((known, place)) if known == *number => place,
            _ => {
                let place = self.place(*number);
                last = Some((*number, place));
                place
            }
        };
        numbers.iter().map(place).collect()
    }

    fn place(&mut self, number: i64) -> u32 {
        let Self { low, places, values } = self;
        let place = match usize::try_from(number).ok().and_then(|number| low.get_mut(number)) {
            Some(place) => place,
            None => places.0.entry(number).or_insert(NOWHERE),
        };
        if *place == NOWHERE {
            *place = values.len() as u32;
            values.push(number);
        }
        *place
    }
}
