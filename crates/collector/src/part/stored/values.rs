//! Values that are kept otherwise than they are shown: differences, and ids that are left out.
//!
//! Owns the arithmetic, which gives back each value whatever it is. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, Int64Array, StringArray, StructArray, TimestampMillisecondArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array, cast::AsArray as _, make_array, types::UInt32Type,
};
use arrow_buffer::NullBuffer;
use arrow_schema::ArrowError;
use lucarne_flows::{FlowKey, columns::address, key::flow_id};
use lucarne_model::VpcId;

use super::FLOW_ID;
use crate::columns::Picked;

/// What a flow id follows from, beside what was kept of it.
pub(super) const GROUNDS: [&str; 6] = ["vpc", "source", "destination", "source_port", "destination_port", "protocol"];

fn bad(column: &str) -> ArrowError {
    ArrowError::SchemaError(format!("column `{column}` is not as it is written"))
}

/// An array of the type that its column has.
pub(super) fn typed<'a, A: Array + 'static>(array: &'a ArrayRef, column: &str) -> Result<&'a A, ArrowError> {
    array.as_any().downcast_ref().ok_or_else(|| bad(column))
}

/// How long each record lasted, in milliseconds.
pub(super) fn durations(records: &Picked<'_>) -> ArrayRef {
    let ends = records.of(&records.flows.end);
    let lasted = ends.zip(records.of(&records.flows.start)).map(|(end, start)| end.wrapping_sub(start).cast_unsigned());
    Arc::new(UInt64Array::from_iter_values(lasted))
}

/// How much later the reverse records' moments are, in milliseconds.
pub(super) fn differences(moments: &[i64], forward: &Picked<'_>, reverse: &Picked<'_>) -> ArrayRef {
    let pairs = forward.of(moments).zip(reverse.of(moments));
    Arc::new(Int64Array::from_iter_values(pairs.map(|(from, to)| to.wrapping_sub(from))))
}

/// The numbers, null where the buffer says so.
pub(super) fn with_nulls(numbers: &ArrayRef, nulls: &NullBuffer) -> Result<ArrayRef, ArrowError> {
    let data = numbers.to_data().into_builder().nulls(Some(nulls.clone())).build()?;
    Ok(make_array(data))
}

/// When records began that ended at `ends` after so long.
pub(super) fn starts(ends: &TimestampMillisecondArray, durations: &UInt64Array) -> ArrayRef {
    let pairs = ends.values().iter().zip(durations.values());
    let starts = pairs.map(|(end, lasted)| end.wrapping_sub(lasted.cast_signed()));
    Arc::new(TimestampMillisecondArray::from_iter_values(starts).with_timezone("UTC"))
}

/// Moments so much later.
pub(super) fn later(moments: &TimestampMillisecondArray, by: &Int64Array) -> ArrayRef {
    let sums = moments.values().iter().zip(by.values()).map(|(moment, by)| moment.wrapping_add(*by));
    Arc::new(TimestampMillisecondArray::from_iter_values(sums).with_timezone("UTC"))
}

/// The numbers behind these.
pub(super) fn next(serials: &UInt64Array) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(serials.values().iter().map(|serial| serial.wrapping_add(1))))
}

/// The other of two words.
pub(super) fn opposite(words: &StringArray, [one, other]: [&str; 2]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(words.iter().map(|word| if word == Some(one) { other } else { one })))
}

/// The ids that do not follow from the record.
pub(super) fn kept_flow_ids(records: &Picked<'_>) -> ArrayRef {
    let flows = records.flows;
    let kept = records.rows().iter().map(|row| {
        let row = *row as usize;
        let (source, destination) = (address(flows.source[row]), address(flows.destination[row]));
        let ends = (source, flows.source_port[row], destination, flows.destination_port[row]);
        let following = following_id(flows.identity(row).vpc, ends, flows.protocol[row]);
        Some(flows.flow_id[row]).filter(|id| following != Some(*id))
    });
    Arc::new(kept.collect::<UInt64Array>())
}

/// What the flow table makes of these; none for what it does not know.
fn following_id(vpc: VpcId, ends: (IpAddr, u16, IpAddr, u16), protocol: u8) -> Option<u64> {
    let (IpAddr::V4(source), source_port, IpAddr::V4(destination), destination_port) = ends else { return None };
    let (source, destination) = (source.to_bits(), destination.to_bits());
    Some(flow_id(vpc, FlowKey::new(0, source, destination, source_port, destination_port, protocol)))
}

/// All ids, of what was kept of them and the columns of [`GROUNDS`] in that order.
pub(super) fn flow_ids(kept: &UInt64Array, grounds: &[ArrayRef]) -> Result<ArrayRef, ArrowError> {
    let [vpc, source, destination, source_port, destination_port, protocol] = grounds else { return Err(bad(FLOW_ID)) };
    let [vpcs, sources, destinations] =
        [typed::<StringArray>(vpc, "vpc")?, typed(source, "source")?, typed(destination, "destination")?];
    let [source_ports, destination_ports] =
        [typed::<UInt16Array>(source_port, "source_port")?, typed(destination_port, "destination_port")?];
    let protocols: &UInt8Array = typed(protocol, "protocol")?;
    let following = |row: usize| {
        let vpc: VpcId = vpcs.value(row).parse().ok()?;
        let [source, destination] = [sources, destinations].map(|all| all.value(row).parse::<Ipv4Addr>().ok());
        let (source, destination) = (source?.into(), destination?.into());
        let ends = (source, source_ports.value(row), destination, destination_ports.value(row));
        following_id(vpc, ends, protocols.value(row))
    };
    let ids = kept.iter().enumerate().map(|(row, id)| id.or_else(|| following(row)).unwrap_or(0));
    Ok(Arc::new(UInt64Array::from_iter_values(ids)))
}

/// Round trips with what is above the least and the mean in the place of mean, longest and smoothed.
pub(super) fn narrow_round_trips(shown: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    with_columns(shown, |min, mean, max, smoothed| {
        [mean.wrapping_sub(min), max.wrapping_sub(mean), zigzag(smoothed.wrapping_sub(mean))]
    })
}

/// The other way.
pub(super) fn wide_round_trips(kept: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    with_columns(kept, |min, mean, max, smoothed| {
        let mean = min.wrapping_add(mean);
        [mean, mean.wrapping_add(max), mean.wrapping_add(unzigzag(smoothed))]
    })
}

/// Small differences of either sign as small numbers.
const fn zigzag(difference: u32) -> u32 {
    let signed = difference.cast_signed();
    ((signed << 1) ^ (signed >> 31)).cast_unsigned()
}

const fn unzigzag(number: u32) -> u32 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// The struct with its last three columns (`mean`, `max`, `smoothed`) made of its last four.
fn with_columns(array: &ArrayRef, change: impl Fn(u32, u32, u32, u32) -> [u32; 3]) -> Result<ArrayRef, ArrowError> {
    let array: &StructArray = typed(array, "round_trip")?;
    let [count, numbers @ ..] = array.columns() else { return Err(bad("round_trip")) };
    let numbers: Vec<&UInt32Array> =
        numbers.iter().filter_map(|column| column.as_primitive_opt::<UInt32Type>()).collect();
    let [min, mean, max, smoothed] = numbers[..] else { return Err(bad("round_trip")) };
    let mut changed: [Vec<u32>; 3] = Default::default();
    for row in 0..array.len() {
        let numbers = change(min.value(row), mean.value(row), max.value(row), smoothed.value(row));
        changed.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
    }
    let changed = changed.map(|column| Arc::new(UInt32Array::from(column)) as ArrayRef);
    let columns = [count.clone(), Arc::new(min.clone())].into_iter().chain(changed).collect();
    Ok(Arc::new(StructArray::try_new(array.fields().clone(), columns, array.nulls().cloned())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn zigzag_gives_back_what_it_took(number: u32) { prop_assert_eq!(unzigzag(zigzag(number)), number); }
    }

    #[test]
    fn small_differences_of_either_sign_are_small_numbers() {
        assert_eq!([0u32, u32::MAX, 1, u32::MAX - 1].map(zigzag), [0, 1, 2, 3]);
    }
}
