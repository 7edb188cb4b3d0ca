//! Answers that are not as recorded.

use std::time::Duration;

use lucarne_model::replay::{AnswerDifference, ReplaySpeed, SessionOpening};

use super::{
    film::{START, Scene, Side, end},
    playing::{HTTP, LINES, SERVER, content, http_answer, line, numbers, play, recording, report, request, session},
    world::{FAIR, Script, Weather},
};
use crate::replay::player::Play;

/// What two sessions of three requests (10, 100 and 1000 octets) come to: the score, and where it differs and how.
fn told(http: bool, answers: fn(&[u8]) -> Option<Vec<u8>>) -> (u32, Vec<(u32, u32, AnswerDifference)>, Duration) {
    let lengths = [10, 100, 1000];
    let scenes = (0..2).map(|at| {
        if http { session(at, &HTTP, request, &lengths, 1_000) } else { session(at, &LINES, line, &lengths, 1_000) }
    });
    let recorded = recording(scenes.collect());
    let script = Script { answers, ..if http { HTTP } else { LINES } };
    let (report, took) = report(&recorded, play(), script, FAIR);
    let differences = report.differences.iter().map(|one| (one.session, one.exchange, one.what)).collect();
    let sum = report.exchanges;
    assert_eq!(sum.compared, sum.as_recorded + sum.differing + sum.missing + sum.extra);
    assert_eq!(report.differences.len() as u64, sum.compared - sum.as_recorded);
    assert!(report.differences.iter().all(|one| one.server == end(SERVER)));
    (report.score.unwrap().into(), differences, took)
}

#[test]
fn another_status_is_told_and_costs_nobody_patience() {
    let (score, differences, took) = told(true, |request| {
        let (number, length) = numbers(request);
        Some(if number == 101 { http_answer(503, b"") } else { http_answer(200, &content(number, length)) })
    });
    assert_eq!(differences, [(1, 1, AnswerDifference::Status { recorded: 200, answered: 503 })]);
    // Five exchanges of a hundred, and one that has nothing of what was recorded.
    assert_eq!(score, 500 / 6);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn other_lengths_and_contents_are_told_apart() {
    let (score, differences, _) = told(true, |request| {
        let (number, length) = numbers(request);
        let body = match number {
            0 => content(number, length / 2),
            101 => content(number + 1, length),
            _ => content(number, length),
        };
        Some(http_answer(200, &body))
    });
    let octets = AnswerDifference::Octets { recorded: 10, answered: 5 };
    assert_eq!(differences, [(0, 0, octets), (1, 1, AnswerDifference::Content)]);
    // The first has its status and half of its length, the other lacks its content only.
    assert_eq!(score, ((60 + 12) + (60 + 25) + 400) / 6);
}

#[test]
fn of_what_is_not_http_the_turn_that_differs_is_told_and_the_rest_is_asked_too() {
    let (score, differences, took) = told(false, |request| {
        let (number, length) = numbers(request);
        Some(content(number, if number == 1 { 50 } else { length }))
    });
    assert_eq!(
        differences,
        [
            (0, 1, AnswerDifference::Octets { recorded: 100, answered: 50 }),
            // Behind it nothing is in its place any more.
            (0, 2, AnswerDifference::Content),
        ]
    );
    assert_eq!(score, (35 + 70 + 400) / 6);
    assert!(took > play().patience, "the client waited for the rest");
}

#[test]
fn what_is_missing_and_what_nobody_recorded_is_told() {
    let (score, differences, _) = told(true, |request| {
        let (number, length) = numbers(request);
        // It ends the connection instead of an answer.
        (number != 102).then(|| http_answer(200, &content(number, length)))
    });
    assert_eq!((score, differences), (500 / 6, vec![(1, 2, AnswerDifference::Missing)]));
    let (score, differences, _) = told(true, |request| {
        let (number, length) = numbers(request);
        let answer = http_answer(200, &content(number, length));
        Some(if number == 2 { [&answer[..], &http_answer(200, b"more")].concat() } else { answer })
    });
    assert_eq!((score, differences), (600 / 7, vec![(0, 3, AnswerDifference::Extra { octets: 4 })]));
    let (_, differences, _) = told(true, |_| Some(b"what?\r\n\r\n".to_vec()));
    let first = differences.first().copied();
    assert_eq!(first, Some((0, 0, AnswerDifference::Status { recorded: 200, answered: 0 })));
    assert_eq!(differences.len(), 6);
}

#[test]
fn a_connection_that_is_opened_otherwise_is_told() {
    let closed = end("10.0.0.10:81");
    let (accepted, refused, unanswered) =
        (SessionOpening::Accepted, SessionOpening::Refused, SessionOpening::Unanswered);
    let client = end("192.0.2.1:4000");
    let told = |scene: Scene, weather: Weather| {
        let (report, took) = report(&recording(vec![scene]), play(), LINES, weather);
        assert!(took < Duration::from_secs(10));
        (report.score.unwrap(), report.differences.first().map(|one| one.what))
    };
    let scene = |server| Scene::new(client, server, 0, START);
    let deaf = Weather { lost: 100, ..FAIR };
    let opened = |recorded, answered| Some(AnswerDifference::Opening { recorded, answered });
    let talk = |server| scene(server).accept().say(Side::Client, 9, b"ask 1 1\n").say(Side::Server, 9, &content(1, 1));
    assert_eq!(told(scene(closed).refuse(), FAIR), (100, None));
    assert_eq!(told(scene(closed), deaf), (100, None));
    assert_eq!(told(talk(closed), FAIR), (0, opened(accepted, refused)));
    assert_eq!(told(talk(closed), deaf), (0, opened(accepted, unanswered)));
    assert_eq!(told(scene(end(SERVER)).refuse(), FAIR), (0, opened(refused, accepted)));
}

/// Of a recording that ends within a session it is not known what else was answered.
#[test]
fn what_comes_behind_the_end_of_a_recording_is_not_held_against_the_duplicate() {
    for (script, ask) in [(HTTP, request as fn(usize, usize) -> Vec<u8>), (LINES, line)] {
        let asked = ask(1, 3000);
        let answer = (script.answers)(&asked).unwrap();
        let scene = Scene::new(end("192.0.2.1:4000"), end(SERVER), 0, START).accept();
        let scene = scene.say(Side::Client, 9, &asked).say(Side::Server, 9, &answer[..1400]);
        let (report, took) = report(&recording(vec![scene]), play(), script, FAIR);
        assert_eq!((report.score, report.differences), (Some(100), vec![]));
        assert!(took < Duration::from_secs(1));
    }
}

#[test]
fn of_very_many_differences_the_first_are_told_and_the_others_counted() {
    let scenes = (0..3).map(|at| session(at, &HTTP, request, &[10; 4], 10)).collect();
    let play = Play { amplify: 120, speed: ReplaySpeed::Max, ..play() };
    let script = Script { answers: |_| Some(http_answer(404, b"")), ..HTTP };
    let (report, _) = report(&recording(scenes), play, script, FAIR);
    assert_eq!((report.differences.len(), report.differences_left_out), (1000, 3 * 4 * 120 - 1000));
    assert!(report.differences.is_sorted());
    assert_eq!((report.score, report.sessions.played, report.sessions.as_recorded), (Some(0), 360, 0));
}

#[test]
fn a_server_that_takes_nothing_is_left() {
    let long = vec![b'x'; 200_000];
    let scene = Scene::new(end("192.0.2.1:4000"), end(SERVER), 0, START).accept();
    let scene = scene.say(Side::Client, 9, &long).say(Side::Server, 9, b"thanks").finish(Side::Client);
    // It waits for the end of a line, which never comes, so that it never answers.
    let (report, took) = report(&recording(vec![scene]), play(), LINES, FAIR);
    assert_eq!(report.differences.first().map(|one| one.what), Some(AnswerDifference::Missing));
    assert!(took < Duration::from_secs(20), "{took:?}");
}
