//! That what an operation reads is nowhere but in its guest and in the age file.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use lucarne_seal::operation::OperationName::GuestMemoryRead;
use lucarne_sealer::carry_out_by;
use serde_json::json;

use crate::house::{House, SECRET, block_on, program};

/// The secret as it never stands anywhere by itself: each octet with all its bits turned over.
struct Canary([u8; 32]);

impl Canary {
    fn draw() -> Self {
        let mut octets = [0; 32];
        File::open("/dev/urandom").unwrap().read_exact(&mut octets).unwrap();
        Self(octets.map(|octet| !octet))
    }
    /// Whether these octets hold it.
    fn is_in(&self, octets: &[u8]) -> bool {
        let first = !self.0[0];
        let mut from = 0;
        while let Some(at) = octets[from..].iter().position(|octet| *octet == first) {
            let here = &octets[from + at..];
            if here.len() >= 32 && here.iter().zip(&self.0).all(|(octet, turned)| *octet == !turned) {
                return true;
            }
            from += at + 1;
        }
        false
    }
}

/// Files below `folder` that hold it.
fn files(folder: &Path, canary: &Canary) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path(), canary));
        } else if kind.is_file() && canary.is_in(&fs::read(entry.path()).unwrap()) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

/// Processes of this test in whose memory it is, but for the guest's machine and this one, which made it.
fn processes(house: &House, canary: &Canary) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != std::process::id() && *pid != house.qemu.id());
    others.filter(|pid| is_of_this_test(*pid) && holds(*pid, canary)).collect()
}

/// This test's processes: its children, and theirs.
fn is_of_this_test(pid: u32) -> bool {
    let mut at = pid;
    while at > 1 {
        if at == std::process::id() {
            return true;
        }
        let Ok(text) = fs::read_to_string(format!("/proc/{at}/stat")) else { return false };
        let parent = text.rsplit(") ").next().and_then(|behind| behind.split(' ').nth(1)?.parse().ok());
        at = parent.unwrap_or(0);
    }
    false
}

fn holds(pid: u32, canary: &Canary) -> bool {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return false };
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else { return false };
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (first, behind) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |digits| u64::from_str_radix(digits, 16).unwrap();
        let mut at = number(first);
        let mut piece = vec![0; (1 << 20) + 32];
        while at < number(behind) {
            // Pieces overlap, so that none of it is between two.
            let length = piece.len().min((number(behind) - at) as usize);
            if memory.read_exact_at(&mut piece[..length], at).is_ok() && canary.is_in(&piece[..length]) {
                return true;
            }
            at += 1 << 20;
        }
        false
    })
}

#[test]
fn a_secret_of_a_guest_that_is_read_is_nowhere_else_also_when_the_reading_process_is_killed() {
    let canary = Canary::draw();
    let mut secret = canary.0.map(|turned| !turned);
    let house = House::with_secret(&secret);
    secret.fill(0);
    assert!(holds(house.qemu.id(), &canary), "it is found where it is");

    let arguments = json!({"space": "physical", "address": "0x0", "length": 4 << 20});
    let begun = Instant::now();
    house.ask(GuestMemoryRead, arguments.clone()).unwrap();
    let whole = begun.elapsed();
    let mut done = 0;
    // From before it begins until after it is over.
    for killed_after in (0..16).map(|round| whole * round / 10) {
        let out = File::create(house.folder.path().join(format!("result-{killed_after:?}"))).unwrap();
        let order = house.order(GuestMemoryRead, arguments.clone());
        let carried = block_on(async {
            let carried = carry_out_by(program(), order, out);
            let carried = tokio::time::timeout(killed_after, carried).await;
            // Until what was killed is mended.
            tokio::time::sleep(Duration::from_millis(200)).await;
            carried
        });
        done += u32::from(carried.is_ok());
        assert_eq!(files(house.folder.path(), &canary), [""; 0]);
        assert_eq!(processes(&house, &canary), [0; 0]);
    }
    assert!((1..16).contains(&done), "{done} of 16 were done");
    let (_, content) = house.read("physical", 0, 4 << 20);
    assert!(canary.is_in(&content[SECRET as usize..]), "the reader has it");
    drop(content);
    assert_eq!(files(house.folder.path(), &canary), [""; 0]);
    assert_eq!(processes(&house, &canary), [0; 0]);
    assert_eq!(house.status(), "running");
}
