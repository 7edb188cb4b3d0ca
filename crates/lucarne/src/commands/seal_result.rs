//! `lucarne seal verify|open`: results with their receipts, as files.
//!
//! Owns reading and writing; what proves a result is the room `seal`'s. Content goes to its place only when all of the result
//! is proved: it is written beside, and renamed.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use lucarne_model::ErrorCode;
use lucarne_seal::{
    age::{AgeError, Identity, reader::Reader},
    receipt::{Receipt, Tally},
};

use super::{
    attestation_verify::{read_key, read_text},
    seal::{read_octets, unreadable, with_end},
    seal_quote::QuoteArgs,
    seal_request,
};
use crate::{
    failure::{Failure, LocalCode},
    output::Format,
    private_file,
    session::json_of,
};

const STEP: usize = 1 << 20;

#[derive(Args, Clone, Debug)]
pub(crate) struct ResultArgs {
    /// The result; its receipt lies beside it with `.receipt`, if not said otherwise
    #[arg(value_name = "RES.age")]
    file: PathBuf,
    /// The request that it answers
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// The public half of the key of the host that was asked, in PEM
    #[arg(long, value_name = "FILE")]
    host_key: PathBuf,
    /// The receipt
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    quote: QuoteArgs,
}

impl ResultArgs {
    pub(super) fn run(&self, format: Format) -> Result<(), Failure> {
        let receipt = self.open_receipt()?;
        let mut tally = Tally::default();
        each_part(&self.file, |part| {
            tally.push(part);
            Ok(())
        })?;
        receipt.covers(tally).map_err(|error| Failure::problem(error.code(), error.to_string()))?;
        let mut shown = json_of(&receipt)?;
        if let Some(checked) = self.quote.check(&receipt, &read_key(&self.host_key)?)? {
            shown["quote_checked"] = checked;
        }
        format.print_value(&shown)
    }

    fn open_receipt(&self) -> Result<Receipt, Failure> {
        let path = self.receipt.clone().unwrap_or_else(|| with_end(&self.file, ".receipt"));
        let envelope = serde_json::from_slice(&read_octets(&path)?).map_err(|error| unreadable(&path, error))?;
        let (key, request) = (read_key(&self.host_key)?, seal_request::read(&self.request)?);
        Receipt::open(&envelope, &key, &request).map_err(|error| Failure::problem(error.code(), error.to_string()))
    }
}

/// Whether this file is, octet for octet, what the receipt is of.
pub(super) fn is_whole(receipt: &Receipt, file: &Path) -> bool {
    let mut tally = Tally::default();
    let read = each_part(file, |part| {
        tally.push(part);
        Ok(())
    });
    read.is_ok() && receipt.covers(tally).is_ok()
}

#[derive(Args, Clone, Debug)]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    result: ResultArgs,
    /// The secret half of a key that it is for
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where its content goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl OpenArgs {
    /// What is proved is what is opened: one reading does both.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let receipt = self.result.open_receipt()?;
        receipt.result().map_err(|error| Failure::problem(error.code(), error.to_string()))?;
        self.result.quote.check(&receipt, &read_key(&self.result.host_key)?)?;
        let identity = Identity::from_file(&read_text(&self.key)?).map_err(|error| unreadable(&self.key, error))?;
        let unfinished = with_end(&self.out, ".unproved");
        let opened = self.open_into(&receipt, identity, &unfinished);
        let named =
            opened.and_then(|()| std::fs::rename(&unfinished, &self.out).map_err(|cause| unwritable(&self.out, cause)));
        if named.is_err() {
            // What was not proved must not be used; that it cannot be removed changes nothing of the refusal.
            let _ = std::fs::remove_file(&unfinished);
        }
        named
    }

    fn open_into(&self, receipt: &Receipt, identity: Identity, path: &Path) -> Result<(), Failure> {
        private_file::write(path, &[])?;
        let mut out = File::options().append(true).open(path).map_err(|cause| unwritable(path, cause))?;
        let refused = |error: AgeError| Failure::problem(ErrorCode::SealResultUnreadable, error.to_string());
        let (mut tally, mut reader, mut content) = (Tally::default(), Reader::new(identity), Vec::new());
        each_part(&self.result.file, |part| {
            tally.push(part);
            reader.push(part, &mut content).map_err(refused)?;
            out.write_all(&content).map_err(|cause| unwritable(path, cause))?;
            content.clear();
            Ok(())
        })?;
        reader.finish(&mut content).map_err(refused)?;
        receipt.covers(tally).map_err(|error| Failure::problem(error.code(), error.to_string()))?;
        out.write_all(&content).and_then(|()| out.sync_all()).map_err(|cause| unwritable(path, cause))
    }
}

fn unwritable(path: &Path, cause: io::Error) -> Failure {
    Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", path.display()))
}

fn each_part(path: &Path, mut take: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut file = File::open(path).map_err(|cause| unreadable(path, cause))?;
    let mut part = vec![0; STEP];
    loop {
        match file.read(&mut part).map_err(|cause| unreadable(path, cause))? {
            0 => return Ok(()),
            read => take(part.get(..read).unwrap_or_default())?,
        }
    }
}
