//! How fast the switch's pipeline is on one core: nanoseconds a packet by stage, with 64-byte frames and 100,000 live flows.
//!
//! Owns the scene (one guest with connections to machines of another host, one with connections to a neighbour), the
//! stages, and the naive peer measured beside them: what one writes in an afternoon with `smoltcp` and a `HashMap`. The
//! peer tracks connections and counts, and does nothing else: no source check, groups, routing or records. A stage measured
//! alone overlaps the cache misses of successive packets; the whole pipeline does so less, and what it waits is in "the
//! rest".

use std::{cell::RefCell, collections::HashMap, hint::black_box, net::Ipv4Addr, time::Instant};

use anyhow::{Context, ensure};
use lucarne_flows::{Allowed, FarEnd, FlowKey, FlowTable, Grounds, Opening, Owner, Phase, Side};
use lucarne_model::{
    AccountId, Cidr, EndReason, FlowRecord, HostId, ImageId, InstanceId, InterfaceId, MacAddress, Moment, RuleId,
    SecurityGroupId, SubnetId, VpcId,
    desired::{DesiredGroup, DesiredNetwork, DesiredSubnet, Endpoint, TunnelPeer},
    flow::{Direction, Location},
    network::{Route, RouteTarget},
    security_group::{Peer, Rule, RuleSpec, Traffic},
};
use lucarne_switch::{
    Output, Plan, PortIndex, Settings, Switch,
    parse::{Frame, Headers, parse},
    plan::{InstanceMetadata, PortPlan},
    ports::{Batch, TOGETHER, forward},
};
use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpPacket};

const FLOWS: usize = 100_000;
/// 64 octets on the wire, of which the switch does not see the check sequence.
const FRAME: usize = 60;
/// Frames that are handled between two looks at the clock; they stay in the first-level cache, as fresh ones do.
const BATCH: usize = 256;
const BATCHES: usize = 4000;
/// Of this many rounds the best one counts: other work on the machine only ever makes one slower.
const ROUNDS: usize = 3;

const HERE: HostId = HostId::from_bits(1);
const THERE: HostId = HostId::from_bits(2);
const VPC: VpcId = VpcId::from_bits(1);
const GUEST: u32 = 0x0a00_000a;
const NEIGHBOUR: u32 = 0x0a00_000b;
/// The first of those on the other host.
const REMOTE: u32 = 0x0a00_0100;
const REMOTES: u32 = 100;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn main() -> anyhow::Result<()> {
    let to_remote = Scene::new(|n| REMOTE + n as u32 % REMOTES)?;
    let (parse, table) = (measure_parse(&to_remote), measure_table(&to_remote)?);
    let whole = measure_whole(to_remote);
    let rows = [
        Row::new("parse", parse),
        Row::new("look-up and count", table),
        Row::new("the rest: source check, verdict, rewriting, waiting for memory", (whole - parse - table).max(0.0)),
        Row::new("whole: guest to tunnel", whole),
        Row::new(
            "whole: guest to guest of this host (two ports, both judge)",
            measure_whole(Scene::new(|_| NEIGHBOUR)?),
        ),
        Row::new("whole: tunnel to guest", measure_from_tunnel(Scene::new(|n| REMOTE + n as u32 % REMOTES)?)),
        Row::new("first packet of a flow: judged, routed, opened where a flow was before", measure_first(true)?),
        Row::new("first packet of a flow, in memory never touched", measure_first(false)?),
        Row::new("peer: smoltcp + HashMap, parse and count only", measure_peer()?),
    ];
    println!("64-byte TCP frames, {FLOWS} live flows in random order, one core\n");
    println!("| stage | ns a packet | Mpps |\n|---|---:|---:|");
    for Row { name, nanoseconds } in rows {
        println!("| {name} | {nanoseconds:.1} | {:.2} |", 1000.0 / nanoseconds);
    }
    Ok(())
}

struct Row {
    name: &'static str,
    nanoseconds: f64,
}

impl Row {
    const fn new(name: &'static str, nanoseconds: f64) -> Self {
        Self { name, nanoseconds }
    }
}

/// Nanoseconds an item: the median over batches, which what interrupts a few of them does not move; the best of rounds.
fn measure<T>(mut prepare: impl FnMut(usize) -> T, mut run: impl FnMut(&mut T)) -> f64 {
    let round = |_| {
        let mut times: Vec<_> = (0..BATCHES)
            .map(|n| {
                let mut batch = prepare(n);
                let start = Instant::now();
                run(&mut batch);
                start.elapsed().as_nanos() as f64 / BATCH as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

/// A switch with all flows open, and one frame of each, in random order.
struct Scene {
    switch: Switch,
    port: PortIndex,
    frames: Vec<[u8; FRAME]>,
    now: Moment,
}

impl Scene {
    fn new(destination: impl Fn(usize) -> u32) -> anyhow::Result<Self> {
        let (mut switch, port) = new_switch()?;
        let now = Moment::from_secs(1_000_000);
        let mut frames = Vec::with_capacity(FLOWS);
        for n in 0..FLOWS {
            let (to, from_port) = (destination(n), (n / REMOTES as usize) as u16 + 1024);
            let from_port = if to == NEIGHBOUR { n as u16 } else { from_port };
            let to_port = if to == NEIGHBOUR { 80 + (n >> 16) as u16 } else { 80 };
            open(&mut switch, port, (GUEST, to), (from_port, to_port), now);
            frames.push(frame((GUEST, to), (from_port, to_port), ACK));
        }
        ensure!(switch.live_flows() >= FLOWS, "only {} flows are open", switch.live_flows());
        shuffle(&mut frames);
        Ok(Self { switch, port, frames, now })
    }

    fn batch(&self, n: usize) -> [[u8; FRAME]; BATCH] {
        batch(&self.frames, n)
    }
}

fn batch(frames: &[[u8; FRAME]], n: usize) -> [[u8; FRAME]; BATCH] {
    std::array::from_fn(|at| frames[(n * BATCH + at) % frames.len()])
}

/// The three packets of a handshake, each as it comes in.
fn open(switch: &mut Switch, port: PortIndex, ends: (u32, u32), ports: (u16, u16), now: Moment) {
    let back = ((ends.1, ends.0), (ports.1, ports.0));
    switch.handle_guest_frame(port, &mut frame(ends, ports, SYN), now, &mut Sink);
    if ends.1 == NEIGHBOUR {
        let neighbour = switch.port(InterfaceId::from_bits(NEIGHBOUR.into())).unwrap_or(port);
        switch.handle_guest_frame(neighbour, &mut frame(back.0, back.1, SYN | ACK), now, &mut Sink);
    } else {
        switch.handle_tunnel_frame(THERE, 1, &frame(back.0, back.1, SYN | ACK), now, &mut Sink);
    }
    switch.handle_guest_frame(port, &mut frame(ends, ports, ACK), now, &mut Sink);
}

fn measure_parse(scene: &Scene) -> f64 {
    measure(
        |n| scene.batch(n),
        |frames| {
            for frame in frames {
                let _ = black_box(parse(black_box(frame), 1400));
            }
        },
    )
}

/// The flow table alone, with packets that are parsed already.
fn measure_table(scene: &Scene) -> anyhow::Result<f64> {
    let mut table = FlowTable::new(lucarne_flows::Settings::default(), 7);
    let owner = std::sync::Arc::new(Owner {
        account: AccountId::from_bits(1),
        instance: InstanceId::from_bits(1),
        interface: InterfaceId::from_bits(1),
        subnet: SubnetId::from_bits(1),
        vpc: VPC,
        host: HERE,
        location: Location::default(),
        groups: Vec::new(),
        prefix_length: 16,
        interface_index: 2,
        interval: None,
        next_hops: Vec::new(),
    });
    let headers: Vec<_> = scene.frames.iter().map(headers_of).collect::<anyhow::Result<_>>()?;
    // Opened in another order than they are used in, as in life.
    let mut in_order = headers.clone();
    in_order.sort_by_key(|headers| (headers.source_port, headers.destination));
    for headers in &in_order {
        let (direction, side, owner) = (Direction::Egress, Side::Initiator, owner.clone());
        let phase = Phase::Established;
        let allowed = Allowed { owner, grounds: Grounds::Nothing, far: FarEnd::UNKNOWN };
        let opening = Opening { direction, side, phase, allowed, memo: 1, epoch: 1 };
        table.open(key(headers), opening, &headers.packet, scene.now, &mut |_| {});
    }
    Ok(measure(
        |n| -> [Headers; BATCH] { std::array::from_fn(|at| headers[(n * BATCH + at) % headers.len()]) },
        |batch| {
            for headers in batch {
                let Some(slot) = table.find(key(headers)) else { continue };
                black_box(table.memo(slot, Direction::Egress, 1));
                table.count(slot, Direction::Egress, &headers.packet, scene.now);
            }
        },
    ))
}

fn key(headers: &Headers) -> FlowKey {
    let Headers { source, destination, source_port, destination_port, protocol, .. } = *headers;
    FlowKey::new(0, source, destination, source_port, destination_port, protocol)
}

fn headers_of(frame: &[u8; FRAME]) -> anyhow::Result<Headers> {
    match parse(frame, 1400) {
        Ok(Frame::Ipv4(headers)) => Ok(headers),
        other => anyhow::bail!("the bench made a frame that is no packet: {other:?}"),
    }
}

/// As the switch's thread does it: so many frames as a port gives at once.
fn measure_whole(scene: Scene) -> f64 {
    let Scene { mut switch, port, frames, now } = scene;
    measure(
        |n| port_batches(&batch(&frames, n)),
        |batches| batches.iter_mut().for_each(|batch| forward(batch, port, &mut switch, now, &mut Sink)),
    )
}

fn port_batches(frames: &[[u8; FRAME]]) -> Vec<Batch> {
    let batch = |frames: &[[u8; FRAME]]| {
        let mut batch = Batch::new(TOGETHER, FRAME);
        for frame in frames {
            batch.push(frame);
        }
        batch
    };
    frames.chunks(TOGETHER).map(batch).collect()
}

/// SYNs of connections that are not known, into a table that has room for them: where flows were before, or in memory that
/// nobody has touched.
fn measure_first(touched: bool) -> anyhow::Result<f64> {
    let capacity = if touched { 1 << 20 } else { 1 << 22 };
    let flows = lucarne_flows::Settings { capacity, port_capacity: capacity, ..lucarne_flows::Settings::default() };
    let mut switch = Switch::new(HERE, Settings { flows, ..Settings::default() }, 7);
    switch.prefer_large_pages();
    let now = Moment::from_secs(1_000_000);
    switch.apply(&plan(), now, &mut Sink);
    let port = switch.port(InterfaceId::from_bits(GUEST.into())).context("the guest has no port")?;
    let (switch, mut opened) = (RefCell::new(switch), 0u32);
    Ok(measure(
        |_| {
            let mut switch = switch.borrow_mut();
            if touched && switch.live_flows() >= FLOWS {
                switch.flush(EndReason::AgentRestart, &mut Sink);
            }
            let frames: [[u8; FRAME]; BATCH] = std::array::from_fn(|_| {
                opened += 1;
                let remote = REMOTE + opened % REMOTES;
                frame((GUEST, remote), ((opened / REMOTES) as u16, (opened / (REMOTES << 16)) as u16), SYN)
            });
            port_batches(&frames)
        },
        |batches| {
            let mut switch = switch.borrow_mut();
            batches.iter_mut().for_each(|batch| forward(batch, port, &mut switch, now, &mut Sink));
        },
    ))
}

/// What the other host's machines answer in the open connections.
fn measure_from_tunnel(scene: Scene) -> f64 {
    let Scene { mut switch, frames, now, .. } = scene;
    let answers: Vec<_> = frames.iter().map(answer).collect();
    measure(
        |n| batch(&answers, n),
        |frames| {
            for frame in frames {
                switch.handle_tunnel_frame(THERE, 1, frame, now, &mut Sink);
            }
        },
    )
}

/// An acknowledgement that goes the other way.
fn answer(of: &[u8; FRAME]) -> [u8; FRAME] {
    let quad = |at: usize| u32::from_be_bytes([of[at], of[at + 1], of[at + 2], of[at + 3]]);
    let word = |at: usize| u16::from_be_bytes([of[at], of[at + 1]]);
    frame((quad(30), quad(26)), (word(36), word(34)), ACK)
}

#[derive(PartialEq, Eq, Hash)]
struct FiveTuple {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
}

#[derive(Default)]
struct Tracked {
    packets: u64,
    bytes: u64,
    last: Moment,
    flags: u8,
}

fn measure_peer() -> anyhow::Result<f64> {
    let scene = Scene::new(|n| REMOTE + n as u32 % REMOTES)?;
    let mut connections: HashMap<FiveTuple, Tracked> = HashMap::new();
    for frame in &scene.frames {
        peer_count(frame, &mut connections, scene.now).context("smoltcp does not take the bench's frame")?;
    }
    Ok(measure(
        |n| scene.batch(n),
        |frames| {
            for frame in frames {
                black_box(peer_count(frame, &mut connections, scene.now));
            }
        },
    ))
}

fn peer_count(frame: &[u8], connections: &mut HashMap<FiveTuple, Tracked>, now: Moment) -> Option<()> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok().filter(|_| ip.verify_checksum())?;
    let tuple = FiveTuple {
        source: ip.src_addr(),
        destination: ip.dst_addr(),
        source_port: tcp.src_port(),
        destination_port: tcp.dst_port(),
        protocol: ip.next_header().into(),
    };
    let tracked = connections.entry(tuple).or_default();
    tracked.packets += 1;
    tracked.bytes += u64::from(ip.total_len());
    tracked.last = now;
    tracked.flags |= u8::from(tcp.ack()) << 4 | u8::from(tcp.fin()) | u8::from(tcp.rst()) << 2;
    Some(())
}

/// Takes everything and keeps nothing, but looks at each frame as a socket would.
struct Sink;

impl Output for Sink {
    fn to_guest(&mut self, port: PortIndex, frame: &[u8]) {
        black_box((port, frame));
    }
    fn to_tunnel(&mut self, host: HostId, vni: u32, frame: &[u8]) {
        black_box((host, vni, frame));
    }
    fn to_metadata(&mut self, port: PortIndex, frame: &[u8]) {
        black_box((port, frame));
    }
    fn record(&mut self, record: FlowRecord) {
        black_box(record);
    }
}

fn mac(address: u32) -> MacAddress {
    MacAddress::from_bits(address.into())
}

fn frame((source, destination): (u32, u32), ports: (u16, u16), flags: u8) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&mac(destination).0);
    frame[6..12].copy_from_slice(&mac(source).0);
    frame[12] = 8;
    let ip = &mut frame[14..];
    (ip[0], ip[3], ip[8], ip[9]) = (0x45, 40, 64, 6); // what is behind the headers only pads the frame
    ip[12..16].copy_from_slice(&source.to_be_bytes());
    ip[16..20].copy_from_slice(&destination.to_be_bytes());
    let sum: u32 = ip[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip[20..22].copy_from_slice(&ports.0.to_be_bytes());
    ip[22..24].copy_from_slice(&ports.1.to_be_bytes());
    (ip[32], ip[33]) = (5 << 4, flags);
    ip[34] = 0x40; // a window that is open
    frame
}

/// Fisher and Yates with a generator of our own: the same order in every run.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for last in (1..items.len()).rev() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        items.swap(last, (state >> 33) as usize % (last + 1));
    }
}

fn new_switch() -> anyhow::Result<(Switch, PortIndex)> {
    let mut switch = Switch::new(HERE, Settings::default(), 7);
    switch.prefer_large_pages();
    switch.apply(&plan(), Moment::from_secs(1_000_000), &mut Sink);
    let port = switch.port(InterfaceId::from_bits(GUEST.into())).context("the guest has no port")?;
    Ok((switch, port))
}

/// Two machines here, a hundred there, one group of a few rules.
fn plan() -> Plan {
    let machines = [GUEST, NEIGHBOUR].into_iter().chain((0..REMOTES).map(|n| REMOTE + n));
    let cidr: Cidr = Cidr::ANY;
    let group = SecurityGroupId::from_bits(1);
    let rule = |id, direction, traffic, peer| Rule {
        id: RuleId::from_bits(id),
        created: Moment::EPOCH,
        spec: RuleSpec { direction, traffic, peer },
    };
    let any = Peer::Cidr { cidr };
    let tcp = |port| Traffic::Tcp { from_port: port, to_port: port };
    let rules = vec![
        rule(1, Direction::Ingress, tcp(22), any),
        rule(2, Direction::Ingress, Traffic::Udp { from_port: 53, to_port: 53 }, any),
        rule(3, Direction::Ingress, Traffic::All, Peer::Group { group }),
        rule(4, Direction::Egress, Traffic::All, any),
    ];
    let subnet = SubnetId::from_bits(1);
    let endpoint = |address: u32| Endpoint {
        interface: InterfaceId::from_bits(address.into()),
        instance: InstanceId::from_bits(address.into()),
        subnet,
        address: Ipv4Addr::from_bits(address),
        mac: mac(address),
        groups: vec![group],
        host: if address >= REMOTE { THERE } else { HERE },
        name: None,
    };
    let routes = vec![Route { destination: cidr, target: RouteTarget::Local }];
    let network = DesiredNetwork {
        vpc: VPC,
        account: AccountId::from_bits(1),
        vni: 1,
        cidr,
        subnets: vec![DesiredSubnet { id: subnet, cidr, routes, acl: Vec::new() }],
        groups: vec![DesiredGroup { id: group, rules }],
        endpoints: machines.map(endpoint).collect(),
        clock_behind_micros: 0,
    };
    Plan {
        networks: vec![network],
        ports: [GUEST, NEIGHBOUR].map(port_plan).to_vec(),
        peers: vec![peer()],
        mitigations: Vec::new(),
        removals: Vec::new(),
    }
}

fn peer() -> TunnelPeer {
    let (address, public_key) = (Ipv4Addr::LOCALHOST.into(), String::new());
    TunnelPeer { host: THERE, address, port: 1, public_key, location: Location::default() }
}

fn port_plan(address: u32) -> PortPlan {
    PortPlan {
        interface: InterfaceId::from_bits(address.into()),
        instance: InstanceId::from_bits(address.into()),
        account: AccountId::from_bits(1),
        vpc: VPC,
        socket: "unused".into(),
        guest_socket: "unused".into(),
        metadata: Some(InstanceMetadata {
            image: ImageId::from_bits(1),
            user_data: None,
            launched: Moment::EPOCH,
            origin: None,
        }),
        flow_interval: None,
    }
}
