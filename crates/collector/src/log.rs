//! The write-ahead log: numbered segments, each a valid IPFIX file (RFC 5655) of records and senders' marks.
//!
//! Owns the format and its one rule, *a group counts when the marks behind it are whole*: a group is the records of one
//! append and then a message with the marks of their senders; records at a segment's end without marks behind them were
//! never acknowledged, will be sent again, and are not read. Each segment begins with the marks of all senders, so that
//! older segments can be removed. Sealing is the [`crate::sealer`]'s work.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use lucarne_flows::{
    columns::FlowColumns,
    ipfix::{DecodeError, Decoder, Exporter, HEADER_LENGTH, Header, Mark},
};
use lucarne_model::Moment;

use crate::{chunk::Chunk, durable, received::Received};

/// The observation domain of the log's messages. Each record says for itself which host saw it.
const DOMAIN: u32 = 0;
/// Bits of a serial that count records within a segment; those above are the segment's number.
const INDEX_BITS: u32 = 24;

/// The serial of a segment's record. Records of a later segment have higher ones.
pub(crate) const fn serial(segment: u64, index: usize) -> u64 {
    segment << INDEX_BITS | index as u64
}

/// The log's folder, and the segment that is written to, if one could be made yet.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    /// The number of the next segment to be made.
    next: u64,
    open: Option<Segment>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: File,
    /// Octets that are durable; what lies behind is the rest of a failed append.
    length: u64,
    records: usize,
    exporter: Exporter,
}

impl Log {
    pub(crate) const fn new(dir: PathBuf, next: u64) -> Self {
        Self { dir, next, open: None }
    }

    pub(crate) fn open_segment(&self) -> Option<u64> {
        self.open.as_ref().map(|segment| segment.number)
    }

    /// Records of the segment that is written to.
    pub(crate) fn records(&self) -> usize {
        self.open.as_ref().map_or(0, |segment| segment.records)
    }

    /// Begins a new segment with the marks of all senders and returns its number. After an error nothing has changed.
    pub(crate) fn rotate(&mut self, marks: &[Mark], now: Moment) -> io::Result<u64> {
        let number = self.next;
        let mut exporter = Exporter::new(DOMAIN).with_limit(Exporter::STREAM);
        let head = exporter.encode_marks(marks, now).concat();
        let path = path(&self.dir, number);
        // Under its name only when the marks are durable: from then on older segments may go.
        durable::write_whole(&path, |file| io::Write::write_all(file, &head))?;
        let file = OpenOptions::new().write(true).mode(0o600).open(&path)?;
        self.open = Some(Segment { number, file, length: head.len() as u64, records: 0, exporter });
        self.next = number + 1;
        Ok(number)
    }

    /// Makes a group for the open segment, to be given to [`Log::append`] until that succeeds. Numbers the records.
    pub(crate) fn prepare(&mut self, received: Vec<Received>, marks: &[Mark], now: Moment) -> Option<Group> {
        let Segment { number, records: before, exporter, .. } = self.open.as_mut()?;
        let mut messages = Vec::new();
        let mut chunks = Vec::with_capacity(received.len());
        let mut records = 0;
        for received in received.into_iter().filter(|received| received.len() > 0) {
            messages.extend(received.messages(exporter, now));
            let mut columns = received.columns;
            columns.settle();
            let chunk = Chunk { first: serial(*number, *before + records), columns };
            records += chunk.len();
            chunks.push(Arc::new(chunk));
        }
        messages.extend(exporter.encode_marks(marks, now));
        Some(Group { segment: *number, messages, records, chunks })
    }

    /// Makes a group durable. After an error the group counts as never written, and can be appended again.
    pub(crate) fn append(&mut self, group: &Group) -> io::Result<()> {
        let Some(segment) = self.open.as_mut().filter(|segment| segment.number == group.segment) else {
            return Err(io::Error::other("the group was made for another segment"));
        };
        // A failed append may have left octets, even a whole group, which must not count beside this one.
        if segment.file.metadata()?.len() != segment.length {
            segment.file.set_len(segment.length)?;
        }
        let mut length = segment.length;
        for message in &group.messages {
            segment.file.write_all_at(message, length)?;
            length += message.len() as u64;
        }
        segment.file.sync_data()?;
        segment.length = length;
        segment.records += group.records;
        Ok(())
    }
}

/// Records that become durable together, or not at all.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) segment: u64,
    messages: Vec<Vec<u8>>,
    records: usize,
    pub(crate) chunks: Vec<Arc<Chunk>>,
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.ipfix"))
}

/// The numbers of the segments in the folder, in order.
pub(crate) fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".ipfix")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes a segment whose records are in parts: the instant from which the parts count.
pub(crate) fn remove(dir: &Path, number: u64) -> io::Result<()> {
    durable::remove(&path(dir, number))
}

/// What a segment says.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) chunk: Chunk,
    pub(crate) marks: Vec<Mark>,
    /// Why reading stopped before the end; usual for the last segment after a kill, damage for any other.
    pub(crate) torn: Option<Torn>,
}

/// Why a segment cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Torn {
    #[error("a message is cut short")]
    Short,
    #[error("no message stands where one should begin")]
    Header,
    #[error("a message cannot be decoded")]
    Message(#[source] DecodeError),
}

/// Reads a segment up to its end or to where it is torn.
pub(crate) fn replay(dir: &Path, number: u64) -> io::Result<Replayed> {
    let mut file = BufReader::new(File::open(path(dir, number))?);
    let mut decoder = Decoder::new();
    let (mut columns, mut whole) = (FlowColumns::default(), 0);
    let (mut marks, mut torn) = (Vec::new(), None);
    loop {
        let decoded = match read_message(&mut file)? {
            Ok(Some(message)) => decoder.decode(&message, &mut columns).map_err(Torn::Message),
            Ok(None) => break,
            Err(torn) => Err(torn),
        };
        match decoded {
            Ok(decoded) if decoded.marks.is_empty() => {}
            Ok(decoded) => {
                marks.extend(decoded.marks);
                whole = columns.len();
            }
            Err(error) => {
                torn = Some(error);
                break;
            }
        }
    }
    columns.truncate(whole);
    columns.settle();
    Ok(Replayed { chunk: Chunk { first: serial(number, 0), columns }, marks, torn })
}

/// The next message; none at the end of the file.
fn read_message(file: &mut impl Read) -> io::Result<Result<Option<Vec<u8>>, Torn>> {
    let mut head = Vec::with_capacity(HEADER_LENGTH);
    file.by_ref().take(HEADER_LENGTH as u64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(Ok(None));
    }
    let Some(bytes) = head.first_chunk::<HEADER_LENGTH>() else { return Ok(Err(Torn::Short)) };
    let Some(header) = Header::parse(bytes) else { return Ok(Err(Torn::Header)) };
    let left = usize::from(header.length) - HEADER_LENGTH;
    file.by_ref().take(left as u64).read_to_end(&mut head)?;
    let whole = head.len() == usize::from(header.length);
    Ok(if whole { Ok(Some(head)) } else { Err(Torn::Short) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Kept,
        test_records::{NOW, numbered},
    };

    const A: Mark = Mark { session: 1, next: 3 };
    const B: Mark = Mark { session: 2, next: 2 };

    fn kept(group: &Group) -> Vec<Kept> {
        group.chunks.iter().flat_map(|chunk| chunk.records_of(None)).collect()
    }

    fn records(replayed: &Replayed) -> Vec<Kept> {
        replayed.chunk.records_of(None).collect()
    }

    fn two_groups(dir: &Path) -> (Log, Vec<Kept>) {
        let mut log = Log::new(dir.to_owned(), 5);
        log.rotate(&[], NOW).unwrap();
        let mut all = Vec::new();
        for (records, mark) in [(numbered(0..3), A), (numbered(10..12), B)] {
            let group = log.prepare(vec![Received::of(&records)], &[mark], NOW).unwrap();
            log.append(&group).unwrap();
            all.extend(kept(&group));
        }
        (log, all)
    }

    #[test]
    fn what_was_appended_reads_back_with_the_same_serials() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, kept) = two_groups(dir.path());
        assert_eq!(log.rotate(&[A, B], NOW).unwrap(), 6);
        let first = replay(dir.path(), 5).unwrap();
        assert_eq!((records(&first), &first.marks[..]), (kept, &[A, B][..]));
        assert!(first.torn.is_none());
        let second = replay(dir.path(), 6).unwrap();
        assert_eq!((records(&second), &second.marks[..]), (vec![], &[A, B][..]));
        assert_eq!(segments(dir.path()).unwrap(), [5, 6]);
    }

    /// The invariant of the format: wherever the file ends, whole groups count and the rest does not.
    #[test]
    fn a_segment_cut_at_any_octet_holds_whole_groups_only() {
        let dir = tempfile::tempdir().unwrap();
        let (_, kept) = two_groups(dir.path());
        let whole = fs::read(path(dir.path(), 5)).unwrap();
        let mut seen = Vec::new();
        for length in 0..=whole.len() {
            fs::write(path(dir.path(), 5), &whole[..length]).unwrap();
            let replayed = replay(dir.path(), 5).unwrap();
            let (records, marks) = (records(&replayed), replayed.marks);
            assert_eq!(records, kept[..records.len()]);
            assert_eq!(records.len(), [0, 3, 5][marks.len()]);
            seen.push(records.len());
        }
        seen.dedup();
        assert_eq!(seen, [0, 3, 5]);
    }

    #[test]
    fn what_a_failed_append_left_behind_is_cut_off_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut all) = two_groups(dir.path());
        let group = log.prepare(vec![Received::of(&numbered(20..24))], &[A], NOW).unwrap();
        let whole = fs::read(path(dir.path(), 5)).unwrap();
        fs::write(path(dir.path(), 5), [whole, group.messages.concat()].concat()).unwrap();
        log.append(&group).unwrap();
        all.extend(kept(&group));
        assert_eq!(records(&replay(dir.path(), 5).unwrap()), all);
    }

    #[test]
    fn a_damaged_segment_gives_what_stands_before_the_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (_, kept) = two_groups(dir.path());
        let mut octets = fs::read(path(dir.path(), 5)).unwrap();
        let last = octets.len() - 40;
        octets[last..].fill(0);
        fs::write(path(dir.path(), 5), octets).unwrap();
        let replayed = replay(dir.path(), 5).unwrap();
        assert!(replayed.torn.is_some());
        assert_eq!(records(&replayed), kept[..3]);
    }
}
