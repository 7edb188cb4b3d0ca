//! Publishers that accounts trust, each with the key that the account pinned.
//!
//! Owns what may be in the list, and that nothing is taken out of it which a VPC's policy rests on. What a publisher shows is
//! asked in [`crate::consultation`].

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, publisher::CreatePublisher},
    input::{Json, Nothing},
};
use lucarne_attest::signing::PublicKey;
use lucarne_model::{
    AccountId, ErrorCode, PublisherId, Tags,
    attestation::AttestMode,
    network::Vpc,
    publisher::{Notary, Publisher},
};

use super::checks::{check_name, refuse};
use crate::{
    Caller, Controller,
    attestation_records::PublisherRecord,
    consultation::by_name,
    random,
    store::{Scope, Tx},
};

const PUBLISHERS_OF_AN_ACCOUNT: usize = 100;

pub(crate) async fn create_publisher(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreatePublisher>>,
) -> Result<Created<Publisher>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| create(tx, account, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreatePublisher) -> Result<Publisher, Problem> {
    let CreatePublisher { name, notary, key, series } = request;
    check_name(&name)?;
    check_series(&series)?;
    let key = PublicKey::from_pem(&key).map_err(|error| refuse(format!("key: {error}")))?.to_pem();
    tx.get::<Notary>(Scope::Visible(account), notary)?;
    if by_name(tx, account, &name)?.is_some() {
        let detail = format!("the account has a publisher `{name}`");
        return Err(Problem::new(ErrorCode::PublisherDuplicate, detail));
    }
    if tx.list::<PublisherRecord>(Scope::Account(account))?.len() >= PUBLISHERS_OF_AN_ACCOUNT {
        let detail = format!("an account can have {PUBLISHERS_OF_AN_ACCOUNT} publishers");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let (id, created, tags) = (random::id(), tx.now(), Tags::default());
    let publisher = Publisher { id, account, name, notary, key, series, seen: None, created, tags };
    tx.insert(&PublisherRecord { publisher: publisher.clone(), head: None })?;
    Ok(publisher)
}

/// As notaries name them, and nothing that a URL would take for a way.
fn check_series(series: &str) -> Result<(), Problem> {
    let is_name = (1..=64).contains(&series.len())
        && !series.starts_with('.')
        && series.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'/');
    if is_name {
        Ok(())
    } else {
        Err(refuse("a series has 1 to 64 letters and signs, no `/`, and no `.` at its start"))
    }
}

pub(crate) async fn list_publishers(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Publisher>>, Problem> {
    let (scope, query) = (Scope::Account(call.caller.account), call.query);
    let show = |_: &Tx<'_>, record: PublisherRecord| Ok(record.publisher);
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_publisher(
    controller: &Controller,
    call: Call<Caller, (PublisherId,), NoQuery, Nothing>,
) -> Result<Json<Publisher>, Problem> {
    let (scope, id) = (Scope::Account(call.caller.account), call.path.0);
    let record = controller.store.read(move |tx| tx.get::<PublisherRecord>(scope, id)).await?;
    Ok(Json(record.publisher))
}

pub(crate) async fn remove_publisher(
    controller: &Controller,
    call: Call<Caller, (PublisherId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.change(&call, move |tx| remove(tx, scope, id)).await.map(|()| Done)
}

fn remove(tx: &mut Tx<'_>, scope: Scope, id: PublisherId) -> Result<(), Problem> {
    let record: PublisherRecord = tx.get(scope, id)?;
    let Publisher { account, name, .. } = &record.publisher;
    let rests_on_it = |vpc: &&Vpc| {
        let mode = vpc.attest_policy.as_ref().map(|wanted| &wanted.policy.mode);
        matches!(mode, Some(AttestMode::Manifest { publisher }) if publisher == name)
    };
    if let Some(vpc) = tx.list::<Vpc>(Scope::Account(*account))?.iter().find(rests_on_it) {
        let detail = format!("{id} is still used by the attestation policy of {}", vpc.id);
        return Err(Problem::new(ErrorCode::DependencyViolation, detail));
    }
    tx.delete(&record)
}
