//! `GET /v1/receipts`: an account's chain, a [`ReceiptPage`] at a time. `GET /v1/parts`: the file of one of its parts.
//!
//! Owns that a file is given only where the catalog knows it as a part of the account that is asked for: names are looked
//! up, never opened.

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use lucarne_model::AccountId;
use serde::Deserialize;
use tokio_util::io::ReaderStream;

use super::{Refusal, Service};
use crate::{
    part::Half,
    receipts::{ReceiptPage, ReceiptsError},
};

#[derive(Deserialize)]
pub(super) struct Stretch {
    account: AccountId,
    /// The number of the first receipt that is wanted.
    #[serde(default)]
    since: u64,
}

pub(super) async fn list(
    State(service): State<Service>,
    Query(stretch): Query<Stretch>,
) -> Result<Json<ReceiptPage>, Refusal> {
    let receipts = service.0.receipts.clone();
    let page = tokio::task::spawn_blocking(move || receipts.page(stretch.account, stretch.since)).await;
    let page: Result<ReceiptPage, ReceiptsError> = page.map_err(unreadable)?;
    page.map(Json).map_err(unreadable)
}

fn unreadable(error: impl std::error::Error + 'static) -> Refusal {
    tracing::error!(error = &error as &dyn std::error::Error, "receipts cannot be read");
    (StatusCode::SERVICE_UNAVAILABLE, "the receipts cannot be read".to_owned())
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    account: AccountId,
    /// As a receipt says it.
    name: String,
}

pub(super) async fn part(
    State(service): State<Service>,
    Query(Wanted { account, name }): Query<Wanted>,
) -> Result<Response, Refusal> {
    let gone = || (StatusCode::NOT_FOUND, "the account has no such part, or it was merged into another".to_owned());
    let part = service.0.store.part(account, &name).ok_or_else(gone)?;
    let opened = part.clone();
    let file = tokio::task::spawn_blocking(move || opened.open(Half::Shown)).await.map_err(unreadable)?;
    let file = file.map(tokio::fs::File::from_std).map_err(|error| {
        tracing::error!(path = %part.path.display(), %error, "a part cannot be read");
        // Whoever asks is to be told that it is gone, whether it was merged just now or somebody took it away.
        let is_gone = error.kind() == std::io::ErrorKind::NotFound;
        if is_gone { gone() } else { (StatusCode::SERVICE_UNAVAILABLE, "the part cannot be read".to_owned()) }
    })?;
    // An open file can be read to its end, even when the part is merged and removed meanwhile.
    let headers = [
        (header::CONTENT_TYPE, "application/vnd.apache.parquet".to_owned()),
        (header::CONTENT_LENGTH, part.size.to_string()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}
