//! Makers of TPMs that the operator trusts: roots of endorsement certificates.
//!
//! Owns the list. No maker is trusted until an operator says so; what that means to each host follows in the same transaction.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, tpm::AddTpmMaker},
    input::{Json, Nothing},
};
use lucarne_attest::endorsement;
use lucarne_model::{AccountId, ErrorCode, Octets, TpmMakerId, storage::Digest, tpm::TpmMaker};
use ring::digest::{SHA256, digest};

use super::{
    checks::{check_name, check_tags, refuse},
    tpms,
};
use crate::{
    Caller, Controller, random,
    store::{Scope, Tx},
};

/// More than there are makers of TPMs; a host's certificate is held against each.
const MOST: usize = 256;
const LARGEST: usize = 16 << 10;

pub(crate) async fn add_tpm_maker(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<AddTpmMaker>>,
) -> Result<Created<TpmMaker>, Problem> {
    let request = call.body.0.clone();
    controller.change(&call, move |tx| add(tx, request)).await.map(Created)
}

/// A root that is there is not added again.
fn add(tx: &mut Tx<'_>, request: AddTpmMaker) -> Result<TpmMaker, Problem> {
    let AddTpmMaker { name, certificate, tags } = request;
    check_name(&name)?;
    check_tags(&tags)?;
    let is_root = certificate.len() <= LARGEST && endorsement::check_root(&certificate).is_ok();
    if !is_root {
        return Err(refuse("`certificate` is not a certificate, in DER, of an authority"));
    }
    let fingerprint = fingerprint(&certificate);
    let makers = tx.list::<TpmMaker>(Scope::Everything)?;
    if let Some(known) = makers.iter().find(|maker| maker.fingerprint == fingerprint) {
        return Ok(known.clone());
    }
    if makers.len() >= MOST {
        let detail = format!("at most {MOST} makers can be trusted");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    let (id, account, created) = (random::id(), AccountId::OPERATOR, tx.now());
    let maker = TpmMaker { id, account, name, certificate, fingerprint, created, tags };
    tx.insert(&maker)?;
    tpms::judge_all(tx)?;
    Ok(maker)
}

fn fingerprint(certificate: &Octets) -> Digest {
    let hash = digest(&SHA256, certificate);
    Digest::from_bytes(std::array::from_fn(|at| hash.as_ref()[at]))
}

pub(crate) async fn list_tpm_makers(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<TpmMaker>>, Problem> {
    let (scope, query) = (call.caller.scope(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_tpm_maker(
    controller: &Controller,
    call: Call<Caller, (TpmMakerId,), NoQuery, Nothing>,
) -> Result<Json<TpmMaker>, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn remove_tpm_maker(
    controller: &Controller,
    call: Call<Caller, (TpmMakerId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    let remove = move |tx: &mut Tx<'_>| {
        let maker: TpmMaker = tx.get(scope, id)?;
        tx.delete(&maker)?;
        tpms::judge_all(tx)
    };
    controller.change(&call, remove).await.map(|()| Done)
}
