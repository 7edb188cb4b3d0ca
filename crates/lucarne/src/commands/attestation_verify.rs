//! `lucarne attestation verify`: evidence in a folder, judged on this machine with nobody asked.
//!
//! Owns reading files and telling the report; what is judged, and how, is the room `attest`'s.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use lucarne_attest::{
    evidence::{Files, from_files},
    signing::{PublicKey, from_pem},
    verify::{Outcome, Report, Trust, verify},
};
use lucarne_model::{Octets, storage::Digest};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, LocalCode},
    kind::{CHECK_COLUMNS, MEASUREMENT_COLUMNS},
    nonces,
    output::{Format, print},
    session::{json_of, now},
};

/// More than any file of evidence has.
const LARGEST: u64 = 64 << 20;

#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    /// The folder that `attestation evidence` wrote
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The nonce that was drawn for the launch
    #[arg(long, value_name = "HEX", value_parser = nonces::parse)]
    nonce: Option<Octets>,
    /// Root certificates of the TPM makers that are trusted, in PEM
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// The key of the publisher whose manifests are trusted, in PEM
    #[arg(long, value_name = "FILE")]
    manifest_key: Option<PathBuf>,
    /// SHA-256 of the key that the host proved itself with when it was spoken to
    #[arg(long, value_name = "SHA256")]
    host_key: Option<Digest>,
}

impl VerifyArgs {
    /// Prints every check with its result; refused evidence is a failure with the first refusal's code.
    pub(crate) fn run(&self, format: Format) -> Result<(), Failure> {
        let report = self.judge()?;
        tell(&report, format)?;
        match report.refusal() {
            Some((_, code, detail)) => Err(Failure::problem(code, detail)),
            None => Ok(()),
        }
    }

    fn judge(&self) -> Result<Report, Failure> {
        let files = read_files(&self.folder)?;
        let (evidence, published) =
            from_files(&files).map_err(|error| Failure::problem(error.code(), error.to_string()))?;
        let roots = self.roots.as_ref().map(|path| read_text(path)).transpose()?;
        let roots: Option<Vec<Octets>> =
            roots.map(|text| from_pem(&text, "CERTIFICATE").into_iter().map(Octets).collect());
        let key = self.manifest_key.as_ref().map(|path| read_key(path)).transpose()?;
        let trust = Trust {
            now: now(),
            roots: roots.as_deref(),
            nonce: self.nonce.as_deref(),
            host_key: self.host_key.as_ref(),
            manifest_key: key.as_ref(),
            ..Trust::default()
        };
        Ok(verify(&evidence, published.as_ref(), &trust))
    }
}

/// What is in a folder of evidence.
pub(crate) fn read_files(folder: &Path) -> Result<Files, Failure> {
    let unreadable =
        |cause: std::io::Error| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", folder.display()));
    let mut files = Files::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let meta = fs::metadata(entry.path()).map_err(unreadable)?;
        if let (true, Ok(name)) = (meta.is_file() && meta.len() <= LARGEST, entry.file_name().into_string()) {
            files.insert(name, fs::read(entry.path()).map_err(unreadable)?);
        }
    }
    Ok(files)
}

pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display())))
}

/// A publisher's public key.
pub(crate) fn read_key(path: &Path) -> Result<PublicKey, Failure> {
    PublicKey::from_pem(&read_text(path)?)
        .map_err(|error| Failure::local(LocalCode::FileUnreadable, format!("{}: {error}", path.display())))
}

fn tell(report: &Report, format: Format) -> Result<(), Failure> {
    if format != Format::Table {
        let refused = report.refusal().map(|(_, code, _)| code);
        let unjudged = report.checks.iter().any(|check| matches!(check.outcome, Outcome::NotJudged { .. }));
        let mut value = json_of(report)?;
        value["refused"] = json!(refused);
        value["complete"] = json!(!unjudged);
        return format.print_value(&value);
    }
    format.print_list(&rows(&report.checks)?, CHECK_COLUMNS)?;
    print("\n")?;
    format.print_list(&rows(report.host.iter().chain(&report.guest))?, MEASUREMENT_COLUMNS)
}

fn rows<T: serde::Serialize>(items: impl IntoIterator<Item = T>) -> Result<Vec<Value>, Failure> {
    items.into_iter().map(|item| json_of(&item)).collect()
}
