//! Who is played: of the recorded clients those whose part the player takes.
//!
//! Owns the choice. An instance that also served others is not chosen by kind: its duplicate serves as it did, and so asks by
//! itself what it asked then; playing it as well would ask everything twice. Whoever wants it played names it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use lucarne_model::{Moment, replay::SessionOpening};

use super::{
    player::PlayError,
    recorded::{Origin, Recorded, Session, Talk},
};

/// Of which clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Internet,
    Instances,
    All,
    /// Of the instance with this address.
    One(Ipv4Addr),
}

/// Clients as they were recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cast {
    pub clients: BTreeSet<Ipv4Addr>,
    /// Those that are wanted by kind and serve others, with how many sessions of theirs are not played.
    pub bystanders: BTreeMap<Ipv4Addr, u64>,
}

impl Cast {
    /// # Errors
    /// When there is nobody to play.
    pub fn new(recorded: &Recorded, wanted: Wanted) -> Result<Self, PlayError> {
        let serves: BTreeSet<Ipv4Addr> =
            recorded.sessions.iter().filter(|session| is_served(session)).map(|session| *session.server.ip()).collect();
        let mut cast = Self::default();
        for session in recorded.sessions.iter().filter(|session| wants(wanted, session)) {
            let client = *session.client.ip();
            if wanted != Wanted::One(client) && serves.contains(&client) {
                *cast.bystanders.entry(client).or_default() += 1;
            } else {
                cast.clients.insert(client);
            }
        }
        if !cast.clients.is_empty() {
            return Ok(cast);
        }
        let (left_out, bystanders) = (recorded.left_out, cast.bystanders.len());
        Err(PlayError::Nothing { already_open: left_out.already_open, to_outside: left_out.to_outside, bystanders })
    }
}

impl Cast {
    /// When the first of its sessions began.
    pub fn begins(&self, recorded: &Recorded) -> Option<Moment> {
        let played = recorded.sessions.iter().filter(|session| self.clients.contains(session.client.ip()));
        played.map(|session| session.began).min()
    }
}

fn wants(wanted: Wanted, session: &Session) -> bool {
    match wanted {
        Wanted::Internet => session.origin == Origin::Internet,
        Wanted::Instances => session.origin == Origin::Instance,
        Wanted::All => true,
        Wanted::One(address) => *session.client.ip() == address,
    }
}

/// Whether somebody answered: a ping that is answered makes no server.
fn is_served(session: &Session) -> bool {
    match &session.talk {
        Talk::Tcp(connection) => connection.opening == SessionOpening::Accepted,
        Talk::Udp(talk) => !talk.answered.is_empty(),
        Talk::Packets(_) => false,
    }
}
