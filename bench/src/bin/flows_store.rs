//! Octets a record at rest, and how fast they get there, beside nfdump's files of the same records.
//!
//! Owns the comparison: the same made-up hour of one account ([`lucarne_bench::flow_mix`]) as the collector keeps it, and as
//! `nfcapd` keeps it when it is sent our IPFIX over UDP. nfdump keeps fewer than half of the fields. Left out where the
//! package `nfdump` is missing.

use std::{io, time::Duration};

use anyhow::{Result, ensure};
use lucarne_bench::{figures::table, flow_mix::FlowMix, nfcapd};
use lucarne_collector::{AtRest, Effort, Inflow};
use lucarne_flows::ipfix::Exporter;
use lucarne_model::{FlowRecord, Moment};
use rustix::time::{ClockId, clock_gettime};

/// 2026-01-15, an hour.
const SINCE: Moment = Moment::from_secs(1_768_478_400);
const RECORDS: usize = 1_000_000;
/// The mark: octets a record.
const MARK: f64 = 12.0;
/// Segments of the log that the records are sealed from, each into a part.
const SEGMENTS: usize = 4;

fn main() -> Result<()> {
    let records = FlowMix::new(7, SINCE).records(RECORDS);
    let (mut rates, at_rest) = ours(&records)?;
    let per = |octets: u64, count: usize| format!("{:.2}", octets as f64 / count.max(1) as f64);
    let row = |name: &str, octets, count: usize| vec![name.to_owned(), count.to_string(), per(octets, count)];
    let mut rows = vec![
        row("lucarne, what accounts see", at_rest.shown, records.len()),
        row("lucarne, the operator's own", at_rest.own, records.len()),
    ];
    for (name, compress) in [("nfdump, LZ4", "-y"), ("nfdump, bzip2", "-j")] {
        match nfcapd::keep(&records, compress) {
            Ok(made) => {
                rows.push(row(name, made.octets, made.records));
                rates.push((format!("nfcapd: IPFIX to its file, {}", &name[8..]), made.records, made.processor));
            }
            Err(error) => eprintln!("{name} is left out: {error:#}"),
        }
    }
    println!("{}", table(&["store", "records", "octets a record"], &rows));
    println!("The mark is {MARK} octets for what accounts see.\n");
    let rates: Vec<_> = rates.iter().map(|(name, count, took)| rate(name, *count, *took)).collect();
    println!("{}", table(&["step", "M records/s of processor time"], &rates));
    println!("{}", table(&["column", "octets a record"], &columns(&at_rest.columns, records.len())));
    Ok(())
}

/// What a step is called, how many records went through it, and the processor time that it took.
type Step = (String, usize, Duration);

/// The collector's steps one after the other.
fn ours(records: &[FlowRecord]) -> Result<(Vec<Step>, AtRest)> {
    let count = records.len();
    let messages = Exporter::new(1).with_limit(Exporter::STREAM).encode(records, SINCE);
    let dir = tempfile::tempdir()?;
    let folder = |name: &str| dir.path().join(name);
    let mut steps = Vec::new();
    let mut took = |name: &str, time: Duration| steps.push((format!("lucarne: {name}"), count, time));

    let (inflow, decoding) = timed(|| Inflow::decode(&messages))?;
    took("IPFIX to columns", decoding);
    let (hot, logging) = timed(|| inflow.log(&folder("log"), SINCE))?;
    took("columns to the durable log and the hot table", logging);
    ensure!(hot.records() == count, "{} of {count} records were decoded", hot.records());
    let (_, laying_out) = timed(|| hot.lay_out())?;
    took("hot table to Arrow as SQL sees it, 45 columns", laying_out);
    took("IPFIX to Arrow", decoding + laying_out);
    let (sealed, sealing) = timed(|| hot.seal(&folder("sealed"), Effort::Fresh, SEGMENTS))?;
    took(&format!("hot table to durable Parquet, in {SEGMENTS} segments"), sealing);
    took("IPFIX to durable Parquet, by way of the durable log", decoding + logging + sealing);
    let (merged, merging) = timed(|| sealed.merge(&folder("sealed")))?;
    took("these merged into one, durable", merging);
    Ok((steps, merged.at_rest()?))
}

/// What comes of some work, and the processor time of all threads that it took.
fn timed<T>(work: impl FnOnce() -> io::Result<T>) -> Result<(T, Duration)> {
    let now = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let began = now();
    let done = work()?;
    Ok((done, now() - began))
}

fn rate(name: &str, count: usize, took: Duration) -> Vec<String> {
    vec![name.to_owned(), format!("{:.2}", count as f64 / took.as_secs_f64() / 1e6)]
}

fn columns(columns: &[(String, u64)], count: usize) -> Vec<Vec<String>> {
    let row = |(name, octets): &(String, u64)| vec![name.clone(), format!("{:.3}", *octets as f64 / count as f64)];
    columns.iter().map(row).collect()
}
