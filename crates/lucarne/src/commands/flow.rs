//! `lucarne flow`: the records of what the instances' packets did.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use clap::{Args, Subcommand};
use futures::StreamExt;
use lucarne_api::{bodies::flow::FlowsQuery, client::ByteStream};
use lucarne_model::{
    EndReason, Moment,
    flow::{Direction, Verdict},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Context,
    flow_export::ExportArgs,
    flow_losses::LossesArgs,
    flow_query::{QueryArgs, Reach},
    flow_question::{NetworkArgs, PeersArgs, PlaceArgs, list_questions},
    flow_receipts::ReceiptsCommand,
    flow_scanners::{ClosedPortArgs, ScannersArgs},
    flow_top::TopArgs,
    flow_why::WhyArgs,
};
use crate::{
    failure::{Failure, LocalCode},
    kind::{FLOW_COLUMNS, INSTANCE, INTERFACE, SUBNET, VPC},
    listing::{follow, resolve_option},
    output::{self, Format},
    session::{Session, answer, byte_stream, now},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum FlowCommand {
    /// List records, newest first
    List {
        /// From when: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z
        #[arg(long, default_value = "1h")]
        since: Since,
        /// Until when, in the same forms
        #[arg(long)]
        until: Option<Since>,
        /// At most this many; all if not given
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        #[command(flatten)]
        which: Which,
    },
    /// Follow records as they come, until interrupted; with --output json one JSON value a line
    Watch {
        #[command(flatten)]
        which: Which,
    },
    /// Write a network's flows to a file, folded as one router between its subnets would have seen them
    Export(ExportArgs),
    /// Say which rules decide whether a flow passes, and since when its records say so
    Why(WhyArgs),
    /// Answer a question in SQL
    Query(QueryArgs),
    /// List the tables that SQL can ask, with their columns
    Columns(Reach),
    /// List the questions that have a name
    Questions,
    /// Say with whom an instance or the account talked
    Peers(PeersArgs),
    /// Show who talks most just now; or who and what had the most: talkers, ports or rejects
    Top(TopArgs),
    /// List rules that decided no flow
    UnusedRules(NetworkArgs),
    /// List flows that went one way only, or were seen at one end only
    Asymmetric(NetworkArgs),
    /// List destinations from which nothing ever came back
    Blackholes(PlaceArgs),
    /// List the addresses outside that tried many different customers within a time (for operators)
    Scanners(ScannersArgs),
    /// List the instances that had a port closed to a source: they refused it themselves, or it was denied
    ClosedPort(ClosedPortArgs),
    /// List flow records that were made and could not be kept: when, how many, and why
    Losses(LossesArgs),
    /// The collector's receipts for kept records, by which an account can tell that none was taken away
    #[command(subcommand)]
    Receipts(ReceiptsCommand),
}

/// Which records; all that is given must hold.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Which {
    /// The instance's id or name
    #[arg(long)]
    instance: Option<String>,
    /// The network interface's id
    #[arg(long)]
    interface: Option<String>,
    /// The subnet's id or name
    #[arg(long)]
    subnet: Option<String>,
    /// The VPC's id or name
    #[arg(long)]
    vpc: Option<String>,
    /// accept or reject
    #[arg(long, value_parser = parse_word::<Verdict>)]
    verdict: Option<Verdict>,
    /// Such as refused-by-vm or denied-by-group-at-destination
    #[arg(long)]
    end_reason: Option<EndReason>,
    /// ingress or egress, as the instance sees it
    #[arg(long, value_parser = parse_word::<Direction>)]
    direction: Option<Direction>,
    #[arg(long)]
    source: Option<IpAddr>,
    #[arg(long)]
    destination: Option<IpAddr>,
    /// The address at the other end
    #[arg(long)]
    peer: Option<IpAddr>,
    /// Either side's port
    #[arg(long)]
    port: Option<u16>,
    /// tcp, udp, icmp or a number
    #[arg(long, value_parser = parse_protocol)]
    protocol: Option<u8>,
}

/// A point in time, said as a span before now or as a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Ago(Duration),
    At(Moment),
}

impl Since {
    pub(super) fn moment(self, now: Moment) -> Moment {
        match self {
            Self::Ago(span) => now.minus(span),
            Self::At(moment) => moment,
        }
    }
}

impl std::str::FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
            return u64::try_from(timestamp.as_microsecond())
                .map(|micros| Self::At(Moment(micros)))
                .map_err(|e| e.to_string());
        }
        parse_span(text)
            .map(Self::Ago)
            .map_err(|_| "write a span such as 30s, 10m, 2h or 1d, or a time such as 2026-01-31T12:00:00Z".to_owned())
    }
}

pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    let refuse = || "write a span such as 30s, 10m, 2h or 1d".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
    let seconds = match &text[digits..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(refuse()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(refuse)
}

/// A word of one of the API's closed vocabularies.
pub(super) fn parse_word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(json!(text)).map_err(|cause| cause.to_string())
}

pub(super) fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        number => number.parse().map_err(|_| "it is tcp, udp, icmp or a number to 255".into()),
    }
}

/// The client's methods take the fields of the query one by one, in the order of their names.
macro_rules! call_flows {
    ($client:ident . $method:ident ($q:ident, $limit:expr, $token:expr)) => {
        $client.$method(
            $q.destination.as_ref(),
            $q.direction.as_ref(),
            $q.end_reason.as_ref(),
            $q.instance.as_ref(),
            $q.interface.as_ref(),
            $limit,
            $token,
            $q.peer.as_ref(),
            $q.port,
            $q.protocol,
            $q.since.as_ref(),
            $q.source.as_ref(),
            $q.subnet.as_ref(),
            $q.until.as_ref(),
            $q.verdict.as_ref(),
            $q.vpc.as_ref(),
        )
    };
}

/// All records that match, or the newest `limit` of them.
pub(crate) async fn list_flows(
    session: &Session,
    query: &FlowsQuery,
    limit: Option<u32>,
) -> Result<Vec<Value>, Failure> {
    let page = async |limit, token: Option<String>| {
        let call = async |client: lucarne_api::client::Client| {
            answer(call_flows!(client.list_flows(query, Some(limit), token.as_deref()))).await
        };
        session.read(call).await
    };
    follow(limit, page).await
}

impl FlowCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (session, now) = (&context.session, now());
        match self {
            Self::List { since, until, limit, which } => {
                let mut query = which.query(session).await?;
                query.since = Some(since.moment(now));
                query.until = until.map(|until| until.moment(now));
                context.format.print_list(&list_flows(session, &query, *limit).await?, FLOW_COLUMNS)
            }
            Self::Export(args) => args.run(context).await,
            Self::Why(args) => args.run(context).await,
            Self::Query(args) => args.run(context).await,
            Self::Columns(reach) => reach.list_columns(context).await,
            Self::Questions => list_questions(context).await,
            Self::Peers(args) => args.run(context).await,
            Self::Top(args) => args.run(context).await,
            Self::UnusedRules(args) => args.run(context, "unused-rules").await,
            Self::Asymmetric(args) => args.run(context, "asymmetric").await,
            Self::Blackholes(args) => args.run(context, "blackholes").await,
            Self::Scanners(args) => args.run(context).await,
            Self::ClosedPort(args) => args.run(context).await,
            Self::Losses(args) => args.run(context).await,
            Self::Receipts(command) => command.run(context).await,
            Self::Watch { which } => watch(context, &which.query(session).await?).await,
        }
    }
}

impl Which {
    pub(super) async fn query(&self, session: &Session) -> Result<FlowsQuery, Failure> {
        Ok(FlowsQuery {
            instance: resolve_option(session, &INSTANCE, self.instance.as_ref()).await?,
            interface: resolve_option(session, &INTERFACE, self.interface.as_ref()).await?,
            subnet: resolve_option(session, &SUBNET, self.subnet.as_ref()).await?,
            vpc: resolve_option(session, &VPC, self.vpc.as_ref()).await?,
            verdict: self.verdict,
            end_reason: self.end_reason,
            direction: self.direction,
            source: self.source,
            destination: self.destination,
            peer: self.peer,
            port: self.port,
            protocol: self.protocol,
            ..FlowsQuery::default()
        })
    }
}

async fn watch(context: &Context, query: &FlowsQuery) -> Result<(), Failure> {
    let mut watch = Watch::open(&context.session, query).await?;
    while let Some(line) = watch.next().await? {
        print_event(context.format, &line)?;
    }
    Ok(())
}

/// Records as they come, a line of JSON each.
pub(super) struct Watch {
    bytes: ByteStream,
    lines: Lines,
    whole: VecDeque<String>,
}

impl Watch {
    pub(super) async fn open(session: &Session, query: &FlowsQuery) -> Result<Self, Failure> {
        let call = async |client: lucarne_api::client::Client| {
            byte_stream(call_flows!(client.watch_flows(query, None, None))).await
        };
        let bytes = session.stream(call).await?;
        Ok(Self { bytes, lines: Lines::default(), whole: VecDeque::new() })
    }

    /// The next line; none when the watch has ended. Whoever stops waiting loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(line) = self.whole.pop_front() {
                return Ok(Some(line));
            }
            let broke = |cause: reqwest::Error| {
                Failure::local(LocalCode::UnexpectedAnswer, format!("the watch broke off: {cause}"))
            };
            let Some(chunk) = self.bytes.next().await else { return Ok(None) };
            self.whole.extend(self.lines.take(&chunk.map_err(broke)?));
        }
    }
}

/// Bytes put together to lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.0.drain(..=end).collect();
        whole
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|l| String::from_utf8_lossy(l).into())
            .collect()
    }
}

fn print_event(format: Format, line: &str) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print(&format!("{line}\n"));
    }
    let event: Value = serde_json::from_str(line)
        .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, format!("the watch sent no JSON: {cause}")))?;
    if let Some(missed) = event["missed"].as_u64() {
        eprintln!("{missed} records were left out because they came faster than they were read");
        return Ok(());
    }
    let record = event.get("record").unwrap_or(&event);
    if format == Format::Yaml {
        return Format::Yaml.print_value(&json!([record]));
    }
    let table = output::table(std::slice::from_ref(record), FLOW_COLUMNS);
    output::print(&table.lines().skip(1).map(|row| format!("{row}\n")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_span_before_now_or_a_date() {
        let now = Moment::from_secs(1_000_000);
        let moment = |text: &str| text.parse::<Since>().map(|since| since.moment(now));
        assert_eq!(moment("10m"), Ok(Moment::from_secs(999_400)));
        assert_eq!(moment("1970-01-02T00:00:00Z"), Ok(Moment::from_secs(86_400)));
        assert!(moment("10").is_err() && moment("m").is_err() && moment("ten minutes").is_err());
    }

    #[test]
    fn lines_are_whole_however_the_bytes_come() {
        let mut lines = Lines::default();
        assert!(lines.take(b"{\"a\":").is_empty());
        assert_eq!(lines.take(b"1}\n\n{\"b\":2}\n{"), ["{\"a\":1}", "{\"b\":2}"]);
        assert_eq!(lines.take(b"}\n"), ["{}"]);
    }

    #[test]
    fn verdicts_and_directions_are_the_apis_words() {
        assert_eq!(parse_word("reject"), Ok(Verdict::Reject));
        assert_eq!(parse_word("egress"), Ok(Direction::Egress));
        assert!(parse_word::<Verdict>("maybe").is_err());
    }
}
