//! The report of a replay, as it grows.
//!
//! Owns the sums, the quantiles of times, and which differences are told. Sums do not depend on the order in which sessions end,
//! so that the same answers give the same report.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::replay::{AnswerDifference, Quantiles, ReplayDifference, ReplayReport, ReplayedSessions};

use super::{
    recorded::{LeftOut, Session},
    verdict::Judged,
};

/// Differences that the reports of a replay tell together.
const DIFFERENCES: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Tally {
    report: ReplayReport,
    points: u64,
    recorded_latency: Times,
    latency: Times,
    pub(super) timing_error: Times,
    differences: BTreeSet<ReplayDifference>,
    /// Differences that are told.
    told: usize,
}

/// Which session was played, the how manieth time, and by which of the amplified clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Take {
    pub(super) session: usize,
    pub(super) round: u32,
    pub(super) copy: u32,
}

impl Tally {
    /// Of one of so many rounds.
    pub(super) fn new(left_out: &LeftOut, rounds: u32) -> Self {
        let sessions = ReplayedSessions {
            already_open: left_out.already_open,
            to_outside: left_out.to_outside,
            packets_left_out: left_out.packets,
            ..ReplayedSessions::default()
        };
        let told = (DIFFERENCES / rounds.max(1) as usize).max(1);
        Self { report: ReplayReport { sessions, ..ReplayReport::default() }, told, ..Self::default() }
    }

    /// Takes a session that is over.
    pub(super) fn add(&mut self, take: Take, session: &Session, judged: &[Judged]) {
        self.report.sessions.played += 1;
        self.report.sessions.as_recorded += u64::from(judged.iter().all(|one| one.difference.is_none()));
        for (exchange, one) in judged.iter().enumerate() {
            self.count(one);
            let Some(what) = one.difference else { continue };
            self.differences.insert(ReplayDifference {
                session: take.session as u32,
                client: session.client,
                server: session.server,
                round: take.round,
                copy: take.copy,
                exchange: exchange as u32,
                what,
            });
            if self.differences.len() > self.told {
                self.differences.pop_last();
                self.report.differences_left_out += 1;
            }
        }
    }

    fn count(&mut self, judged: &Judged) {
        self.points += u64::from(judged.points);
        let exchanges = &mut self.report.exchanges;
        exchanges.compared += 1;
        *match judged.difference {
            None => &mut exchanges.as_recorded,
            Some(AnswerDifference::Missing) => &mut exchanges.missing,
            Some(AnswerDifference::Extra { .. }) => &mut exchanges.extra,
            Some(_) => &mut exchanges.differing,
        } += 1;
        self.report.octets.recorded += judged.recorded;
        self.report.octets.answered += judged.answered;
        judged.recorded_latency.into_iter().for_each(|micros| self.recorded_latency.add(micros));
        judged.latency.into_iter().for_each(|micros| self.latency.add(micros));
    }

    pub(super) fn report(&self) -> ReplayReport {
        let mean = self.points.checked_div(self.report.exchanges.compared);
        ReplayReport {
            score: mean.map(|mean| u8::try_from(mean).unwrap_or(100)),
            recorded_latency: self.recorded_latency.quantiles(),
            latency: self.latency.quantiles(),
            timing_error: self.timing_error.quantiles(),
            differences: self.differences.iter().cloned().collect(),
            ..self.report.clone()
        }
    }
}

/// Spans of time, of which quantiles are asked.
#[derive(Debug, Default)]
pub(crate) struct Times {
    counts: BTreeMap<u64, u64>,
    count: u64,
    most: u64,
}

impl Times {
    pub(crate) fn add(&mut self, micros: u64) {
        // Eight bits of a number are kept, so that there are few different ones and none is wrong by more than a hundredth.
        let dropped = u64::from((u64::BITS - 8).saturating_sub(micros.leading_zeros()));
        *self.counts.entry(micros >> dropped << dropped).or_default() += 1;
        self.count += 1;
        self.most = self.most.max(micros);
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        let [p50_micros, p99_micros] = [50, 99].map(|percent| self.quantile(percent));
        Quantiles { count: self.count, p50_micros, p99_micros, most_micros: self.most }
    }

    pub(crate) fn quantile(&self, percent: u64) -> u64 {
        let wanted = (self.count * percent).div_ceil(100);
        let mut passed = 0;
        let found = self.counts.iter().find(|(_, count)| {
            passed += **count;
            passed >= wanted
        });
        found.map_or(0, |(micros, _)| *micros)
    }
}
