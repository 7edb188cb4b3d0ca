//! `lucarne load`: requests that are made up, asked inside duplicates, and what came of them.

use std::{fmt::Write, time::Duration};

use clap::{Args, Subcommand};
use lucarne_api::{bodies::load::StartLoad, client::Client};
use lucarne_model::{
    Bytes, InstanceId, LoadId, ReplicaId,
    load::{Load, LoadFrom, LoadKind, LoadReport, LoadTarget},
    replication::{ObjectId, Replica},
};
use serde_json::Value;

use super::{
    Context, ListArgs, Naming, Reads,
    flow::{parse_span, parse_word},
};
use crate::{
    failure::Failure,
    kind::{INSTANCE, LOAD, REPLICA},
    listing::resolve,
    output::{self, Format},
    session::{Session, answer, json_of},
    wait::{self, Goal},
};

/// Beyond a load's own time: ports, and what is answered last.
const BESIDE: Duration = Duration::from_secs(180);

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum LoadCommand {
    /// Begin to ask made-up requests of an instance of a duplicate, and print the load's id
    Start(StartArgs),
    /// List them
    List(ListArgs),
    /// Show one and how it goes, or went
    Show {
        /// Its id or name
        id: String,
    },
    /// End loads that are not over; what was told of them stays
    #[command(alias = "cancel")]
    Stop {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Delete loads and their reports, and print their ids
    Delete {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// The replica's id or name
    #[arg(long, value_name = "REPLICA")]
    into: String,
    /// Who is asked: an instance of the replica by its id or the name of its source, or its address there
    #[arg(long, value_name = "INSTANCE|ADDRESS")]
    to: String,
    #[arg(long)]
    port: u16,
    /// http, tcp or udp
    #[arg(long, default_value = "http", value_parser = parse_word::<LoadKind>)]
    kind: LoadKind,
    /// What is asked for, of HTTP alone; / if not given
    #[arg(long)]
    path: Option<String>,
    /// Where the clients stand: internet, or beside an instance of the replica by its id or the name of its source; beside who is
    /// asked if not given
    #[arg(long, value_name = "WHO")]
    from: Option<String>,
    /// How many ask
    #[arg(long, value_name = "N", default_value_t = 1)]
    clients: u32,
    /// How many requests are sent in a second, such as 20 or 20/s, answered or not; each client asks again when it is answered if
    /// not given
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    rate: Option<u32>,
    /// For how long, such as 30s, at most an hour
    #[arg(long = "for", value_name = "SPAN", value_parser = parse_span, default_value = "10s")]
    span: Duration,
    /// What is sent with each request, such as 512 or 64K; nothing if not given, in a datagram 32 octets
    #[arg(long, value_name = "SIZE")]
    size: Option<Bytes>,
    #[command(flatten)]
    naming: Naming,
    /// Wait until it is over, and show the report
    #[arg(long)]
    wait: bool,
}

fn parse_rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().map_err(|_| "write a number of requests in a second, such as 20 or 20/s".to_owned())
}

impl LoadCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Start(args) => args.run(context).await,
            Self::List(args) => Reads::List(args.clone()).run(context, &LOAD).await,
            Self::Show { id } => {
                let id: LoadId = resolve(&context.session, &LOAD, id).await?;
                show(context, id).await
            }
            Self::Stop { ids } => {
                let stop = async |id: String| {
                    let id: LoadId = id.parse().map_err(|_| Failure::wrong_usage("that is no load"))?;
                    context.session.change(async |client| answer(client.stop_load(&id, None, None)).await).await
                };
                context.each(&LOAD, ids, stop).await.map(drop)
            }
            Self::Delete { ids } => context.delete(&LOAD, ids).await,
        }
    }
}

impl StartArgs {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let body = self.body(session).await?;
        let call = async |client: Client| answer(client.start_load(None, None, &body)).await;
        let load: Load = session.change(call).await?;
        if !self.wait {
            return context.made(&json_of(&load)?);
        }
        let goal = Goal { state: "done", hopeless: &["failed", "stopped"], patience: self.span + BESIDE };
        wait::until_telling(session, &LOAD, &load.id.to_string(), goal, progress).await?;
        show(context, load.id).await
    }

    async fn body(&self, session: &Session) -> Result<StartLoad, Failure> {
        let too_much = |what: &str| Failure::wrong_usage(format!("that is too {what}"));
        let replica: ReplicaId = resolve(session, &REPLICA, &self.into).await?;
        let to = match self.to.parse() {
            Ok(to) => to,
            Err(_) => LoadTarget::Instance(duplicate_of(session, replica, &self.to).await?),
        };
        let from = match self.from.as_deref().map(|from| (from, from.parse())) {
            None => None,
            Some((_, Ok(from))) => Some(from),
            Some((name, Err(_))) => Some(LoadFrom::Instance(duplicate_of(session, replica, name).await?)),
        };
        let size = self.size.map(|size| u32::try_from(size.0)).transpose();
        Ok(StartLoad {
            replica,
            to,
            port: self.port,
            kind: self.kind,
            path: self.path.clone(),
            from,
            clients: Some(self.clients),
            rate: self.rate,
            seconds: Some(u32::try_from(self.span.as_secs()).map_err(|_| too_much("long"))?),
            size: size.map_err(|_| too_much("large"))?,
            tags: self.naming.tags(),
        })
    }
}

/// An instance by its name. A duplicate has the name of its source, which is found by it: what is meant is the duplicate.
async fn duplicate_of(session: &Session, replica: ReplicaId, name: &str) -> Result<InstanceId, Failure> {
    let found: InstanceId = resolve(session, &INSTANCE, name).await?;
    let replica: Replica = session.read(async |client| answer(client.get_replica(&replica)).await).await?;
    match replica.objects.get(&ObjectId::Instance(found)) {
        Some(ObjectId::Instance(duplicate)) => Ok(*duplicate),
        _ => Ok(found),
    }
}

async fn show(context: &Context, id: LoadId) -> Result<(), Failure> {
    let call = async |client: Client| answer(client.get_load(&id)).await;
    let load: Load = context.session.read(call).await?;
    match context.format {
        Format::Table => output::print(&text(&load)),
        format => format.print_value(&json_of(&load)?),
    }
}

/// How far it is.
fn progress(load: &Value) -> Option<String> {
    let report: LoadReport = serde_json::from_value(load["report"].clone()).ok()?;
    let (sent, answered, failed) = (report.sent, report.answered, report.failed.all());
    Some(format!("{sent} sent, {answered} answered, {failed} failed, p99 {} ms", millis(report.latency.p99_micros)))
}

fn millis(micros: u64) -> String {
    format!("{:.1}", Duration::from_micros(micros).as_secs_f64() * 1e3)
}

/// What a person is shown.
fn text(load: &Load) -> String {
    let terms = &load.terms;
    let rate = terms.rate.map_or_else(|| "as they are answered".to_owned(), |rate| format!("{rate} in a second"));
    let path = terms.path.as_deref().unwrap_or_default();
    let mut text = format!(
        "{}: {} to {}:{}{path} ({}) in {}, by {} clients, {rate}, for {} s\n",
        load.id, terms.kind, load.address, terms.port, load.instance, load.replica, terms.clients, terms.seconds
    );
    // Writing to a string does not fail.
    let state = json_of(&load.state).ok().and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default();
    let _ = write!(text, "state {state}");
    if let Some(reason) = &load.state_reason {
        let _ = write!(text, ": {}: {}", reason.code, reason.message);
    }
    text.push('\n');
    if let Some(report) = &load.report {
        tell(&mut text, report);
    }
    text
}

fn tell(text: &mut String, report: &LoadReport) {
    let LoadReport { sent, answered, open, unsent, failed, latency, timing_error, .. } = report;
    let lines = [
        format!("sent {sent}, answered {answered}, failed {}, open {open}, not sent {unsent}", failed.all()),
        format!(
            "failed: {} refused, {} reset, {} timed out, {} by status, {} broken",
            failed.refused, failed.reset, failed.timed_out, failed.status, failed.broken
        ),
        format!(
            "{} answers and {} octets in a second, for {:.1} s",
            report.answers_per_second,
            report.octets_per_second,
            Duration::from_millis(report.elapsed_millis).as_secs_f64()
        ),
        format!(
            "latency ms: p50 {}, p90 {}, p99 {}, most {}",
            millis(latency.p50_micros),
            millis(latency.p90_micros),
            millis(latency.p99_micros),
            millis(latency.most_micros)
        ),
        format!("sent late ms: p50 {}, p99 {}", millis(timing_error.p50_micros), millis(timing_error.p99_micros)),
    ];
    let statuses = report.statuses.iter().map(|one| format!("status {}: {}", one.status, one.count));
    for line in lines.into_iter().chain(statuses) {
        text.push_str(&line);
        text.push('\n');
    }
    let rows: Vec<Value> = report.series.iter().filter_map(|span| json_of(span).ok()).collect();
    if !rows.is_empty() {
        let _ = write!(text, "\n{}", output::table(&rows, SERIES));
    }
}

const SERIES: &[(&str, &str)] =
    &[("SECOND", "from"), ("SECONDS", "seconds"), ("SENT", "sent"), ("ANSWERED", "answered"), ("FAILED", "failed")];
