//! The lender: a process that keeps sealed copies of other hosts' pages in memory that this host has to spare.
//!
//! Owns its life and what it is told. It is a child of the host agent, told on its standard input, a line of JSON at a time,
//! what it may keep ([`Instructions`]), and answers each line with what it keeps ([`Told`]); it ends with its input. It knows
//! no key but its host's own for TLS: what it keeps is noise to it. [`conversation`] talks to borrowers, [`shelf`] keeps.

mod conversation;
mod shelf;

use std::{
    io::{self, BufRead, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
    thread,
};

use lucarne_model::{Bytes, HostId, Pages};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use self::{conversation::Door, shelf::Shelf};
use crate::{
    pager::locked,
    peer::{Identity, IdentityError},
    server::own_memory,
};

/// What one borrower may have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pub borrower: HostId,
    /// Of its lease: a borrower with an older one is refused.
    pub epoch: u64,
    pub pages: Pages,
}

/// What a lender should be: all of it, each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instructions {
    /// The host's certificate and its CA's, in PEM.
    pub certificate: String,
    pub authority: String,
    pub quotas: Vec<Quota>,
}

/// What a lender is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Where it takes pages.
    pub port: u16,
    /// What each borrower has here.
    pub held: Vec<(HostId, Pages)>,
    /// What it takes beside that.
    pub overhead: Bytes,
}

/// Why there is no lender, or no more.
#[derive(Debug, thiserror::Error)]
pub enum LenderError {
    #[error("it cannot listen at {address}")]
    Listen { address: IpAddr, source: io::Error },
    #[error("the system gives no {what}")]
    System { what: &'static str, source: io::Error },
    #[error("its host agent cannot be talked to")]
    Agent(#[source] io::Error),
    #[error("what its host agent said was not understood")]
    NotUnderstood(#[source] serde_json::Error),
}

/// Lends at `address`, as the host of the private key in `key` (PKCS #8), until its standard input ends. Blocks; needs no
/// async runtime.
pub fn lend(address: IpAddr, key: PathBuf) -> Result<(), LenderError> {
    let listen = |source| LenderError::Listen { address, source };
    let listener = TcpListener::bind(SocketAddr::new(address, 0)).map_err(listen)?;
    let port = listener.local_addr().map_err(listen)?.port();
    let file = memfd_create("lent", MemfdFlags::CLOEXEC);
    let file = file.map_err(|errno| LenderError::System { what: "memory", source: errno.into() })?;
    let door =
        Arc::new(Door { shelf: Mutex::new(Shelf::new(file.into())), tls: RwLock::new(None), open: Mutex::default() });
    let accepting = door.clone();
    let accept = thread::Builder::new().name("accept".into()).spawn(move || accepting.accept(&listener));
    accept.map_err(|source| LenderError::System { what: "thread", source })?;
    let mut kept = Kept { door, key, identity: None };
    for line in io::stdin().lock().lines() {
        let line = line.map_err(LenderError::Agent)?;
        let instructions = serde_json::from_str(&line).map_err(LenderError::NotUnderstood)?;
        let held = kept.follow(instructions);
        let told = Told { port, held, overhead: Bytes(own_memory()) };
        let mut answer = serde_json::to_vec(&told).map_err(LenderError::NotUnderstood)?;
        answer.push(b'\n');
        let mut output = io::stdout().lock();
        output.write_all(&answer).and_then(|()| output.flush()).map_err(LenderError::Agent)?;
    }
    Ok(())
}

/// What the agent said last.
struct Kept {
    door: Arc<Door>,
    key: PathBuf,
    identity: Option<Identity>,
}

impl Kept {
    fn follow(&mut self, instructions: Instructions) -> Vec<(HostId, Pages)> {
        let Instructions { certificate, authority, quotas } = instructions;
        let identity = Identity { key: self.key.clone(), certificate, authority };
        if self.identity.as_ref() != Some(&identity) {
            if let Err(error) = self.identify(&identity) {
                tracing::warn!(error = &error as &dyn std::error::Error, "nobody can be let in");
            }
            self.identity = Some(identity);
        }
        let held = {
            let mut shelf = locked(&self.door.shelf);
            shelf.set_quotas(&quotas);
            shelf.held()
        };
        self.door.show_out();
        held
    }

    fn identify(&self, identity: &Identity) -> Result<(), IdentityError> {
        let config = identity.server()?;
        *self.door.tls.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(config);
        Ok(())
    }
}
