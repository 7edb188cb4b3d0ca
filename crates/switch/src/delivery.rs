//! What reaches a guest: from a guest of this host, or through the tunnel from another host's switch.
//!
//! Owns the check that a packet from the tunnel has a source that lives on the host that sent it. Each side judges with
//! its own groups: the source's switch what leaves, this one what enters.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{HostId, Moment, flow::Direction};

use crate::{
    admission::Passage,
    counters::Malformed,
    output::{Output, PortIndex},
    parse::{self, Frame, Headers},
    switch::Switch,
};

impl Switch {
    pub(crate) fn take_from_tunnel(
        &mut self,
        from: HostId,
        vni: u32,
        frame: &[u8],
        now: Moment,
        out: &mut impl Output,
    ) {
        let headers = match parse::parse(frame, self.settings.mtu) {
            Ok(Frame::Ipv4(headers)) => headers,
            Ok(Frame::Arp) => return self.tally.malformed(Malformed::ArpIgnored),
            Err(why) => return self.tally.malformed(why),
        };
        let (destination, _) = parse::macs(frame);
        let Some(to) = self.fabric.arrival(vni, destination) else {
            return self.tally.malformed(Malformed::TunnelNoTarget);
        };
        if !self.fabric.lives_on(vni, headers.source, from) {
            return self.tally.malformed(Malformed::TunnelFalseSource);
        }
        self.deliver(to, &frame[..headers.frame_length()], &headers, now, out);
    }

    /// Gives a packet to the guest behind `to`, if its groups let it in.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        to: PortIndex,
        frame: &[u8],
        headers: &Headers,
        now: Moment,
        out: &mut impl Output,
    ) {
        let passage = Passage { port: to, direction: Direction::Ingress, frame, headers, now };
        if self.admit(&passage, out).is_some() {
            self.tally.to_guests += 1;
            out.to_guest(to, frame);
        }
    }
}
