//! What leaves the collector for places of tenants. `PUT /deliveries`: the flow logs to deliver, all of them.
//! `POST /deliveries/list`: how far each is. `POST /flows/export`: a network's flows as a file.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{post, put},
};
use lucarne_model::{
    FlowLogId, Moment,
    flow_log::{Delivery, DeliveryOrder, ExportQuestion},
};

use super::Refusal;
use crate::{catalog::Catalog, delivery::Deliveries, export};

/// Octets of all flow logs together: some 30,000 of them.
const LARGEST: usize = 32 << 20;

/// What the routes need.
#[derive(Clone, Debug)]
pub(crate) struct Outward {
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) catalog: Arc<Catalog>,
}

impl Outward {
    pub(crate) fn routes<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        Router::new()
            .route("/deliveries", put(set).layer(DefaultBodyLimit::max(LARGEST)))
            .route("/deliveries/list", post(list))
            .route("/flows/export", post(make_file))
            .with_state(self)
    }
}

fn failed(what: &'static str, error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error, "{what}");
    (StatusCode::SERVICE_UNAVAILABLE, what.to_owned())
}

async fn set(State(outward): State<Outward>, Json(orders): Json<Vec<DeliveryOrder>>) -> Result<(), Refusal> {
    const WHAT: &str = "the flow logs cannot be kept";
    let set = tokio::task::spawn_blocking(move || outward.deliveries.set(orders)).await;
    set.map_err(|error| failed(WHAT, &error))?.map_err(|error| failed(WHAT, &error))
}

async fn list(State(outward): State<Outward>) -> Json<BTreeMap<FlowLogId, Delivery>> {
    Json(outward.deliveries.list())
}

async fn make_file(State(outward): State<Outward>, Json(question): Json<ExportQuestion>) -> Result<Vec<u8>, Refusal> {
    const WHAT: &str = "the file cannot be made";
    let now = Moment::EPOCH.plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let file = tokio::task::spawn_blocking(move || export::file(&outward.catalog, &question, now)).await;
    file.map_err(|error| failed(WHAT, &error))?.map_err(|error| match error.is_callers() {
        true => (StatusCode::BAD_REQUEST, error.to_string()),
        false => failed(WHAT, &error),
    })
}
