//! The spool's files: written, synced, cut back and removed.
//!
//! Owns the folder and the order of its writes. It never fails its caller: what the disk does not take becomes a loss, told
//! in the same row of numbers as soon as there is room. Where things go is the [`Index`]'s decision. All of it blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use lucarne_flows::ipfix::Exporter as Encoder;
use lucarne_model::{AccountId, Bytes, FlowLoss, FlowRecord, HostId, LossCause, Moment};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{
    frame::{self, HEAD, Valid},
    index::{Index, Room, Segment},
    tally::Tally,
};
use crate::durable::{self, Outlives};

/// Octets that must be free before losses are told: so that a full spool tells them when records fit again, not one by one.
const MARGIN: u64 = 64 << 10;
/// What a spool has at least, so that a batch fits.
const SMALLEST: Bytes = Bytes::mib(1);
/// Losses in one frame: about 40 octets each.
const LOSSES: usize = 1024;

/// Where the spool is and how large it may be.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) capacity: Bytes,
    /// Whose records they are; its low bits name the observation domain.
    pub(crate) host: HostId,
}

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("{} cannot be read or written: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("no random numbers for the session")]
    Random,
}

#[derive(Debug)]
pub(super) struct Store {
    settings: Settings,
    index: Index,
    /// The segment that is written to; none before the first record, and after the disk has refused something.
    file: Option<File>,
    encoder: Encoder,
    /// Up to where that segment is on the disk for certain.
    synced: Valid,
    /// What becomes lost if the next sync fails.
    unsynced: Tally,
    /// What is lost and not yet told.
    lost: Tally,
    /// What the file of untold losses says.
    written_down: Tally,
    session: u64,
}

/// Losses that wait for room: told in the spool unless it has gone on since.
#[derive(Serialize, Deserialize)]
struct Untold {
    /// The number of the next record when this was written.
    end: u64,
    losses: Vec<FlowLoss>,
}

impl Store {
    /// Takes up what the folder has, cutting off what the last end tore, or makes it.
    pub(super) fn open(settings: Settings, now: Moment) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::Folder { path: settings.dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&settings.dir).map_err(failed)?;
        let mut firsts = segments(&settings.dir).map_err(failed)?;
        let session = session(&settings.dir, firsts.is_empty())?;
        let last = firsts.pop();
        let size =
            |first: &u64| Ok(Segment { first: *first, octets: fs::metadata(path(&settings.dir, *first))?.len() });
        let found = firsts.iter().map(size).collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let valid = last.map_or(Ok(Valid { octets: 0, end: 0 }), |first| cut_torn(&path(&settings.dir, first), first));
        let valid = valid.map_err(failed)?;
        let last = Segment { first: last.unwrap_or(0), octets: valid.octets };
        let index = Index::new(found, last, valid.end, settings.capacity.max(SMALLEST).0);
        let lost = read_untold(&settings.dir, valid.end);
        let domain = settings.host.bits() as u32; // the low bits are as random as any
        let encoder = Encoder::new(domain).with_limit(Encoder::STREAM).with_init(now);
        let (unsynced, written_down) = (Tally::default(), lost.clone());
        Ok(Self { settings, index, file: None, encoder, synced: valid, unsynced, lost, written_down, session })
    }

    pub(super) const fn session(&self) -> u64 {
        self.session
    }
    /// The number behind the last record that is on the disk for certain.
    pub(super) const fn durable_end(&self) -> u64 {
        self.synced.end
    }
    pub(super) const fn is_synced(&self) -> bool {
        self.synced.end == self.index.end()
    }
    /// Whether there are losses that are not in the spool yet.
    pub(super) fn has_untold(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Writes records down, or counts them as lost.
    pub(super) fn put(&mut self, records: &[FlowRecord], now: Moment) {
        if records.is_empty() {
            return;
        }
        self.tell_losses(now);
        let messages = self.encoder.encode(records, now).concat();
        match self.append(records.len() as u32, &messages, now) {
            Ok(()) => self.unsynced.note_records(records, LossCause::DiskError),
            Err(cause) => self.lost.note_records(records, cause),
        }
    }

    /// Counts what others have lost.
    pub(super) fn lose(&mut self, account: AccountId, cause: LossCause, records: u64, when: (Moment, Moment)) {
        self.lost.note(account, cause, records, when);
    }

    /// Puts the losses into the spool, where there is room.
    pub(super) fn tell_losses(&mut self, now: Moment) {
        if self.lost.is_empty() || self.index.room_for(MARGIN) == Room::Full {
            return;
        }
        let losses = self.lost.losses(self.settings.host);
        self.lost.clear();
        for chunk in losses.chunks(LOSSES) {
            let messages = self.encoder.encode_losses(chunk, now).concat();
            let told = self.append(chunk.len() as u32, &messages, now).is_ok();
            let tally = if told { &mut self.unsynced } else { &mut self.lost };
            chunk.iter().for_each(|loss| tally.add(loss));
        }
    }

    /// Brings to the disk what was written, or counts it as lost; gives the number behind the last that is there.
    pub(super) fn sync(&mut self) -> u64 {
        if let Err(error) = self.try_sync() {
            tracing::error!(%error, "flow records are lost: the disk does not keep the spool");
            self.give_up_unsynced();
        }
        self.write_down_untold();
        self.durable_end()
    }

    /// The collector has all below `next`. If that is more than was ever here, this folder was set back to an earlier time:
    /// numbers go on behind the collector's, or it would take new records for ones that it has.
    pub(super) fn acknowledge(&mut self, next: u64) {
        let over = if next > self.index.end() {
            tracing::error!(next, end = self.index.end(), "the collector has more than this spool: was it set back?");
            self.file = None;
            self.unsynced.clear();
            self.synced = Valid { octets: 0, end: next };
            self.index.skip_to(next)
        } else {
            self.index.acknowledge(next)
        };
        self.remove(&over);
    }

    fn append(&mut self, count: u32, messages: &[u8], now: Moment) -> Result<(), LossCause> {
        let frame = frame::encode(self.index.end(), count, messages);
        match self.index.room_for(frame.len() as u64) {
            Room::Full => return Err(LossCause::SpoolFull),
            Room::Here if self.file.is_some() => {}
            Room::Here | Room::NewSegment => self.begin_segment(now).map_err(|error| refused(&error))?,
        }
        self.write(&frame).map_err(|error| refused(&error))?;
        self.index.appended(frame.len() as u64, u64::from(count));
        Ok(())
    }

    /// Writes behind what counts, where a write that failed may have left something.
    fn write(&self, frame: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().ok_or_else(|| io::Error::other("the spool has no segment"))?;
        let end = self.index.last_octets();
        file.write_all_at(frame, end).inspect_err(|_| {
            // A full disk should not be left fuller; if this fails, the next write goes over it.
            let _ = file.set_len(end);
        })
    }

    fn begin_segment(&mut self, now: Moment) -> io::Result<()> {
        if let Err(error) = self.try_sync() {
            self.give_up_unsynced();
            return Err(error);
        }
        self.file = None;
        let first = self.index.end();
        self.encoder.resend_templates();
        let templates = self.encoder.encode(&[], now).concat();
        let head = [&HEAD[..], &frame::encode(first, 0, &templates)].concat();
        let path = path(&self.settings.dir, first);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all_at(&head, 0)?;
        file.sync_all()?;
        File::open(&self.settings.dir)?.sync_all()?;
        self.file = Some(file);
        self.synced = Valid { octets: head.len() as u64, end: first };
        let over = self.index.opened(head.len() as u64);
        self.remove(&over);
        Ok(())
    }

    fn try_sync(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.is_synced()) {
            file.sync_data()?;
        }
        self.synced = Valid { octets: self.index.last_octets(), end: self.index.end() };
        self.unsynced.clear();
        Ok(())
    }

    /// After a sync that failed nobody knows what the disk has of it, and a later one would not tell.
    fn give_up_unsynced(&mut self) {
        self.index.cut(self.synced.octets, self.synced.end);
        let lost = std::mem::take(&mut self.unsynced).losses(self.settings.host);
        lost.iter().for_each(|loss| self.lost.add(loss));
        // Frames that stay behind are not read: the next segment begins with their first number.
        let _ = self.file.take().map(|file| file.set_len(self.synced.octets));
    }

    /// Keeps in a file of their own the losses for which the spool has no room, for the case that this process ends.
    fn write_down_untold(&mut self) {
        if self.lost == self.written_down {
            return;
        }
        let path = untold_path(&self.settings.dir);
        let untold = Untold { end: self.index.end(), losses: self.lost.losses(self.settings.host) };
        let written = match untold.losses.is_empty() {
            true => durable::remove(&path),
            false => serde_json::to_vec(&untold)
                .map_err(io::Error::from)
                .and_then(|json| durable::replace(&path, &json, Outlives::PowerCut)),
        };
        match written {
            Ok(()) => self.written_down = self.lost.clone(),
            Err(error) => tracing::warn!(%error, "losses of flow records could not be written down"),
        }
    }

    fn remove(&self, over: &[u64]) {
        for first in over {
            if let Err(error) = durable::remove(&path(&self.settings.dir, *first)) {
                tracing::warn!(%error, first, "a segment of the spool that is acknowledged could not be removed");
            }
        }
    }
}

fn refused(error: &io::Error) -> LossCause {
    tracing::warn!(%error, "flow records are lost: the disk does not take them");
    LossCause::DiskError
}

/// How far the segment counts; what lies behind is cut off.
fn cut_torn(path: &Path, first: u64) -> io::Result<Valid> {
    let octets = fs::read(path)?;
    let valid = frame::valid(&octets, first);
    let torn = octets.len() as u64 - valid.octets;
    if torn > 0 {
        tracing::info!(torn, "the spool of flow records ended in the middle of something; that is cut off");
        OpenOptions::new().write(true).open(path)?.set_len(valid.octets)?;
    }
    Ok(valid)
}

/// The session's number. A spool without segments does not know its numbers any more, and is a new session.
fn session(dir: &Path, anew: bool) -> Result<u64, SpoolError> {
    let path = dir.join("session");
    let read = fs::read_to_string(&path).ok().and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    if let Some(session) = read.filter(|_| !anew) {
        return Ok(session);
    }
    let mut octets = [0; 8];
    SystemRandom::new().fill(&mut octets).map_err(|_| SpoolError::Random)?;
    let session = u64::from_be_bytes(octets);
    durable::replace(&path, format!("{session:016x}\n").as_bytes(), Outlives::PowerCut)
        .map_err(|source| SpoolError::Folder { path, source })?;
    Ok(session)
}

/// Losses that were written down and never told: the spool has not gone on since.
fn read_untold(dir: &Path, end: u64) -> Tally {
    let untold = fs::read(untold_path(dir)).ok().and_then(|json| serde_json::from_slice::<Untold>(&json).ok());
    let mut tally = Tally::default();
    untold.filter(|untold| untold.end == end).iter().flat_map(|untold| &untold.losses).for_each(|loss| tally.add(loss));
    tally
}

fn untold_path(dir: &Path) -> PathBuf {
    dir.join("untold-losses.json")
}

pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.spool"))
}

/// The first numbers of the segments in the folder, in order.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        firsts.extend(name.to_str().and_then(|name| name.strip_suffix(".spool")?.parse::<u64>().ok()));
    }
    firsts.sort_unstable();
    Ok(firsts)
}
