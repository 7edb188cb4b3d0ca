//! Which pages should leave? The policies of `lucarne-memory` beside the optimum and the classics, on what real guests touched.
//!
//! Owns the table. Guests are recorded anew in each run (`recording.rs`), so that no traces have to be kept: boots of the
//! image `tiny` with some work for each, under QEMU's TCG with a plugin that sees every access. A pager sees less, only
//! access bits from scan to scan, and so do our policies here; LRU, LFU and the optimum are told of every access, in order.

mod guests;
mod recording;
mod replay;
mod rivals;

use std::thread;

use anyhow::{Result, anyhow};
use lucarne_bench::figures::table;
use lucarne_model::memory::EvictionPolicy;

use crate::{
    recording::{Recorder, Trace},
    replay::{Ours, refaults},
    rivals::{Fifo, Lfu, Lru, Optimum},
};

/// Percent of the pages that a guest touches at all.
const RESIDENCIES: [usize; 3] = [30, 50, 70];
const SEED: u64 = 1;
const HEADER: [&str; 11] = [
    "guest",
    "resident",
    "optimum",
    "LRU",
    "FIFO",
    "LFU",
    "random",
    "decayed LFU",
    "CLOCK",
    "CLOCK + prefetch",
    "of that, useless fetches",
];

fn main() -> Result<()> {
    let recorder = Recorder::new()?;
    let mut rows = Vec::new();
    for guest in guests::ALL {
        let trace = recorder.record(guest)?;
        eprintln!("{}: {}", guest.name, trace.summary());
        rows.extend(contest(guest.name, &trace)?);
    }
    println!("{}", table(&HEADER, &rows));
    Ok(())
}

/// A row for each residency.
fn contest(name: &str, trace: &Trace) -> Result<Vec<Vec<String>>> {
    thread::scope(|scope| {
        let rounds = RESIDENCIES.map(|percent| scope.spawn(move || row(name, trace, percent)));
        rounds.into_iter().map(|round| round.join().map_err(|_| anyhow!("a replay panicked"))).collect()
    })
}

fn row(name: &str, trace: &Trace, percent: usize) -> Vec<String> {
    let capacity = trace.touched() * percent / 100;
    let ours = |policy| refaults(trace, &mut Ours::new(trace, capacity, policy, SEED));
    let mut fetching = Ours::new(trace, capacity, EvictionPolicy::Clock, SEED).with_prefetch();
    let figures = [
        refaults(trace, &mut Optimum::new(trace, capacity)),
        refaults(trace, &mut Lru::new(trace, capacity)),
        refaults(trace, &mut Fifo::new(trace, capacity)),
        refaults(trace, &mut Lfu::new(trace, capacity)),
        ours(EvictionPolicy::Random),
        ours(EvictionPolicy::DecayedLfu),
        ours(EvictionPolicy::Clock),
        refaults(trace, &mut fetching),
        fetching.useless(),
    ];
    let words = [name.to_owned(), format!("{percent} %")];
    words.into_iter().chain(figures.iter().map(u64::to_string)).collect()
}
