//! Cuts of made-up networks: any number of hosts, guests that send numbered frames, a tunnel that loses, and somebody who
//! chooses what happens next.
//!
//! The law: at a cut that every host has closed, what a guest had received when it stood still and the copies for its duplicate
//! are together what the other had sent it when that stood still, in order, without what the tunnel lost. And whatever becomes
//! of the cut, the guests themselves get what was sent to them, in order, once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// A guest by its number, and a frame by sender, receiver and its number between the two.
type Guest = usize;
type Frame = (Guest, Guest, u32);
/// How many frames a guest had sent to each other guest.
type Sent = BTreeMap<(Guest, Guest), u32>;

enum Message {
    Frame(Vec<u8>),
    Mark(Mark),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(Guest, Guest),
    /// The switch takes one frame from a guest.
    Take(Guest),
    /// One datagram arrives, or is lost.
    Carry {
        from: usize,
        to: usize,
        lost: bool,
    },
    Begin(usize),
    Close(usize),
    Remind(usize),
    Release(usize),
    GiveUp(usize),
}

/// Guest `g` is on host `g % hosts`.
struct Net {
    hosts: usize,
    cuts: Vec<Option<Cut>>,
    given_up: bool,
    /// What guests have sent and their switch has not taken.
    outboxes: Vec<VecDeque<Frame>>,
    sent: Sent,
    received: Vec<Vec<Frame>>,
    channels: BTreeMap<(usize, usize), VecDeque<Message>>,
    lost: BTreeSet<Frame>,
    /// As they stood still.
    still: BTreeMap<Guest, (Sent, Vec<Frame>)>,
}

impl Net {
    fn new(hosts: usize, guests: usize) -> Self {
        Self {
            hosts,
            cuts: vec![None; hosts],
            given_up: false,
            outboxes: vec![VecDeque::new(); guests],
            sent: BTreeMap::new(),
            received: vec![Vec::new(); guests],
            channels: BTreeMap::new(),
            lost: BTreeSet::new(),
            still: BTreeMap::new(),
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Send(from, to) if from != to => {
                let number = self.sent.entry((from, to)).or_default();
                *number += 1;
                self.outboxes[from].push_back((from, to, *number));
            }
            Step::Send(..) => {}
            Step::Take(guest) => self.take(guest),
            Step::Carry { from, to, lost } => self.carry(from, to, lost),
            Step::Begin(host) if self.cuts[host].is_none() && !self.given_up => {
                self.cuts[host] = Some(Cut::begin((0..self.hosts).filter(|other| *other != host).map(id)));
            }
            Step::Close(host) => self.close(host),
            Step::Remind(host) => {
                let reminders = self.cuts[host].as_ref().map(Cut::reminders).unwrap_or_default();
                for (to, mark) in reminders {
                    self.put(host, number(to), Message::Mark(mark));
                }
            }
            Step::Release(host) if self.cuts[host].as_ref().is_some_and(Cut::is_closed) => self.release(host),
            Step::GiveUp(host) => {
                self.given_up = true;
                self.release(host);
                self.cuts[host] = None;
            }
            Step::Begin(_) | Step::Release(_) => {}
        }
    }

    fn guests_of(&self, host: usize) -> Vec<Guest> {
        (0..self.outboxes.len()).filter(|guest| guest % self.hosts == host).collect()
    }

    fn take(&mut self, guest: Guest) {
        let Some(frame) = self.outboxes[guest].pop_front() else { return };
        let (here, there) = (guest % self.hosts, frame.1 % self.hosts);
        if here == there {
            return self.deliver(here, Origin::Here, frame);
        }
        match self.cuts[here].as_mut().filter(|cut| cut.withholds_from(id(there))) {
            Some(cut) => cut.withhold(id(there), &encode(frame)),
            None => self.put(here, there, Message::Frame(encode(frame))),
        }
    }

    fn put(&mut self, from: usize, to: usize, message: Message) {
        self.channels.entry((from, to)).or_default().push_back(message);
    }

    fn deliver(&mut self, host: usize, origin: Origin, frame: Frame) {
        match self.cuts[host].as_mut().filter(|cut| cut.keeps()) {
            Some(cut) => cut.keep(interface(frame.1), origin, &encode(frame)),
            None => self.received[frame.1].push(frame),
        }
    }

    fn carry(&mut self, from: usize, to: usize, lost: bool) {
        match self.channels.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
            Some(Message::Frame(frame)) if lost => drop(self.lost.insert(decode(&frame))),
            Some(Message::Frame(frame)) => self.deliver(to, Origin::Host(id(from)), decode(&frame)),
            Some(Message::Mark(mark)) if !lost => {
                let heard = self.cuts[to].as_mut().map(|cut| cut.handle_mark(id(from), mark)).unwrap_or_default();
                for frame in heard.freed {
                    self.put(to, from, Message::Frame(frame));
                }
                if let Some(answer) = heard.answer {
                    self.put(to, from, Message::Mark(answer));
                }
            }
            _ => {}
        }
    }

    /// The guests of a host stand still, what they sent is taken, and the host marks. They may send again at once.
    fn close(&mut self, host: usize) {
        if self.cuts[host].as_ref().is_none_or(|cut| cut.phase != Phase::Begun) {
            return;
        }
        for guest in self.guests_of(host) {
            let sent = self.sent.iter().filter(|((from, _), _)| *from == guest).map(|(pair, n)| (*pair, *n)).collect();
            self.still.insert(guest, (sent, self.received[guest].clone()));
            while !self.outboxes[guest].is_empty() {
                self.take(guest);
            }
        }
        self.cuts[host].as_mut().unwrap().mark();
        self.run(Step::Remind(host));
    }

    fn release(&mut self, host: usize) {
        let released = self.cuts[host].as_mut().map(Cut::release).unwrap_or_default();
        for kept in released.to_guests {
            let frame = decode(&kept.frame);
            assert_eq!(kept.to, interface(frame.1));
            self.received[frame.1].push(frame);
        }
        for (to, frame) in released.to_hosts {
            self.put(host, number(to), Message::Frame(frame));
        }
    }

    /// Nothing more is lost, and everybody does what is still to be done.
    fn settle(&mut self) {
        for round in 0..6 {
            for host in 0..self.hosts {
                if self.given_up {
                    self.run(Step::GiveUp(host));
                }
                [Step::Begin(host), Step::Close(host), Step::Remind(host)].into_iter().for_each(|step| self.run(step));
                if round > 3 {
                    self.run(Step::Release(host));
                }
            }
            (0..self.outboxes.len()).for_each(|guest| {
                while !self.outboxes[guest].is_empty() {
                    self.take(guest)
                }
            });
            while let Some((from, to)) = self.channels.iter().find(|(_, queue)| !queue.is_empty()).map(|(at, _)| *at) {
                self.carry(from, to, false);
            }
        }
    }

    /// What was sent from one to the other up to a number, and not lost.
    fn arrived(&self, from: Guest, to: Guest, up_to: u32) -> Vec<Frame> {
        (1..=up_to).map(|number| (from, to, number)).filter(|frame| !self.lost.contains(frame)).collect()
    }

    fn check(&mut self) {
        let guests = 0..self.outboxes.len();
        let copies = |to: Guest| {
            let cut = self.cuts[to % self.hosts].as_mut();
            cut.map(|cut| cut.take_copies(interface(to))).unwrap_or_default()
        };
        let copies: Vec<Vec<Frame>> =
            guests.clone().map(copies).map(|frames| frames.iter().map(|frame| decode(frame)).collect()).collect();
        for (from, to) in guests.clone().flat_map(|from| guests.clone().map(move |to| (from, to))) {
            let of_pair = |frames: &[Frame]| -> Vec<Frame> {
                frames.iter().copied().filter(|(sender, ..)| *sender == from).collect()
            };
            let sent = self.sent.get(&(from, to)).copied().unwrap_or(0);
            assert_eq!(of_pair(&self.received[to]), self.arrived(from, to, sent), "the originals {from} {to}");
            if self.given_up {
                continue;
            }
            let before = self.still[&from].0.get(&(from, to)).copied().unwrap_or(0);
            let seen = [of_pair(&self.still[&to].1), of_pair(&copies[to])].concat();
            assert_eq!(seen, self.arrived(from, to, before), "the duplicates {from} {to}");
        }
    }
}

fn id(host: usize) -> HostId {
    HostId::from_bits(host as u128)
}
fn number(host: HostId) -> usize {
    host.bits() as usize
}
fn interface(guest: Guest) -> InterfaceId {
    InterfaceId::from_bits(guest as u128)
}
fn encode((from, to, number): Frame) -> Vec<u8> {
    [&[from as u8, to as u8][..], &number.to_be_bytes()].concat()
}
fn decode(frame: &[u8]) -> Frame {
    (frame[0].into(), frame[1].into(), u32::from_be_bytes(frame[2..].try_into().unwrap()))
}

fn steps(hosts: usize, guests: usize, gives_up: bool) -> impl Strategy<Value = Vec<Step>> {
    let (host, guest) = (0..hosts, 0..guests);
    let step = prop_oneof![
        12 => (guest.clone(), guest.clone()).prop_map(|(from, to)| Step::Send(from, to)),
        12 => guest.prop_map(Step::Take),
        14 => (host.clone(), host.clone(), prop::bool::weighted(0.2))
            .prop_map(|(from, to, lost)| Step::Carry { from, to, lost }),
        2 => host.clone().prop_map(Step::Begin),
        1 => host.clone().prop_map(Step::Close),
        2 => host.clone().prop_map(Step::Remind),
        2 => host.clone().prop_map(Step::Release),
        u32::from(gives_up) => host.prop_map(Step::GiveUp),
    ];
    prop::collection::vec(step, 0..300)
}

fn network() -> impl Strategy<Value = (usize, usize, Vec<Step>)> {
    (1usize..5, 2usize..7, any::<bool>())
        .prop_flat_map(|(hosts, guests, gives_up)| (Just(hosts), Just(guests), steps(hosts, guests, gives_up)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_frame_is_lost_doubled_or_reordered_by_a_cut((hosts, guests, steps) in network()) {
        let mut net = Net::new(hosts, guests);
        steps.into_iter().for_each(|step| net.run(step));
        net.settle();
        net.check();
    }
}

#[test]
fn a_cut_that_keeps_too_much_says_so_while_all_of_it_still_fits() {
    let mut cut = Cut::begin([]);
    for _ in 0..FOR_ONE_GUEST {
        cut.keep(interface(1), Origin::Here, b"frame");
        cut.keep(interface(2), Origin::Here, b"frame");
    }
    assert!(!cut.is_overfull());
    cut.keep(interface(2), Origin::Here, b"frame");
    assert!(cut.is_overfull());
    assert_eq!(cut.release().to_guests.len(), 2 * FOR_ONE_GUEST + 1);
    assert!(!cut.is_overfull());
}

#[test]
fn what_was_in_flight_is_given_to_a_duplicate_once_and_not_before_its_source() {
    let mut cut = Cut::begin([]);
    cut.keep(interface(1), Origin::Here, b"before");
    cut.mark();
    cut.keep(interface(1), Origin::Here, b"after");
    assert_eq!((cut.in_flight(), cut.take_copies(interface(1)).len()), (1, 0));
    assert_eq!(cut.release().to_guests.len(), 2);
    assert_eq!(cut.take_copies(interface(1)), [b"before"]);
    assert!(cut.take_copies(interface(1)).is_empty());
}

#[test]
fn a_host_that_has_not_marked_acknowledges_nothing() {
    let mut cut = Cut::begin([id(1)]);
    let heard = cut.handle_mark(id(1), Mark { has_yours: false, asks: true });
    assert_eq!(heard, Heard::default());
    cut.mark();
    assert_eq!(cut.reminders(), [(id(1), Mark { has_yours: true, asks: true })]);
}
