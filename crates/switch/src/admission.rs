//! Admission: is this packet's flow allowed at this port? One look-up in the flow table for each packet.
//!
//! Owns the order of the questions: a known connection passes by its entry alone; one that was judged under an older plan
//! is judged again; what is new is judged by the operator's orders, the groups and the network ACL, then routed, then
//! begins a flow. Whatever is refused is counted in a flow of its own, with its reason.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_flows::{Allowed, Denial, FlowKey, Opening, Phase, Question, Rejection, Side, Slot, phase::RST};
use lucarne_model::{EndReason, Moment, flow::Direction};

use crate::{
    exchange::{self, Beginning},
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
    allowed: Allowed,
}

impl Switch {
    /// Counts the packet in its flow and says where it goes, or drops it. A packet to the guest has arrived already.
    #[inline]
    pub(crate) fn admit(&mut self, passage: &Passage<'_>, out: &mut impl Output) -> Option<Hop> {
        let headers = passage.headers;
        if let Some(port) = self.fabric.port_mut(passage.port) {
            port.count(passage.direction, headers.packet.bytes);
        }
        match self.decide(passage, out) {
            Ok(hop) => Some(hop),
            Err(denial) => {
                self.reject(passage, denial, out);
                None
            }
        }
    }

    /// Drops a packet, in a flow of the port.
    pub(crate) fn reject(&mut self, passage: &Passage<'_>, denial: Denial, out: &mut impl Output) {
        self.tally.rejected(denial.reason);
        let Some(port) = self.fabric.port(passage.port) else { return };
        let key = exchange::key(passage.port.0, passage.direction, passage.headers);
        let (direction, owner, epoch) = (passage.direction, &port.owner, self.fabric.epoch);
        let rejection = Rejection { direction, denial, owner, epoch };
        self.table.reject(key, rejection, &passage.headers.packet, passage.now, &mut |record| out.record(record));
    }

    #[inline]
    fn decide(&mut self, passage: &Passage<'_>, out: &mut impl Output) -> Result<Hop, Denial> {
        let Passage { port, direction, headers, now, .. } = *passage;
        if headers.fragment {
            return Err(EndReason::TtlOrFragment.into());
        }
        if exchange::is_error(headers) {
            return self.decide_error(passage, out);
        }
        let key = exchange::key(port.0, direction, headers);
        match self.find(key, passage, out)? {
            Some((slot, hop)) => {
                check_ttl(headers, hop)?;
                if hop.capped {
                    self.take_token(&self.table.question(slot), now)?;
                }
                self.table.count(slot, direction, &headers.packet, now);
                Ok(hop)
            }
            None => self.begin(key, passage, out),
        }
    }

    /// The connection with this key, if it still is one under the present plan.
    #[inline]
    fn find(
        &mut self,
        key: FlowKey,
        passage: &Passage<'_>,
        out: &mut impl Output,
    ) -> Result<Option<(Slot, Hop)>, Denial> {
        let Some(slot) = self.table.find(key) else { return Ok(None) };
        if exchange::opens_tcp(passage.headers)
            && let Some(reason) = self.table.phase(slot).end_reason()
        {
            // The ports are used again before the old connection's late packets have been waited for.
            self.table.finish(slot, reason, &mut |record| out.record(record));
            return Ok(None);
        }
        match self.table.memo(slot, passage.direction, self.fabric.epoch) {
            Some(memo) => Ok(Some((slot, Hop::from_memo(memo)))),
            None => Ok(self.judge_known(slot, passage, out)?.map(|hop| (slot, hop))),
        }
    }

    /// Judges a connection under a new plan, or the first packet of its other direction; ends it when that fails.
    fn judge_known(&mut self, slot: Slot, passage: &Passage<'_>, out: &mut impl Output) -> Result<Option<Hop>, Denial> {
        let (question, direction) = (self.table.question(slot), passage.direction);
        let judged = self.fabric.port(passage.port).ok_or(EndReason::NoRoute.into());
        let judged = judged.and_then(|port| self.fabric.judge(port, &question));
        let denial = match judged.and_then(|allowed| Ok((allowed, self.hop(&question, passage)?))) {
            Ok((allowed, hop)) => {
                self.table.renew(slot, direction, hop.memo(), self.fabric.epoch, allowed);
                return Ok(Some(hop));
            }
            Err(denial) => denial,
        };
        if denial.reason == EndReason::DeniedByNetworkAcl && !self.table.was_used(slot, direction) {
            // An ACL knows no connections: one whose answers it rejects stays what it is, one without an answer.
            return Err(denial);
        }
        self.table.cut(slot, &denial, &mut |record| out.record(record));
        Ok(None)
    }

    /// Where packets of this flow and direction go, if the subnet's ACL lets them.
    fn hop(&self, flow: &Question, passage: &Passage<'_>) -> Result<Hop, Denial> {
        let port = self.fabric.port(passage.port).ok_or(EndReason::NoRoute)?;
        self.fabric.check_acl(port, flow.key, passage.direction, passage.headers.packet.icmp)?;
        let hop = match passage.direction {
            Direction::Egress => self.fabric.route(port, flow.key.remote().to_bits())?,
            Direction::Ingress => Hop::ARRIVED,
        };
        Ok(Hop { capped: self.fabric.mitigation(port, flow).is_some(), ..hop })
    }

    /// Lets a packet of a flow with an order to cap it pass, if it is within the cap.
    fn take_token(&mut self, flow: &Question, now: Moment) -> Result<(), Denial> {
        let Self { fabric, caps, .. } = self;
        let port = fabric.port_of(flow.key).ok_or(EndReason::NoRoute)?;
        fabric.mitigation(port, flow).map_or(Ok(()), |mitigation| caps.check(mitigation, now))
    }

    fn begin(&mut self, key: FlowKey, passage: &Passage<'_>, out: &mut impl Output) -> Result<Hop, Denial> {
        let flow = Question { key, direction: passage.direction, icmp: passage.headers.packet.icmp };
        let (start, hop) = match passage.direction {
            Direction::Egress => (self.judge_first(&flow, passage)?, self.hop(&flow, passage)?),
            // What enters meets the subnet's ACL before the interface's groups.
            Direction::Ingress => {
                let hop = self.hop(&flow, passage)?;
                (self.judge_first(&flow, passage)?, hop)
            }
        };
        check_ttl(passage.headers, hop)?;
        if hop.capped {
            self.take_token(&flow, passage.now)?;
        }
        self.open(key, start, hop, passage, out);
        Ok(hop)
    }

    /// What a packet of no known flow may begin.
    fn judge_first(&self, flow: &Question, passage: &Passage<'_>) -> Result<Start, Denial> {
        let Passage { direction, headers, now, .. } = *passage;
        let port = self.fabric.port(passage.port).ok_or(EndReason::NoRoute)?;
        let judgement = self.fabric.judge(port, flow);
        let young = now < port.appeared.plus(self.settings.pickup);
        match (exchange::beginning(headers), judgement) {
            (Beginning::Opens(phase), Ok(allowed)) => Ok(Start { phase, side: Side::Initiator, allowed }),
            (Beginning::MidStream, judgement) if young && headers.packet.tcp_flags & RST == 0 => {
                let (side, allowed) = match judgement {
                    Ok(allowed) => (Side::Initiator, allowed),
                    // Then the other side may have opened it.
                    Err(denial) => {
                        let opened = self.fabric.judge(port, &Question { direction: direction.reverse(), ..*flow });
                        (Side::Responder, opened.map_err(|_| denial)?)
                    }
                };
                Ok(Start { phase: Phase::Established, side, allowed })
            }
            (_, Err(denial)) => Err(denial),
            (Beginning::MidStream | Beginning::Stray, Ok(_)) => Err(EndReason::Invalid.into()),
        }
    }

    fn open(&mut self, key: FlowKey, start: Start, hop: Hop, passage: &Passage<'_>, out: &mut impl Output) {
        let Start { phase, side, allowed } = start;
        let (direction, memo, epoch) = (passage.direction, hop.memo(), self.fabric.epoch);
        let opening = Opening { direction, side, phase, allowed, memo, epoch };
        self.table.open(key, opening, &passage.headers.packet, passage.now, &mut |record| out.record(record));
    }

    /// An ICMP error passes exactly when it goes to the sender of the packet that it quotes, and that packet belongs to a
    /// connection of this port and went the other way. The errors are a flow of their own; a port that is said to be
    /// unreachable ends the connection as refused.
    fn decide_error(&mut self, passage: &Passage<'_>, out: &mut impl Output) -> Result<Hop, Denial> {
        let Passage { port, direction, frame, headers, now } = *passage;
        let quoted = parse::quoted(frame, headers).ok_or(EndReason::Invalid)?;
        if quoted.source != headers.destination {
            return Err(EndReason::Invalid.into());
        }
        let about = exchange::key(port.0, direction.reverse(), &quoted);
        let connection = self.table.find(about).ok_or(EndReason::Invalid)?;
        let key = exchange::key(port.0, direction, headers);
        let flow = Question { key, direction, icmp: headers.packet.icmp };
        let hop = self.hop(&flow, passage)?;
        check_ttl(headers, hop)?;
        let from_responder =
            self.table.question(connection).direction != direction && headers.source == quoted.destination;
        if from_responder && exchange::says_refused(headers) {
            self.table.refuse(connection, now);
        }
        match self.table.find(key) {
            Some(slot) => self.table.count(slot, direction, &headers.packet, now),
            None => {
                let port = self.fabric.port(port).ok_or(EndReason::NoRoute)?;
                let allowed = self.fabric.allowed_beside(port, key.remote());
                let start = Start { phase: Phase::OneWay, side: Side::Initiator, allowed };
                self.open(key, start, hop, passage, out);
            }
        }
        Ok(hop)
    }
}

/// A router must not give on a packet whose time to live it would make zero.
#[inline]
const fn check_ttl(headers: &Headers, hop: Hop) -> Result<(), EndReason> {
    if hop.routed && headers.packet.ttl <= 1 { Err(EndReason::TtlOrFragment) } else { Ok(()) }
}
