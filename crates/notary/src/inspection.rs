//! What the notary finds of what an operator shows it: compared with files of its own, and with what it published last.
//!
//! Owns the comparison, and the reading of the files that the notary built or inspected itself. Whether it then publishes
//! is for whoever runs it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use lucarne_attest::reference::{self, Known};
use lucarne_model::{Measurement, storage::Digest};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// What was found of one measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    pub measurement: Measurement,
    /// Compared with the notary's own file of that name.
    pub own: Inspected,
    /// Compared with the newest manifest of the series.
    pub published: Inspected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inspected {
    /// The notary has the same.
    Same,
    /// The notary has another of this name.
    Different,
    /// The notary has none of this name.
    Unknown,
}

/// Compares what was shown with `own`, the notary's files, and `published`, what it vouched for last.
pub(crate) fn inspect(
    shown: &[Measurement],
    own: Option<&Path>,
    published: &[Measurement],
) -> io::Result<Vec<Inspection>> {
    let known: Vec<_> = published.iter().map(|one| Known { measurement: one.clone(), by: () }).collect();
    let judgement = reference::judge(shown, &known);
    let compared = judgement.judged.iter().map(|judged| {
        let own = own.map_or(Ok(Inspected::Unknown), |own| compare(judged.measurement, own))?;
        let published = match (judged.vouchers.is_empty(), judged.expected.is_empty()) {
            (false, _) => Inspected::Same,
            (true, false) => Inspected::Different,
            (true, true) => Inspected::Unknown,
        };
        Ok(Inspection { measurement: judged.measurement.clone(), own, published })
    });
    compared.collect()
}

/// Only a name that is one file's in that folder is looked for.
fn compare(measurement: &Measurement, own: &Path) -> io::Result<Inspected> {
    let name = Path::new(&measurement.name);
    if name.file_name() != Some(name.as_os_str()) {
        return Ok(Inspected::Unknown);
    }
    match File::open(own.join(name)).and_then(digest) {
        Ok(digest) if digest == measurement.digest => Ok(Inspected::Same),
        Ok(_) => Ok(Inspected::Different),
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::IsADirectory].contains(&error.kind()) => {
            Ok(Inspected::Unknown)
        }
        Err(error) => Err(error),
    }
}

fn digest(mut file: File) -> io::Result<Digest> {
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    let digest = context.finish();
    Ok(Digest::from_bytes(std::array::from_fn(|at| digest.as_ref()[at])))
}

#[cfg(test)]
mod tests {
    use lucarne_model::Component;

    use super::*;

    fn shown(name: &str, content: &[u8]) -> Measurement {
        let digest = ring::digest::digest(&SHA256, content);
        let digest = Digest::from_bytes(digest.as_ref().try_into().expect("32 octets"));
        Measurement { component: Component::Hypervisor, name: name.into(), digest }
    }

    #[test]
    fn each_measurement_is_compared_with_the_notarys_own_and_with_the_last_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("qemu"), b"built here").expect("written");
        std::fs::create_dir(folder.path().join("folder")).expect("made");
        let cases = [
            (shown("qemu", b"built here"), Inspected::Same, Inspected::Same),
            (shown("qemu", b"built there"), Inspected::Different, Inspected::Different),
            (shown("other", b"built there"), Inspected::Unknown, Inspected::Unknown),
            (shown("folder", b""), Inspected::Unknown, Inspected::Unknown),
            (shown("../qemu", b"built here"), Inspected::Unknown, Inspected::Unknown),
        ];
        let published = [shown("qemu", b"built here")];
        for (shown, own, last) in cases {
            let found = inspect(&[shown], Some(folder.path()), &published).expect("compared");
            assert_eq!((found[0].own, found[0].published), (own, last), "{found:?}");
        }
    }
}
