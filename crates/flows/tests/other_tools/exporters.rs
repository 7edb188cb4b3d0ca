//! What others' exporters send is read by us as by others: softflowd and pmacct's probes meter a capture and export it over
//! loopback, and of the same datagrams our codec, `netflow_parser` and nfdump read the same flows, which are the capture's.
//!
//! Owns the recording of exporters. sFlow is read by our codec alone: `netflow_parser` does not know it, and nfdump's
//! program for it is in a package of its own. Times are not compared, since both exporters tell of a capture's packets as if
//! they were of just now.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use lucarne_flows::foreign::Decoder;
use lucarne_model::Moment;
use netflow_parser::{
    FieldValue, IpfixField, NetflowPacket, NetflowParser,
    variable_versions::{ipfix, v9},
};

use super::{
    Flow, capture,
    program::{Collector, output, until},
};

/// Packets, bytes and the union of the TCP flags of each flow.
type Counts = BTreeMap<Flow, [u64; 3]>;

const NOW: Moment = Moment::from_secs(1_768_478_400);
const FORMAT: &str = "fmt:%sa|%sp|%da|%dp|%pr|%pkt|%byt|%flg";

fn count(counts: &mut Counts, flow: Flow, [packets, bytes, flags]: [u64; 3]) {
    let sum = counts.entry(flow).or_default();
    *sum = [sum[0] + packets, sum[1] + bytes, sum[2] | flags];
}

fn packets(counts: &Counts) -> usize {
    counts.values().map(|[packets, ..]| *packets as usize).sum()
}

#[test]
fn softflowd_is_read_alike_by_us_and_others() {
    for version in ["5", "9", "10"] {
        let export = |folder: &Path, capture: &Path, receiver: &str| {
            let mut command = Command::new("softflowd");
            command.args(["-n", receiver, "-v", version, "-c", "none", "-r"]).arg(capture);
            command.arg("-p").arg(folder.join("pid"));
            command
        };
        agree(&format!("softflowd, version {version}"), export);
    }
}

#[test]
fn pmacct_is_read_alike_by_us_and_others() {
    // It takes seconds to begin and to end.
    thread::scope(|scope| {
        for version in ["5", "9", "10"] {
            let export = move |folder: &Path, capture: &Path, receiver: &str| {
                let probe = format!("plugins: nfprobe\nnfprobe_receiver: {receiver}\nnfprobe_version: {version}\n");
                pmacctd(folder, capture, &probe)
            };
            scope.spawn(move || agree(&format!("pmacct, version {version}"), export));
        }
    });
}

/// It ends without its last datagram, which is not full.
#[test]
fn the_samples_of_sflow_are_the_packets_of_the_capture() {
    let folder = tempfile::tempdir().unwrap();
    let (_, ours, expected) = record(folder.path(), 200, |folder, capture, receiver| {
        let probe = format!("plugins: sfprobe\nsfprobe_receiver: {receiver}\nsampling_rate: 1\n");
        pmacctd(folder, capture, &probe)
    });
    assert_eq!(ours, expected);
}

fn pmacctd(folder: &Path, capture: &Path, probe: &str) -> Command {
    let configuration = folder.join("pmacctd.conf");
    fs::write(&configuration, format!("daemonize: false\npcap_savefile: {}\n{probe}", capture.display())).unwrap();
    let mut command = Command::new("pmacctd");
    command.arg("-f").arg(configuration);
    command
}

/// Three readers of one recording, and the capture.
fn agree(name: &str, export: impl FnOnce(&Path, &Path, &str) -> Command) {
    let folder = tempfile::tempdir().unwrap();
    let (datagrams, ours, expected) = record(folder.path(), capture::PACKETS, export);
    assert_eq!(ours, expected, "{name}, as we read it");
    assert_eq!(by_netflow_parser(&datagrams), expected, "{name}, as netflow_parser reads it");
    assert_eq!(by_nfdump(&datagrams, folder.path()), expected, "{name}, as nfdump reads it");
}

/// What an exporter sends until it has told of so many packets, what we read in it, and what as many of the capture's
/// packets are.
fn record(
    folder: &Path,
    least: usize,
    export: impl FnOnce(&Path, &Path, &str) -> Command,
) -> (Vec<Vec<u8>>, Counts, Counts) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let capture = folder.join("capture.pcap");
    let captured = capture::write(&capture);
    let mut command = export(folder, &capture, &socket.local_addr().unwrap().to_string());
    let exporter = Exporter::start(&mut command);
    let (mut datagrams, mut decoder, mut ours) = (Vec::new(), Decoder::default(), Counts::new());
    until("the exporter tells of what it read", || {
        while let Some(datagram) = received(&socket) {
            take(&mut decoder, &datagram, &mut ours);
            datagrams.push(datagram);
        }
        (packets(&ours) >= least).then_some(())
    });
    exporter.end();
    let mut expected = Counts::new();
    let told = packets(&ours);
    captured.into_iter().take(told).for_each(|(flow, counted)| count(&mut expected, flow, counted));
    (datagrams, ours, expected)
}

fn received(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut datagram = vec![0; 1 << 16];
    match socket.recv(&mut datagram) {
        Ok(length) => datagram.truncate(length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
        Err(error) => panic!("{error}"),
    }
    Some(datagram)
}

fn take(decoder: &mut Decoder, datagram: &[u8], counts: &mut Counts) {
    let exporter = IpAddr::from(Ipv4Addr::LOCALHOST);
    let passed = decoder.decode(exporter, datagram, NOW, &mut |record| {
        let flow = (record.source, record.source_port, record.destination, record.destination_port, record.protocol);
        count(counts, flow, [record.packets, record.bytes, record.tcp_flags.into()]);
    });
    assert_eq!(passed.unwrap().without_template, 0);
}

/// Somebody else's exporter, killed with this value if it has not ended.
struct Exporter(Child);

impl Exporter {
    fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{name:?}: {error}; `cargo xtask setup` installs it")))
    }

    /// It ends with the capture, and takes along what processes it has.
    fn end(mut self) {
        until("it ends by itself", || self.0.try_wait().unwrap());
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn by_netflow_parser(datagrams: &[Vec<u8>]) -> Counts {
    let (mut parser, mut counts) = (NetflowParser::default(), Counts::new());
    for datagram in datagrams {
        let parsed = parser.parse_bytes(datagram);
        assert!(parsed.error.is_none(), "{:?}", parsed.error);
        parsed.packets.into_iter().for_each(|packet| take_theirs(packet, &mut counts));
    }
    counts
}

fn take_theirs(packet: NetflowPacket, counts: &mut Counts) {
    match packet {
        NetflowPacket::V5(packet) => {
            for of in packet.flowsets {
                let flow = (of.src_addr.into(), of.src_port, of.dst_addr.into(), of.dst_port, of.protocol_number);
                count(counts, flow, [of.d_pkts.into(), of.d_octets.into(), of.tcp_flags.into()]);
            }
        }
        NetflowPacket::V9(packet) => {
            for set in packet.flowsets {
                let v9::FlowSetBody::Data(data) = set.body else { continue };
                data.fields.iter().for_each(|record| {
                    take_fields(record, |field, number| u16::from(*field) == number, counts);
                });
            }
        }
        NetflowPacket::IPFix(packet) => {
            for set in packet.flowsets {
                let ipfix::FlowSetBody::Data(data) = set.body else { continue };
                data.fields.iter().for_each(|record| {
                    take_fields(record, |field, number| *field == IpfixField::new(number, None), counts);
                });
            }
        }
        other => panic!("none that was sent: {other:?}"),
    }
}

/// Both versions number fields alike.
fn take_fields<F>(record: &[(F, FieldValue)], is: impl Fn(&F, u16) -> bool, counts: &mut Counts) {
    let number = |wanted: u16| {
        let (_, value) = record.iter().find(|(field, _)| is(field, wanted)).unwrap_or_else(|| panic!("no {wanted}"));
        let mut octets = Vec::new();
        value.write_be_bytes(&mut octets).unwrap();
        octets.iter().fold(0, |number, octet| number << 8 | u64::from(*octet))
    };
    let address = |wanted| IpAddr::from(Ipv4Addr::from_bits(number(wanted) as u32));
    let port = |wanted| number(wanted) as u16;
    let flow = (address(8), port(7), address(12), port(11), number(4) as u8);
    count(counts, flow, [number(2), number(1), number(6)]);
}

fn by_nfdump(datagrams: &[Vec<u8>], folder: &Path) -> Counts {
    let kept = folder.join("nfcapd");
    fs::create_dir(&kept).unwrap();
    let port = Collector::free_port();
    let mut command = Command::new("nfcapd");
    command.args(["-p", &port.to_string(), "-b", "127.0.0.1", "-t", "3600", "-w"]).arg(&kept);
    let nfcapd = Collector::start(&mut command, port);
    nfcapd.give(datagrams);
    nfcapd.end("-TERM");
    let printed = output(Command::new("nfdump").arg("-R").arg(&kept).args(["-q", "-N", "-o", FORMAT]));
    let mut counts = Counts::new();
    for line in String::from_utf8(printed.stdout).unwrap().lines().filter(|line| !line.is_empty()) {
        let values: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[source, source_port, destination, destination_port, protocol, packets, bytes, flags] = values.as_slice()
        else {
            panic!("not as asked for: {line}")
        };
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("`{text}` in {line}"));
        let [source, destination] = [source, destination].map(|text| text.parse().unwrap());
        let [source_port, destination_port] = [source_port, destination_port].map(|text| number(text) as u16);
        let flow = (source, source_port, destination, destination_port, number(protocol) as u8);
        // A letter for each flag that is set, the highest first, and a dot for the others.
        let flags = flags.chars().fold(0, |flags, letter| flags << 1 | u64::from(letter != '.'));
        count(&mut counts, flow, [number(packets), number(bytes), flags]);
    }
    counts
}
