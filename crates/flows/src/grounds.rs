//! On what grounds a flow was allowed or denied: the rule or the order that decided.
//!
//! Owns the words in which the switch tells the table a decision. Making it is the switch's work.

use lucarne_model::{EndReason, MitigationId, RuleId};

/// What decided about a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grounds {
    /// A default, or nothing was asked.
    #[default]
    Nothing,
    /// A group's rule, or an entry of a network ACL.
    Rule(RuleId),
    /// The operator's order.
    Mitigation(MitigationId),
}

/// Why a packet is dropped, and on what grounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    pub reason: EndReason,
    pub grounds: Grounds,
}

impl From<EndReason> for Denial {
    fn from(reason: EndReason) -> Self {
        Self { reason, grounds: Grounds::Nothing }
    }
}

impl Denial {
    /// Why a connection ends that was live when this was decided: the operator's order says so by itself, all else is a
    /// change of rules.
    pub const fn end_of_live(&self) -> EndReason {
        match self.reason {
            EndReason::AbuseMitigation => EndReason::AbuseMitigation,
            _ => EndReason::RuleChange,
        }
    }
}

/// [`Grounds`] in 9 bytes without alignment, of which a million are kept: 4 bits of kind, 68 of id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PackedGrounds([u8; 9]);

const RULE: u128 = 1 << 68;
const MITIGATION: u128 = 2 << 68;

impl From<Grounds> for PackedGrounds {
    fn from(grounds: Grounds) -> Self {
        let word = match grounds {
            Grounds::Nothing => 0,
            Grounds::Rule(rule) => RULE | rule.bits(),
            Grounds::Mitigation(mitigation) => MITIGATION | mitigation.bits(),
        };
        let mut packed = [0; 9];
        packed.copy_from_slice(&word.to_be_bytes()[7..]);
        Self(packed)
    }
}

impl From<PackedGrounds> for Grounds {
    fn from(packed: PackedGrounds) -> Self {
        let word = packed.0.iter().fold(0u128, |word, byte| word << 8 | u128::from(*byte));
        match word >> 68 {
            0 => Self::Nothing,
            1 => Self::Rule(RuleId::from_bits(word)),
            _ => Self::Mitigation(MitigationId::from_bits(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn grounds_unpack_as_they_were_packed(bits: u128) {
            let (rule, mitigation) = (RuleId::from_bits(bits), MitigationId::from_bits(bits));
            for grounds in [Grounds::Nothing, Grounds::Rule(rule), Grounds::Mitigation(mitigation)] {
                prop_assert_eq!(Grounds::from(PackedGrounds::from(grounds)), grounds);
            }
        }
    }
}
