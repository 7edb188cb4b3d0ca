//! `lucarne flow top` without more: who talks most just now, drawn again every second on a terminal and told once in a pipe.
//!
//! Owns what is counted: records as they come, each flow's two ends once. A flow that goes on is reported at an interval
//! (10 s unless a flow log asks for another), so a shorter span shows it only in the spans in which its report came.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, IsTerminal},
    net::IpAddr,
    time::Duration,
};

use clap::{Args, ValueEnum};
use lucarne_model::{
    EndReason, FlowEvent, Moment, TenantFlowRecord,
    flow::{Direction, Side, Verdict},
};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::{
    Context,
    flow::{Watch, Which, parse_span},
};
use crate::{
    failure::{Failure, LocalCode},
    kind::Column,
    output::{self, Format, time},
    session::now,
};

const COLUMNS: &[Column] = &[
    ("SOURCE", "source"),
    ("DESTINATION", "destination"),
    ("PORT", "port"),
    ("PROTOCOL", "protocol"),
    ("MB/S", "megabits_per_second"),
    ("PACKETS/S", "packets_per_second"),
    ("FLOWS", "flows"),
    ("STATE", "state"),
];
const REDRAW: Duration = Duration::from_secs(1);
/// Records that are held; beyond it the oldest go.
const MOST: usize = 200_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct LiveArgs {
    /// Over how long is counted, and how long a pipe waits for its one table
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = parse_interval)]
    interval: Duration,
    /// What the most is of
    #[arg(long, value_enum, default_value = "bytes")]
    by: By,
    /// Print one table after the interval and end, on a terminal too
    #[arg(long)]
    once: bool,
    /// At most so many rows
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Bytes,
    Packets,
    Flows,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_span(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(600);
    if allowed.contains(&interval) { Ok(interval) } else { Err("it is 1s to 10m".into()) }
}

/// Who sends to whom, and to which port of the one who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Talk {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    protocol: u8,
}

/// What a record adds.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Moment,
    talk: Talk,
    /// At the sender's port, else at the receiver's: of a flow between two machines both tell.
    is_from_sender: bool,
    flow: u64,
    packets: u64,
    bytes: u64,
    state: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    packets: u64,
    bytes: u64,
}

/// What was heard of one talk, by either end.
#[derive(Clone, Debug, Default)]
struct Told {
    by_sender: Tally,
    by_receiver: Tally,
    flows: BTreeSet<u64>,
    state: &'static str,
}

impl Told {
    /// Each packet once: what the end says that saw more of it.
    fn tally(&self) -> &Tally {
        if self.by_sender.bytes >= self.by_receiver.bytes { &self.by_sender } else { &self.by_receiver }
    }
}

/// The records of the last while.
#[derive(Debug, Default)]
struct Talkers {
    heard: VecDeque<Heard>,
    missed: u64,
}

impl Talkers {
    fn hear(&mut self, event: &FlowEvent, at: Moment) {
        match event {
            FlowEvent::Missed(records) => self.missed += records,
            FlowEvent::Record(record) => self.heard.push_back(heard(record, at)),
        }
        if self.heard.len() > MOST {
            self.heard.pop_front();
            self.missed += 1;
        }
    }

    /// The talks of the time since, the most first.
    fn most(&mut self, since: Moment, by: By) -> Vec<(Talk, Told)> {
        while self.heard.front().is_some_and(|heard| heard.at < since) {
            self.heard.pop_front();
        }
        let mut talks: BTreeMap<Talk, Told> = BTreeMap::new();
        for heard in &self.heard {
            let told = talks.entry(heard.talk).or_default();
            let tally = if heard.is_from_sender { &mut told.by_sender } else { &mut told.by_receiver };
            tally.packets += heard.packets;
            tally.bytes += heard.bytes;
            told.flows.insert(heard.flow);
            told.state = heard.state;
        }
        let mut talks: Vec<(Talk, Told)> = talks.into_iter().collect();
        talks.sort_by_key(|(_, told)| {
            std::cmp::Reverse(match by {
                By::Bytes => told.tally().bytes,
                By::Packets => told.tally().packets,
                By::Flows => told.flows.len() as u64,
            })
        });
        talks
    }
}

fn heard(record: &TenantFlowRecord, at: Moment) -> Heard {
    let TenantFlowRecord { source, destination, protocol, .. } = *record;
    let port = match record.side {
        Side::Initiator => record.destination_port,
        Side::Responder => record.source_port,
    };
    Heard {
        at,
        talk: Talk { source, destination, port, protocol },
        is_from_sender: record.direction == Direction::Egress,
        flow: record.flow_id,
        packets: record.packets,
        bytes: record.bytes,
        state: state(record.verdict, record.end_reason),
    }
}

fn state(verdict: Verdict, end_reason: EndReason) -> &'static str {
    match (verdict, end_reason) {
        (Verdict::Accept, EndReason::ActiveSlice) => "open",
        (_, end_reason) => end_reason.name(),
    }
}

fn row(talk: &Talk, told: &Told, interval: Duration) -> Value {
    let per_second = |count: f64, digits: f64| (count / interval.as_secs_f64() * digits).round() / digits;
    let Tally { packets, bytes } = *told.tally();
    json!({
        "source": talk.source,
        "destination": talk.destination,
        "port": talk.port,
        "protocol": talk.protocol,
        "megabits_per_second": per_second(bytes as f64 * 8.0 / 1e6, 1000.0),
        "packets_per_second": per_second(packets as f64, 10.0),
        "flows": told.flows.len(),
        "state": told.state,
    })
}

impl LiveArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let query = self.which.query(&context.session).await?;
        let mut watch = Watch::open(&context.session, &query).await?;
        let is_live = !self.once && context.format == Format::Table && io::stdout().is_terminal();
        let every = if is_live { REDRAW } else { self.interval };
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut talkers = Talkers::default();
        loop {
            tokio::select! {
                line = watch.next() => match line? {
                    Some(line) => talkers.hear(&read(&line)?, now()),
                    None => return self.tell(context.format, &mut talkers),
                },
                _ = ticks.tick() => {
                    if !is_live {
                        return self.tell(context.format, &mut talkers);
                    }
                    // To the corner, and everything below it away.
                    output::print(&format!("\x1b[H\x1b[2J{}\n", self.title(&talkers)))?;
                    self.tell(context.format, &mut talkers)?;
                }
            }
        }
    }

    fn title(&self, talkers: &Talkers) -> String {
        let by = self.by.to_possible_value().map_or_else(String::new, |by| by.get_name().to_owned());
        let missed = match talkers.missed {
            0 => String::new(),
            missed => format!("; {missed} records came too fast and are left out"),
        };
        format!("The last {} s by {by}, at {}{missed}\n", self.interval.as_secs(), time(now()))
    }

    fn tell(&self, format: Format, talkers: &mut Talkers) -> Result<(), Failure> {
        let most = talkers.most(now().minus(self.interval), self.by);
        let rows: Vec<Value> =
            most.iter().take(self.limit).map(|(talk, told)| row(talk, told, self.interval)).collect();
        format.print_list(&rows, COLUMNS)
    }
}

fn read(line: &str) -> Result<FlowEvent, Failure> {
    serde_json::from_str(line)
        .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, format!("the watch sent no flow event: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_secs(100);

    fn heard(last: u8, is_from_sender: bool, bytes: u64) -> Heard {
        let [source, destination] = [1, last].map(|last| IpAddr::from([10, 0, 0, last]));
        let talk = Talk { source, destination, port: 80, protocol: 6 };
        Heard { at: NOW, talk, is_from_sender, flow: last.into(), packets: 1, bytes, state: "open" }
    }

    fn talkers(all: impl IntoIterator<Item = Heard>) -> Talkers {
        Talkers { heard: all.into_iter().collect(), missed: 0 }
    }

    #[test]
    fn a_flow_between_two_machines_is_counted_once_though_both_tell() {
        let most = talkers([heard(2, true, 700), heard(2, false, 700)]).most(Moment::EPOCH, By::Bytes);
        assert_eq!((most.len(), most[0].1.tally().bytes, most[0].1.flows.len()), (1, 700, 1));
        let row = row(&most[0].0, &most[0].1, Duration::from_secs(10));
        assert_eq!((&row["megabits_per_second"], &row["packets_per_second"]), (&json!(0.001), &json!(0.1)));
    }

    #[test]
    fn the_most_come_first_by_what_is_asked_for() {
        let second = Heard { packets: 90, ..heard(3, true, 10) };
        let third = Heard { flow: 77, ..heard(4, true, 1) };
        let mut talkers = talkers([heard(2, true, 700), second, third, heard(4, true, 1)]);
        let mut first = |by| talkers.most(Moment::EPOCH, by)[0].0.destination;
        let of = |last| IpAddr::from([10, 0, 0, last]);
        assert_eq!([first(By::Bytes), first(By::Packets), first(By::Flows)], [of(2), of(3), of(4)]);
    }

    #[test]
    fn what_is_over_is_not_counted() {
        let old = Heard { at: Moment::from_secs(80), ..heard(2, true, 700) };
        let mut talkers = talkers([old, heard(3, true, 1)]);
        assert_eq!(talkers.most(Moment::from_secs(90), By::Bytes).len(), 1);
    }

    #[test]
    fn a_flow_that_is_reported_while_it_goes_on_is_open_and_one_that_was_not_let_through_says_by_whom() {
        assert_eq!(state(Verdict::Accept, EndReason::ActiveSlice), "open");
        assert_eq!(state(Verdict::Reject, EndReason::DeniedByNetworkAcl), "denied-by-network-acl");
    }

    #[test]
    fn an_interval_is_a_second_to_ten_minutes() {
        assert_eq!(parse_interval("10s"), Ok(Duration::from_secs(10)));
        assert!(parse_interval("0s").is_err() && parse_interval("11m").is_err());
    }
}
