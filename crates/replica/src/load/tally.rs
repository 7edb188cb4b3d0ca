//! The report of a load, as it grows.
//!
//! Owns the counts, the quantiles, and the series: its spans become longer so that there are never more than a few dozen of them.

use std::time::Duration;

use lucarne_model::{
    Moment,
    load::{LoadFailures, LoadLatency, LoadReport, LoadSpan, LoadStatus},
};

use super::request::{Failure, Outcome};
use crate::replay::tally::Times;

/// Spans of the series.
const SPANS: usize = 60;
/// Statuses that are counted apart.
const STATUSES: usize = 20;

#[derive(Debug)]
pub(super) struct Tally {
    began: Moment,
    /// When anything happened last.
    last: Moment,
    report: LoadReport,
    latency: Times,
    late: Times,
    series: Series,
}

#[derive(Debug)]
struct Series {
    seconds: u32,
    spans: Vec<LoadSpan>,
}

impl Tally {
    pub(super) fn new(began: Moment) -> Self {
        let (report, latency, late) = Default::default();
        Self { began, last: began, report, latency, late, series: Series { seconds: 1, spans: Vec::new() } }
    }

    /// A request was sent that was due then.
    pub(super) fn sent(&mut self, now: Moment, due: Moment) {
        self.late.add(now.since(due).as_micros() as u64);
        self.report.sent += 1;
        self.report.open += 1;
        self.span(now).sent += 1;
    }

    /// A request that was due then is over.
    pub(super) fn ended(&mut self, now: Moment, due: Moment, outcome: Outcome) {
        self.report.open -= 1;
        match outcome {
            Ok(()) => {
                self.latency.add(now.since(due).as_micros() as u64);
                self.report.answered += 1;
                self.span(now).answered += 1;
            }
            Err(failure) => {
                *count_of(&mut self.report.failed, failure) += 1;
                if let Failure::Status(status) = failure {
                    self.count_status(status);
                }
                self.span(now).failed += 1;
            }
        }
    }

    fn count_status(&mut self, status: u16) {
        let statuses = &mut self.report.statuses;
        if let Some(one) = statuses.iter_mut().find(|one| one.status == status) {
            one.count += 1;
        } else if statuses.len() < STATUSES {
            statuses.push(LoadStatus { status, count: 1 });
        }
    }

    /// Octets without headers.
    pub(super) const fn octets(&mut self, sent: u64, answered: u64) {
        self.report.octets_sent += sent;
        self.report.octets_answered += answered;
    }

    /// Requests that will not be sent.
    pub(super) const fn unsent(&mut self, count: u64) {
        self.report.unsent += count;
    }

    /// Takes note of the time.
    pub(super) fn elapse(&mut self, now: Moment) {
        self.last = self.last.max(now);
    }

    fn span(&mut self, now: Moment) -> &mut LoadSpan {
        self.elapse(now);
        self.series.at(now.since(self.began))
    }

    pub(super) fn report(&self) -> LoadReport {
        let elapsed = u64::try_from(self.last.since(self.began).as_millis()).unwrap_or(u64::MAX);
        let in_a_second = |count: u64| u64::try_from(u128::from(count) * 1000 / u128::from(elapsed.max(1)));
        let [p50_micros, p90_micros, p99_micros] = [50, 90, 99].map(|percent| self.latency.quantile(percent));
        let all = self.latency.quantiles();
        LoadReport {
            elapsed_millis: elapsed,
            answers_per_second: in_a_second(self.report.answered).unwrap_or(u64::MAX),
            octets_per_second: in_a_second(self.report.octets_answered).unwrap_or(u64::MAX),
            latency: LoadLatency { count: all.count, p50_micros, p90_micros, p99_micros, most_micros: all.most_micros },
            timing_error: self.late.quantiles(),
            series: self.series.spans.clone(),
            ..self.report.clone()
        }
    }
}

const fn count_of(failed: &mut LoadFailures, failure: Failure) -> &mut u64 {
    match failure {
        Failure::Refused => &mut failed.refused,
        Failure::Reset => &mut failed.reset,
        Failure::TimedOut => &mut failed.timed_out,
        Failure::Status(_) => &mut failed.status,
        Failure::Broken => &mut failed.broken,
    }
}

impl Series {
    fn at(&mut self, since: Duration) -> &mut LoadSpan {
        let second = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        while (second / self.seconds) as usize >= SPANS {
            self.halve();
        }
        let number = (second / self.seconds) as usize;
        for next in self.spans.len()..=number {
            let from = next as u32 * self.seconds;
            self.spans.push(LoadSpan { from, seconds: self.seconds, ..LoadSpan::default() });
        }
        &mut self.spans[number]
    }

    /// Makes one span of two.
    fn halve(&mut self) {
        self.seconds *= 2;
        let seconds = self.seconds;
        let both = self.spans.chunks(2).map(|pair| LoadSpan {
            from: pair[0].from,
            seconds,
            sent: pair.iter().map(|span| span.sent).sum(),
            answered: pair.iter().map(|span| span.answered).sum(),
            failed: pair.iter().map(|span| span.failed).sum(),
        });
        self.spans = both.collect();
    }
}
