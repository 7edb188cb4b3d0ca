//! The switch's thread: sleeps until something comes, takes a batch of it through the switch, and sends what comes out.
//!
//! Owns the loop, and everything in it. It reads the clock once a round; rounds are short, because every source gives at
//! most one batch in each.

use std::{io, time::Duration};

use lucarne_model::{EndReason, FlowRecord, InterfaceId, Moment, ReplicaId};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{
    Clock, Counters, ShellError,
    cuts::CutCommand,
    outlet::Outlet,
    poller::{Doorbell, Event, Poller},
    taps::Tap,
};
use crate::{
    Plan, PortIndex, Switch,
    cut::{Mark, Origin},
    metadata::{Metadata, Outgoing},
    ports::{self, Batch, Port},
    tunnel::{MAX_DATAGRAM, Received},
};

mod cuts;

/// Datagrams of the tunnel in one round.
const DATAGRAMS: usize = 64;
/// How often the tunnel looks at its timers.
const TUNNEL_TICK: Duration = Duration::from_millis(250);
/// The shortest sleep: whatever says that it is due at once, again and again, does not keep a core busy.
const SHORTEST: Duration = Duration::from_micros(500);

/// What may be asked of the thread.
#[derive(Debug)]
pub(super) enum Command {
    Apply(Box<Plan>, oneshot::Sender<Result<(), ShellError>>),
    Counters(oneshot::Sender<Counters>),
    Cut(CutCommand),
    /// What flows with a packet since then have counted: of the stretch of the table that begins there.
    Flows {
        from: usize,
        since: Moment,
        reply: oneshot::Sender<Stretch>,
    },
    Taps(Vec<Tap>),
    Stop(oneshot::Sender<()>),
}

/// Of a stretch of the flow table, and where the next one begins.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) records: Vec<FlowRecord>,
    pub(super) next: Option<usize>,
}

/// All that the thread has.
#[derive(Debug)]
pub(super) struct Worker {
    switch: Switch,
    metadata: Metadata,
    outlet: Outlet,
    poller: Poller,
    bell: Doorbell,
    commands: mpsc::Receiver<Command>,
    clock: Clock,
    now: Moment,
    tunnel_tick: Moment,
    batch: Batch,
    datagram: Box<[u8]>,
    answers: Vec<Outgoing>,
    waits: cuts::Waits,
}

/// Why the loop ended: asked to, with someone who waits for it, or because nobody is left to ask.
type End = Option<oneshot::Sender<()>>;

impl Worker {
    pub(super) fn new(
        switch: Switch,
        metadata: Metadata,
        outlet: Outlet,
        poller: Poller,
        bell: Doorbell,
        (commands, marks): (mpsc::Receiver<Command>, mpsc::Sender<ReplicaId>),
    ) -> Self {
        let clock = Clock::start();
        let now = clock.now();
        let batch = outlet.batch_of_guest_frames(ports::TOGETHER);
        let (datagram, answers) = (vec![0; MAX_DATAGRAM].into_boxed_slice(), Vec::new());
        Self {
            switch,
            metadata,
            outlet,
            poller,
            bell,
            commands,
            clock,
            now,
            tunnel_tick: now,
            batch,
            datagram,
            answers,
            waits: cuts::Waits::new(marks),
        }
    }

    /// The thread's whole life.
    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        let end = loop {
            if let Some(end) = self.round(&mut events) {
                break end;
            }
        };
        self.outlet.be_patient();
        self.switch.flush(EndReason::AgentRestart, &mut self.outlet);
        self.outlet.offer_all(&self.poller);
        // Sockets are closed before anyone hears of the end, so that the next switch can have their places.
        drop(self);
        if let Some(reply) = end {
            let _ = reply.send(());
        }
    }

    /// Sleeps, then does what there is to do; something when it is the end.
    fn round(&mut self, events: &mut Vec<Event>) -> Option<End> {
        let limit = self.time_to_sleep();
        if let Err(cause) = self.poller.wait(limit, events)
            && cause.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(%cause, "the switch cannot wait for its sockets");
            std::thread::sleep(TUNNEL_TICK);
        }
        self.now = self.clock.now();
        self.outlet.taps.now = self.now;
        let mut end = None;
        for event in events.iter() {
            match *event {
                Event::Bell => end = self.obey(),
                Event::Tunnel => self.take_from_tunnel(),
                Event::FromGuest(port) => drop(self.take_from_guest(port)),
                Event::RoomAtGuest(port) => self.outlet.offer(port, &self.poller),
            }
        }
        self.keep_time();
        self.serve_metadata();
        self.go_on_with_cuts();
        self.outlet.offer_all(&self.poller);
        end
    }

    fn time_to_sleep(&mut self) -> Option<Duration> {
        let tunnel = self.outlet.tunnel.has_peers().then_some(self.tunnel_tick);
        let due = [self.switch.next_poll(), self.metadata.next_poll(self.now), tunnel, self.waits.due(self.now)];
        due.into_iter().flatten().min().map(|due| due.since(self.now).max(SHORTEST))
    }

    /// Carries out the commands that wait.
    fn obey(&mut self) -> Option<End> {
        self.bell.hush();
        loop {
            match self.commands.try_recv() {
                // Whoever asked may have gone: then nobody wants the answer.
                Ok(Command::Apply(plan, reply)) => drop(reply.send(self.apply(&plan))),
                Ok(Command::Counters(reply)) => drop(reply.send(self.counters())),
                Ok(Command::Cut(command)) => self.obey_cut(command),
                Ok(Command::Flows { from, since, reply }) => drop(reply.send(self.look_at_flows(from, since))),
                Ok(Command::Taps(taps)) => self.outlet.taps.set(taps),
                Ok(Command::Stop(reply)) => return Some(Some(reply)),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => return Some(None),
            }
        }
    }

    /// What can fail is done first, so that a plan holds whole or not at all.
    fn apply(&mut self, plan: &Plan) -> Result<(), ShellError> {
        let bound = self.outlet.bind(plan)?;
        self.outlet.tunnel.set_peers(&plan.peers).map_err(ShellError::Tunnel)?;
        self.switch.apply(plan, self.now, &mut self.outlet);
        let switch = &self.switch;
        let port_of = |interface: InterfaceId| switch.port(interface);
        self.metadata.apply(plan, port_of);
        self.outlet.cutting.keep_ports(|interface| switch.port(interface).is_some());
        self.outlet.place(plan, bound, &self.poller, port_of)
    }

    fn look_at_flows(&self, from: usize, since: Moment) -> Stretch {
        let mut records = Vec::new();
        let next = self.switch.look_at_flows(from, since, &mut |record| records.push(record));
        Stretch { records, next }
    }

    fn counters(&self) -> Counters {
        let frames = self.switch.frame_counters();
        let mut dropped = self.outlet.dropped();
        dropped.insert("metadata-refused", self.metadata.dropped());
        dropped.retain(|_, count| *count > 0);
        dropped.extend(&frames.dropped);
        Counters {
            frames,
            tunnel: self.outlet.tunnel.counters(),
            dropped,
            records_lost: self.outlet.records_lost(),
            live_flows: self.switch.live_flows(),
            live_connections: self.switch.live_connections(),
            interfaces: self.switch.interface_counters(),
        }
    }

    /// Takes one batch through the switch; how many frames that was.
    fn take_from_guest(&mut self, at: usize) -> usize {
        self.batch.clear();
        let Some(guest) = self.outlet.guest_mut(at) else { return 0 };
        if let Err(cause) = guest.port.receive(&mut self.batch) {
            tracing::warn!(%cause, port = at, "a port's socket cannot be read");
        }
        self.outlet.tap_sent(at, &self.batch);
        ports::forward(&mut self.batch, PortIndex(at as u32), &mut self.switch, self.now, &mut self.outlet);
        self.batch.len()
    }

    fn take_from_tunnel(&mut self) {
        for _ in 0..DATAGRAMS {
            match self.outlet.tunnel.receive(&mut self.datagram) {
                Received::Frame { host, vni, frame } => {
                    self.outlet.origin = Origin::Host(host);
                    self.switch.handle_tunnel_frame(host, vni, frame, self.now, &mut self.outlet);
                }
                Received::Word { host, word } => {
                    if let Some((replica, mark)) = Mark::decode(word) {
                        self.hear_mark(host, replica, mark);
                    }
                }
                Received::Other => {}
                Received::Empty => break,
            }
        }
        self.outlet.origin = Origin::Here;
    }

    fn keep_time(&mut self) {
        if self.switch.next_poll().is_some_and(|due| due <= self.now) {
            self.switch.poll(self.now, &mut self.outlet);
        }
        if self.tunnel_tick <= self.now {
            self.outlet.tunnel.tick();
            self.tunnel_tick = self.now.plus(TUNNEL_TICK);
        }
    }

    fn serve_metadata(&mut self) {
        for (port, frame) in self.outlet.to_metadata.drain(..) {
            self.metadata.handle_frame(port, &frame);
        }
        self.metadata.poll(self.now, &mut self.answers);
        for (port, frame) in self.answers.drain(..) {
            self.switch.handle_metadata_frame(port, &frame, self.now, &mut self.outlet);
        }
    }
}
