//! Which hosts are meant: some by their ids or names, or all that a controller knows; and by which keys.
//!
//! Owns asking the controller for them, and that keys are those of cards which the operator has signed. That something is a host is the controller's word; what it may be trusted with, cards say.

use std::collections::BTreeMap;

use lucarne_attest::{canonical, signing::PublicKey};
use lucarne_model::{ErrorCode, HostId, storage::Digest};
use lucarne_seal::{card::Card, operation::Layer};

use super::seal_way::{At, Way};
use crate::{
    command_line::Global,
    failure::{Failure, LocalCode},
    kind::HOST,
    listing,
    session::Session,
};

/// These hosts, or all.
pub(super) async fn chosen(session: &Session, hosts: Option<&[String]>) -> Result<Vec<HostId>, Failure> {
    match hosts {
        Some(hosts) => listing::resolve_all(session, &HOST, hosts).await,
        None => matching(session, None).await,
    }
}

/// Those that a filter finds, such as `tag:rack=7`.
pub(super) async fn matching(session: &Session, filter: Option<&str>) -> Result<Vec<HostId>, Failure> {
    let found = listing::list(session, &HOST, filter, None).await?;
    let id = |host: &serde_json::Value| host["id"].as_str().and_then(|id| id.parse().ok());
    let strange = || Failure::local(LocalCode::UnexpectedAnswer, "a host has no id");
    found.iter().map(|host| id(host).ok_or_else(strange)).collect()
}

/// The keys of the hosts that a filter finds, of which this key has signed the cards.
pub(super) async fn keys(
    global: &Global,
    filter: Option<&str>,
    authority: &PublicKey,
    layer: Layer,
) -> Result<BTreeMap<HostId, Digest>, Failure> {
    let hosts = matching(&global.session()?, filter).await?;
    let way = Way::Controller(global.session()?);
    let mut keys = BTreeMap::new();
    for host in hosts {
        let told = way.describe(At { host: Some(host), instance: None }).await?;
        let card = canonical::read(&told.card).ok().and_then(|card| Card::open(&card, Some(authority)).ok());
        let key = card.filter(|card| card.host == host).and_then(|card| card.key(layer).map(PublicKey::id));
        let untrusted = || format!("the operator has not signed the card of {host}: `seal policy vouch`, then publish");
        keys.insert(host, key.ok_or_else(|| Failure::problem(ErrorCode::SealKeyUntrusted, untrusted()))?);
    }
    Ok(keys)
}
