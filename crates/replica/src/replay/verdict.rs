//! What an answer is worth beside the recorded one.
//!
//! Owns the points. Each exchange gets from 0 to 100:
//!
//! | exchange | status | length | content |
//! |---|---|---|---|
//! | of HTTP | 60 if it is the same | 25, in proportion, of the body | 15 if the body is the same |
//! | of other sessions over TCP, and of UDP | | 70, in proportion | 30 if it is the same |
//! | a connection on which nothing was said | | | 100 if it was opened alike |
//!
//! In proportion: the lesser of both lengths by the greater. What is missing gets nothing, and what nobody recorded counts as an
//! exchange that gets nothing. The score is the mean over all exchanges, rounded down, so that 100 says that nothing differs.
//! Times are told beside it and are worth nothing: they are never the same twice. Heads of HTTP tell the time, and are not
//! compared beyond the status.

use std::collections::{BTreeMap, VecDeque};

use lucarne_model::{
    Moment,
    replay::{AnswerDifference, SessionOpening},
};

use super::{
    connection::Connection,
    hearing::{HeardTurn, HeardTurns, Hearing, Turn},
    http::{Answer, Body, Digest, HttpExchange, Reader},
    recorded::Datagrams,
    stream::Stream,
};

const FULL: u8 = 100;
const STATUS: u8 = 60;
const BODY_LENGTH: u8 = 25;
const LENGTH: u8 = 70;

/// An exchange as judged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judged {
    pub(super) points: u8,
    pub(super) difference: Option<AnswerDifference>,
    pub(super) recorded: u64,
    pub(super) answered: u64,
    /// From the last octet asked to the first of the answer.
    pub(super) recorded_latency: Option<u64>,
    pub(super) latency: Option<u64>,
}

/// When the piece with the last of so many octets was sent.
fn sent_at(stream: &Stream, times: impl Fn(usize) -> Option<Moment>, octets: usize) -> Option<Moment> {
    let piece = stream.pieces.iter().position(|piece| piece.end >= octets).filter(|_| octets > 0)?;
    times(piece)
}

fn micros(from: Option<Moment>, to: Option<Moment>) -> Option<u64> {
    from.zip(to).map(|(from, to)| to.as_micros().saturating_sub(from.as_micros()))
}

/// Judges a connection that was played; `sent` says when each piece was.
pub(super) fn connection(
    recorded: &Connection,
    turns: &[Turn],
    opening: SessionOpening,
    hearing: &Hearing,
    sent: &[Moment],
) -> Vec<Judged> {
    if opening != recorded.opening {
        return unopened(recorded, turns, opening);
    }
    if turns.is_empty() {
        return vec![nothing()];
    }
    let latencies = |asked: usize, recorded_answer: Option<Moment>, answer: Option<Moment>| {
        let then = sent_at(&recorded.sent, |piece| Some(recorded.sent.pieces[piece].at), asked);
        let now = sent_at(&recorded.sent, |piece| sent.get(piece).copied(), asked);
        (micros(then, recorded_answer), micros(now, answer))
    };
    match (hearing, &recorded.http) {
        (Hearing::Http(reader), Some(exchanges)) => {
            let judged = http(exchanges, reader, recorded.cut);
            let timed = judged.into_iter().enumerate().map(|(at, judged)| {
                let Some(exchange) = exchanges.get(at) else { return judged };
                let then = exchange.answer.map(|answer| answer.began);
                let now = reader.messages.get(at).map(|message| message.began);
                let (recorded_latency, latency) = latencies(exchange.asked, then, now);
                Judged { recorded_latency, latency, ..judged }
            });
            timed.collect()
        }
        (Hearing::Turns(heard), _) => {
            let last = turns.len() - 1;
            let judged = turns.iter().zip(&heard.turns).enumerate().map(|(at, (turn, one))| {
                let judged = self::turn(turn, *one, heard, recorded.cut && at == last);
                let first = recorded.answered.pieces.iter().find(|piece| piece.end > turn.answer.start);
                let then = first.filter(|_| !turn.answer.is_empty()).map(|piece| piece.at);
                let (recorded_latency, latency) = latencies(turn.asked, then, one.began);
                Judged { recorded_latency, latency, ..judged }
            });
            judged.collect()
        }
        (Hearing::Http(_), None) => Vec::new(),
    }
}

/// A connection that was opened otherwise: none of its answers is as recorded.
fn unopened(recorded: &Connection, turns: &[Turn], answered: SessionOpening) -> Vec<Judged> {
    let opening = AnswerDifference::Opening { recorded: recorded.opening, answered };
    let octets = recorded.answered.octets.len() as u64;
    let first = Judged { difference: Some(opening), recorded: octets, ..Judged::default() };
    let exchanges = recorded.http.as_ref().map_or(turns.len(), Vec::len);
    let others = (1..exchanges).map(|_| missing(0));
    std::iter::once(first).chain(others).collect()
}

/// By `cut` there may have been more answers than were recorded.
fn http(recorded: &[HttpExchange], heard: &Reader, cut: bool) -> Vec<Judged> {
    let heard_of = |at: usize| {
        let whole = heard.messages.get(at).map(|message| (message.status, message.body));
        // What is no HTTP is an answer too, though not one of HTTP.
        whole
            .or((heard.broken && at == heard.messages.len())
                .then_some((0, Body { octets: 0, digest: Digest::of(&[]) })))
    };
    let known = recorded.iter().enumerate().map(|(at, exchange)| match (exchange.answer, heard_of(at)) {
        (Some(answer), Some((status, body))) => http_answer(answer, status, body),
        (Some(answer), None) => missing(answer.body.octets),
        (None, Some((_, body))) if !cut => extra(body.octets),
        (None, _) => nothing(),
    });
    let known: Vec<Judged> = known.collect();
    let more = heard.messages.iter().skip(recorded.len()).filter(|_| !cut).map(|message| extra(message.body.octets));
    known.into_iter().chain(more).collect()
}

fn http_answer(recorded: Answer, status: u16, body: Body) -> Judged {
    let same_status = status == recorded.status;
    let (then, now) = (recorded.body.octets, body.octets);
    let same_content = body == recorded.body;
    let content = FULL - STATUS - BODY_LENGTH;
    let points = if same_status { STATUS } else { 0 }
        + proportion(BODY_LENGTH, then, now)
        + if same_content { content } else { 0 };
    let difference = if same_status {
        difference(then, now, same_content)
    } else {
        Some(AnswerDifference::Status { recorded: recorded.status, answered: status })
    };
    // Of what is no HTTP nothing is known, not even that it is as long.
    let points = if status == 0 { 0 } else { points };
    Judged { points, difference, recorded: then, answered: now, ..Judged::default() }
}

fn turn(turn: &Turn, heard: HeardTurn, all: &HeardTurns, may_have_more: bool) -> Judged {
    let recorded = turn.answer.len() as u64;
    let answered = if may_have_more { heard.octets.min(recorded) } else { heard.octets };
    let same = all.agreed >= turn.answer.end && answered == recorded;
    match (recorded, answered) {
        (0, 0) => nothing(),
        (0, _) => extra(answered),
        (_, 0) => missing(recorded),
        _ => octets(recorded, answered, same),
    }
}

/// Judges what came over UDP: each recorded answer, whichever way round they came, and each that was not recorded.
pub(super) fn datagrams(recorded: &Datagrams, heard: &[(Moment, u64, Digest)], sent: &[Moment]) -> Vec<Judged> {
    let digests: Vec<_> =
        recorded.answered.iter().map(|answer| (answer.octets.len() as u64, Digest::of(&answer.octets))).collect();
    let mut free = BTreeMap::<(u64, Digest), VecDeque<usize>>::new();
    for (at, (_, length, digest)) in heard.iter().enumerate() {
        free.entry((*length, *digest)).or_default().push_back(at);
    }
    // First those that are the same; what is left goes by its order.
    let same: Vec<_> = digests.iter().map(|key| free.get_mut(key).and_then(VecDeque::pop_front)).collect();
    let mut others: Vec<usize> = free.into_values().flatten().collect();
    others.sort_unstable();
    let mut others = others.into_iter();
    let mut judged: Vec<Judged> = Vec::with_capacity(digests.len());
    for (answer, same) in recorded.answered.iter().zip(same) {
        let length = answer.octets.len() as u64;
        let Some(at) = same.or_else(|| others.next()) else {
            judged.push(missing(length));
            continue;
        };
        let (came, answered, _) = heard[at];
        let asked = answer.after.checked_sub(1);
        let then = asked.and_then(|asked| recorded.sent.get(asked)).map(|(at, _)| *at);
        let now = asked.and_then(|asked| sent.get(asked)).copied();
        judged.push(Judged {
            recorded_latency: micros(then, Some(answer.at)),
            latency: micros(now, Some(came)),
            ..octets(length, answered, same.is_some())
        });
    }
    judged.extend(others.map(|at| extra(heard[at].1)));
    if judged.is_empty() { vec![nothing()] } else { judged }
}

fn octets(recorded: u64, answered: u64, same: bool) -> Judged {
    let points = proportion(LENGTH, recorded, answered) + if same { FULL - LENGTH } else { 0 };
    Judged { points, difference: difference(recorded, answered, same), recorded, answered, ..Judged::default() }
}

fn missing(recorded: u64) -> Judged {
    Judged { difference: Some(AnswerDifference::Missing), recorded, ..Judged::default() }
}

fn extra(octets: u64) -> Judged {
    Judged { difference: Some(AnswerDifference::Extra { octets }), answered: octets, ..Judged::default() }
}

/// Nothing was answered, as recorded.
fn nothing() -> Judged {
    Judged { points: FULL, ..Judged::default() }
}

fn difference(recorded: u64, answered: u64, same: bool) -> Option<AnswerDifference> {
    match () {
        () if recorded != answered => Some(AnswerDifference::Octets { recorded, answered }),
        () if !same => Some(AnswerDifference::Content),
        () => None,
    }
}

/// `most` for two lengths that are the same, less the more they differ.
fn proportion(most: u8, one: u64, other: u64) -> u8 {
    let (lesser, greater) = (u128::from(one.min(other)), u128::from(one.max(other)));
    let share = (u128::from(most) * lesser).checked_div(greater).unwrap_or(most.into());
    u8::try_from(share).unwrap_or(most)
}
