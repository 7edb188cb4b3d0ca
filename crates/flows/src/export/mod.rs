//! Flow records as text files that other people's programs read: AWS's VPC flow logs, CSV and JSON lines.
//!
//! Owns the shape of each format. Only a tenant's view of a record can be written, so no file holds what is the operator's
//! own. Compression, file names and destinations are the collector's; Parquet is too, whose writer is not pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod aws;
mod rows;

use lucarne_model::TenantFlowRecord;

pub use aws::{AwsFormat, ParseFormatError};
pub use rows::{csv_header, csv_row, json_line};

use crate::router_view::RouterPort;

/// One line to be written: a record, and, where it is told as one router saw it, where the packets came in and went out.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub record: &'a TenantFlowRecord,
    pub ports: Option<(RouterPort, RouterPort)>,
}

impl<'a> From<&'a TenantFlowRecord> for Line<'a> {
    fn from(record: &'a TenantFlowRecord) -> Self {
        Self { record, ports: None }
    }
}
