//! `lucarne seal submit|collect`: requests carried to hosts, receipts and results carried back.
//!
//! Owns the waiting and the files. A carrier needs no key: a result is compared with its receipt on the way, and whose receipt
//! it is, `lucarne seal verify` proves.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use lucarne_attest::{canonical, signing::Envelope};
use lucarne_model::{ErrorCode, HostId, Octets, sealing::SealStanding, storage::Digest};
use lucarne_seal::{
    receipt::{Outcome, Receipt, Tally},
    request::{Request, RequestId},
    standing::Standing,
};
use serde_json::{Value, json};

use super::{
    flow::parse_span,
    seal::{read_octets, unreadable, with_end, write_public},
    seal_fleet::Fleet,
    seal_request::envelope_of,
    seal_store::{Store, StoreArgs},
    seal_way::{At, Way, WayArgs},
};
use crate::{
    command_line::Global,
    failure::{Failure, LocalCode},
    kind::{SEALED_FLEET_COLUMNS, SEALED_RESULT_COLUMNS},
    private_file,
    wait::Progress,
};

/// How often a result that broke off is gone on with.
const TRIES: usize = 10;

#[derive(Args, Clone, Debug)]
pub(crate) struct SubmitArgs {
    /// Requests' files, or folders of them
    #[arg(value_name = "REQ", required = true)]
    requests: Vec<PathBuf>,
    #[command(flatten)]
    delivery: DeliveryArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DeliveryArgs {
    #[command(flatten)]
    way: WayArgs,
    /// The host, where the request itself does not say it to a carrier
    #[arg(long, value_name = "ID")]
    host: Option<HostId>,
    /// The result's file, or with several requests the folder of all results; the receipt lies beside each with `.receipt`
    #[arg(long, value_name = "RES.age")]
    out: Option<PathBuf>,
    /// Leave the result with the host too
    #[arg(long)]
    keep: bool,
    /// Of a request for several hosts: for how long one that does not answer is tried again
    #[arg(long = "for", value_name = "SPAN", default_value = "1m", value_parser = parse_span)]
    patience: Duration,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CollectArgs {
    /// The request's file
    #[arg(value_name = "REQ")]
    request: PathBuf,
    #[command(flatten)]
    delivery: DeliveryArgs,
}

/// A request, as far as a carrier must know it.
struct Carried {
    octets: Vec<u8>,
    /// What it says of itself, where it can be read.
    id: Option<Digest>,
    host: Option<HostId>,
    fleet: Option<(Envelope, Request)>,
}

impl Carried {
    fn read(path: &Path) -> Result<Self, Failure> {
        let octets = read_octets(path)?;
        let Ok(envelope) = envelope_of(&octets) else {
            return Ok(Self { octets, id: None, host: None, fleet: None });
        };
        let id = Some(RequestId::of(&envelope).digest().clone());
        match canonical::read::<Request>(&envelope.payload) {
            Ok(request) => {
                let host = Some(request.target().host);
                let fleet = Some((envelope, request)).filter(|(_, request)| !request.target().others.is_empty());
                Ok(Self { octets, id, host, fleet })
            }
            Err(_) => {
                let host = canonical::read::<Standing>(&envelope.payload).map(|it| it.terms().host).ok();
                Ok(Self { octets, id, host, fleet: None })
            }
        }
    }
}

impl SubmitArgs {
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let (way, store) = (self.delivery.way.open(global)?, self.delivery.store.open()?);
        let files = self.files()?;
        if let [file] = files.as_slice() {
            let carried = Carried::read(file)?;
            if let Some(fleet) = &carried.fleet {
                return self.delivery.carry(&way, (&carried.octets, fleet), file, global).await;
            }
            let out = self.delivery.out.clone().unwrap_or_else(|| with_end(file, ".age"));
            let mut told = self.delivery.submit(&way, file, &out).await?;
            self.delivery.bring_on(store.as_ref(), &mut told).await;
            return global.output.print_change(&told, told["request"].as_str().unwrap_or_default());
        }
        if let Some(folder) = &self.delivery.out {
            std::fs::create_dir_all(folder)
                .map_err(|cause| Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", folder.display())))?;
        }
        // Hosts work beside each other.
        let all = files.iter().map(async |file| {
            let name = file.file_name().map(PathBuf::from).unwrap_or_default();
            let place = self.delivery.out.as_ref().map_or_else(|| file.clone(), |folder| folder.join(name));
            let told = self.delivery.submit(&way, file, &with_end(&place, ".age")).await;
            let none = |failure: Failure| json!({"file": file, "outcome": "none", "detail": failure.to_string()});
            let mut told = told.unwrap_or_else(none);
            self.delivery.bring_on(store.as_ref(), &mut told).await;
            told
        });
        let told = futures::future::join_all(all).await;
        global.output.print_list(&told, SEALED_RESULT_COLUMNS)?;
        all_done(&told, "requests")
    }

    fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut files = Vec::new();
        for path in &self.requests {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            for entry in std::fs::read_dir(path).map_err(|cause| unreadable(path, cause))? {
                let entry = entry.map_err(|cause| unreadable(path, cause))?.path();
                files.extend(Some(entry).filter(|entry| entry.extension().is_some_and(|end| end == "json")));
            }
        }
        files.sort();
        Ok(files)
    }
}

/// What there is of others is there all the same.
fn all_done(told: &[Value], of: &str) -> Result<(), Failure> {
    let is_missing = |one: &&Value| {
        (one["outcome"] != "done" && one["outcome"] != "stands") || one["delivered"] == Value::Bool(false)
    };
    match told.iter().filter(is_missing).count() {
        0 => Ok(()),
        missing => {
            let detail = format!("of {missing} of {} {of} there is no result, or not where it was to go", told.len());
            Err(Failure::problem(ErrorCode::SealRefused, detail))
        }
    }
}

impl CollectArgs {
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let (way, store) = (self.delivery.way.open(global)?, self.delivery.store.open()?);
        let carried = Carried::read(&self.request)?;
        if let Some(fleet) = &carried.fleet {
            return self.delivery.carry(&way, (&carried.octets, fleet), &self.request, global).await;
        }
        let out = self.delivery.out.clone().unwrap_or_else(|| with_end(&self.request, ".age"));
        let unread =
            || Failure::problem(ErrorCode::SealRequestMalformed, "the request cannot be read, so its id is not known");
        let at = At { host: self.delivery.host.or(carried.host), instance: None };
        let standing = way.look(at, &carried.id.ok_or_else(unread)?).await?;
        let progress = works_on(&self.request);
        let mut told = self.delivery.collect(&way, at, standing, (&self.request, &out), &progress).await?;
        self.delivery.bring_on(store.as_ref(), &mut told).await;
        global.output.print_change(&told, told["request"].as_str().unwrap_or_default())
    }
}

impl DeliveryArgs {
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Of a request for several hosts, into a folder.
    async fn carry(
        &self,
        way: &Way,
        (octets, (envelope, request)): (&[u8], &(Envelope, Request)),
        file: &Path,
        global: &Global,
    ) -> Result<(), Failure> {
        let folder = self.out.clone().unwrap_or_else(|| with_end(file, ".results"));
        let store = self.store.open()?;
        let mut told = Fleet { octets, envelope, request }.carry(self, way, (file, &folder)).await?;
        for one in &mut told {
            self.bring_on(store.as_ref(), one).await;
        }
        global.output.print_list(&told, SEALED_FLEET_COLUMNS)?;
        all_done(&told, "hosts")
    }

    /// Brings a result, or all of a standing request's, on into the store, if there is one.
    async fn bring_on(&self, store: Option<&Store>, told: &mut Value) {
        let Some(store) = store else { return };
        if let Some(results) = told["results"].as_array_mut() {
            for one in results {
                store.take(self.patience, one).await;
            }
        } else {
            store.take(self.patience, told).await;
        }
    }

    async fn submit(&self, way: &Way, file: &Path, out: &Path) -> Result<Value, Failure> {
        let carried = Carried::read(file)?;
        let at = At { host: self.host.or(carried.host), instance: None };
        let standing = way.submit(at, carried.octets).await?;
        self.collect(way, at, standing, (file, out), &works_on(file)).await
    }

    /// Waits for the end, and brings what there is.
    pub(super) async fn collect(
        &self,
        way: &Way,
        at: At,
        mut standing: SealStanding,
        (file, out): (&Path, &Path),
        progress: &Progress,
    ) -> Result<Value, Failure> {
        loop {
            match standing {
                SealStanding::UnderWay { request } => standing = way.look(at, &request).await?,
                SealStanding::Over { request, receipt, result } => {
                    return self.take(way, at, (request, receipt, result), (file, out), progress).await;
                }
                SealStanding::Stands { request, receipt, until, times, sampling } => {
                    write_public(&with_end(out, ".receipt"), &receipt)?;
                    if let Some(sampling) = sampling {
                        write_public(&with_end(out, ".sampling"), &sampling)?;
                    }
                    let taken = self.take_times(way, at, &times, (file, out), progress).await?;
                    return Ok(json!({
                        "file": file, "request": request, "outcome": "stands", "until": until, "results": taken,
                        "detail": format!("{} results", taken.len()),
                    }));
                }
            }
        }
    }

    /// Brings what is over of a standing request, each time of it into a file of its own beside `out`.
    async fn take_times(
        &self,
        way: &Way,
        at: At,
        times: &[Digest],
        (file, out): (&Path, &Path),
        progress: &Progress,
    ) -> Result<Vec<Value>, Failure> {
        let mut taken = Vec::new();
        for time in times {
            let SealStanding::Over { request, receipt, result } = way.look(at, time).await? else { continue };
            let said = read_receipt(&receipt)?.occurrence;
            let number = said.map(|of| of.number).unwrap_or_default();
            let instance = said.and_then(|of| of.instance).map(|instance| format!("-{}", instance.id));
            let own = out.with_extension(format!("{number:06}{}.age", instance.unwrap_or_default()));
            let told = self.take(way, at, (request.clone(), receipt, result), (file, &own), progress).await;
            // One that failed is told and left; the others have their results.
            taken.push(told.unwrap_or_else(
                |failure| json!({"request": request, "outcome": "none", "detail": failure.to_string()}),
            ));
        }
        Ok(taken)
    }

    async fn take(
        &self,
        way: &Way,
        at: At,
        (request, octets, result): (Digest, Octets, Option<u64>),
        (file, out): (&Path, &Path),
        progress: &Progress,
    ) -> Result<Value, Failure> {
        write_public(&with_end(out, ".receipt"), &octets)?;
        let receipt = read_receipt(&octets)?;
        match (&receipt.outcome, result) {
            (Outcome::Done { .. }, Some(length)) => fetch(way, at, (&request, length, &receipt), out, progress).await?,
            (Outcome::Done { .. }, None) | (Outcome::Failed, _) => {
                let detail =
                    format!("request {request} was taken, and no whole result came of it; its receipt says so");
                return Err(Failure::problem(ErrorCode::SealRefused, detail));
            }
            (Outcome::Refused | Outcome::Stands, _) => {
                let detail = format!("request {request} was refused; who signed it may ask the operator why");
                return Err(Failure::problem(ErrorCode::SealRefused, detail));
            }
        }
        if !self.keep {
            // It is here and whole; that it lies there for a day longer harms nobody.
            let _ = way.forget(at, &request).await;
        }
        Ok(
            json!({"file": file, "request": request, "outcome": "done", "result": out, "octets": result, "log_index": receipt.log_index}),
        )
    }
}

fn works_on(file: &Path) -> Progress {
    Progress::start(format!("{}: the host works on it", file.display()))
}

/// What a receipt says; whose it is, is proved by `lucarne seal verify`.
fn read_receipt(octets: &[u8]) -> Result<Receipt, Failure> {
    let wrong = |error: canonical::CanonicalError| Failure::problem(ErrorCode::SealReceiptInvalid, error.to_string());
    let envelope: Envelope = canonical::read(octets).map_err(wrong)?;
    canonical::read(&envelope.payload).map_err(wrong)
}

/// Brings the result, goes on where it broke off, and lets nothing stand that is not what the receipt is of.
async fn fetch(
    way: &Way,
    at: At,
    (request, length, receipt): (&Digest, u64, &Receipt),
    out: &Path,
    progress: &Progress,
) -> Result<(), Failure> {
    let unwritable =
        |cause: std::io::Error| Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", out.display()));
    let unfinished = with_end(out, ".part");
    private_file::write(&unfinished, &[])?;
    let mut file = File::options().append(true).open(&unfinished).map_err(unwritable)?;
    let (mut tally, mut have) = (Tally::default(), 0);
    for attempt in 1..=TRIES {
        let brought = way.fetch(at, (request, have), |part| {
            tally.push(part);
            have += part.len() as u64;
            progress.say(format!("{}: {have} of {length} octets", out.display()));
            file.write_all(part).map_err(unwritable)
        });
        match brought.await {
            Ok(()) if have == length => break,
            Err(failure) if attempt == TRIES => return Err(failure),
            Ok(()) | Err(_) if attempt < TRIES => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
            _ => {}
        }
    }
    receipt.covers(tally).map_err(|error| Failure::problem(error.code(), error.to_string()))?;
    file.sync_all().and_then(|()| std::fs::rename(&unfinished, out)).map_err(unwritable)
}
