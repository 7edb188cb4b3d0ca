//! Tests of [`super`]: each in a process of its own, since what is given up is given up for good.

use std::{fs, net::TcpStream, os::unix::net::UnixStream, process::Command};

use super::*;

/// Runs the test `name` of this file as a process, with the role that it then plays.
fn as_process(name: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("confinement::tests::{name}"), "--nocapture", "--test-threads=1"]);
    let output = command.env("LUCARNE_TEST_CONFINED", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn is_role() -> bool {
    std::env::var_os("LUCARNE_TEST_CONFINED").is_some()
}

/// Threads that are there before are not in the domain: the thread that is locked in does the looking.
#[test]
fn what_is_locked_in_writes_no_file_starts_no_program_and_opens_no_socket() {
    if !is_role() {
        return as_process("what_is_locked_in_writes_no_file_starts_no_program_and_opens_no_socket");
    }
    let folder = tempfile::tempdir().unwrap();
    let (marks, other) = (folder.path().join("machine"), folder.path().join("other"));
    fs::create_dir(&marks).unwrap();
    fs::write(&other, "secret").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = folder.path().join("socket");
    let _unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();

    harden().unwrap();
    lock_in(&Needs { reads: vec!["/proc".into()], marks: Some(marks.clone()), ..Needs::default() }).unwrap();

    assert!(fs::read("/proc/self/status").is_ok(), "it reads what it needs");
    fs::write(marks.join("mark"), "1").unwrap();
    fs::rename(marks.join("mark"), marks.join("moved")).unwrap();
    fs::remove_file(marks.join("moved")).unwrap();
    assert!(std::thread::spawn(|| 7).join().is_ok(), "it makes threads");

    assert!(fs::read(&other).is_err(), "it reads another file");
    assert!(fs::write(&other, "x").is_err(), "it writes another file");
    assert!(fs::write("/tmp/lucarne-test-leak", "x").is_err(), "it makes a file");
    assert!(fs::write("/dev/shm/lucarne-test-leak", "x").is_err(), "it makes a file in memory");
    assert!(Command::new("/bin/true").status().is_err(), "it starts a program");
    assert!(TcpStream::connect(address).is_err(), "it connects");
    assert!(UnixStream::connect(&socket).is_err(), "it connects within the host");
}

#[test]
fn what_is_hardened_leaves_no_core_and_is_not_swapped_out() {
    if !is_role() {
        return as_process("what_is_hardened_leaves_no_core_and_is_not_swapped_out");
    }
    harden().unwrap();
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("NoNewPrivs:\t1"));
    assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
    assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    let locked: u64 = locked.trim().split(' ').next().unwrap().parse().unwrap();
    let may_lock = rustix::process::geteuid().is_root();
    assert!(locked > 0 || !may_lock, "{locked} KiB are locked");
}
