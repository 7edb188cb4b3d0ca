//! Which records share a row of a part: the two directions of a flow, as one interface saw them in one interval.
//!
//! Owns the rule. Such a pair has all but its own counters and times in common, so that a row of both (RFC 5103 calls it a
//! biflow) is hardly larger than one of a single record. How rows look is the matter of [`super::stored`]. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use lucarne_model::FlowRecord;

use crate::Kept;

/// How far apart the last packets of a row's two records may be: what is asked of one of them bounds the other.
pub(crate) const APART: Duration = Duration::from_secs(64);

/// What lies in one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub(super) forward: &'a Kept,
    /// The record with the next number, if it is of the same flow in the other direction.
    pub(super) reverse: Option<&'a Kept>,
}

/// The rows of records, which keep their order.
pub(super) fn fold<'a>(records: &[&'a Kept]) -> Vec<Row<'a>> {
    let mut rows = Vec::with_capacity(records.len());
    let mut rest = records;
    while let Some((forward, behind)) = rest.split_first() {
        let reverse = behind.first().copied().filter(|next| next.serial == forward.serial + 1);
        let reverse = reverse.filter(|next| are_one_flow(&forward.record, &next.record));
        rest = behind.get(usize::from(reverse.is_some())..).unwrap_or_default();
        rows.push(Row { forward, reverse });
    }
    rows
}

/// Whether two records are of one flow, one interface and one interval, in opposite directions. Names each field, so that
/// a new one is put where it belongs: compared here, or kept for each direction.
fn are_one_flow(forward: &FlowRecord, reverse: &FlowRecord) -> bool {
    let FlowRecord {
        flow_id,
        account,
        instance,
        interface,
        subnet,
        vpc,
        location,
        groups,
        rule,
        verdict,
        end_reason,
        direction,
        path,
        side,
        start: _,
        end,
        packets: _,
        bytes: _,
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        icmp_type: _,
        icmp_code: _,
        tos: _,
        ttl: _,
        tcp_flags: _,
        source_prefix_length,
        destination_prefix_length,
        next_hop: _,
        history,
        conn_state,
        round_trip: _,
        retransmissions: _,
        zero_windows: _,
        host,
        ingress_interface: _,
        egress_interface: _,
        mitigation,
    } = forward;
    let FlowRecord { direction: other_direction, side: other_side, .. } = reverse;
    *flow_id == reverse.flow_id
        && *interface == reverse.interface
        && (*direction != *other_direction && *side != *other_side)
        && (*source, *source_port) == (reverse.destination, reverse.destination_port)
        && (*destination, *destination_port) == (reverse.source, reverse.source_port)
        && *source_prefix_length == reverse.destination_prefix_length
        && *destination_prefix_length == reverse.source_prefix_length
        && (*protocol, *verdict, *end_reason) == (reverse.protocol, reverse.verdict, reverse.end_reason)
        && (*path, *history, *conn_state) == (reverse.path, reverse.history, reverse.conn_state)
        && (*rule, *mitigation) == (reverse.rule, reverse.mitigation)
        && (*account, *instance, *subnet, *vpc) == (reverse.account, reverse.instance, reverse.subnet, reverse.vpc)
        && (*host, location, groups) == (reverse.host, &reverse.location, &reverse.groups)
        && end.as_micros().abs_diff(reverse.end.as_micros()) <= APART.as_micros() as u64
}
