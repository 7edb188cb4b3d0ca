//! Files of a network's flows: all records of its interfaces, folded as one router between its subnets would have seen
//! them.
//!
//! Owns which records are in a file and Parquet's shape of it; the folding and the other formats are `lucarne_flows`'s. A
//! file is made of tenants' views, so it holds nothing that is the operator's own.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use lucarne_flows::{
    columns::FlowColumns,
    export::{AwsFormat, Line, csv_header, csv_row, json_line},
    ipfix::Exporter,
    router_view::{PortNaming, RouterPort, RouterRecord, as_one_router},
};
use lucarne_model::{
    FlowRecord, HostId, Moment, TenantFlowRecord,
    flow_log::{ExportFormat, ExportQuestion},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

use crate::{
    catalog::Catalog,
    chunk::Chunk,
    columns::{Columns, Whole, schema},
    hour::Hour,
    part::{PartError, PartReader},
};

/// Records of a file: folding needs them all at once, and each takes some 400 octets.
const MOST: usize = 200_000;
/// The observation domain of files; a file has one.
const DOMAIN: u32 = 1;

/// Why no file was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("these are more than {MOST} records: take a shorter time")]
    TooMany,
    #[error("{0}")]
    Fields(#[from] lucarne_flows::export::ParseFormatError),
    #[error("the kept records cannot be read")]
    Read(#[source] PartError),
    #[error("the Parquet cannot be written")]
    Parquet(#[source] ParquetError),
    #[error("the columns cannot be laid out")]
    Arrow(#[source] ArrowError),
}

impl ExportError {
    /// Whether it is for the one who asked to do it differently.
    pub(crate) const fn is_callers(&self) -> bool {
        matches!(self, Self::TooMany | Self::Fields(_))
    }
}

/// The octets of the file. Reads files: not for an async task.
pub(crate) fn file(catalog: &Catalog, question: &ExportQuestion, now: Moment) -> Result<Vec<u8>, ExportError> {
    let naming = if question.by_instance { PortNaming::Instance } else { PortNaming::Subnet };
    let routed = as_one_router(records(catalog, question)?, naming);
    match question.format {
        ExportFormat::Ipfix => {
            let mut exporter = Exporter::new(DOMAIN).with_limit(Exporter::STREAM);
            Ok(exporter.encode_routed(&routed, now).concat())
        }
        ExportFormat::Aws => {
            let format: AwsFormat = question.fields.as_deref().unwrap_or("default").parse()?;
            Ok(lines(format.header(), &routed, |line, out| format.line(line, out)))
        }
        ExportFormat::Csv => Ok(lines(csv_header(true), &routed, csv_row)),
        ExportFormat::Jsonl => Ok(lines(String::new(), &routed, json_line)),
        ExportFormat::Parquet => routed_parquet(&routed),
    }
}

fn lines(header: String, routed: &[RouterRecord], put: impl Fn(Line<'_>, &mut String)) -> Vec<u8> {
    let mut text = header;
    for RouterRecord { input, output, record } in routed {
        put(Line { record, ports: Some((*input, *output)) }, &mut text);
    }
    text.into_bytes()
}

/// What the network's interfaces reported in the time.
fn records(catalog: &Catalog, question: &ExportQuestion) -> Result<Vec<TenantFlowRecord>, ExportError> {
    let mut found = Vec::new();
    let mut add = |record: &FlowRecord| {
        let is_meant = record.account == question.account
            && record.vpc == question.vpc
            && (question.since..question.until).contains(&record.end);
        if is_meant {
            found.push(record.into());
        }
        if found.len() > MOST { Err(ExportError::TooMany) } else { Ok(()) }
    };
    let everything = catalog.everything(Some(question.account));
    let hours = Hour::of(question.since)..=Hour::of(question.until);
    for part in everything.parts.iter().filter(|part| hours.contains(&part.place.hour)) {
        for kept in PartReader::all(part).map_err(ExportError::Read)? {
            add(&kept.map_err(ExportError::Read)?.record)?;
        }
    }
    let account = Some(question.account);
    everything.unsealed.iter().flat_map(|chunk| chunk.records_of(account)).try_for_each(|kept| add(&kept.record))?;
    Ok(found)
}

/// The columns of a part that accounts may see; the number of a record is that of its row.
fn shown(records: &[TenantFlowRecord]) -> Result<RecordBatch, ExportError> {
    let mut flows = FlowColumns::default();
    // The operator's fields have no column in the file.
    let widened = |record| FlowRecord::of_view(record, HostId::from_bits(0), 0, 0, None);
    records.iter().for_each(|record| flows.push(&widened(record)));
    let chunk = Arc::new(Chunk { first: 0, columns: flows });
    Whole(&chunk).batch(None, &schema(Columns::Shown)).map_err(ExportError::Arrow)
}

/// A Parquet file of a tenant's records.
pub(crate) fn parquet(records: &[TenantFlowRecord]) -> Result<Vec<u8>, ExportError> {
    written(&shown(records)?)
}

/// The same of a network's, and the router's ports behind them.
fn routed_parquet(routed: &[RouterRecord]) -> Result<Vec<u8>, ExportError> {
    let records: Vec<TenantFlowRecord> = routed.iter().map(|routed| routed.record.clone()).collect();
    let batch = shown(&records)?;
    let ports = |port: fn(&RouterRecord) -> RouterPort| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(routed.iter().map(|routed| port(routed).to_string())))
    };
    let added = [ports(|routed| routed.input), ports(|routed| routed.output)];
    let arrays = batch.columns().iter().cloned().chain(added).collect();
    written(&RecordBatch::try_new(with_ports(&batch.schema()), arrays).map_err(ExportError::Arrow)?)
}

fn written(batch: &RecordBatch) -> Result<Vec<u8>, ExportError> {
    let level = ZstdLevel::try_new(3).map_err(ExportError::Parquet)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).map_err(ExportError::Parquet)?;
    writer.write(batch).map_err(ExportError::Parquet)?;
    writer.into_inner().map_err(ExportError::Parquet)
}

fn with_ports(schema: &Schema) -> SchemaRef {
    let port = |name| Arc::new(Field::new(name, DataType::Utf8, false));
    let fields = schema.fields().iter().cloned().chain([port("in_interface"), port("out_interface")]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::{
        chunk::Chunk,
        test_records::{NOW, numbered},
    };

    fn catalog() -> Catalog {
        let catalog = Catalog::new(Vec::new());
        catalog.open(1);
        catalog.add(1, [Chunk::of(0, &numbered(0..200))]);
        catalog
    }

    /// For one account and VPC: what is in a file must be theirs.
    fn question(format: ExportFormat) -> ExportQuestion {
        let of = &numbered(0..1)[0];
        let (since, until) = (NOW, NOW.plus(std::time::Duration::from_secs(100)));
        let (account, vpc) = (of.account, of.vpc);
        ExportQuestion { account, vpc, since, until, format, fields: None, by_instance: false }
    }

    fn expected(question: &ExportQuestion) -> usize {
        let all = numbered(0..100).into_iter();
        all.filter(|record| record.account == question.account && record.vpc == question.vpc).count()
    }

    #[test]
    fn every_format_has_the_same_flows_and_nobody_elses() {
        let (catalog, now) = (catalog(), NOW);
        let make = |format| file(&catalog, &question(format), now).unwrap();
        let text = |format| String::from_utf8(make(format)).unwrap();
        let count = expected(&question(ExportFormat::Csv));
        assert!(count > 5, "the records are too few to prove anything");
        assert_eq!(text(ExportFormat::Csv).lines().count(), count + 1);
        assert_eq!(text(ExportFormat::Aws).lines().count(), count + 1);
        let lines = text(ExportFormat::Jsonl);
        assert_eq!(lines.lines().count(), count);
        let account = question(ExportFormat::Csv).account.to_string();
        assert!(lines.lines().all(|line| line.contains(&account) && !line.contains("host-")));
        let parquet = bytes::Bytes::from(make(ExportFormat::Parquet));
        let reader = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap();
        assert_eq!(reader.metadata().file_metadata().num_rows() as usize, count);
        let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert!(names.contains(&"out_interface".into()) && !names.contains(&"host".into()), "{names:?}");
    }

    #[test]
    fn an_ipfix_file_is_whole_messages_back_to_back() {
        let octets = file(&catalog(), &question(ExportFormat::Ipfix), NOW).unwrap();
        let mut at = 0;
        while at < octets.len() {
            assert_eq!(octets[at..at + 2], [0, 10]);
            at += usize::from(u16::from_be_bytes([octets[at + 2], octets[at + 3]]));
        }
        assert_eq!(at, octets.len());
    }

    #[test]
    fn unknown_fields_are_the_callers_fault() {
        let question = ExportQuestion { fields: Some("${no}".into()), ..question(ExportFormat::Aws) };
        assert!(file(&catalog(), &question, NOW).unwrap_err().is_callers());
    }
}
