//! Changes of recorded networks in the store: noted in the transaction that makes them, and kept as long as the recording.
//!
//! Owns their SQL, their order, and how many are kept. Which changes are noted is decided in [`crate::change_recording`].

use lucarne_api::Problem;
use lucarne_model::{RecordingId, recorded_change::RecordedChange};

use super::{Tx, tx};

/// How many a recording keeps: the first.
const KEPT: i64 = 10_000;

impl Tx<'_> {
    /// Notes a change, if the recording has room for it.
    pub(crate) fn note_change(&mut self, recording: RecordingId, change: &RecordedChange) -> Result<(), Problem> {
        let recording = recording.to_string();
        let next = "SELECT COALESCE(MAX(number) + 1, 0) FROM recorded_change WHERE recording = $1";
        let number: i64 = self.row(next, [&recording], |row| row.get(0))?.unwrap_or_default();
        if number >= KEPT {
            return Ok(());
        }
        let body = serde_json::to_string(change).map_err(|error| tx::unreadable("recorded change", &error))?;
        let sql = "INSERT INTO recorded_change (recording, number, body) VALUES ($1, $2, $3)";
        self.execute(sql, (recording, number, body)).map(|_| ())
    }

    /// The recording's changes from the one of this number on, at most `limit`.
    pub(crate) fn recorded_changes(
        &self,
        recording: RecordingId,
        from: usize,
        limit: usize,
    ) -> Result<Vec<RecordedChange>, Problem> {
        let sql = "SELECT body FROM recorded_change WHERE recording = $1 AND number >= $2 ORDER BY number LIMIT $3";
        let mut statement = self.connection.prepare_cached(sql).map_err(tx::unavailable)?;
        let parameters = (recording.to_string(), from as i64, limit as i64);
        let bodies = statement.query_map(parameters, |row| row.get::<_, String>(0)).map_err(tx::unavailable)?;
        let read =
            |body: String| serde_json::from_str(&body).map_err(|error| tx::unreadable("recorded change", &error));
        bodies.map(|body| read(body.map_err(tx::unavailable)?)).collect()
    }

    pub(crate) fn forget_changes(&mut self, recording: RecordingId) -> Result<(), Problem> {
        self.execute("DELETE FROM recorded_change WHERE recording = $1", [recording.to_string()]).map(|_| ())
    }
}
