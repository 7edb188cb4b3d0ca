//! Metering a capture: frames to flow records to IPFIX, beside `softflowd` and `nfpcapd`.
//!
//! Owns the comparison. All read the same file ([`lucarne_bench::trace`]) and send their records to a socket that counts them
//! ([`lucarne_bench::sink`]); each is a process of its own on the same core, so that its processor time is known too. Ours is
//! this program again, with the parser of the switch, the flow table and the exporter of the hosts, in one thread. Peers
//! that are not installed are left out. A live flow is kept as long by each: what differs is told beside the table.

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Read},
    net::UdpSocket,
    ops::Range,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lucarne_bench::{
    figures::table,
    sink::{Arrived, Sink},
    trace::{self, Totals},
};
use lucarne_flows::{
    Allowed, FarEnd, FlowKey, FlowTable, Grounds, Opening, Owner, Phase, Settings, Side,
    ipfix::Exporter,
    phase::{ACK, SYN},
};
use lucarne_model::{
    AccountId, EndReason, FlowRecord, HostId, InstanceId, InterfaceId, Moment, SecurityGroupId, SubnetId, VpcId,
    flow::{Direction, Location, Path as Way},
    security_group::{ICMP, TCP},
};
use lucarne_switch::{
    memory,
    parse::{Frame, Headers, parse},
    ports,
};
use rustix::param::clock_ticks_per_second;

const SEED: u64 = 7;
const CONVERSATIONS: u32 = 100_000;
/// Of this many runs of each, by turns, the one with the least processor time counts.
const ROUNDS: usize = 5;
/// The mark: so many times the best peer.
const MARK: f64 = 3.0;
/// Longer than the capture: nobody reports a flow twice.
const INTERVAL: Duration = Duration::from_secs(300);
const IDLE: Duration = Duration::from_secs(60);
/// How often the table looks at its timers, in the capture's time.
const LOOK: Duration = Duration::from_millis(100);
/// Records that are encoded together.
const TOGETHER: usize = 256;
const MTU: u16 = 1500;
/// Of pcap.
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;
/// Packets that are looked up together: as the switch does it with those of a port.
const BATCH: usize = ports::TOGETHER;
/// What is read of the file at once.
const BUFFER: usize = 1 << 18;
/// A datagram that the loopback takes undivided.
const DATAGRAM: usize = 65_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "meter", capture, sink] => return meter(Path::new(capture), sink),
        [_, "capture", capture] => return write(Path::new(capture)).map(drop),
        _ => {}
    }
    let dir = tempfile::tempdir()?;
    let capture = dir.path().join("capture.pcap");
    let totals = write(&capture)?;
    let mut results: Vec<(Meter, Option<Run>)> = Meter::ALL.map(|meter| (meter, None)).into();
    for _ in 0..ROUNDS {
        for (meter, best) in &mut results {
            match run(*meter, &capture) {
                Ok(run) if best.as_ref().is_none_or(|best| run.processor < best.processor) => *best = Some(run),
                Ok(_) => {}
                Err(error) => eprintln!("{} is left out: {error:#}", meter.name()),
            }
        }
    }
    print(&totals, &results);
    Ok(())
}

fn write(capture: &Path) -> Result<Totals> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(capture)?);
    Ok(trace::write(SEED, CONVERSATIONS, &mut file)?)
}

/// Who reads the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meter {
    Lucarne,
    Softflowd,
    Nfpcapd,
}

/// One reading of the capture.
struct Run {
    wall: Duration,
    processor: Duration,
    arrived: Arrived,
}

impl Meter {
    const ALL: [Self; 3] = [Self::Lucarne, Self::Softflowd, Self::Nfpcapd];

    const fn name(self) -> &'static str {
        match self {
            Self::Lucarne => "lucarne: parse, flow table, IPFIX",
            Self::Softflowd => "softflowd -r FILE -v 10 (IPFIX)",
            Self::Nfpcapd => "nfpcapd -r FILE -H (nfdump's own protocol)",
        }
    }

    fn command(self, capture: &Path, sink: &Sink) -> Result<Command> {
        let (port, address) = (sink.address().port(), sink.address().to_string());
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]);
        match self {
            Self::Lucarne => command.arg(env::current_exe()?).arg("meter").arg(capture).arg(address),
            Self::Softflowd => {
                command.arg("softflowd").arg("-r").arg(capture).args(["-n", &address, "-v", "10", "-m", "1000000"])
            }
            Self::Nfpcapd => {
                command.arg("nfpcapd").arg("-r").arg(capture).args(["-H", &format!("127.0.0.1/{port}"), "-e", "300,60"])
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }
}

fn run(meter: Meter, capture: &Path) -> Result<Run> {
    let sink = Sink::open()?;
    let (before, began) = (processor_of_children()?, Instant::now());
    let status = meter.command(capture, &sink)?.status().context("`taskset` cannot be started")?;
    let (wall, processor) = (began.elapsed(), processor_of_children()?.saturating_sub(before));
    let arrived = sink.close()?;
    ensure!(status.success(), "it ended with {status}");
    ensure!(arrived.records > 0, "no record arrived");
    Ok(Run { wall, processor, arrived })
}

/// Processor time of all children that have ended, in user and system.
fn processor_of_children() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which ends with the last parenthesis: the 14th and 15th field from there (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let [Some(user), Some(system)] = [fields.get(13), fields.get(14)] else { bail!("/proc/self/stat is cut") };
    let ticks = user.parse::<u64>()? + system.parse::<u64>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

fn print(totals: &Totals, results: &[(Meter, Option<Run>)]) {
    let Totals { conversations, packets, bytes } = totals;
    println!("{conversations} conversations, {packets} packets, {} octets a packet\n", bytes / packets.max(&1));
    let rows: Vec<_> =
        results.iter().filter_map(|(meter, run)| Some(row(meter.name(), run.as_ref()?, *packets))).collect();
    let header =
        ["meter", "ns a packet", "Mpps of processor time", "Mpps of the clock", "records", "octets a record", "fields"];
    println!("{}", table(&header, &rows));
    let rate = |run: &Run| *packets as f64 / run.processor.as_secs_f64();
    let of = |wanted: bool| {
        let runs = results.iter().filter(|(meter, _)| (*meter == Meter::Lucarne) == wanted);
        runs.filter_map(|(_, run)| run.as_ref().map(rate)).fold(0.0, f64::max)
    };
    let (ours, best) = (of(true), of(false));
    if best > 0.0 {
        println!("{:.1} times the best peer in processor time; the mark is {MARK}.", ours / best);
    }
}

fn row(name: &str, run: &Run, packets: u64) -> Vec<String> {
    let mpps = |time: Duration| format!("{:.2}", packets as f64 / time.as_secs_f64() / 1e6);
    let Arrived { records, octets, fields, .. } = run.arrived;
    vec![
        name.into(),
        format!("{:.0}", run.processor.as_nanos() as f64 / packets as f64),
        mpps(run.processor),
        mpps(run.wall),
        records.to_string(),
        format!("{:.0}", octets as f64 / records as f64),
        if fields == 0 { "-".into() } else { fields.to_string() },
    ]
}

/// Reads the capture as fast as it goes and sends its records to `sink`.
fn meter(capture: &Path, sink: &str) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(sink)?;
    let mut probe = Probe::new(socket);
    let mut capture = Capture::open(capture)?;
    while let Some((now, frame)) = capture.next()? {
        if let Ok(Frame::Ipv4(headers)) = parse(frame, MTU) {
            let (key, direction) = key(&headers);
            probe.waiting.push(Waiting { key, direction, headers, now });
            if probe.waiting.len() == BATCH {
                probe.take_all()?;
            }
        }
    }
    probe.take_all()?;
    probe.end()
}

/// The frames of a file that this program wrote, in place: a buffer that is filled again when it has no whole frame.
struct Capture {
    file: File,
    buffer: Vec<u8>,
    /// What of the buffer was read from the file and not given yet.
    held: Range<usize>,
}

impl Capture {
    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        file.read_exact(&mut [0; FILE_HEADER])?;
        Ok(Self { file, buffer: vec![0; BUFFER], held: 0..0 })
    }

    fn next(&mut self) -> Result<Option<(Moment, &[u8])>> {
        if !self.has(FRAME_HEADER)? {
            return Ok(None);
        }
        let header = &self.buffer[self.held.start..];
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (seconds, micros, length) = (word(0), word(4), word(8) as usize);
        ensure!(self.has(FRAME_HEADER + length)?, "the capture ends in a frame");
        let start = self.held.start + FRAME_HEADER;
        self.held.start = start + length;
        let now = Moment(u64::from(seconds) * 1_000_000 + u64::from(micros));
        Ok(Some((now, &self.buffer[start..start + length])))
    }

    /// Whether so many octets are there, after reading what is needed for them.
    fn has(&mut self, octets: usize) -> Result<bool> {
        while self.held.len() < octets {
            ensure!(octets <= BUFFER, "a frame of {octets} octets is longer than any");
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
            let read = self.file.read(&mut self.buffer[self.held.end..])?;
            if read == 0 {
                return Ok(false);
            }
            self.held.end += read;
        }
        Ok(true)
    }
}

/// A packet that has been parsed.
struct Waiting {
    key: FlowKey,
    direction: Direction,
    headers: Headers,
    now: Moment,
}

/// Everything between a packet and the socket.
struct Probe {
    waiting: Vec<Waiting>,
    table: FlowTable,
    exporter: Exporter,
    owner: Arc<Owner>,
    records: Vec<FlowRecord>,
    socket: UdpSocket,
    now: Moment,
    look: Moment,
}

impl Probe {
    fn new(socket: UdpSocket) -> Self {
        let settings = Settings {
            capacity: 1_000_000,
            port_capacity: 1_000_000,
            interval: INTERVAL,
            half_open: IDLE,
            udp_idle: IDLE,
            icmp_idle: IDLE,
            ..Settings::default()
        };
        let table = FlowTable::new(settings, SEED);
        memory::prefer_large_pages(&table);
        let (records, now, look) = (Vec::with_capacity(2 * TOGETHER), Moment::EPOCH, Moment::EPOCH);
        let (exporter, waiting) = (Exporter::new(1).with_limit(DATAGRAM), Vec::with_capacity(BATCH));
        Self { waiting, table, exporter, owner: owner(), records, socket, now, look }
    }

    fn take_all(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.table.approach(waiting.iter().map(|packet| packet.key));
        waiting.iter().try_for_each(|packet| self.take(packet))?;
        self.waiting = waiting;
        self.waiting.clear();
        Ok(())
    }

    fn take(&mut self, packet: &Waiting) -> Result<()> {
        let Waiting { key, direction, ref headers, now } = *packet;
        self.now = now;
        let Self { table, records, .. } = self;
        match table.find(key) {
            Some(slot) => table.count(slot, direction, &headers.packet, now),
            None => {
                let opening = opening(headers, direction, &self.owner);
                table.open(key, opening, &headers.packet, now, &mut |record| records.push(record));
            }
        }
        if now >= self.look {
            self.look = now.plus(LOOK);
            let owner = &self.owner;
            table.poll(now, 1, &mut |_| Ok(allowed(owner)), &mut |record| records.push(record));
        }
        if self.records.len() >= TOGETHER { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        send(&mut self.exporter, &mut self.records, &self.socket, self.now)
    }

    fn end(mut self) -> Result<()> {
        let Self { table, exporter, records, socket, now, .. } = &mut self;
        let mut sent = Ok(());
        table.finish_all(EndReason::AgentRestart, &mut |record| {
            records.push(record);
            if records.len() >= TOGETHER && sent.is_ok() {
                sent = send(exporter, records, socket, *now);
            }
        });
        sent?;
        self.send()
    }
}

fn send(exporter: &mut Exporter, records: &mut Vec<FlowRecord>, socket: &UdpSocket, now: Moment) -> Result<()> {
    for message in exporter.encode(records, now) {
        socket.send(&message)?;
    }
    records.clear();
    Ok(())
}

/// The flow of a packet that no guest sent: the lower address counts as the near end.
fn key(headers: &Headers) -> (FlowKey, Direction) {
    let Headers { source, destination, protocol, .. } = *headers;
    let (source_port, destination_port) = match protocol {
        ICMP => (headers.echo_id, headers.echo_id),
        _ => (headers.source_port, headers.destination_port),
    };
    if source <= destination {
        (FlowKey::new(0, source, destination, source_port, destination_port, protocol), Direction::Egress)
    } else {
        (FlowKey::new(0, destination, source, destination_port, source_port, protocol), Direction::Ingress)
    }
}

fn opening(headers: &Headers, direction: Direction, owner: &Arc<Owner>) -> Opening {
    let phase = match headers.protocol {
        TCP if headers.packet.tcp_flags & (SYN | ACK) == SYN => Phase::SynSent,
        TCP => Phase::Established,
        _ => Phase::Asked,
    };
    Opening { direction, side: Side::Initiator, phase, allowed: allowed(owner), memo: 0, epoch: 1 }
}

fn allowed(owner: &Arc<Owner>) -> Allowed {
    let far = FarEnd { path: Way::OtherHost, prefix_length: 16, interface_index: 1 };
    Allowed { owner: Arc::clone(owner), grounds: Grounds::Nothing, far }
}

fn owner() -> Arc<Owner> {
    Arc::new(Owner {
        account: AccountId::from_bits(1),
        instance: InstanceId::from_bits(1),
        interface: InterfaceId::from_bits(1),
        subnet: SubnetId::from_bits(1),
        vpc: VpcId::from_bits(1),
        host: HostId::from_bits(1),
        location: Location::default(),
        groups: vec![SecurityGroupId::from_bits(1)],
        prefix_length: 16,
        interface_index: 2,
        interval: None,
        next_hops: Vec::new(),
    })
}
