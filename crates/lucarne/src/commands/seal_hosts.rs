//! Which hosts are meant: some by their ids or names, or all that a controller knows.
//!
//! Owns asking the controller for them. That something is a host is the controller's word; what it may be trusted with, cards say.

use lucarne_model::HostId;

use crate::{
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
