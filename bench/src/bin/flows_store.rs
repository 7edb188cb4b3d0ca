//! Octets a record at rest, and how fast they get there, beside nfdump's files of the same records.
//!
//! Owns the comparison: the same made-up hour of one account ([`lucarne_bench::flow_mix`]) as the collector keeps it, and as
//! `nfcapd` keeps it when it is sent our IPFIX over UDP. nfdump keeps fewer than half of the fields. Left out where the
//! package `nfdump` is missing.

use std::{collections::BTreeMap, io, time::Duration};

use anyhow::{Result, ensure};
use lucarne_bench::{figures::table, flow_mix::FlowMix, nfcapd};
use lucarne_collector::{AtRest, Effort, Hot, Inflow, Writer};
use lucarne_flows::ipfix::Exporter;
use lucarne_model::{FlowRecord, HostId, Moment};
use rustix::time::{ClockId, clock_gettime};

/// 2026-01-15, an hour.
const SINCE: Moment = Moment::from_secs(1_768_478_400);
const RECORDS: usize = 1_000_000;
/// The mark: octets a record.
const MARK: f64 = 12.0;
/// Segments of the log that the records are sealed from, each into a part.
const SEGMENTS: usize = 4;
/// Records of a batch of a stream.
const STREAMED: usize = 8192;
/// Of so many rounds the one that took least counts, step by step.
const ROUNDS: usize = 5;
/// Records of the file that both writers make.
const WRITTEN: usize = 200_000;

fn main() -> Result<()> {
    let records = FlowMix::new(7, SINCE).records(RECORDS);
    let (mut rates, at_rest) = ours(&records)?;
    let per = |octets: u64, count: usize| format!("{:.2}", octets as f64 / count.max(1) as f64);
    let row = |name: &str, octets, count: usize| vec![name.to_owned(), count.to_string(), per(octets, count)];
    let mut rows = vec![
        row("lucarne, what accounts see", at_rest.shown, records.len()),
        row("lucarne, the operator's own", at_rest.own, records.len()),
        row("lucarne, sums of these", at_rest.sums, records.len()),
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
    let header =
        ["what accounts see, as Parquet", "Parquet's writer, M records/s", "ours", "octets a record of theirs", "ours"];
    println!("{}", table(&header, &writers(&records)?));
    println!("{}", table(&["column", "octets a record"], &columns(&at_rest.columns, records.len())));
    Ok(())
}

/// What a step is called, how many records went through it, and the processor time that it took.
type Step = (String, usize, Duration);

/// The collector's steps one after the other, of each the round that took least.
fn ours(records: &[FlowRecord]) -> Result<(Vec<Step>, AtRest)> {
    let messages = by_host(records);
    let (mut best, mut at_rest) = round(&messages, records.len())?;
    for _ in 1..ROUNDS {
        let (steps, last) = round(&messages, records.len())?;
        best.iter_mut().zip(steps).for_each(|((_, least), (_, took))| *least = took.min(*least));
        at_rest = last;
    }
    let step = |(name, took): (&str, Duration)| (format!("lucarne: {name}"), records.len(), took);
    Ok((best.into_iter().map(step).collect(), at_rest))
}

/// The messages of each host, which tells of its own flows alone.
fn by_host(records: &[FlowRecord]) -> Vec<Vec<Vec<u8>>> {
    let mut hosts: BTreeMap<HostId, Vec<FlowRecord>> = BTreeMap::new();
    records.iter().for_each(|record| hosts.entry(record.host).or_default().push(record.clone()));
    hosts.values().map(|of| Exporter::new(1).with_limit(Exporter::STREAM).encode(of, SINCE)).collect()
}

fn round(messages: &[Vec<Vec<u8>>], count: usize) -> Result<(Vec<(&'static str, Duration)>, AtRest)> {
    let dir = tempfile::tempdir()?;
    let folder = |name: &str| dir.path().join(name);
    let (streamed, messages) = (messages.to_vec(), messages.to_vec());
    let (_, streaming) = timed(|| Inflow::stream(streamed, STREAMED))?;
    let (inflow, decoding) = timed(|| Inflow::decode(messages))?;
    let (hot, logging) = timed(|| inflow.log(&folder("log"), SINCE))?;
    ensure!(hot.records() == count, "{} of {count} records were decoded", hot.records());
    let (_, to_arrow) = timed(|| hot.arrays())?;
    let (_, laying_out) = timed(|| hot.lay_out())?;
    let (sealed, sealing) = timed(|| hot.seal(&folder("sealed"), Effort::Fresh, SEGMENTS))?;
    let (merged, merging) = timed(|| sealed.merge(&folder("sealed")))?;
    let steps = vec![
        ("IPFIX to columns", decoding),
        ("columns to Arrow, 45 of them, what repeats as dictionaries", to_arrow),
        ("IPFIX to Arrow, all records kept, in batches as one host hands them on", decoding + to_arrow),
        ("IPFIX to Arrow as a stream, in batches of 8192 records that are let go", streaming),
        ("hot table to Arrow as SQL sees it, with each text at each record", laying_out),
        ("columns to the durable log and the hot table", logging),
        ("hot table to durable Parquet, in 4 segments", sealing),
        ("IPFIX to durable Parquet, by way of the durable log", decoding + logging + sealing),
        ("these merged into one, durable", merging),
    ];
    Ok((steps, merged.at_rest()?))
}

/// Who makes a Parquet file of what accounts see: of the same arrays in memory, by turns.
fn writers(records: &[FlowRecord]) -> Result<Vec<Vec<String>>> {
    let records = &records[..WRITTEN.min(records.len())];
    let shown = Hot::of(records).shown()?;
    let mut rows = Vec::new();
    for (name, effort) in
        [("zstd's level 1, as when sealing", Effort::Fresh), ("level 6, as when merging", Effort::Merged)]
    {
        let mut best = [(Writer::Parquets, Duration::MAX, 0), (Writer::Ours, Duration::MAX, 0)];
        for _ in 0..ROUNDS {
            for (writer, least, octets) in &mut best {
                let (made, took) = timed(|| shown.write(effort, *writer))?;
                (*least, *octets) = (took.min(*least), made);
            }
        }
        let rate = |took: Duration| format!("{:.2}", records.len() as f64 / took.as_secs_f64() / 1e6);
        let per = |octets: usize| format!("{:.2}", octets as f64 / records.len().max(1) as f64);
        let [(_, theirs, their_octets), (_, ours, our_octets)] = best;
        rows.push(vec![name.to_owned(), rate(theirs), rate(ours), per(their_octets), per(our_octets)]);
    }
    Ok(rows)
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
