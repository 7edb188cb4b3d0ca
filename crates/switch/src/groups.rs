//! Judging a flow: may this connection be opened at this port?
//!
//! Owns the question to the rules of the security groups; what a rule matches is
//! [`RuleSpec::matches`](lucarne_model::security_group::RuleSpec::matches), shared with whoever explains a verdict. Asked
//! once for a connection and plan: the answer is kept in the flow table.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::Ipv4Addr;

use lucarne_flows::{Allowed, Denial, Grounds, Judgement, Question};
use lucarne_model::{EndReason, RuleId, flow::Direction};

use crate::{
    exchange,
    fabric::{Endpoint, Fabric, Port},
    service,
};

impl Fabric {
    /// By which rule a connection may be opened, or the reason why it may not. An order of the operator comes before the
    /// tenant's rules.
    pub(crate) fn judge(&self, port: &Port, question: &Question) -> Judgement {
        self.check_blocks(port, question)?;
        let peer = self.neighbour(port, question.key.remote().to_bits());
        let grounds = Grounds::Rule(rule(port, question, peer)?);
        let far = self.far_end(port, question.key.remote(), peer);
        Ok(Allowed { owner: port.owner.clone(), grounds, far })
    }

    /// What the flow table is told of packets that pass without a rule: errors about a connection that may.
    pub(crate) fn allowed_beside(&self, port: &Port, remote: Ipv4Addr) -> Allowed {
        let far = self.far_end(port, remote, self.neighbour(port, remote.to_bits()));
        Allowed { owner: port.owner.clone(), grounds: Grounds::Nothing, far }
    }

    /// Judges a connection that the flow table knows and that is silent.
    pub(crate) fn judge_again(&self, question: &Question) -> Judgement {
        let port = self.port_of(question.key).ok_or(EndReason::InstanceStopped)?;
        if service::is_served(port, question.key) {
            return Ok(service::served(port));
        }
        let allowed = self.judge(port, question)?;
        self.check_acl(port, question.key, question.direction, question.icmp)?;
        Ok(allowed)
    }
}

/// The rule that allows a connection with this first packet; `peer` is the other end, where it is of the network.
fn rule(port: &Port, question: &Question, peer: Option<&Endpoint>) -> Result<RuleId, Denial> {
    let Question { key, direction, icmp } = *question;
    let (protocol, number) = (key.protocol(), exchange::rule_port(key, direction, icmp));
    let in_group = |group| peer.is_some_and(|peer| peer.groups.contains(&group));
    let mut rules = port.rules.iter();
    let found = rules.find(|rule| rule.spec.matches(direction, protocol, number, key.remote(), in_group));
    let denied = match direction {
        Direction::Egress => EndReason::DeniedByGroupAtSource,
        Direction::Ingress => EndReason::DeniedByGroupAtDestination,
    };
    found.map(|rule| rule.id).ok_or_else(|| denied.into())
}
