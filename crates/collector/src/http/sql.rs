//! `POST /v1/sql`: a [`SqlQuestion`] to its answer, or to a [`SqlRefusal`]. `GET /v1/sql/columns`: what can be asked for.

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use lucarne_model::AccountId;
use serde::Deserialize;

use super::Service;
use crate::sql::{Answer, SqlColumn, SqlError, SqlQuestion, SqlRefusal};

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
    let status = match error {
        SqlError::Busy => StatusCode::TOO_MANY_REQUESTS,
        _ if error.is_callers() => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(SqlRefusal::from(error))).into_response()
}

/// Whose columns; nothing means the operator's.
#[derive(Deserialize)]
pub(super) struct Whose {
    account: Option<AccountId>,
}

pub(super) async fn columns(State(service): State<Service>, Query(whose): Query<Whose>) -> Json<Vec<SqlColumn>> {
    Json(service.0.sql.columns(whose.account))
}
