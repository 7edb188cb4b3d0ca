//! What Parquet's own reader reads of files that are written here.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, DictionaryArray, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array, builder::StringBuilder,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use bytes::Bytes;
use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    basic::{Encoding, ZstdLevel},
    file::{
        metadata::PageIndexPolicy, page_index::column_index::ColumnIndexMetaData, properties::EnabledStatistics,
        statistics::Statistics,
    },
    schema::types::ColumnPath,
};
use proptest::prelude::*;

use super::*;

/// Few rows, so that a few hundred are many pages and groups.
const PAGE: usize = 37;
const GROUP: usize = 100;

/// A row of every kind of column: number, number of its own, text, and whether there is something where there need not be.
type Row = (u64, i64, u16, Option<u16>, Vec<u8>);

fn text(number: u16) -> String {
    format!("text of {number}")
}

/// The same rows twice: with texts spelt out, and as dictionaries of them.
fn batches(rows: &[Row]) -> [RecordBatch; 2] {
    let texts = StringArray::from_iter_values(rows.iter().map(|row| text(row.2)));
    let or_null: StringArray = rows.iter().map(|row| row.3.map(text)).collect();
    let numbers = UInt64Array::from_iter_values(rows.iter().map(|row| row.0));
    let grow = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC");
    let small: UInt8Array = rows.iter().map(|row| row.3.map(|number| number as u8)).collect();
    let listed = UInt16Array::from_iter_values(rows.iter().map(|row| row.2));
    let nulls: NullBuffer = rows.iter().map(|row| row.3.is_some()).collect();
    let inner = UInt32Array::from_iter_values(rows.iter().map(|row| row.0 as u32));
    let fields = Fields::from(vec![Field::new("inner", DataType::UInt32, false)]);
    let of = StructArray::new(fields, vec![Arc::new(inner)], Some(nulls));
    let mut items = StringBuilder::new();
    rows.iter().flat_map(|row| &row.4).for_each(|item| items.append_value(text((*item).into())));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.4.len()));
    let item: FieldRef = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let lists = ListArray::new(item, offsets, Arc::new(items.finish()), None);
    let columns = |texts: ArrayRef, or_null: ArrayRef| -> Vec<(&str, ArrayRef, bool)> {
        vec![
            ("text", texts, false),
            ("text_or_null", or_null, true),
            ("spelt", Arc::new(numbers.clone()), false),
            ("grows", Arc::new(grow.clone()), false),
            ("time", Arc::new(times.clone()), false),
            ("small", Arc::new(small.clone()), true),
            ("listed", Arc::new(listed.clone()), false),
            ("wide", Arc::new(numbers.clone()), false),
            ("of", Arc::new(of.clone()), true),
            ("lists", Arc::new(lists.clone()), false),
        ]
    };
    let spelt_out = columns(Arc::new(texts), Arc::new(or_null));
    // One value that no row has, and one that is there twice.
    let mut values: Vec<String> = (0..=u16::from(u8::MAX)).map(text).collect();
    values.extend([text(9999), text(0)]);
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(values));
    let key = |number: u16| if number == 0 { 257 } else { u32::from(number) };
    let keys = UInt32Array::from_iter_values(rows.iter().map(|row| key(row.2)));
    let keys_or_null: UInt32Array = rows.iter().map(|row| row.3.map(key)).collect();
    let dictionary = |keys| Arc::new(DictionaryArray::new(keys, values.clone()));
    let listed = columns(dictionary(keys), dictionary(keys_or_null));
    [spelt_out, listed].map(|columns| {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, array, nullable)| Field::new(*name, array.data_type().clone(), *nullable))
            .collect();
        let arrays = columns.into_iter().map(|(_, array, _)| array).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
    })
}

fn properties(dictionary: usize) -> WriterProperties {
    let spelt = [
        ("spelt", Encoding::BYTE_STREAM_SPLIT),
        ("of.inner", Encoding::BYTE_STREAM_SPLIT),
        ("grows", Encoding::DELTA_BINARY_PACKED),
        ("time", Encoding::DELTA_BINARY_PACKED),
        ("wide", Encoding::PLAIN),
    ];
    let column = |name: &str| ColumnPath::new(name.split('.').map(str::to_owned).collect());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP))
        .set_data_page_row_count_limit(PAGE)
        .set_dictionary_page_size_limit(dictionary)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_column_bloom_filter_enabled(column("text"), true);
    let spell = |properties: parquet::file::properties::WriterPropertiesBuilder, (name, encoding)| {
        properties.set_column_dictionary_enabled(column(name), false).set_column_encoding(column(name), encoding)
    };
    spelt.into_iter().fold(properties, spell).build()
}

fn written(schema: &SchemaRef, batches: &[RecordBatch], dictionary: usize) -> Bytes {
    let mut file = PagesWriter::new(Vec::new(), schema, properties(dictionary)).unwrap();
    batches.iter().for_each(|batch| file.write(batch).unwrap());
    Bytes::from(file.finish().unwrap())
}

fn read(file: &Bytes) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().with_batch_size(1000).build().unwrap();
    reader.map(Result::unwrap).collect()
}

fn row() -> impl Strategy<Value = Row> {
    let number = prop_oneof![Just(0), 0..20u64, any::<u64>()];
    let signed = prop_oneof![Just(7), -5..5i64, any::<i64>()];
    (number, signed, 0..200u16, prop::option::of(0..200u16), prop::collection::vec(any::<u8>(), 0..4))
}

/// Runs of the same row, and rows that are different.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let run = (row(), prop_oneof![3 => Just(1usize), 1 => 1..120usize]);
    let runs = prop::collection::vec(run, 0..60);
    runs.prop_map(|runs| runs.into_iter().flat_map(|(row, count)| std::iter::repeat_n(row, count)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written, spelt out or as a dictionary, with room for all values in the file's or for none, is read
    /// again; what is told of pages and groups holds.
    #[test]
    fn what_is_written_is_read_again(rows in rows(), cut in 1..200usize, dictionary in prop_oneof![Just(0usize), 1..400usize, Just(1 << 20)]) {
        let [spelt_out, listed] = batches(&rows);
        let schema = spelt_out.schema();
        for given in [&spelt_out, &listed] {
            let pieces: Vec<RecordBatch> =
                (0..rows.len()).step_by(cut).map(|at| given.slice(at, cut.min(rows.len() - at))).collect();
            let file = written(&schema, &pieces, dictionary);
            let back = arrow_select::concat::concat_batches(&schema, &read(&file)).unwrap();
            prop_assert_eq!(&back, &spelt_out);
            check_told(&file, &rows, cut);
        }
    }
}

/// The rows of each group and of its pages, as rows come in pieces of `cut`.
fn groups(rows: &[Row], cut: usize) -> Vec<Vec<&[Row]>> {
    let mut groups = vec![Vec::new()];
    let mut held = 0;
    for page in rows.chunks(cut).flat_map(|piece| piece.chunks(PAGE)) {
        groups.last_mut().unwrap().push(page);
        held += page.len();
        if held >= GROUP {
            groups.push(Vec::new());
            held = 0;
        }
    }
    groups.retain(|pages| !pages.is_empty());
    groups
}

fn check_told(file: &Bytes, rows: &[Row], cut: usize) {
    let options =
        parquet::arrow::arrow_reader::ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap();
    let metadata = reader.metadata().clone();
    let groups = groups(rows, cut);
    assert_eq!(metadata.num_row_groups(), groups.len());
    for (at, pages) in groups.iter().enumerate() {
        let all = || pages.iter().copied().flatten();
        let Some(Statistics::Int64(times)) = metadata.row_group(at).column(4).statistics() else { panic!("no times") };
        assert_eq!(times.min_opt(), all().map(|row| &row.1).min());
        assert_eq!(times.max_opt(), all().map(|row| &row.1).max());
        let texts = metadata.row_group(at).column(0).statistics().unwrap();
        let least = all().map(|row| text(row.2)).min().unwrap();
        assert_eq!(texts.min_bytes_opt(), Some(least.as_bytes()));
        let or_null = metadata.row_group(at).column(1).statistics().unwrap();
        assert_eq!(or_null.null_count_opt(), Some(all().filter(|row| row.3.is_none()).count() as u64));
        let ColumnIndexMetaData::BYTE_ARRAY(index) = &metadata.column_index().unwrap()[at][1] else {
            panic!("no index")
        };
        for (page, rows) in pages.iter().enumerate() {
            let greatest = rows.iter().filter_map(|row| row.3).map(text).max();
            assert_eq!(index.max_value(page), greatest.as_ref().map(|text| text.as_bytes()));
            assert_eq!(index.is_null_page(page), greatest.is_none());
        }
        let filter = reader.get_row_group_column_bloom_filter(at, 0).unwrap().unwrap();
        assert!(all().all(|row| filter.check(text(row.2).as_str())));
    }
}

#[test]
fn a_file_without_rows_has_its_schema() {
    let [empty, _] = batches(&[]);
    let file = written(&empty.schema(), &[], 1 << 20);
    assert!(read(&file).is_empty());
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(reader.schema(), &empty.schema());
}
