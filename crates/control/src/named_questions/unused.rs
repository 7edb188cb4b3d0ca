//! Which rules decided nothing: all that there are, without those that the records name.
//!
//! Owns that comparison, and which rules are compared at all: an entry of a network ACL that accepts is named by no record,
//! since a group's rule accepts behind it. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeSet;

use lucarne_model::{
    Moment, RuleId, VpcId,
    flow::{Direction, Verdict},
    flow_sql::SqlColumn,
    network_acl::{AclEntry, NetworkAcl},
    security_group::SecurityGroup,
};
use serde_json::{Map, Value, json};

use crate::rule_words as words;

/// The columns of the answer.
pub(crate) fn columns() -> Vec<SqlColumn> {
    let text = ["vpc", "kind", "owner", "name", "direction", "rule", "text"];
    let text = text.into_iter().map(|name| SqlColumn::new(name, "Utf8"));
    let more = [SqlColumn::new("since", "Timestamp(µs, \"UTC\")"), SqlColumn::new("younger", "Boolean")];
    text.chain(more).collect()
}

/// A rule and whose it is.
struct Candidate<'a> {
    vpc: VpcId,
    kind: &'static str,
    owner: String,
    name: &'a str,
    rule: RuleId,
    direction: Direction,
    text: String,
    /// Since when it has existed; its owner's age where its own is not known.
    since: Moment,
}

/// The rules of groups and the rejecting entries of ACLs that are not among `used`, in the order of their owners. What is
/// `younger` than `window` had less time to be used.
pub(crate) fn unused(
    groups: &[SecurityGroup],
    acls: &[NetworkAcl],
    used: &BTreeSet<RuleId>,
    window: Moment,
) -> Vec<Map<String, Value>> {
    let of_groups = groups.iter().flat_map(|group| {
        group.rules.iter().map(|rule| Candidate {
            vpc: group.vpc,
            kind: "security-group",
            owner: group.id.to_string(),
            name: &group.name,
            rule: rule.id,
            direction: rule.spec.direction,
            text: words::rule(rule),
            since: rule.created.max(group.created),
        })
    });
    let of_acls = acls.iter().flat_map(|acl| {
        let rejects = |entry: &&AclEntry| entry.action == Verdict::Reject;
        acl.entries.iter().filter(rejects).map(|entry| Candidate {
            vpc: acl.vpc,
            kind: "network-acl",
            owner: acl.id.to_string(),
            name: acl.tags.name().unwrap_or_default(),
            rule: entry.id,
            direction: entry.direction,
            text: words::entry(entry),
            since: entry.created.max(acl.created),
        })
    });
    let mut unused: Vec<_> = of_groups.chain(of_acls).filter(|candidate| !used.contains(&candidate.rule)).collect();
    unused.sort_by(|a, b| (a.vpc, a.kind, &a.owner, a.since, a.rule).cmp(&(b.vpc, b.kind, &b.owner, b.since, b.rule)));
    unused.into_iter().map(|candidate| row(&candidate, window)).collect()
}

fn row(candidate: &Candidate<'_>, window: Moment) -> Map<String, Value> {
    let Candidate { vpc, kind, owner, name, rule, direction, text, since } = candidate;
    let row = [
        ("vpc", json!(vpc)),
        ("kind", json!(kind)),
        ("owner", json!(owner)),
        ("name", json!(name)),
        ("direction", json!(direction)),
        ("rule", json!(rule)),
        ("text", json!(text)),
        ("since", json!(written(*since))),
        ("younger", json!(*since > window)),
    ];
    row.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A time as the rows of SQL have it.
fn written(moment: Moment) -> String {
    let micros = i64::try_from(moment.as_micros()).ok();
    let timestamp = micros.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    timestamp.map_or_else(|| moment.as_micros().to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        AccountId, Cidr, NetworkAclId, SecurityGroupId, Tags,
        security_group::{Peer, Rule, RuleSpec, Traffic},
    };

    use super::*;

    const WINDOW: Moment = Moment::from_secs(1000);

    fn group(rules: &[(u128, Moment)]) -> SecurityGroup {
        let spec = RuleSpec {
            direction: Direction::Ingress,
            traffic: Traffic::Tcp { from_port: 80, to_port: 80 },
            peer: Peer::Cidr { cidr: Cidr::ANY },
        };
        let rule = |&(id, created)| Rule { id: RuleId::from_bits(id), created, spec: spec.clone() };
        SecurityGroup {
            id: SecurityGroupId::from_bits(1),
            account: AccountId::OPERATOR,
            vpc: VpcId::from_bits(1),
            name: "web".into(),
            description: String::new(),
            rules: rules.iter().map(rule).collect(),
            created: Moment::from_secs(5),
            tags: Tags::default(),
        }
    }

    fn acl() -> NetworkAcl {
        let entry = |id, action| AclEntry {
            id: RuleId::from_bits(id),
            created: Moment::from_secs(6),
            number: 90,
            direction: Direction::Egress,
            action,
            traffic: Traffic::All,
            cidr: Cidr::ANY,
        };
        NetworkAcl {
            id: NetworkAclId::from_bits(1),
            account: AccountId::OPERATOR,
            vpc: VpcId::from_bits(1),
            is_default: false,
            entries: vec![entry(11, Verdict::Accept), entry(12, Verdict::Reject)],
            created: Moment::from_secs(5),
            tags: Tags::default(),
        }
    }

    #[test]
    fn what_no_record_names_is_unused_and_a_rule_younger_than_the_window_is_marked() {
        let groups = [group(&[(1, Moment::EPOCH), (2, WINDOW.plus(std::time::Duration::from_secs(1))), (3, WINDOW)])];
        let used = BTreeSet::from([RuleId::from_bits(3)]);
        let rows = unused(&groups, &[acl()], &used, WINDOW);
        let told = |row: &Map<String, Value>| (row["rule"].clone(), row["since"].clone(), row["younger"].clone());
        let rule = |bits| json!(RuleId::from_bits(bits));
        let expected = [
            (rule(12), json!("1970-01-01T00:00:06Z"), json!(false)),
            (rule(1), json!("1970-01-01T00:00:05Z"), json!(false)),
            (rule(2), json!("1970-01-01T00:16:41Z"), json!(true)),
        ];
        assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
        assert_eq!(rows[1]["text"], "TCP to port 80 from 0.0.0.0/0");
        assert_eq!(rows[0]["text"], "entry 90: everything to 0.0.0.0/0");
    }

    #[test]
    fn every_row_has_the_columns_that_are_told() {
        let rows = unused(&[group(&[(1, WINDOW)])], &[], &BTreeSet::new(), WINDOW);
        let names: BTreeSet<String> = columns().into_iter().map(|column| column.name).collect();
        assert_eq!(rows[0].keys().cloned().collect::<BTreeSet<_>>(), names);
    }
}
