//! Which records share a row of a part: the two directions of a flow, as one interface saw them in one interval.
//!
//! Owns the rule. Such a pair has all but its own counters and times in common, so that a row of both (RFC 5103 calls it a
//! biflow) is hardly larger than one of a single record. How rows look is the matter of [`super::stored`]. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use lucarne_flows::columns::FlowColumns;

/// How far apart the last packets of a row's two records may be: what is asked of one of them bounds the other.
pub(crate) const APART: Duration = Duration::from_secs(64);

/// What lies in the rows of a part, as places in the columns of its records.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) forward: Vec<u32>,
    /// The record with the next number, if it is of the same flow in the other direction; else the forward one again.
    pub(super) reverse: Vec<u32>,
}

impl Rows {
    /// Stretches of so many rows.
    pub(super) fn chunks(&self, length: usize) -> impl Iterator<Item = (&[u32], &[u32])> {
        self.forward.chunks(length).zip(self.reverse.chunks(length))
    }
}

/// The rows of records, which keep their order.
pub(super) fn fold(flows: &FlowColumns, records: &[u32]) -> Rows {
    let mut rows = Rows { forward: Vec::with_capacity(records.len()), reverse: Vec::with_capacity(records.len()) };
    let mut rest = records;
    while let Some((forward, behind)) = rest.split_first() {
        let reverse = behind.first().copied().filter(|next| *next == forward + 1);
        let reverse = reverse.filter(|next| are_one_flow(flows, *forward as usize, *next as usize));
        rest = behind.get(usize::from(reverse.is_some())..).unwrap_or_default();
        rows.forward.push(*forward);
        rows.reverse.push(reverse.unwrap_or(*forward));
    }
    rows
}

/// Whether two records are of one flow, one interface and one interval, in opposite directions. Names each column, so that
/// a new one is put where it belongs: compared here, or kept for each direction.
fn are_one_flow(flows: &FlowColumns, one: usize, other: usize) -> bool {
    let FlowColumns {
        flow_id,
        identity,
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
        round_trip_count: _,
        round_trip_min: _,
        round_trip_mean: _,
        round_trip_max: _,
        round_trip_smoothed: _,
        retransmissions: _,
        zero_windows: _,
        ingress_interface: _,
        egress_interface: _,
        mitigation,
    } = flows;
    fn same<T: PartialEq>(column: &[T], one: usize, other: usize) -> bool {
        column[one] == column[other]
    }
    fn swapped<T: PartialEq>(column: &[T], opposite: &[T], one: usize, other: usize) -> bool {
        column[one] == opposite[other] && opposite[one] == column[other]
    }
    same(flow_id, one, other)
        && same(identity.codes(), one, other)
        && (direction[one] != direction[other] && side[one] != side[other])
        && swapped(source, destination, one, other)
        && swapped(source_port, destination_port, one, other)
        && swapped(source_prefix_length, destination_prefix_length, one, other)
        && same(protocol, one, other)
        && (same(verdict, one, other) && same(end_reason, one, other) && same(path, one, other))
        && (same(history.codes(), one, other) && same(conn_state, one, other))
        && (same(rule.codes(), one, other) && same(mitigation.codes(), one, other))
        && (same(location.codes(), one, other) && same(groups.codes(), one, other))
        && end[one].abs_diff(end[other]) <= APART.as_millis() as u64
}
