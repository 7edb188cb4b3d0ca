//! Security groups: may this connection be opened at this port?
//!
//! Owns the question to the rules; what a rule matches is
//! [`RuleSpec::matches`](lucarne_model::security_group::RuleSpec::matches), shared with whoever explains a verdict. Asked
//! once for a connection and plan: the answer is kept in the flow table.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_flows::{FlowKey, Judgement, Question};
use lucarne_model::{EndReason, RuleId, flow::Direction};

use crate::{
    exchange,
    fabric::{Fabric, Port},
};

impl Fabric {
    /// The rule that allows a connection whose first packet goes this way, or the reason why none does.
    pub(crate) fn judge(
        &self,
        port: &Port,
        key: FlowKey,
        direction: Direction,
        icmp: [u8; 2],
    ) -> Result<RuleId, EndReason> {
        let (protocol, number) = (key.protocol(), exchange::rule_port(key, direction, icmp));
        let peer = self.neighbour(port, key.remote().to_bits());
        let in_group = |group| peer.is_some_and(|peer| peer.groups.contains(&group));
        let mut rules = port.rules.iter();
        let found = rules.find(|rule| rule.spec.matches(direction, protocol, number, key.remote(), in_group));
        found.map(|rule| rule.id).ok_or(match direction {
            Direction::Egress => EndReason::DeniedByGroupAtSource,
            Direction::Ingress => EndReason::DeniedByGroupAtDestination,
        })
    }

    /// The same for a connection that the flow table knows.
    pub(crate) fn judge_again(&self, question: &Question) -> Judgement {
        let port = self.port_of(question.key).ok_or(EndReason::InstanceStopped)?;
        let rule = self.judge(port, question.key, question.direction, question.icmp)?;
        Ok((port.owner.clone(), Some(rule)))
    }
}
