//! Recordings read.

use std::time::Duration;

use lucarne_model::{flow::Direction, replay::SessionOpening};
use proptest::prelude::*;

use super::{
    super::{
        capture::{Capture, Damage},
        connection::{Connection, Ending},
        hearing,
        recorded::{self, Origin, Recorded, Talk},
    },
    film::{NETWORK, START, Scene, Shot, Side, cut_together, datagram, develop, end},
};

const CLIENT: &str = "192.0.2.1:4000";
const SERVER: &str = "10.0.0.10:80";

fn read(file: &[u8]) -> Recorded {
    recorded::read(file, NETWORK.parse().unwrap())
}

fn scene() -> Scene {
    Scene::new(end(CLIENT), end(SERVER), 0, START)
}

fn connection(recorded: &Recorded) -> &Connection {
    let Talk::Tcp(connection) = &recorded.sessions[0].talk else { panic!("{:?}", recorded.sessions) };
    connection
}

fn talk(requests: &[usize]) -> Scene {
    let said = |side: u8, length: usize| (0..length).map(|at| (at as u8).wrapping_mul(31) ^ side).collect::<Vec<_>>();
    let mut scene = scene().accept();
    for length in requests {
        scene = scene.say(Side::Client, 100, &said(1, length / 3 + 1)).say(Side::Server, 100, &said(2, *length));
    }
    scene.finish(Side::Client).finish(Side::Server)
}

fn as_text(recorded: &Recorded) -> String {
    format!("{:?}", recorded.sessions)
}

#[test]
fn both_byte_orders_say_the_same() {
    let shots = talk(&[10, 3000, 7]).shots;
    let [little, big] = [false, true].map(|big_endian| read(&develop(big_endian, 1, &shots)));
    assert_eq!(little.damage, None);
    assert_eq!(as_text(&little), as_text(&big));
    let connection = connection(&little);
    assert_eq!((connection.opening, connection.cut), (SessionOpening::Accepted, false));
    assert_eq!((connection.sent.octets.len(), connection.answered.octets.len()), (4 + 1001 + 3, 3017));
    let ends: Vec<_> = connection.answered.pieces.iter().map(|piece| piece.end).collect();
    assert_eq!(ends, [10, 1410, 2810, 3010, 3017]);
    let asked: Vec<_> = connection.sent.pieces.iter().map(|piece| (piece.end, piece.after)).collect();
    assert_eq!(asked, [(4, 0), (1005, 10), (1008, 3010)]);
    let Ending::Finished(mark) = connection.ending else { panic!("{:?}", connection.ending) };
    assert_eq!(mark.after, 3017);
}

#[test]
fn damage_is_told_with_its_place() {
    let good = cut_together(vec![talk(&[10])]);
    let damage = |at: usize, value: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + value.len()].copy_from_slice(value);
        let error = read(&bad).damage.unwrap();
        (error.offset, error.damage)
    };
    let section = u32::from_le_bytes(good[4..8].try_into().unwrap()) as usize;
    let interface = u32::from_le_bytes(good[section + 4..section + 8].try_into().unwrap()) as usize;
    let beside = section + interface;
    let frame = beside + u32::from_le_bytes(good[beside + 4..beside + 8].try_into().unwrap()) as usize;
    assert_eq!(read(b"").damage.unwrap().damage, Damage::NoSection);
    assert_eq!(damage(0, b"GIF8"), (0, Damage::NoSection));
    assert_eq!(damage(8, &[1, 2, 3, 4]), (0, Damage::ByteOrder(0x0403_0201)));
    assert_eq!(damage(12, &[2]), (0, Damage::Version(2)));
    assert_eq!(damage(section + 8, &[101]), (section, Damage::LinkType(101)));
    assert_eq!(damage(section + 4, &[13]), (section, Damage::Length(13)));
    assert_eq!(damage(section + 4, &[0, 0, 0, 1]), (section, Damage::Length(0x0100_0000)));
    assert_eq!(damage(frame - 4, &[99, 0, 0, 0]), (beside, Damage::Trailer(99)));
    assert_eq!(damage(frame + 8, &[7]), (frame, Damage::Interface(7)));
    assert_eq!(damage(frame + 20, &[0xff, 0xff]), (frame, Damage::Short));
}

#[test]
fn a_file_that_was_cut_has_what_was_before() {
    let good = cut_together(vec![talk(&[10, 20])]);
    let whole = Capture::new(&good).count();
    let mut before = 0;
    for cut in 1..good.len() {
        let frames: Vec<_> = Capture::new(&good[..cut]).collect();
        let read = frames.iter().filter(|frame| frame.is_ok()).count();
        assert!(read >= before && read <= whole);
        before = read;
        let damage = frames.iter().find_map(|frame| frame.as_ref().err());
        assert!(
            damage.is_none_or(|error| matches!(error.damage, Damage::Cut | Damage::NoSection)),
            "{damage:?} at {cut}"
        );
    }
    assert_eq!(before, whole - 1);
}

#[test]
fn a_frame_that_two_interfaces_saw_is_told_as_the_server_saw_it() {
    let (client, server) = (end("10.0.3.3:4000"), end(SERVER));
    let scene =
        Scene::new(client, server, 0, START).accept().say(Side::Client, 10, b"one").say(Side::Server, 10, b"two");
    let late = Duration::from_micros(30);
    let earlier = scene.shots.iter().map(|shot| Shot {
        interface: 1,
        at: if shot.direction == Direction::Ingress { shot.at.minus(late) } else { shot.at.plus(late) },
        direction: shot.direction.reverse(),
        octets: shot.octets.clone(),
    });
    let mut shots: Vec<_> = scene.shots.iter().cloned().chain(earlier).collect();
    shots.sort_by_key(|shot| shot.at);
    let recorded = read(&develop(false, 2, &shots));
    assert_eq!(recorded.sessions.len(), 1);
    assert_eq!((recorded.sessions[0].began, recorded.sessions[0].origin), (START, Origin::Instance));
    assert_eq!(
        (&connection(&recorded).sent.octets[..], &connection(&recorded).answered.octets[..]),
        (&b"one"[..], &b"two"[..])
    );
    // Where the server's interface was not recorded, the client's does.
    shots.retain(|shot| shot.interface == 1);
    let recorded = read(&develop(false, 2, &shots));
    assert_eq!((recorded.sessions.len(), recorded.sessions[0].began), (1, START.minus(late)));
}

#[test]
fn what_cannot_be_played_is_counted() {
    let mut open = scene().accept().say(Side::Client, 1, b"x");
    open.shots.drain(..3);
    let out = Scene::new(end("10.0.0.7:99"), end("198.51.100.1:443"), 0, START).accept();
    let mut fragment = datagram(end("192.0.2.8:9"), end("10.0.0.10:9"), Direction::Ingress, START, b"parted");
    fragment.octets[14 + 6] = 0x20;
    let arp = Shot { octets: [[0xff; 12].as_slice(), &[8, 6], &[0; 28]].concat(), ..fragment.clone() };
    let shots = [open.shots, out.shots, vec![fragment, arp]].concat();
    let recorded = read(&develop(false, 1, &shots));
    let left_out = recorded.left_out;
    assert!(recorded.sessions.is_empty());
    assert_eq!((left_out.already_open, left_out.to_outside, left_out.packets), (1, 1, 2));
}

#[test]
fn ends_that_are_used_again_are_another_session() {
    let first = talk(&[10]);
    let mut second = Scene::new(end(CLIENT), end(SERVER), 0, first.now);
    second.renumber(5_000_000);
    let second = second.accept().say(Side::Client, 1, b"again").say(Side::Server, 1, b"what?").reset(Side::Client);
    let recorded = read(&cut_together(vec![first, second]));
    assert_eq!(recorded.sessions.len(), 2);
    let Talk::Tcp(second) = &recorded.sessions[1].talk else { panic!() };
    assert_eq!(&second.sent.octets, b"again");
    assert!(matches!(second.ending, Ending::Reset(mark) if mark.after == 5));
}

#[test]
fn requests_and_answers_of_http_are_told_apart() {
    let asked: &[&[u8]] = &[
        b"GET /1 HTTP/1.1\r\n\r\n",
        b"HEAD /2 HTTP/1.1\r\n\r\n",
        b"POST /3 HTTP/1.1\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n12345",
        b"PUT /4 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET /5 HTTP/1.1\r\n\r\n",
    ];
    let answered: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\ntrailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\nuntil the end",
    ];
    let mut scene = scene().accept();
    // Two are asked at once.
    scene = scene.say(Side::Client, 1, &asked[..2].concat()).say(Side::Server, 1, &answered[..2].concat());
    for (asked, answered) in asked.iter().zip(answered).skip(2) {
        scene = scene.say(Side::Client, 1, asked).say(Side::Server, 1, answered);
    }
    let recorded = read(&cut_together(vec![scene.finish(Side::Server).finish(Side::Client)]));
    let exchanges = connection(&recorded).http.as_ref().unwrap();
    let told: Vec<_> = exchanges.iter().map(|one| one.answer.map(|it| (it.status, it.body.octets))).collect();
    assert_eq!(told, [Some((200, 6)), Some((200, 0)), Some((201, 2)), Some((304, 0)), Some((404, 13))]);
    let ends: Vec<_> = exchanges.iter().map(|one| one.answered).collect();
    let sums: Vec<_> = (1..=5).map(|count| answered[..count].concat().len()).collect();
    assert_eq!(ends, sums);
    for (asked, answered) in [("EHLO me\r\n\r\n", "250 OK"), ("GET / HTTP/1.1\r\n\r\n", "what?\r\n\r\n")] {
        let scene =
            self::scene().accept().say(Side::Client, 1, asked.as_bytes()).say(Side::Server, 1, answered.as_bytes());
        assert!(connection(&read(&cut_together(vec![scene]))).http.is_none());
    }
}

#[test]
fn turns_go_by_what_the_client_had_heard() {
    let scene = scene().accept().say(Side::Server, 1, b"hello").say(Side::Client, 1, b"a").say(Side::Client, 1, b"b");
    let scene = scene.say(Side::Server, 1, b"12").say(Side::Client, 1, b"c").say(Side::Server, 1, b"3");
    let recorded = read(&cut_together(vec![scene]));
    let turns: Vec<_> =
        hearing::turns(connection(&recorded)).into_iter().map(|turn| (turn.asked, turn.answer)).collect();
    assert_eq!(turns, [(0, 0..5), (2, 5..7), (3, 7..8)]);
}

proptest! {
    /// What came twice, or in another order than it was sent, was said once and in order.
    #[test]
    fn streams_are_the_same_however_their_segments_come(
        requests in prop::collection::vec(1usize..9_000, 1..4), swaps in prop::collection::vec((0usize..100, 0usize..5), 0..40),
        again in prop::collection::vec(0usize..100, 0..20),
    ) {
        let mut shots = talk(&requests).shots;
        let straight = read(&develop(false, 1, &shots));
        let count = shots.len();
        for at in again {
            // Some time later, but within the connection.
            let at = 3 + at % (count - 3);
            let later = (at + 1 + at % 7).min(shots.len());
            let shot = shots[at].clone();
            shots.insert(later, shot);
        }
        let count = shots.len();
        for (at, by) in swaps {
            let at = 3 + at % (count - 3);
            shots.swap(at, (at + by).min(count - 1));
        }
        let crooked = read(&develop(true, 1, &shots));
        let (straight, crooked) = (connection(&straight), connection(&crooked));
        prop_assert_eq!(&straight.sent.octets, &crooked.sent.octets);
        prop_assert_eq!(&straight.answered.octets, &crooked.answered.octets);
        prop_assert!(crooked.sent.pieces.is_sorted_by_key(|piece| (piece.end, piece.after)));
        prop_assert!(matches!(crooked.ending, Ending::Finished(_)) && !crooked.cut);
    }

    #[test]
    fn no_octets_make_the_reader_panic(octets in prop::collection::vec(any::<u8>(), 0..300), hits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..9)) {
        read(&octets);
        let mut nearly = cut_together(vec![talk(&[10, 3000])]);
        read(&[&nearly[..], &octets].concat());
        for (at, value) in hits {
            let at = at % nearly.len();
            nearly[at] = value;
        }
        let recorded = read(&nearly);
        for session in &recorded.sessions {
            if let Talk::Tcp(connection) = &session.talk {
                hearing::turns(connection);
            }
        }
    }
}
