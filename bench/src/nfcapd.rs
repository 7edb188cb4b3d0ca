//! `nfcapd` as a peer: it takes our IPFIX over UDP and keeps it in files of its own.
//!
//! Owns the process, its port and its folder. Records are sent no faster than the slowest of its ways of compressing empties
//! the socket.

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lucarne_flows::ipfix::Exporter;
use lucarne_model::{FlowRecord, Moment};
use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

/// What nfcapd made of some records; its files go with this.
#[derive(Debug)]
pub struct Made {
    dir: TempDir,
    /// Octets of its files.
    pub octets: u64,
    /// Records in them.
    pub records: usize,
    /// What all its threads took of the processors.
    pub processor: Duration,
}

impl Made {
    /// The one file.
    pub fn file(&self) -> Result<PathBuf> {
        let files = fs::read_dir(self.dir.path())?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        ensure!(files.len() == 1, "nfcapd made {} files", files.len());
        files.into_iter().next().context("nfcapd made no file")
    }
}

/// Has nfcapd keep the records; `compress` is `-y` for LZ4 or `-j` for bzip2.
pub fn keep(records: &[FlowRecord], compress: &str) -> Result<Made> {
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let mut nfcapd = start(dir.path(), port, compress)?;
    thread::sleep(Duration::from_secs(1));
    let sent = send(port, records);
    thread::sleep(Duration::from_secs(3));
    let processor = processor_time(nfcapd.id());
    // Asked to end, it writes what it holds.
    if let Some(pid) = Pid::from_raw(i32::try_from(nfcapd.id())?) {
        kill_process(pid, Signal::INT)?;
    }
    nfcapd.wait()?;
    sent?;
    let listed = Command::new("nfdump").arg("-R").arg(dir.path()).args(["-q", "-o", "fmt:%ts"]).output()?;
    let records = listed.stdout.iter().filter(|octet| **octet == b'\n').count();
    Ok(Made { octets: files(dir.path())?, records, processor: processor?, dir })
}

fn start(dir: &Path, port: u16, compress: &str) -> Result<Child> {
    let mut command = Command::new("nfcapd");
    command.args(["-p", &port.to_string(), "-b", "127.0.0.1", compress, "-B", "200000000", "-t", "3600", "-w"]);
    command.arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("nfcapd cannot be started; it is in Debian's package nfdump")
}

fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn send(port: u16, records: &[FlowRecord]) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    let mut exporter = Exporter::new(1);
    for (batch, records) in records.chunks(100).enumerate() {
        let now = records.iter().map(|record| record.end).max().unwrap_or(Moment::EPOCH);
        for message in exporter.encode(records, now) {
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

/// Of a process, in user space and the kernel: the 14th and 15th field of its line, the first two being its number and
/// its name in parentheses (proc(5)).
fn processor_time(pid: u32) -> Result<Duration> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = line.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}
