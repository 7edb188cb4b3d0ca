//! `lucarne seal log`: what hosts were asked, allowed or refused, with proofs.
//!
//! Owns the verification here, with the host's own key and the head that was seen before: nobody on the way is believed.

use std::path::PathBuf;

use clap::Args;
use lucarne_attest::{
    canonical::{self, CanonicalError},
    log::{Consistency, Inclusion},
    signing::{Envelope, PublicKey},
};
use lucarne_model::{
    ErrorCode, HostId, InstanceId,
    sealing::{SealLog, SealLogEntry},
};
use lucarne_seal::log::{Content, Entry, Head, LogError, Opening, Record, Verdict};
use serde_json::{Value, json};

use super::{
    attestation_verify::read_key,
    seal::read_octets,
    seal_way::{At, WayArgs},
};
use crate::{command_line::Global, failure::Failure, kind::SEAL_LOG_COLUMNS, private_file, session::json_of};

#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    #[command(flatten)]
    way: WayArgs,
    /// The host whose log is read
    #[arg(long, value_name = "ID")]
    host: Option<HostId>,
    /// Only entries about this instance, of the host that it is on if no host is said
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// Prove that every entry is in the log that the host signed, and that it only grew; exits 1 if that does not hold
    #[arg(long, requires = "host_key")]
    verify: bool,
    /// The public half of the host's key for guests, in PEM
    #[arg(long, value_name = "FILE")]
    host_key: Option<PathBuf>,
    /// Keep the newest head in this file, and hold the next one against it: a log that forks is found
    #[arg(long, value_name = "FILE", requires = "host_key")]
    state: Option<PathBuf>,
}

impl LogArgs {
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let way = self.way.open(global)?;
        let key = self.host_key.as_ref().map(|path| read_key(path)).transpose()?;
        let at = At { host: self.host, instance: self.instance };
        let mut seen = self.seen(key.as_ref())?;
        let (mut rows, mut first) = (Vec::new(), 0);
        loop {
            let log = way.log(at, first, seen.as_ref().map(|(_, head)| head.size)).await?;
            if let Some(key) = &key {
                seen = Some(verify(&log, key, seen.as_ref().map(|(_, head)| head)).map_err(broken)?);
            }
            for entry in &log.entries {
                rows.push(row(entry)?);
            }
            match log.next {
                Some(next) if next > first => first = next,
                _ => break,
            }
        }
        if let (Some(path), Some((envelope, _))) = (&self.state, &seen) {
            private_file::write(path, envelope)?;
        }
        global.output.print_list(&rows, SEAL_LOG_COLUMNS)
    }

    /// The head that was kept, which this key signed.
    fn seen(&self, key: Option<&PublicKey>) -> Result<Option<(Vec<u8>, Head)>, Failure> {
        let Some((path, key)) = self.state.as_ref().filter(|path| path.exists()).zip(key) else { return Ok(None) };
        let octets = read_octets(path)?;
        let envelope: Envelope = canonical::read(&octets).map_err(unread)?;
        let head = Head::open(&envelope, key).map_err(broken)?;
        Ok(Some((octets, head)))
    }
}

/// The head of this part, if the host signed it, it continues what was seen, and every entry is proved to be in it.
fn verify(log: &SealLog, key: &PublicKey, seen: Option<&Head>) -> Result<(Vec<u8>, Head), LogError> {
    let envelope: Envelope = canonical::read(&log.head)?;
    let head = Head::open(&envelope, key)?;
    if let Some(seen) = seen {
        let forked = LogError::Forked { before: seen.size, size: head.size };
        let proof: Consistency = canonical::read(log.consistency.as_deref().ok_or(forked)?)?;
        head.continues(seen, &proof)?;
    }
    for SealLogEntry { entry, inclusion, opening } in &log.entries {
        let entry: Entry = canonical::read(entry)?;
        head.includes(&entry, &canonical::read::<Inclusion>(inclusion)?)?;
        if let Some(opening) = opening {
            canonical::read::<Opening>(opening)?.opens(&entry)?;
        }
    }
    Ok((log.head.to_vec(), head))
}

fn row(entry: &SealLogEntry) -> Result<Value, Failure> {
    let said: Entry = canonical::read(&entry.entry).map_err(unread)?;
    let opening: Option<Opening> =
        entry.opening.as_ref().map(|octets| canonical::read(octets)).transpose().map_err(unread)?;
    let opened = opening.map(|opening| opening.record);
    let mut row = json!({"index": said.index, "time": said.time});
    match (said.content, opened) {
        (Content::Open(record), _) | (Content::Sealed { .. }, Some(record)) => fill(&mut row, &record)?,
        (Content::Sealed { commitment, embargo_until }, None) => {
            row["verdict"] = json!("under embargo");
            row["commitment"] = json!(commitment);
            row["embargo_until"] = json!(embargo_until);
        }
    }
    Ok(row)
}

fn fill(row: &mut Value, record: &Record) -> Result<(), Failure> {
    row["request"] = json!(record.request);
    row["verdict"] = match &record.verdict {
        Verdict::Allowed => json!("allowed"),
        Verdict::Refused(code) => json!(code),
    };
    if let Some(asked) = &record.asked {
        for (name, value) in json_of(asked)?.as_object().into_iter().flatten() {
            row[name] = value.clone();
        }
    }
    Ok(())
}

fn broken(error: LogError) -> Failure {
    Failure::problem(ErrorCode::SealReceiptInvalid, format!("the host's log: {error}"))
}
fn unread(error: CanonicalError) -> Failure {
    Failure::problem(ErrorCode::SealReceiptInvalid, format!("the host's log cannot be read: {error}"))
}
