//! Records of other exporters: taken over UDP, kept as Parquet beside what is the operator's own, asked for in SQL as
//! `foreign_flows`.
//!
//! Owns the listener and what waits. What comes over UDP is nobody's promise: records wait in memory until there are many
//! or they are old, and a kill loses those. Which octets mean what is decided by [`lucarne_flows::foreign`]; the [`files`]
//! are bounded in room and age.

mod columns;
mod files;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use lucarne_flows::foreign::{Decoder, ForeignRecord};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

pub(crate) use files::ForeignFile;

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
    /// Oldest first.
    files: Vec<Arc<ForeignFile>>,
    left_out: u64,
}

impl Contents {
    fn waiting(&self) -> usize {
        self.waiting.iter().map(|records| records.len()).sum()
    }
}

/// What one question sees.
#[derive(Debug)]
pub(crate) struct ForeignSnapshot {
    pub(crate) waiting: Vec<Arc<[ForeignRecord]>>,
    pub(crate) files: Vec<Arc<ForeignFile>>,
}

impl Foreign {
    /// The records of a state folder. Half-written files are removed.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = state_dir.join(DIR);
        durable::create_dir(&dir)?;
        let files = files::list(&dir)?;
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
        // Names grow even where the clock does not.
        let time = now().as_micros().max(self.contents().files.last().map_or(0, |file| file.last() + 1));
        let batches = records.chunks(BATCH).map(|records| Ok(batch(records)?));
        let file = files::write(&self.dir, (time, time), batches)?;
        let mut contents = self.contents();
        contents.waiting.drain(..waiting.len());
        contents.files.push(Arc::new(file));
        let left_out = std::mem::take(&mut contents.left_out);
        if left_out > 0 {
            tracing::warn!(left_out, "records of other exporters are taken again");
        }
        Ok(())
    }

    /// Gives up what is too old or too much, and merges what is small and many. Only who flushes may call it.
    fn tidy(&self) -> Result<(), PartError> {
        let mut contents = self.contents();
        let expired = files::expired(&contents.files, now());
        contents.files.drain(..expired).for_each(|file| file.give_up());
        drop(contents);
        loop {
            let files = self.contents().files.clone();
            let Some(range) = files::mergeable(&files) else { return Ok(()) };
            let merged = Arc::new(files::merge(&self.dir, &files[range.clone()])?);
            self.contents().files.splice(range, [merged]).for_each(|file| file.give_up());
        }
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
    let work = move || foreign.flush().and_then(|()| foreign.tidy());
    match tokio::task::spawn_blocking(work).await {
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
        assert_eq!(snapshot.files[0].name, foreign.snapshot().files[0].name);
    }

    fn record() -> ForeignRecord {
        let mut record = None;
        Decoder::default().decode(Ipv4Addr::LOCALHOST.into(), &datagram(), now(), &mut |r| record = Some(r)).unwrap();
        record.unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir.join(DIR)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn rows(files: &[Arc<ForeignFile>], dir: &Path) -> usize {
        let count = |name: &str| {
            let file = std::fs::File::open(dir.join(DIR).join(name)).unwrap();
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            reader.metadata().file_metadata().num_rows() as usize
        };
        files.iter().map(|file| count(&file.name)).sum()
    }

    #[test]
    fn many_small_files_become_few_and_none_goes_while_a_question_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = Foreign::open(dir.path()).unwrap();
        for _ in 0..7 {
            foreign.add(vec![record(); 3]);
            foreign.flush().unwrap();
        }
        foreign.tidy().unwrap();
        let question = foreign.snapshot();
        assert_eq!(question.files.len(), 7);
        foreign.add(vec![record(); 3]);
        foreign.flush().unwrap();
        foreign.tidy().unwrap();
        assert_eq!(foreign.snapshot().files.len(), 1);
        assert_eq!(rows(&foreign.snapshot().files, dir.path()), 24);
        assert_eq!(rows(&question.files, dir.path()), 21, "a question in work lost its files");
        drop(question);
        assert_eq!(names(dir.path()), [foreign.snapshot().files[0].name.clone()]);
    }

    /// As if it had been killed between the merged file and the removal of what it is made of.
    #[test]
    fn a_merge_that_was_cut_short_doubles_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = Foreign::open(dir.path()).unwrap();
        for _ in 0..3 {
            foreign.add(vec![record(); 3]);
            foreign.flush().unwrap();
        }
        let files = foreign.snapshot().files;
        files::merge(&foreign.dir, &files[..2]).unwrap();
        assert_eq!(names(dir.path()).len(), 4);
        let again = Foreign::open(dir.path()).unwrap().snapshot();
        assert_eq!(again.files.len(), 2);
        assert_eq!(rows(&again.files, dir.path()), 9);
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn what_cannot_be_written_waits_up_to_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = Foreign::open(dir.path()).unwrap();
        for _ in 0..MOST / MANY + 3 {
            foreign.add(vec![record(); MANY]);
        }
        assert_eq!(foreign.contents().waiting(), MOST);
        assert_eq!(foreign.contents().left_out, 3 * MANY as u64);
        std::fs::remove_dir(&foreign.dir).unwrap();
        assert!(foreign.flush().is_err());
        assert_eq!(foreign.contents().waiting(), MOST);
    }
}
