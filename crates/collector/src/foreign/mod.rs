//! Records of other exporters: taken over UDP, kept as Parquet beside what is the operator's own, asked for in SQL as
//! `foreign_flows`.
//!
//! Owns the listener and the files. What comes over UDP is nobody's promise: records wait in memory until there are many
//! or they are old, and a kill loses those. Which octets mean what is decided by [`lucarne_flows::foreign`].

mod columns;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use lucarne_flows::foreign::{Decoder, ForeignRecord};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::{durable, part::PartError, sealer::now};

/// Below the state folder.
const DIR: &str = "operator-foreign";
/// Records that are written as one file...
const MANY: usize = 50_000;
/// ...or after so long.
const OLD: Duration = Duration::from_secs(60);
/// Records that may wait while the disk refuses; beyond it they are left out, and counted.
const MOST: usize = 4 * MANY;
/// Rows of a batch.
const BATCH: usize = 8192;

/// All records of other exporters.
#[derive(Debug)]
pub(crate) struct Foreign {
    dir: PathBuf,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    waiting: Vec<Arc<[ForeignRecord]>>,
    files: Vec<ForeignFile>,
    left_out: u64,
}

impl Contents {
    fn waiting(&self) -> usize {
        self.waiting.iter().map(|records| records.len()).sum()
    }
}

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignFile {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// What one question sees.
#[derive(Debug)]
pub(crate) struct ForeignSnapshot {
    pub(crate) waiting: Vec<Arc<[ForeignRecord]>>,
    pub(crate) files: Vec<ForeignFile>,
}

impl Foreign {
    /// The records of a state folder. Half-written files are removed.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = state_dir.join(DIR);
        durable::create_dir(&dir)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) if name.ends_with(durable::TEMPORARY) => durable::remove(&entry.path())?,
                Ok(name) if name.ends_with(".parquet") => {
                    files.push(ForeignFile { name, size: entry.metadata()?.len() });
                }
                _ => {}
            }
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { dir, contents: Mutex::new(Contents { files, ..Contents::default() }) })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn snapshot(&self) -> ForeignSnapshot {
        let contents = self.contents();
        ForeignSnapshot { waiting: contents.waiting.clone(), files: contents.files.clone() }
    }

    fn add(&self, records: Vec<ForeignRecord>) {
        let mut contents = self.contents();
        if contents.waiting() + records.len() > MOST {
            if contents.left_out == 0 {
                tracing::error!("records of other exporters are left out: the disk does not take those before them");
            }
            contents.left_out += records.len() as u64;
            return;
        }
        contents.waiting.push(records.into());
    }

    /// Writes what waits as a file. Questions see each record once, before and after.
    fn flush(&self) -> Result<(), PartError> {
        let waiting = self.contents().waiting.clone();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut records: Vec<ForeignRecord> = waiting.iter().flat_map(|records| records.iter().cloned()).collect();
        records.sort_unstable_by_key(|record| (record.exporter, record.end));
        let name = format!("{:020}.parquet", now().as_micros());
        let size = durable::write_whole(&self.dir.join(&name), |file| {
            let zstd = Compression::ZSTD(ZstdLevel::try_new(3)?);
            let properties = WriterProperties::builder().set_compression(zstd).build();
            let mut writer = ArrowWriter::try_new(file, schema(), Some(properties))?;
            for records in records.chunks(BATCH) {
                writer.write(&batch(records)?)?;
            }
            writer.finish()?;
            Ok::<_, PartError>(writer.bytes_written() as u64)
        })?;
        let mut contents = self.contents();
        contents.waiting.drain(..waiting.len());
        contents.files.push(ForeignFile { name, size });
        let left_out = std::mem::take(&mut contents.left_out);
        if left_out > 0 {
            tracing::warn!(left_out, "records of other exporters are taken again");
        }
        Ok(())
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn schema() -> SchemaRef {
    columns::schema()
}

pub(crate) fn batch(records: &[ForeignRecord]) -> Result<RecordBatch, arrow_schema::ArrowError> {
    columns::batch(records)
}

/// Takes datagrams until `shutdown`, and writes what waits before it returns.
pub(crate) async fn serve(socket: UdpSocket, foreign: Arc<Foreign>, shutdown: CancellationToken) {
    let mut decoder = Decoder::default();
    let mut datagram = vec![0; 65_536];
    let mut since = Instant::now();
    loop {
        let received = tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(OLD) => None,
            received = socket.recv_from(&mut datagram) => Some(received),
        };
        match received {
            Some(Ok((length, from))) => {
                let mut records = Vec::new();
                let decoded = decoder.decode(from.ip(), &datagram[..length], now(), &mut |record| records.push(record));
                if let Err(error) = decoded {
                    tracing::debug!(%from, %error, "a datagram, or its rest, is passed over");
                }
                if !records.is_empty() {
                    foreign.add(records);
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "a datagram could not be received"),
            None => {}
        }
        if since.elapsed() >= OLD || foreign.contents().waiting() >= MANY {
            write(foreign.clone()).await;
            since = Instant::now();
        }
    }
    write(foreign).await;
}

async fn write(foreign: Arc<Foreign>) {
    match tokio::task::spawn_blocking(move || foreign.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "records of other exporters cannot be written; they wait"),
        Err(error) => tracing::error!(%error, "records of other exporters were not written"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A datagram of NetFlow v5 with one record.
    fn datagram() -> Vec<u8> {
        let mut octets = vec![0; 72];
        octets[..4].copy_from_slice(&[0, 5, 0, 1]);
        octets[24..32].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        octets[62] = 17;
        octets
    }

    #[tokio::test]
    async fn a_datagram_is_a_record_that_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = Arc::new(Foreign::open(dir.path()).unwrap());
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (socket.local_addr().unwrap(), CancellationToken::new());
        let task = tokio::spawn(serve(socket, foreign.clone(), shutdown.clone()));
        let exporter = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        exporter.send_to(b"no flows", address).await.unwrap();
        exporter.send_to(&datagram(), address).await.unwrap();
        while foreign.snapshot().waiting.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let record = foreign.snapshot().waiting[0][0].clone();
        assert_eq!((record.source, record.protocol), (Ipv4Addr::new(10, 0, 0, 1).into(), 17));
        shutdown.cancel();
        task.await.unwrap();
        let snapshot = Foreign::open(dir.path()).unwrap().snapshot();
        assert_eq!((snapshot.waiting.len(), snapshot.files.len()), (0, 1));
        assert_eq!(snapshot.files, foreign.snapshot().files);
    }

    #[test]
    fn what_cannot_be_written_waits_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = Foreign::open(dir.path()).unwrap();
        let mut record = None;
        Decoder::default().decode(Ipv4Addr::LOCALHOST.into(), &datagram(), now(), &mut |r| record = Some(r)).unwrap();
        for _ in 0..MOST / MANY + 3 {
            foreign.add(vec![record.clone().unwrap(); MANY]);
        }
        assert_eq!(foreign.contents().waiting(), MOST);
        assert_eq!(foreign.contents().left_out, 3 * MANY as u64);
        fs::remove_dir(&foreign.dir).unwrap();
        assert!(foreign.flush().is_err());
        assert_eq!(foreign.contents().waiting(), MOST);
    }
}
