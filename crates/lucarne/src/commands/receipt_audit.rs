//! The audit of an account's receipts: the chain, and the parts that it speaks of, held against each other.
//!
//! Owns the order of the looks: the collector goes on sealing and merging meanwhile, so a part that is gone is only missing
//! if no later receipt takes its place. And a part is receipted before it can be fetched, so that one is only missing if it
//! stays so. What a chain must be is stated in [`lucarne_flows::receipts`].

use std::collections::BTreeMap;

use lucarne_collector::ReceiptPage;
use lucarne_flows::receipts::{
    Chain, Head, PartContents, PublicKey, ReceiptError, Sha256, SignedReceipt, check_counts, check_file, follow,
};
use lucarne_model::{AccountId, Moment};

use crate::{
    failure::{Failure, LocalCode},
    output::time,
};

/// How often a part is looked for that has a receipt, before it counts as missing: a collector that was killed between the
/// two makes the part again after its start.
const LOOKS: usize = 20;

/// Who is asked for receipts and parts.
pub(crate) trait Archive {
    /// The receipts from a number on.
    async fn receipts(&self, from: u64) -> Result<ReceiptPage, Failure>;
    /// Takes a copy of a part; its size and digest, or none where there is no part of the name.
    async fn take(&self, name: &str) -> Result<Option<(u64, Sha256)>, Failure>;
    /// What is in the copy.
    async fn contents(&self, name: &str) -> Result<PartContents, Failure>;
    /// Waits before the next look for a part that was not there.
    async fn wait(&self);
}

/// What was kept of an earlier audit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) key: Option<PublicKey>,
    pub(crate) head: Option<Head>,
}

/// The time whose parts are looked into. The chain is always followed whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) since: Option<Moment>,
    pub(crate) until: Option<Moment>,
}

/// What held.
pub(crate) struct Audit {
    pub(crate) key: PublicKey,
    pub(crate) receipts: Vec<SignedReceipt>,
    pub(crate) chain: Chain,
    /// Parts that were looked into, and the records in them.
    pub(crate) parts: usize,
    pub(crate) records: u64,
}

impl Span {
    fn touches(self, part: &PartContents) -> bool {
        let within = |minute: u64| {
            let (begin, end) = (Moment::from_secs(60 * minute), Moment::from_secs(60 * (minute + 1)));
            self.since.is_none_or(|since| end > since) && self.until.is_none_or(|until| begin < until)
        };
        part.minutes.iter().any(|(minute, _)| within(*minute))
    }
}

/// Receipts as far as they were fetched.
#[derive(Default)]
struct Shown {
    key: Option<PublicKey>,
    receipts: Vec<SignedReceipt>,
}

impl Shown {
    /// Fetches what came since.
    async fn read_on(&mut self, archive: &impl Archive) -> Result<PublicKey, Failure> {
        loop {
            let page = archive.receipts(self.receipts.len() as u64).await?;
            let key = *self.key.get_or_insert(page.key);
            if key != page.key {
                return Err(broken("the receipts are not all signed with one key"));
            }
            let is_last = page.next.is_none() || page.receipts.is_empty();
            self.receipts.extend(page.receipts);
            if is_last {
                return Ok(key);
            }
        }
    }

    /// What is wrong, with the time at which it was receipted and the times of the records that it is about.
    fn told(&self, error: &ReceiptError) -> Failure {
        let receipt = self.receipts.iter().map(|signed| &signed.receipt).find(|r| r.number == error.number());
        let Some(receipt) = receipt else { return broken(error.to_string()) };
        let minute =
            |minute: Option<&(u64, u64)>| minute.map_or(receipt.issued, |(minute, _)| Moment::from_secs(60 * minute));
        let (first, last) = (minute(receipt.part.minutes.first()), minute(receipt.part.minutes.last()));
        broken(format!(
            "{error}: the receipt is of {}, about records of {} to {}",
            time(receipt.issued),
            time(first),
            time(last)
        ))
    }
}

fn broken(detail: impl Into<String>) -> Failure {
    Failure::local(LocalCode::ReceiptsBroken, detail)
}

/// Follows the account's chain and looks into its parts; the first thing that is wrong is the failure.
pub(crate) async fn audit(
    archive: &impl Archive,
    account: AccountId,
    known: Known,
    span: Span,
) -> Result<Audit, Failure> {
    let mut shown = Shown::default();
    let mut held: BTreeMap<Sha256, u64> = BTreeMap::new();
    let mut looks = BTreeMap::new();
    loop {
        let key = shown.read_on(archive).await?;
        if known.key.is_some_and(|known| known != key) {
            return Err(broken(format!("the receipts are signed with {key}, which is not the key that was kept")));
        }
        let follow =
            |shown: &Shown| follow(account, &key, &shown.receipts, known.head).map_err(|error| shown.told(&error));
        let chain = follow(&shown)?;
        let Some((number, part)) = hold(archive, &shown, &chain, span, &mut held).await? else {
            let Shown { receipts, .. } = shown;
            return Ok(Audit { key, receipts, chain, parts: held.len(), records: held.values().sum() });
        };
        // It is gone. Was it merged meanwhile?
        shown.read_on(archive).await?;
        if follow(&shown)?.current().any(|(current, _)| current == number) {
            let looks: &mut usize = looks.entry(number).or_default();
            *looks += 1;
            if *looks == LOOKS {
                return Err(shown.told(&ReceiptError::Missing { number, name: part.name }));
            }
            archive.wait().await;
        }
        held.clear();
    }
}

/// Looks into those parts that are not held yet. Returns the first that is gone.
async fn hold(
    archive: &impl Archive,
    shown: &Shown,
    chain: &Chain,
    span: Span,
    held: &mut BTreeMap<Sha256, u64>,
) -> Result<Option<(u64, PartContents)>, Failure> {
    for (number, part) in chain.current().filter(|(_, part)| span.touches(part)) {
        let found = archive.take(&part.name).await?;
        if found.is_none() {
            return Ok(Some((number, part.clone())));
        }
        check_file(number, part, found).map_err(|error| shown.told(&error))?;
        let contents = archive.contents(&part.name).await?;
        check_counts(number, part, &contents).map_err(|error| shown.told(&error))?;
        held.insert(part.sha256, part.rows());
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
