//! Compressed text files in AWS's layout, in a folder.
//!
//! Owns names and contents. A file's name follows from its first record alone, so a batch that is tried again replaces what
//! the first try left behind.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use lucarne_flows::export::{AwsFormat, Line};
use lucarne_model::{AccountId, FlowLogId, Moment, TenantFlowRecord, flow_log::FlowLog};

use super::{SendError, Sending};
use crate::durable;

/// Where files go.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn at(path: &str) -> Self {
        Self(path.into())
    }

    /// Writes a file that others see whole or not at all.
    fn put(&self, key: &str, octets: &[u8]) -> io::Result<()> {
        let path = self.0.join(key);
        path.parent().map_or(Ok(()), durable::create_dir)?;
        durable::write_whole(&path, |file| file.write_all(octets))
    }
}

#[derive(Debug)]
pub(in crate::delivery) struct FileSender {
    account: AccountId,
    log: FlowLogId,
    format: String,
    folder: Folder,
}

impl FileSender {
    pub(super) fn new(log: &FlowLog, folder: Folder) -> Self {
        Self { account: log.account, log: log.id, format: log.format.clone(), folder }
    }

    pub(super) async fn send(&mut self, sending: Sending<'_>) -> Result<(), SendError> {
        let Some(first) = sending.records.first() else { return Ok(()) };
        let format: AwsFormat = self.format.parse().map_err(|error| SendError::Format(format!("{error}")))?;
        let key = key(self.account, self.log, first, sending.first);
        let text = text(&format, sending.records);
        let folder = self.folder.clone();
        let failed = |path: &Path, source| SendError::File { path: path.into(), source };
        let path = folder.0.join(&key);
        let written = tokio::task::spawn_blocking(move || folder.put(&key, &compressed(&text)?)).await;
        written.map_err(|cut| failed(&path, io::Error::other(cut)))?.map_err(|source| failed(&path, source))
    }
}

fn text(format: &AwsFormat, records: &[TenantFlowRecord]) -> String {
    let mut text = format.header();
    records.iter().for_each(|record| format.line(Line::from(record), &mut text));
    text
}

fn compressed(text: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

/// `AWSLogs/ACCOUNT/vpcflowlogs/REGION/YYYY/MM/DD/ACCOUNT_vpcflowlogs_REGION_LOG_YYYYMMDDTHHMMZ_SERIAL.log.gz`.
fn key(account: AccountId, log: FlowLogId, first: &TenantFlowRecord, serial: u64) -> String {
    let region = &first.location;
    let (day, minute) = (strftime(first.end, "%Y/%m/%d"), strftime(first.end, "%Y%m%dT%H%MZ"));
    format!(
        "AWSLogs/{account}/vpcflowlogs/{region}/{day}/{account}_vpcflowlogs_{region}_{log}_{minute}_{serial:016x}.log.gz"
    )
}

/// Times beyond what a calendar has are told as its first.
fn strftime(moment: Moment, format: &str) -> String {
    let micros = i64::try_from(moment.as_micros()).unwrap_or_default();
    jiff::Timestamp::from_microsecond(micros).unwrap_or_default().strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_records::record;

    #[test]
    fn a_file_lies_where_aws_would_have_put_it() {
        let record = TenantFlowRecord::from(&record(0));
        let key = key(record.account, FlowLogId::from_bits(1), &record, 255);
        let (account, location) = (record.account, &record.location);
        let expected = format!(
            "AWSLogs/{account}/vpcflowlogs/{location}/2026/01/15/{account}_vpcflowlogs_{location}_fl-00000000000000001_\
             20260115T1200Z_00000000000000ff.log.gz"
        );
        assert_eq!(key, expected);
    }
}
