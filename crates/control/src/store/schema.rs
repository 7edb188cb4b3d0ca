//! The store's tables, as numbered migrations.
//!
//! Owns their order and that each is applied once. They are SQL that SQLite and PostgreSQL both take, and a migration that
//! was released is never edited: a change is the next number.

use rusqlite::Connection;

const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("migrations/0001_resources.sql")),
    (2, include_str!("migrations/0002_events.sql")),
    (3, include_str!("migrations/0003_recorded_changes.sql")),
];

/// Why the tables could not be brought to this build's shape.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrationError {
    #[error("the store is of version {found}, made by a newer build; this one knows {known}")]
    FromTheFuture { found: i64, known: i64 },
    #[error("migration {number} of the store failed")]
    Failed {
        number: i64,
        #[source]
        cause: rusqlite::Error,
    },
    #[error("the store's version could not be read")]
    Unreadable(#[source] rusqlite::Error),
}

/// Applies the migrations that the store has not seen, each in a transaction of its own.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), MigrationError> {
    let create = "CREATE TABLE IF NOT EXISTS migration (number BIGINT NOT NULL PRIMARY KEY)";
    connection.execute_batch(create).map_err(MigrationError::Unreadable)?;
    let latest = "SELECT COALESCE(MAX(number), 0) FROM migration";
    let found: i64 = connection.query_row(latest, [], |row| row.get(0)).map_err(MigrationError::Unreadable)?;
    let known = MIGRATIONS.last().map_or(0, |(number, _)| *number);
    if found > known {
        return Err(MigrationError::FromTheFuture { found, known });
    }
    for (number, sql) in MIGRATIONS.iter().filter(|(number, _)| *number > found) {
        apply(connection, *number, sql).map_err(|cause| MigrationError::Failed { number: *number, cause })?;
    }
    Ok(())
}

fn apply(connection: &mut Connection, number: i64, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(sql)?;
    transaction.execute("INSERT INTO migration (number) VALUES ($1)", [number])?;
    transaction.commit()
}
