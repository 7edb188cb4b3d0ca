//! What lies in the folders of parts: their names, and what is in a part that is there already.
//!
//! Owns the walk at a start, which removes half-written files and leaves alone what is not named by our rule.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
};

use arrow_array::TimestampMillisecondArray;
use lucarne_flows::receipts::{Digest, PartContents};
use parquet::arrow::ProjectionMask;

use super::{Folders, Half, Part, PartError, Place, read, stored::Halves};
use crate::{
    columns::{Columns, column},
    durable,
};

/// Folders between that of all parts and one with parts.
const DEPTH: usize = 8;

/// All files named as parts, here and in the store, with their sizes, in the order of places. Removes half-written ones, and
/// what is of the operator's own columns, or sums, without a part.
pub(crate) fn find(folders: &Folders) -> io::Result<Vec<(Place, u64)>> {
    let mut found = Vec::new();
    walk(&folders.shown, "", DEPTH, &mut |name, path| {
        if let Some(place) = Place::parse(name) {
            found.push((place, fs::metadata(path)?.len()));
        }
        Ok(())
    })?;
    walk(&folders.own, "", DEPTH, &mut |name, path| {
        let is_alone = Place::parse(name).is_some() && !folders.shown.join(name).exists();
        if is_alone { durable::remove(path) } else { Ok(()) }
    })?;
    found.extend(folders.shelf.iter().flat_map(|shelf| shelf.places()));
    found.sort_unstable();
    walk(&folders.sums, "", DEPTH, &mut |name, path| {
        let of = Path::new(name).with_extension("parquet");
        let place = of.to_str().and_then(Place::parse);
        let is_alone = place.is_some_and(|place| found.binary_search_by(|(other, _)| other.cmp(&place)).is_err());
        if is_alone { durable::remove(path) } else { Ok(()) }
    })?;
    // What is in both places is the same file.
    found.dedup_by(|(a, _), (b, _)| a == b);
    Ok(found)
}

/// Removes the files of a part that does not count.
pub(crate) fn remove(folders: &Folders, place: &Place) -> io::Result<()> {
    let name = place.name();
    folders.shelf.iter().for_each(|shelf| shelf.discard(&name));
    durable::remove(&folders.shown.join(&name))?;
    durable::remove(&folders.own.join(&name))?;
    durable::remove(&folders.sums_path(place))
}

fn walk(dir: &Path, name: &str, depth: usize, visit: &mut impl FnMut(&str, &Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // All names of ours are text.
        let Ok(file_name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        let name = if name.is_empty() { file_name } else { format!("{name}/{file_name}") };
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                walk(&path, &name, depth - 1, visit)?;
            }
        } else if path.extension().is_some_and(|extension| extension == durable::TEMPORARY) {
            durable::remove(&path)?;
        } else {
            visit(&name, &path)?;
        }
    }
    Ok(())
}

/// What is in a part, read from its file.
pub(crate) fn contents(part: &Part) -> Result<PartContents, PartError> {
    let mut digest = Digest::begin();
    let mut file = part.open(Half::Shown)?;
    let mut octets = vec![0; 1 << 16];
    loop {
        match file.read(&mut octets)? {
            0 => break,
            count => digest.add(&octets[..count]),
        }
    }
    let builder = read::open(part, Half::Shown)?;
    let ends = Halves::named(Columns::Shown, ["end"]);
    let read = ProjectionMask::roots(builder.parquet_schema(), ends.read().iter().copied());
    let mut minutes: BTreeMap<u64, u64> = BTreeMap::new();
    for rows in builder.with_projection(read).build()? {
        for records in ends.records(&rows?)? {
            let ends: &TimestampMillisecondArray = column(&records, "end")?;
            for end in ends.values() {
                *minutes.entry(u64::try_from(*end).unwrap_or(0) / 60_000).or_default() += 1;
            }
        }
    }
    let minutes = minutes.into_iter().collect();
    Ok(PartContents { name: part.place.name(), size: part.size, sha256: digest.finish(), minutes })
}

/// Octets of each column of what the account may see, by its name.
pub(crate) fn column_sizes(part: &Part) -> Result<Vec<(String, u64)>, PartError> {
    let builder = read::open(part, Half::Shown)?;
    let columns = builder.metadata().row_groups().iter().flat_map(|group| group.columns());
    let size = |octets: i64| u64::try_from(octets).unwrap_or(0);
    Ok(columns.map(|column| (column.column_path().string(), size(column.compressed_size()))).collect())
}
