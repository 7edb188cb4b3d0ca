//! All the evictions and deaths that are promised, in pieces, over as many starts as it takes.
//!
//! Owns the note of what was done. A piece that is broken off counts for nothing; a word that is wrong fails the test, and every
//! later one, until somebody has looked and deleted the note.

use std::{collections::BTreeMap, env, fs, path::Path};

use lucarne_pager::Step;
use serde::{Deserialize, Serialize};

use crate::kills::{Done, kills, rounds};

/// Names the file of the note.
const NOTE: &str = "LUCARNE_LONG_RUN";
/// How many evictions of everything, and how many deaths at each step.
const EVICTIONS: u64 = 10_000;
const KILLS: u64 = 1_000;
/// Of one piece, which is a machine's life.
const PIECE: u64 = 100;
const KILLS_AT_ONCE: usize = 2;

#[derive(Default, Serialize, Deserialize)]
struct Note {
    evictions: u64,
    pages_evicted: u64,
    operations: u64,
    kills: BTreeMap<String, u64>,
    /// Whether a piece failed.
    wrong: bool,
}

impl Note {
    fn read(path: &Path) -> Self {
        fs::read(path).map_or_else(|_| Self::default(), |text| serde_json::from_slice(&text).unwrap())
    }

    fn write(&self, path: &Path) {
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_vec_pretty(self).unwrap()).unwrap();
        fs::rename(part, path).unwrap();
    }

    /// Deaths at the step that has had fewest.
    fn fewest_kills(&self) -> u64 {
        let at = |step: &Step| self.kills.get(&format!("{step:?}")).copied().unwrap_or_default();
        Step::ALL.iter().map(at).min().unwrap_or_default()
    }

    fn add(&mut self, evictions: u64, done: &Done) {
        self.evictions += evictions;
        self.pages_evicted += done.pages_evicted;
        self.operations += done.operations;
        for (step, kills) in Step::ALL.iter().zip(&done.kills) {
            *self.kills.entry(format!("{step:?}")).or_default() += *kills as u64;
        }
        let (evictions, pages, operations) = (self.evictions, self.pages_evicted, self.operations);
        println!(
            "in all {evictions} of {EVICTIONS} evictions of everything, {pages} pages; {} of {KILLS} pagers killed at each step; \
             {operations} checked operations; no word wrong",
            self.fewest_kills(),
        );
    }
}

/// Writes down that a piece failed.
struct Watch<'a>(&'a Path);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let note = Note { wrong: true, ..Note::read(self.0) };
            note.write(self.0);
        }
    }
}

#[test]
#[ignore = "takes hours; LUCARNE_LONG_RUN names the file of what was done, from which it goes on"]
fn no_word_is_wrong_in_all_evictions_and_at_all_kills_that_are_promised() {
    let path = env::var_os(NOTE).unwrap_or_else(|| panic!("{NOTE} names no file"));
    let path = Path::new(&path);
    let mut note = Note::read(path);
    assert!(!note.wrong, "an earlier piece failed: {}", path.display());
    let _watch = Watch(path);
    while note.evictions < EVICTIONS || note.fewest_kills() < KILLS {
        if note.evictions < EVICTIONS {
            note.add(PIECE, &rounds(PIECE as usize));
            note.write(path);
        }
        if note.fewest_kills() < KILLS {
            note.add(0, &kills(KILLS_AT_ONCE * Step::ALL.len()));
            note.write(path);
        }
    }
}
