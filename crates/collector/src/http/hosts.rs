//! What concerns hosts themselves: who of them is let in, and what they lost.
//!
//! Owns `PUT /host-trust` ([`HostTrust`]; the same again changes nothing) and `GET /losses` ([`FlowLossQuery`] to a list,
//! oldest first). Without an account it is all accounts' losses: for operators, as the controller decides.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::Query,
    http::StatusCode,
    routing::{get, put},
};
use lucarne_model::{FlowLoss, FlowLossQuery, HostTrust};

use super::{Refusal, Service};
use crate::{admission::Admission, losses::Losses};

/// What the two routes need.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    pub(crate) admission: Arc<Admission>,
    pub(crate) losses: Losses,
}

impl Hosts {
    pub(crate) fn routes(self) -> Router<Service> {
        let Self { admission, losses } = self;
        let trust = async move |trust: Json<HostTrust>| put_host_trust(admission, trust.0).await;
        let find = async move |query: Query<FlowLossQuery>| find_losses(losses, query.0).await;
        Router::new().route("/host-trust", put(trust)).route("/losses", get(find))
    }
}

async fn put_host_trust(admission: Arc<Admission>, trust: HostTrust) -> Result<StatusCode, Refusal> {
    let trusted = tokio::task::spawn_blocking(move || admission.trust(trust)).await;
    match trusted {
        Ok(Ok(())) => Ok(StatusCode::OK),
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, error.to_string())),
        Err(_) => Err((StatusCode::SERVICE_UNAVAILABLE, "the collector ends".to_owned())),
    }
}

async fn find_losses(losses: Losses, query: FlowLossQuery) -> Result<Json<Vec<FlowLoss>>, Refusal> {
    let found = tokio::task::spawn_blocking(move || losses.find(&query)).await;
    found.map(Json).map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "the collector ends".to_owned()))
}
