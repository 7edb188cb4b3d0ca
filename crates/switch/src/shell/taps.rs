//! Taps: copies of frames for recordings, as ports see them.
//!
//! Owns which frames go to which tap, and what becomes of those for which there is no room: they are counted, and the next that
//! has room says how many are missing before it. Frames never wait for a tap. What is written of them is the host agent's
//! business.
//!
//! A guest's frame is seen as the guest sent it, before anything is decided about it; one for a guest as it is put before the
//! guest. So one between two guests of a network is seen twice, at either port.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lucarne_model::{
    InterfaceId, Moment, VpcId,
    flow::Direction,
    pcapng::Interface,
    recording::{RecordingFilter, SeenPacket},
};
use tokio::sync::mpsc;

use crate::{
    Plan,
    parse::{self, Frame},
};

/// Where copies of a network's frames go.
#[derive(Clone, Debug)]
pub struct Tap {
    pub vpc: VpcId,
    pub filter: RecordingFilter,
    pub frames: mpsc::Sender<SeenFrame>,
    /// Frames for which there was no room, of all interfaces.
    pub lost: Arc<AtomicU64>,
}

/// A frame at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenFrame {
    pub interface: Interface,
    /// As the guest sees it.
    pub direction: Direction,
    pub at: Moment,
    /// Frames of this interface that are missing before it.
    pub lost: u64,
    pub frame: Vec<u8>,
}

/// All taps.
#[derive(Debug)]
pub(super) struct Taps {
    taps: Vec<(Tap, HashMap<InterfaceId, u64>)>,
    pub(super) now: Moment,
}

impl Default for Taps {
    fn default() -> Self {
        Self { taps: Vec::new(), now: Moment::EPOCH }
    }
}

impl Taps {
    pub(super) const fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }

    /// Those that go on keep what they know to be missing.
    pub(super) fn set(&mut self, taps: Vec<Tap>) {
        let mut before = std::mem::take(&mut self.taps);
        let known = |tap: Tap| {
            let same = before.iter_mut().find(|(old, _)| old.frames.same_channel(&tap.frames));
            (tap, same.map(|(_, missing)| std::mem::take(missing)).unwrap_or_default())
        };
        self.taps = taps.into_iter().map(known).collect();
    }

    /// A frame at a port.
    pub(super) fn show(&mut self, interface: &Interface, direction: Direction, frame: &[u8]) {
        for (tap, missing) in &mut self.taps {
            let Interface { instance, subnet, vpc, .. } = *interface;
            let is_about = tap.vpc == vpc && tap.filter.is_about(instance, subnet, direction);
            if !is_about || (tap.filter.looks_inside() && !tap.filter.matches(packet(frame).as_ref())) {
                continue;
            }
            let lost = missing.get(&interface.interface).copied().unwrap_or(0);
            let seen = SeenFrame { interface: *interface, direction, at: self.now, lost, frame: frame.to_vec() };
            if tap.frames.try_send(seen).is_ok() {
                missing.remove(&interface.interface);
            } else {
                *missing.entry(interface.interface).or_default() += 1;
                tap.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What filters ask of a frame.
fn packet(frame: &[u8]) -> Option<SeenPacket> {
    let Ok(Frame::Ipv4(headers)) = parse::parse(frame, u16::MAX) else { return None };
    Some(SeenPacket {
        source: Ipv4Addr::from_bits(headers.source),
        destination: Ipv4Addr::from_bits(headers.destination),
        protocol: headers.protocol,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
    })
}

/// The plan's interfaces as recordings name them.
pub(super) fn names(plan: &Plan) -> HashMap<InterfaceId, Interface> {
    let endpoints = plan.networks.iter().flat_map(|network| &network.endpoints);
    let subnets: HashMap<_, _> = endpoints.map(|endpoint| (endpoint.interface, endpoint.subnet)).collect();
    let ports = plan.ports.iter().filter_map(|port| {
        let (account, instance, interface, vpc) = (port.account, port.instance, port.interface, port.vpc);
        Some((interface, Interface { account, instance, interface, subnet: *subnets.get(&interface)?, vpc }))
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use lucarne_model::{AccountId, InstanceId, SubnetId};

    use super::*;

    fn interface(number: u128) -> Interface {
        Interface {
            account: AccountId::from_bits(1),
            instance: InstanceId::from_bits(number),
            interface: InterfaceId::from_bits(number),
            subnet: SubnetId::from_bits(1),
            vpc: VpcId::from_bits(1),
        }
    }

    fn tap(filter: RecordingFilter, room: usize) -> (Tap, mpsc::Receiver<SeenFrame>) {
        let (frames, taken) = mpsc::channel(room);
        (Tap { vpc: VpcId::from_bits(1), filter, frames, lost: Arc::default() }, taken)
    }

    #[test]
    fn what_had_no_room_is_told_with_the_interfaces_next_frame_that_has() {
        let (tap, mut taken) = tap(RecordingFilter::default(), 2);
        let lost = tap.lost.clone();
        let mut taps = Taps::default();
        taps.set(vec![tap.clone()]);
        for (number, frame) in [(1, b"a"), (2, b"b"), (1, b"c"), (1, b"d"), (2, b"e")] {
            taps.show(&interface(number), Direction::Egress, frame);
        }
        assert_eq!(lost.load(Ordering::Relaxed), 3);
        let _ = (taken.try_recv().unwrap(), taken.try_recv().unwrap());
        taps.set(vec![tap]);
        taps.show(&interface(2), Direction::Egress, b"f");
        taps.show(&interface(1), Direction::Ingress, b"g");
        let told: Vec<_> = std::iter::from_fn(|| taken.try_recv().ok()).map(|seen| (seen.frame, seen.lost)).collect();
        assert_eq!(told, [(b"f".to_vec(), 1), (b"g".to_vec(), 2)]);
    }

    #[test]
    fn a_tap_gets_what_its_network_and_filter_say() {
        let only =
            RecordingFilter { direction: Some(Direction::Ingress), ports: vec![80], ..RecordingFilter::default() };
        let (filtered, mut few) = tap(only, 9);
        let (all, mut many) = tap(RecordingFilter::default(), 9);
        let mut taps = Taps::default();
        taps.set(vec![filtered, all]);
        let elsewhere = Interface { vpc: VpcId::from_bits(2), ..interface(3) };
        for (interface, direction) in [(interface(1), Direction::Egress), (elsewhere, Direction::Ingress)] {
            taps.show(&interface, direction, b"no packet");
        }
        taps.show(&interface(1), Direction::Ingress, b"no packet");
        assert_eq!(std::iter::from_fn(|| many.try_recv().ok()).count(), 2);
        assert!(few.try_recv().is_err());
    }
}
