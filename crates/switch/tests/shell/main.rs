//! The whole switch in its thread: real sockets, real time, guests with TCP/IP stacks of their own.
#![allow(clippy::unwrap_used, reason = "clippy's exception for tests does not reach what a test calls")]

mod cut;
mod guest;
mod world;

use std::{net::Ipv4Addr, time::Duration};

use lucarne_model::{
    EndReason,
    flow::{Direction, Path},
};
use lucarne_switch::{ShellError, shell::Counters};
use world::{APP, FAR, USER_DATA, WEB, World, address, block_on, instance};

const SECRET: &[u8] = b"attack at dawn, by the eastern gate; attack at dawn";

fn counters(world: &World, host: usize) -> Counters {
    block_on(world.hosts[host].handle.counters())
}

#[test]
fn dhcp_gives_each_guest_the_address_of_the_plan() {
    let world = World::new();
    for guest in [WEB, APP, FAR] {
        let lease = world.guests[guest].address().unwrap();
        assert_eq!((lease.address(), lease.prefix_len()), (address(guest), 24));
    }
}

#[test]
fn guests_reach_each_other_across_hosts_and_the_wire_shows_nothing() {
    let mut world = World::new();
    world.ping(WEB, address(FAR), SECRET);
    world.exchange(WEB, FAR, 80, &SECRET.repeat(1000));
    world.exchange(FAR, APP, 80, SECRET);
    assert!(world.tap.seen.len() > 40, "it went over the wire");
    assert!(!world.tap.shows(&SECRET[..8]));
    let reversed: Vec<u8> = SECRET.iter().rev().copied().collect();
    assert!(!world.tap.shows(&reversed[..8]));
    assert!(counters(&world, 0).tunnel.frames_sent > 20);
    assert!(counters(&world, 1).tunnel.frames_received > 20);
}

#[test]
fn guests_of_one_host_reach_each_other_and_their_gateway() {
    let mut world = World::new();
    world.ping(WEB, Ipv4Addr::new(10, 0, 1, 1), b"gateway");
    world.ping(WEB, address(APP), b"neighbour");
    world.exchange(APP, WEB, 8080, &SECRET.repeat(1000));
    assert_eq!(counters(&world, 0).tunnel.frames_sent, 0);
}

#[test]
fn a_port_that_no_rule_allows_is_not_reached_and_recorded() {
    let mut world = World::new();
    world.guests[APP].listen(9001);
    let client = world.guests[WEB].connect(address(APP), 9001);
    world.run_for(Duration::from_millis(300));
    assert!(!world.guests[WEB].tcp(client).may_send());
    let records = world.stop(0);
    let denied = records.iter().find(|record| record.destination_port == 9001 && record.instance == instance(APP));
    assert_eq!(denied.unwrap().end_reason, EndReason::DeniedByGroupAtDestination);
}

#[test]
fn the_metadata_service_answers_guests_with_a_token_only() {
    let mut world = World::new();
    let get = |token: &str| format!("GET /latest/user-data HTTP/1.1\r\nHost: x\r\n{token}\r\n");
    assert!(world.ask_metadata(WEB, &get("")).starts_with("HTTP/1.1 401 "));
    let put = "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    let answer = world.ask_metadata(WEB, put);
    let token = answer.split_once("\r\n\r\n").unwrap().1;
    let header = format!("X-aws-ec2-metadata-token: {token}\r\n");
    assert!(world.ask_metadata(WEB, &get(&header)).ends_with(USER_DATA));
    assert!(world.ask_metadata(APP, &get(&header)).starts_with("HTTP/1.1 401 "), "another instance's token");
}

/// The agent of a host is killed or updated while its machines run: their sockets stay, and so do their connections.
#[test]
fn connections_outlive_a_restart_of_either_switch() {
    let mut world = World::new();
    let server = world.guests[FAR].listen(80);
    let client = world.guests[WEB].connect(address(FAR), 80);
    world.until("the connection stands", |guests| guests[WEB].tcp(client).may_send());
    for (host, text) in [(0, b"first"), (1, b"again")] {
        world.restart(host);
        world.guests[WEB].tcp(client).send_slice(text).unwrap();
        let mut heard = Vec::new();
        world.until("the server has heard", |guests| {
            heard.extend(guests[FAR].heard(server));
            heard.len() >= text.len()
        });
        assert_eq!(heard, text);
    }
}

#[test]
fn stopping_gives_every_open_flow_its_last_record() {
    let mut world = World::new();
    let server = world.guests[APP].listen(80);
    let client = world.guests[WEB].connect(address(APP), 80);
    world.until("the connection stands", |guests| guests[WEB].tcp(client).may_send());
    world.guests[WEB].tcp(client).send_slice(SECRET).unwrap();
    world.until("the server has heard", |guests| guests[APP].heard(server).len() == SECRET.len());
    world.run_for(Duration::from_millis(100));
    let mut records = world.stop(0);
    // Beside what the guests asked of the router.
    records.retain(|record| record.path != Path::Service);
    for guest in [WEB, APP] {
        for direction in [Direction::Egress, Direction::Ingress] {
            let found =
                records.iter().find(|record| record.instance == instance(guest) && record.direction == direction);
            let record = found.unwrap_or_else(|| panic!("no record of {guest} {direction:?}: {records:#?}"));
            assert_eq!(record.end_reason, EndReason::AgentRestart);
            assert!(record.packets >= 2 && record.protocol == 6);
        }
    }
    assert!(!world.hosts[0].handle.is_running());
    assert!(matches!(block_on(world.hosts[0].handle.apply(world.plan(0))), Err(ShellError::Ended)));
}

#[test]
fn a_dead_guest_holds_up_nobody_and_is_reached_when_it_is_back() {
    let mut world = World::new();
    world.guests[APP].kill();
    for round in 0..50 {
        world.guests[WEB].ping(address(APP), round, b"anybody there?");
        world.run_for(Duration::from_millis(2));
    }
    world.exchange(WEB, FAR, 80, SECRET);
    assert!(counters(&world, 0).dropped["guest-absent"] >= 50);
    world.guests[APP].revive();
    world.ping(WEB, address(APP), b"back");
}

/// The guest's process lives and does not read, as when its machine is paused.
#[test]
fn a_guest_that_does_not_read_holds_up_nobody_and_its_queue_is_bounded() {
    let mut world = World::new();
    let mut paused = world.guests.remove(APP);
    let far = world.guests.pop().unwrap();
    for round in 0..2000 {
        world.guests[WEB].ping(address(APP), round, &[0; 100]);
        world.run_for(Duration::from_micros(1));
    }
    let full = counters(&world, 0).dropped["guest-full"];
    assert!((500..2000).contains(&full), "{full}");
    paused.poll();
    world.guests.extend([paused, far]);
    world.exchange(WEB, FAR, 80, SECRET);
    world.exchange(APP, WEB, 80, SECRET);
}

#[test]
fn a_plan_that_cannot_hold_is_refused_and_the_one_before_goes_on() {
    let mut world = World::new();
    let mut unbindable = world.plan(0);
    unbindable.ports[0].socket = "/nonexistent/socket".into();
    assert!(matches!(block_on(world.hosts[0].handle.apply(unbindable)), Err(ShellError::Port { .. })));
    let mut keyless = world.plan(0);
    keyless.peers[0].public_key = "no key".into();
    assert!(matches!(block_on(world.hosts[0].handle.apply(keyless)), Err(ShellError::Tunnel(_))));
    world.exchange(WEB, FAR, 80, SECRET);
}

#[test]
fn a_port_that_leaves_the_plan_takes_its_socket_with_it() {
    let mut world = World::new();
    let full = world.plan(0);
    let mut less = full.clone();
    let gone = less.ports.remove(0);
    block_on(world.hosts[0].handle.apply(less)).unwrap();
    assert!(!gone.socket.exists());
    block_on(world.hosts[0].handle.apply(full)).unwrap();
    world.exchange(WEB, APP, 80, SECRET);
}

#[test]
fn a_dropped_handle_ends_the_switch() {
    let mut world = World::new();
    let mut host = world.hosts.remove(0);
    drop(host.handle);
    while block_on(host.records.recv()).is_some() {}
}

/// Prints how many frames a second pass from one guest's socket through the switch to another's.
#[test]
#[ignore = "a measurement, not a check"]
fn frames_a_second_between_two_ports() {
    /// An echo request from the web server's address to the other's, of 51 octets.
    const FRAME: &[u8] =
        b"\x02\x4c\x55\x43\x00\x01\x02\x00\x00\x00\x00\x00\x08\x00\x45\x00\x00\x25\x00\x00\x40\x00\x40\x01\
        \x23\xbb\x0a\x00\x01\x0a\x0a\x00\x02\x14\x08\x00\xd4\x2e\x02\x2b\x00\x01neighbour";
    let mut world = World::new();
    let [sender, receiver] = [WEB, APP].map(|guest| {
        world.guests[guest].kill();
        std::fs::remove_file(world.path("guest", guest)).unwrap();
        std::os::unix::net::UnixDatagram::bind(world.path("guest", guest)).unwrap()
    });
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let switch = world.path("switch", WEB);
    let sending = std::thread::spawn(move || (0..1_000_000).for_each(|_| drop(sender.send_to(FRAME, &switch))));
    let (began, mut received) = (std::time::Instant::now(), 0u32);
    while receiver.recv(&mut [0; 100]).is_ok() {
        received += 1;
    }
    let seconds = began.elapsed().as_secs_f64() - 0.3;
    sending.join().unwrap();
    println!("{received} frames in {seconds:.2} s: {:.0} a second", f64::from(received) / seconds);
    println!("{:#?}", counters(&world, 0).dropped);
}
