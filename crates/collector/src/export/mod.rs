//! Files of a network's flows: all records of its interfaces, folded as one router between its subnets would have seen
//! them.
//!
//! Owns which records are in a file and Parquet's shape of it, and that it is made piece by piece; the folding and the other formats are `lucarne_flows`'s. A
//! file is made of tenants' views, so it holds nothing that is the operator's own.

mod folding;
mod scratch;

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use lucarne_flows::{
    columns::FlowColumns,
    export::{AwsFormat, Line, csv_header, csv_row, json_line},
    ipfix::Exporter,
    router_view::{PortNaming, RouterPort, RouterRecord},
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

use self::folding::{Folded, Gathered};
use crate::{
    catalog::Catalog,
    chunk::Chunk,
    columns::{Columns, Whole, schema},
    hour::Hour,
    part::{PartError, PartReader},
};

/// Records that are in memory at once, each with some 400 octets.
const MOST: usize = 200_000;
/// Rows of a group of a Parquet file, which is in memory until it is full.
const ROWS_OF_GROUP: usize = 1 << 16;
/// The observation domain of files; a file has one.
const DOMAIN: u32 = 1;

/// Why no file was made, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("{0}")]
    Fields(#[from] lucarne_flows::export::ParseFormatError),
    #[error("the kept records cannot be read")]
    Read(#[source] PartError),
    #[error("what does not fit into memory cannot be put aside")]
    Scratch(#[source] io::Error),
    #[error("the file cannot be handed on")]
    Write(#[source] io::Error),
    #[error("the Parquet cannot be written")]
    Parquet(#[source] ParquetError),
    #[error("the columns cannot be laid out")]
    Arrow(#[source] ArrowError),
}

/// A file that is wanted, and can be.
#[derive(Debug)]
pub(crate) struct Export {
    question: ExportQuestion,
    aws: AwsFormat,
}

impl Export {
    /// Refuses what the one who asked must ask differently.
    pub(crate) fn of(question: ExportQuestion) -> Result<Self, ExportError> {
        let aws = match question.format {
            ExportFormat::Aws => question.fields.as_deref().unwrap_or("default").parse()?,
            _ => "default".parse()?,
        };
        Ok(Self { question, aws })
    }

    /// Writes the file, piece by piece; what does not fit into memory meanwhile is in the folder. Reads files: not for an
    /// async task.
    pub(crate) fn write(
        self,
        catalog: &Catalog,
        folder: &Path,
        now: Moment,
        out: impl Write + Send,
    ) -> Result<(), ExportError> {
        self.write_holding(MOST, catalog, folder, now, out)
    }

    fn write_holding(
        self,
        most: usize,
        catalog: &Catalog,
        folder: &Path,
        now: Moment,
        mut out: impl Write + Send,
    ) -> Result<(), ExportError> {
        let naming = if self.question.by_instance { PortNaming::Instance } else { PortNaming::Subnet };
        let mut gathered = Gathered::holding(most, folder.to_owned(), naming);
        gather(catalog, &self.question, &mut gathered, &mut out)?;
        let folded = gathered.fold().map_err(ExportError::Scratch)?;
        match self.question.format {
            ExportFormat::Ipfix => ipfix(folded, now, out),
            ExportFormat::Aws => lines(self.aws.header(), folded, |line, out| self.aws.line(line, out), out),
            ExportFormat::Csv => lines(csv_header(true), folded, csv_row, out),
            ExportFormat::Jsonl => lines(String::new(), folded, json_line, out),
            ExportFormat::Parquet => routed_parquet(folded, out),
        }
    }
}

/// Gives each batch of the records to `put`, and what that makes of it to `out`.
fn in_batches(
    mut folded: Folded,
    mut put: impl FnMut(&[RouterRecord]) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    loop {
        let batch = folded.next_batch().map_err(ExportError::Scratch)?;
        if batch.is_empty() {
            return Ok(());
        }
        put(&batch)?;
    }
}

fn ipfix(folded: Folded, now: Moment, mut out: impl Write) -> Result<(), ExportError> {
    let mut exporter = Exporter::new(DOMAIN).with_limit(Exporter::STREAM);
    let ports = folded.ports();
    let mut write = |messages: Vec<Vec<u8>>| messages.iter().try_for_each(|message| out.write_all(message));
    write(exporter.encode_ports(&ports, now)).map_err(ExportError::Write)?;
    in_batches(folded, |batch| write(exporter.encode_between(&ports, batch, now)).map_err(ExportError::Write))
}

fn lines(
    header: String,
    folded: Folded,
    put: impl Fn(Line<'_>, &mut String),
    mut out: impl Write,
) -> Result<(), ExportError> {
    let mut text = header;
    in_batches(folded, |batch| {
        for RouterRecord { input, output, record } in batch {
            put(Line { record, ports: Some((*input, *output)) }, &mut text);
        }
        out.write_all(text.as_bytes()).map_err(ExportError::Write)?;
        text.clear();
        Ok(())
    })?;
    out.write_all(text.as_bytes()).map_err(ExportError::Write)
}

/// Gathers what the network's interfaces reported in the time. Ends early when nobody takes the file any longer, which `out`
/// knows.
fn gather(
    catalog: &Catalog,
    question: &ExportQuestion,
    gathered: &mut Gathered,
    out: &mut impl Write,
) -> Result<(), ExportError> {
    let mut add = |record: &FlowRecord| {
        let is_meant = record.account == question.account
            && record.vpc == question.vpc
            && (question.since..question.until).contains(&record.end);
        if is_meant { gathered.push(record.into()).map_err(ExportError::Scratch) } else { Ok(()) }
    };
    let everything = catalog.everything(Some(question.account));
    let hours = Hour::of(question.since)..=Hour::of(question.until);
    for part in everything.parts.iter().filter(|part| hours.contains(&part.place.hour)) {
        out.flush().map_err(ExportError::Write)?;
        for kept in PartReader::all(part).map_err(ExportError::Read)? {
            add(&kept.map_err(ExportError::Read)?.record)?;
        }
    }
    let account = Some(question.account);
    everything.unsealed.iter().flat_map(|chunk| chunk.records_of(account)).try_for_each(|kept| add(&kept.record))
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
    let batch = shown(records)?;
    let mut writer = writer(Vec::new(), batch.schema())?;
    writer.write(&batch).map_err(ExportError::Parquet)?;
    writer.into_inner().map_err(ExportError::Parquet)
}

/// The same of a network's, and the router's ports behind them.
fn routed_parquet(folded: Folded, out: impl Write + Send) -> Result<(), ExportError> {
    let mut writer = writer(out, with_ports(&schema(Columns::Shown)))?;
    in_batches(folded, |routed| {
        let records: Vec<TenantFlowRecord> = routed.iter().map(|routed| routed.record.clone()).collect();
        let ports = |port: fn(&RouterRecord) -> RouterPort| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(routed.iter().map(|routed| port(routed).to_string())))
        };
        let added = [ports(|routed| routed.input), ports(|routed| routed.output)];
        let batch = shown(&records)?;
        let arrays = batch.columns().iter().cloned().chain(added).collect();
        let batch = RecordBatch::try_new(with_ports(&batch.schema()), arrays).map_err(ExportError::Arrow)?;
        writer.write(&batch).map_err(ExportError::Parquet)
    })?;
    writer.close().map(drop).map_err(ExportError::Parquet)
}

fn writer<W: Write + Send>(out: W, schema: SchemaRef) -> Result<ArrowWriter<W>, ExportError> {
    let level = ZstdLevel::try_new(3).map_err(ExportError::Parquet)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROWS_OF_GROUP))
        .build();
    ArrowWriter::try_new(out, schema, Some(properties)).map_err(ExportError::Parquet)
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

    pub(super) fn vpc() -> lucarne_model::VpcId {
        numbered(0..1)[0].vpc
    }

    fn file(catalog: &Catalog, question: &ExportQuestion, now: Moment) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        Export::of(question.clone()).unwrap().write(catalog, folder.path(), now, &mut out).unwrap();
        out
    }

    /// Also where only a few records fit into memory.
    #[test]
    fn a_file_is_the_same_however_few_records_are_held() {
        let folder = tempfile::tempdir().unwrap();
        for format in [ExportFormat::Ipfix, ExportFormat::Aws, ExportFormat::Csv, ExportFormat::Jsonl] {
            let question = question(format);
            let mut out = Vec::new();
            let export = Export::of(question.clone()).unwrap();
            export.write_holding(3, &catalog(), folder.path(), NOW, &mut out).unwrap();
            assert_eq!(out, file(&catalog(), &question, NOW), "{format:?}");
        }
    }

    /// As a connection does whose other end is gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn nothing_more_is_made_when_nobody_takes_it() {
        for format in [ExportFormat::Ipfix, ExportFormat::Csv, ExportFormat::Parquet] {
            let export = Export::of(question(format)).unwrap();
            assert!(export.write(&catalog(), Path::new("/"), NOW, Gone).is_err(), "{format:?}");
        }
    }

    fn expected(question: &ExportQuestion) -> usize {
        let all = numbered(0..100).into_iter();
        all.filter(|record| record.account == question.account && record.vpc == question.vpc).count()
    }

    #[test]
    fn every_format_has_the_same_flows_and_nobody_elses() {
        let (catalog, now) = (catalog(), NOW);
        let make = |format| file(&catalog, &question(format), now);
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
        let octets = file(&catalog(), &question(ExportFormat::Ipfix), NOW);
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
        assert!(matches!(Export::of(question), Err(ExportError::Fields(_))));
    }
}
