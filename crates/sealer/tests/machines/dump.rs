//! A guest's memory and registers as an ELF core, while it writes to all of its memory and most of that is away.

use std::{fs::File, os::fd::AsRawFd, process::Command, thread, time::Duration};

use lucarne_model::{
    Bytes, InstanceId,
    memory::Pages,
    paging::{DEVICE, PagingVariable, VARIABLE},
};
use lucarne_pager::{Options, client::Client, shim};
use lucarne_seal::{
    operation::OperationName::{self, GuestMemoryDump},
    receipt::Consistency,
};
use lucarne_sealer::{Done, Failure, Machine};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use serde_json::{Value, json};

use crate::house::{House, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const MEMORY: u64 = 32 << 20;
/// What the guest goes over.
const FIRST: u64 = 1 << 20;
const END: u64 = 24 << 20;

/// The guest with a pager, which a thread of this process is.
fn paged() -> (House, Machine, Client) {
    let house = House::with_passes(|folder, command| {
        let library = shim::install(folder.path()).unwrap();
        let key = memfd_create("key", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&key, &[0x5a; 32]).unwrap();
        let device = File::options().read(true).write(true).open(DEVICE).unwrap();
        let machine = folder.path().join("i/run/machine.sock");
        let setting = PagingVariable {
            device: device.as_raw_fd(),
            key: key.as_raw_fd(),
            memory: Bytes(MEMORY),
            peer: rustix::process::getuid().as_raw(),
            tripwire: false,
            socket: &machine,
        };
        command.env("LD_PRELOAD", library).env(VARIABLE, setting.to_string());
        fcntl_setfd(&device, FdFlags::empty()).unwrap();
        fcntl_setfd(&key, FdFlags::empty()).unwrap();
        // For as long as this process lives.
        std::mem::forget((device, key));
        let options = Options {
            instance: InstanceId::from_bits(0xabc),
            machine,
            control: folder.path().join("pager.sock"),
            state: folder.path().join("state"),
            pool: Bytes(2 << 20),
            origin: None,
            patience: PATIENCE,
        };
        thread::spawn(move || lucarne_pager::run(&options).unwrap());
    });
    let control = house.folder.path().join("pager.sock");
    let machine = Machine { pager: Some(control.clone()), ..house.machine() };
    let client = eventually("its pager", || Client::connect(&control, PATIENCE).ok());
    (house, machine, client)
}

fn dump(house: &House, machine: &Machine, most: u64) -> Result<(Done, Vec<u8>), Failure> {
    let mut order = house.order(GuestMemoryDump, json!({ "most_pause_milliseconds": most }));
    order.machine = Some(machine.clone());
    house.carry_out(order)
}

fn number(file: &[u8], at: u64, octets: u64) -> u64 {
    file[at as usize..][..octets as usize].iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet))
}

/// Type, place in the file, address, octets there, octets of memory.
fn segments(core: &[u8]) -> Vec<[u64; 5]> {
    let (table, count) = (number(core, 32, 8), number(core, 56, 2));
    let headers = (0..count).map(|at| table + at * 56);
    let segment = |at| {
        [
            number(core, at, 4),
            number(core, at + 8, 8),
            number(core, at + 24, 8),
            number(core, at + 32, 8),
            number(core, at + 40, 8),
        ]
    };
    headers.map(segment).collect()
}

/// All of the memory, as the core has it.
fn memory(core: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; MEMORY as usize];
    for [kind, at, address, stored, length] in segments(core) {
        if kind == 1 {
            assert!(stored <= length && address + length <= MEMORY);
            memory[address as usize..][..stored as usize].copy_from_slice(&core[at as usize..][..stored as usize]);
        }
    }
    memory
}

/// The registers rdi and rbx of the processor that works, as debuggers find them.
fn registers(core: &[u8]) -> (u64, u64) {
    let [_, notes, ..] = segments(core)[0];
    assert_eq!(
        (number(core, notes, 4), number(core, notes + 4, 4)),
        (5, 336),
        "the first note is of the first processor"
    );
    let register = |at: u64| number(core, notes + 20 + 112 + at * 8, 8);
    (register(14), register(5))
}

/// Memory and registers are of one and the same instant, to the word.
fn is_of_one_instant(core: &[u8]) -> (u64, u64) {
    let (edi, ebx) = registers(core);
    let memory = memory(core);
    let pass = |address: u64| {
        let word = number(&memory, address, 4) as u32;
        u64::from(word.wrapping_sub((address as u32).wrapping_mul(0x9e37_79b1)))
    };
    assert!((FIRST..=END).contains(&edi), "{edi:#x}");
    // At the end of a pass the number of the next may be there already.
    let ebx = if edi == END { pass(FIRST) - 1 } else { ebx };
    for address in (FIRST..END).step_by(4) {
        assert_eq!(pass(address), ebx + u64::from(address < edi), "{address:#x}, and the guest is at {edi:#x}");
    }
    (edi, ebx)
}

fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("arning") || line.contains("rror")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{name}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_guest_that_runs_and_is_mostly_away_is_dumped_as_of_one_instant() {
    let (mut house, machine, mut client) = paged();
    client.set_target(Pages::mib(8), None).unwrap();
    eventually("it is squeezed", || (client.statistics().unwrap().pages.resident <= Pages::mib(9)).then_some(()));
    let mut pauses = Vec::new();
    for _ in 0..4 {
        house.until(".");
        let (done, core) = dump(&house, &machine, 5000).unwrap();
        is_of_one_instant(&core);
        assert_eq!(done.consistency, Consistency::Instant);
        pauses.push(Duration::from_nanos(done.paused_nanoseconds));
        assert!(core.len() < 27 << 20, "pages of zeros are stored: {} octets", core.len());
    }
    eprintln!("the guest stood still for {pauses:?}");
    // One that may stand for less than anything takes goes on all the same.
    let done = dump(&house, &machine, 1);
    assert!(match &done {
        Ok((done, _)) => done.paused_nanoseconds <= 1_000_000,
        Err(Failure::Impossible(why)) => why.contains("longer than 1 ms"),
        Err(_) => false,
    });
    house.until("...");
    assert_eq!(house.status(), "running");
}

#[test]
fn the_core_opens_with_stock_tools() {
    let (house, machine, _client) = paged();
    let (_, core) = dump(&house, &machine, 5000).unwrap();
    let (edi, ebx) = is_of_one_instant(&core);
    let path = house.folder.path().join("core");
    std::fs::write(&path, &core).unwrap();
    let path = path.to_str().unwrap();
    let said = tool("readelf", &["-a", "-W", path]);
    assert!(said.contains("CORE (Core file)") && said.contains("NT_PRSTATUS") && said.contains("Lucarne"), "{said}");
    let address = FIRST + 0x5_0004;
    let asked = ["info registers rdi", &format!("x/1wx {address:#x}"), "x/1wx 0x1f00000", "info threads"];
    let mut arguments = vec!["-nx", "-batch", "-c", path];
    asked.iter().for_each(|asked| arguments.extend(["-ex", asked]));
    let said = tool("gdb", &arguments);
    let word = (address as u32).wrapping_mul(0x9e37_79b1).wrapping_add((ebx + u64::from(address < edi)) as u32);
    assert!(said.contains(&format!("{edi:#x}")), "{edi:#x}: {said}");
    assert!(said.contains(&format!("{address:#x}:\t{word:#010x}")), "{word:#x}: {said}");
    assert!(said.contains("LWP 2") && !said.contains("LWP 3"), "it has two processors: {said}");
    // What it is of.
    let [_, at, _, length, _] = segments(&core)[0];
    let notes = &core[at as usize..][..length as usize];
    let text = notes.windows(2).rposition(|pair| pair == b"{\"").map(|from| &notes[from..]).unwrap();
    let about: Value = serde_json::Deserializer::from_slice(text).into_iter().next().unwrap().unwrap();
    assert_eq!((&about["instance"], &about["generation"]), (&json!(machine.instance), &json!(3)));
}

#[test]
fn a_guest_without_a_pager_stands_still_for_its_dump_or_there_is_none() {
    let house = House::with_passes(|_, _| {});
    let (done, core) = dump(&house, &house.machine(), 10_000).unwrap();
    is_of_one_instant(&core);
    assert!(done.consistency == Consistency::Instant && done.paused_nanoseconds > 0);
    let given_up = dump(&house, &house.machine(), 1).unwrap_err();
    assert!(matches!(&given_up, Failure::Impossible(why) if why.contains("1 ms")), "{given_up}");
    assert_eq!(house.status(), "running");
    let mut order = house.order(OperationName::GuestMemoryDump, json!({ "most_pause_milliseconds": 5000 }));
    order.terms.most_octets = (1 << 20).try_into().unwrap();
    assert_eq!(house.carry_out(order).unwrap_err(), Failure::TooLong { most: 1 << 20 });
    assert_eq!(house.status(), "running");
}
