//! Where a connection stands: the small state machine that tells answers from questions and says why a flow ended.
//!
//! Owns the steps of TCP as an onlooker sees them (RFC 9293 section 3.3.2, without sequence numbers: windows are not
//! checked) and what silence means in each phase. Counting and time are [`FlowTable`](crate::FlowTable)'s.

use std::time::Duration;

use lucarne_model::{
    EndReason,
    flow::Side,
    security_group::{ICMP, TCP, UDP},
};

use crate::Settings;

pub const FIN: u16 = 0x01;
pub const SYN: u16 = 0x02;
pub const RST: u16 = 0x04;
pub const ACK: u16 = 0x10;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No flow: the place in the table is free.
    #[default]
    Free,
    /// No connection: packets that are only counted, because they are dropped or too many to be followed.
    Tally,
    /// TCP: a SYN without an answer.
    SynSent,
    /// TCP: the answer came, the initiator's acknowledgement is missing.
    SynAnswered,
    /// TCP: open both ways.
    Established,
    /// TCP: the initiator has sent its FIN.
    InitiatorClosed,
    /// TCP: the responder has sent its FIN.
    ResponderClosed,
    /// Without handshake: only the initiator has sent.
    Asked,
    /// Without handshake: both have sent.
    Answered,
    /// Messages to which no answer belongs, such as ICMP errors.
    OneWay,
    /// TCP, ended: both sent FIN.
    Closed,
    /// TCP, ended.
    ResetByInitiator,
    /// TCP, ended.
    ResetByResponder,
    /// Ended: the responder's RST answered the SYN, or its ICMP said port unreachable.
    Refused,
}

impl Phase {
    /// The phase after a packet of `side`. Packets that change nothing, or come too late, leave it as it is.
    pub fn step(self, side: Side, protocol: u8, tcp_flags: u16) -> Self {
        match (self, side) {
            (Self::Tally | Self::OneWay, _) => self,
            (Self::Asked, Side::Responder) => Self::Answered,
            _ if protocol == TCP && self.end_reason().is_none() => self.step_tcp(side, tcp_flags),
            _ => self,
        }
    }

    fn step_tcp(self, side: Side, flags: u16) -> Self {
        if flags & RST != 0 {
            return match (self, side) {
                (Self::SynSent, Side::Responder) => Self::Refused,
                (_, Side::Initiator) => Self::ResetByInitiator,
                (_, Side::Responder) => Self::ResetByResponder,
            };
        }
        let opened = match (self, side) {
            (Self::SynSent, Side::Responder) if flags & (SYN | ACK) == SYN | ACK => Self::SynAnswered,
            (Self::SynAnswered, Side::Initiator) if flags & (SYN | ACK) == ACK => Self::Established,
            _ => self,
        };
        if flags & FIN == 0 {
            return opened;
        }
        match (opened, side) {
            (Self::Established | Self::SynAnswered, Side::Initiator) => Self::InitiatorClosed,
            (Self::Established | Self::SynAnswered, Side::Responder) => Self::ResponderClosed,
            (Self::InitiatorClosed, Side::Responder) | (Self::ResponderClosed, Side::Initiator) => Self::Closed,
            _ => opened,
        }
    }

    /// Whether a packet of `side` with these flags can change the phase at all: the question for every packet.
    #[inline]
    pub(crate) const fn is_settled(self, side: Side, tcp_flags: u16) -> bool {
        match self {
            Self::Established => tcp_flags & (SYN | FIN | RST) == 0,
            Self::Asked => matches!(side, Side::Initiator),
            Self::Answered | Self::OneWay | Self::Tally => true,
            _ => false,
        }
    }

    /// Whether `side` is still to be sent something, so that it matters how much it can take.
    pub(crate) const fn takes_data(self, side: Side) -> bool {
        match self {
            Self::InitiatorClosed => matches!(side, Side::Initiator),
            Self::ResponderClosed => matches!(side, Side::Responder),
            _ => self.end_reason().is_none(),
        }
    }

    /// Why it ended, when it has.
    pub const fn end_reason(self) -> Option<EndReason> {
        match self {
            Self::Closed => Some(EndReason::FinBothSides),
            Self::ResetByInitiator => Some(EndReason::ResetByInitiator),
            Self::ResetByResponder => Some(EndReason::ResetByResponder),
            Self::Refused => Some(EndReason::RefusedByVm),
            _ => None,
        }
    }

    /// What it means when no packet comes any more.
    pub(crate) const fn reason_of_silence(self) -> EndReason {
        match (self, self.end_reason()) {
            (_, Some(reason)) => reason,
            (Self::SynSent | Self::Asked, None) => EndReason::NoAnswerFromVm,
            (Self::SynAnswered, None) => EndReason::HalfOpenTimeout,
            _ => EndReason::Idle,
        }
    }

    /// Whether it is a connection that both sides have spoken in, and that has not ended.
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::Established | Self::Answered | Self::InitiatorClosed | Self::ResponderClosed)
    }

    /// A handshake has a time limit from its start, whatever packets come; it is reported when it is decided.
    pub(crate) const fn is_handshake(self) -> bool {
        matches!(self, Self::SynSent | Self::SynAnswered)
    }

    /// How long a connection in this phase may be silent.
    pub(crate) const fn patience(self, protocol: u8, settings: &Settings) -> Duration {
        match (self, protocol) {
            (Self::InitiatorClosed | Self::ResponderClosed, _) => settings.half_closed,
            (_, TCP) => settings.tcp_idle,
            (_, UDP) => settings.udp_idle,
            (_, ICMP) => settings.icmp_idle,
            _ => settings.other_idle,
        }
    }

    /// What is given up first when space is short: dropped and ended flows, then unanswered ones. So a flood, which is
    /// made of those, pushes out itself and not the connections beside it.
    pub(crate) const fn worth(self) -> u8 {
        match self {
            Self::Established | Self::Answered | Self::InitiatorClosed | Self::ResponderClosed => 2,
            Self::SynSent | Self::SynAnswered | Self::Asked | Self::OneWay => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const I: Side = Side::Initiator;
    const R: Side = Side::Responder;

    fn walk(packets: &[(Side, u16)]) -> Phase {
        packets.iter().fold(Phase::SynSent, |phase, (side, flags)| phase.step(*side, TCP, *flags))
    }

    #[test]
    fn a_whole_connection_ends_with_fin_of_both_sides() {
        let open = [(I, SYN), (R, SYN | ACK), (I, ACK)];
        assert_eq!(walk(&open), Phase::Established);
        let closing = [open.as_slice(), &[(R, FIN | ACK), (I, ACK)]].concat();
        assert_eq!(walk(&closing), Phase::ResponderClosed);
        let closed = [closing.as_slice(), &[(I, FIN | ACK), (R, ACK)]].concat();
        assert_eq!(walk(&closed), Phase::Closed);
    }

    #[test]
    fn a_reset_that_answers_the_syn_is_a_refusal_and_a_later_one_is_not() {
        assert_eq!(walk(&[(R, RST | ACK)]), Phase::Refused);
        assert_eq!(walk(&[(I, RST)]), Phase::ResetByInitiator);
        assert_eq!(walk(&[(R, SYN | ACK), (R, RST)]), Phase::ResetByResponder);
        assert_eq!(walk(&[(R, SYN | ACK), (I, ACK), (R, RST | ACK)]), Phase::ResetByResponder);
    }

    #[test]
    fn what_ended_stays_ended() {
        let refused = [(R, RST | ACK), (R, SYN | ACK), (I, ACK), (I, FIN)];
        assert_eq!(walk(&refused), Phase::Refused);
    }

    /// The short cut of the hot path must never hide a step.
    #[test]
    fn a_settled_phase_is_one_that_no_step_changes() {
        let all = [
            Phase::Tally,
            Phase::SynSent,
            Phase::SynAnswered,
            Phase::Established,
            Phase::InitiatorClosed,
            Phase::ResponderClosed,
            Phase::Asked,
            Phase::Answered,
            Phase::OneWay,
            Phase::Closed,
            Phase::Refused,
        ];
        for phase in all {
            for side in [I, R] {
                for flags in 0..64 {
                    let protocol = if matches!(phase, Phase::Asked | Phase::Answered) { UDP } else { TCP };
                    if phase.is_settled(side, flags) {
                        assert_eq!(phase.step(side, protocol, flags), phase, "{side:?} {flags:#x}");
                    }
                }
            }
        }
    }
}
