//! How much memory the processes of an idle cloud take, beside libvirt's daemon where that is installed.
//!
//! Owns the scene: `lucarne dev` with one host and no instances, left alone for a while. The peer is what runs on a host
//! of most private clouds; it has neither a switch nor a flow table. Its figure is taken from a daemon started here with
//! nothing to do, and left out where the package `libvirt-daemon` is missing.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use lucarne_bench::{
    cloud::Cloud,
    figures::table,
    memory::{Memory, mib},
};

/// Long enough for allocations of the start to be given back.
const SETTLE: Duration = Duration::from_secs(15);
const PEER: &str = "/usr/sbin/libvirtd";

/// The marks: process, MiB.
const MARKS: [(&str, f64); 2] = [("controller", 100.0), ("host", 50.0)];

fn main() -> Result<()> {
    let cloud = Cloud::start(1, &[])?;
    let peer = Peer::start()?;
    thread::sleep(SETTLE);
    let mut rows = Vec::new();
    for (pid, name) in cloud.processes()? {
        let mark = MARKS.iter().find(|(marked, _)| *marked == name).map(|(_, mib)| format!("{mib:.0}"));
        rows.push(row(&format!("lucarne {name}"), pid, mark)?);
    }
    match peer.as_ref().and_then(|peer| row("libvirtd (peer)", peer.0.id(), None).ok()) {
        Some(row) => rows.push(row),
        None => eprintln!("{PEER} is not there or ended at once: install and set up libvirt-daemon to see it beside"),
    }
    println!("{}", table(&["idle process", "RSS MiB", "PSS MiB", "private MiB", "at most MiB"], &rows));
    Ok(())
}

fn row(name: &str, pid: u32, mark: Option<String>) -> Result<Vec<String>> {
    let memory = Memory::of(pid)?;
    Ok(vec![name.into(), mib(memory.rss), mib(memory.pss), mib(memory.private), mark.unwrap_or_else(|| "-".into())])
}

/// libvirt's daemon, in the foreground.
struct Peer(Child);

impl Peer {
    fn start() -> Result<Option<Self>> {
        if !fs::exists(PEER)? {
            return Ok(None);
        }
        let child = Command::new(PEER).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.map(|child| Some(Self(child))).context("libvirtd cannot be run")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}
