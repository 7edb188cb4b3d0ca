//! What findings need to know of a flow: few of a record's fields, none of them on the heap.
//!
//! Owns the two ways to it, from a record and from columns in memory, so that no record has to be made of each row that
//! arrives.

use std::net::IpAddr;

use lucarne_model::{
    AccountId, EndReason, FlowRecord, HostId, InstanceId, Moment, VpcId,
    flow::{Direction, Path, Side, Verdict},
};

use crate::columns::{FlowColumns, Identity, address};

/// A flow as one interface saw it in one interval; fields as in [`FlowRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub(super) account: AccountId,
    pub(super) vpc: VpcId,
    pub(super) instance: InstanceId,
    pub(super) host: HostId,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) destination_port: u16,
    pub(super) protocol: u8,
    pub(super) direction: Direction,
    pub(super) side: Side,
    pub(super) path: Path,
    pub(super) verdict: Verdict,
    pub(super) end_reason: EndReason,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) end: Moment,
}

impl Sighting {
    /// Of a row that is there.
    pub fn at(columns: &FlowColumns, row: usize) -> Self {
        let Identity { account, vpc, instance, host, .. } = *columns.identity(row);
        Self {
            account,
            vpc,
            instance,
            host,
            source: address(columns.source[row]),
            destination: address(columns.destination[row]),
            destination_port: columns.destination_port[row],
            protocol: columns.protocol[row],
            direction: columns.direction[row],
            side: columns.side[row],
            path: columns.path[row],
            verdict: columns.verdict[row],
            end_reason: columns.end_reason[row],
            packets: columns.packets[row],
            bytes: columns.bytes[row],
            end: columns.ended(row),
        }
    }
}

impl From<&FlowRecord> for Sighting {
    fn from(record: &FlowRecord) -> Self {
        Self {
            account: record.account,
            vpc: record.vpc,
            instance: record.instance,
            host: record.host,
            source: record.source,
            destination: record.destination,
            destination_port: record.destination_port,
            protocol: record.protocol,
            direction: record.direction,
            side: record.side,
            path: record.path,
            verdict: record.verdict,
            end_reason: record.end_reason,
            packets: record.packets,
            bytes: record.bytes,
            end: record.end,
        }
    }
}
