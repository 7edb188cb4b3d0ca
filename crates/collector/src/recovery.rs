//! What the state folder holds at a start, after whatever ended the collector before.
//!
//! Owns the rule stated at the crate's root: it removes what does not count, reads the log, and so gives each acknowledged
//! record exactly once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    catalog::Catalog,
    durable,
    log::{self, Log},
    part::{self, Folders, Part},
    sealer::LOG_DIR,
    sessions::Sessions,
};

/// Why the state folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("the folder {} cannot be read or tidied", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("log segment {segment} cannot be read")]
    Segment { segment: u64, source: io::Error },
}

/// What a collector goes on from.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) catalog: Catalog,
    /// The parts that count.
    pub(crate) parts: Vec<Arc<Part>>,
    pub(crate) log: Log,
    pub(crate) sessions: Sessions,
}

/// Reads the state folder, which it makes if there is none, and the list of what is in the store; removes what does not
/// count.
pub(crate) fn recover(state_dir: &Path, folders: &Folders) -> Result<Recovered, RecoveryError> {
    let log_dir = state_dir.join(LOG_DIR);
    for dir in [&log_dir, &folders.shown, &folders.own, &folders.sums] {
        durable::create_dir(dir).map_err(|source| RecoveryError::Folder { path: dir.clone(), source })?;
    }
    let folder = |path: &Path| {
        let path = path.to_owned();
        move |source| RecoveryError::Folder { path, source }
    };
    remove_temporaries(&log_dir).map_err(folder(&log_dir))?;
    let segments = log::segments(&log_dir).map_err(folder(&log_dir))?;
    let found = part::find(folders).map_err(folder(&folders.shown))?;
    let next = segments.iter().copied().chain(found.iter().map(|(place, _)| place.to)).max().map_or(1, |n| n + 1);
    let unsealed_from = segments.first().copied().unwrap_or(next);

    let mut parts = Vec::new();
    for same_folder in found.chunk_by(|(a, _), (b, _)| a.is_beside(b)) {
        let counting: Vec<_> = same_folder.iter().filter(|(place, _)| place.to < unsealed_from).collect();
        for (place, size) in same_folder {
            let covered = counting.iter().any(|(other, _)| other.covers(place));
            if place.to < unsealed_from && !covered {
                parts.push(Part::new(place.clone(), folders, *size));
            } else {
                part::remove(folders, place).map_err(folder(&folders.shown.join(place.name())))?;
            }
        }
    }
    let catalog = Catalog::new(parts.clone());
    let sessions = replay(&log_dir, &segments, &catalog)?;
    Ok(Recovered { catalog, parts, log: Log::new(log_dir, next), sessions })
}

/// Shows the log's records to the catalog, and gives how far each sender has been taken.
fn replay(log_dir: &Path, segments: &[u64], catalog: &Catalog) -> Result<Sessions, RecoveryError> {
    let mut sessions = Sessions::default();
    for segment in segments {
        let replayed = log::replay(log_dir, *segment);
        let replayed = replayed.map_err(|source| RecoveryError::Segment { segment: *segment, source })?;
        let records = replayed.chunk.len();
        match replayed.torn {
            Some(torn) if Some(segment) == segments.last() => {
                tracing::info!(segment, records, %torn, "the log ends in what was never acknowledged");
            }
            Some(torn) => tracing::error!(segment, records, %torn, "a log segment is damaged; records may be lost"),
            None => {}
        }
        catalog.open(*segment);
        catalog.add(*segment, [Arc::new(replayed.chunk)]);
        replayed.marks.into_iter().for_each(|mark| sessions.remember(mark));
    }
    Ok(sessions)
}

fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for name in names(dir)? {
        if Path::new(&name).extension().is_some_and(|extension| extension == durable::TEMPORARY) {
            durable::remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// The names in a folder that are text, as all of ours are.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    Ok(names.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests;
