//! The questions about flows that have a name: what each takes, what it means, and how it is computed.
//!
//! Owns the one table of them, [`QUESTIONS`], and the SQL of each with its parameters filled in. Whose records are asked is
//! no part of it: the collector's tables have one account's only. What asks for nothing but sums by what `flow_sums` has
//! is asked of it; what asks for lopsided flows, of `lopsided_flows`. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod unused;

use std::time::Duration;

use lucarne_api::bodies::flow_question::Measure;
use lucarne_model::{InstanceId, Moment, VpcId, flow::Verdict};

/// How long a flow may be silent before its first report, which is the last one then (other protocols than TCP, UDP and ICMP
/// for a minute), and what a record takes on its way. Before, the other direction or the other end may not have told yet.
const TOLD_BY_ALL: Duration = Duration::from_secs(90);

/// What a question can be about, beside the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// The instance, which must be given.
    OneInstance,
    Instance,
    Vpc,
    By,
}

impl Parameter {
    /// As the API calls it; with `!` where it must be given.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OneInstance => "instance!",
            Self::Instance => "instance",
            Self::Vpc => "vpc",
            Self::By => "by",
        }
    }
}

/// How an answer comes about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Computation {
    /// The rows of the SQL.
    Sql(&'static str),
    /// The same, and for the address in the first column the account's instance that has it, in the second.
    SqlWithInstances(&'static str, &'static str, &'static str),
    /// The SQL gives the rules that decided; the answer has the others.
    UnusedRules(&'static str),
}

/// A question that has a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) takes: &'static [Parameter],
    pub(crate) computation: Computation,
}

/// A parameter that the question cannot go without, or does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParameterError {
    #[error("`{0}` must be given")]
    Missing(&'static str),
    #[error("`{0}` is no parameter of this question")]
    Unknown(&'static str),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Records that end at or after this.
    pub(crate) since: Moment,
    /// Records that start before this.
    pub(crate) until: Moment,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) vpc: Option<VpcId>,
    pub(crate) by: Option<Measure>,
}

use Computation::{Sql, SqlWithInstances, UnusedRules};
use Parameter::{By, Instance, OneInstance, Vpc};

/// Every question. The rows of each come in an order that is the same for the same records.
pub(crate) const QUESTIONS: &[Question] = &[
    Question {
        name: "peers",
        meaning: "With whom an instance talked: each address, protocol and port of the one who was asked",
        takes: &[OneInstance],
        computation: SqlWithInstances(
            "SELECT vpc, peer, protocol, port, packets_sent, bytes_sent, packets_received, bytes_received, {verdicts}, \
             first_seen, last_seen FROM (SELECT vpc, peer, protocol, port, {both_ways}, {counts}, {seen} \
             FROM flow_sums WHERE {which} GROUP BY vpc, peer, protocol, port) \
             ORDER BY bytes_sent + bytes_received DESC, peer, protocol, port, vpc",
            "peer",
            "peer_instance",
        ),
    },
    Question {
        name: "account-peers",
        meaning: "All systems with which the account's instances talked",
        takes: &[Vpc],
        computation: SqlWithInstances(
            // By instance first: a set of instances for each of many peers would take far more memory.
            "SELECT vpc, peer, instances, packets_sent, bytes_sent, packets_received, bytes_received, {verdicts}, \
             first_seen, last_seen FROM (SELECT vpc, peer, count(*) AS instances, sum(packets_sent) AS packets_sent, \
             sum(bytes_sent) AS bytes_sent, sum(packets_received) AS packets_received, \
             sum(bytes_received) AS bytes_received, sum(accepted) AS accepted, sum(rejected) AS rejected, \
             min(first_seen) AS first_seen, max(last_seen) AS last_seen \
             FROM (SELECT vpc, peer, instance, {both_ways}, {counts}, {seen} \
             FROM flow_sums WHERE {which} GROUP BY vpc, peer, instance) GROUP BY vpc, peer) \
             ORDER BY bytes_sent + bytes_received DESC, peer, vpc",
            "peer",
            "peer_instance",
        ),
    },
    Question {
        name: "top-talkers",
        meaning: "The instances with the most traffic, both ways",
        takes: &[Vpc, By],
        computation: Sql(
            "SELECT vpc, instance, packets_sent, bytes_sent, packets_received, bytes_received, flows FROM \
             (SELECT vpc, instance, {both_ways}, sum(flows) AS flows, sum(bytes) AS bytes, sum(packets) AS packets \
             FROM flow_sums WHERE {which} GROUP BY vpc, instance) ORDER BY {by} DESC, instance",
        ),
    },
    Question {
        name: "top-ports",
        meaning: "The protocols and ports with the most traffic that was let through, each packet counted where it \
                  entered",
        takes: &[Instance, Vpc, By],
        computation: Sql("SELECT protocol, port, instances, packets, bytes, flows FROM (SELECT protocol, port, \
             count(DISTINCT instance) AS instances, sum(packets) AS packets, sum(bytes) AS bytes, sum(flows) AS flows \
             FROM flow_sums WHERE {which} AND verdict = 'accept' AND (direction = 'egress' OR path NOT IN {inside}) \
             GROUP BY protocol, port) ORDER BY {by} DESC, protocol, port"),
    },
    Question {
        name: "top-rejects",
        meaning: "What was rejected most: at which instance, from or to whom, why and by which rule",
        takes: &[Instance, Vpc, By],
        computation: SqlWithInstances(
            "SELECT vpc, instance, direction, peer, protocol, port, end_reason, rule, packets, bytes, flows, \
             first_seen, last_seen FROM (SELECT vpc, instance, direction, peer, protocol, port, \
             end_reason, rule, sum(packets) AS packets, sum(bytes) AS bytes, sum(flows) AS flows, {seen} \
             FROM flow_sums WHERE {which} AND verdict = 'reject' \
             GROUP BY vpc, instance, direction, peer, protocol, port, end_reason, rule) \
             ORDER BY {by} DESC, instance, direction, peer, protocol, port, end_reason, rule",
            "peer",
            "peer_instance",
        ),
    },
    Question {
        name: "unused-rules",
        meaning: "The rules of security groups, and the entries of network ACLs that reject, that decided no flow",
        takes: &[Vpc],
        computation: UnusedRules("SELECT rule FROM flow_sums WHERE {which} AND rule IS NOT NULL GROUP BY rule"),
    },
    Question {
        name: "asymmetric",
        meaning: "Flows that were accepted, were over 90 s before the end of the time asked for, and went one way only, or \
                  were seen at one end of two only",
        takes: &[Vpc],
        computation: Sql(
            "SELECT vpc, initiator, initiator_instance, responder, responder_instance, protocol, initiator_port, port, \
             CASE WHEN inside AND (initiator_instance IS NULL OR responder_instance IS NULL) \
             THEN 'seen-at-one-end' ELSE 'one-way' END AS finding, \
             packets_sent, packets_arrived, answers_sent, answers_arrived, first_seen, last_seen \
             FROM lopsided_flows WHERE {which} AND ended AND last_seen < {told} \
             ORDER BY last_seen DESC, initiator, responder, protocol, initiator_port, port, vpc",
        ),
    },
    Question {
        name: "blackholes",
        meaning: "Destinations that were sent to and from which nothing ever came back: no route, or no answer",
        takes: &[Instance, Vpc],
        computation: SqlWithInstances(
            "SELECT vpc, destination, protocol, port, instances, packets, bytes, no_route_packets, first_seen, \
             last_seen FROM (SELECT vpc, peer AS destination, protocol, port, \
             count(DISTINCT instance) AS instances, \
             sum(CASE WHEN direction = 'egress' THEN packets ELSE {zero} END) AS packets, \
             sum(CASE WHEN direction = 'egress' THEN bytes ELSE {zero} END) AS bytes, \
             sum(CASE WHEN direction = 'ingress' THEN packets ELSE {zero} END) AS answers, \
             sum(CASE WHEN end_reason = 'no-route' THEN packets ELSE {zero} END) AS no_route_packets, {seen} \
             FROM flow_sums WHERE {which} AND {at_initiator} AND (verdict = 'accept' OR end_reason = 'no-route') \
             GROUP BY vpc, peer, protocol, port) WHERE answers = 0 AND packets > 0 \
             ORDER BY packets DESC, destination, protocol, port, vpc",
            "destination",
            "destination_instance",
        ),
    },
];

/// What the questions' SQL has in common, by the names that stand for it.
const PHRASES: &[(&str, &str)] = &[
    (
        "{both_ways}",
        "sum(CASE WHEN direction = 'egress' THEN packets ELSE {zero} END) AS packets_sent, \
         sum(CASE WHEN direction = 'egress' THEN bytes ELSE {zero} END) AS bytes_sent, \
         sum(CASE WHEN direction = 'ingress' THEN packets ELSE {zero} END) AS packets_received, \
         sum(CASE WHEN direction = 'ingress' THEN bytes ELSE {zero} END) AS bytes_received",
    ),
    (
        "{counts}",
        "sum(CASE WHEN verdict = 'accept' THEN records ELSE 0 END) AS accepted, \
         sum(CASE WHEN verdict = 'reject' THEN records ELSE 0 END) AS rejected",
    ),
    (
        "{verdicts}",
        "CASE WHEN rejected = 0 THEN 'accept' WHEN accepted = 0 THEN 'reject' ELSE 'accept,reject' END AS verdicts",
    ),
    ("{seen}", "min(start) AS first_seen, max(\"end\") AS last_seen"),
    // That of the one who was asked, whoever sent the packets.
    ("{port}", "CASE WHEN side = 'initiator' THEN destination_port ELSE source_port END"),
    ("{at_initiator}", "(side = 'initiator') = (direction = 'egress')"),
    ("{inside}", "('same-host', 'other-host', 'other-location')"),
    // Of the counters' type, so that sums keep it.
    ("{zero}", "arrow_cast(0, 'UInt64')"),
];

impl Question {
    pub(crate) fn of_name(name: &str) -> Option<&'static Self> {
        QUESTIONS.iter().find(|question| question.name == name)
    }

    /// Its SQL with what is asked for filled in.
    pub(crate) fn sql(&self, asked: &Asked) -> Result<String, ParameterError> {
        self.check(asked)?;
        let (Sql(sql) | SqlWithInstances(sql, ..) | UnusedRules(sql)) = self.computation;
        let sql = PHRASES.iter().fold(sql.to_owned(), |sql, (name, phrase)| sql.replace(name, phrase));
        let by = match asked.by.unwrap_or_default() {
            Measure::Bytes => "bytes",
            Measure::Packets => "packets",
            Measure::Flows => "flows",
        };
        let told = time(asked.until.minus(TOLD_BY_ALL));
        Ok(sql.replace("{by}", by).replace("{told}", &told).replace("{which}", &which(asked)))
    }

    fn check(&self, asked: &Asked) -> Result<(), ParameterError> {
        let takes = |wanted: &[Parameter]| self.takes.iter().any(|parameter| wanted.contains(parameter));
        if takes(&[OneInstance]) && asked.instance.is_none() {
            return Err(ParameterError::Missing("instance"));
        }
        for (name, is_given, is_taken) in [
            ("instance", asked.instance.is_some(), takes(&[OneInstance, Instance])),
            ("vpc", asked.vpc.is_some(), takes(&[Vpc])),
            ("by", asked.by.is_some(), takes(&[By])),
        ] {
            if is_given && !is_taken {
                return Err(ParameterError::Unknown(name));
            }
        }
        Ok(())
    }
}

/// The SQL in which the collector is asked a question by its name, for measurements; none if there is no such question or it
/// takes other parameters.
pub fn named_question_sql(name: &str, since: Moment, until: Moment, instance: Option<InstanceId>) -> Option<String> {
    Question::of_name(name)?.sql(&Asked { since, until, instance, vpc: None, by: None }).ok()
}

/// The SQL that counts the flows that were let through, or refused, at the instances that are asked about: each once at each of
/// them, in the column `flows`.
pub(crate) fn flows_by_verdict(asked: &Asked, verdict: Verdict) -> String {
    let verdict = match verdict {
        Verdict::Accept => "accept",
        Verdict::Reject => "reject",
    };
    format!(
        "SELECT count(*) AS flows FROM (SELECT 1 FROM flows WHERE {} AND side = 'initiator' AND verdict = '{verdict}' \
         GROUP BY instance, source, destination, protocol, source_port, destination_port)",
        which(asked)
    )
}

/// The SQL that adds up what each instance said to whom, for [`lucarne_model::replica_flows::Conversation`].
pub(crate) fn conversations(asked: &Asked) -> String {
    let sql = "SELECT instance, peer, CASE WHEN {at_initiator} THEN 'initiator' ELSE 'responder' END AS side, protocol, port, \
               {counts}, sum(packets) AS packets, sum(bytes) AS bytes FROM flow_sums WHERE {which} \
               GROUP BY instance, peer, {at_initiator}, protocol, port";
    let sql = PHRASES.iter().fold(sql.to_owned(), |sql, (name, phrase)| sql.replace(name, phrase));
    sql.replace("{which}", &which(asked))
}

/// The condition on records: what parts are found by, and an instance's rows in them.
fn which(asked: &Asked) -> String {
    let mut all = vec![format!("\"end\" >= {} AND start < {}", time(asked.since), time(asked.until))];
    all.extend(asked.instance.map(|instance| format!("instance = '{instance}'")));
    all.extend(asked.vpc.map(|vpc| format!("vpc = '{vpc}'")));
    all.join(" AND ")
}

/// In the unit of the columns. A record's time is of whole milliseconds, so rounding up changes no comparison here.
fn time(moment: Moment) -> String {
    let millis = i64::try_from(moment.as_micros().div_ceil(1000)).unwrap_or(i64::MAX);
    format!("arrow_cast({millis}, 'Timestamp(Millisecond, Some(\"UTC\"))')")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn asked() -> Asked {
        let (since, until) = (Moment::from_secs(10), Moment::from_secs(20));
        Asked { since, until, instance: None, vpc: None, by: None }
    }

    #[test]
    fn every_question_has_a_name_of_its_own_and_no_phrase_stays_unfilled() {
        let names: BTreeSet<_> = QUESTIONS.iter().map(|question| question.name).collect();
        assert_eq!(names.len(), QUESTIONS.len());
        for question in QUESTIONS {
            let instance = question.takes.contains(&OneInstance).then(|| InstanceId::from_bits(7));
            let sql = question.sql(&Asked { instance, ..asked() }).unwrap();
            assert!(!sql.contains(['{', '}']), "{sql}");
            assert!(sql.contains("\"end\" >= arrow_cast(10000,") && sql.contains("start < arrow_cast(20000,"));
            assert_eq!(sql.contains("instance = 'i-00000000000000007'"), instance.is_some());
        }
    }

    /// The records of its two directions and of its two ends do not come at once.
    #[test]
    fn a_flow_that_has_just_ended_is_not_said_to_be_one_way() {
        let until = Moment::from_secs(100);
        let sql = Question::of_name("asymmetric").unwrap().sql(&Asked { until, ..asked() }).unwrap();
        assert!(sql.contains("last_seen < arrow_cast(10000,"), "{sql}");
    }

    #[test]
    fn a_parameter_that_is_missing_or_not_taken_is_told() {
        let question = |name| Question::of_name(name).unwrap();
        assert_eq!(question("peers").sql(&asked()), Err(ParameterError::Missing("instance")));
        let one = Asked { instance: Some(InstanceId::from_bits(1)), ..asked() };
        assert_eq!(question("unused-rules").sql(&one), Err(ParameterError::Unknown("instance")));
        let by = Asked { by: Some(Measure::Flows), ..asked() };
        assert_eq!(question("blackholes").sql(&by), Err(ParameterError::Unknown("by")));
        assert!(question("top-ports").sql(&by).unwrap().contains("ORDER BY flows DESC"));
    }
}
