//! Loads against a server that is made up, over a network that loses and delays.

use std::{net::Ipv4Addr, time::Duration};

use lucarne_model::{
    InstanceId, Moment,
    load::{LoadKind, LoadReport, LoadSpan, LoadTarget, LoadTerms},
};
use proptest::prelude::*;

use super::{
    arrivals::{Arrival, Arrivals},
    asking::{Asking, Order},
    request::Failure,
    tally::Tally,
};
use crate::replay::{
    packet,
    tests::world::{self, BEGINNING, FAIR, Script, Server, Weather},
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

fn terms(kind: LoadKind, clients: u32, rate: Option<u32>, seconds: u32, size: u32) -> LoadTerms {
    let (to, path) = (LoadTarget::Instance(InstanceId::from_bits(1)), None);
    LoadTerms { to, port: 80, kind, path, from: None, clients, rate, seconds, size }
}

fn asking(terms: LoadTerms) -> Asking {
    let sources = vec![Ipv4Addr::new(10, 0, 0, 20), Ipv4Addr::new(10, 0, 0, 21)];
    Asking::new(Order { terms, address: SERVER, sources, mtu: 1400, seed: 5 }, BEGINNING)
}

/// An answer of HTTP to all that ends as its requests do, and the same octets to all else.
fn page(_: &[u8]) -> Option<Vec<u8>> {
    Some(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec())
}
fn nowhere(_: &[u8]) -> Option<Vec<u8>> {
    Some(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec())
}
fn nothing(_: &[u8]) -> Option<Vec<u8>> {
    Some(Vec::new())
}
fn end(_: &[u8]) -> Option<Vec<u8>> {
    None
}

fn told(terms: LoadTerms, answers: fn(&[u8]) -> Option<Vec<u8>>, weather: Weather) -> LoadReport {
    let until: &[u8] = if terms.kind == LoadKind::Http { b"\r\n\r\n" } else { b"\n" };
    let mut asking = asking(terms);
    world::run(&mut asking, &mut Server::new(Script { greeting: b"", until, answers }), weather);
    asking.report()
}

fn weathers() -> impl Strategy<Value = Weather> {
    (0u64..15, 10u64..20_000, 0u64..5_000, any::<u64>(), 0u64..3_000).prop_map(
        |(lost, delay_micros, jitter_micros, seed, asked_late_micros)| Weather {
            lost,
            delay_micros,
            jitter_micros,
            seed,
            asked_late_micros,
        },
    )
}

fn kinds() -> impl Strategy<Value = LoadKind> {
    prop_oneof![Just(LoadKind::Http), Just(LoadKind::Tcp), Just(LoadKind::Udp)]
}

fn sum(report: &LoadReport, of: impl Fn(&LoadSpan) -> u64) -> u64 {
    report.series.iter().map(of).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The times are those of the rate, whenever somebody looks, and whatever is over meanwhile.
    #[test]
    fn with_a_rate_every_request_has_its_own_time(
        rate in 1u32..2000, seconds in 1u32..4, clients in 1u32..9, looks in prop::collection::vec(1u64..50_000, 1..40)
    ) {
        let mut arrivals = Arrivals::new(&terms(LoadKind::Udp, clients, Some(rate), seconds, 0), BEGINNING);
        let (mut now, mut came, mut looks) = (BEGINNING, Vec::new(), looks.into_iter().cycle());
        while now < arrivals.end() {
            now = now.plus(Duration::from_micros(looks.next().unwrap()));
            while let Some(arrival) = arrivals.take(now) {
                prop_assert!(arrival.due <= now);
                arrivals.free(arrival.client, now, false);
                came.push(arrival);
            }
        }
        prop_assert_eq!(came.len() as u32, rate * seconds);
        for (number, Arrival { due, client }) in came.iter().enumerate() {
            let wanted = number as u64 * 1_000_000 / u64::from(rate);
            prop_assert_eq!(due.since(BEGINNING).as_micros() as u64, wanted);
            prop_assert_eq!(*client, number as u32 % clients);
        }
        prop_assert_eq!((arrivals.next(), arrivals.give_up()), (None, 0));
    }

    /// Whoever was not answered asks nothing else, and all together never more than may be asked at all.
    #[test]
    fn without_a_rate_each_client_has_one_request_at_a_time(
        clients in 1u32..20, steps in prop::collection::vec((1u64..5_000, any::<bool>(), any::<bool>()), 1..200)
    ) {
        let mut arrivals = Arrivals::new(&terms(LoadKind::Udp, clients, None, 1, 0), BEGINNING);
        let (mut now, mut busy, mut began) = (BEGINNING, Vec::new(), 0u128);
        for (micros, ends, answered) in steps {
            now = now.plus(Duration::from_micros(micros));
            while let Some(arrival) = arrivals.take(now) {
                prop_assert!(!busy.contains(&arrival.client) && arrival.due == now);
                busy.push(arrival.client);
                began += 1;
            }
            if ends && let Some(client) = busy.pop() {
                arrivals.free(client, now, answered);
            }
        }
        prop_assert!(began <= now.since(BEGINNING).as_micros() * u128::from(LoadTerms::MOST_RATE) / 1_000_000 + 1);
    }

    /// Nothing is lost in the counting, however much is on the way.
    #[test]
    fn all_that_was_sent_was_answered_or_has_failed(
        kind in kinds(), rate in prop::option::of(1u32..60), clients in 1u32..8, size in 0u32..3000, weather in weathers()
    ) {
        let size = if kind == LoadKind::Tcp { size } else { size.min(1000) };
        // The made-up server reads heads, without bodies.
        let size = if kind == LoadKind::Http { 0 } else { size };
        let report = told(terms(kind, clients, rate, 2, size), page, weather);
        prop_assert_eq!((report.sent, report.open), (report.answered + report.failed.all(), 0));
        if let Some(rate) = rate {
            prop_assert_eq!((report.sent, report.unsent), (u64::from(rate) * 2, 0));
        }
        prop_assert_eq!(sum(&report, |span| span.sent), report.sent);
        prop_assert_eq!(sum(&report, |span| span.answered), report.answered);
        prop_assert_eq!(sum(&report, |span| span.failed), report.failed.all());
        let latency = report.latency;
        prop_assert_eq!((latency.count, report.timing_error.count), (report.answered, report.sent));
        prop_assert!(latency.p50_micros <= latency.p90_micros && latency.p90_micros <= latency.p99_micros);
        prop_assert!(latency.p99_micros <= latency.most_micros);
        if weather.lost == 0 {
            prop_assert_eq!(report.answered, report.sent);
            prop_assert!(latency.p50_micros * 100 >= weather.delay_micros * 198 || latency.count == 0);
        }
    }

    /// The series is short however long it goes on, and tells of everything.
    #[test]
    fn a_series_has_a_few_dozen_spans_of_one_length(at in prop::collection::vec(0u64..3_700_000, 1..300)) {
        let mut tally = Tally::new(BEGINNING);
        let mut at = at;
        at.sort_unstable();
        for millis in &at {
            let now = BEGINNING.plus(Duration::from_millis(*millis));
            tally.sent(now, now);
            tally.ended(now, now, Err(Failure::Status((millis % 500) as u16)));
        }
        let report = tally.report();
        prop_assert!(report.series.len() <= 60 && report.statuses.len() <= 20);
        prop_assert_eq!((sum(&report, |span| span.sent), sum(&report, |span| span.failed)), (at.len() as u64, at.len() as u64));
        for (number, span) in report.series.iter().enumerate() {
            prop_assert_eq!((span.from, span.seconds), (number as u32 * span.seconds, report.series[0].seconds));
        }
    }
}

#[test]
fn in_fair_weather_all_is_answered_and_octets_are_counted_without_headers() {
    let report = told(terms(LoadKind::Http, 4, Some(50), 2, 0), page, FAIR);
    assert_eq!((report.sent, report.answered, report.failed.all()), (100, 100, 0));
    assert_eq!(report.octets_answered, 100 * page(b"").unwrap().len() as u64);
    assert_eq!((report.answers_per_second, report.statuses), (50, vec![]));
    let report = told(terms(LoadKind::Udp, 4, Some(50), 2, 30), page, FAIR);
    assert_eq!((report.answered, report.octets_sent), (100, 3000));
    let report = told(terms(LoadKind::Tcp, 4, Some(50), 2, 0), page, FAIR);
    assert_eq!((report.answered, report.octets_sent, report.octets_answered), (100, 0, 0));
}

#[test]
fn each_failure_has_its_reason() {
    let status = told(terms(LoadKind::Http, 1, Some(5), 1, 0), nowhere, FAIR);
    assert_eq!((status.failed.status, status.answered), (5, 0));
    assert_eq!((status.statuses[0].status, status.statuses[0].count), (404, 5));
    let silent = told(terms(LoadKind::Tcp, 1, Some(5), 1, 10), nothing, FAIR);
    assert_eq!((silent.failed.timed_out, silent.failed.all()), (5, 5));
    assert!(silent.elapsed_millis >= 10_000);
    let closed = told(terms(LoadKind::Http, 1, Some(5), 1, 0), end, FAIR);
    assert_eq!((closed.failed.broken, closed.failed.all()), (5, 5));
    // The made-up server listens at port 80 alone.
    let refused = told(LoadTerms { port: 81, ..terms(LoadKind::Tcp, 1, Some(5), 1, 0) }, page, FAIR);
    assert_eq!((refused.failed.refused, refused.failed.all()), (5, 5));
}

/// Who waits for a slow answer before asking again measures the server only where it is fast: here all was due long ago.
#[test]
fn latency_counts_from_when_a_request_was_due() {
    let mut asking = asking(terms(LoadKind::Udp, 1, Some(10), 1, 1));
    let now = BEGINNING.plus(Duration::from_secs(3));
    asking.poll(now);
    let asked: Vec<Vec<u8>> = asking.frames().collect();
    for frame in &asked {
        let asked = packet::parse(frame).unwrap();
        let answer = packet::datagram(asked.destination, asked.source, b"");
        asking.handle_frame(now, &packet::frame(lucarne_model::MacAddress::ROUTER, &answer));
    }
    let report = asking.report();
    assert_eq!((asked.len(), report.answered, report.octets_answered), (10, 10, 0));
    assert_eq!((report.latency.most_micros, report.timing_error.most_micros), (3_000_000, 3_000_000));
    assert!(report.latency.p50_micros > 2_400_000, "{report:?}");
}

/// As much as can be is open, and what never had room was not sent.
#[test]
fn what_has_no_room_until_the_time_is_over_is_told_as_not_sent() {
    let mut asking = asking(terms(LoadKind::Udp, 1, Some(10_000), 1, 1));
    let mut now = BEGINNING;
    while let Some(next) = asking.poll(now) {
        asking.frames().for_each(drop);
        now = now.max(next);
    }
    let report = asking.report();
    assert_eq!((report.sent, report.unsent, report.failed.timed_out), (2048, 10_000 - 2048, 2048));
}

#[test]
fn a_datagram_to_a_port_where_nobody_listens_is_refused_by_the_word_of_its_own_host_alone() {
    let mut asking = asking(terms(LoadKind::Udp, 1, Some(2), 1, 3));
    asking.poll(BEGINNING.plus(Duration::from_secs(1)));
    let asked: Vec<Vec<u8>> = asking.frames().collect();
    let unreachable = |from: Ipv4Addr, frame: &[u8]| {
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0], &frame[14..]].concat();
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
        packet[2..4].copy_from_slice(&(20 + message.len() as u16).to_be_bytes());
        packet.extend([from.octets(), [10, 0, 0, 20]].concat());
        packet.extend(message);
        packet::frame(lucarne_model::MacAddress::ROUTER, &packet)
    };
    let now = BEGINNING.plus(Duration::from_secs(2));
    asking.handle_frame(now, &unreachable(SERVER, &asked[0]));
    asking.handle_frame(now, &unreachable(Ipv4Addr::new(10, 0, 0, 99), &asked[1]));
    let report = asking.report();
    assert_eq!((report.failed.refused, report.open), (1, 1));
}

/// A moment that is not of this load changes nothing.
#[test]
fn frames_of_others_are_nobodys_answer() {
    let mut asking = asking(terms(LoadKind::Udp, 1, Some(1), 1, 3));
    asking.poll(BEGINNING);
    let frame = asking.frames().next().unwrap();
    let asked = packet::parse(&frame).unwrap();
    for from in ["10.0.0.10:81", "10.0.0.11:80"] {
        let answer = packet::datagram(from.parse().unwrap(), asked.source, b"x");
        asking.handle_frame(Moment(BEGINNING.0 + 1), &packet::frame(lucarne_model::MacAddress::ROUTER, &answer));
    }
    assert_eq!((asking.report().answered, asking.report().open), (0, 1));
}
