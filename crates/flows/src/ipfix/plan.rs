//! A template's plan: how a whole set of its records is appended to columns, one field after the other.
//!
//! Owns the two passes over each few records. The first finds where each record's values are: a record is stretches of fixed
//! length between the values that say their own length, so one place for each stretch is enough. The second takes one field
//! at a time from all of these records ([`Values`]), which so stay in the processor's nearest cache. Which field goes to
//! which column, and how it is read, is said by the table of [`elements`](super::elements).

use lucarne_model::{AccountId, HostId, InstanceId, InterfaceId, SecurityGroupId, SubnetId, VpcId};

use super::{
    DecodeError,
    elements::{COMMON_PROPERTIES, Field, GROUPS, Take},
    template::Column,
    values::Words,
    wire::{BadValue, ID_LENGTH, Reader, VARIABLE, id, unsigned},
};
use crate::columns::{AddressOctets, Coded, FlowColumns, Identity};

/// The fields that together say who saw a flow, in the order in which we write them.
const IDENTITY: [&str; 6] = ["account", "vpc", "subnet", "interface", "instance", "host"];
const ELEMENTS: [&str; 6] = ["accountId", "vpcId", "subnetId", "interfaceId", "instanceId", "hostId"];
/// Octets of an identity as we write it: a number and five ids.
const IDENTITY_OCTETS: usize = 8 + 5 * ID_LENGTH as usize;

/// Records that are read at once: their octets and what is made of them fit in 32 KiB.
const BLOCK: usize = 64;

/// Where a field's value is in each record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spot {
    /// The stretch of fixed length, and the octets before it there.
    stretch: usize,
    offset: usize,
    length: u16,
}

/// How the records of a template are read.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Octets of each stretch of fixed length. Between two of them is a value that says its own length.
    stretches: Vec<usize>,
    identity: [Spot; 6],
    /// The number of the groups in the dictionary, where there is no list of them.
    group_set: Option<Spot>,
    takes: Vec<(Spot, &'static Field, Take)>,
}

impl Plan {
    /// Of an element that comes more than once the last counts.
    pub(super) fn compile(columns: &[Column]) -> Self {
        let has_list = columns.iter().any(|column| column.is(&GROUPS));
        let mut plan =
            Self { stretches: vec![0], identity: Default::default(), group_set: None, takes: Vec::with_capacity(40) };
        for column in columns {
            let stretch = plan.stretches.len() - 1;
            let spot = Spot { stretch, offset: plan.stretches[stretch], length: column.length };
            match column.length {
                VARIABLE => plan.stretches.push(0),
                length => plan.stretches[stretch] += usize::from(length),
            }
            if column.is(&COMMON_PROPERTIES) && !has_list {
                plan.group_set = Some(spot);
            }
            let Some(field) = column.field else { continue };
            if let Some(at) = IDENTITY.iter().position(|of| *of == field.of) {
                plan.identity[at] = spot;
            } else if let Some(take) = field.take {
                plan.takes.retain(|(_, other, _)| !fills_same(other, field));
                plan.takes.push((spot, field, take));
            }
        }
        plan
    }

    /// Appends a set's records to the columns and gives how many they were, in how many octets; octets at its end that
    /// are fewer than the shortest record are padding. After an error the columns are of different lengths.
    pub(super) fn take(
        &self,
        set: u16,
        body: &[u8],
        shortest: usize,
        groups: impl Fn(u64) -> Vec<SecurityGroupId>,
        columns: &mut FlowColumns,
    ) -> Result<(usize, usize), DecodeError> {
        let shortest = shortest.max(1);
        let most = BLOCK.min(body.len() / shortest);
        let mut places = Places { of: vec![0; self.stretches.len() * most], most, records: 0 };
        let (mut rows, mut at) = (0, 0);
        while body.len() - at >= shortest {
            at = self.places(body, at, shortest, &mut places).ok_or(DecodeError::Truncated { set })?;
            rows += places.records;
            self.take_block(body, &places, &groups, columns)?;
        }
        columns.fill(columns.identity.codes().len());
        Ok((rows, at))
    }

    fn take_block(
        &self,
        body: &[u8],
        places: &Places,
        groups: &impl Fn(u64) -> Vec<SecurityGroupId>,
        columns: &mut FlowColumns,
    ) -> Result<(), DecodeError> {
        let of = |spot: Spot| Values { body, places: places.of_stretch(spot.stretch), spot };
        take_identities(self.identity.map(of), &mut columns.identity)?;
        if let Some(spot) = self.group_set {
            let read = |octets: &[u8]| unsigned(octets).map(groups);
            let bad = |_| DecodeError::Value { element: COMMON_PROPERTIES.name };
            of(spot).coded(&mut columns.groups, read).map_err(bad)?;
        }
        for (spot, field, take) in &self.takes {
            take(&of(*spot), columns).map_err(|_| DecodeError::Value { element: field.element.name })?;
        }
        Ok(())
    }

    /// Finds where each stretch of the next records begins, and gives where the last of them ends; none when one is cut
    /// short.
    fn places(&self, body: &[u8], mut at: usize, shortest: usize, places: &mut Places) -> Option<usize> {
        let (last, before) = self.stretches.split_last()?;
        places.records = 0;
        while places.records < places.most && body.len() - at >= shortest {
            let mut slot = places.records;
            for fixed in before {
                places.of[slot] = at as u32;
                slot += places.most;
                let (start, length) = variable(body, at + fixed)?;
                at = start + length;
            }
            places.of[slot] = at as u32;
            at += last;
            if at > body.len() {
                return None;
            }
            places.records += 1;
        }
        Some(at)
    }
}

/// Where the stretches of some records begin.
struct Places {
    /// Of each stretch `most` places, so that small sets have few.
    of: Vec<u32>,
    most: usize,
    /// How many of these are records' places.
    records: usize,
}

impl Places {
    fn of_stretch(&self, stretch: usize) -> &[u32] {
        let first = stretch * self.most;
        &self.of[first..first + self.records]
    }
}

/// Whether two elements say the same of a record. A round trip is told by five elements, each with its own column.
fn fills_same(one: &Field, other: &Field) -> bool {
    one.of == other.of && (one.of != "round_trip" || one.element == other.element)
}

/// Where a value that says its own length begins, and how long it is.
fn variable(body: &[u8], at: usize) -> Option<(usize, usize)> {
    match *body.get(at)? {
        u8::MAX => {
            let length = body.get(at + 1..)?.first_chunk()?;
            Some((at + 3, usize::from(u16::from_be_bytes(*length))))
        }
        short => Some((at + 1, usize::from(short))),
    }
}

/// The values of one field in some records.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    body: &'a [u8],
    /// For each record where the stretch of the value begins.
    places: &'a [u32],
    spot: Spot,
}

/// A number in network order.
pub(super) trait Number: TryFrom<u64> + Copy {
    /// Those of values that have all of its octets.
    fn all(values: Values<'_>) -> impl ExactSizeIterator<Item = Self>;
}
macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn all(values: Values<'_>) -> impl ExactSizeIterator<Item = Self> {
                values.arrays().map(Self::from_be_bytes)
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

impl<'a> Values<'a> {
    fn each(self) -> impl ExactSizeIterator<Item = usize> + 'a {
        self.places.iter().map(move |place| *place as usize + self.spot.offset)
    }

    /// The values' octets, of whatever length.
    fn octets(self) -> impl ExactSizeIterator<Item = &'a [u8]> + 'a {
        let Self { body, spot: Spot { length, .. }, .. } = self;
        self.each().map(move |at| {
            let (start, length) = match length {
                VARIABLE => variable(body, at).unwrap_or_default(),
                length => (at, usize::from(length)),
            };
            body.get(start..start + length).unwrap_or_default()
        })
    }

    /// The same of values that have `N` octets each. Those of a fixed length are within the set, or their records' places
    /// would not have been found: so that none is missing need not be told, and a loop over them is short.
    fn arrays<const N: usize>(self) -> impl ExactSizeIterator<Item = [u8; N]> + 'a {
        let rest = self.body.get(self.spot.offset..).unwrap_or_default();
        self.places.iter().map(move |place| {
            let at = *place as usize;
            rest.get(at..at + N).and_then(|octets| octets.try_into().ok()).unwrap_or([0; N])
        })
    }

    /// Unsigned integers; senders may leave out leading zeros.
    pub(super) fn numbers<T: Number>(self, column: &mut Vec<T>) -> Result<(), BadValue> {
        self.numbers_of(column, |number: T| number)
    }

    /// Numbers of 8 bits in a column that has a value for none.
    pub(super) fn small_numbers(self, column: &mut Vec<u16>) -> Result<(), BadValue> {
        self.numbers_of(column, |number: u8| u16::from(number))
    }

    fn numbers_of<N: Number, T: Copy>(self, column: &mut Vec<T>, make: impl Fn(N) -> T) -> Result<(), BadValue> {
        if usize::from(self.spot.length) == size_of::<N>() {
            column.extend(N::all(self).map(make));
            return Ok(());
        }
        for octets in self.octets() {
            column.push(make(unsigned(octets)?));
        }
        Ok(())
    }

    /// Moments, which we count in microseconds.
    pub(super) fn millis(self, column: &mut Vec<i64>) -> Result<(), BadValue> {
        const LAST: u64 = u64::MAX / 1000;
        self.numbers_as(column, 0, |millis: u64| (millis <= LAST).then_some(millis.cast_signed()))
    }

    /// Words of a closed vocabulary.
    pub(super) fn words<T: Copy>(self, column: &mut Vec<T>, words: &Words<T>) -> Result<(), BadValue> {
        let words = &**words;
        let any = words.iter().copied().flatten().next().ok_or(BadValue)?;
        self.numbers_as(column, any, |code: u8| words[usize::from(code)])
    }

    /// As [`Self::numbers_of`], where not every number is one: `any` stands for those that are not.
    fn numbers_as<N: Number, T: Copy>(
        self,
        column: &mut Vec<T>,
        any: T,
        make: impl Fn(N) -> Option<T>,
    ) -> Result<(), BadValue> {
        if usize::from(self.spot.length) == size_of::<N>() {
            append(column, any, N::all(self).map(make))
        } else {
            append(column, any, self.octets().map(|octets| unsigned(octets).ok().and_then(&make)))
        }
    }

    /// Addresses of `N` octets.
    pub(super) fn addresses<const N: usize>(
        self,
        column: &mut Vec<AddressOctets>,
        make: impl Fn([u8; N]) -> AddressOctets,
    ) -> Result<(), BadValue> {
        if usize::from(self.spot.length) == N {
            column.extend(self.arrays().map(make));
            return Ok(());
        }
        for octets in self.octets() {
            column.push(make(octets.try_into().map_err(|_| BadValue)?));
        }
        Ok(())
    }

    /// Values that repeat.
    pub(super) fn coded<T: Clone + Eq + std::hash::Hash>(
        self,
        column: &mut Coded<T>,
        read: impl Fn(&[u8]) -> Result<T, BadValue>,
    ) -> Result<(), BadValue> {
        column.extend_from(self.octets(), read)
    }
}

/// Appends values; that one of them is bad is told when all are there, so that nothing in the loop hangs on it.
fn append<T: Copy>(
    column: &mut Vec<T>,
    any: T,
    values: impl ExactSizeIterator<Item = Option<T>>,
) -> Result<(), BadValue> {
    let mut is_good = true;
    column.extend(values.map(|value| {
        is_good &= value.is_some();
        value.unwrap_or(any)
    }));
    if is_good { Ok(()) } else { Err(BadValue) }
}

/// Who saw the flows. As we write them the parts stand side by side and are one value; else they are put side by side.
fn take_identities(parts: [Values<'_>; 6], column: &mut Coded<Identity>) -> Result<(), DecodeError> {
    let [first, ..] = parts;
    let lengths = [8, ID_LENGTH, ID_LENGTH, ID_LENGTH, ID_LENGTH, ID_LENGTH];
    let mut offset = first.spot.offset;
    let is_whole = parts.iter().zip(lengths).all(|(part, length)| {
        let expected = Spot { stretch: first.spot.stretch, offset, length };
        offset += usize::from(length);
        part.spot == expected
    });
    if is_whole {
        let whole = Values { spot: Spot { length: IDENTITY_OCTETS as u16, ..first.spot }, ..first };
        return column.extend_from(whole.octets(), identity);
    }
    let mut records = vec![Vec::with_capacity(IDENTITY_OCTETS); first.each().len()];
    for ((part, length), element) in parts.into_iter().zip(lengths).zip(ELEMENTS) {
        for (record, octets) in records.iter_mut().zip(part.octets()) {
            // Only numbers may leave out leading zeros.
            let missing = usize::from(length).checked_sub(octets.len()).filter(|missing| *missing == 0 || length == 8);
            let missing = missing.filter(|_| !octets.is_empty()).ok_or(DecodeError::Value { element })?;
            record.resize(record.len() + missing, 0);
            record.extend_from_slice(octets);
        }
    }
    column.extend_from(records.iter().map(Vec::as_slice), identity)
}

/// Reads an identity as we write it.
fn identity(octets: &[u8]) -> Result<Identity, DecodeError> {
    let mut reader = Reader(octets);
    let mut next = |length: u16| reader.take(usize::from(length)).unwrap_or_default();
    let bad = |at: usize| move |_| DecodeError::Value { element: ELEMENTS[at] };
    let account = unsigned(next(8)).and_then(|number| AccountId::from_number(number).ok_or(BadValue));
    Ok(Identity {
        account: account.map_err(bad(0))?,
        vpc: id(next(ID_LENGTH)).map(VpcId::from_bits).map_err(bad(1))?,
        subnet: id(next(ID_LENGTH)).map(SubnetId::from_bits).map_err(bad(2))?,
        interface: id(next(ID_LENGTH)).map(InterfaceId::from_bits).map_err(bad(3))?,
        instance: id(next(ID_LENGTH)).map(InstanceId::from_bits).map_err(bad(4))?,
        host: id(next(ID_LENGTH)).map(HostId::from_bits).map_err(bad(5))?,
    })
}
