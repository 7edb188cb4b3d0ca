//! The worker's part in cuts: the steps as they are asked for, and what time, guests and other hosts have to do with them.
//!
//! Owns the waiting: for guests that read, for marks of other hosts, and how long each may take.
//!
//! A guest has taken a frame when it is in its memory. QEMU reads its socket only while the guest's receive ring has room, and
//! then holds one frame itself, of which nothing tells the outside; when the machine is stopped it drops that one
//! (`net_vm_change_state_handler` in QEMU's net/net.c). So behind the last frame goes one that means nothing: as soon as QEMU
//! has read that, all before it are in the guest, and what may be dropped is this one.

use std::{collections::BTreeMap, time::Duration};

use lucarne_model::{HostId, InterfaceId, MacAddress, Moment, ReplicaId, VpcId};
use tokio::sync::mpsc;

use super::{SHORTEST, Worker};
use crate::{
    Output,
    cut::{Cut, Mark},
    shell::cuts::{Begun, Closed, CutCommand, CutError, Pair},
};

/// How long guests may take to read.
const READING: Duration = Duration::from_millis(250);
/// How long the other hosts may take, while this one's guests stand still.
const MARKING: Duration = Duration::from_secs(2);
/// A mark that is not answered is sent again so soon.
const REPEAT: Duration = Duration::from_millis(5);
/// Batches that are read of one guest's socket when it stands still: more than it holds.
const BATCHES: usize = 16;
/// A frame that no guest's system knows: its type is for experiments (IEEE 802, section 9.2.4), its sender the router.
const PROBE: [u8; 60] = {
    let (mut frame, router) = ([0; 60], MacAddress::ROUTER.0);
    let mut at = 0;
    while at < 6 {
        (frame[at], frame[6 + at]) = (0xff, router[at]);
        at += 1;
    }
    (frame[12], frame[13]) = (0x88, 0xb6);
    frame
};

/// What a guest is to read before all is in its memory.
#[derive(Clone, Copy, Debug)]
enum ToRead {
    Frames,
    Probe,
}

#[derive(Debug)]
struct Reading {
    replica: ReplicaId,
    guests: BTreeMap<InterfaceId, ToRead>,
    until: Moment,
    reply: Begun,
}

#[derive(Debug)]
struct Closing {
    replica: ReplicaId,
    until: Moment,
    repeat: Moment,
    reply: Closed,
}

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Waits {
    reading: Vec<Reading>,
    closing: Vec<Closing>,
    /// Takes marks of cuts that are not known here.
    marks: mpsc::Sender<ReplicaId>,
}

impl Waits {
    pub(super) fn new(marks: mpsc::Sender<ReplicaId>) -> Self {
        Self { reading: Vec::new(), closing: Vec::new(), marks }
    }

    /// When to look again.
    pub(super) fn due(&self, now: Moment) -> Option<Moment> {
        let reading = (!self.reading.is_empty()).then(|| now.plus(SHORTEST));
        reading.into_iter().chain(self.closing.iter().map(|closing| closing.repeat.min(closing.until))).min()
    }

    /// Ends what waits for a cut that is no more.
    fn end(&mut self, replica: ReplicaId, why: &CutError) {
        for reading in self.reading.extract_if(.., |reading| reading.replica == replica) {
            let _ = reading.reply.send(Err(why.clone()));
        }
        for closing in self.closing.extract_if(.., |closing| closing.replica == replica) {
            let _ = closing.reply.send(Err(why.clone()));
        }
    }
}

// Whoever asked may have gone: then nobody wants the answer.
impl Worker {
    pub(super) fn obey_cut(&mut self, command: CutCommand) {
        match command {
            CutCommand::Begin { replica, vpc, hosts, reply } => match self.begin_cut(replica, vpc, hosts) {
                Ok(guests) => {
                    let until = self.now.plus(READING);
                    self.waits.reading.push(Reading { replica, guests, until, reply });
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            CutCommand::Close(replica, reply) => match self.close_cut(replica) {
                Ok(()) => {
                    let until = self.now.plus(MARKING);
                    self.waits.closing.push(Closing { replica, until, repeat: self.now, reply });
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            CutCommand::Release(replica, reply) => drop(reply.send(self.release_cut(replica))),
            CutCommand::GiveUp(replica, reply) => {
                self.give_up_cut(replica, &CutError::GivenUp);
                let _ = reply.send(Ok(()));
            }
            CutCommand::StandBy(pair, reply) => drop(reply.send(self.stand_by(pair))),
            CutCommand::Deliver(pair, reply) => drop(reply.send(self.deliver_cut(pair))),
        }
    }

    /// Returns the guests that are to read first.
    fn begin_cut(
        &mut self,
        replica: ReplicaId,
        vpc: VpcId,
        hosts: Vec<HostId>,
    ) -> Result<BTreeMap<InterfaceId, ToRead>, CutError> {
        let cutting = &mut self.outlet.cutting;
        if let Some(by) = cutting.of_network(vpc) {
            return Err(CutError::Busy { vpc, by });
        }
        let vni = self.switch.vni(vpc).ok_or(CutError::NoNetwork { vpc })?;
        cutting.begin(replica, (vpc, vni), Cut::begin(hosts));
        self.outlet.keep_what_waits(vpc);
        Ok(self.outlet.ports_of(vpc).into_iter().map(|(_, port)| (port, ToRead::Frames)).collect())
    }

    fn close_cut(&mut self, replica: ReplicaId) -> Result<(), CutError> {
        let not_begun = CutError::NotBegun { replica };
        let vpc = self.outlet.cutting.get(replica).filter(|taken| taken.cut.keeps()).ok_or(not_begun)?.vpc;
        for (port, _) in self.outlet.ports_of(vpc) {
            let taken = (0..BATCHES).map(|_| self.take_from_guest(port)).take_while(|frames| *frames > 0);
            taken.for_each(drop);
        }
        let connections = self.switch.connections(vpc);
        if let Some(taken) = self.outlet.cutting.get_mut(replica) {
            taken.connections = connections;
            taken.cut.mark();
        }
        Ok(())
    }

    fn release_cut(&mut self, replica: ReplicaId) -> Result<(), CutError> {
        let taken = self.outlet.cutting.get_mut(replica).ok_or(CutError::NotBegun { replica })?;
        let (released, vni) = (taken.cut.release(), taken.vni());
        for (host, frame) in released.to_hosts {
            self.outlet.tunnel.send(host, vni, &frame);
        }
        for kept in released.to_guests {
            self.give(kept.to, &kept.frame);
        }
        Ok(())
    }

    fn give_up_cut(&mut self, replica: ReplicaId, why: &CutError) {
        if self.release_cut(replica).is_ok() {
            self.outlet.cutting.remove(replica);
        }
        self.waits.end(replica, why);
    }

    fn give(&mut self, to: InterfaceId, frame: &[u8]) {
        if let Some(port) = self.switch.port(to) {
            self.outlet.to_guest(port, frame);
        }
    }

    fn stand_by(&mut self, pair: Pair) -> Result<(), CutError> {
        let not_begun = CutError::NotBegun { replica: pair.replica };
        let taken = self.outlet.cutting.get(pair.replica).ok_or(not_begun)?;
        let connections = taken.connections.get(&pair.source).cloned().unwrap_or_default();
        if let Some(port) = self.switch.port(pair.duplicate) {
            self.outlet.cutting.stand_still(pair.duplicate);
            self.switch.adopt(port, &connections, self.now, &mut self.outlet);
        }
        Ok(())
    }

    fn deliver_cut(&mut self, pair: Pair) -> Result<(), CutError> {
        self.stand_by(pair)?;
        let came = self.outlet.cutting.go_on(pair.duplicate);
        let taken = self.outlet.cutting.get_mut(pair.replica);
        let copies = taken.map(|taken| taken.cut.take_copies(pair.source)).unwrap_or_default();
        if let Some(port) = self.switch.port(pair.duplicate) {
            for frame in copies {
                self.switch.handle_copied_frame(port, &frame, self.now, &mut self.outlet);
            }
        }
        came.iter().for_each(|frame| self.give(pair.duplicate, frame));
        Ok(())
    }

    /// Another host has marked.
    pub(super) fn hear_mark(&mut self, host: HostId, replica: ReplicaId, mark: Mark) {
        let Some(taken) = self.outlet.cutting.get_mut(replica) else {
            // It is repeated: what does not fit is told then.
            let _ = self.waits.marks.try_send(replica);
            return;
        };
        let (heard, vni) = (taken.cut.handle_mark(host, mark), taken.vni());
        for frame in heard.freed {
            self.outlet.tunnel.send(host, vni, &frame);
        }
        if let Some(answer) = heard.answer {
            self.outlet.tunnel.say(host, &answer.encode(replica));
        }
    }

    /// Looks after what is waited for, at the end of each round.
    pub(super) fn go_on_with_cuts(&mut self) {
        for replica in self.outlet.cutting.overfull() {
            self.give_up_cut(replica, &CutError::TooMany);
        }
        for mut reading in std::mem::take(&mut self.waits.reading) {
            reading.guests.retain(|guest, to_read| !self.has_read(*guest, to_read));
            if reading.guests.is_empty() || self.now >= reading.until {
                let _ = reading.reply.send(Ok(reading.guests.into_keys().collect()));
            } else {
                self.waits.reading.push(reading);
            }
        }
        for closing in std::mem::take(&mut self.waits.closing) {
            self.go_on_closing(closing);
        }
    }

    /// Whether all that was given to a guest is in its memory.
    fn has_read(&mut self, guest: InterfaceId, to_read: &mut ToRead) -> bool {
        let Some(port) = self.outlet.port_of(guest) else { return true };
        match (port.is_read(), *to_read) {
            (Ok(false), _) => false,
            (Ok(true), ToRead::Frames) => {
                *to_read = if port.offer(&PROBE) { ToRead::Probe } else { ToRead::Frames };
                // Where nobody reads, nobody will.
                matches!((port.is_read(), &to_read), (Ok(true), ToRead::Probe))
            }
            (Ok(true), ToRead::Probe) => true,
            (Err(cause), _) => {
                tracing::warn!(%cause, %guest, "a port does not tell whether its guest has read");
                true
            }
        }
    }

    fn go_on_closing(&mut self, mut closing: Closing) {
        let replica = closing.replica;
        let Some(taken) = self.outlet.cutting.get(replica) else { return };
        if taken.cut.is_closed() {
            let _ = closing.reply.send(Ok(taken.cut.in_flight()));
        } else if self.now >= closing.until {
            let _ = closing.reply.send(Err(CutError::Silent { hosts: taken.cut.awaited() }));
            self.give_up_cut(replica, &CutError::GivenUp);
        } else {
            if self.now >= closing.repeat {
                closing.repeat = self.now.plus(REPEAT);
                for (host, mark) in taken.cut.reminders() {
                    self.outlet.tunnel.say(host, &mark.encode(replica));
                }
            }
            self.waits.closing.push(closing);
        }
    }
}
