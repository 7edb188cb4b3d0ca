//! Files in AWS's layout, in a folder or in a bucket: compressed text or Parquet.
//!
//! Owns names and contents. A file's name follows from its first record alone, so a batch that is tried again replaces what
//! the first try left behind.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use flate2::{Compression, write::GzEncoder};
use lucarne_flows::export::{AwsFormat, Line};
use lucarne_model::{
    AccountId, FlowLogId, Moment, TenantFlowRecord,
    flow_log::{Bucket, FlowLog, StoreCredentials},
};

use super::{Reach, SendError, Sending, bucket::BucketWriter};
use crate::{durable, export};

/// Where files go.
#[derive(Debug)]
pub(super) enum Place {
    Folder(PathBuf),
    Bucket(BucketWriter),
}

impl Place {
    pub(super) fn folder(path: &str) -> Self {
        Self::Folder(path.into())
    }

    pub(super) fn bucket(bucket: Bucket, credentials: Option<StoreCredentials>, reach: Reach) -> Self {
        Self::Bucket(BucketWriter::new(bucket, credentials, reach))
    }

    /// Writes a file that others see whole or not at all.
    async fn put(&self, key: &str, octets: Vec<u8>, now: Moment) -> Result<(), SendError> {
        match self {
            Self::Bucket(writer) => writer.put(key, octets, now).await,
            Self::Folder(folder) => {
                let path = folder.join(key);
                let failed = |source| SendError::File { path: path.clone(), source };
                let to = path.clone();
                let written = tokio::task::spawn_blocking(move || put(&to, &octets)).await;
                written.map_err(|cut| failed(io::Error::other(cut)))?.map_err(failed)
            }
        }
    }
}

fn put(path: &std::path::Path, octets: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), durable::create_dir)?;
    durable::write_whole(path, |file| file.write_all(octets))
}

#[derive(Debug)]
pub(in crate::delivery) struct FileSender {
    account: AccountId,
    log: FlowLogId,
    format: String,
    place: Place,
}

impl FileSender {
    pub(super) fn new(log: &FlowLog, place: Place) -> Self {
        Self { account: log.account, log: log.id, format: log.format.clone(), place }
    }

    pub(super) async fn send(&mut self, sending: Sending<'_>) -> Result<(), SendError> {
        let Some(first) = sending.records.first() else { return Ok(()) };
        let folder = match self.place {
            Place::Folder(_) => folder(self.account, first),
            Place::Bucket(_) => hive_folder(self.account, first),
        };
        let contents = Contents::of(&self.format)?;
        let key = format!("{folder}/{}", self.name(first, sending.first, contents.extension()));
        let octets = contents.octets(sending.records)?;
        self.place.put(&key, octets, sending.now).await
    }

    /// `ACCOUNT_vpcflowlogs_REGION_LOG_YYYYMMDDTHHMMZ_SERIAL.EXTENSION`.
    fn name(&self, first: &TenantFlowRecord, serial: u64, extension: &str) -> String {
        let Self { account, log, .. } = self;
        let (region, minute) = (&first.location, strftime(first.end, "%Y%m%dT%H%MZ"));
        format!("{account}_vpcflowlogs_{region}_{log}_{minute}_{serial:016x}.{extension}")
    }
}

/// What is in a file.
enum Contents {
    Text(AwsFormat),
    Parquet,
}

impl Contents {
    fn of(format: &str) -> Result<Self, SendError> {
        match format {
            FlowLog::PARQUET => Ok(Self::Parquet),
            text => text.parse().map(Self::Text).map_err(|error| SendError::Format(format!("{error}"))),
        }
    }

    const fn extension(&self) -> &'static str {
        match self {
            Self::Text(_) => "log.gz",
            Self::Parquet => "log.parquet",
        }
    }

    fn octets(&self, records: &[TenantFlowRecord]) -> Result<Vec<u8>, SendError> {
        match self {
            Self::Text(format) => {
                compressed(&text(format, records)).map_err(|error| SendError::Contents(error.to_string()))
            }
            Self::Parquet => export::parquet(records).map_err(|error| SendError::Contents(error.to_string())),
        }
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

/// `AWSLogs/ACCOUNT/vpcflowlogs/REGION/YYYY/MM/DD`.
fn folder(account: AccountId, first: &TenantFlowRecord) -> String {
    let (region, day) = (&first.location, strftime(first.end, "%Y/%m/%d"));
    format!("AWSLogs/{account}/vpcflowlogs/{region}/{day}")
}

/// As AWS's "Hive-compatible prefixes" with hours, which Athena and Spark take for columns.
fn hive_folder(account: AccountId, first: &TenantFlowRecord) -> String {
    let (region, hour) = (&first.location, strftime(first.end, "year=%Y/month=%m/day=%d/hour=%H"));
    format!("AWSLogs/aws-account-id={account}/aws-service=vpcflowlogs/aws-region={region}/{hour}")
}

/// Times beyond what a calendar has are told as its first.
pub(crate) fn strftime(moment: Moment, format: &str) -> String {
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
        let (account, location) = (record.account, &record.location);
        let sender =
            FileSender { account, log: FlowLogId::from_bits(1), format: String::new(), place: Place::folder("/") };
        let name =
            format!("{account}_vpcflowlogs_{location}_fl-00000000000000001_20260115T1200Z_00000000000000ff.log.gz");
        assert_eq!(sender.name(&record, 255, "log.gz"), name);
        assert_eq!(folder(account, &record), format!("AWSLogs/{account}/vpcflowlogs/{location}/2026/01/15"));
        let hive = format!(
            "AWSLogs/aws-account-id={account}/aws-service=vpcflowlogs/aws-region={location}/\
             year=2026/month=01/day=15/hour=12"
        );
        assert_eq!(hive_folder(account, &record), hive);
    }
}
