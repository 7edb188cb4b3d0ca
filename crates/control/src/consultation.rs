//! Publishers asked what they publish now, on behalf of an account.
//!
//! Owns that a log which an account has seen is never seen to be another by it: the newest head that was believed is on disk
//! before anything is judged by it. Asking is [`NotaryClient`]'s, believing the room `attest`'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lucarne_api::Problem;
use lucarne_attest::{
    manifest::ManifestError,
    series::{Series, Shown},
    signing::PublicKey,
};
use lucarne_model::{AccountId, ErrorCode, Moment, PublisherId, instance::StateReason, publisher::Notary};

use crate::{
    attestation_records::PublisherRecord,
    notary_client::NotaryClient,
    store::{Scope, Store, Tx},
};

/// How often a notary that does not answer is asked, and how long after the first time and each next one again.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// What each publisher that was asked shows, or why it is not believed.
pub(crate) type Answers = BTreeMap<String, Result<Shown, StateReason>>;

#[derive(Clone, Debug)]
pub(crate) struct Consultant {
    store: Store,
    notaries: NotaryClient,
}

/// One publisher, and where it is asked.
struct Asked {
    record: PublisherRecord,
    notary: Notary,
}

/// What came of an answer.
enum Heard {
    Believed(Shown),
    Refused(StateReason),
    /// Another question of the same account was answered meanwhile: what this one was asked to go on from is not the newest.
    Overtaken,
}

impl Consultant {
    pub(crate) fn new(store: Store, notaries: NotaryClient) -> Self {
        Self { store, notaries }
    }

    /// Asks each of them. A problem is one of the store alone: what is wrong with a publisher is in its answer.
    pub(crate) async fn ask(&self, account: AccountId, publishers: BTreeSet<String>) -> Result<Answers, Problem> {
        let mut answers = Answers::new();
        for publisher in publishers {
            let answer = self.ask_one(account, &publisher).await?;
            answers.insert(publisher, answer);
        }
        Ok(answers)
    }

    async fn ask_one(&self, account: AccountId, publisher: &str) -> Result<Result<Shown, StateReason>, Problem> {
        let mut failures = 0;
        loop {
            let name = publisher.to_owned();
            let Some(asked) = self.store.read(move |tx| find(tx, account, &name)).await? else {
                return Ok(Err(unknown(publisher)));
            };
            let (Asked { record, notary }, id) = (&asked, asked.record.publisher.id);
            let seen = record.head.as_ref().map_or(0, |head| head.size);
            match self.notaries.series(&notary.url, &record.publisher.series, seen).await {
                Ok(series) => match self.store.write(move |tx| hear(tx, id, &series, seen)).await? {
                    Heard::Believed(shown) => return Ok(Ok(shown)),
                    Heard::Refused(reason) => return Ok(Err(reason)),
                    Heard::Overtaken => {}
                },
                Err(error) => {
                    failures += 1;
                    if failures == ATTEMPTS {
                        tracing::warn!(notary = notary.url, error = &error as &dyn std::error::Error, "no manifests");
                        let message = format!("the notary {} of publisher `{publisher}`: {error}", notary.name);
                        return Ok(Err(StateReason { code: ErrorCode::PublisherUnreachable, message }));
                    }
                    tokio::time::sleep(PAUSE * failures).await;
                }
            }
        }
    }
}

pub(crate) fn unknown(publisher: &str) -> StateReason {
    let message = format!("the account knows no publisher `{publisher}`");
    StateReason { code: ErrorCode::InvalidPublisherNotFound, message }
}

/// The account's publisher of this name.
pub(crate) fn by_name(tx: &Tx<'_>, account: AccountId, name: &str) -> Result<Option<PublisherRecord>, Problem> {
    let all = tx.list::<PublisherRecord>(Scope::Account(account))?;
    Ok(all.into_iter().find(|record| record.publisher.name == name))
}

fn find(tx: &Tx<'_>, account: AccountId, name: &str) -> Result<Option<Asked>, Problem> {
    let Some(record) = by_name(tx, account, name)? else { return Ok(None) };
    let notary = tx.get(Scope::Everything, record.publisher.notary)?;
    Ok(Some(Asked { record, notary }))
}

/// Judges an answer by what the account has seen until now, and keeps the head that it is to go on from next.
fn hear(tx: &mut Tx<'_>, id: PublisherId, series: &Series, seen: u64) -> Result<Heard, Problem> {
    let mut record: PublisherRecord = tx.get(Scope::Everything, id)?;
    if record.head.as_ref().map_or(0, |head| head.size) != seen {
        return Ok(Heard::Overtaken);
    }
    match believe(&record, series, tx.now()) {
        Ok(shown) => {
            // A head that says nothing new is not worth a write.
            if record.head.is_none() || shown.head.size > seen {
                record.see(shown.head.clone());
                tx.put(&record)?;
            }
            Ok(Heard::Believed(shown))
        }
        Err(error) => {
            let message = format!("publisher `{}`: {error}", record.publisher.name);
            Ok(Heard::Refused(StateReason { code: error.code(), message }))
        }
    }
}

fn believe(record: &PublisherRecord, series: &Series, now: Moment) -> Result<Shown, ManifestError> {
    let key = PublicKey::from_pem(&record.publisher.key).map_err(ManifestError::Invalid)?;
    series.verify(&key, &record.publisher.series, now, record.head.as_ref())
}
