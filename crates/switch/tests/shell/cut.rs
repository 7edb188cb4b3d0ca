//! Cuts of the network of three guests on two hosts, through real sockets and the tunnel. A guest here is a socket: what it
//! sends are numbered datagrams, what it has received is what was read from it.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use lucarne_model::{InterfaceId, MacAddress, ReplicaId};
use lucarne_switch::{SwitchHandle, shell::CutError};

use crate::world::{APP, DUPLICATE, FAR, HOSTS, WEB, World, address, block_on, host_id, interface, mac, vpc};

const REPLICA: ReplicaId = ReplicaId::from_bits(7);
const ECHO_REQUEST: u8 = 8;
/// Who sends to whom.
const PAIRS: [(usize, usize); 6] = [(WEB, FAR), (FAR, WEB), (WEB, APP), (APP, FAR), (FAR, APP), (APP, WEB)];

/// A guest's end of its port.
struct Raw {
    socket: UnixDatagram,
    number: usize,
    received: Vec<(usize, u32)>,
}

impl Raw {
    fn new(world: &World, number: usize) -> Self {
        let path = world.path("guest", number);
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, number, received: Vec::new() }
    }

    fn send(&self, world: &World, to: usize, number: u32) {
        let frame = ping(self.number, to, number);
        let began = Instant::now();
        while self.socket.send_to(&frame, world.path("switch", self.number)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "the switch does not read");
            std::thread::yield_now();
        }
    }

    /// Reads what has come; who sent it, and which number it has.
    fn read(&mut self) {
        let mut frame = [0; 2000];
        while let Ok(length) = self.socket.recv(&mut frame) {
            if length > 42 && frame[12..14] == [8, 0] {
                let from = (0..DUPLICATE).find(|guest| address(*guest).octets() == frame[26..30]).unwrap();
                self.received.push((from, u32::from_be_bytes(frame[38..42].try_into().unwrap())));
            }
        }
    }
}

/// An echo request from one guest to another, of which the number makes it another flow.
fn ping(from: usize, to: usize, number: u32) -> Vec<u8> {
    let checksum = |octets: &[u8]| {
        let sum: u32 = octets.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        (!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes()
    };
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 1, 0, 0];
    ip.extend(address(from).octets());
    ip.extend(address(to).octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    let mut echo = vec![ECHO_REQUEST, 0, 0, 0];
    echo.extend(number.to_be_bytes());
    echo.extend([0; 4]);
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum);
    let router = MacAddress::ROUTER.0;
    let next = if address(from).octets()[2] == address(to).octets()[2] { mac(to).0 } else { router };
    [&next[..], &mac(from).0, &[8, 0], &ip, &echo].concat()
}

/// A world whose guests are sockets, and whose wire works by itself.
struct Scene {
    world: World,
    guests: Vec<Raw>,
    sent: u32,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new();
        world.guests.clear();
        let guests = [WEB, APP, FAR].map(|guest| Raw::new(&world, guest)).into();
        let mut scene = Self { world, guests, sent: 0 };
        // The hosts have met, and each port knows its guest.
        scene.everybody_sends();
        scene.settle();
        scene.guests.iter_mut().for_each(|guest| guest.received.clear());
        scene
    }

    fn everybody_sends(&mut self) {
        self.sent += 1;
        for (from, to) in PAIRS {
            self.guests[from].send(&self.world, to, self.sent);
        }
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            self.world.run_for(Duration::from_millis(1));
            self.guests.iter_mut().for_each(Raw::read);
        }
    }

    /// Does something on both hosts, while the wire works and guests do what they do.
    fn on_both<T>(&mut self, step: impl AsyncFn(&SwitchHandle, usize) -> T, reading: bool) -> [T; 2] {
        let Self { world, guests, .. } = self;
        let World { hosts, tap, .. } = world;
        let addresses = HOSTS.map(|host| hosts[host].handle.tunnel_address());
        let both = async { tokio::join!(step(&hosts[0].handle, 0), step(&hosts[1].handle, 1)) };
        let mut both = std::pin::pin!(both);
        block_on(std::future::poll_fn(|context| {
            tap.carry(addresses);
            if reading {
                guests.iter_mut().for_each(Raw::read);
            }
            context.waker().wake_by_ref();
            both.as_mut().poll(context)
        }))
        .into()
    }

    fn begin(&mut self) {
        let step = async |handle: &SwitchHandle, host: usize| {
            handle.begin_cut(vpc(WEB), REPLICA, vec![host_id(1 - host)]).await
        };
        assert_eq!(self.on_both(step, true), [Ok(Vec::new()), Ok(Vec::new())]);
    }

    fn numbers(&self, guest: usize, from: usize) -> Vec<u32> {
        let of_sender = |(sender, number): &(usize, u32)| (*sender == from).then_some(*number);
        self.guests[guest].received.iter().filter_map(of_sender).collect()
    }
}

#[test]
fn what_is_in_flight_at_a_cut_reaches_originals_and_duplicates_in_order_and_once() {
    let mut scene = Scene::new();
    let duplicate = |guest: usize| interface(guest + DUPLICATE);
    (0..5).for_each(|_| scene.everybody_sends());
    scene.begin();
    let before: Vec<_> = scene.guests.iter().map(|guest| guest.received.clone()).collect();
    // The guests run, but get nothing; then they stand still.
    (0..20).for_each(|_| scene.everybody_sends());
    let last = scene.sent;
    let closed = scene.on_both(async |handle, _| handle.close_cut(REPLICA).await, false);
    // They go on at once: what they send now is after the cut.
    (0..5).for_each(|_| scene.everybody_sends());
    scene.on_both(async |handle, _| handle.release_cut(REPLICA).await.unwrap(), false);
    scene.settle();
    for (from, to) in PAIRS {
        assert_eq!(scene.numbers(to, from), (2..=scene.sent).collect::<Vec<_>>(), "{from} to {to}");
    }
    for guest in [WEB, APP, FAR] {
        let host = usize::from(guest == FAR);
        let handle = &scene.world.hosts[host].handle;
        block_on(handle.stand_by(REPLICA, interface(guest), duplicate(guest))).unwrap();
    }
    let originals = std::mem::take(&mut scene.guests);
    scene.guests = [WEB, APP, FAR].map(|guest| Raw::new(&scene.world, guest + DUPLICATE)).into();
    for guest in [WEB, APP, FAR] {
        let host = usize::from(guest == FAR);
        let handle = &scene.world.hosts[host].handle;
        for _ in 0..2 {
            block_on(handle.deliver_cut(REPLICA, interface(guest), duplicate(guest))).unwrap();
        }
    }
    scene.settle();
    let mut copies = 0;
    for (from, to) in PAIRS {
        let had = before[to].iter().filter(|(sender, _)| *sender == from).count() as u32;
        let rest: Vec<_> = (2 + had..=last).collect();
        assert_eq!(scene.numbers(to, from), rest, "the duplicates of {from} and {to}");
        copies += rest.len();
    }
    assert_eq!(closed.map(Result::unwrap).iter().sum::<usize>(), copies);
    assert!(copies >= 6 * 20, "{copies}");
    drop(originals);
}

/// What came of a step that only one host takes.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Begun(Result<Vec<InterfaceId>, CutError>),
    Closed(Result<usize, CutError>),
    Heard(ReplicaId),
    Nothing,
}

#[test]
fn a_cut_that_another_host_does_not_take_is_given_up_and_nothing_is_lost() {
    let mut scene = Scene::new();
    let begin = async |handle: &SwitchHandle, host: usize| match host {
        0 => Said::Begun(handle.begin_cut(vpc(WEB), REPLICA, vec![host_id(1)]).await),
        _ => Said::Nothing,
    };
    assert_eq!(scene.on_both(begin, true), [Said::Begun(Ok(Vec::new())), Said::Nothing]);
    let busy = CutError::Busy { vpc: vpc(WEB), by: REPLICA };
    let other = ReplicaId::from_bits(8);
    assert_eq!(block_on(scene.world.hosts[0].handle.begin_cut(vpc(WEB), other, Vec::new())), Err(busy));
    (0..20).for_each(|_| scene.everybody_sends());
    let close = async |handle: &SwitchHandle, host: usize| match host {
        0 => Said::Closed(handle.close_cut(REPLICA).await),
        // It hears of the cut before its controller has said anything.
        _ => Said::Heard(handle.heard_mark().await),
    };
    let silent = CutError::Silent { hosts: vec![host_id(1)] };
    assert_eq!(scene.on_both(close, false), [Said::Closed(Err(silent)), Said::Heard(REPLICA)]);
    scene.everybody_sends();
    scene.settle();
    for (from, to) in PAIRS {
        assert_eq!(scene.numbers(to, from), (2..=scene.sent).collect::<Vec<_>>(), "{from} to {to}");
    }
    let over = CutError::NotBegun { replica: REPLICA };
    assert_eq!(block_on(scene.world.hosts[0].handle.release_cut(REPLICA)), Err(over));
}

#[test]
fn a_cut_for_which_too_much_waits_is_given_up_and_nothing_is_lost() {
    let mut scene = Scene::new();
    scene.begin();
    for number in 2..=500 {
        scene.guests[WEB].send(&scene.world, APP, number);
        scene.guests[APP].read();
    }
    scene.sent = 500;
    scene.settle();
    assert_eq!(scene.numbers(APP, WEB), (2..=500).collect::<Vec<_>>());
    let over = CutError::NotBegun { replica: REPLICA };
    assert_eq!(block_on(scene.world.hosts[0].handle.close_cut(REPLICA)), Err(over));
}

/// As one whose machine is stopped, or has no driver for its network yet.
#[test]
fn a_guest_that_reads_nothing_is_named_and_holds_up_a_cut_for_a_quarter_of_a_second() {
    let mut scene = Scene::new();
    scene.guests[WEB].send(&scene.world, APP, 2);
    scene.world.run_for(Duration::from_millis(20));
    let app = scene.guests.remove(APP);
    let began = Instant::now();
    let begin = async |handle: &SwitchHandle, host: usize| match host {
        0 => Said::Begun(handle.begin_cut(vpc(WEB), REPLICA, Vec::new()).await),
        _ => Said::Nothing,
    };
    assert_eq!(scene.on_both(begin, true), [Said::Begun(Ok(vec![interface(APP)])), Said::Nothing]);
    assert!((200..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    scene.guests.insert(APP, app);
    block_on(scene.world.hosts[0].handle.give_up_cut(REPLICA)).unwrap();
    scene.settle();
    assert_eq!(scene.numbers(APP, WEB), [2]);
}
