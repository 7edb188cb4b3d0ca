//! Recordings played.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lucarne_model::{
    MacAddress, Moment,
    flow::Direction,
    replay::{ReplayReport, ReplaySpeed},
    replication::AddressMapping,
};
use proptest::prelude::*;

use super::{
    super::{
        cast::{Cast, Wanted},
        packet,
        player::{Play, PlayError, Player},
        recorded::{self, Recorded},
    },
    film::{NETWORK, START, Scene, Side, cut_together, datagram, develop, end},
    world::{self, FAIR, Script, Server, Weather},
};
use crate::AddressMap;

pub(super) const SERVER: &str = "10.0.0.10:80";

pub(super) fn play() -> Play {
    Play {
        clients: BTreeSet::new(),
        speed: ReplaySpeed::AS_RECORDED,
        times: 1,
        amplify: 1,
        addresses: AddressMap::default(),
        mac: MacAddress::from_bits(5),
        mtu: 1400,
        patience: Duration::from_secs(5),
        seed: 3,
    }
}

/// As many octets as the request says, which depend on its number.
pub(super) fn content(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + number * 13) as u8).collect()
}

/// The numbers in a request.
pub(super) fn numbers(request: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(request).into_owned();
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

pub(super) fn line(number: usize, length: usize) -> Vec<u8> {
    format!("ask {number} {length}\n").into_bytes()
}
pub(super) fn request(number: usize, length: usize) -> Vec<u8> {
    format!("GET /{number}/{length} HTTP/1.1\r\nhost: shop\r\n\r\n").into_bytes()
}

fn answer_line(request: &[u8]) -> Option<Vec<u8>> {
    let (number, length) = numbers(request);
    Some(content(number, length))
}
pub(super) fn http_answer(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} Said\r\ndate: now\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
fn answer_http(request: &[u8]) -> Option<Vec<u8>> {
    let (number, length) = numbers(request);
    Some(http_answer(200, &content(number, length)))
}

pub(super) const LINES: Script = Script { greeting: b"", until: b"\n", answers: answer_line };
pub(super) const HTTP: Script = Script { greeting: b"", until: b"\r\n\r\n", answers: answer_http };

pub(super) type Ask = fn(usize, usize) -> Vec<u8>;

/// A session as such a server answers: the numbers and lengths of its requests, and how long each side thinks.
pub(super) fn session(at: usize, script: &Script, ask: Ask, lengths: &[usize], pauses: u64) -> Scene {
    let client = end(&format!("192.0.2.{}:{}", 1 + at % 3, 40_000 + at));
    let begin = Moment(START.0 + at as u64 * 3_000);
    let mut scene = Scene::new(client, end(SERVER), 0, begin).accept();
    if !script.greeting.is_empty() {
        scene = scene.say(Side::Server, 10, script.greeting);
    }
    for (turn, length) in lengths.iter().enumerate() {
        let request = ask(at * 100 + turn, *length);
        let answer = (script.answers)(&request).unwrap();
        scene = scene.say(Side::Client, pauses, &request).say(Side::Server, 500, &answer);
    }
    scene.finish(Side::Client).finish(Side::Server)
}

pub(super) fn recording(scenes: Vec<Scene>) -> Arc<Recorded> {
    let recorded = recorded::read(&cut_together(scenes), NETWORK.parse().unwrap());
    assert_eq!(recorded.damage, None);
    Arc::new(recorded)
}

/// All clients are played where none are named.
fn everybody(recorded: &Recorded, play: Play) -> Play {
    let clients = recorded.sessions.iter().map(|session| *session.client.ip()).collect();
    if play.clients.is_empty() { Play { clients, ..play } } else { play }
}

fn reports(recorded: &Arc<Recorded>, play: Play, script: Script, weather: Weather) -> (Vec<ReplayReport>, Duration) {
    let mut player = Player::new(Arc::clone(recorded), everybody(recorded, play)).unwrap();
    let mut server = Server::new(script);
    world::play(&mut player, &mut server, weather)
}

/// Of what is played once.
pub(super) fn report(
    recorded: &Arc<Recorded>,
    play: Play,
    script: Script,
    weather: Weather,
) -> (ReplayReport, Duration) {
    let (mut reports, took) = reports(recorded, play, script, weather);
    assert_eq!(reports.len(), 1);
    (reports.remove(0), took)
}

/// The same but for times, which are never the same twice.
fn timeless(report: ReplayReport) -> ReplayReport {
    ReplayReport {
        recorded_latency: Default::default(),
        latency: Default::default(),
        timing_error: Default::default(),
        ..report
    }
}

fn speeds() -> impl Strategy<Value = ReplaySpeed> {
    prop_oneof![(100u16..=10_000).prop_map(ReplaySpeed::Permille), Just(ReplaySpeed::Max)]
}

fn weathers() -> impl Strategy<Value = Weather> {
    (0u64..15, 10u64..20_000, 0u64..5_000, any::<u64>()).prop_map(|(lost, delay_micros, jitter_micros, seed)| Weather {
        lost,
        delay_micros,
        jitter_micros,
        seed,
        asked_late_micros: 0,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Loss, delay, order and speed change when something is said, and never what.
    #[test]
    fn a_server_that_behaves_as_recorded_gets_the_full_score(
        sessions in prop::collection::vec(prop::collection::vec(1usize..6_000, 1..5), 1..5),
        speed in speeds(), weather in weathers(), http: bool, greets: bool, amplify in 1u32..4, times in 1u32..3,
    ) {
        let greeting: &[u8] = if greets && !http { b"hello, who are you?\r\n" } else { b"" };
        let (script, ask): (_, Ask) = if http { (HTTP, request) } else { (LINES, line) };
        let script = Script { greeting, ..script };
        let scenes = sessions.iter().enumerate().map(|(at, lengths)| session(at, &script, ask, lengths, 20_000)).collect();
        let recorded = recording(scenes);
        prop_assert_eq!(recorded.sessions.len(), sessions.len());
        let play = Play { speed, amplify, times, patience: Duration::from_secs(600), ..play() };
        let reports = reports(&recorded, play, script, weather).0;
        prop_assert_eq!(reports.len(), times as usize);
        let played = sessions.len() as u64 * u64::from(amplify);
        let asked: usize = sessions.iter().map(Vec::len).sum::<usize>() + if greeting.is_empty() { 0 } else { sessions.len() };
        for report in reports {
            prop_assert_eq!(report.score, Some(100), "{:?}", report);
            prop_assert!(report.differences.is_empty());
            prop_assert_eq!((report.sessions.played, report.sessions.as_recorded), (played, played));
            prop_assert_eq!(report.exchanges.compared, asked as u64 * u64::from(amplify));
        }
    }

    #[test]
    fn the_same_answers_give_the_same_report_whatever_the_weather(
        speed in speeds(), one in weathers(), other in weathers(),
    ) {
        let scenes = (0..2).map(|at| session(at, &HTTP, request, &[300, 10, 2_000], 5_000)).collect();
        let recorded = recording(scenes);
        fn otherwise(request: &[u8]) -> Option<Vec<u8>> {
            let (number, length) = numbers(request);
            Some(if number == 101 { http_answer(500, b"no") } else { http_answer(200, &content(number, length + number % 3)) })
        }
        let script = Script { answers: otherwise, ..HTTP };
        let play = Play { speed, patience: Duration::from_secs(600), ..play() };
        let reports = [one, other].map(|weather| timeless(report(&recorded, play.clone(), script, weather).0));
        prop_assert_eq!(&reports[0], &reports[1]);
        prop_assert!(reports[0].score.unwrap() < 100);
    }
}

fn three_requests() -> Arc<Recorded> {
    recording(vec![session(0, &HTTP, request, &[300, 10, 2_000], 100_000), session(1, &LINES, line, &[20], 50_000)])
}

/// Whoever asks in time is in time; the replay takes as long as the speed says.
#[test]
fn what_is_due_is_sent_when_it_is_due() {
    let recorded = three_requests();
    let took = |speed: &str| {
        let play = Play { speed: speed.parse().unwrap(), ..play() };
        let (report, took) = report(&recorded, play, Script { answers: answer_both, until: b"\n", ..HTTP }, FAIR);
        assert_eq!((report.score, report.timing_error.most_micros), (Some(100), 0), "{report:?}");
        // Two starts, four requests, two ends.
        assert_eq!(report.timing_error.count, 8);
        (took.as_millis(), report.latency.most_micros, report.recorded_latency.most_micros)
    };
    // Three pauses of a tenth of a second; an answer takes one way there and one back.
    let (once, latency, recorded_latency) = took("1");
    assert!(
        (300..330).contains(&once) && latency == 200 && recorded_latency > 500,
        "{once} {latency} {recorded_latency}"
    );
    assert!((600..640).contains(&took("0.5").0));
    assert!((30..40).contains(&took("10").0));
    assert!(took("max").0 < 5);
}

#[test]
fn nothing_is_said_before_what_it_followed_upon_has_come() {
    for (script, ask) in [(LINES, line as Ask), (HTTP, request)] {
        let recorded = recording(vec![session(0, &script, ask, &[20, 30, 40], 10)]);
        let far = Weather { delay_micros: 10_000, ..FAIR };
        for speed in [ReplaySpeed::Max, ReplaySpeed::Permille(10_000)] {
            let (report, took) = report(&recorded, Play { speed, ..play() }, script, far);
            // There and back for the handshake, for each of three answers, and for the end.
            assert_eq!((report.score, took.as_millis()), (Some(100), 100));
        }
    }
}

/// Answers lines and heads alike: a head's other lines are asked nothing.
fn answer_both(line: &[u8]) -> Option<Vec<u8>> {
    match line.split(|octet| *octet == b' ').next() {
        Some(b"ask") => answer_line(line),
        Some(b"GET") => answer_http(&line[..line.len() - 9]),
        _ => Some(Vec::new()),
    }
}

#[test]
fn whoever_asks_late_is_told_how_late() {
    let recorded = recording(vec![session(0, &LINES, line, &[20], 50_000)]);
    let (report, _) = report(&recorded, play(), LINES, Weather { asked_late_micros: 3_000, ..FAIR });
    assert_eq!(report.score, Some(100));
    // The beginning and the end follow upon something that came; what is said after a pause is late.
    assert_eq!((report.timing_error.count, report.timing_error.most_micros), (3, 3_000));
}

#[test]
fn clients_are_played_from_where_it_is_asked_and_each_has_its_own_ends() {
    let scenes = (0..3).map(|at| session(at, &LINES, line, &[20], 5_000)).collect();
    let recorded = recording(scenes);
    let to_other = "10.0.0.0/16=10.9.0.0/16".split_once('=').unwrap();
    let mapping = AddressMapping { from: to_other.0.parse().unwrap(), to: to_other.1.parse().unwrap() };
    let addresses = AddressMap::new(&[mapping]).unwrap();
    let play = everybody(&recorded, Play { amplify: 50, speed: ReplaySpeed::Max, addresses, ..play() });
    let mut player = Player::new(Arc::clone(&recorded), play).unwrap();
    player.poll(START);
    let frames: Vec<_> = player.frames().collect();
    let packets: Vec<_> = frames.iter().map(|frame| packet::parse(frame).unwrap()).collect();
    let ends: BTreeSet<_> = packets.iter().map(|packet| packet.source).collect();
    // The first session and those that began before it ended.
    assert_eq!((ends.len(), packets.len()), (100, 100));
    assert!(packets.iter().all(|packet| packet.destination == end("10.9.0.10:80")));
    let addresses: BTreeSet<_> = ends.iter().map(|end| end.ip().to_string()).collect();
    assert_eq!(addresses.into_iter().collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.2"]);
    assert!(
        frames.iter().all(|frame| frame[..6] == MacAddress::ROUTER.0 && frame[6..12] == MacAddress::from_bits(5).0)
    );
}

#[test]
fn only_those_clients_are_played_that_are_asked_for() {
    let inside = Scene::new(end("10.0.3.3:5000"), end(SERVER), 0, START).accept();
    let recorded = recording(vec![inside, session(0, &LINES, line, &[20], 10)]);
    let played = |wanted| {
        let play = Play { clients: Cast::new(&recorded, wanted).unwrap().clients, ..play() };
        report(&recorded, play, LINES, FAIR).0.sessions.played
    };
    assert_eq!([Wanted::All, Wanted::Internet, Wanted::Instances].map(played), [2, 1, 1]);
    let outside_only = recording(vec![session(0, &LINES, line, &[20], 10)]);
    let none = Cast::new(&outside_only, Wanted::Instances).unwrap_err();
    assert_eq!(none, PlayError::Nothing { already_open: 0, to_outside: 0, bystanders: 0 });
    let play = everybody(&outside_only, Play { times: 0, ..play() });
    assert_eq!(Player::new(outside_only, play).unwrap_err(), PlayError::NoTimes);
}

/// What it asked then it asks again by itself, when those whom it serves ask it.
#[test]
fn who_serves_others_is_played_only_by_name() {
    let through = Scene::new(end(SERVER), end("10.0.3.3:5432"), 0, START).accept();
    let recorded = recording(vec![through, session(0, &LINES, line, &[20], 10)]);
    let server = *end(SERVER).ip();
    let cast = Cast::new(&recorded, Wanted::All).unwrap();
    assert_eq!(cast.clients, BTreeSet::from(["192.0.2.1".parse().unwrap()]));
    assert_eq!(cast.bystanders, BTreeMap::from([(server, 1)]));
    assert_eq!(
        Cast::new(&recorded, Wanted::Instances).unwrap_err(),
        PlayError::Nothing { already_open: 0, to_outside: 0, bystanders: 1 }
    );
    let named = Cast::new(&recorded, Wanted::One(server)).unwrap();
    assert_eq!((named.clients, named.bystanders), (BTreeSet::from([server]), BTreeMap::new()));
}

#[test]
fn a_client_that_reset_its_connection_resets_it_again() {
    let scene = Scene::new(end("192.0.2.1:4000"), end(SERVER), 0, START).accept().say(Side::Client, 10, b"ask 1 5\n");
    let scene = scene.say(Side::Server, 10, &content(1, 5)).reset(Side::Client);
    let recorded = recording(vec![scene]);
    let play = everybody(&recorded, play());
    let mut player = Player::new(recorded, play).unwrap();
    let mut server = Server::new(LINES);
    let (reports, took) = world::play(&mut player, &mut server, FAIR);
    assert_eq!(reports[0].score, Some(100));
    assert!(took < Duration::from_millis(5), "nobody waits for an end that was not recorded: {took:?}");
    assert!(server.saw_reset);
}

/// Datagrams go by time, pings as they are.
#[test]
fn what_has_no_connection_is_played_too() {
    let (client, server) = (end("192.0.2.1:4000"), end("10.0.0.10:53"));
    let mut shots = Vec::new();
    for (number, length) in [(1, 60), (2, 200), (3, 5)] {
        let at = START.plus(Duration::from_millis(10 * number as u64));
        shots.push(datagram(client, server, Direction::Ingress, at, &line(number, length)));
        let answer = at.plus(Duration::from_micros(300));
        shots.push(datagram(server, client, Direction::Egress, answer, &content(number, length)));
    }
    let recorded = recorded::read(&develop(false, 1, &shots), NETWORK.parse().unwrap());
    let recorded = Arc::new(recorded);
    for speed in [ReplaySpeed::AS_RECORDED, ReplaySpeed::Permille(10_000), ReplaySpeed::Max] {
        // So far away that at ten times the speed all are asked before the first is answered.
        let far = Weather { delay_micros: 3_000, ..FAIR };
        let (report, _) = report(&recorded, Play { speed, ..play() }, LINES, far);
        assert_eq!((report.score, report.exchanges.compared), (Some(100), 3));
        assert_eq!(report.latency.most_micros, 6_000);
    }
    let lost = Weather { lost: 100, ..FAIR };
    let (report, took) = report(&recorded, play(), LINES, lost);
    assert_eq!((report.score, report.exchanges.missing), (Some(0), 3));
    assert!(took < Duration::from_secs(6));
}
