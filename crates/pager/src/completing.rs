//! What a duplicate has yet to get of the guest that it goes on from: fetched beside what its faults ask for, if it is to be whole.
//!
//! Owns the pace, and the end: once nothing is to be had there any more, that is written down, and the line is closed.

use std::{path::Path, sync::Arc, thread, time::Duration};

use lucarne_memory::{policy::Arrival, run::Run};
use lucarne_model::memory::Pages;

use crate::{
    capture::wire::CHUNK,
    disk::Disk,
    page::{self, Page},
    pager::{Pager, ServeError},
    parent::{self, Parent},
    places::Away,
    source::Ancestor,
};

/// After each 256 KiB, so that both guests have most of the processors' and the memory's time: 100 MiB a second at most.
const REST: Duration = Duration::from_millis(2);
/// Between two looks whether faults have fetched the last of it.
const LOOK: Duration = Duration::from_millis(500);

/// Until nothing is left there, or the pager ends.
pub(crate) fn run(pager: &Arc<Pager>, folder: &Path) {
    let Ancestor::Parent(parent) = &pager.sources.ancestor else { return };
    let (mut disk, mut room) = (Disk::new(), page::zeroed(CHUNK as usize));
    while !pager.ending.has_begun() {
        if pager.book().places.counts().snapshot == Pages::ZERO {
            match parent::note_whole(folder) {
                Ok(()) => return parent.close(),
                Err(error) => {
                    tracing::warn!(instance = %pager.instance, %error, "that a duplicate is whole is not noted")
                }
            }
        } else if parent.is_to_be_whole()
            && let Err(error) = fetch_all(pager, parent, (&mut disk, &mut room))
        {
            return pager.give_up(&error);
        }
        thread::sleep(LOOK);
    }
}

fn fetch_all(pager: &Pager, parent: &Parent, (disk, room): (&mut Disk, &mut [Page])) -> Result<(), ServeError> {
    for first in (0..pager.guest.pages()).step_by(CHUNK as usize) {
        if pager.ending.has_begun() {
            return Ok(());
        }
        let discards = &pager.guest.discards;
        let pages = pager.book().places.begin_bringing(Run::new(first, CHUNK), |page| discards.contains(page));
        for part in pages.chunk_by(|a, b| a + 1 == *b) {
            let run = Run::new(part[0], part.len() as u64);
            let asked: Vec<(u64, Away)> = part.iter().map(|page| (*page, Away::Snapshot)).collect();
            let contents = &mut room[..part.len()];
            pager.sources.fetch(disk, &asked, contents)?;
            pager.bring(run.first, contents)?;
            pager.arrived(run, Arrival::Prefetched)?;
            parent.have(run);
        }
        if !pages.is_empty() {
            thread::sleep(REST);
        }
    }
    Ok(())
}
