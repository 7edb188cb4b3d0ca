//! Receipts and the files that they speak of, of the caller's own account, operators' too.
//!
//! Owns how the collector's answer is shown. What a chain proves is stated in [`lucarne_flows::receipts`].

use axum::body::Body;
use lucarne_api::{
    Call, Problem,
    answer::Download,
    bodies::receipt::{PartQuery, Receipt, ReceiptedPart, Receipts, ReceiptsQuery},
    input::{Json, Nothing},
};
use lucarne_flows::receipts::SignedReceipt;
use lucarne_model::ErrorCode;

use super::flows::problem;
use crate::{Caller, Controller};

pub(crate) async fn list_receipts(
    controller: &Controller,
    call: Call<Caller, (), ReceiptsQuery, Nothing>,
) -> Result<Json<Receipts>, Problem> {
    let from = call.query.from.unwrap_or(0);
    let page = controller.collector.receipts(call.caller.account, from).await.map_err(problem)?;
    let receipts = page.receipts.into_iter().map(shown).collect();
    Ok(Json(Receipts { key: page.key.to_string(), receipts, next: page.next }))
}

fn shown(SignedReceipt { receipt, signature }: SignedReceipt) -> Receipt {
    let part = receipt.part;
    let sha256 = part.sha256.to_string();
    Receipt {
        account: receipt.account,
        number: receipt.number,
        previous: receipt.previous.to_string(),
        issued: receipt.issued,
        part: ReceiptedPart { name: part.name, size: part.size, sha256, minutes: part.minutes },
        replaces: receipt.replaces,
        signature: signature.to_string(),
    }
}

pub(crate) async fn download_part(
    controller: &Controller,
    call: Call<Caller, (), PartQuery, Nothing>,
) -> Result<Download, Problem> {
    let part = controller.collector.part(call.caller.account, &call.query.name).await.map_err(problem)?;
    let missing = || {
        let detail = "the account has no such part, or it was merged into another, which a later receipt names";
        Problem::new(ErrorCode::InvalidPartNotFound, detail)
    };
    part.map(|octets| Download(Body::from_stream(octets))).ok_or_else(missing)
}
