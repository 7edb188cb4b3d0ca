//! Admission: is this packet's flow allowed at this port? One look-up in the flow table for each packet.
//!
//! Owns the order of the questions: a known connection passes by its entry alone; one that was judged under an older plan
//! is judged again; what is new is judged by the groups, then routed, then begins a flow. Whatever is refused is counted in
//! a flow of its own, with its reason.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_flows::{FlowKey, Opening, Phase, Side, Slot, phase::RST};
use lucarne_model::{EndReason, Moment, RuleId, flow::Direction};

use crate::{
    exchange::{self, Beginning},
    fabric::Port,
    output::{Output, PortIndex},
    parse::{self, Headers},
    routing::Hop,
    switch::Switch,
};

/// A packet at a port, on its way to or from the guest.
#[derive(Clone, Copy)]
pub(crate) struct Passage<'a> {
    pub(crate) port: PortIndex,
    pub(crate) direction: Direction,
    pub(crate) frame: &'a [u8],
    pub(crate) headers: &'a Headers,
    pub(crate) now: Moment,
}

/// How a first packet that is allowed begins its flow.
struct Start {
    phase: Phase,
    side: Side,
    rule: Option<RuleId>,
}

impl Switch {
    /// Counts the packet in its flow and says where it goes, or drops it. A packet to the guest has arrived already.
    #[inline]
    pub(crate) fn admit(&mut self, passage: &Passage<'_>, out: &mut impl Output) -> Option<Hop> {
        let headers = passage.headers;
        if let Some(port) = self.fabric.port_mut(passage.port) {
            port.count(passage.direction, headers.length);
        }
        match self.decide(passage, out) {
            Ok(hop) => Some(hop),
            Err(reason) => {
                self.reject(passage, reason, out);
                None
            }
        }
    }

    /// Drops a packet, in a flow of the port.
    pub(crate) fn reject(&mut self, passage: &Passage<'_>, reason: EndReason, out: &mut impl Output) {
        self.tally.rejected(reason);
        let Some(port) = self.fabric.port(passage.port) else { return };
        let key = exchange::key(passage.port.0, passage.direction, passage.headers);
        let (packet, flow) = (passage.headers.packet(), (key, passage.direction));
        self.table.reject(flow, reason, &port.owner, &packet, passage.now, &mut |record| out.record(record));
    }

    #[inline]
    fn decide(&mut self, passage: &Passage<'_>, out: &mut impl Output) -> Result<Hop, EndReason> {
        let Passage { port, direction, headers, now, .. } = *passage;
        if headers.fragment {
            return Err(EndReason::TtlOrFragment);
        }
        if exchange::is_error(headers) {
            return self.decide_error(passage, out);
        }
        let key = exchange::key(port.0, direction, headers);
        match self.find(key, passage, out) {
            Some((slot, hop)) => {
                check_ttl(headers, hop)?;
                self.table.count(slot, direction, &headers.packet(), now);
                Ok(hop)
            }
            None => self.begin(key, passage, out),
        }
    }

    /// The connection with this key, if it still is one under the present plan.
    #[inline]
    fn find(&mut self, key: FlowKey, passage: &Passage<'_>, out: &mut impl Output) -> Option<(Slot, Hop)> {
        let slot = self.table.find(key)?;
        if exchange::opens_tcp(passage.headers)
            && let Some(reason) = self.table.phase(slot).end_reason()
        {
            // The ports are used again before the old connection's late packets have been waited for.
            self.table.finish(slot, reason, &mut |record| out.record(record));
            return None;
        }
        match self.table.memo(slot, passage.direction, self.fabric.epoch) {
            Some(memo) => Some((slot, Hop::from_memo(memo))),
            None => self.judge_known(slot, key, passage.direction, out).map(|hop| (slot, hop)),
        }
    }

    /// Judges a connection under a new plan, or routes the first packet of its other direction; ends it when that fails.
    fn judge_known(&mut self, slot: Slot, key: FlowKey, direction: Direction, out: &mut impl Output) -> Option<Hop> {
        let judgement = self.fabric.judge_again(&self.table.question(slot)).map_err(|_| EndReason::RuleChange);
        let renewed = judgement.and_then(|owned| Ok((owned, self.hop(key, direction)?)));
        match renewed {
            Ok(((owner, rule), hop)) => {
                self.table.renew(slot, direction, hop.memo(), self.fabric.epoch, owner, rule);
                Some(hop)
            }
            Err(reason) => {
                self.table.finish(slot, reason, &mut |record| out.record(record));
                None
            }
        }
    }

    fn hop(&self, key: FlowKey, direction: Direction) -> Result<Hop, EndReason> {
        match (direction, self.fabric.port_of(key)) {
            (Direction::Egress, Some(port)) => self.fabric.route(port, key.remote().to_bits()),
            _ => Ok(Hop::ARRIVED),
        }
    }

    fn begin(&mut self, key: FlowKey, passage: &Passage<'_>, out: &mut impl Output) -> Result<Hop, EndReason> {
        let port = self.fabric.port_of(key).ok_or(EndReason::NoRoute)?;
        let start = self.judge_first(port, key, passage)?;
        let hop = self.hop(key, passage.direction)?;
        check_ttl(passage.headers, hop)?;
        let owner = port.owner.clone();
        self.open(key, start, owner, hop, passage, out);
        Ok(hop)
    }

    /// What a packet of no known flow may begin.
    fn judge_first(&self, port: &Port, key: FlowKey, passage: &Passage<'_>) -> Result<Start, EndReason> {
        let Passage { direction, headers, now, .. } = *passage;
        let rule = self.fabric.judge(port, key, direction, headers.icmp);
        let young = now < port.appeared.plus(self.settings.pickup);
        match (exchange::beginning(headers), rule) {
            (Beginning::Opens(phase), Ok(rule)) => Ok(Start { phase, side: Side::Initiator, rule: Some(rule) }),
            (Beginning::MidStream, rule) if young && headers.tcp_flags & RST == 0 => {
                let (side, rule) = match rule {
                    Ok(rule) => (Side::Initiator, rule),
                    // Then the other side may have opened it.
                    Err(denied) => {
                        let opened = self.fabric.judge(port, key, direction.reverse(), headers.icmp);
                        (Side::Responder, opened.map_err(|_| denied)?)
                    }
                };
                Ok(Start { phase: Phase::Established, side, rule: Some(rule) })
            }
            (_, Err(denied)) => Err(denied),
            (Beginning::MidStream | Beginning::Stray, Ok(_)) => Err(EndReason::Invalid),
        }
    }

    fn open(
        &mut self,
        key: FlowKey,
        start: Start,
        owner: std::sync::Arc<lucarne_flows::Owner>,
        hop: Hop,
        passage: &Passage<'_>,
        out: &mut impl Output,
    ) {
        let Start { phase, side, rule } = start;
        let (direction, memo, epoch) = (passage.direction, hop.memo(), self.fabric.epoch);
        let opening = Opening { direction, side, phase, owner, rule, memo, epoch };
        self.table.open(key, opening, &passage.headers.packet(), passage.now, &mut |record| out.record(record));
    }

    /// An ICMP error passes exactly when it goes to the sender of the packet that it quotes, and that packet belongs to a
    /// connection of this port and went the other way. The errors are a flow of their own; a port that is said to be unreachable ends the connection as refused.
    fn decide_error(&mut self, passage: &Passage<'_>, out: &mut impl Output) -> Result<Hop, EndReason> {
        let Passage { port, direction, frame, headers, now } = *passage;
        let quoted = parse::quoted(frame, headers).ok_or(EndReason::Invalid)?;
        if quoted.source != headers.destination {
            return Err(EndReason::Invalid);
        }
        let about = exchange::key(port.0, direction.reverse(), &quoted);
        let connection = self.table.find(about).ok_or(EndReason::Invalid)?;
        let key = exchange::key(port.0, direction, headers);
        let hop = self.hop(key, direction)?;
        check_ttl(headers, hop)?;
        let from_responder =
            self.table.question(connection).direction != direction && headers.source == quoted.destination;
        if from_responder && exchange::says_refused(headers) {
            self.table.refuse(connection, now);
        }
        match self.table.find(key) {
            Some(slot) => self.table.count(slot, direction, &headers.packet(), now),
            None => {
                let start = Start { phase: Phase::OneWay, side: Side::Initiator, rule: None };
                let owner = self.fabric.port(port).map(|port| port.owner.clone()).ok_or(EndReason::NoRoute)?;
                self.open(key, start, owner, hop, passage, out);
            }
        }
        Ok(hop)
    }
}

/// A router must not give on a packet whose time to live it would make zero.
#[inline]
const fn check_ttl(headers: &Headers, hop: Hop) -> Result<(), EndReason> {
    if hop.routed && headers.ttl <= 1 { Err(EndReason::TtlOrFragment) } else { Ok(()) }
}
