//! The lists of measurements that tenants trust.
//!
//! Owns what may be in a list. How it is held against what was measured is [`crate::judging`]'s. Taking something out of a list
//! changes nothing for what has begun; the next proof is judged by the list of then.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        attestation::{AddMeasurements, AddedMeasurements},
    },
    input::{Json, Nothing},
};
use lucarne_model::{AccountId, ErrorCode, KnownMeasurementId, Measurement, Tags, attestation::KnownMeasurement};

use super::checks::{check_name, refuse};
use crate::{
    Caller, Controller, random,
    store::{Scope, Tx},
};

/// In one request, and in one list.
const MOST_AT_ONCE: usize = 1000;
const MOST: usize = 20_000;
const NOTE_LENGTH: usize = 500;

pub(crate) async fn add_measurements(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<AddMeasurements>>,
) -> Result<Created<AddedMeasurements>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    controller.change(&call, move |tx| add(tx, account, request)).await.map(Created)
}

fn add(tx: &mut Tx<'_>, account: AccountId, request: AddMeasurements) -> Result<AddedMeasurements, Problem> {
    check(&request)?;
    let mut list = tx.list::<KnownMeasurement>(Scope::Account(account))?;
    if list.len() + request.measurements.len() > MOST {
        let detail = format!("an account's list has at most {MOST} measurements");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let AddMeasurements { measurements, configuration, note } = request;
    let mut items: Vec<KnownMeasurement> = Vec::new();
    for measurement in measurements {
        let same = |one: &&KnownMeasurement| one.measurement == measurement && one.configuration == configuration;
        if let Some(known) = list.iter().find(same) {
            items.push(known.clone());
            continue;
        }
        let known = KnownMeasurement {
            id: random::id(),
            account,
            measurement,
            configuration: configuration.clone(),
            note: note.clone(),
            created: tx.now(),
            tags: Tags::default(),
        };
        tx.insert(&known)?;
        list.push(known.clone());
        items.push(known);
    }
    Ok(AddedMeasurements { items })
}

fn check(AddMeasurements { measurements, configuration, note }: &AddMeasurements) -> Result<(), Problem> {
    if !(1..=MOST_AT_ONCE).contains(&measurements.len()) {
        return Err(refuse(format!("1 to {MOST_AT_ONCE} measurements can be added at once")));
    }
    measurements.iter().try_for_each(|Measurement { name, .. }| check_name(name))?;
    configuration.as_deref().map_or(Ok(()), check_name)?;
    if note.as_ref().is_some_and(|note| note.chars().count() > NOTE_LENGTH) {
        return Err(refuse(format!("a note has at most {NOTE_LENGTH} characters")));
    }
    Ok(())
}

/// The account's own, an operator's too: what others trust is theirs.
pub(crate) async fn list_measurements(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<KnownMeasurement>>, Problem> {
    let (scope, query) = (Scope::Account(call.caller.account), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_measurement(
    controller: &Controller,
    call: Call<Caller, (KnownMeasurementId,), NoQuery, Nothing>,
) -> Result<Json<KnownMeasurement>, Problem> {
    let (scope, id) = (Scope::Account(call.caller.account), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn remove_measurement(
    controller: &Controller,
    call: Call<Caller, (KnownMeasurementId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let remove = move |tx: &mut Tx<'_>| {
        let known: KnownMeasurement = tx.get(scope, id)?;
        tx.delete(&known)
    };
    controller.change(&call, remove).await.map(|()| Done)
}
