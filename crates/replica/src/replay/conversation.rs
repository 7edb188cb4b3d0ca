//! One recorded connection, played: what its client says, and when.
//!
//! Owns the order: a piece is said when it is due and what it followed upon in the recording has come. Who waits in vain goes on
//! after [`Course::patience`], so that a duplicate that answers otherwise is asked everything too. Packets are the business of
//! [`TcpClient`], what the answers are worth that of [`verdict`](super::verdict).

use std::{net::SocketAddrV4, time::Duration};

use lucarne_model::{Moment, replay::SessionOpening};

use super::{
    connection::{Connection, Ending},
    hearing::{Gate, Hearing, Turn, turns},
    stream::Mark,
    tally::Times,
    tcp_client::TcpClient,
    timing::Timing,
    verdict::{self, Judged},
};

/// How a session is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub(super) timing: Timing,
    /// How long an answer is waited for.
    pub(super) patience: Duration,
    pub(super) mtu: usize,
}

#[derive(Debug)]
pub(super) struct Conversation {
    client: TcpClient,
    course: Course,
    hearing: Hearing,
    turns: Vec<Turn>,
    /// Octets heard, and said.
    heard: usize,
    said: usize,
    /// When each piece was begun to be said.
    sent: Vec<Moment>,
    /// When what the next step follows upon had come.
    opened: Option<Moment>,
    /// When anything was heard or said last.
    stirred: Moment,
    over: bool,
}

/// What the client does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Says the piece of that number.
    Say(usize, Mark),
    Finish(Mark),
    Reset(Mark),
    /// Nothing, but hear; and leave when all that was recorded has come, if it never ended the connection.
    Hear {
        leaves: bool,
    },
}

impl Conversation {
    pub(super) fn new(now: Moment, ends: [SocketAddrV4; 2], seed: u64, course: Course, recorded: &Connection) -> Self {
        let client = TcpClient::new(now, ends, seed, course.mtu, recorded.sent.octets.len());
        let turns = turns(recorded);
        let hearing = Hearing::of(recorded, turns.len());
        let (heard, said, sent, opened) = Default::default();
        Self { client, course, hearing, turns, heard, said, sent, opened, stirred: now, over: false }
    }

    /// All that will be said and heard has been.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn judge(&self, recorded: &Connection) -> Vec<Judged> {
        verdict::connection(recorded, &self.turns, self.client.opening(), &self.hearing, &self.sent)
    }

    pub(super) fn packets(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.client.packets()
    }

    pub(super) fn handle_packet(&mut self, packet: &[u8]) {
        self.client.handle_packet(packet);
    }

    /// Moves it on as far as it goes at `now`.
    pub(super) fn poll(&mut self, now: Moment, recorded: &Connection, late: &mut Times) {
        loop {
            self.hear(now, recorded);
            if self.over || !self.act(now, recorded, late) {
                break;
            }
            self.stirred = now;
        }
        let gives_up = || self.patience_ends(recorded).is_some_and(|end| end <= now);
        if !self.over && (self.client.is_over() || gives_up()) {
            self.leave();
            self.hear(now, recorded);
        }
    }

    fn hear(&mut self, now: Moment, recorded: &Connection) {
        let before = self.heard;
        let Self { client, hearing, turns, heard, said, over, .. } = self;
        client.poll(now, |octets| {
            if !*over {
                hearing.take(octets, now, *said, recorded, turns);
                *heard += octets.len();
            }
        });
        if self.heard != before {
            self.stirred = now;
        }
    }

    /// Ends it, if it has not ended.
    fn leave(&mut self) {
        self.over = true;
        self.hearing.end(self.client.server_ended());
        if !self.client.is_over() {
            self.client.reset();
        }
    }

    fn next(&self, recorded: &Connection) -> Step {
        if self.client.opening() != SessionOpening::Accepted || self.client.is_closed() {
            return Step::Hear { leaves: false };
        }
        // The last one that was begun may not be whole.
        let begun = self.sent.len();
        let number = begun - usize::from(begun > 0 && recorded.sent.pieces[begun - 1].end > self.said);
        match (recorded.sent.pieces.get(number), recorded.ending) {
            (Some(piece), _) => Step::Say(number, Mark { at: piece.at, after: piece.after }),
            (None, Ending::Finished(mark)) => Step::Finish(mark),
            (None, Ending::Reset(mark)) => Step::Reset(mark),
            (None, Ending::Open) => Step::Hear { leaves: true },
        }
    }

    /// Takes the next step, if it can be taken.
    fn act(&mut self, now: Moment, recorded: &Connection, late: &mut Times) -> bool {
        let step = self.next(recorded);
        if let Step::Hear { leaves } = step {
            if leaves && self.has_come(recorded.answered.octets.len(), recorded) {
                self.leave();
            }
            return self.over;
        }
        let Some(due) = self.due(now, step, recorded).filter(|due| *due <= now) else { return false };
        match step {
            Step::Say(number, _) => return self.say(now, number, due, recorded, late),
            Step::Finish(_) => self.client.finish(),
            Step::Reset(_) | Step::Hear { .. } => self.client.reset(),
        }
        late.add(now.since(due).as_micros() as u64);
        true
    }

    fn say(&mut self, now: Moment, number: usize, due: Moment, recorded: &Connection, late: &mut Times) -> bool {
        let end = recorded.sent.pieces[number].end;
        let taken = self.client.say(&recorded.sent.octets[self.said..end]);
        if taken == 0 {
            return false;
        }
        if self.sent.len() == number {
            self.sent.push(now);
            late.add(now.since(due).as_micros() as u64);
        }
        self.said += taken;
        if self.said == end {
            self.opened = None;
        }
        true
    }

    /// When a step should be taken; none while something must come first.
    fn due(&mut self, now: Moment, step: Step, recorded: &Connection) -> Option<Moment> {
        let (Step::Say(_, mark) | Step::Finish(mark) | Step::Reset(mark)) = step else { return None };
        if self.opened.is_none() {
            let waited = self.patience_ends(recorded).is_some_and(|end| end <= now);
            self.opened = (waited || self.has_come(mark.after, recorded)).then_some(now);
        }
        self.opened.map(|opened| opened.max(self.course.timing.due(mark.at)))
    }

    /// Whether so much of the server's stream has come as it was recorded, or nothing more will come.
    fn has_come(&self, after: usize, recorded: &Connection) -> bool {
        let gate = Gate::after(after, recorded.http.as_deref());
        self.client.server_ended()
            || match gate {
                Gate::Octets(octets) => self.heard >= octets,
                Gate::Answers(answers) => self.hearing.answers() >= answers,
            }
    }

    /// Until when the client waits for the server; none while it waits for the time of its next step.
    fn patience_ends(&self, recorded: &Connection) -> Option<Moment> {
        let from = match (self.next(recorded), self.opened) {
            (Step::Hear { .. }, _) => self.stirred,
            (Step::Say(_, mark) | Step::Finish(mark) | Step::Reset(mark), opened) => {
                let due = self.course.timing.due(mark.at);
                if opened.is_some() && due > self.stirred { return None } else { due.max(self.stirred) }
            }
        };
        Some(from.plus(self.course.patience))
    }

    /// When it is to be polled next.
    pub(super) fn next_poll(&mut self, now: Moment, recorded: &Connection) -> Option<Moment> {
        let stack = self.client.next_poll(now);
        if self.over {
            return stack;
        }
        let step = match self.next(recorded) {
            Step::Say(_, mark) | Step::Finish(mark) | Step::Reset(mark) if self.opened.is_some() => {
                Some(self.course.timing.due(mark.at)).filter(|due| *due > now)
            }
            _ => None,
        };
        [stack, step, self.patience_ends(recorded)].into_iter().flatten().min()
    }
}
