//! The files of other exporters' records, and what becomes of them: small ones are merged, old ones go.
//!
//! Owns their names, which say what they hold: `TIME.parquet`, or `FROM-TO.parquet` for those that were merged of all from
//! FROM to TO. **A file that another one covers does not count**, so a kill at any instant of a merge doubles nothing. A
//! file that is given up is removed when the last question that reads it has ended.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arrow_array::{RecordBatch, new_null_array};
use lucarne_model::Moment;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use crate::{compaction, durable, part::PartError};

/// Octets that all files may have together.
const MOST_ROOM: u64 = 4 << 30;
/// How long records stay.
const MOST_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A file of records.
#[derive(Debug)]
pub(crate) struct ForeignFile {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// When its records were written first, the first and the last of them, in microseconds since 1970.
    times: (u64, u64),
    path: PathBuf,
    is_given_up: AtomicBool,
}

impl ForeignFile {
    fn new(dir: &Path, times: (u64, u64), size: u64) -> Self {
        let name = name(times);
        Self { path: dir.join(&name), name, size, times, is_given_up: AtomicBool::new(false) }
    }

    pub(super) const fn last(&self) -> u64 {
        self.times.1
    }

    /// Removes it when nobody has it any more.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Relaxed);
    }
}

impl Drop for ForeignFile {
    fn drop(&mut self) {
        if self.is_given_up.load(Relaxed)
            && let Err(error) = durable::remove(&self.path)
        {
            tracing::warn!(file = self.name, %error, "a file of other exporters' records stays until the next start");
        }
    }
}

fn name((first, last): (u64, u64)) -> String {
    if first == last { format!("{first:020}.parquet") } else { format!("{first:020}-{last:020}.parquet") }
}

fn times(name: &str) -> Option<(u64, u64)> {
    let times = name.strip_suffix(".parquet")?;
    let (first, last) = times.split_once('-').unwrap_or((times, times));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// The files of a folder, oldest first. Half-written and covered ones are removed.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Arc<ForeignFile>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.ends_with(durable::TEMPORARY) {
            durable::remove(&entry.path())?;
        } else if let Some(times) = times(&name) {
            found.push(ForeignFile::new(dir, times, entry.metadata()?.len()));
        }
    }
    // Of those that begin alike the widest comes first, and covers what follows.
    found.sort_unstable_by_key(|file| (file.times.0, u64::MAX - file.times.1));
    let mut files: Vec<Arc<ForeignFile>> = Vec::new();
    for file in found {
        if files.last().is_some_and(|before| file.last() <= before.last()) {
            file.give_up();
        } else {
            files.push(Arc::new(file));
        }
    }
    Ok(files)
}

/// Writes records, of which the first and the last were there at `times`, as a file.
pub(super) fn write(
    dir: &Path,
    times: (u64, u64),
    batches: impl IntoIterator<Item = Result<RecordBatch, PartError>>,
) -> Result<ForeignFile, PartError> {
    let size = durable::write_whole(&dir.join(name(times)), |file| {
        let zstd = Compression::ZSTD(ZstdLevel::try_new(3)?);
        let properties = WriterProperties::builder().set_compression(zstd).build();
        let mut writer = ArrowWriter::try_new(file, super::schema(), Some(properties))?;
        for batch in batches {
            writer.write(&batch?)?;
        }
        writer.finish()?;
        Ok::<_, PartError>(writer.bytes_written() as u64)
    })?;
    Ok(ForeignFile::new(dir, times, size))
}

/// Which neighbours are to be merged now: those that are small, once they are many.
pub(super) fn mergeable(files: &[Arc<ForeignFile>]) -> Option<Range<usize>> {
    let sizes: Vec<u64> = files.iter().map(|file| file.size).collect();
    compaction::choose(&sizes, false)
}

/// One file of all these, which are neighbours.
pub(super) fn merge(dir: &Path, files: &[Arc<ForeignFile>]) -> Result<ForeignFile, PartError> {
    let first = files.first().map_or(0, |file| file.times.0);
    let last = files.last().map_or(first, |file| file.last());
    let readers = files.iter().map(|file| read(&file.path)).collect::<Result<Vec<_>, _>>()?;
    write(dir, (first, last), readers.into_iter().flatten())
}

/// The records of a file, with nulls for columns that it is too old to have.
fn read(path: &Path) -> Result<impl Iterator<Item = Result<RecordBatch, PartError>> + use<>, PartError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
    Ok(reader.map(|batch| {
        let (batch, schema) = (batch?, super::schema());
        let of = |(name, kind)| {
            batch.column_by_name(name).cloned().unwrap_or_else(|| new_null_array(kind, batch.num_rows()))
        };
        let columns = schema.fields().iter().map(|field| of((field.name().as_str(), field.data_type()))).collect();
        Ok(RecordBatch::try_new(schema, columns)?)
    }))
}

/// How many of the oldest have to go: the too old, and more where all together take too much room.
pub(super) fn expired(files: &[Arc<ForeignFile>], now: Moment) -> usize {
    let ages_and_sizes: Vec<(u64, u64)> = files.iter().map(|file| (file.last(), file.size)).collect();
    to_expire(&ages_and_sizes, now.as_micros(), MOST_ROOM)
}

fn to_expire(files: &[(u64, u64)], now: u64, most_room: u64) -> usize {
    let oldest = now.saturating_sub(MOST_AGE.as_micros() as u64);
    let mut room: u64 = files.iter().map(|(_, size)| size).sum();
    let mut gone = 0;
    for (last, size) in files {
        if *last >= oldest && room <= most_room {
            break;
        }
        room -= size;
        gone += 1;
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_go_and_then_as_many_as_take_too_much_room() {
        let age = MOST_AGE.as_micros() as u64;
        let files = [(5, 10), (age, 10), (age + 5, 10)];
        assert_eq!(to_expire(&files, age, 30), 0);
        assert_eq!(to_expire(&files, age + 6, 30), 1);
        assert_eq!(to_expire(&files, age, 29), 1);
        assert_eq!(to_expire(&files, age, 0), 3);
        assert_eq!(to_expire(&files, 3 * age, 30), 3);
    }

    #[test]
    fn a_name_says_what_a_file_holds() {
        for of in [(7, 7), (7, 9), (0, u64::MAX)] {
            assert_eq!(times(&name(of)), Some(of));
        }
        for other in ["parquet", "x.parquet", "9-7.parquet", "7.tmp", "7-8-9.parquet"] {
            assert_eq!(times(other), None, "{other}");
        }
    }
}
