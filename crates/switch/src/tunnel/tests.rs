//! Two tunnels on loopback sockets, and an attacker who holds the wire between them.

use std::time::{Duration, Instant};

use lucarne_model::flow::Location;

use super::*;

const A: HostId = HostId::from_bits(0xa);
const B: HostId = HostId::from_bits(0xb);
const FRAME: &[u8] = b"an Ethernet frame with a secret in it: open sesame";

fn tunnel(secret: u8) -> Tunnel {
    Tunnel::bind("127.0.0.1:0".parse().unwrap(), [secret; 32]).unwrap()
}

fn peer(host: HostId, secret: u8, at: SocketAddr) -> TunnelPeer {
    let public_key = public_key(&[secret; 32]);
    TunnelPeer { host, address: at.ip(), port: at.port(), public_key, location: Location::default() }
}

/// Stands where a frame's network would.
const WORD: u32 = u32::MAX;

type Heard = Vec<(HostId, u32, Vec<u8>)>;

/// Lets the tunnels take what comes until it has been quiet for 20 ms, and returns the frames.
fn pump(tunnels: &mut [&mut Tunnel]) -> Heard {
    let mut into = vec![0; MAX_DATAGRAM];
    let mut heard = Vec::new();
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(20) {
        for tunnel in &mut *tunnels {
            loop {
                match tunnel.receive(&mut into) {
                    Received::Frame { host, vni, frame } => heard.push((host, vni, frame.to_vec())),
                    Received::Word { host, word } => heard.push((host, WORD, word.to_vec())),
                    Received::Other => {}
                    Received::Empty => break,
                }
                last = Instant::now();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    heard
}

/// Datagrams between A and B pass through its hands: each tunnel believes that the other is at its address.
struct Wire {
    a: Tunnel,
    b: Tunnel,
    to_a: UdpSocket,
    to_b: UdpSocket,
    seen: Vec<Vec<u8>>,
}

impl Wire {
    fn between_two_hosts() -> Self {
        let [to_a, to_b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for socket in [&to_a, &to_b] {
            socket.set_nonblocking(true).unwrap();
        }
        let (mut a, mut b) = (tunnel(1), tunnel(2));
        b.set_peers(&[peer(A, 1, to_a.local_addr().unwrap())]).unwrap();
        a.set_peers(&[peer(B, 2, to_b.local_addr().unwrap())]).unwrap();
        Self { a, b, to_a, to_b, seen: Vec::new() }
    }

    /// Carries everything both ways until nothing moves, and returns the frames that arrived.
    fn carry(&mut self) -> Heard {
        let mut heard = Vec::new();
        loop {
            heard.extend(pump(&mut [&mut self.a, &mut self.b]));
            let before = self.seen.len();
            // What A sends comes to `to_b` and must reach B from `to_a`, where B believes A to be; and back.
            for (from, through, to) in [(&self.to_b, &self.to_a, &self.b), (&self.to_a, &self.to_b, &self.a)] {
                let mut buffer = [0; 2048];
                while let Ok((length, _)) = from.recv_from(&mut buffer) {
                    self.seen.push(buffer[..length].to_vec());
                    through.send_to(&buffer[..length], to.address().unwrap()).unwrap();
                }
            }
            if self.seen.len() == before {
                return heard;
            }
        }
    }

    fn inject_to_b(&mut self, datagram: &[u8]) -> Heard {
        self.to_a.send_to(datagram, self.b.address().unwrap()).unwrap();
        pump(&mut [&mut self.b])
    }

    /// The last datagram on the wire that carries data.
    fn last_data(&self) -> Vec<u8> {
        self.seen.iter().rev().find(|d| d[0] == 4 && d.len() > 64).unwrap().clone()
    }
}

#[test]
fn frames_sent_before_and_after_the_handshake_arrive_with_their_host_and_network() {
    let (mut a, mut b) = (tunnel(1), tunnel(2));
    b.set_peers(&[peer(A, 1, a.address().unwrap())]).unwrap();
    a.set_peers(&[peer(B, 2, b.address().unwrap())]).unwrap();
    a.send(B, 7, b"first");
    a.send(B, 8, b"second");
    assert_eq!(pump(&mut [&mut a, &mut b]), [(A, 7, b"first".to_vec()), (A, 8, b"second".to_vec())]);
    b.send(A, 9, b"answer");
    assert_eq!(pump(&mut [&mut a, &mut b]), [(B, 9, b"answer".to_vec())]);
    assert_eq!((a.counters().frames_sent, b.counters().frames_received), (2, 2));
}

#[test]
fn nothing_of_a_frame_is_visible_on_the_wire() {
    let mut wire = Wire::between_two_hosts();
    wire.a.send(B, 7, FRAME);
    assert_eq!(wire.carry(), [(A, 7, FRAME.to_vec())]);
    assert!(wire.seen.len() >= 3, "a handshake and data went over the wire");
    let shows = |needle: &[u8]| wire.seen.iter().any(|datagram| datagram.windows(needle.len()).any(|w| w == needle));
    assert!(!shows(&FRAME[..8]));
    assert!(!shows(b"sesame"));
}

#[test]
fn a_flipped_bit_and_a_replay_are_dropped_and_counted() {
    let mut wire = Wire::between_two_hosts();
    wire.a.send(B, 7, FRAME);
    assert_eq!(wire.carry(), [(A, 7, FRAME.to_vec())]);
    let replay = wire.last_data();
    assert_eq!(wire.inject_to_b(&replay), []);
    assert_eq!(wire.b.counters().replayed, 1);

    // A fresh counter, so that only the tag speaks against it.
    let mut flipped = replay;
    flipped[8..16].copy_from_slice(&500u64.to_le_bytes());
    flipped[20] ^= 1;
    assert_eq!(wire.inject_to_b(&flipped), []);
    assert_eq!(wire.b.counters().not_authentic, 1);
    assert_eq!(wire.b.counters().frames_received, 1);

    wire.a.send(B, 7, FRAME);
    assert_eq!(wire.carry(), [(A, 7, FRAME.to_vec())], "the session goes on");
}

#[test]
fn a_host_whose_key_is_not_in_the_plan_is_not_heard() {
    let (mut stranger, mut b) = (tunnel(3), tunnel(2));
    b.set_peers(&[peer(A, 1, "127.0.0.1:9".parse().unwrap())]).unwrap();
    stranger.set_peers(&[peer(B, 2, b.address().unwrap())]).unwrap();
    stranger.send(B, 7, FRAME);
    assert_eq!(pump(&mut [&mut stranger, &mut b]), []);
    assert_eq!(b.counters().unknown_sender, 1);
}

#[test]
fn datagrams_that_are_not_wireguard_are_counted_as_malformed() {
    let mut wire = Wire::between_two_hosts();
    wire.carry();
    for junk in [&b"\0"[..], &[4, 0, 0, 0], &[9; 200], &[1; 148]] {
        assert_eq!(wire.inject_to_b(junk), []);
    }
    assert_eq!(wire.b.counters().malformed, 4);
}

/// A host agent that was killed has lost its sessions; the greeting on its start replaces those that its peers hold, so
/// that they need not wait for a time-out of 15 s.
#[test]
fn a_peer_that_restarts_is_reached_again_at_once() {
    let (mut a, mut b) = (tunnel(1), tunnel(2));
    let (at_a, at_b) = (a.address().unwrap(), b.address().unwrap());
    a.set_peers(&[peer(B, 2, at_b)]).unwrap();
    for _ in 0..2 {
        b.set_peers(&[peer(A, 1, at_a)]).unwrap();
        pump(&mut [&mut a, &mut b]);
        a.send(B, 7, FRAME);
        assert_eq!(pump(&mut [&mut a, &mut b]), [(A, 7, FRAME.to_vec())]);
        drop(b);
        b = Tunnel::bind(at_b, [2; 32]).unwrap();
    }
}

#[test]
fn a_bad_key_changes_nothing_and_is_named() {
    let mut a = tunnel(1);
    let good = peer(B, 2, "127.0.0.1:9".parse().unwrap());
    a.set_peers(std::slice::from_ref(&good)).unwrap();
    let bad = TunnelPeer { host: A, public_key: "c2hvcnQ=".into(), ..good.clone() };
    assert!(matches!(a.set_peers(&[bad]), Err(TunnelError::PublicKey { host: A })));
    let twin = TunnelPeer { host: A, ..good.clone() };
    assert!(matches!(a.set_peers(&[good, twin]), Err(TunnelError::SharedKey { host: A, other: B })));
    a.send(B, 7, FRAME);
    assert_eq!(a.counters().no_peer, 0, "the peer from before is still there");
    a.send(A, 7, FRAME);
    assert_eq!(a.counters().no_peer, 1);
}
