//! The one thread that writes: each waiting write in a savepoint of its own, all of them in one commit.
//!
//! Owns the transaction and its end, and the sequence number on disk. Who asked hears only after the commit.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    iter,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::Receiver,
};

use lucarne_api::Problem;
use lucarne_model::ErrorCode;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::{Changes, Tx, decoded::Decoded, tx::unavailable};

/// Writes that share a commit at most, so that the first of them does not wait for long.
const BATCH: usize = 64;
/// Steps that the sequence may have made in memory alone since the last commit: see [`Changes::touch`].
const UNSTORED_STEPS: u64 = 1 << 20;
const SEQUENCE: &str = "sequence";

/// A write that waits, and the way back to who asked for it.
pub(super) type Work = Box<dyn FnOnce(&mut Tx<'_>) -> Settlement + Send>;

/// What a write came to, to be told when the commit is through or failed.
pub(super) struct Settlement {
    keep: bool,
    tell: Box<dyn FnOnce(Result<(), Problem>) + Send>,
}

pub(super) fn work<T: Send + 'static>(
    f: impl FnOnce(&mut Tx<'_>) -> Result<T, Problem> + Send + 'static,
    sender: oneshot::Sender<Result<T, Problem>>,
) -> Work {
    Box::new(move |tx| {
        // A panic in one write must not end the store for all others.
        let result = catch_unwind(AssertUnwindSafe(|| f(tx))).unwrap_or_else(|_| {
            tracing::error!("a write panicked");
            Err(Problem::new(ErrorCode::Internal, "something went wrong inside; it has been logged"))
        });
        let keep = result.is_ok();
        // Who asked may have gone away; the change stands all the same.
        Settlement {
            keep,
            tell: Box::new(move |committed| drop(sender.send(result.and_then(|t| committed.map(|()| t))))),
        }
    })
}

/// The sequence to go on from: behind all that was ever told, whether it was stored or not.
pub(super) fn first_sequence(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT value FROM setting WHERE key = $1";
    let stored: Option<String> = connection.query_row(sql, [SEQUENCE], |row| row.get(0)).optional()?;
    Ok(stored.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default() + UNSTORED_STEPS)
}

/// Writes until the store is closed.
pub(super) fn run(mut connection: Connection, waiting: &Receiver<Work>, changes: &Changes) {
    let decoded = RefCell::default();
    while let Ok(first) = waiting.recv() {
        let batch = iter::once(first).chain(waiting.try_iter()).take(BATCH);
        let mut settlements = Vec::new();
        let outcome = commit(&mut connection, batch, changes, &decoded, &mut settlements).map_err(unavailable);
        match &outcome {
            Ok(_) => decoded.borrow_mut().committed(),
            Err(_) => decoded.borrow_mut().rolled_back(),
        }
        if let Ok(touched) = &outcome
            && !touched.is_empty()
        {
            changes.publish(touched.iter().map(String::as_str));
        }
        for settlement in settlements {
            (settlement.tell)(outcome.as_ref().map(|_| ()).map_err(Clone::clone));
        }
    }
}

fn commit(
    connection: &mut Connection,
    batch: impl Iterator<Item = Work>,
    changes: &Changes,
    decoded: &RefCell<Decoded>,
    settlements: &mut Vec<Settlement>,
) -> rusqlite::Result<BTreeSet<String>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut touched = BTreeSet::new();
    for work in batch {
        let (settlement, topics) = run_one(&transaction, work, changes.sequence(), decoded)?;
        settlements.push(settlement);
        touched.extend(topics);
        // SQLite ends the whole transaction by itself on some errors, such as a full disk. To go on would be to write
        // outside of any.
        if transaction.is_autocommit() {
            return Err(rusqlite::Error::InvalidQuery);
        }
    }
    if !touched.is_empty() {
        let next = (changes.sequence() + 1).to_string();
        let sql = "INSERT INTO setting (key, value) VALUES ($1, $2) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        transaction.prepare_cached(sql)?.execute((SEQUENCE, next))?;
    }
    transaction.commit()?;
    Ok(touched)
}

fn run_one(
    transaction: &Transaction<'_>,
    work: Work,
    as_of: u64,
    decoded: &RefCell<Decoded>,
) -> rusqlite::Result<(Settlement, BTreeSet<String>)> {
    let now = |sql| transaction.prepare_cached(sql).and_then(|mut statement| statement.execute(()));
    now("SAVEPOINT one")?;
    let mut tx = Tx::writing(transaction, as_of, decoded);
    let settlement = work(&mut tx);
    let touched = tx.into_touched();
    if settlement.keep {
        now("RELEASE one")?;
        return Ok((settlement, touched));
    }
    // On some errors SQLite has rolled all back by itself.
    if !transaction.is_autocommit() {
        now("ROLLBACK TO one")?;
        now("RELEASE one")?;
    }
    decoded.borrow_mut().rolled_back();
    Ok((settlement, BTreeSet::new()))
}
