//! Octets a record at rest, and how fast they get there, beside nfdump's files of the same records.
//!
//! Owns the comparison: the same made-up hour of one account ([`lucarne_bench::flow_mix`]) as the collector keeps it, and as
//! `nfcapd` keeps it when it is sent our IPFIX over UDP. nfdump keeps fewer than half of the fields. Left out where the
//! package `nfdump` is missing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lucarne_bench::{figures::table, flow_mix::FlowMix, nfcapd};
use lucarne_collector::{AtRest, Effort, lay_down, lay_out};
use lucarne_flows::ipfix::{Decoder, Exporter};
use lucarne_model::{FlowRecord, Moment};

/// 2026-01-15, an hour.
const SINCE: Moment = Moment::from_secs(1_768_478_400);
const RECORDS: usize = 1_000_000;
/// The mark: octets a record.
const MARK: f64 = 12.0;

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
    println!("{}", table(&["step, on one core", "M records/s"], &rates));
    println!("{}", table(&["column", "octets a record"], &columns(&at_rest.columns, records.len())));
    Ok(())
}

/// What a step is called, how many records went through it, and the time that it took.
type Step = (String, usize, Duration);

/// The collector's steps one after the other.
fn ours(records: &[FlowRecord]) -> Result<(Vec<Step>, AtRest)> {
    let count = records.len();
    let mut steps = Vec::new();
    let mut time = |name: &str, began: Instant| steps.push((name.to_owned(), count, began.elapsed()));
    let messages = Exporter::new(1).with_limit(Exporter::STREAM).encode(records, SINCE);
    let began = Instant::now();
    let mut decoder = Decoder::new();
    let mut decoded = Vec::with_capacity(count);
    for message in &messages {
        decoded.extend(decoder.decode(message)?.records);
    }
    time("lucarne: IPFIX to records", began);
    ensure!(decoded.len() == count, "{} of {count} records were decoded", decoded.len());
    let again = [decoded.clone(), decoded.clone()];
    let began = Instant::now();
    lay_out(decoded)?;
    time("lucarne: records to Arrow, 45 columns", began);
    let mut at_rest = AtRest::default();
    let efforts = [
        (Effort::Fresh, "lucarne: records to durable Parquet, as they are sealed"),
        (Effort::Merged, "lucarne: records to durable Parquet, as they are merged"),
    ];
    for (records, (effort, name)) in again.into_iter().zip(efforts) {
        let dir = tempfile::tempdir()?;
        let began = Instant::now();
        at_rest = lay_down(dir.path(), effort, records)?;
        time(name, began);
    }
    Ok((steps, at_rest))
}

fn rate(name: &str, count: usize, took: Duration) -> Vec<String> {
    vec![name.to_owned(), format!("{:.2}", count as f64 / took.as_secs_f64() / 1e6)]
}

fn columns(columns: &[(String, u64)], count: usize) -> Vec<Vec<String>> {
    let row = |(name, octets): &(String, u64)| vec![name.clone(), format!("{:.3}", *octets as f64 / count as f64)];
    columns.iter().map(row).collect()
}
