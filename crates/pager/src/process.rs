//! A pager's process from its start to its end.
//!
//! Owns the options, the files of its folder, and what a new pager takes over from one that died: the index says where
//! copies are, the guest's memory says which pages are there, and the latter counts more. Then everyone who waits is woken,
//! because the faults that the dead one had taken are told by nobody again.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use lucarne_memory::{policy::Arrival, residency::Residency, run};
use lucarne_model::{
    Bytes, InstanceId,
    memory::{EvictionPolicy, Pages},
    paging::KEY,
    storage::Digest,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, flock},
};

use crate::{
    allocator,
    capture::{
        record::{self, Records},
        taking::go_on_holding,
    },
    completing, disk,
    eviction::Evictor,
    exit::{Ending, Exit},
    guest::Guest,
    index::{Identity, Index},
    pager::{Book, Pager, Steering, Tally},
    parent::{self, Parent, ParentError, WHOLE},
    places::{Away, Copy, LOANS, LoanNumber, Places, Word},
    pool::Pool,
    remote::{Remote, bringing::Bringer},
    seal::Sealer,
    server::Server,
    shim::{Lent, Shim, ShimError},
    snapshot::{Snapshot, SnapshotError},
    source::{Ancestor, Sources},
    step::{Observer, Step},
    store::Store,
};

const INDEX: &str = "places.log";
const STORE: &str = "pages.store";
const LOCK: &str = "lock";
/// The files of a pager's folder that hold its VM's pages while it sleeps.
pub const KEPT: [&str; 2] = [INDEX, STORE];
/// Threads that answer faults: the others can answer while one waits for the disk.
const READERS: usize = 4;
/// How often the main thread looks whether the pager is ending.
const INTERVAL: Duration = Duration::from_millis(50);

/// What a pager needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    pub instance: InstanceId,
    /// The socket of the machine's shim.
    pub machine: PathBuf,
    /// Where to listen for the host agent.
    pub control: PathBuf,
    /// The folder of index and store, this pager's alone; made if it is not there.
    pub state: PathBuf,
    /// How much of the host's memory compressed pages may take; zero: none is compressed.
    pub pool: Bytes,
    /// What the guest goes on from; none: it booted.
    pub origin: Option<Origin>,
    /// How long to wait for the machine to listen.
    pub patience: Duration,
}

/// What a guest goes on from, as its pager is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Snapshot {
        file: PathBuf,
        digest: Digest,
    },
    /// Another guest, as a capture of this name holds it.
    Parent {
        /// Where that guest's pager listens.
        control: PathBuf,
        capture: String,
        /// Whether all of it is to be fetched, beside what is asked for.
        whole: bool,
    },
}

/// Why a pager could not begin.
#[derive(Debug, thiserror::Error)]
pub enum PagerError {
    #[error("another pager serves from {}", path.display())]
    Taken { path: PathBuf },
    #[error("the machine's memory cannot be had")]
    Shim(#[source] ShimError),
    #[error("the key of the pages cannot be had: {reason}")]
    Key { reason: String },
    #[error("{} has {found} records and the machine knows of {noted}: the machine was ended", path.display())]
    IndexLost { path: PathBuf, found: u64, noted: u64 },
    #[error("the machine goes on from a snapshot that cannot be had")]
    Snapshot(#[source] SnapshotError),
    #[error("the machine goes on from another one whose memory cannot be had")]
    Parent(#[source] ParentError),
    #[error("could not {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the system gives no {what}")]
    System { what: &'static str, source: io::Error },
}

/// Serves one guest's memory until its end. Blocks; needs no async runtime.
pub fn run(options: &Options) -> Result<Exit, PagerError> {
    run_with(options, Observer(None))
}

/// The same, and tells `observe` of each step. For tests, which kill their pager there.
pub fn run_observed(options: &Options, observe: fn(Step)) -> Result<Exit, PagerError> {
    run_with(options, Observer(Some(observe)))
}

/// Deletes what a pager kept in its folder; to be called when none serves from it. The copies are worth nothing without
/// the key, which was in memory only.
pub fn discard(state: &Path) -> io::Result<()> {
    for name in [INDEX, STORE, LOCK, WHOLE] {
        match fs::remove_file(state.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    record::discard(state)
}

fn run_with(options: &Options, observer: Observer) -> Result<Exit, PagerError> {
    let began = Instant::now();
    let _lock = lock(&options.state)?;
    let (shim, lent) = Shim::connect(&options.machine, options.patience).map_err(PagerError::Shim)?;
    let machine = shim.watch().map_err(|source| PagerError::System { what: "second hold on a socket", source })?;
    let (pager, index) = recover(options, shim, lent, observer, began)?;
    let pager = Arc::new(pager);
    let (wishes, wished) = mpsc::channel();
    let server = Server::new(pager.clone(), wishes, options.state.clone());
    let listening = server.listen(&options.control);
    listening.map_err(|source| PagerError::File { doing: "listen at", path: options.control.clone(), source })?;
    allocator::give_back();
    let mut threads = Vec::new();
    for number in 0..READERS {
        let pager = pager.clone();
        threads.push(start(&format!("faults-{number}"), move || pager.serve())?);
    }
    let evicted = pager.clone();
    threads.push(start("eviction", move || Evictor::new(evicted, index, wished).run())?);
    for number in (0..LOANS as u8).map(LoanNumber) {
        let pager = pager.clone();
        threads.push(start(&format!("remote-{}", number.0), move || Bringer::new(pager, number).run())?);
    }
    if matches!(pager.sources.ancestor, Ancestor::Parent(_)) {
        let (pager, folder) = (pager.clone(), options.state.clone());
        threads.push(start("completing", move || completing::run(&pager, &folder))?);
    }
    if pager.guest.wake(pager.guest.all()).is_err() {
        pager.ending.begin(Exit::MachineGone);
    }
    tracing::info!(instance = %options.instance, took = ?pager.start_took, "serves");
    let exit = wait(&pager.ending, machine);
    pager.sources.ancestor.give_up();
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the pager failed within itself");
        }
    }
    Ok(exit)
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, PagerError> {
    let system = |source| PagerError::System { what: "thread", source };
    thread::Builder::new().name(name.into()).spawn(run).map_err(system)
}

/// Until the pager ends, or its machine does, which hangs up the shim's socket.
fn wait(ending: &Ending, machine: impl AsFd) -> Exit {
    loop {
        if let Some(exit) = ending.reason() {
            return exit;
        }
        let mut polled = [PollFd::new(&machine, PollFlags::RDHUP)];
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(INTERVAL.subsec_nanos()) };
        let gone = poll(&mut polled, Some(&patience)).is_ok()
            && polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR);
        if gone {
            ending.begin(Exit::MachineGone);
        }
    }
}

fn lock(state: &Path) -> Result<File, PagerError> {
    let path = state.join(LOCK);
    let file = |source| PagerError::File { doing: "make", path: path.clone(), source };
    fs::create_dir_all(state).map_err(file)?;
    let lock = File::create(&path).map_err(file)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| PagerError::Taken { path: state.to_owned() })?;
    Ok(lock)
}

fn recover(
    options: &Options,
    mut shim: Shim,
    lent: Lent,
    observer: Observer,
    began: Instant,
) -> Result<(Pager, Index), PagerError> {
    let Lent { regions, minor, holds_discards, uffd, memory, key, discarded, pool } = lent;
    let guest = Guest::new(&regions, uffd, memory, discarded).map_err(PagerError::Shim)?;
    let sealer = sealer(&key.into(), options.instance)?;
    let identity = Identity { life: sealer.life(), pages: guest.pages() };
    let (path, store_path) = (options.state.join(INDEX), options.state.join(STORE));
    let file = |path: &Path, source| PagerError::File { doing: "open", path: path.to_owned(), source };
    let store = Store::new(disk::open(&store_path).map_err(|source| file(&store_path, source))?, sealer);

    let (ancestor, mut words) = open_origin(options, guest.pages(), &mut shim)?;
    let index = Index::open(&path, identity, |entry| {
        words[entry.page as usize] = entry.word;
        if let Some(Away::Ssd(copy)) = entry.word.as_away() {
            store.remember(copy.at, entry.proof);
        }
    });
    let index = index.map_err(|source| file(&path, source))?;
    let noted = guest.discards.note().load(Ordering::SeqCst);
    if index.sequence() < noted {
        let reason = format!("the memory of {} cannot be given back to it: its index is gone", options.instance);
        shim.end(&reason).map_err(PagerError::Shim)?;
        return Err(PagerError::IndexLost { path, found: index.sequence(), noted });
    }
    let present =
        guest.present().map_err(|source| PagerError::System { what: "view of the guest's memory", source })?;
    let is_there = |page: u64| present[(page / 64) as usize] >> (page % 64) & 1 == 1;
    let is_void = |page| guest.discards.contains(page) || guest.discards.is_void(page);
    let places = Places::recover(words, is_there, is_void);
    let not_away = (0..guest.pages()).filter(|page| places.away(*page).is_none());
    not_away.for_each(|page| guest.discards.set_void(page, true));

    let stored = places.all_away(guest.all()).filter_map(|(_, away)| match away {
        Away::Ssd(copy) => Some(copy.at),
        _ => None,
    });
    store.keep_only(stored).map_err(|source| file(&store_path, source))?;
    let compressed = places.all_away(guest.all()).filter_map(|(page, away)| match away {
        Away::Compressed(copy, length) => Some((page, copy, length)),
        _ => None,
    });
    let compressed: Vec<(u64, Copy, u16)> = compressed.collect();
    let pool = Pool::new(pool.into(), options.pool.0, compressed.into_iter());
    let pool = pool.map_err(|source| PagerError::System { what: "memory for the pool", source })?;
    let policy = EvictionPolicy::default();
    let mut residency = Residency::new(Pages(guest.pages()), policy, guest.pages());
    for run in runs_of(&present, guest.pages()) {
        residency.arrived(run, Arrival::Found);
    }
    let target = Pages(guest.pages());
    let steering = Steering { target, pages_per_second: None, pinned: false, policy };
    let store = Arc::new(store);
    let records = Records::of(&guest, &options.state, options.instance, observer);
    let captures = go_on_holding(&guest, &records, options.instance);
    let pager = Pager {
        instance: options.instance,
        machine: shim.process(),
        guest,
        sources: Sources { pool: Mutex::new(pool), remote: Remote::new(store.clone()), store, ancestor },
        book: Mutex::new(Book { places, residency, captures }),
        records,
        steering: Mutex::new(steering),
        tally: Mutex::new(Tally::default()),
        shim: Mutex::new(shim),
        ending: Ending::default(),
        observer,
        last_fault: AtomicU64::new(0),
        minor,
        holds_discards,
        start_took: began.elapsed(),
    };
    Ok((pager, index))
}

/// What the guest goes on from, and where its pages then are. A machine for which that is not to be had is ended: its pages are
/// nowhere else.
fn open_origin(options: &Options, pages: u64, shim: &mut Shim) -> Result<(Ancestor, Vec<Word>), PagerError> {
    let nothing = || Ok((Ancestor::None, vec![Word::UNTOUCHED; pages as usize]));
    let opened = match &options.origin {
        None => nothing(),
        Some(Origin::Snapshot { file, digest }) => {
            let other_size = || SnapshotError::Changed { path: file.clone(), reason: "its guest has another size" };
            let opened = Snapshot::open(file, digest)
                .and_then(|snapshot| if snapshot.pages() == pages { Ok(snapshot) } else { Err(other_size()) });
            opened.map_err(PagerError::Snapshot).map(|snapshot| {
                let words = snapshot.words();
                (Ancestor::Snapshot(snapshot), words)
            })
        }
        Some(Origin::Parent { .. }) if parent::is_whole(&options.state) => nothing(),
        Some(Origin::Parent { control, capture, whole }) => {
            let reached = Parent::reach(control, capture, pages, *whole);
            reached
                .and_then(|parent| parent.words().map(|words| (Ancestor::Parent(parent), words)))
                .map_err(PagerError::Parent)
        }
    };
    if let Err(error) = &opened {
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        shim.end(&format!("the memory of {} cannot be given to it: {why}", options.instance))
            .map_err(PagerError::Shim)?;
    }
    opened
}

fn sealer(key: &File, instance: InstanceId) -> Result<Sealer, PagerError> {
    let failed = |reason: String| PagerError::Key { reason };
    let mut bytes = [0; KEY];
    key.read_exact_at(&mut bytes, 0).map_err(|error| failed(error.to_string()))?;
    Sealer::new(bytes, instance).map_err(|_| failed("it is not one".into()))
}

fn runs_of(bits: &[u64], pages: u64) -> Vec<run::Run> {
    let mut runs = Vec::new();
    let present = (0..pages).filter(|page| bits[(page / 64) as usize] >> (page % 64) & 1 == 1);
    present.for_each(|page| run::add_page(&mut runs, page));
    runs
}
