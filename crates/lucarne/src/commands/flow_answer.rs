//! Asking a question about flows and printing its rows: what `query` and the named questions share.
//!
//! Owns the progress that a terminal shows meanwhile. Whoever interrupts the command ends its connection, and with it the
//! work at the collector.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use lucarne_api::client::Client;
use lucarne_model::flow_sql::{SqlAnswer, SqlProgress};
use serde_json::Value;

use super::Context;
use crate::{
    failure::Failure,
    output::{self, Format},
    session::{Session, answer, random_key},
    wait::Progress,
};

const BETWEEN_LOOKS: Duration = Duration::from_millis(400);

/// How rows are written, beside what all commands know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RowFormat {
    /// As RFC 4180 has it, with a line of names
    Csv,
}

/// Asks with a name for the question, under which its progress is looked for while it is awaited.
pub(crate) async fn asked(
    session: &Session,
    ask: impl AsyncFn(Client, &str) -> Result<SqlAnswer, Failure>,
) -> Result<SqlAnswer, Failure> {
    let name = random_key();
    let asking = session.read(async |client: Client| ask(client, &name).await);
    if !io::stderr().is_terminal() {
        return asking.await;
    }
    let progress = Progress::start("asking");
    tokio::select! {
        answer = asking => answer,
        never = show(session, &name, &progress) => never,
    }
}

/// Says again and again how far the question is. A look that fails is no reason to give the question up.
async fn show(session: &Session, name: &str, progress: &Progress) -> ! {
    loop {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let look = async |client: Client| answer(client.get_flow_progress(name)).await;
        if let Ok(seen) = session.read(look).await {
            progress.say(words(seen));
        }
    }
}

fn words(seen: SqlProgress) -> String {
    match seen {
        SqlProgress { waits: true, .. } => "waiting for other questions to end".into(),
        SqlProgress { files, files_done, rows, .. } => format!("{files_done} of {files} files, {rows} rows read"),
    }
}

/// Prints an answer; that rows are left out is said beside it.
pub(crate) fn print(context: &Context, format: Option<RowFormat>, answer: SqlAnswer) -> Result<(), Failure> {
    let SqlAnswer { columns, rows, truncated } = answer;
    if truncated {
        eprintln!("there are more rows than these {}", rows.len());
    }
    match (format, context.format) {
        (Some(RowFormat::Csv), _) => output::print(&output::csv(&columns, &rows)),
        (None, Format::Table) => output::print(&output::rows(&columns, &rows)),
        (None, json_or_yaml) => json_or_yaml.print_value(&rows.into_iter().map(Value::Object).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_files_and_rows() {
        let seen = SqlProgress { elapsed: 5, waits: false, files: 12, files_done: 3, rows: 400 };
        assert_eq!(words(seen), "3 of 12 files, 400 rows read");
        assert!(words(SqlProgress { waits: true, ..seen }).contains("waiting"));
    }
}
