//! `POST /v1/sql`: a [`SqlQuestion`] to its answer, or to a [`SqlRefusal`]; who goes away is not worked for any longer.
//! `GET /v1/sql/progress`: how far a question is. `GET /v1/sql/tables`: what can be asked for.

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use lucarne_model::{
    AccountId,
    flow_sql::{SqlProgress, SqlQuestion, SqlRefusal, SqlTable},
};
use serde::Deserialize;

use super::{Refusal, Service};
use crate::sql::{Answer, SqlError};

const TRUNCATED: HeaderName = HeaderName::from_static("lucarne-truncated");

pub(super) async fn ask(State(service): State<Service>, Json(question): Json<SqlQuestion>) -> Response {
    match service.0.sql.ask(&question).await {
        Ok(Answer::Json(answer)) => Json(answer).into_response(),
        Ok(Answer::Arrow { octets, truncated }) => {
            let kind = (header::CONTENT_TYPE, "application/vnd.apache.arrow.stream".to_owned());
            ([kind, (TRUNCATED, truncated.to_string())], octets).into_response()
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &SqlError) -> Response {
    if let SqlError::Store(cause) = error {
        tracing::error!(%cause, "a question in SQL could not be answered");
    }
    let refusal = SqlRefusal::from(error);
    let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(refusal)).into_response()
}

/// Which question.
#[derive(Deserialize)]
pub(super) struct Which {
    name: String,
}

pub(super) async fn progress(
    State(service): State<Service>,
    Query(which): Query<Which>,
) -> Result<Json<SqlProgress>, Refusal> {
    let progress = service.0.sql.progress(&which.name);
    progress.map(Json).ok_or((StatusCode::NOT_FOUND, "no such question is being worked on".to_owned()))
}

/// Whose tables; nothing means the operator's.
#[derive(Deserialize)]
pub(super) struct Whose {
    account: Option<AccountId>,
}

pub(super) async fn tables(State(service): State<Service>, Query(whose): Query<Whose>) -> Json<Vec<SqlTable>> {
    Json(service.0.sql.tables(whose.account))
}
