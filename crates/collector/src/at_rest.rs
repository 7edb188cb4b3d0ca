//! How much room records take at rest, without a collector that runs: for measurements.

use std::{collections::BTreeMap, fs, io, path::Path};

use lucarne_model::FlowRecord;

use crate::{
    Kept, log,
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

/// Writes records below a folder as they lie after their hours were merged.
pub fn lay_down(state_dir: &Path, records: &[FlowRecord]) -> io::Result<AtRest> {
    let folders = Folders::of(state_dir);
    let number = |(index, record): (usize, &FlowRecord)| Kept { serial: log::serial(1, index), record: record.clone() };
    let kept: Vec<Kept> = records.iter().enumerate().map(number).collect();
    let mut at_rest = AtRest::default();
    let mut columns: BTreeMap<String, u64> = BTreeMap::new();
    for NewPart { part, .. } in write_parts(&folders, 1, Effort::Merged, &[kept.into()]).map_err(io::Error::other)? {
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
