//! The metadata service at 169.254.169.254: what an instance may ask about itself, and its user data.
//!
//! Owns one small TCP stack for each port that is talking to it ([`stack`]), made when a guest's first frame comes and
//! dropped when it has no connection left, so that silent guests cost nothing. A guest sees its own facts only: which
//! facts follows from the port that the frame came in by, never from an address in it. Sockets, clocks and the way back to
//! the guest are the shell's ([`crate::shell`]).
//!
//! The service speaks the second version of EC2's protocol only: a session token is fetched with `PUT`, and every `GET`
//! carries it. That keeps a web application in the guest, tricked into fetching a URL, from giving its metadata away.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_model::{InterfaceId, Moment};

use crate::{PortIndex, plan::Plan};
use facts::Facts;
use stack::Stack;
use token::Tokens;

mod facts;
mod request;
mod router;
mod stack;
#[cfg(test)]
mod tests;
mod token;

/// An answer's frame on its way to the guest behind the port.
pub(crate) type Outgoing = (PortIndex, Vec<u8>);

/// The services of all ports.
#[derive(Debug)]
pub(crate) struct Metadata {
    tokens: Tokens,
    seed: u64,
    /// The largest IP packet that is sent.
    mtu: usize,
    facts: BTreeMap<PortIndex, Facts>,
    stacks: BTreeMap<PortIndex, Stack>,
    dropped: u64,
}

impl Metadata {
    /// `key` signs tokens: with the same key, those from before a restart stay valid. `seed` is random, for TCP.
    pub(crate) fn new(key: &[u8; 32], seed: u64, mtu: u16) -> Self {
        let (facts, stacks) = Default::default();
        Self { tokens: Tokens::new(key), seed, mtu: usize::from(mtu), facts, stacks, dropped: 0 }
    }

    /// Takes the facts of the plan's ports. Connections of ports that stay go on.
    pub(crate) fn apply(&mut self, plan: &Plan, port_of: impl Fn(InterfaceId) -> Option<PortIndex>) {
        let indexed = |port| Some((port_of(Facts::interface_of(port))?, Facts::of(port, plan)?));
        let facts: BTreeMap<_, _> = plan.ports.iter().filter_map(indexed).collect();
        let same = |port: &PortIndex| match (self.facts.get(port), facts.get(port)) {
            (Some(old), Some(new)) => old.interface == new.interface,
            _ => false,
        };
        self.stacks.retain(|port, _| same(port));
        self.facts = facts;
    }

    /// Takes a guest's frame to the service. [`Self::poll`] answers it.
    pub(crate) fn handle_frame(&mut self, from: PortIndex, frame: &[u8]) {
        if !self.facts.contains_key(&from) {
            self.dropped += 1;
            return;
        }
        // Each stack begins with other sequence numbers.
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let (seed, mtu) = (self.seed, self.mtu);
        let stack = self.stacks.entry(from).or_insert_with(|| Stack::new(seed, mtu));
        self.dropped += u64::from(!stack.handle_frame(frame));
    }

    /// Answers what came and does what is due at `now`; the frames for the guests are put behind those in `out`.
    pub(crate) fn poll(&mut self, now: Moment, out: &mut Vec<Outgoing>) {
        let (tokens, facts) = (&self.tokens, &self.facts);
        self.stacks.retain(|port, stack| {
            let Some(facts) = facts.get(port) else { return false };
            stack.poll(now, |request| router::answer(request, facts, tokens, now));
            out.extend(stack.frames(facts.mac).map(|frame| (*port, frame)));
            !stack.is_idle()
        });
    }

    /// When [`Self::poll`] next has something to do if no frame comes before.
    pub(crate) fn next_poll(&mut self, now: Moment) -> Option<Moment> {
        self.stacks.values_mut().filter_map(|stack| stack.next_poll(now)).min()
    }

    /// Frames that were dropped: of no known port, not IPv4, or more than may wait.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}
