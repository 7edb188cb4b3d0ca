//! The steps that records go through, and the room that they take at rest, without a collector that runs: for measurements.

use std::{collections::BTreeMap, fs, io, path::Path};

use lucarne_model::FlowRecord;

use crate::{
    Kept,
    columns::{self, Columns},
    log,
    part::{self, Effort, Folders, NewPart},
    sealer::write_parts,
};

/// Octets of the files of some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtRest {
    /// Of what accounts see.
    pub shown: u64,
    /// Of what is the operator's own.
    pub own: u64,
    /// Of each column that accounts see, largest first; the rest of [`AtRest::shown`] is bloom filters, indices and footers.
    pub columns: Vec<(String, u64)>,
}

/// Numbers records as the log does.
fn numbered(records: Vec<FlowRecord>) -> Vec<Kept> {
    let number = |(index, record)| Kept { serial: log::serial(1, index), record };
    records.into_iter().enumerate().map(number).collect()
}

/// Turns records into columns as SQL sees them, and gives their octets.
pub fn lay_out(records: Vec<FlowRecord>) -> io::Result<usize> {
    let kept = numbered(records);
    let rows: Vec<&Kept> = kept.iter().collect();
    let batches = rows.chunks(8192).map(|rows| columns::batch(Columns::All, rows).map_err(io::Error::other));
    batches.map(|batch| Ok(batch?.get_array_memory_size())).sum()
}

/// Writes records below a folder as parts, durable and with the effort that is asked for.
pub fn lay_down(state_dir: &Path, effort: Effort, records: Vec<FlowRecord>) -> io::Result<AtRest> {
    let folders = Folders::of(state_dir);
    let kept = numbered(records);
    let mut at_rest = AtRest::default();
    let mut columns: BTreeMap<String, u64> = BTreeMap::new();
    for NewPart { part, .. } in write_parts(&folders, 1, effort, &[kept.into()]).map_err(io::Error::other)? {
        at_rest.shown += part.size;
        at_rest.own += fs::metadata(&part.own_path)?.len();
        for (name, octets) in part::column_sizes(&part).map_err(io::Error::other)? {
            *columns.entry(name).or_default() += octets;
        }
    }
    at_rest.columns = columns.into_iter().collect();
    at_rest.columns.sort_by_key(|(_, octets)| std::cmp::Reverse(*octets));
    Ok(at_rest)
}
