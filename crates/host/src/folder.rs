//! The state folder: made, locked, swept of what was left half done, and read.
//!
//! Owns what is found there at the start. Paths are [`Layout`]'s; what is done with the findings is the reconciler's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use lucarne_model::{
    Bytes,
    desired::Desired,
    storage::{Blob, Digest},
};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;

use crate::{
    durable,
    error::Error,
    layers,
    layout::Layout,
    memory,
    reconcile::{Cached, Known, Ledger, Progress},
};

/// The state folder of the agent that holds it.
#[derive(Debug)]
pub struct Folder {
    layout: Layout,
    /// Held until the folder is dropped; the kernel lets go of it when the process dies.
    _lock: File,
}

impl Folder {
    /// Makes the folder where it is missing and takes hold of it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| Error::Folder { path, cause }
        };
        let layout = Layout::new(std::path::absolute(path).map_err(failed(path))?);
        if let Some(excess) = layout.too_long_by() {
            return Err(Error::FolderTooLong { path: layout.root().to_owned(), excess });
        }
        // Others may pass through, to files that are theirs: QEMU runs as a user of its own.
        for folder in [
            layout.root().to_owned(),
            layout.blobs(),
            layout.volumes(),
            layout.snapshots(),
            layout.ports(),
            layout.memory(),
            layout.tpms(),
            layout.warm_states(),
            layout.cuts(),
        ] {
            DirBuilder::new().recursive(true).mode(0o711).create(&folder).map_err(failed(&folder))?;
        }
        let lock = lock(&layout.lock()).map_err(failed(&layout.lock()))?;
        let lock = lock.ok_or_else(|| Error::FolderInUse { path: layout.root().to_owned() })?;
        Ok(Self { layout, _lock: lock })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the agent kept, after a sweep. Files that cannot be read are told in the log and taken as not there: the
    /// controller says everything again.
    pub fn read(&self) -> Result<(Known, Desired), Error> {
        let layout = &self.layout;
        let found = |folder: PathBuf| entries(&folder).map_err(|cause| Error::Folder { path: folder, cause });
        let (blobs, volumes) = (found(layout.blobs())?, found(layout.volumes())?);
        let snapshots = found(layout.snapshots())?;
        let warm_states = memory::warm::find(layout);
        let warm_states = warm_states.map_err(|cause| Error::Folder { path: layout.warm_states(), cause })?;
        let layered = volumes.iter().filter_map(|(name, _)| layers::volume_of(name)).collect();
        let volumes: BTreeSet<_> = with_suffix(&volumes, ".qcow2");
        let overlaid = volumes.iter().copied().filter(|volume| layers::has_base(layout, *volume)).collect();
        let known = Known {
            ledger: read_json(&layout.ledger()).filter(Ledger::is_readable).unwrap_or_default(),
            blobs: cached(&blobs),
            snapshots: with_suffix(&snapshots, ".qcow2")
                .into_iter()
                .map(|snapshot| (snapshot, Progress::Taken))
                .chain(with_suffix(&snapshots, ".json").into_iter().filter_map(|snapshot| {
                    let blob: Blob = read_json(&layout.snapshot_receipt(snapshot))?;
                    Some((snapshot, Progress::Uploaded(blob)))
                }))
                .collect(),
            volumes,
            layered,
            overlaid,
            warm_states: warm_states.into_iter().collect(),
            ..Known::default()
        };
        let mut desired: Desired = read_json(&layout.desired()).unwrap_or_default();
        // Who waited for them then does not wait any more.
        desired.streams.clear();
        desired.seal_errands.clear();
        desired.recordings.iter_mut().for_each(|recording| recording.streams.clear());
        Ok((known, desired))
    }

    /// Deletes what steps that were cut short left: it is begun anew.
    pub fn sweep(&self) -> Result<(), Error> {
        for folder in [self.layout.blobs(), self.layout.volumes(), self.layout.snapshots()] {
            let failed = |cause| Error::Folder { path: folder.clone(), cause };
            let files = entries(&folder).map_err(failed)?;
            let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
            let whole = |name: &str| files.iter().any(|(other, _)| other == name);
            for (name, _) in &files {
                let is_alone = |stem| !whole(&format!("{stem}.qcow2")) && !layers::has_frozen(&names, stem);
                let orphan = name.strip_suffix(".base").is_some_and(is_alone);
                if orphan || name.ends_with(".part") || name.ends_with(".new") {
                    durable::remove(&folder.join(name)).map_err(failed)?;
                }
            }
        }
        layers::sweep(&self.layout).map_err(|cause| Error::Folder { path: self.layout.volumes(), cause })
    }
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Names and sizes of the files in a folder.
fn entries(folder: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let size = entry.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        files.extend(entry.file_name().into_string().ok().map(|name| (name, size)));
    }
    Ok(files)
}

fn with_suffix<Id: FromStr + Ord>(files: &[(String, u64)], suffix: &str) -> BTreeSet<Id> {
    files.iter().filter_map(|(name, _)| name.strip_suffix(suffix)?.parse().ok()).collect()
}

fn cached(files: &[(String, u64)]) -> BTreeMap<Digest, Cached> {
    let blob =
        |(name, size): &(String, u64)| Some((name.parse().ok()?, Cached { size: Bytes(*size), unused_since: None }));
    files.iter().filter_map(blob).collect()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "a file of the state folder cannot be read");
            }
            return None;
        }
    };
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a file of the state folder is damaged"))
        .ok()
}

#[cfg(test)]
mod tests {
    use lucarne_model::{SnapshotId, VolumeId};

    use super::*;

    #[test]
    fn a_folder_is_found_as_it_was_left_without_what_was_half_done() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let (layout, volume) = (folder.layout().clone(), VolumeId::from_bits(1));
        let digest = Digest::from_bytes([7; 32]);
        fs::write(layout.blob(&digest), b"12345").unwrap();
        fs::write(layout.blobs().join(format!("{digest}.part")), b"123").unwrap();
        fs::write(layout.volume(volume), b"").unwrap();
        fs::write(layout.volume_base(volume), b"").unwrap();
        fs::write(layout.volume_base(VolumeId::from_bits(2)), b"").unwrap();
        fs::write(layout.snapshot(SnapshotId::from_bits(3)), b"").unwrap();
        fs::write(layout.ledger(), b"{").unwrap();

        folder.sweep().unwrap();
        let (known, desired) = folder.read().unwrap();
        assert_eq!(known.blobs[&digest].size, Bytes(5));
        assert_eq!(known.volumes, BTreeSet::from([volume]));
        assert_eq!(known.snapshots[&SnapshotId::from_bits(3)], Progress::Taken);
        assert_eq!((known.ledger, desired), (Ledger::default(), Desired::default()));
        assert!(layout.volume_base(volume).exists() && !layout.volume_base(VolumeId::from_bits(2)).exists());
        assert_eq!(fs::read_dir(layout.blobs()).unwrap().count(), 1);
    }

    #[test]
    fn two_agents_do_not_share_a_folder_and_the_next_one_may_have_it() {
        let place = tempfile::tempdir().unwrap();
        let first = Folder::open(place.path()).unwrap();
        assert!(matches!(Folder::open(place.path()), Err(Error::FolderInUse { .. })));
        drop(first);
        Folder::open(place.path()).unwrap();
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_before_anything_is_made() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("d".repeat(100));
        assert!(matches!(Folder::open(&deep), Err(Error::FolderTooLong { .. })));
        assert!(!deep.exists());
    }
}
