//! What is told of a column beside its pages: where they lie, how many values are missing, the least and the greatest.
//!
//! Owns the two places where readers look for it: the column's statistics and its page index.

use parquet::{
    basic::{BoundaryOrder, Encoding, Type},
    data_type::ByteArray,
    errors::Result,
    file::{
        metadata::{ColumnIndexBuilder, OffsetIndexBuilder},
        page_index::{column_index::ColumnIndexMetaData, offset_index::OffsetIndexMetaData},
        statistics::{Statistics, ValueStatistics},
    },
    schema::types::ColumnDescPtr,
};

use super::listing::Texts;

/// What is known of a page.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) rows: usize,
    /// Values, and places without one.
    pub(super) entries: usize,
    pub(super) missing: usize,
    pub(super) encoding: Encoding,
    /// Where it begins, behind the dictionary, and its octets.
    pub(super) place: (u64, usize),
    /// None where no value is there, or nothing is to be told of them.
    pub(super) bounds: Option<Bounds>,
}

/// The least and the greatest of some values.
#[derive(Clone, Debug)]
pub(super) enum Bounds {
    /// Of all columns of which they are told numbers without a sign have room for one.
    Numbers(i64, i64),
    Texts(Vec<u8>, Vec<u8>),
}

impl Bounds {
    pub(super) fn of_numbers(numbers: &[i64]) -> Option<Self> {
        let (least, greatest) = (numbers.iter().min()?, numbers.iter().max()?);
        Some(Self::Numbers(*least, *greatest))
    }

    /// Of the texts at these places.
    pub(super) fn of_texts(texts: &Texts, places: &[u32]) -> Option<Self> {
        let mut is_seen = vec![false; texts.len()];
        let new = places.iter().filter(|place| !std::mem::replace(&mut is_seen[**place as usize], true));
        let mut all = new.map(|place| texts.get(*place));
        let first = all.next()?;
        let (least, greatest) =
            all.fold((first, first), |(least, greatest), text| (least.min(text), greatest.max(text)));
        Some(Self::Texts(least.to_vec(), greatest.to_vec()))
    }

    fn with(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Numbers(least, greatest), Self::Numbers(low, high)) => {
                Self::Numbers(least.min(*low), greatest.max(*high))
            }
            (Self::Texts(least, greatest), Self::Texts(low, high)) => {
                Self::Texts(least.min(low.clone()), greatest.max(high.clone()))
            }
            (bounds, _) => bounds, // a column has one kind
        }
    }

    /// As the page index has them, of numbers of so many octets.
    fn plain(&self, octets: usize) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Numbers(least, greatest) => {
                (least.to_le_bytes()[..octets].to_vec(), greatest.to_le_bytes()[..octets].to_vec())
            }
            Self::Texts(least, greatest) => (least.clone(), greatest.clone()),
        }
    }

    /// Whether neither end of the next page's lies below this one's.
    fn is_before(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Numbers(least, greatest), Self::Numbers(low, high)) => least <= low && greatest <= high,
            (Self::Texts(least, greatest), Self::Texts(low, high)) => least <= low && greatest <= high,
            _ => false,
        }
    }
}

/// Of the whole column.
pub(super) fn statistics(descr: &ColumnDescPtr, pages: &[Told]) -> Statistics {
    let bounds = pages.iter().filter_map(|page| page.bounds.as_ref());
    let bounds = bounds.fold(None, |all: Option<Bounds>, page| match all {
        Some(all) => Some(all.with(page)),
        None => Some(page.clone()),
    });
    let missing = Some(pages.iter().map(|page| page.missing as u64).sum());
    let is_signed = descr.sort_order().is_signed();
    macro_rules! statistics {
        ($bounds:expr) => {{
            let (least, greatest) = $bounds.unzip();
            ValueStatistics::new(least, greatest, None, missing, false)
                .with_backwards_compatible_min_max(is_signed)
                .into()
        }};
    }
    let numbers = match bounds {
        Some(Bounds::Numbers(least, greatest)) => Some((least, greatest)),
        _ => None,
    };
    match descr.physical_type() {
        Type::INT32 => statistics!(numbers.map(|(least, greatest)| (least as i32, greatest as i32))),
        Type::INT64 => statistics!(numbers),
        _ => statistics!(match bounds {
            Some(Bounds::Texts(least, greatest)) => Some((ByteArray::from(least), ByteArray::from(greatest))),
            _ => None,
        }),
    }
}

/// Of each page.
pub(super) fn column_index(descr: &ColumnDescPtr, pages: &[Told]) -> Result<ColumnIndexMetaData> {
    let mut index = ColumnIndexBuilder::new(descr.physical_type());
    let octets = if descr.physical_type() == Type::INT32 { 4 } else { 8 };
    for page in pages {
        let (least, greatest) = page.bounds.as_ref().map(|bounds| bounds.plain(octets)).unwrap_or_default();
        index.append(page.bounds.is_none(), least, greatest, page.missing as i64);
    }
    let bounds: Vec<&Bounds> = pages.iter().filter_map(|page| page.bounds.as_ref()).collect();
    let is_growing = bounds.is_sorted_by(|one, next| one.is_before(next));
    index.set_boundary_order(if is_growing { BoundaryOrder::ASCENDING } else { BoundaryOrder::UNORDERED });
    index.build()
}

/// Where the pages lie behind a dictionary of so many octets.
pub(super) fn offset_index(dictionary: usize, pages: &[Told]) -> OffsetIndexMetaData {
    let mut index = OffsetIndexBuilder::new();
    for Told { rows, place: (offset, size), .. } in pages {
        index.append_row_count(*rows as i64);
        index.append_offset_and_size((dictionary as u64 + offset) as i64, *size as i32);
    }
    index.build()
}
