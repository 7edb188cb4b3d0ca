//! The player: recorded clients played against a duplicate, as a state machine over frames and time.
//!
//! Owns which sessions are played when, and from which addresses. What is said in a session is the business of [`Conversation`]
//! and [`Sending`]; the report is that of [`Tally`]. The caller gives frames that came, asks again at the time that it was told,
//! and sends what there is to send; the player neither waits nor knows what time it is.
//!
//! Sessions begin as they did in the recording, at the speed that is asked for. At the maximum speed a session begins once as many
//! have ended as had ended in the recording when it began: what was one after the other stays so. The clients of an amplified
//! replay do the same at the same time, each from ends of its own.

use std::{
    collections::{BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use lucarne_model::{
    MacAddress, Moment,
    replay::{ReplayReport, ReplaySpeed},
};

use super::{
    conversation::{Conversation, Course},
    datagrams::Sending,
    ends::ClientEnds,
    packet::{self, Content, Protocol},
    recorded::{Recorded, Session, Talk},
    tally::{Take, Tally},
    timing::Timing,
};
use crate::AddressMap;

/// Sessions that are played at one time. What is more begins late, which the timing error tells.
const AT_ONE_TIME: usize = 10_000;
/// How long the stack of a connection that is over answers what comes late.
const LINGER: Duration = Duration::from_secs(1);

/// What is played, and how.
#[derive(Clone, Debug)]
pub struct Play {
    /// The recorded clients that are played.
    pub clients: BTreeSet<Ipv4Addr>,
    pub speed: ReplaySpeed,
    /// How often, one after the other.
    pub times: u32,
    /// By how many clients for each that was recorded.
    pub amplify: u32,
    /// What the recorded addresses are in the duplicate.
    pub addresses: AddressMap,
    /// The player's own on its link.
    pub mac: MacAddress,
    /// The largest packet that the network carries.
    pub mtu: usize,
    /// How long an answer is waited for that the recording has.
    pub patience: Duration,
    /// From which the connections' own numbers are made.
    pub seed: u64,
}

/// Why a recording cannot be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlayError {
    #[error(
        "the recording has no session of such clients: {already_open} connections were open before it began, {to_outside} sessions \
         went to outside, and {bystanders} clients serve others, so that their duplicates ask by themselves"
    )]
    Nothing { already_open: u64, to_outside: u64, bystanders: usize },
    #[error("a replay is played at least once, by at least one client for each that was recorded")]
    NoTimes,
}

#[derive(Debug)]
pub struct Player {
    recorded: Arc<Recorded>,
    play: Play,
    programme: Programme,
    ends: ClientEnds,
    live: HashMap<u64, Live>,
    by_ends: HashMap<(Protocol, [SocketAddrV4; 2]), u64>,
    /// When each of those that live is to be polled.
    timers: BTreeSet<(Moment, u64)>,
    begun: u64,
    /// Of each round.
    tallies: Vec<Tally>,
    leaving: Vec<Vec<u8>>,
}

/// Which session is next.
#[derive(Debug)]
struct Programme {
    /// The numbers of the sessions that are played, and how many had ended when each began.
    sessions: Vec<(usize, usize)>,
    round: u32,
    /// When the round began.
    began: Option<Moment>,
    /// How many sessions, with each client of an amplified replay, have begun and ended in this round.
    begun: usize,
    ended: usize,
}

#[derive(Debug)]
struct Live {
    take: Take,
    ends: (Protocol, [SocketAddrV4; 2]),
    part: Part,
    /// When it is to be polled.
    timer: Option<Moment>,
    /// When it was over.
    over: Option<Moment>,
}

#[derive(Debug)]
enum Part {
    Conversation(Box<Conversation>),
    Sending(Sending),
}

impl Player {
    pub fn new(recorded: Arc<Recorded>, play: Play) -> Result<Self, PlayError> {
        if play.times == 0 || play.amplify == 0 {
            return Err(PlayError::NoTimes);
        }
        let programme = Programme::new(&recorded.sessions, &play.clients);
        if programme.sessions.is_empty() {
            let left_out = recorded.left_out;
            let (already_open, to_outside) = (left_out.already_open, left_out.to_outside);
            return Err(PlayError::Nothing { already_open, to_outside, bystanders: 0 });
        }
        let tallies = (0..play.times).map(|_| Tally::new(&recorded.left_out, play.times)).collect();
        let (live, by_ends, timers, leaving, ends) = Default::default();
        Ok(Self { recorded, play, programme, ends, live, by_ends, timers, begun: 0, tallies, leaving })
    }

    /// Everything was played.
    pub fn is_over(&self) -> bool {
        self.programme.round == self.play.times
    }

    /// Of what is over by now: one for each round.
    pub fn reports(&self) -> Vec<ReplayReport> {
        self.tallies.iter().map(Tally::report).collect()
    }

    /// Frames to be sent, in order.
    pub fn frames(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.leaving.drain(..)
    }

    /// Takes a frame that came from the duplicate.
    pub fn handle_frame(&mut self, now: Moment, frame: &[u8]) {
        let Some(packet) = packet::parse(frame) else { return };
        let ends = (packet.protocol(), [packet.destination, packet.source]);
        let Some(id) = self.by_ends.get(&ends).copied() else { return };
        let Some(live) = self.live.get_mut(&id) else { return };
        let talk = &self.recorded.sessions[live.take.session].talk;
        match (&mut live.part, packet.content) {
            (Part::Conversation(conversation), Content::Tcp(_)) => conversation.handle_packet(packet.octets),
            (Part::Sending(sending), Content::Udp(octets)) => sending.handle_datagram(now, octets, talk),
            _ => return,
        }
        self.move_on(now, id);
    }

    /// Does what is due, and tells when to ask again; none when everything is over.
    pub fn poll(&mut self, now: Moment) -> Option<Moment> {
        loop {
            let due = self.timers.first().copied().filter(|(due, _)| *due <= now);
            if let Some((_, id)) = due {
                self.move_on(now, id);
            } else if !self.begin_next(now) && !self.end_round() {
                break;
            }
        }
        if self.is_over() {
            return None;
        }
        let next = self.next_beginning(now).filter(|_| self.live.len() < AT_ONE_TIME);
        self.timers.first().map(|(due, _)| *due).into_iter().chain(next).min()
    }

    /// Begins the session that is due; whether there was one.
    fn begin_next(&mut self, now: Moment) -> bool {
        let Some(due) = self.next_beginning(now).filter(|due| *due <= now) else { return false };
        if self.live.len() >= AT_ONE_TIME {
            return false;
        }
        let take = self.programme.take(self.play.amplify);
        self.programme.begun += 1;
        self.tallies[take.round as usize].timing_error.add(now.since(due).as_micros() as u64);
        self.begin(now, due, take);
        true
    }

    /// When the next session of the round is to begin, if it is known.
    fn next_beginning(&mut self, now: Moment) -> Option<Moment> {
        if self.is_over() {
            return None;
        }
        let amplify = self.play.amplify as usize;
        let (number, after) = *self.programme.sessions.get(self.programme.begun / amplify)?;
        let played = *self.programme.began.get_or_insert(now);
        let first = self.recorded.sessions[self.programme.sessions[0].0].began;
        let timing = Timing { speed: self.play.speed, recorded: first, played };
        match self.play.speed {
            ReplaySpeed::Permille(_) => Some(timing.due(self.recorded.sessions[number].began)),
            // Whoever could have begun earlier was begun then: the ends are what is waited for.
            ReplaySpeed::Max => (self.programme.ended >= after * amplify).then_some(now),
        }
    }

    fn begin(&mut self, now: Moment, due: Moment, take: Take) {
        let recorded = Arc::clone(&self.recorded);
        let session = &recorded.sessions[take.session];
        let timing = Timing { speed: self.play.speed, recorded: session.began, played: due };
        let course = Course { timing, patience: self.play.patience, mtu: self.play.mtu };
        let own = SocketAddrV4::new(self.play.addresses.address(*session.client.ip()), session.client.port());
        let server = SocketAddrV4::new(self.play.addresses.address(*session.server.ip()), session.server.port());
        let protocol = session.protocol;
        let taken = |ends| self.by_ends.contains_key(&(protocol, ends));
        let client = self.ends.choose(own, server, taken);
        let (id, ends) = (self.begun, [client, server]);
        self.begun += 1;
        let part = match &session.talk {
            Talk::Tcp(connection) => {
                let seed = self.play.seed.wrapping_add(id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                Part::Conversation(Box::new(Conversation::new(now, ends, seed, course, connection)))
            }
            Talk::Udp(_) | Talk::Packets(_) => Part::Sending(Sending::new(now, ends, course)),
        };
        let ends = (protocol, ends);
        self.by_ends.insert(ends, id);
        self.live.insert(id, Live { take, ends, part, timer: None, over: None });
        self.move_on(now, id);
    }

    /// Moves a session on, and has what comes of it sent, told, and ended.
    fn move_on(&mut self, now: Moment, id: u64) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let session = &self.recorded.sessions[live.take.session];
        let tally = &mut self.tallies[live.take.round as usize];
        live.part.poll(now, session, tally);
        let mac = self.play.mac;
        live.part.take_packets(|packet| self.leaving.push(packet::frame(mac, &packet)));
        if live.over.is_none() && live.part.is_over() {
            live.over = Some(now);
            tally.add(live.take, session, &live.part.judge(session));
            self.programme.ended += 1;
        }
        let next = live.part.next_poll(now, session);
        let lingers = live.over.map(|over| over.plus(LINGER));
        let gone = live.over.is_some() && next.is_none() || lingers.is_some_and(|end| end <= now);
        let timer = next.into_iter().chain(lingers).min();
        // What is due at once was done: it waits for something else.
        let timer = timer.map(|timer| timer.max(now.plus(Duration::from_micros(1))));
        let before = std::mem::replace(&mut live.timer, timer);
        if let Some(before) = before {
            self.timers.remove(&(before, id));
        }
        if gone {
            self.by_ends.remove(&live.ends);
            self.live.remove(&id);
        } else {
            self.timers.extend(timer.map(|timer| (timer, id)));
        }
    }

    /// Ends the round when everything in it is over; whether it was.
    fn end_round(&mut self) -> bool {
        let all = self.programme.sessions.len() * self.play.amplify as usize;
        let over = !self.is_over() && self.programme.ended == all;
        if over {
            let programme = &mut self.programme;
            (programme.round, programme.began, programme.begun, programme.ended) = (programme.round + 1, None, 0, 0);
        }
        over
    }
}

impl Programme {
    fn new(sessions: &[Session], clients: &BTreeSet<Ipv4Addr>) -> Self {
        let is_played = |at: &usize| clients.contains(sessions[*at].client.ip());
        let played: Vec<usize> = (0..sessions.len()).filter(is_played).collect();
        let mut ends: Vec<Moment> = played.iter().map(|at| sessions[*at].ended).collect();
        ends.sort_unstable();
        let after = |at: &usize| ends.partition_point(|ended| *ended < sessions[*at].began);
        let sessions = played.iter().map(|at| (*at, after(at))).collect();
        Self { sessions, round: 0, began: None, begun: 0, ended: 0 }
    }

    /// What begins next.
    fn take(&self, amplify: u32) -> Take {
        let (number, copy) = (self.begun / amplify as usize, self.begun % amplify as usize);
        Take { session: self.sessions[number].0, round: self.round, copy: copy as u32 }
    }
}

impl Part {
    fn poll(&mut self, now: Moment, session: &Session, tally: &mut Tally) {
        match (self, &session.talk) {
            (Self::Conversation(conversation), Talk::Tcp(recorded)) => {
                conversation.poll(now, recorded, &mut tally.timing_error);
            }
            (Self::Sending(sending), talk) => sending.poll(now, talk, &mut tally.timing_error),
            (Self::Conversation(_), _) => {}
        }
    }

    fn take_packets(&mut self, take: impl FnMut(Vec<u8>)) {
        match self {
            Self::Conversation(conversation) => conversation.packets().for_each(take),
            Self::Sending(sending) => sending.packets().for_each(take),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Conversation(conversation) => conversation.is_over(),
            Self::Sending(sending) => sending.is_over(),
        }
    }

    fn judge(&self, session: &Session) -> Vec<super::verdict::Judged> {
        match (self, &session.talk) {
            (Self::Conversation(conversation), Talk::Tcp(recorded)) => conversation.judge(recorded),
            (Self::Sending(sending), talk) => sending.judge(talk),
            (Self::Conversation(_), _) => Vec::new(),
        }
    }

    fn next_poll(&mut self, now: Moment, session: &Session) -> Option<Moment> {
        match (self, &session.talk) {
            (Self::Conversation(conversation), Talk::Tcp(recorded)) => conversation.next_poll(now, recorded),
            (Self::Sending(sending), talk) => sending.next_poll(talk),
            (Self::Conversation(_), _) => None,
        }
    }
}
