//! What the controller says of itself: that it answers, and its documentation. Owns nothing.

use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use lucarne_api::{
    Call, Problem,
    answer::{Done, Download},
    bodies::NoQuery,
    input::Nothing,
};

use crate::{Caller, Controller};

pub(crate) async fn health(controller: &Controller, _: Call<Caller, (), NoQuery, Nothing>) -> Result<Done, Problem> {
    // It answers when its store does.
    controller.store.read(|_| Ok(())).await.map(|()| Done)
}

pub(crate) async fn get_openapi(_: &Controller, _: Call<Caller, (), NoQuery, Nothing>) -> Result<Download, Problem> {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| lucarne_api::openapi_json().into());
    Ok(Download(Body::from(DOCUMENT.clone())))
}
