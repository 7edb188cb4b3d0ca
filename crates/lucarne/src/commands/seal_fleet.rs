//! One request for many hosts: brought to each, waited for, and each result and receipt carried back into one folder.
//!
//! Owns what a carrier does for a fleet: several hosts at a time, tried again while they do not answer, and told of one by one when
//! it is over. What lies in the folder says how far it is, so a carrier that was killed goes on where it was when it is started again.
//! Each receipt is proved to be that of the host that the signed request names; no secret is needed for that.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use lucarne_attest::signing::{Envelope, PublicKey};
use lucarne_model::{ErrorCode, HostId, storage::Digest};
use lucarne_seal::{
    operation::Layer,
    receipt::{Outcome, Receipt},
    request::{Request, RequestId},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    attestation_verify::read_key,
    seal::{read_octets, with_end, write_public},
    seal_host::read_card,
    seal_result,
    seal_submit::DeliveryArgs,
    seal_way::{At, Way},
};
use crate::{
    failure::{Failure, LocalCode},
    wait::Progress,
};

/// Hosts that are spoken with at the same time.
const AT_ONCE: usize = 16;
/// Between two tries with a host that does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// A request for several hosts, as it is carried.
pub(super) struct Fleet<'a> {
    pub(super) octets: &'a [u8],
    pub(super) envelope: &'a Envelope,
    pub(super) request: &'a Request,
}

impl Fleet<'_> {
    /// Brings it to all its hosts, and what comes of it to `folder`: of each host what became of it there.
    pub(super) async fn carry(
        &self,
        delivery: &DeliveryArgs,
        way: &Way,
        (file, folder): (&Path, &Path),
    ) -> Result<Vec<Value>, Failure> {
        fs::create_dir_all(folder)
            .map_err(|cause| Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", folder.display())))?;
        let hosts = self.hosts(way).await?;
        let progress = Progress::start(format!("{}: 0 of {} hosts", file.display(), hosts.len()));
        let over = AtomicUsize::new(0);
        let each = hosts.iter().map(async |(host, key)| {
            let told = self.carry_to(delivery, way, (*host, key), (folder, &progress)).await;
            let over = over.fetch_add(1, Ordering::Relaxed) + 1;
            progress.say(format!("{}: {over} of {} hosts", file.display(), hosts.len()));
            told
        });
        let mut told: Vec<Value> = stream::iter(each).buffer_unordered(AT_ONCE).collect().await;
        told.sort_by_key(|one| one["host"].as_str().map(str::to_owned));
        Ok(told)
    }

    /// By a controller all that it names; on a host itself, that one.
    async fn hosts(&self, way: &Way) -> Result<Vec<(HostId, Digest)>, Failure> {
        let all = self.request.target().hosts().map(|(host, key)| (host, key.clone()));
        let Way::Local(_) = way else { return Ok(all.collect()) };
        let here = read_card(&way.describe(At { host: None, instance: None }).await?.card)?.0.host;
        Ok(all.filter(|(host, _)| *host == here).collect())
    }

    /// Tries for as long as it may; what became of it in the end. One that was refused may be taken by now, and is asked again.
    async fn carry_to(
        &self,
        delivery: &DeliveryArgs,
        way: &Way,
        (host, key): (HostId, &Digest),
        (folder, progress): (&Path, &Progress),
    ) -> Value {
        let place = Place::of(folder, host);
        let is_over = |receipt: &Receipt| receipt.outcome != Outcome::Refused;
        if let Some(receipt) = place.proved(self.envelope).filter(is_over) {
            return told(host, &place, &receipt);
        }
        let until = Instant::now() + delivery.patience();
        let failure = loop {
            match self.attempt(delivery, way, (host, key), (&place, progress)).await {
                Ok(()) => match place.proved(self.envelope) {
                    Some(receipt) => return told(host, &place, &receipt),
                    None => {
                        break Failure::problem(
                            ErrorCode::SealReceiptInvalid,
                            "what came is not proved to be this host's",
                        );
                    }
                },
                Err(failure) if is_passing(&failure) && Instant::now() < until => sleep(PAUSE).await,
                Err(failure) => break failure,
            }
        };
        json!({"host": host, "outcome": "none", "detail": failure.to_string()})
    }

    async fn attempt(
        &self,
        delivery: &DeliveryArgs,
        way: &Way,
        (host, key): (HostId, &Digest),
        (place, progress): (&Place, &Progress),
    ) -> Result<(), Failure> {
        let at = At { host: Some(host), instance: None };
        let (card, _) = read_card(&way.describe(at).await?.card)?;
        let own = card.key(Layer::Host).filter(|own| own.id() == *key);
        let own = own.ok_or_else(|| {
            Failure::problem(ErrorCode::SealOtherTarget, format!("{host} has another key than the request names"))
        })?;
        write_public(&place.key, own.to_pem().as_bytes())?;
        // A carrier that was killed may have brought it before.
        let id = RequestId::of(self.envelope).digest().clone();
        let standing = match way.look(at, &id).await {
            Err(failure) if failure.code() == Some(ErrorCode::SealResultUnreadable) => {
                way.submit(at, self.octets.to_vec()).await?
            }
            looked => looked?,
        };
        match delivery.collect(way, at, standing, (&place.result, &place.result), progress).await {
            Err(failure) if failure.code() == Some(ErrorCode::SealRefused) => Ok(()),
            collected => collected.map(drop),
        }
    }
}

/// A host that does not answer may do so later, and one that is busy has not taken anything.
fn is_passing(failure: &Failure) -> bool {
    let passing = [
        ErrorCode::HostUnreachable,
        ErrorCode::SealBusy,
        ErrorCode::ControllerUnreachable,
        ErrorCode::RequestLimitExceeded,
    ];
    failure.code().is_some_and(|code| passing.contains(&code))
}

/// Where what comes of one host lies.
struct Place {
    result: PathBuf,
    receipt: PathBuf,
    key: PathBuf,
}

impl Place {
    fn of(folder: &Path, host: HostId) -> Self {
        let result = folder.join(format!("{host}.age"));
        Self { receipt: with_end(&result, ".receipt"), key: folder.join(format!("{host}.pub")), result }
    }

    /// What is there already, if it is all that the host has for it: a receipt of its own and, unless there is none, the result that it is of.
    fn proved(&self, request: &Envelope) -> Option<Receipt> {
        let key: PublicKey = read_key(&self.key).ok()?;
        let envelope = serde_json::from_slice(&read_octets(&self.receipt).ok()?).ok()?;
        let receipt = Receipt::open(&envelope, &key, request).ok()?;
        let is_whole = match &receipt.outcome {
            Outcome::Done { .. } => seal_result::is_whole(&receipt, &self.result),
            Outcome::Refused | Outcome::Failed | Outcome::Stands => true,
        };
        is_whole.then_some(receipt)
    }
}

fn told(host: HostId, place: &Place, receipt: &Receipt) -> Value {
    let (outcome, result, octets) = match &receipt.outcome {
        Outcome::Done { result, .. } => ("done", Some(&place.result), Some(result.length)),
        Outcome::Failed => ("failed", None, None),
        Outcome::Refused | Outcome::Stands => ("refused", None, None),
    };
    json!({"host": host, "request": receipt.request, "outcome": outcome, "result": result, "octets": octets, "log_index": receipt.log_index})
}
