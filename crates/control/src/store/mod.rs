//! The store: everything the controller knows, in SQLite, behind transactions of resources.
//!
//! Owns the files, the threads that may touch them, and what a committed change wakes. One thread writes, taking all
//! requests that wait into one commit, because a commit costs a flush of the disk and a request little else; readers see
//! the last commit and never wait for it. SQL stays within what PostgreSQL takes too, and nobody outside this folder
//! writes any. With several controllers on one database, [`Changes`] would be carried by its notifications.

mod changes;
mod decoded;
mod events;
mod filter;
mod page;
mod recorded_changes;
mod resource;
mod resources;
mod schema;
mod small_tables;
#[cfg(test)]
mod tests;
mod tx;
mod writer;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use lucarne_api::Problem;
use lucarne_model::ErrorCode;
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

pub(crate) use changes::{Changes, Subscription};
pub(crate) use events::Place;
pub(crate) use filter::Filter;
pub(crate) use page::{page_limit, read_token, write_token};
pub(crate) use resource::{Item, Resource, Scope};
pub(crate) use resources::{AccessKeyRecord, held};
pub(crate) use small_tables::Remembered;
pub(crate) use tx::{Tx, not_found};

/// Readers at one time; more would only wait for the same processors.
const READERS: usize = 8;
/// Writes that may wait; when so many do, the next is told to come back.
const WAITING_WRITES: usize = 1024;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the folder {path} of the store could not be made or locked")]
    Folder {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("another controller works on {path}")]
    InUse { path: PathBuf },
    #[error("the database {path} could not be opened")]
    Open {
        path: PathBuf,
        #[source]
        cause: rusqlite::Error,
    },
    #[error("the database could not be brought to this build's shape: {0}")]
    Migration(String),
    #[error("the thread that writes could not be started")]
    Thread(#[source] io::Error),
}

/// A handle to the store; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    writes: mpsc::SyncSender<writer::Work>,
    idle_readers: Mutex<Vec<Connection>>,
    reader_turns: Arc<Semaphore>,
    changes: Arc<Changes>,
    /// Held for as long as the store is open, so that no second controller opens it.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, and makes it when it is not there.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = lock_folder(dir)?;
        let path = dir.join("lucarne.db");
        let opening = |cause| StoreError::Open { path: path.clone(), cause };
        let mut connection = connect(&path).map_err(opening)?;
        schema::migrate(&mut connection).map_err(|error| StoreError::Migration(chain(&error)))?;
        let changes = Arc::new(Changes::starting_at(writer::first_sequence(&connection).map_err(opening)?));
        let (writes, waiting) = mpsc::sync_channel(WAITING_WRITES);
        let woken = changes.clone();
        let thread = std::thread::Builder::new().name("store".into());
        thread.spawn(move || writer::run(connection, &waiting, &woken)).map_err(StoreError::Thread)?;
        let reader_turns = Arc::new(Semaphore::new(READERS));
        let shared = Shared { path, writes, idle_readers: Mutex::default(), reader_turns, changes, _lock: lock };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs `f` in a write transaction, off the async threads; its error rolls back what it did. `f` should be quick and
    /// must not wait for anything: other writes wait for it.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Tx<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (sender, answer) = oneshot::channel();
        self.shared.writes.try_send(writer::work(f, sender)).map_err(|_| {
            let problem = Problem::new(ErrorCode::StoreUnavailable, "too many changes wait for the store");
            Problem { retry_after: Some(1), ..problem }
        })?;
        let failed = || Problem::new(ErrorCode::StoreUnavailable, "the store failed; nothing was changed");
        answer.await.map_err(|_| failed())?
    }

    /// Runs `f` on the state after some commit, off the async threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Tx<'_>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let closed = |_| Problem::new(ErrorCode::StoreUnavailable, "the store is closed");
        let turn = self.shared.reader_turns.clone().acquire_owned().await.map_err(closed)?;
        let shared = self.shared.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let answer = shared.read(f);
            drop(turn);
            answer
        });
        reading.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a read of the store panicked");
            Err(Problem::new(ErrorCode::Internal, "something went wrong inside; it has been logged"))
        })
    }

    /// Writes the files anew without what was deleted or overwritten, and leaves nothing of it in the log of changes.
    pub(crate) async fn scrub(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let scrubbed = tokio::task::spawn_blocking(move || {
            let failed = |cause| StoreError::Open { path: shared.path.clone(), cause };
            // Those that were reading before would keep the log.
            shared.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let connection = connect(&shared.path).map_err(failed)?;
            connection.execute_batch("VACUUM").map_err(failed)?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)
        });
        scrubbed.await.unwrap_or_else(|stopped| {
            let cause = io::Error::other(stopped);
            Err(StoreError::Folder { path: self.shared.path.clone(), cause })
        })
    }

    pub(crate) fn changes(&self) -> &Arc<Changes> {
        &self.shared.changes
    }
}

impl Shared {
    fn read<T>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T, Problem>) -> Result<T, Problem> {
        let idle = self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path).map_err(tx::unavailable)?,
        };
        let as_of = self.changes.sequence();
        let snapshot = connection.unchecked_transaction().map_err(tx::unavailable)?;
        let answer = f(&Tx::reading(&snapshot, as_of));
        drop(snapshot);
        self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        answer
    }
}

fn lock_folder(dir: &Path) -> Result<File, StoreError> {
    let failed = |cause| StoreError::Folder { path: dir.to_owned(), cause };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let lock = File::create(dir.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// FULL: what was answered as done is on the disk, a power failure later included.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Plans are made for the SQL and not for its parameters: otherwise SQLite prepares many statements anew at each use.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
