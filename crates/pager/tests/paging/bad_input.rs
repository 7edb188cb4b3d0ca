//! What others can do to a pager: say nonsense, fill its disk, damage or delete what it keeps.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use lucarne_model::memory::Pages;
use lucarne_pager::control::Trouble;

use crate::house::{House, eventually};

const PAGES: u64 = 1024;

fn say(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    // It may have heard enough before the end.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn nonsense_is_refused_and_the_guest_is_served_on() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(0);
    house.write_all(1);
    let hello = br#"{"request":"hello","version":1}"#;
    let after_hello = |line: &[u8]| [hello, &b"\n"[..], line, b"\n"].concat();
    for nonsense in [
        &b"\0\xff\n"[..],
        b"{}\n",
        br#"{"request":"statistics"}"#,
        br#"{"request":"hello","version":2}"#,
        &after_hello(br#"{"request":"fly"}"#),
        &after_hello(br#"{"request":"set-target","resident":-1,"pages_per_second":null}"#),
        &vec![b'x'; 3 << 20],
    ] {
        let answer = say(&house.control(), nonsense);
        assert!(answer.lines().last().is_none_or(|line| line.contains("refused")), "{answer}");
    }
    house.evict_all(&mut client);
    house.check_all();
}

#[test]
fn a_second_pager_is_refused_while_the_first_one_serves() {
    let house = House::new(PAGES);
    let (_pager, mut client) = house.serve(0);
    let control = house.control();
    let second = house.pager(0);
    assert!(second.line().unwrap().contains("another pager serves"));
    assert!(!control.exists() || client.statistics().is_ok());
    client.statistics().unwrap();
}

/// The machine must not go on with anything but what it had: it ends, and says why.
#[test]
fn a_page_whose_copy_was_damaged_ends_its_machine_with_a_reason() {
    let mut house = House::new(PAGES);
    let (pager, mut client) = house.serve(0);
    house.write_all(1);
    house.evict_all(&mut client);
    let store = fs::OpenOptions::new().write(true).open(house.state().join("pages.store")).unwrap();
    for page in 0..store.metadata().unwrap().len() / 4096 {
        store.write_all_at(&[0xee], page * 4096 + 77).unwrap();
    }
    house.machine.say("check 0 1024");
    assert_eq!(house.machine.line(), None);
    let words = house.machine.last_words();
    assert!(words.contains("cannot be given back to it") && words.contains("its seal is broken"), "{words}");
    assert!(pager.line().unwrap().starts_with("Lost"));
}

#[test]
fn a_store_that_was_cut_off_ends_the_machine_with_a_reason() {
    let mut house = House::new(PAGES);
    let (_pager, mut client) = house.serve(0);
    house.write_all(1);
    house.evict_all(&mut client);
    fs::OpenOptions::new().write(true).open(house.state().join("pages.store")).unwrap().set_len(4096).unwrap();
    house.machine.say("check 0 1024");
    assert_eq!(house.machine.line(), None);
    let words = house.machine.last_words();
    assert!(words.contains("the store cannot be read"), "{words}");
}

#[test]
fn files_deleted_beneath_a_pager_are_missed_only_by_the_next_which_ends_the_machine() {
    let mut house = House::new(PAGES);
    let (mut pager, mut client) = house.serve(0);
    house.write_all(1);
    house.evict_all(&mut client);
    fs::remove_dir_all(house.state()).unwrap();
    house.check_all();
    client.set_target(Pages::ZERO, None).unwrap();
    eventually(&mut client, "they leave again", |now| now.pages.resident == Pages::ZERO);
    pager.kill();
    let next = house.pager(0);
    let said = next.line().unwrap();
    assert!(said.contains("the machine was ended"), "{said}");
    let words = house.machine.last_words();
    assert!(words.contains("its index is gone"), "{words}");
}

/// A file system of its own; none where tests may not mount.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(path).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
    fn grow(&self) {
        assert!(Command::new("mount").args(["-o", "remount,size=64m"]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(self.0).status();
    }
}

/// The disk of this process, held to a few transfers in a second; none where tests may not do that.
struct SlowDisk(PathBuf, String);

impl SlowDisk {
    fn of(pager: u32, folder: &Path) -> Option<Self> {
        let device = rustix::fs::stat(folder).ok()?.st_dev;
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let group = PathBuf::from(format!("/sys/fs/cgroup/blkio/lucarne-test-{pager}"));
        fs::create_dir(&group).ok()?;
        let slow = Self(group, device);
        fs::write(slow.0.join("cgroup.procs"), pager.to_string()).ok()?;
        slow.set(10).then_some(slow)
    }
    /// Writes in a second; zero: as many as it can.
    fn set(&self, writes: u32) -> bool {
        fs::write(self.0.join("blkio.throttle.write_iops_device"), format!("{} {writes}", self.1)).is_ok()
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let members = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines() {
            let _ = fs::write("/sys/fs/cgroup/blkio/cgroup.procs", member);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_slow_disk_is_told_from_a_full_one_and_its_guest_loses_nothing() {
    let mut house = House::new(2 * PAGES);
    let (pager, mut client) = house.serve(0);
    house.write_all(1);
    let Some(disk) = SlowDisk::of(pager.id(), house.path()) else {
        eprintln!("not tried: this user may not slow a disk down");
        return;
    };
    client.set_target(Pages::ZERO, None).unwrap();
    eventually(&mut client, "it is told", |now| now.trouble == Some(Trouble::StoreSlow));
    assert!(disk.set(0));
    eventually(&mut client, "it is over", |now| now.trouble.is_none() && now.pages.resident < Pages(64));
    house.check_all();
}

#[test]
fn a_full_disk_stops_eviction_and_nothing_else_until_there_is_room() {
    let mut house = House::new(PAGES);
    let state = house.state();
    let Some(disk) = SmallDisk::mount(&state) else {
        eprintln!("not tried: this user may not mount");
        return;
    };
    let (_pager, mut client) = house.serve(0);
    house.write_all(1);
    client.set_target(Pages::ZERO, None).unwrap();
    let full = eventually(&mut client, "it is told", |now| now.trouble == Some(Trouble::StoreFull));
    assert!(full.pages.resident > Pages::ZERO);
    house.machine.ask("storm");
    std::thread::sleep(std::time::Duration::from_millis(300));
    house.machine.ask("calm");
    disk.grow();
    eventually(&mut client, "it goes on", |now| now.trouble.is_none() && now.pages.resident < Pages(64));
    house.check_all();
}
