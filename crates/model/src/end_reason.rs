//! Why a flow record ended: one closed table, from which names, IPFIX elements and documentation derive.
//!
//! Owns the codes of the enterprise element `sessionEndReason` and their standard shadows. Deciding which reason holds is
//! the flow table's work. Zeek's conn_state needs the reply direction too and so is derived from whole connections.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! end_reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal, $end:literal, $event:literal, $status:literal;)*) => {
        /// Why a flow record ended. The discriminant is the value of the IPFIX element `sessionEndReason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum EndReason { $($(#[doc = $doc])* #[serde(rename = $text)] $name = $code,)* }

        impl EndReason {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub const fn code(self) -> u8 { self as u8 }
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// The name used in the API, on the command line and in the documentation.
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// IANA 136 flowEndReason: 1 idle, 2 active timeout, 3 end detected, 4 forced, 5 lack of resources.
            pub const fn flow_end_reason(self) -> u8 { match self { $(Self::$name => $end,)* } }
            /// IANA 233 firewallEvent: 1 created, 2 deleted, 3 denied, 4 alert, 5 update.
            pub const fn firewall_event(self) -> u8 { match self { $(Self::$name => $event,)* } }
            /// IANA 89 forwardingStatus: 0x40 forwarded, 0x80 and above dropped.
            pub const fn forwarding_status(self) -> u8 { match self { $(Self::$name => $status,)* } }
            /// What the reason means, in a sentence.
            pub const fn meaning(self) -> &'static str { match self { $(Self::$name => concat!($($doc),*),)* } }
        }
    };
}

end_reasons! {
    /// Both sides closed the connection with FIN.
    FinBothSides = 1, "fin-both-sides", 3, 2, 0x40;
    /// The initiator reset the connection.
    ResetByInitiator = 2, "reset-by-initiator", 3, 2, 0x40;
    /// The responder reset an established connection.
    ResetByResponder = 3, "reset-by-responder", 3, 2, 0x40;
    /// No packet came for the idle time of its protocol.
    Idle = 4, "idle", 1, 2, 0x40;
    /// The interval ended; the flow goes on.
    ActiveSlice = 5, "active-slice", 2, 5, 0x40;
    /// No outbound rule of the source's security groups allows it.
    DeniedByGroupAtSource = 6, "denied-by-group-at-source", 3, 3, 0x81;
    /// No inbound rule of the destination's security groups allows it.
    DeniedByGroupAtDestination = 7, "denied-by-group-at-destination", 3, 3, 0x81;
    /// The subnet's network ACL denies it.
    DeniedByNetworkAcl = 8, "denied-by-network-acl", 3, 3, 0x81;
    /// The source address or MAC is not the interface's own.
    SourceCheck = 9, "source-check", 3, 3, 0x8C;
    /// No route leads to the destination, or its target is gone.
    NoRoute = 10, "no-route", 3, 3, 0x83;
    /// The VM itself refused: a reset answered the SYN, or ICMP said port unreachable.
    RefusedByVm = 11, "refused-by-vm", 3, 2, 0x40;
    /// The VM never answered.
    NoAnswerFromVm = 12, "no-answer-from-vm", 1, 2, 0x40;
    /// The provider's abuse mitigation cut it.
    AbuseMitigation = 13, "abuse-mitigation", 4, 4, 0x82;
    /// A rate limit dropped it.
    RateLimited = 14, "rate-limited", 3, 3, 0x8A;
    /// The instance was stopped.
    InstanceStopped = 15, "instance-stopped", 4, 2, 0x40;
    /// The instance moved to another host, where the flow goes on.
    InstanceMigrated = 16, "instance-migrated", 4, 5, 0x40;
    /// The network interface was detached.
    InterfaceDetached = 17, "interface-detached", 4, 2, 0x40;
    /// A change of rules cut the live flow.
    RuleChange = 18, "rule-change", 4, 3, 0x81;
    /// The flow table was full and this entry was given up.
    EvictedForSpace = 19, "evicted-for-space", 5, 2, 0x40;
    /// The host agent restarted; the flow goes on in a new record.
    AgentRestart = 20, "agent-restart", 4, 5, 0x40;
    /// The packet belongs to no connection and cannot start one.
    Invalid = 21, "invalid", 3, 3, 0x82;
    /// The time to live ran out, or a fragment could not be judged.
    TtlOrFragment = 22, "ttl-or-fragment", 3, 3, 0x85;
    /// The handshake was never finished by its initiator.
    HalfOpenTimeout = 23, "half-open-timeout", 1, 2, 0x40;
    /// The policy asks for encryption that this path does not have.
    EncryptionRequired = 24, "encryption-required", 3, 3, 0x82;
}

impl EndReason {
    /// Whether the virtualization layer dropped the packets, as opposed to carrying them to whatever end.
    pub const fn is_drop(self) -> bool {
        self.forwarding_status() >= 0x80
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no end reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an end reason; the book lists all 24")]
pub struct ParseEndReasonError(String);

impl FromStr for EndReason {
    type Err = ParseEndReasonError;
    fn from_str(text: &str) -> Result<Self, ParseEndReasonError> {
        let found = Self::ALL.iter().find(|reason| reason.name() == text);
        found.copied().ok_or_else(|| ParseEndReasonError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_read_back() {
        for (index, reason) in EndReason::ALL.iter().enumerate() {
            assert_eq!(usize::from(reason.code()), index + 1);
            assert_eq!(EndReason::from_code(reason.code()), Some(*reason));
            assert_eq!(reason.name().parse(), Ok(*reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
        assert_eq!(EndReason::from_code(0), None);
    }

    #[test]
    fn a_group_denial_is_a_drop_and_a_refusal_is_not() {
        assert!(EndReason::DeniedByGroupAtDestination.is_drop());
        assert!(!EndReason::RefusedByVm.is_drop());
    }
}
