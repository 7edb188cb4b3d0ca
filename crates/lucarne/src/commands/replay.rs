//! `lucarne replay`: recordings played into duplicates, and what the answers are worth.

use std::{fmt::Write, time::Duration};

use clap::{Args, Subcommand};
use lucarne_api::{bodies::replay::StartReplay, client::Client};
use lucarne_model::{
    ReplayId,
    recorded_change::ChangeOutcome,
    replay::{Replay, ReplayDifference, ReplayFrom, ReplayReport, ReplaySpeed},
};
use serde_json::{Value, json};

use super::{Context, ListArgs, Naming, Reads};
use crate::{
    failure::Failure,
    kind::{INSTANCE, RECORDING, REPLAY, REPLICA},
    listing::resolve,
    output::{self, Format},
    session::{Session, answer, json_of},
    wait::{self, Goal},
};

/// Differences that a person is told.
const TOLD: usize = 20;
/// The longest recording at the lowest speed, and more.
const PATIENCE: Duration = Duration::from_secs(11 * 24 * 3600);

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ReplayCommand {
    /// Begin to play a recording into a duplicate of its network, and print the replay's id
    Start(StartArgs),
    /// List them
    List(ListArgs),
    /// Show one with its score, the report of each time, and what differed
    Show {
        /// Its id or name
        id: String,
    },
    /// End replays that are not over
    #[command(alias = "cancel")]
    Stop {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Delete replays and their reports, and print their ids
    Delete {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// The recording's id or name; it has stopped
    recording: String,
    /// The replica's id or name
    #[arg(long, value_name = "REPLICA")]
    into: String,
    /// Whose side is played: internet, instances (those that serve nobody), all (both), or one instance of the recorded network by
    /// its id or name
    #[arg(long, value_name = "WHO", default_value = "internet")]
    from: String,
    /// From 0.1 to 10, or max: as fast as it is answered
    #[arg(long, default_value = "1")]
    speed: ReplaySpeed,
    /// How often it is played, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
    /// By how many clients for each that was recorded
    #[arg(long, value_name = "K", default_value_t = 1)]
    amplify: u32,
    /// Ask of the duplicate, with your rights, what was asked of the network while it was recorded: rules, routes, launches, stops
    #[arg(long)]
    changes: bool,
    #[command(flatten)]
    naming: Naming,
    /// Wait until all was played, and show the report
    #[arg(long)]
    wait: bool,
}

impl ReplayCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Start(args) => args.run(context).await,
            Self::List(args) => Reads::List(args.clone()).run(context, &REPLAY).await,
            Self::Show { id } => {
                let id: ReplayId = resolve(&context.session, &REPLAY, id).await?;
                show(context, id).await
            }
            Self::Stop { ids } => {
                let stop = async |id: String| {
                    let id: ReplayId = id.parse().map_err(|_| Failure::wrong_usage("that is no replay"))?;
                    context.session.change(async |client| answer(client.stop_replay(&id, None, None)).await).await
                };
                context.each(&REPLAY, ids, stop).await.map(drop)
            }
            Self::Delete { ids } => context.delete(&REPLAY, ids).await,
        }
    }
}

impl StartArgs {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let body = StartReplay {
            recording: resolve(session, &RECORDING, &self.recording).await?,
            replica: resolve(session, &REPLICA, &self.into).await?,
            from: self.from(session).await?,
            speed: Some(self.speed),
            times: Some(self.times),
            amplify: Some(self.amplify),
            changes: self.changes,
            tags: self.naming.tags(),
        };
        let call = async |client: Client| answer(client.start_replay(None, None, &body)).await;
        let replay: Replay = session.change(call).await?;
        if !self.wait {
            return context.made(&json_of(&replay)?);
        }
        let goal = Goal { state: "done", hopeless: &["failed", "stopped"], patience: PATIENCE };
        wait::until(session, &REPLAY, &replay.id.to_string(), goal).await?;
        show(context, replay.id).await
    }

    async fn from(&self, session: &Session) -> Result<ReplayFrom, Failure> {
        match self.from.parse() {
            Ok(from) => Ok(from),
            Err(_) => resolve(session, &INSTANCE, &self.from).await.map(ReplayFrom::Instance),
        }
    }
}

async fn show(context: &Context, id: ReplayId) -> Result<(), Failure> {
    let call = async |client: Client| answer(client.get_replay(&id)).await;
    let replay: Replay = context.session.read(call).await?;
    match context.format {
        Format::Table => output::print(&text(&replay)),
        format => format.print_value(&json_of(&replay)?),
    }
}

/// What a person is shown.
fn text(replay: &Replay) -> String {
    let terms = replay.terms;
    let mut text = format!(
        "{}: {} into {} ({}), from {}, at speed {}, {} times, by {} for each\n",
        replay.id, replay.recording, replay.replica, replay.vpc, terms.from, terms.speed, terms.times, terms.amplify
    );
    // Writing to a string does not fail.
    let state = json_of(&replay.state).ok().and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default();
    let _ = write!(text, "state {state}");
    if let Some(reason) = &replay.state_reason {
        let _ = write!(text, ": {}: {}", reason.code, reason.message);
    }
    let score = replay.score.map_or_else(|| "-".to_owned(), |score| score.to_string());
    let _ = writeln!(text, ", score {score}");
    for client in &replay.clients {
        let instead = client.instance.map(|instance| format!(", in place of {instance}")).unwrap_or_default();
        let _ = writeln!(text, "played {} from {}{instead}", client.recorded, client.address);
    }
    for one in &replay.bystanders {
        let (client, sessions) = (one.recorded, one.sessions);
        let _ =
            writeln!(text, "not played {client}: its duplicate serves others and asks by itself; {sessions} sessions");
    }
    for change in replay.changes.iter().flatten() {
        let outcome = match &change.outcome {
            ChangeOutcome::Applied => "applied".to_owned(),
            ChangeOutcome::LeftOut { id } => format!("left out: {id} is not in the duplicate"),
            ChangeOutcome::Refused { code, detail } => format!("refused: {code}: {detail}"),
        };
        let _ = writeln!(text, "change {} of {}: {outcome}", change.operation, output::time(change.recorded));
    }
    if !replay.reports.is_empty() {
        let rows: Vec<Value> = replay.reports.iter().enumerate().map(row).collect();
        let _ = write!(text, "\n{}", output::table(&rows, COLUMNS));
    }
    let differences: Vec<&ReplayDifference> = replay.reports.iter().flat_map(|report| &report.differences).collect();
    if !differences.is_empty() {
        let rows: Vec<Value> = differences.iter().take(TOLD).filter_map(|one| json_of(*one).ok()).collect();
        let _ = write!(text, "\n{}", output::table(&rows, DIFFERENCES));
    }
    let left_out: u64 = replay.reports.iter().map(|report| report.differences_left_out).sum();
    let more = differences.len().saturating_sub(TOLD) as u64 + left_out;
    if more > 0 {
        let _ = writeln!(text, "and {more} more; --output json tells up to a thousand");
    }
    text
}

const COLUMNS: &[(&str, &str)] = &[
    ("TIME", "time"),
    ("SCORE", "score"),
    ("SESSIONS", "sessions"),
    ("EXCHANGES", "exchanges"),
    ("AS RECORDED", "as_recorded"),
    ("DIFFERING", "differing"),
    ("MISSING", "missing"),
    ("EXTRA", "extra"),
    ("OCTETS", "octets"),
    ("LATENCY P50/P99 MS", "latency"),
    ("RECORDED", "recorded_latency"),
    ("LATE P50/P99 MS", "late"),
];

const DIFFERENCES: &[(&str, &str)] = &[
    ("TIME", "round"),
    ("SESSION", "session"),
    ("CLIENT", "client"),
    ("SERVER", "server"),
    ("EXCHANGE", "exchange"),
    ("WHAT", "what.kind"),
    ("RECORDED", "what.recorded"),
    ("ANSWERED", "what.answered"),
];

fn row((at, report): (usize, &ReplayReport)) -> Value {
    let millis = |micros: u64| format!("{:.1}", Duration::from_micros(micros).as_secs_f64() * 1e3);
    let times =
        |times: &lucarne_model::replay::Quantiles| format!("{}/{}", millis(times.p50_micros), millis(times.p99_micros));
    let ReplayReport { sessions, exchanges, octets, .. } = report;
    json!({
        "time": at + 1,
        "score": report.score,
        "sessions": sessions.played,
        "exchanges": exchanges.compared,
        "as_recorded": exchanges.as_recorded,
        "differing": exchanges.differing,
        "missing": exchanges.missing,
        "extra": exchanges.extra,
        "octets": format!("{} of {}", octets.answered, octets.recorded),
        "latency": times(&report.latency),
        "recorded_latency": times(&report.recorded_latency),
        "late": times(&report.timing_error),
    })
}
