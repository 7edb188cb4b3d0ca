//! Questions that are answered from what is watched while records arrive.
//!
//! Owns `GET /findings` ([`FindingQuery`] to a list, newest first), `GET /scanners` ([`ScannerQuery`]) and
//! `GET /closed-ports` ([`ClosedPortQuery`], and an account if only its machines are meant). Who may ask is decided by the
//! controller.

use std::sync::Arc;

use axum::{Json, Router, extract::Query, routing::get};
use lucarne_model::{
    AccountId,
    finding::{ClosedPort, ClosedPortQuery, Complete, Finding, FindingQuery, ScannerQuery, Scanners},
};
use serde::Deserialize;

use super::Service;
use crate::{findings::Findings, sealer};

/// Whose machines.
#[derive(Deserialize)]
struct Of {
    account: Option<AccountId>,
}

pub(crate) fn routes(findings: Arc<Findings>) -> Router<Service> {
    let (scanning, closed) = (findings.clone(), findings.clone());
    let list = async move |query: Query<FindingQuery>| -> Json<Vec<Finding>> { Json(findings.list(&query)) };
    let scanners =
        async move |query: Query<ScannerQuery>| -> Json<Scanners> { Json(scanning.scanners(&query, sealer::now())) };
    let closed_ports = async move |of: Query<Of>, query: Query<ClosedPortQuery>| -> Json<Complete<ClosedPort>> {
        Json(closed.closed_ports(of.account, &query))
    };
    Router::new()
        .route("/findings", get(list))
        .route("/scanners", get(scanners))
        .route("/closed-ports", get(closed_ports))
}
