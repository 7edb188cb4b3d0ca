//! Events: what happened to whom, told to the account that it concerns.
//!
//! Owns who is shown what: tenants what concerns them alone, operators everything. Those who notice a thing note it in the
//! transaction in which they write it down ([`Tx::note_event`](crate::store::Tx::note_event)).

use lucarne_api::{
    Call, Problem,
    bodies::{Page, event::EventsQuery},
    input::{Json, Nothing},
};
use lucarne_model::{ErrorCode, Event, Moment};

use super::findings::whose;
use crate::{
    Caller, Controller,
    store::{Place, page_limit, read_token, write_token},
};

const KIND: &str = "event";

pub(crate) async fn list_events(
    controller: &Controller,
    call: Call<Caller, (), EventsQuery, Nothing>,
) -> Result<Json<Page<Event>>, Problem> {
    let limit = page_limit(call.query.limit)?;
    let behind = call.query.page_token.as_deref().map(behind).transpose()?;
    let query = EventsQuery { account: whose(&call.caller, call.query.account)?, ..call.query };
    // One more tells whether there is a next page.
    let mut found = controller.store.read(move |tx| tx.events(&query, behind, limit + 1)).await?;
    let is_last = found.len() <= limit;
    found.truncate(limit);
    let next = found.last().filter(|_| !is_last);
    let next = next.map(|last| write_token(KIND, last.at.as_micros() as i64, last.account.to_string()));
    Ok(Json(Page { items: found, next }))
}

fn behind(token: &str) -> Result<Place, Problem> {
    let (at, account) = read_token(token, KIND)?;
    let place = u64::try_from(at).ok().map(Moment).zip(account.parse().ok());
    place.ok_or_else(|| Problem::new(ErrorCode::InvalidPageToken, "the page token names no event"))
}
