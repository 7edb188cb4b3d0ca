//! What a `smoltcp` stack takes packets from and gives them to.
//!
//! Owns the two queues. What one poll puts into them is bounded by the windows of the stack's sockets.

use std::collections::VecDeque;

use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

/// IP packets in two queues.
pub(super) struct Link {
    pub(super) arrived: VecDeque<Vec<u8>>,
    pub(super) leaving: Vec<Vec<u8>>,
    mtu: usize,
}
pub(super) struct Arrived(Vec<u8>);
pub(super) struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl Link {
    /// `mtu` is the largest packet sent.
    pub(super) fn new(mtu: usize) -> Self {
        let (arrived, leaving) = Default::default();
        Self { arrived, leaving, mtu }
    }
}

impl Device for Link {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}
impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}
impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}
