//! What is kept of a batch: all as it is shown, but for the flow id, which is null where it follows from the row.
//!
//! Owns both ways. A flow's id is a hash of its VPC and ends, 8 octets that nothing makes smaller and that most rows give
//! again; only flows of ICMP, whose identifier is in no column, keep theirs.

use std::{
    net::Ipv4Addr,
    sync::{Arc, LazyLock},
};

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt8Array, UInt16Array, UInt64Array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use lucarne_flows::{FlowKey, key::flow_id};
use lucarne_model::VpcId;

use crate::columns::{self, BadColumn, Columns, column};

pub(crate) const FLOW_ID: &str = "flow_id";
/// What a flow id follows from, beside what was kept of it.
pub(crate) const GROUNDS: [&str; 6] = ["vpc", "source", "destination", "source_port", "destination_port", "protocol"];

/// The schema of the file of what the account may see.
pub(crate) fn schema() -> SchemaRef {
    static STORED: LazyLock<SchemaRef> = LazyLock::new(|| {
        let shown = columns::schema(Columns::Shown);
        let fields = shown.fields().iter().map(|field| {
            let is_nullable = field.is_nullable() || field.name() == FLOW_ID;
            field.as_ref().clone().with_nullable(is_nullable)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    });
    STORED.clone()
}

/// A batch as it is kept, of one as it is shown.
pub(super) fn compact(shown: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let kept = |ids: &UInt64Array, grounds: &Grounds<'_>| {
        let rows = ids.values().iter().enumerate();
        rows.map(|(row, id)| Some(*id).filter(|id| grounds.flow_id(row) != Some(*id))).collect()
    };
    with_flow_ids(shown, schema(), kept)
}

/// A batch as it is shown, of one as it is kept.
pub(super) fn expand(stored: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    with_flow_ids(stored, columns::schema(Columns::Shown), flow_ids)
}

/// The ids of rows of which these were kept.
pub(crate) fn flow_ids(kept: &UInt64Array, grounds: &Grounds<'_>) -> UInt64Array {
    let rows = kept.iter().enumerate();
    UInt64Array::from_iter_values(rows.map(|(row, id)| id.or_else(|| grounds.flow_id(row)).unwrap_or(0)))
}

fn with_flow_ids(
    batch: &RecordBatch,
    schema: SchemaRef,
    ids: impl Fn(&UInt64Array, &Grounds<'_>) -> UInt64Array,
) -> Result<RecordBatch, ArrowError> {
    let index = batch.schema_ref().index_of(FLOW_ID)?;
    let bad = |bad: BadColumn| ArrowError::SchemaError(bad.to_string());
    let grounds = GROUNDS.map(|name| batch.column_by_name(name).cloned());
    let grounds: Vec<ArrayRef> = grounds.into_iter().flatten().collect();
    let grounds = Grounds::of(&grounds).ok_or_else(|| bad(BadColumn::of(FLOW_ID)))?;
    let mut arrays = batch.columns().to_vec();
    arrays[index] = Arc::new(ids(column(batch, FLOW_ID).map_err(bad)?, &grounds));
    RecordBatch::try_new(schema, arrays)
}

/// The columns of [`GROUNDS`].
pub(crate) struct Grounds<'a> {
    vpc: &'a StringArray,
    addresses: [&'a StringArray; 2],
    ports: [&'a UInt16Array; 2],
    protocol: &'a UInt8Array,
}

impl<'a> Grounds<'a> {
    /// Of the arrays in the order of [`GROUNDS`].
    pub(crate) fn of(arrays: &'a [ArrayRef]) -> Option<Self> {
        let [vpc, source, destination, source_port, destination_port, protocol] = arrays else { return None };
        let text = |array: &'a ArrayRef| array.as_any().downcast_ref::<StringArray>();
        let number = |array: &'a ArrayRef| array.as_any().downcast_ref::<UInt16Array>();
        Some(Self {
            vpc: text(vpc)?,
            addresses: [text(source)?, text(destination)?],
            ports: [number(source_port)?, number(destination_port)?],
            protocol: protocol.as_any().downcast_ref()?,
        })
    }

    /// What the flow table makes of these; none for what it does not know.
    fn flow_id(&self, row: usize) -> Option<u64> {
        let vpc: VpcId = self.vpc.value(row).parse().ok()?;
        let [source, destination] = self.addresses.map(|addresses| addresses.value(row).parse::<Ipv4Addr>().ok());
        let [source_port, destination_port] = self.ports.map(|ports| ports.value(row));
        let (source, destination) = (source?.to_bits(), destination?.to_bits());
        let key = FlowKey::new(0, source, destination, source_port, destination_port, self.protocol.value(row));
        Some(flow_id(vpc, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kept, test_records::numbered};

    #[test]
    fn ids_that_follow_are_left_out_and_all_come_back() {
        let mut rows: Vec<Kept> = (0..).zip(numbered(0..64)).map(|(serial, record)| Kept { serial, record }).collect();
        let refs: Vec<&Kept> = rows.iter().collect();
        let shown = columns::batch(Columns::Shown, &refs).unwrap();
        // The made-up ids follow from nothing.
        let stored = compact(&shown).unwrap();
        assert_eq!(stored.column_by_name(FLOW_ID).unwrap().null_count(), 0);
        assert_eq!(expand(&stored).unwrap(), shown);

        let arrays = GROUNDS.map(|name| shown.column_by_name(name).unwrap().clone());
        let ids: Vec<u64> = (0..rows.len()).map(|row| Grounds::of(&arrays).unwrap().flow_id(row).unwrap()).collect();
        rows.iter_mut().zip(ids).for_each(|(row, id)| row.record.flow_id = id);
        let refs: Vec<&Kept> = rows.iter().collect();
        let shown = columns::batch(Columns::Shown, &refs).unwrap();
        let stored = compact(&shown).unwrap();
        assert_eq!(stored.column_by_name(FLOW_ID).unwrap().null_count(), rows.len());
        assert_eq!(expand(&stored).unwrap(), shown);
    }
}
