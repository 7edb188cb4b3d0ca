//! A running Linux kernel, read by its page tables and patched.
//!
//! The kernel is that of the image `tiny`: `cargo xtask test` runs these when the tests on real VMs have built it.

use std::{
    env,
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use lucarne_model::Octets;
use lucarne_seal::operation::OperationName::{GuestMemoryRead, GuestMemoryWrite, GuestRegisters};
use lucarne_sealer::{Failure, carry_out_by, recover_by};
use serde_json::{Value, json};

use crate::house::{House, block_on, folder, nowhere, program};

/// `xor eax, eax; ret`: it shows nothing.
const NOTHING: [u8; 3] = [0x31, 0xc0, 0xc3];

/// Where the image lies once it is built.
fn image() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("lucarne/images/ready")).filter(|image| image.join("kernel").exists())
}

/// A guest with a shell on its serial port.
fn linux() -> House {
    let image = image().expect("build the image first: `lucarne image build tiny`");
    let folder = folder();
    // Where the machine's user comes through.
    let path = |name: &str| {
        let copy = folder.path().join(name);
        std::fs::copy(image.join(name), &copy).unwrap();
        copy.display().to_string()
    };
    let (kernel, initramfs) = (path("kernel"), path("initramfs"));
    let command_line = "console=ttyS0 quiet rdinit=/bin/sh";
    let arguments = ["-kernel", &kernel, "-initrd", &initramfs, "-append", command_line];
    let mut house = House::start_with(128, folder, &arguments);
    house.until("# ");
    said(&mut house, "export PATH=/bin; mount -t proc proc /proc");
    house
}

/// What the guest's shell says to a line.
fn said(house: &mut House, line: &str) -> String {
    house.serial.write_all(format!("{line}; echo DO''NE\n").as_bytes()).unwrap();
    let printed = house.until("DONE\r\n");
    let behind = printed.rfind("DO''NE\r\n").map_or(0, |at| at + 8);
    printed[behind..].replace("DONE\r\n", "").replace('\r', "")
}

fn address_of(house: &mut House, symbol: &str) -> u64 {
    let line = said(house, &format!("grep ' {symbol}$' /proc/kallsyms"));
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}

fn write(address: u64, (expected, replacement): (&[u8], &[u8]), seconds: u64) -> Value {
    let change = json!({"expected": Octets::from(expected), "replacement": Octets::from(replacement)});
    json!({"space": "kernel", "address": format!("{address:#x}"), "change": change, "revert_after_seconds": seconds})
}

fn uptime(house: &mut House) -> bool {
    !said(house, "cat /proc/uptime").is_empty()
}

#[test]
#[ignore = "needs the image tiny, which the tests on real VMs build"]
fn a_function_of_a_running_kernel_is_patched_and_does_as_it_did_again_when_the_patch_is_undone() {
    let mut house = linux();
    // Translated before it is patched.
    assert!(uptime(&mut house) && uptime(&mut house));
    let function = address_of(&mut house, "uptime_proc_show");
    let (_, before) = house.read("kernel", function, 3);

    // What is not as expected is not touched.
    let refused = house.ask(GuestMemoryWrite, write(function, (&[0, 0, 0], &NOTHING), 0));
    assert!(matches!(refused, Err(Failure::Impossible(_))), "{refused:?}");
    assert!(uptime(&mut house));

    let patched = house.ask_json(GuestMemoryWrite, write(function, (&before, &NOTHING), 0));
    let physical = patched["pieces"][0]["address"].as_u64().unwrap();
    assert_eq!(house.read("physical", physical, 3).1, NOTHING);
    assert!(!uptime(&mut house), "the kernel's function still shows something");
    house.ask_json(GuestMemoryWrite, write(function, (&NOTHING, &before), 0));
    assert!(uptime(&mut house), "the kernel's function shows nothing any more");
    assert_eq!(house.status(), "running");

    // For a while, over the boundary of two pages.
    let end = function | 0xfff;
    let (_, there) = house.read("kernel", end, 2);
    let other = [!there[0], !there[1]];
    let order = house.order(GuestMemoryWrite, write(end, (&there, &other), 2));
    block_on(async {
        carry_out_by(program(), order, nowhere()).await.unwrap();
        let begun = Instant::now();
        assert_eq!(house.read_async(end, 2).await, other);
        while house.read_async(end, 2).await != there {
            assert!(begun.elapsed() < Duration::from_secs(60), "it was not undone");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
#[ignore = "needs the image tiny, which the tests on real VMs build"]
fn a_patch_is_undone_also_if_the_process_that_was_to_do_it_and_its_agent_are_killed() {
    let mut house = linux();
    let function = address_of(&mut house, "uptime_proc_show");
    let (_, before) = house.read("kernel", function, 3);
    let order = house.order(GuestMemoryWrite, write(function, (&before, &NOTHING), 4));
    // The runtime's end is that of the agent.
    block_on(carry_out_by(program(), order, nowhere())).unwrap();
    let waiting = waiting_process(&house);
    rustix::process::kill_process(waiting, rustix::process::Signal::KILL).unwrap();
    thread::sleep(Duration::from_secs(5));
    assert!(!uptime(&mut house), "nobody undid it");
    block_on(async {
        recover_by(program(), house.machine()).await.unwrap();
        let begun = Instant::now();
        while house.read_async(function, 3).await != before {
            assert!(begun.elapsed() < Duration::from_secs(60), "it was not undone");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(uptime(&mut house));
}

/// The sealing process that waits to undo something: it alone has that memory but for QEMU.
fn waiting_process(house: &House) -> rustix::process::Pid {
    let holds = |pid: u32| {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .any(|link| link.to_string_lossy().starts_with("/memfd:lucarne-undo"))
    };
    let own = format!("{}", program().path.display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != house.qemu.id() && String::from_utf8_lossy(&command).starts_with(&own) && holds(*pid)
    };
    let pid = pids.find(is_it).expect("a process waits");
    rustix::process::Pid::from_raw(pid as i32).unwrap()
}

#[test]
#[ignore = "needs the image tiny, which the tests on real VMs build"]
fn a_kernels_memory_is_read_by_its_own_page_tables() {
    let mut house = linux();
    let banner = address_of(&mut house, "linux_banner");
    let version = said(&mut house, "cat /proc/version");
    let (_, content) = house.read("kernel", banner, 64);
    assert_eq!(content, &version.as_bytes()[..64]);
    let registers = house.ask_json(GuestRegisters, json!({}));
    assert!(registers["processors"][0]["registers"]["rip"].is_string(), "{registers}");
    // The page below the kernel's text, user memory of nobody, and what no table can name.
    for address in ["0xffff800000000000", "0x1000", "0x800000000000", "0xffffffffffffffff"] {
        let read = house.ask(GuestMemoryRead, json!({"space": "kernel", "address": address, "length": 2}));
        assert!(matches!(read, Err(Failure::Impossible(_))), "{address}: {read:?}");
    }
}
