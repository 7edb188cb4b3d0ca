//! What the operator ordered against abuse: which order is meant for a flow, and the token buckets of those that cap.
//!
//! Owns the buckets. A flow is asked about once for each plan; of one that is capped the flow table's memo says so, and each
//! of its packets takes a token.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::HashMap;

use lucarne_flows::{Denial, Grounds, Question};
use lucarne_model::{
    EndReason, MitigationId, Moment,
    mitigation::{DesiredMitigation, MitigatedFlow, MitigationAction},
    security_group::{TCP, UDP},
};

use crate::{
    exchange,
    fabric::{Fabric, Port},
};

impl Fabric {
    /// The first order that is meant for the flow.
    pub(crate) fn mitigation(&self, port: &Port, question: &Question) -> Option<&DesiredMitigation> {
        let Question { key, direction, icmp } = *question;
        let has_ports = matches!(key.protocol(), TCP | UDP);
        let flow = MitigatedFlow {
            instance: port.owner.instance,
            remote: key.remote(),
            protocol: key.protocol(),
            port: if has_ports { exchange::rule_port(key, direction, icmp) } else { 0 },
            direction,
        };
        self.mitigations().iter().find(|mitigation| mitigation.target.matches(&flow))
    }

    /// Refuses a flow that an order blocks.
    pub(crate) fn check_blocks(&self, port: &Port, question: &Question) -> Result<(), Denial> {
        match self.mitigation(port, question) {
            Some(DesiredMitigation { id, action: MitigationAction::Block, .. }) => {
                Err(Denial { reason: EndReason::AbuseMitigation, grounds: Grounds::Mitigation(*id) })
            }
            _ => Ok(()),
        }
    }
}

/// The buckets of all orders that cap, each made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Caps(HashMap<MitigationId, Bucket>);

/// Holds up to a second's tokens, so that a second after a pause is no less than any other.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Millionths of a token.
    level: u64,
    filled: Moment,
}

const TOKEN: u64 = 1_000_000;

impl Caps {
    /// Forgets the buckets of orders that do not hold any more.
    pub(crate) fn keep(&mut self, mitigations: &[DesiredMitigation]) {
        self.0.retain(|id, _| mitigations.iter().any(|mitigation| mitigation.id == *id));
    }

    /// Takes a token for a packet of a flow that `mitigation` is meant for, if it caps.
    pub(crate) fn check(&mut self, mitigation: &DesiredMitigation, now: Moment) -> Result<(), Denial> {
        let MitigationAction::Cap { packets_per_second } = mitigation.action else { return Ok(()) };
        let (id, rate) = (mitigation.id, u64::from(packets_per_second));
        let bucket = self.0.entry(id).or_insert(Bucket { level: rate * TOKEN, filled: now });
        if bucket.take(rate, now) {
            return Ok(());
        }
        Err(Denial { reason: EndReason::RateLimited, grounds: Grounds::Mitigation(id) })
    }
}

impl Bucket {
    /// At `rate` tokens a second, which is also a millionth of a token a microsecond for each.
    fn take(&mut self, rate: u64, now: Moment) -> bool {
        let micros = now.since(self.filled).as_micros().min(u128::from(TOKEN)) as u64;
        self.level = (self.level + micros * rate).min(rate * TOKEN);
        self.filled = self.filled.max(now);
        let is_there = self.level >= TOKEN;
        if is_there {
            self.level -= TOKEN;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any time at most the burst and what the time brings.
        #[test]
        fn a_cap_lets_no_more_through_than_it_says(rate in 1u64..1000, gaps in prop::collection::vec(0u64..5_000, 1..500)) {
            let (mut bucket, mut now) = (Bucket { level: rate * TOKEN, filled: Moment::EPOCH }, Moment::EPOCH);
            let mut passed = 0;
            for gap in gaps {
                now = Moment(now.as_micros() + gap);
                passed += u64::from(bucket.take(rate, now));
                prop_assert!(passed * TOKEN <= rate * TOKEN + now.as_micros() * rate);
            }
        }
    }

    #[test]
    fn a_cap_lets_through_what_it_says() {
        let mut bucket = Bucket { level: 0, filled: Moment::EPOCH };
        let passed = (1..=10_000).filter(|millis| bucket.take(50, Moment::from_millis(*millis))).count();
        assert_eq!(passed, 500);
        let clock_set_back = bucket.take(50, Moment::from_millis(1));
        assert!(!clock_set_back);
    }
}
