//! One column of a group of rows: pages that are done, and the dictionary that they point into.
//!
//! Owns the way from a page's array to its octets, and what is told of the column beside them: least and greatest values,
//! where pages lie, a bloom filter. A dictionary holds what fits it; pages with a value beyond have their values themselves.

use arrow_array::{
    Array as _, ArrayRef,
    cast::AsArray as _,
    types::{Int64Type, TimestampMillisecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type},
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use parquet::{
    basic::{Encoding, Type},
    bloom_filter::Sbbf,
    column::{
        page::{CompressedPage, Page, PageWriter as _},
        writer::ColumnCloseResult,
    },
    errors::{ParquetError, Result},
    file::{
        metadata::{ColumnChunkMetaData, ColumnChunkMetaDataBuilder},
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedPageWriter, TrackedWrite},
    },
    schema::types::ColumnDescPtr,
};
use zstd::bulk::Compressor;

use super::{
    encodings::{put_codes, put_deltas, put_flags, put_plain, put_split, width},
    listing::{Numbers, Texts},
    told::{self, Bounds, Told},
};

/// How the values of a column become octets.
#[derive(Debug)]
enum Values {
    Texts(Texts),
    Listed(Numbers),
    /// Numbers one by one.
    Spelt(Encoding),
}

/// The values of a page that are there, for each row or item of it.
pub(super) struct Leaf {
    pub(super) values: ArrayRef,
    pub(super) levels: Levels,
    pub(super) rows: usize,
}

/// What a page says of the places where a value is missing.
pub(super) enum Levels {
    /// Nothing: none can be.
    None,
    /// Of each value whether it is there; without a buffer all are.
    Flags(Option<NullBuffer>),
    /// Of each item of a list whether it goes on with the list before, and how much of it is there.
    Lists { repeats: Vec<u32>, depths: Vec<u32> },
}

impl Levels {
    /// How deep an item of a list is that is there: in a list that is, and not null.
    pub(super) const MOST: u32 = 2;
}

pub(super) struct Column {
    descr: ColumnDescPtr,
    telling: EnabledStatistics,
    /// The share of wrong answers of the bloom filter, if there is one.
    bloom: Option<f64>,
    /// Octets that the dictionary may have.
    most: usize,
    values: Values,
    /// Pages as they will lie in the file, but for the dictionary's, which comes before them.
    pages: TrackedWrite<Vec<u8>>,
    told: Vec<Told>,
    /// Octets of the pages before they were compressed.
    unpacked: usize,
}

impl Column {
    pub(super) fn new(descr: ColumnDescPtr, properties: &WriterProperties) -> Self {
        let path = descr.path();
        let values = match (descr.physical_type(), properties.encoding(path)) {
            (Type::BYTE_ARRAY, _) => Values::Texts(Texts::new()),
            (_, Some(encoding)) if !properties.dictionary_enabled(path) => Values::Spelt(encoding),
            _ => Values::Listed(Numbers::new()),
        };
        Self {
            telling: properties.statistics_enabled(path),
            bloom: properties.bloom_filter_properties(path).map(|bloom| bloom.fpp()),
            most: properties.dictionary_page_size_limit(),
            values,
            pages: TrackedWrite::new(Vec::new()),
            told: Vec::new(),
            unpacked: 0,
            descr,
        }
    }

    /// Appends a page.
    pub(super) fn add(&mut self, leaf: &Leaf, compressor: &mut Compressor<'_>) -> Result<()> {
        let mut body = Vec::new();
        let entries = put_levels(&leaf.levels, leaf.values.len(), &mut body);
        let nulls = match &leaf.levels {
            Levels::Flags(nulls) => nulls.as_ref(),
            _ => None,
        };
        let present = leaf.values.len() - nulls.map_or(0, NullBuffer::null_count);
        let (encoding, bounds) = self.put_values(&leaf.values, nulls, &mut body)?;
        let page = Page::DataPage {
            buf: Bytes::from(compressor.compress(&body)?),
            num_values: entries as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let spec = SerializedPageWriter::new(&mut self.pages).write_page(CompressedPage::new(page, body.len()))?;
        self.unpacked += spec.uncompressed_size;
        let (place, missing) = ((spec.offset, spec.compressed_size), entries - present);
        self.told.push(Told { rows: leaf.rows, entries, missing, encoding, place, bounds });
        Ok(())
    }

    /// Puts the values that are there into a page. Of a page without a value nothing can be told.
    fn put_values(
        &mut self,
        array: &ArrayRef,
        nulls: Option<&NullBuffer>,
        body: &mut Vec<u8>,
    ) -> Result<(Encoding, Option<Bounds>)> {
        let (octets, most) = (octets_of(&self.descr), self.most);
        let is_told = self.telling != EnabledStatistics::None;
        Ok(match &mut self.values {
            Values::Texts(texts) => {
                let places = places_of(texts, array, nulls)?;
                let bounds = if is_told { Bounds::of_texts(texts, &places) } else { None };
                if put_places(&places, texts.within(most), body) {
                    return Ok((Encoding::RLE_DICTIONARY, bounds));
                }
                places.iter().for_each(|place| texts.put(*place, body));
                (Encoding::PLAIN, bounds)
            }
            Values::Listed(listing) => {
                let numbers = numbers_of(array, nulls)?;
                let bounds = if is_told { Bounds::of_numbers(&numbers) } else { None };
                let places = listing.list(&numbers);
                if put_places(&places, most / octets, body) {
                    return Ok((Encoding::RLE_DICTIONARY, bounds));
                }
                put_numbers(Encoding::PLAIN, octets, &numbers, body)?;
                (Encoding::PLAIN, bounds)
            }
            Values::Spelt(encoding) => {
                let numbers = numbers_of(array, nulls)?;
                let bounds = if is_told { Bounds::of_numbers(&numbers) } else { None };
                put_numbers(*encoding, octets, &numbers, body)?;
                (*encoding, bounds)
            }
        })
    }

    /// The column's octets, and what is to be said of them.
    pub(super) fn close(
        self,
        compressor: &mut Compressor<'_>,
        properties: &WriterProperties,
    ) -> Result<(Bytes, ColumnCloseResult)> {
        let mut head = TrackedWrite::new(Vec::new());
        let mut unpacked = self.unpacked;
        let mut encodings: Vec<Encoding> = self.told.iter().map(|page| page.encoding).collect();
        encodings.push(Encoding::RLE);
        if let Some((values, count)) = self.dictionary()? {
            let page = Page::DictionaryPage {
                buf: Bytes::from(compressor.compress(&values)?),
                num_values: count as u32,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            let page = CompressedPage::new(page, values.len());
            unpacked += SerializedPageWriter::new(&mut head).write_page(page)?.uncompressed_size;
            encodings.push(Encoding::PLAIN);
        }
        let (mut octets, bloom_filter) = (head.into_inner()?, self.bloom()?);
        let before = octets.len();
        octets.extend_from_slice(&self.pages.into_inner()?);
        let entries: usize = self.told.iter().map(|page| page.entries).sum();
        let metadata = ColumnChunkMetaData::builder(self.descr.clone())
            .set_compression(properties.compression(self.descr.path()))
            .set_encodings(encodings)
            .set_num_values(entries as i64)
            .set_total_uncompressed_size(unpacked as i64)
            .set_total_compressed_size(octets.len() as i64)
            .set_data_page_offset(before as i64)
            .set_dictionary_page_offset((before > 0).then_some(0));
        let is_told = self.telling != EnabledStatistics::None;
        let statistics = is_told.then(|| told::statistics(&self.descr, &self.told));
        let metadata = statistics.into_iter().fold(metadata, ColumnChunkMetaDataBuilder::set_statistics);
        let by_page = self.telling == EnabledStatistics::Page;
        let result = ColumnCloseResult {
            bytes_written: octets.len() as u64,
            rows_written: self.told.iter().map(|page| page.rows as u64).sum(),
            metadata: metadata.build()?,
            bloom_filter,
            column_index: by_page.then(|| told::column_index(&self.descr, &self.told)).transpose()?,
            offset_index: Some(told::offset_index(before, &self.told)),
        };
        Ok((Bytes::from(octets), result))
    }

    /// The page of the values that pages point at, and how many they are; none where no page does.
    fn dictionary(&self) -> Result<Option<(Vec<u8>, usize)>> {
        if self.told.iter().all(|page| page.encoding != Encoding::RLE_DICTIONARY) {
            return Ok(None);
        }
        Ok(match &self.values {
            Values::Texts(texts) => {
                let count = texts.within(self.most);
                Some((texts.page(count).to_vec(), count))
            }
            Values::Listed(listing) => {
                let octets = octets_of(&self.descr);
                let values = listing.values();
                let values = values.get(..self.most / octets).unwrap_or(values);
                let mut page = Vec::with_capacity(values.len() * octets);
                put_numbers(Encoding::PLAIN, octets, values, &mut page)?;
                Some((page, values.len()))
            }
            Values::Spelt(_) => None,
        })
    }

    fn bloom(&self) -> Result<Option<Sbbf>> {
        let (Some(wrong), Values::Texts(texts)) = (self.bloom, &self.values) else { return Ok(None) };
        let mut bloom = Sbbf::new_with_ndv_fpp(texts.len().max(1) as u64, wrong)?;
        (0..texts.len() as u32).for_each(|place| bloom.insert(texts.get(place)));
        Ok(Some(bloom))
    }
}

/// Puts what is said of missing values, and gives how many entries the page has: values and places without one.
fn put_levels(levels: &Levels, values: usize, body: &mut Vec<u8>) -> usize {
    let with_length = |body: &mut Vec<u8>, put: &dyn Fn(&mut Vec<u8>)| {
        let start = body.len();
        body.extend_from_slice(&[0; 4]);
        put(body);
        let length = (body.len() - start - 4) as u32;
        body[start..start + 4].copy_from_slice(&length.to_le_bytes());
    };
    match levels {
        Levels::None => values,
        Levels::Flags(None) => {
            with_length(body, &|body| put_codes(&vec![1; values], 1, body));
            values
        }
        Levels::Flags(Some(nulls)) => {
            let flags = nulls.inner().sliced();
            with_length(body, &|body| put_flags(&flags, values, body));
            values
        }
        Levels::Lists { repeats, depths } => {
            with_length(body, &|body| put_codes(repeats, 1, body));
            with_length(body, &|body| put_codes(depths, width(Levels::MOST), body));
            depths.len()
        }
    }
}

/// The rows that have a value, as stretches.
fn stretches(nulls: Option<&NullBuffer>, rows: usize) -> Vec<(usize, usize)> {
    match nulls {
        Some(nulls) => nulls.valid_slices().collect(),
        None => vec![(0, rows)],
    }
}

fn places_of(texts: &mut Texts, array: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<Vec<u32>> {
    let mut places = Vec::with_capacity(array.len());
    let rows = stretches(nulls, array.len()).into_iter().flat_map(|(start, end)| start..end);
    let is_listed = if let Some(array) = array.as_string_opt::<i32>() {
        texts.list(array, rows, &mut places);
        true
    } else if let Some(array) = array.as_fixed_size_binary_opt() {
        texts.list_addresses(array, rows, &mut places);
        true
    } else if let Some(array) = array.as_dictionary_opt::<UInt8Type>() {
        texts.list_keys(array, rows, &mut places)
    } else {
        array.as_dictionary_opt::<UInt32Type>().is_some_and(|array| texts.list_keys(array, rows, &mut places))
    };
    if is_listed { Ok(places) } else { Err(unexpected(array)) }
}

/// The numbers that are there; of those without a sign the same bits.
fn numbers_of(array: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<Vec<i64>> {
    macro_rules! numbers {
        ($type:ty) => {{
            let values = array.as_primitive::<$type>().values();
            let mut numbers = Vec::with_capacity(values.len());
            for (start, end) in stretches(nulls, values.len()) {
                numbers.extend(values[start..end].iter().map(|number| *number as i64));
            }
            numbers
        }};
    }
    Ok(match array.data_type() {
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::UInt64 => numbers!(UInt64Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::Timestamp(TimeUnit::Millisecond, _) => numbers!(TimestampMillisecondType),
        _ => return Err(unexpected(array)),
    })
}

fn unexpected(array: &ArrayRef) -> ParquetError {
    ParquetError::NYI(format!("a column of {}", array.data_type()))
}

/// Puts places in a dictionary, if it has all of them.
fn put_places(places: &[u32], listed: usize, body: &mut Vec<u8>) -> bool {
    let greatest = places.iter().copied().max().unwrap_or(0);
    let is_listed = places.is_empty() || (greatest as usize) < listed;
    if is_listed {
        // Some readers know no numbers of no bits.
        let width = width(greatest).max(1);
        body.push(width as u8);
        put_codes(places, width, body);
    }
    is_listed
}

fn put_numbers(encoding: Encoding, octets: usize, numbers: &[i64], body: &mut Vec<u8>) -> Result<()> {
    match (encoding, octets) {
        (Encoding::PLAIN, 4) => put_plain::<4>(numbers, body),
        (Encoding::PLAIN, 8) => put_plain::<8>(numbers, body),
        (Encoding::BYTE_STREAM_SPLIT, 4) => put_split::<4>(numbers, body),
        (Encoding::BYTE_STREAM_SPLIT, 8) => put_split::<8>(numbers, body),
        (Encoding::DELTA_BINARY_PACKED, 8) => put_deltas(numbers, body),
        _ => return Err(ParquetError::NYI(format!("numbers of {octets} octets in {encoding}"))),
    }
    Ok(())
}

/// Octets of a number of the column.
fn octets_of(descr: &ColumnDescPtr) -> usize {
    if descr.physical_type() == Type::INT32 { 4 } else { 8 }
}
