//! Octets a record at rest, and how fast they get there, beside nfdump's files of the same records.
//!
//! Owns the comparison: the same made-up hour of one account ([`lucarne_bench::flow_mix`]) as the collector keeps it, and as
//! `nfcapd` keeps it when it is sent our IPFIX over UDP. nfdump keeps fewer than half of the fields. Left out where the
//! package `nfdump` is missing.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lucarne_bench::{figures::table, flow_mix::FlowMix};
use lucarne_flows::ipfix::Exporter;
use lucarne_model::{FlowRecord, Moment};
use rustix::process::{Pid, Signal, kill_process};

/// 2026-01-15, an hour.
const SINCE: Moment = Moment::from_secs(1_768_478_400);
const RECORDS: usize = 1_000_000;
/// The mark: octets a record.
const MARK: f64 = 12.0;
/// Where nfcapd listens.
const PORT: u16 = 29_995;

fn main() -> Result<()> {
    let records = FlowMix::new(7, SINCE).records(RECORDS);
    let dir = tempfile::tempdir()?;
    let began = Instant::now();
    let octets = lucarne_collector::lay_down(dir.path(), &records)?;
    let took = began.elapsed();
    let per = |octets: u64, count: usize| format!("{:.2}", octets as f64 / count.max(1) as f64);
    let rate = format!("{:.2}", records.len() as f64 / took.as_secs_f64() / 1e6);
    let mut rows = vec![
        vec!["lucarne, what accounts see".into(), records.len().to_string(), per(octets.shown, records.len()), rate],
        vec![
            "lucarne, the operator's own".into(),
            records.len().to_string(),
            per(octets.own, records.len()),
            "-".into(),
        ],
    ];
    for (name, compress) in [("nfdump, LZ4", "-y"), ("nfdump, bzip2", "-j")] {
        match nfdump(&records, compress) {
            Ok((octets, count)) => rows.push(vec![name.into(), count.to_string(), per(octets, count), "-".into()]),
            Err(error) => eprintln!("{name} is left out: {error:#}"),
        }
    }
    println!("{}", table(&["store", "records", "octets a record", "M records/s"], &rows));
    println!("The mark is {MARK} octets for what accounts see.");
    println!("{}", table(&["column", "octets a record"], &columns(&octets.columns, records.len())));
    Ok(())
}

fn columns(columns: &[(String, u64)], count: usize) -> Vec<Vec<String>> {
    let row = |(name, octets): &(String, u64)| vec![name.clone(), format!("{:.3}", *octets as f64 / count as f64)];
    columns.iter().map(row).collect()
}

/// Octets of nfcapd's files and how many records they have.
fn nfdump(records: &[FlowRecord], compress: &str) -> Result<(u64, usize)> {
    let dir = tempfile::tempdir()?;
    let port = PORT.to_string();
    let mut nfcapd = Command::new("nfcapd")
        .args(["-p", &port, "-b", "127.0.0.1", compress, "-B", "200000000", "-t", "3600", "-w"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("nfcapd cannot be started")?;
    thread::sleep(Duration::from_secs(1));
    let sent = send(records);
    thread::sleep(Duration::from_secs(3));
    // Asked to end, it writes what it holds.
    if let Some(pid) = Pid::from_raw(i32::try_from(nfcapd.id())?) {
        kill_process(pid, Signal::INT)?;
    }
    nfcapd.wait()?;
    sent?;
    let octets = files(dir.path())?;
    let listed = Command::new("nfdump").arg("-R").arg(dir.path()).args(["-q", "-o", "fmt:%ts"]).output()?;
    Ok((octets, listed.stdout.iter().filter(|octet| **octet == b'\n').count()))
}

/// Not faster than the slowest way of compressing empties the socket.
fn send(records: &[FlowRecord]) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", PORT))?;
    let mut exporter = Exporter::new(1);
    for (batch, records) in records.chunks(100).enumerate() {
        for message in exporter.encode(records, SINCE) {
            socket.send(&message)?;
        }
        if batch % 20 == 0 {
            thread::sleep(Duration::from_millis(40));
        }
    }
    Ok(())
}

fn files(dir: &Path) -> Result<u64> {
    let mut octets = 0;
    for entry in fs::read_dir(dir)? {
        octets += entry?.metadata()?.len();
    }
    Ok(octets)
}
