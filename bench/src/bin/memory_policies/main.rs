//! Which pages should leave? The policies of `lucarne-memory` beside the optimum and the classics, on what real guests touched.
//!
//! Owns the table. Guests are recorded anew in each run (`recording.rs`), so that no traces have to be kept: boots of the
//! image `tiny` with some work for each, under QEMU's TCG with a plugin that sees every access. A pager sees less, only
//! access bits when it looks, and so do our policies here, which look when a pager would; LRU, LFU and the optimum are told
//! of every access, in order.

mod guests;
mod prefetch;
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

/// Percent of the pages that a guest's work touches.
const RESIDENCIES: [usize; 3] = [30, 50, 70];
const SEED: u64 = 1;
const FIGURES: usize = 9;
const HEADER: [&str; 2 + FIGURES] = [
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
    let (mut rows, mut boot_scans) = (Vec::new(), 0);
    for (all, guests) in [("all", &guests::CHOSEN_ON[..]), ("all that judge", &guests::JUDGED_ON[..])] {
        let mut sums = [[0; FIGURES]; RESIDENCIES.len()];
        for guest in guests {
            let trace = recorder.record(*guest, boot_scans)?;
            eprintln!("{}: {}", guest.name, trace.summary());
            let contest = contest(&trace)?;
            for ((percent, figures), sum) in RESIDENCIES.iter().zip(&contest).zip(&mut sums) {
                rows.push(row(guest.name, *percent, figures));
                sum.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
            }
            // The first does nothing but boot; of the others, what comes after the boot counts.
            boot_scans = if boot_scans == 0 { trace.scans() } else { boot_scans };
        }
        rows.extend(RESIDENCIES.iter().zip(&sums).map(|(percent, sum)| row(all, *percent, sum)));
    }
    println!("{}", table(&HEADER, &rows));
    Ok(())
}

fn row(name: &str, percent: usize, figures: &[u64; FIGURES]) -> Vec<String> {
    let words = [name.to_owned(), format!("{percent} %")];
    words.into_iter().chain(figures.iter().map(u64::to_string)).collect()
}

/// The figures for each residency, as in the table's columns.
fn contest(trace: &Trace) -> Result<Vec<[u64; FIGURES]>> {
    thread::scope(|scope| {
        let rounds = RESIDENCIES.map(|percent| scope.spawn(move || figures(trace, percent)));
        rounds.into_iter().map(|round| round.join().map_err(|_| anyhow!("a replay panicked"))).collect()
    })
}

fn figures(trace: &Trace, percent: usize) -> [u64; FIGURES] {
    let capacity = trace.touched() * percent / 100;
    let ours = |policy| refaults(trace, &mut Ours::new(trace, capacity, policy, SEED));
    let mut fetching = Ours::new(trace, capacity, EvictionPolicy::Clock, SEED).with_prefetch();
    [
        refaults(trace, &mut Optimum::new(trace, capacity)),
        refaults(trace, &mut Lru::new(trace, capacity)),
        refaults(trace, &mut Fifo::new(trace, capacity)),
        refaults(trace, &mut Lfu::new(trace, capacity)),
        ours(EvictionPolicy::Random),
        ours(EvictionPolicy::DecayedLfu),
        ours(EvictionPolicy::Clock),
        refaults(trace, &mut fetching),
        fetching.useless(),
    ]
}
