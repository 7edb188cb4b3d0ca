//! A machine as an agent would have started it, a reader with a key, and orders between them.

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lucarne_model::{AccountId, HostId, InstanceId, storage::Digest};
use lucarne_seal::{
    operation::{Operation, OperationName},
    padding::Padding,
    request::{RequestId, ResultTerms},
};
use lucarne_sealer::{Done, Failure, Machine, Order, Program, carry_out_by};
use serde_json::{Value, json};
use tempfile::TempDir;

/// As whom machines run where the test is root.
const USER: u32 = 70_707;

/// In 16-bit code at 0x7c00: takes 32 octets from the serial port to 0x9000, prints `K`, and then counts in two places that
/// are never more than one apart.
///
/// ```text
///         cli; xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax; mov sp, 0x7c00; cld
///         mov di, 0x9000; mov cx, 32
/// read:   mov dx, 0x3fd
/// wait:   in al, dx; test al, 1; jz wait
///         mov dx, 0x3f8; in al, dx; stosb; loop read
///         mov dx, 0x3f8; mov al, 'K'; out dx, al
/// count:  inc dword [0x8000]; inc dword [0xa000]; jmp count
/// ```
const GUEST: [u8; 52] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfc, 0xbf, 0x00, 0x90, 0xb9, 0x20, 0x00,
    0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0xec, 0xaa, 0xe2, 0xf1, 0xba, 0xf8, 0x03, 0xb0,
    0x4b, 0xee, 0x66, 0xff, 0x06, 0x00, 0x80, 0x66, 0xff, 0x06, 0x00, 0xa0, 0xeb, 0xf4,
];
/// In 32-bit code: goes over its memory from 1 MiB to 24 MiB again and again, and prints `.` after each pass. Each word of it is, of the
/// pass `ebx` or the one before, `address * 0x9e3779b1 + ebx + 1`; `edi` is where it is. How it is made is said beside the
/// guest of the pager's tests, which is this one.
pub const PASSES: [u8; 158] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0x0f, 0x01, 0x16, 0x98, 0x7c, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0x66, 0xea, 0x1b, 0x7c, 0x00, 0x00, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc,
    0x00, 0x70, 0x00, 0x00, 0x31, 0xdb, 0xb0, 0x42, 0xe8, 0x38, 0x00, 0x00, 0x00, 0xbf, 0x00, 0x00, 0x10, 0x00, 0x69,
    0xc7, 0xb1, 0x79, 0x37, 0x9e, 0x8d, 0x0c, 0x18, 0x85, 0xdb, 0x74, 0x04, 0x39, 0x0f, 0x75, 0x18, 0x41, 0x89, 0x0f,
    0x83, 0xc7, 0x04, 0x81, 0xff, 0x00, 0x00, 0x80, 0x01, 0x72, 0xe1, 0x43, 0xb0, 0x2e, 0xe8, 0x0c, 0x00, 0x00, 0x00,
    0xeb, 0xd2, 0xb0, 0x58, 0xe8, 0x03, 0x00, 0x00, 0x00, 0xf4, 0xeb, 0xf6, 0x88, 0xc4, 0x66, 0xba, 0xfd, 0x03, 0xec,
    0xa8, 0x20, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xc3, 0x66, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00,
    0x17, 0x00, 0x80, 0x7c, 0x00, 0x00,
];
pub const SECRET: u64 = 0x9000;
pub const COUNTERS: (u64, u64) = (0x8000, 0xa000);

/// A machine that runs; dropped, it ends.
pub struct House {
    pub folder: TempDir,
    pub qemu: Child,
    pub serial: UnixStream,
    monitor: PathBuf,
    reader: PathBuf,
    recipient: String,
}

impl House {
    /// With the guest of one sector, which was given this secret.
    pub fn with_secret(secret: &[u8; 32]) -> Self {
        let folder = folder();
        let drive = disk(&folder, &GUEST);
        let mut house = Self::start(folder, &["-smp", "2", "-drive", &drive]);
        // The firmware reads what comes before the guest does, so it is told again and again.
        house.serial.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
        thread::sleep(Duration::from_millis(1500));
        house.serial.write_all(secret).unwrap();
        house.until("K");
        house
    }

    /// With the guest that goes over its memory.
    pub fn with_passes(prepare: impl FnOnce(&TempDir, &mut Command)) -> Self {
        let folder = folder();
        let drive = disk(&folder, &PASSES);
        let mut house = Self::start_prepared(32, folder, &["-smp", "2", "-drive", &drive], prepare);
        house.until("B..");
        house
    }

    pub fn start(folder: TempDir, arguments: &[&str]) -> Self {
        Self::start_with(32, folder, arguments)
    }

    /// With so many MiB of memory.
    pub fn start_with(memory: u64, folder: TempDir, arguments: &[&str]) -> Self {
        Self::start_prepared(memory, folder, arguments, |_, _| {})
    }

    fn start_prepared(
        memory: u64,
        folder: TempDir,
        arguments: &[&str],
        prepare: impl FnOnce(&TempDir, &mut Command),
    ) -> Self {
        let directory = folder.path().join("i");
        let run = directory.join("run");
        fs::create_dir_all(&run).unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-cpu", "max"]);
        command.args([
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-machine",
            "q35,memory-backend=ram,vmport=off",
        ]);
        command.arg("-m").arg(memory.to_string());
        command.arg("-object").arg(format!("memory-backend-memfd,id=ram,size={memory}M,share=on"));
        for (name, mode) in [("seal", "control"), ("qmp", "control")] {
            let socket = run.join(format!("{name}.sock"));
            command.arg("-chardev").arg(format!("socket,id={name},path={},server=on,wait=off", socket.display()));
            command.arg("-mon").arg(format!("chardev={name},mode={mode}"));
        }
        let serial = run.join("serial.sock");
        command.arg("-serial").arg(format!("unix:{},server=on,wait=off", serial.display()));
        command.args(arguments).stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(USER).gid(USER);
            chown(&run, Some(USER), Some(USER)).unwrap();
        }
        prepare(&folder, &mut command);
        let qemu = command.spawn().unwrap();
        let serial = eventually("the machine's serial port", || UnixStream::connect(&serial).ok());
        serial.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
        let reader = folder.path().join("reader.key");
        assert!(Command::new("age-keygen").arg("-o").arg(&reader).stderr(Stdio::null()).status().unwrap().success());
        let recipient = Command::new("age-keygen").arg("-y").arg(&reader).output().unwrap();
        let recipient = String::from_utf8(recipient.stdout).unwrap().trim().to_owned();
        let monitor = run.join("seal.sock");
        Self { folder, qemu, serial, monitor, reader, recipient }
    }

    pub fn machine(&self) -> Machine {
        Machine {
            instance: InstanceId::from_bits(0xabc),
            generation: 3,
            account: "100000000005".parse::<AccountId>().unwrap(),
            process: self.qemu.id(),
            monitor: self.monitor.clone(),
            pager: None,
            console: self.folder.path().join("i/console.ring"),
        }
    }

    pub fn order(&self, name: OperationName, arguments: Value) -> Order {
        Order {
            request: RequestId::from(Digest::from_bytes([7; 32])),
            host: HostId::from_bits(1),
            operation: Operation::with_arguments(name, arguments).unwrap(),
            machine: Some(self.machine()),
            terms: ResultTerms {
                recipients: vec![self.recipient.parse().unwrap()],
                most_octets: (1 << 30).try_into().unwrap(),
                padding: Padding::None,
            },
            given: Vec::new(),
        }
    }

    pub fn carry_out(&self, order: Order) -> Result<(Done, Vec<u8>), Failure> {
        block_on(self.carry_out_async(order))
    }

    /// Of the kernel's memory, from a runtime that goes on.
    pub async fn read_async(&self, address: u64, length: u64) -> Vec<u8> {
        let arguments = json!({"space": "kernel", "address": format!("{address:#x}"), "length": length});
        self.carry_out_async(self.order(OperationName::GuestMemoryRead, arguments)).await.unwrap().1
    }

    async fn carry_out_async(&self, order: Order) -> Result<(Done, Vec<u8>), Failure> {
        let mut out = tempfile::tempfile_in(self.folder.path()).unwrap();
        let done = carry_out_by(program(), order, out.try_clone().unwrap()).await?;
        let mut sealed = Vec::new();
        out.rewind().unwrap();
        out.read_to_end(&mut sealed).unwrap();
        Ok((done, self.open(&sealed)))
    }

    pub fn ask(&self, name: OperationName, arguments: Value) -> Result<(Done, Vec<u8>), Failure> {
        self.carry_out(self.order(name, arguments))
    }

    /// The `result` of a document.
    pub fn ask_json(&self, name: OperationName, arguments: Value) -> Value {
        let (_, text) = self.ask(name, arguments).unwrap();
        let document: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&document["request"], &document["operation"]), (&json!(Digest::from_bytes([7; 32])), &json!(name)));
        document["result"].clone()
    }

    pub fn read(&self, space: &str, address: u64, length: u64) -> (Done, Vec<u8>) {
        let arguments = json!({"space": space, "address": format!("{address:#x}"), "length": length});
        self.ask(OperationName::GuestMemoryRead, arguments).unwrap()
    }

    /// By the stock tool.
    pub fn open(&self, sealed: &[u8]) -> Vec<u8> {
        let mut age = Command::new("age")
            .arg("-d")
            .arg("-i")
            .arg(&self.reader)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = age.stdin.take().unwrap();
        let sealed = sealed.to_vec();
        let writes = thread::spawn(move || input.write_all(&sealed));
        let mut content = Vec::new();
        age.stdout.take().unwrap().read_to_end(&mut content).unwrap();
        writes.join().unwrap().unwrap();
        assert!(age.wait().unwrap().success(), "age does not open it");
        content
    }

    /// What QEMU says to the agent.
    pub fn agent(&self, command: &str) -> Value {
        let stream = UnixStream::connect(self.folder.path().join("i/run/qmp.sock")).unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream.try_clone().unwrap()));
        for (command, id) in [("qmp_capabilities", 1), (command, 2)] {
            (&stream).write_all(format!("{}\n", json!({"execute": command, "id": id})).as_bytes()).unwrap();
        }
        loop {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line["id"] == 2 {
                return line["return"].clone();
            }
        }
    }

    pub fn status(&self) -> String {
        self.agent("query-status")["status"].as_str().unwrap().to_owned()
    }

    /// Reads what the guest prints until `text` is among it.
    pub fn until(&mut self, text: &str) -> String {
        let mut printed = Vec::new();
        let mut octet = [0];
        while !String::from_utf8_lossy(&printed).contains(text) {
            self.serial.read_exact(&mut octet).unwrap_or_else(|error| {
                panic!("{error}; it printed {:?}", String::from_utf8_lossy(&printed));
            });
            printed.push(octet[0]);
        }
        String::from_utf8_lossy(&printed).into_owned()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A disk that begins with `code`, as QEMU takes it.
fn disk(folder: &TempDir, code: &[u8]) -> String {
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = folder.path().join("disk");
    fs::write(&path, disk).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    format!("file={},format=raw,if=virtio", path.display())
}

/// Where machines can be; their user has to come through.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

pub fn program() -> Program {
    Program { path: Path::new(env!("CARGO_BIN_EXE_lucarne-sealer")).to_owned(), arguments: vec![] }
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
}

pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A file that takes what nobody looks at.
pub fn nowhere() -> File {
    File::options().write(true).open("/dev/null").unwrap()
}
