//! Parts that were taken away: what is in a copy, for whoever holds it against its receipt.
//!
//! Owns that only what is named as a part is opened. What a receipt says is the matter of [`lucarne_flows::receipts`].

use std::{error::Error, fs, path::Path};

use lucarne_flows::receipts::PartContents;

use crate::part::{Folders, Part, Place, contents};

/// Why a copy of a part could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TakenError {
    #[error("`{name}` is not a name of a part")]
    Name { name: String },
    #[error("the part {name} cannot be read")]
    Unreadable { name: String, source: Box<dyn Error + Send + Sync> },
}

/// Whether a name is that of a part: one that leads below a folder and nowhere else.
pub fn is_part_name(name: &str) -> bool {
    Place::parse(name).is_some()
}

/// What is in the copy of a part that lies below `folder` by its name.
pub fn contents_of(folder: &Path, name: &str) -> Result<PartContents, TakenError> {
    let place = Place::parse(name).ok_or_else(|| TakenError::Name { name: name.to_owned() })?;
    let [shown, own, sums] = [(); 3].map(|()| folder.to_owned());
    let folders = Folders { shown, own, sums, shelf: None };
    let unreadable = |source: Box<dyn Error + Send + Sync>| TakenError::Unreadable { name: name.to_owned(), source };
    let size = fs::metadata(folder.join(name)).map_err(|source| unreadable(source.into()))?.len();
    contents(&Part::new(place, &folders, size)).map_err(|source| unreadable(source.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_opened_that_is_not_named_as_a_part() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../receipt-key.pk8", "/etc/passwd", "", "AWSLogs/../../x.parquet"] {
            assert!(!is_part_name(name));
            assert!(matches!(contents_of(dir.path(), name), Err(TakenError::Name { .. })), "{name}");
        }
    }
}
