//! The query service: questions in JSON over HTTP, for the controller.
//!
//! Owns the routes and the token: `POST /flows/list` ([`FlowQuery`] to a page), `POST /flows/watch` ([`FlowWatch`] to lines
//! of JSON without end), `GET /health`; [`sql`], [`receipts`], [`hosts`], [`outward`] and [`findings`] have
//! theirs. A refusal is a status and one line
//! of text.
//! Which tenant may ask what is decided by the controller, the only one who has the token.

pub(crate) mod findings;
pub(crate) mod hosts;
pub(crate) mod outward;
mod receipts;
mod sql;

use std::{convert::Infallible, io, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lucarne_model::{FlowPage, FlowQuery, FlowWatch};
use subtle::ConstantTimeEq as _;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Gauges, Health},
    query::Store,
    receipts::Receipts,
    sql::FlowStore,
    watch::Watchers,
};

/// Questions that are answered at once; others wait. Each holds a few pages of records.
const QUESTIONS: usize = 4;
/// Octets of a question.
const LARGEST: usize = 16 * 1024;

/// What the routes need.
#[derive(Clone)]
pub(crate) struct Service(Arc<Parts>);

struct Parts {
    /// The whole header, `Bearer` and the token.
    authorization: String,
    store: Store,
    sql: Arc<dyn FlowStore>,
    receipts: Arc<Receipts>,
    questions: Semaphore,
    watchers: Arc<Watchers>,
    health: Arc<Gauges>,
}

impl Service {
    pub(crate) fn new(
        token: &str,
        store: Store,
        sql: Arc<dyn FlowStore>,
        receipts: Arc<Receipts>,
        watchers: Arc<Watchers>,
        health: Arc<Gauges>,
    ) -> Self {
        let (authorization, questions) = (format!("Bearer {token}"), Semaphore::new(QUESTIONS));
        Self(Arc::new(Parts { authorization, store, sql, receipts, questions, watchers, health }))
    }
}

/// Answers until `shutdown`. Watches end then; other answers are finished.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Service,
    more: Router<Service>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let stop = shutdown.clone();
    let watch = move |state, body| watch_flows(state, body, stop.clone());
    let router = Router::new()
        .route("/flows/list", post(list_flows))
        .route("/flows/watch", post(watch))
        .route("/health", get(health))
        .route("/v1/sql", post(sql::ask))
        .route("/v1/sql/progress", get(sql::progress))
        .route("/v1/sql/tables", get(sql::tables))
        .route("/v1/receipts", get(receipts::list))
        .route("/v1/parts", get(receipts::part))
        .merge(more)
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(middleware::from_fn_with_state(service.clone(), authenticate))
        .with_state(service);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

type Refusal = (StatusCode, String);

async fn authenticate(State(service): State<Service>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    if bool::from(given.ct_eq(service.0.authorization.as_bytes())) {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "the request does not carry the query token").into_response()
    }
}

async fn list_flows(State(service): State<Service>, Json(query): Json<FlowQuery>) -> Result<Json<FlowPage>, Refusal> {
    let stopping = |_| (StatusCode::SERVICE_UNAVAILABLE, "the collector ends".to_owned());
    let _permit = service.0.questions.acquire().await.map_err(stopping)?;
    let store = service.0.store.clone();
    let answer = tokio::task::spawn_blocking(move || store.list(&query)).await;
    let answer = answer.map_err(|error| {
        tracing::error!(%error, "a question could not be answered");
        (StatusCode::INTERNAL_SERVER_ERROR, "the question could not be answered".to_owned())
    })?;
    answer.map(Json).map_err(|bad| (StatusCode::BAD_REQUEST, bad.to_string()))
}

async fn watch_flows(
    State(service): State<Service>,
    Json(watch): Json<FlowWatch>,
    shutdown: CancellationToken,
) -> Result<Response, Refusal> {
    let lines = service.0.watchers.add(watch).map_err(|many| (StatusCode::SERVICE_UNAVAILABLE, many.to_string()))?;
    let lines = futures::stream::unfold((lines, shutdown), |(mut lines, shutdown)| async move {
        let line = tokio::select! {
            () = shutdown.cancelled() => None,
            line = lines.recv() => line,
        };
        line.map(|line| (Ok::<_, Infallible>(line), (lines, shutdown)))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn health(State(service): State<Service>) -> Json<Health> {
    Json(service.0.health.health(service.0.store.unsealed()))
}
