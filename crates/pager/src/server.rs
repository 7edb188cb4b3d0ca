//! The pager's side of its control socket.
//!
//! Owns the connections, each with a thread of its own, and the answers. What is wished of evictions goes to
//! [`crate::eviction`]'s thread; a connection that says what is not understood is refused and closed.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, sync_channel},
    },
    thread,
    time::Duration,
};

use lucarne_model::{
    Bytes,
    memory::{EvictionPolicy, Pages},
};

use crate::{
    capture::{serving::Serving, wire::Over},
    control::{LONGEST_LINE, Reply, Request, Statistics, VERSION},
    eviction::Wish,
    exit::Exit,
    pager::Pager,
    source::Ancestor,
};

/// Connections at once; more are closed unheard.
const CONNECTIONS: usize = 16;
/// How long an answer may take to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pager: Arc<Pager>,
    wishes: Sender<Wish>,
    /// What a termination deletes.
    state: PathBuf,
}

impl Server {
    pub(crate) fn new(pager: Arc<Pager>, wishes: Sender<Wish>, state: PathBuf) -> Self {
        Self { pager, wishes, state }
    }

    /// Listens at `path`, for its owner alone, in a thread that ends with the process.
    pub(crate) fn listen(self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let open = Arc::new(AtomicUsize::new(0));
        thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, open) = (self.clone(), open.clone());
                if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                    open.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let talk = thread::Builder::new().name("connection".into()).spawn(move || {
                    if let Err(error) = server.talk(&stream) {
                        tracing::debug!(%error, "a connection to the pager broke");
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                });
                drop(talk);
            }
        })?;
        Ok(())
    }

    fn talk(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut greeted = false;
        loop {
            let mut line = Vec::new();
            (&mut reader).take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(());
            }
            let (reply, goes_on) = match serde_json::from_slice(&line) {
                Ok(Request::Hello { version }) if version == VERSION => {
                    greeted = true;
                    let (memory, machine) = (Pages(self.pager.guest.pages()), self.pager.machine);
                    (Reply::Hello { version: VERSION, instance: self.pager.instance, memory, machine }, true)
                }
                Ok(Request::Hello { version }) => {
                    (refused(format!("this pager speaks version {VERSION}, not {version}")), false)
                }
                Ok(_) if !greeted => (refused("say hello first".into()), false),
                Ok(Request::Capture { seconds }) => {
                    drop(reader);
                    return serve(Serving::begin(&self.pager, seconds), stream);
                }
                Ok(Request::Read { name }) => {
                    drop(reader);
                    return serve(Serving::of(&self.pager, &name), stream);
                }
                Ok(request) => {
                    let goes_on = request != Request::Terminate;
                    (self.answer(request), goes_on)
                }
                Err(error) => (refused(format!("not understood: {error}")), false),
            };
            say(stream, &reply)?;
            if matches!(reply, Reply::Done) && !goes_on {
                self.pager.ending.begin(Exit::Terminated);
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn answer(&self, request: Request) -> Reply {
        match request {
            Request::SetTarget { resident, pages_per_second } => {
                let mut steering = self.pager.steering();
                (steering.target, steering.pages_per_second) = (resident, pages_per_second);
                self.wish(Wish::Look)
            }
            Request::SetPinned { pinned } => {
                self.pager.steering().pinned = pinned;
                self.wish(Wish::Look)
            }
            Request::SetPolicy { policy } => self.change_policy(policy),
            Request::SetRemote { remote } => {
                self.pager.sources.remote.set(remote);
                Reply::Done
            }
            Request::FetchAll => {
                if let Ancestor::Parent(parent) = &self.pager.sources.ancestor {
                    parent.want_all();
                }
                Reply::Done
            }
            Request::EvictAll => self.evict_all(),
            Request::Statistics => Reply::Statistics(Box::new(self.statistics())),
            Request::Terminate => match crate::discard(&self.state) {
                Ok(()) => Reply::Done,
                Err(error) => refused(format!("the store cannot be deleted: {error}")),
            },
            Request::Hold { name } => self.hold(name),
            Request::Freeze { name } => self.freeze(&name),
            Request::LetGo { name } => {
                self.let_go(&name);
                Reply::Done
            }
            Request::Hello { .. } | Request::Capture { .. } | Request::Read { .. } => Reply::Done,
        }
    }

    fn hold(&self, name: String) -> Reply {
        self.let_go(&name);
        self.pager.begin_capture(Some(name)).map_or_else(refused, |_| Reply::Done)
    }

    fn freeze(&self, name: &str) -> Reply {
        let number = self.pager.book().captures.named(name);
        let frozen = number.map(|number| self.pager.freeze_capture(number));
        match frozen {
            Some(Ok(took)) => Reply::Frozen { microseconds: took.as_micros() as u64 },
            Some(Err(error)) => refused(error.to_string()),
            None => refused(format!("there is no capture {name}")),
        }
    }

    fn let_go(&self, name: &str) {
        let number = self.pager.book().captures.named(name);
        if let Some(number) = number {
            self.pager.end_capture(number, Over::LetGo);
            self.pager.lift_capture(number);
        }
    }

    fn wish(&self, wish: Wish) -> Reply {
        self.wishes.send(wish).map_or_else(|_| refused("the pager is ending".into()), |()| Reply::Done)
    }

    fn change_policy(&self, policy: EvictionPolicy) -> Reply {
        let changed = std::mem::replace(&mut self.pager.steering().policy, policy) != policy;
        if changed {
            let seed = self.pager.guest.pages() ^ self.pager.tally().refaults;
            self.pager.book().residency.change_policy(policy, seed);
        }
        Reply::Done
    }

    fn evict_all(&self) -> Reply {
        let (answer, answered) = sync_channel(1);
        if self.wishes.send(Wish::EvictAll(answer)).is_err() {
            return refused("the pager is ending".into());
        }
        match answered.recv() {
            Ok(Ok(left)) => Reply::Evicted { left, resident: self.pager.book().places.counts().resident },
            Ok(Err(reason)) => refused(reason),
            Err(_) => refused("the pager is ending".into()),
        }
    }

    fn statistics(&self) -> Statistics {
        let pager = &self.pager;
        let steering = *pager.steering();
        let (pages, idle) = {
            let book = pager.book();
            (book.places.counts(), book.residency.idle())
        };
        let (pool, store) = (pager.sources.pool().size(), pager.sources.store.size());
        let tally = pager.tally();
        Statistics {
            pages,
            idle,
            target: steering.target,
            pinned: steering.pinned,
            policy: steering.policy,
            faults: tally.faults.clone(),
            restored_beside: tally.restored_beside,
            evicted: tally.evicted,
            unwritten: tally.unwritten,
            aborted: tally.aborted,
            refaults: tally.refaults,
            discarded: tally.discarded,
            tripped: tally.tripped,
            pool: Bytes(pool),
            store: Bytes(store + tally.index),
            overhead: Bytes(own_memory() + pager.records.size()),
            start_microseconds: pager.start_took.as_micros() as u64,
            remote: pager.sources.remote.statistics(),
            heat: tally.heat.clone(),
            trouble: tally.trouble.clone(),
        }
    }
}

/// From here on the connection is a capture's.
fn serve(serving: Result<Serving<'_>, String>, stream: &UnixStream) -> io::Result<()> {
    match serving {
        Ok(serving) => {
            say(stream, &Reply::Done)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            serving.run(stream)
        }
        Err(reason) => say(stream, &refused(reason)),
    }
}

fn say(stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    (&mut &*stream).write_all(&line)
}

const fn refused(reason: String) -> Reply {
    Reply::Refused { reason }
}

/// Octets of this process's own resident memory; of the pool and other shared files nothing.
pub(crate) fn own_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes << 10)
}
