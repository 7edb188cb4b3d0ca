//! Parts in a store that speaks as S3 does, under the names that they have on the disk; the disk is then their cache.
//!
//! Owns which parts the store has, which of those lie here too, and which are to go from it. A part is written to the disk
//! first, as without a store, and counts from then on; [`upkeep`] brings it to the store, and only what is there is ever
//! removed here. So the rule at the crate's root holds over both places together: **the parts of a folder are those on the
//! disk and those in the store**, and of those that do not count the store's are removed too.
//!
//! Of a part's two files the operator's own goes first into the store, the account's last; away from it they go the other
//! way round: with the account's file the part is there.

mod line;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use lucarne_model::flow_log::{Bucket, StoreCredentials};
use tokio::{net::lookup_host, time::timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use upkeep::Upkeep;

use crate::{
    durable,
    part::{Half, Place},
    s3::{Ask, BucketError, Client, Listing},
    sealer::now,
};
use line::Line;

/// How long a request may take: for the largest parts over a slow line.
const TIME: Duration = Duration::from_secs(300);
/// Between tries to reach the store, growing from the first to the second.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// Where the parts are kept, beside the disk.
#[derive(Clone, Debug)]
pub struct PartStore {
    pub bucket: Bucket,
    /// None: requests are not signed.
    pub credentials: Option<StoreCredentials>,
    /// Octets of the disk that parts may take which are in the store too. They are counted once a second: in between
    /// questions may bring more, and have what they brought.
    pub cache: u64,
    /// Octets of the disk that parts may take which wait to be brought there; beyond it the log is sealed no more.
    pub most_waiting: u64,
}

/// Why there is no shelf.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    #[error("the thread for the store cannot be started")]
    Thread(#[source] io::Error),
    #[error("the folder of parts cannot be read")]
    Folder(#[source] io::Error),
    #[error("the collector was stopped before {endpoint} said what it holds")]
    Stopped { endpoint: String },
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{endpoint} does not do it: {source}")]
    Refused { endpoint: String, source: BucketError },
    #[error("{host} cannot be resolved: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{endpoint} broke off its answer: {source}")]
    Answer { endpoint: String, source: hyper::Error },
    #[error("{endpoint} did not answer in time")]
    Late { endpoint: String },
    #[error("{endpoint} did not answer with a list of its objects")]
    Listing { endpoint: String },
}

#[derive(Debug)]
pub(crate) struct Shelf {
    client: Arc<Client>,
    cache: u64,
    most_waiting: u64,
    line: Line,
    state: Mutex<State>,
    /// One file is brought at a time.
    bringing: Mutex<()>,
    /// The last request was not answered.
    is_away: AtomicBool,
    /// Octets of parts that wait to be brought to the store.
    waiting: AtomicU64,
}

/// All by the parts' names.
#[derive(Debug, Default)]
struct State {
    /// In the store, with the octets of the account's file.
    stored: BTreeMap<String, u64>,
    /// In the store and here.
    cached: HashMap<String, Cached>,
    /// To be removed from the store, unless a part of that name counts by then.
    unwanted: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    /// Of both files, as far as they are here.
    octets: u64,
    used: Instant,
}

impl Shelf {
    /// Asks the store what it holds, again and again until it answers: without that, nobody knows which parts count.
    pub(crate) fn open(store: PartStore, state_dir: &Path, shutdown: &CancellationToken) -> Result<Self, ShelfError> {
        let PartStore { bucket, credentials, cache, most_waiting } = store;
        let shelf = Self {
            client: Arc::new(Client::new(bucket, credentials)),
            cache,
            most_waiting,
            line: Line::open().map_err(ShelfError::Thread)?,
            state: Mutex::default(),
            bringing: Mutex::default(),
            is_away: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
        };
        let mut again = AGAIN[0];
        let [own, shown] = loop {
            match Half::BOTH.map(|half| shelf.list(half)).into_iter().collect::<Result<Vec<_>, _>>() {
                Ok(lists) => break <[_; 2]>::try_from(lists).unwrap_or_default(),
                Err(error) => tracing::warn!(%error, "the store of parts is waited for; nothing is taken meanwhile"),
            }
            let end = Instant::now() + again;
            while Instant::now() < end {
                if shutdown.is_cancelled() {
                    return Err(ShelfError::Stopped { endpoint: shelf.client.endpoint().to_owned() });
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            again = (again * 2).min(AGAIN[1]);
        };
        shelf.take_stock(own, shown, state_dir).map_err(ShelfError::Folder)?;
        Ok(shelf)
    }

    /// What stands in the store without its other file was half brought or half removed.
    fn take_stock(&self, own: BTreeMap<String, u64>, shown: BTreeMap<String, u64>, state_dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let (whole, half): (BTreeMap<_, _>, BTreeMap<_, _>) =
            shown.into_iter().partition(|(name, _)| own.contains_key(name));
        state.unwanted.extend(half.into_keys());
        state.unwanted.extend(own.into_keys().filter(|name| !whole.contains_key(name)));
        for name in whole.keys() {
            let files = Half::BOTH.map(|half| state_dir.join(half.folder()).join(name));
            let mut octets = 0;
            for path in files {
                match path.metadata() {
                    Ok(file) => octets += file.len(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if octets > 0 {
                state.cached.insert(name.clone(), Cached { octets, used: Instant::now() });
            }
        }
        tracing::info!(store = self.client.endpoint(), parts = whole.len(), "the store of parts answers");
        state.stored = whole;
        Ok(())
    }

    /// The parts in the store, with the octets of their accounts' files.
    pub(crate) fn places(&self) -> Vec<(Place, u64)> {
        let state = self.lock();
        state.stored.iter().filter_map(|(name, size)| Some((Place::parse(name)?, *size))).collect()
    }

    /// Opens a file of a part, and brings it first if it is in the store alone.
    pub(crate) fn open_file(&self, half: Half, name: &str, path: &Path) -> io::Result<File> {
        let is_missing =
            |opened: &io::Result<File>| opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let here = File::open(path);
        if !is_missing(&here) {
            self.used(name, 0);
            return here;
        }
        let _turn = self.bringing.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have brought it meanwhile.
        let here = File::open(path);
        if !is_missing(&here) || !self.lock().stored.contains_key(name) {
            return here;
        }
        let octets = self.get(half, name).map_err(io::Error::other)?;
        path.parent().map_or(Ok(()), durable::create_dir)?;
        durable::write_whole(path, |file| file.write_all(&octets))?;
        // Opened before it is told to be here, so that it cannot be removed between.
        let file = File::open(path);
        self.used(name, octets.len() as u64);
        file
    }

    /// The part does not count any more.
    pub(crate) fn discard(&self, name: &str) {
        let mut state = self.lock();
        state.cached.remove(name);
        state.stored.remove(name);
        state.unwanted.insert(name.to_owned());
    }

    /// The store did not answer when it was asked last.
    pub(crate) fn is_away(&self) -> bool {
        self.is_away.load(Relaxed)
    }

    /// Why no more parts may be made at present; none when there is room.
    pub(crate) fn check_room(&self) -> Result<(), String> {
        let waiting = self.waiting.load(Relaxed);
        if waiting <= self.most_waiting {
            return Ok(());
        }
        let endpoint = self.client.endpoint();
        Err(format!("{waiting} octets of parts wait for {endpoint}, more than the {} that may", self.most_waiting))
    }

    /// A file of the part is used; `brought` octets of it are new here.
    fn used(&self, name: &str, brought: u64) {
        let mut state = self.lock();
        if !state.stored.contains_key(name) {
            return;
        }
        let now = Instant::now();
        let cached = state.cached.entry(name.to_owned()).or_insert(Cached { octets: 0, used: now });
        cached.used = now;
        cached.octets += brought;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store holds of one half, by the parts' names.
    fn list(&self, half: Half) -> Result<BTreeMap<String, u64>, StoreError> {
        let (prefix, mut from, mut all) = (format!("{}/", half.folder()), None, BTreeMap::new());
        let below = self.client.bucket_key(&prefix);
        loop {
            let answer = self.ask(Request::List { prefix: prefix.clone(), from: from.take() })?;
            let no_list = || StoreError::Listing { endpoint: self.client.endpoint().to_owned() };
            let listing = std::str::from_utf8(&answer).ok().and_then(Listing::parse).ok_or_else(no_list)?;
            for object in listing.objects {
                if let Some(name) = object.key.strip_prefix(&below).filter(|name| Place::parse(name).is_some()) {
                    all.insert(name.to_owned(), object.size);
                }
            }
            match listing.next {
                Some(next) => from = Some(next),
                None => return Ok(all),
            }
        }
    }

    fn get(&self, half: Half, name: &str) -> Result<Bytes, StoreError> {
        self.ask(Request::Get { key: key(half, name) })
    }

    fn put(&self, half: Half, name: &str, octets: Bytes) -> Result<(), StoreError> {
        self.ask(Request::Put { key: key(half, name), octets }).map(drop)
    }

    fn delete(&self, half: Half, name: &str) -> Result<(), StoreError> {
        self.ask(Request::Delete { key: key(half, name) }).map(drop)
    }

    fn ask(&self, request: Request) -> Result<Bytes, StoreError> {
        let client = self.client.clone();
        let late = || StoreError::Late { endpoint: self.client.endpoint().to_owned() };
        let asked = self.line.wait(async move { timeout(TIME, ask(&client, &request)).await });
        let answer = asked.map_err(|_| late()).and_then(|asked| asked.unwrap_or_else(|_| Err(late())));
        self.is_away.store(answer.is_err(), Relaxed);
        answer
    }
}

fn key(half: Half, name: &str) -> String {
    format!("{}/{name}", half.folder())
}

/// An [`Ask`] that owns what it says, as it crosses threads.
enum Request {
    Put { key: String, octets: Bytes },
    Get { key: String },
    Delete { key: String },
    List { prefix: String, from: Option<String> },
}

impl Request {
    fn ask(&self) -> Ask<'_> {
        match self {
            Self::Put { key, octets } => Ask::Put { key, octets: octets.clone() },
            Self::Get { key } => Ask::Get { key },
            Self::Delete { key } => Ask::Delete { key },
            Self::List { prefix, from } => Ask::List { prefix, from: from.as_deref() },
        }
    }
}

async fn ask(client: &Client, request: &Request) -> Result<Bytes, StoreError> {
    let endpoint = || client.endpoint().to_owned();
    let refused = |source| StoreError::Refused { endpoint: endpoint(), source };
    let (_, host, port) = client.endpoint_parts().map_err(refused)?;
    let resolved = lookup_host((host.as_str(), port)).await.map(Vec::from_iter);
    let addresses = resolved.map_err(|source| StoreError::Resolve { host, source })?;
    let answer = client.ask(&addresses, request.ask(), now()).await.map_err(refused)?;
    let body = answer.into_body().collect().await;
    Ok(body.map_err(|source| StoreError::Answer { endpoint: endpoint(), source })?.to_bytes())
}
