//! From which port a recorded client is played.
//!
//! Owns the choice: its own port where that is free, else the next one that is. What was used once is not used again for as long
//! as can be, so that no server takes a new connection for one that it has not yet forgotten.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
};

/// Ports that a client chooses from when its own is taken.
const FIRST_PORT: u16 = 1024;
const PORTS: usize = (u16::MAX - FIRST_PORT) as usize + 1;
/// Ends that are remembered; then all are forgotten.
const REMEMBERED: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct ClientEnds {
    used: HashSet<[SocketAddrV4; 2]>,
    /// Where the next free port to a server is looked for.
    cursors: HashMap<(Ipv4Addr, SocketAddrV4), u16>,
}

impl ClientEnds {
    /// The end for a session of the client whose end would be `own` in the duplicate.
    pub(super) fn choose(
        &mut self,
        own: SocketAddrV4,
        server: SocketAddrV4,
        taken: impl Fn([SocketAddrV4; 2]) -> bool,
    ) -> SocketAddrV4 {
        let address = *own.ip();
        if self.used.len() >= REMEMBERED {
            self.used.clear();
        }
        let cursor = self.cursors.entry((address, server)).or_insert(own.port());
        let others = std::iter::successors(Some(*cursor), |port| Some(port.checked_add(1).unwrap_or(FIRST_PORT)));
        let others = others.take(PORTS).filter(|port| *port >= FIRST_PORT);
        let candidates =
            || std::iter::once(own.port()).chain(others.clone()).map(|port| SocketAddrV4::new(address, port));
        let fresh = candidates().find(|client| !self.used.contains(&[*client, server]) && !taken([*client, server]));
        // More than sixty thousand sessions with one server at one time are not played.
        let end = fresh.or_else(|| candidates().find(|client| !taken([*client, server]))).unwrap_or(own);
        *cursor = end.port();
        self.used.insert([end, server]);
        end
    }
}
