//! What goes over a passage from agent to agent, version 1: the opening, and the files of a VM that sleeps.
//!
//! Owns the framing, and the digest of all of it. The key of the pages goes here too: the way is one that only the two hosts can read.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, SeekFrom},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_model::{
    InstanceId, VolumeId,
    memory::PagesByPlace,
    paging::{KEY, PageKey},
};
use lucarne_vmm::driver::{Disk, MachineSpec, Origin, Passage};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    time::timeout,
};

use super::super::sleep::{self, Sleeper};
use crate::{
    durable::{self, Outlives},
    layout::Layout,
};

/// How long either side may give nothing. What was brought is synced to the disk at the end.
const SILENCE: Duration = Duration::from_secs(120);
/// As much of a file as is carried at once.
pub(super) const PIECE: usize = 256 << 10;
/// The longest opening in bytes.
pub(super) const LONGEST: u32 = 64 << 10;
/// What a file has beside the bytes that it is for, at most.
const BESIDE: u64 = 64 << 20;
/// What the other host says when it has all of it.
const KEPT: u8 = 1;

/// What is said first, behind its length in four bytes. Not tagged within: serde could not read an origin's 128 bits then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Opening {
    /// Its origin, as it will be over there.
    Awake { origin: Origin },
    Asleep {
        origin: Origin,
        pages: PagesByPlace,
        /// What its devices were saved by; another one may not know what to make of them.
        hypervisor: String,
        /// The volumes that come with it, in their order.
        #[serde(default)]
        disks: Vec<VolumeId>,
    },
}

pub(super) async fn open(to: &mut dyn Passage, opening: &Opening) -> io::Result<()> {
    let words = serde_json::to_vec(opening)?;
    timeout(SILENCE, to.write_u32(u32::try_from(words.len()).map_err(io::Error::other)?)).await??;
    timeout(SILENCE, to.write_all(&words)).await??;
    timeout(SILENCE, to.flush()).await?
}

pub(super) async fn hear(from: &mut dyn Passage) -> io::Result<Opening> {
    let length = timeout(SILENCE, from.read_u32()).await??;
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut words = vec![0; length as usize];
    timeout(SILENCE, from.read_exact(&mut words)).await??;
    Ok(serde_json::from_slice(&words)?)
}

/// Brings what a VM sleeps with, behind the opening; returns when the other host has said that it keeps it.
pub(super) async fn bring(to: &mut dyn Passage, layout: &Layout, sleeper: &Sleeper) -> io::Result<()> {
    let instance = sleeper.spec.instance;
    let key = sleep::read_key(layout, instance)?;
    timeout(SILENCE, to.write_all(&key.0)).await??;
    let mut context = Context::new(&SHA256);
    for path in files(layout, instance, &sleeper.spec.origin) {
        bring_file(to, &path, &mut context).await?;
    }
    for disk in in_order(&sleeper.spec.disks) {
        bring_file(to, &disk.path, &mut context).await?;
    }
    timeout(SILENCE, to.write_all(context.finish().as_ref())).await??;
    timeout(SILENCE, to.flush()).await??;
    let answer = timeout(SILENCE, to.read_u8()).await??;
    if answer == KEPT { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Takes in what [`bring`] gives. The VM sleeps here when this returns; on an error, parts of it may be left.
pub(super) async fn take_in(from: &mut dyn Passage, layout: &Layout, sleeper: &Sleeper) -> io::Result<()> {
    let MachineSpec { instance, memory, ref disks, .. } = sleeper.spec;
    let mut key = PageKey([0; KEY]);
    timeout(SILENCE, from.read_exact(&mut key.0)).await??;
    DirBuilder::new().recursive(true).mode(0o700).create(layout.pages(instance))?;
    let mut context = Context::new(&SHA256);
    for path in files(layout, instance, &sleeper.spec.origin) {
        // No file of a sleeper is as large: who says so would only fill the disk.
        let limit = memory.0.saturating_mul(2) + BESIDE;
        take_file_in(from, (&path, limit), &mut context).await?;
    }
    let mut coming = Coming::default();
    for disk in in_order(disks) {
        let size = disk.size.ok_or_else(|| io::Error::other(format!("the size of {} is not known", disk.volume)))?;
        let limit = size.0.saturating_add(size.0 / 64) + BESIDE;
        take_file_in(from, (&coming.place_for(&disk.path), limit), &mut context).await?;
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    timeout(SILENCE, from.read_exact(&mut digest)).await??;
    if digest != context.finish().as_ref() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it did not come as it was sent"));
    }
    coming.keep()?;
    sleep::write_key(layout, instance, &key)?;
    let (json, place) = (serde_json::to_vec(sleeper)?, layout.asleep(instance));
    let kept = tokio::task::spawn_blocking(move || durable::replace(&place, &json, Outlives::PowerCut));
    kept.await.map_err(io::Error::other)??;
    // Whether this is heard or not: all of it is here, which the controller is told.
    let _ = timeout(SILENCE, from.write_u8(KEPT)).await;
    let _ = timeout(SILENCE, from.flush()).await;
    Ok(())
}

/// Volumes in the order in which they go.
pub(super) fn in_order(disks: &[Disk]) -> Vec<&Disk> {
    let mut disks: Vec<_> = disks.iter().collect();
    disks.sort_unstable_by_key(|disk| disk.slot);
    disks
}

/// Volumes that are being taken in: files beside those that they will be, deleted again if the rest does not come.
#[derive(Default)]
struct Coming(Vec<(PathBuf, PathBuf)>);

impl Coming {
    fn place_for(&mut self, path: &Path) -> PathBuf {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        self.0.push((part.clone(), path.to_owned()));
        part
    }

    /// All of them are whole, and get their names, for good.
    fn keep(mut self) -> io::Result<()> {
        for (part, path) in self.0.drain(..) {
            fs::rename(&part, &path)?;
            path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())?;
        }
        Ok(())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        for (part, _) in &self.0 {
            if let Err(error) = durable::remove(part) {
                tracing::warn!(path = %part.display(), %error, "a part of a volume is left behind until the next start");
            }
        }
    }
}

/// All that a VM of this origin sleeps with but for key and volumes, in the order in which it goes.
pub(super) fn files(layout: &Layout, instance: InstanceId, origin: &Origin) -> Vec<PathBuf> {
    let snapshot = match origin {
        Origin::Warm { memory: Some(_), .. } => Some(layout.origin(instance)),
        Origin::Warm { memory: None, .. } | Origin::Boot | Origin::Fresh { .. } | Origin::Template => None,
    };
    let pages = layout.pages(instance);
    let kept = lucarne_pager::KEPT.iter().map(|name| pages.join(name));
    [layout.devices(instance)].into_iter().chain(snapshot).chain(kept).collect()
}

/// The file's length, then each piece of it that holds anything: its length, where it is, its bytes. A piece of length 0 is
/// the end.
async fn bring_file(to: &mut dyn Passage, path: &Path, context: &mut Context) -> io::Result<()> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    say(to, &length.to_be_bytes(), context).await?;
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    while let Some((from, until)) = next_data(&file, at, length).await? {
        file.seek(SeekFrom::Start(from)).await?;
        let piece = &mut piece[..usize::try_from(until - from).unwrap_or(PIECE).min(PIECE)];
        file.read_exact(piece).await?;
        say(to, &u32::try_from(piece.len()).map_err(io::Error::other)?.to_be_bytes(), context).await?;
        say(to, &from.to_be_bytes(), context).await?;
        say(to, piece, context).await?;
        at = from + piece.len() as u64;
    }
    say(to, &0_u32.to_be_bytes(), context).await
}

/// Where the next bytes are that are no hole.
async fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let file = file.try_clone().await?.into_std().await;
    let found = tokio::task::spawn_blocking(move || {
        let from = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(error) => return Err(io::Error::from(error)),
        };
        let until = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(from))?;
        Ok(Some((from, until.min(length))))
    });
    found.await.map_err(io::Error::other)?
}

/// What is brought, if it has at most so many bytes. It is on the disk when this returns.
async fn take_file_in(from: &mut dyn Passage, (path, limit): (&Path, u64), context: &mut Context) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let length = u64::from_be_bytes(heard(from, context).await?);
    if length > limit {
        return Err(invalid());
    }
    file.set_len(length)?;
    let (mut file, mut piece) = (File::from_std(file), vec![0; PIECE]);
    loop {
        let count = u32::from_be_bytes(heard(from, context).await?) as usize;
        if count == 0 {
            break;
        }
        let at = u64::from_be_bytes(heard(from, context).await?);
        let piece = piece.get_mut(..count).ok_or_else(invalid)?;
        if at.checked_add(count as u64).is_none_or(|end| end > length) {
            return Err(invalid());
        }
        timeout(SILENCE, from.read_exact(piece)).await??;
        context.update(piece);
        file.seek(SeekFrom::Start(at)).await?;
        file.write_all(piece).await?;
    }
    file.sync_all().await
}

async fn say(to: &mut dyn Passage, bytes: &[u8], context: &mut Context) -> io::Result<()> {
    context.update(bytes);
    timeout(SILENCE, to.write_all(bytes)).await?
}

async fn heard<const N: usize>(from: &mut dyn Passage, context: &mut Context) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    timeout(SILENCE, from.read_exact(&mut bytes)).await??;
    context.update(&bytes);
    Ok(bytes)
}
