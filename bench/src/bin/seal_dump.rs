//! A running guest dumped and sealed: how fast, and for how long it stands still, beside QEMU's own dump, `age` and
//! `openssl speed`.
//!
//! Owns the scene: a guest of one sector that writes to all of its memory again and again, with a pager; the sealing process
//! is this program again. Results go to /dev/null: how fast a disk is, is not the question.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lucarne_bench::figures::{median, table};
use lucarne_model::{
    AccountId, Bytes, HostId, InstanceId,
    memory::Pages,
    paging::{DEVICE, PagingVariable, VARIABLE},
    storage::Digest,
};
use lucarne_pager::{Options, client::Client, shim};
use lucarne_seal::{
    age::Identity,
    operation::{Operation, OperationName},
    padding::Padding,
    request::{RequestId, ResultTerms},
};
use lucarne_sealer::{Machine, Order, Program, carry_out_by};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const INSTANCE: InstanceId = InstanceId::from_bits(1);
const SIZES: [u64; 3] = [64, 256, 1024];
const ROUNDS: usize = 9;
const PATIENCE: Duration = Duration::from_secs(120);
/// What the program is started with to be a sealing process, or a pager.
const SEALER: &str = "as-sealer";
const PAGER: &str = "as-pager";
/// The guest of the pager's tests; where it compares with the end of its memory, 24 MiB there.
const GUEST: [u8; 158] = [
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
const GUEST_END: usize = 81;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [SEALER] => return Ok(lucarne_sealer::serve_one()),
        [PAGER, folder] => page(Path::new(folder))?,
        _ => measure()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure() -> Result<()> {
    let mut rows = Vec::new();
    for size in SIZES {
        let mut scene = Scene::start(size)?;
        rows.push(scene.row("sealed", Scene::sealed)?);
        scene.squeeze()?;
        rows.push(scene.row("sealed, a third resident", Scene::sealed)?);
        scene.let_go()?;
        rows.push(scene.row("QEMU's dump-guest-memory, plain", Scene::plain)?);
        // Nothing has to be kept for it, and it needs no processor.
        scene.tell("stop", &json!({}))?;
        rows.push(scene.row("sealed, a guest that stands still anyway", Scene::sealed)?);
    }
    let columns = ["a guest that writes all the time", "GB/s", "stands still ms, least", "median", "most"];
    println!("{}", table(&columns, &rows));
    println!("age, from and to memory: {:.2} GB/s", age()?);
    println!("{}", openssl()?);
    Ok(())
}

/// One way of dumping: the whole time, and that for which the guest stood still, in seconds.
type Way = fn(&mut Scene) -> Result<(f64, f64)>;

struct Scene {
    folder: TempDir,
    mib: u64,
    qemu: Child,
    pager: Child,
    client: Client,
}

impl Drop for Scene {
    fn drop(&mut self) {
        for process in [&mut self.qemu, &mut self.pager] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Scene {
    fn start(mib: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("i"))?;
        let mut disk = vec![0; 1 << 20];
        disk[..GUEST.len()].copy_from_slice(&GUEST);
        disk[GUEST_END..GUEST_END + 4].copy_from_slice(&((mib as u32 - 8) << 20).to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(folder.path().join("disk"), disk)?;
        let qemu = qemu(folder.path(), mib)?;
        let pager = Command::new(std::env::current_exe()?).args([PAGER]).arg(folder.path()).spawn()?;
        let client = eventually(|| Client::connect(&folder.path().join("pager.sock"), PATIENCE).ok())?;
        let scene = Self { folder, mib, qemu, pager, client };
        let passes = || fs::read(scene.folder.path().join("serial")).unwrap_or_default().ends_with(b"..").then_some(());
        eventually(passes)?;
        Ok(scene)
    }

    fn row(&mut self, name: &str, way: Way) -> Result<Vec<String>> {
        let (mut rates, mut pauses) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (took, stood) = way(self)?;
            rates.push((self.mib << 20) as f64 / 1e9 / took);
            pauses.push(stood * 1e3);
            thread::sleep(Duration::from_millis(300));
        }
        pauses.sort_by(f64::total_cmp);
        let [rate, pause] = [median(&rates), median(&pauses)].map(Option::unwrap_or_default);
        let figures = [rate, pauses[0], pause, pauses[ROUNDS - 1]].map(|figure| format!("{figure:.2}"));
        eprintln!("{} MiB, {name}: {figures:?}", self.mib);
        Ok([vec![format!("{} MiB: {name}", self.mib)], figures.to_vec()].concat())
    }

    fn squeeze(&mut self) -> Result<()> {
        let third = Pages::mib(self.mib / 3);
        self.client.set_target(third, None)?;
        eventually(|| (self.client.statistics().ok()?.pages.resident.0 <= third.0 + 512).then_some(()))
    }

    /// What the guest touches comes back.
    fn let_go(&mut self) -> Result<()> {
        self.client.set_target(Pages::mib(self.mib), None)?;
        eventually(|| {
            let pages = self.client.statistics().ok()?.pages;
            (pages.resident.0 * 10 >= pages.total().0 * 8).then_some(())
        })
    }

    fn sealed(&mut self) -> Result<(f64, f64)> {
        let run = self.folder.path();
        let machine = Machine {
            instance: INSTANCE,
            generation: 1,
            account: AccountId::OPERATOR,
            process: self.qemu.id(),
            monitor: run.join("seal.sock"),
            pager: Some(run.join("pager.sock")),
            console: run.join("i/console"),
        };
        let order = Order {
            request: RequestId::from(Digest::from_bytes([7; 32])),
            host: HostId::from_bits(1),
            operation: Operation::with_arguments(
                OperationName::GuestMemoryDump,
                json!({"most_pause_milliseconds": 10_000}),
            )?,
            machine: Some(machine),
            terms: ResultTerms {
                recipients: vec![Identity::from_octets([1; 32]).recipient()],
                most_octets: (1 << 40).try_into()?,
                padding: Padding::None,
            },
            given: Vec::new(),
        };
        let program = Program { path: std::env::current_exe()?, arguments: vec![SEALER.to_owned()] };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let began = Instant::now();
        let done = runtime.block_on(carry_out_by(program, order, File::create("/dev/null")?))?;
        Ok((began.elapsed().as_secs_f64(), done.paused_nanoseconds as f64 / 1e9))
    }

    /// QEMU stops its guest for all of its dump.
    fn plain(&mut self) -> Result<(f64, f64)> {
        let began = Instant::now();
        self.tell("dump-guest-memory", &json!({"paging": false, "protocol": "file:/dev/null"}))?;
        let took = began.elapsed().as_secs_f64();
        Ok((took, took))
    }

    fn tell(&self, command: &str, arguments: &Value) -> Result<()> {
        let stream = UnixStream::connect(self.folder.path().join("qmp.sock"))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        for (command, arguments) in [("qmp_capabilities", &json!({})), (command, arguments)] {
            writeln!(&stream, "{}", json!({"execute": command, "arguments": arguments, "id": 1}))?;
            loop {
                let answer: Value = serde_json::from_str(&lines.next().context("QEMU is silent")??)?;
                ensure!(answer["error"].is_null(), "{answer}");
                if answer["id"] == 1 {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn qemu(folder: &Path, mib: u64) -> Result<Child> {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg,thread=multi"]);
    command.args(["-machine", "q35,memory-backend=ram,vmport=off,mem-merge=off,dump-guest-core=off"]);
    command.arg("-m").arg(format!("size={mib}M"));
    command.arg("-object").arg(format!("memory-backend-memfd,id=ram,size={mib}M,share=on"));
    command.arg("-drive").arg(format!("file={},format=raw,if=virtio", at("disk")));
    command.arg("-serial").arg(format!("file:{}", at("serial")));
    for name in ["seal", "qmp"] {
        command
            .arg("-chardev")
            .arg(format!("socket,id={name},path={},server=on,wait=off", at(&format!("{name}.sock"))));
        command.arg("-mon").arg(format!("chardev={name},mode=control"));
    }
    let key = memfd_create("key", MemfdFlags::CLOEXEC)?;
    rustix::io::write(&key, &[0x5a; 32])?;
    let device = File::options().read(true).write(true).open(DEVICE)?;
    let socket: PathBuf = folder.join("machine.sock");
    let setting = PagingVariable {
        device: device.as_raw_fd(),
        key: key.as_raw_fd(),
        memory: Bytes(mib << 20),
        peer: rustix::process::getuid().as_raw(),
        tripwire: false,
        socket: &socket,
    };
    command.env("LD_PRELOAD", shim::install(folder)?).env(VARIABLE, setting.to_string());
    fcntl_setfd(&device, FdFlags::empty())?;
    fcntl_setfd(&key, FdFlags::empty())?;
    Ok(command.stdin(Stdio::null()).spawn()?)
}

fn page(folder: &Path) -> Result<()> {
    lucarne_pager::run(&Options {
        instance: INSTANCE,
        machine: folder.join("machine.sock"),
        control: folder.join("pager.sock"),
        state: folder.join("state"),
        pool: Bytes(0),
        origin: None,
        patience: PATIENCE,
    })?;
    Ok(())
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(found) = look() {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("the scene does not become what it should be")
}

fn age() -> Result<f64> {
    const OCTETS: u64 = 512 << 20;
    let recipient = Identity::from_octets([1; 32]).recipient();
    let line = format!("head -c {OCTETS} /dev/zero | age -r {recipient} > /dev/null");
    let began = Instant::now();
    let status = Command::new("bash").args(["-o", "pipefail", "-c", &line]).stdin(Stdio::null()).status()?;
    ensure!(status.success(), "age is not installed: cargo xtask setup");
    Ok(OCTETS as f64 / 1e9 / began.elapsed().as_secs_f64())
}

fn openssl() -> Result<String> {
    let arguments = "speed -seconds 1 -bytes 65536 -evp chacha20-poly1305";
    let output = Command::new("openssl").args(arguments.split(' ')).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().rev().find(|line| line.starts_with("ChaCha")).context("openssl speed says nothing")?;
    Ok(format!("openssl speed, 64 KiB, 1 thread: {last}"))
}
