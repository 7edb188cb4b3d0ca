//! Price books: made and ended by operators, and never changed, so that what was used keeps its price.
//!
//! Owns which book follows which, and who sees one: a tenant its own and the usual ones. What a book makes of usage is said
//! in `lucarne_memory::price`.

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{ListQuery, NoQuery, Page, price_book::CreatePriceBook},
    input::{Json, Nothing},
};
use lucarne_memory::price::PriceBooks;
use lucarne_model::{
    AccountId, ErrorCode, Moment, PriceBookId,
    identity::Account,
    price::{PriceBook, Prices},
};

use super::checks::{check_name, refuse};
use crate::{
    Caller, Controller, random,
    records::HostRecord,
    store::{Scope, Tx},
};

pub(crate) async fn create_price_book(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreatePriceBook>>,
) -> Result<Created<PriceBook>, Problem> {
    let request = call.body.0.clone();
    controller.change(&call, move |tx| create(tx, request)).await.map(Created)
}

fn create(tx: &mut Tx<'_>, CreatePriceBook { account, prices }: CreatePriceBook) -> Result<PriceBook, Problem> {
    check_name(&prices.currency)?;
    if let Some(account) = account {
        tx.get::<Account>(Scope::Everything, account)?;
    }
    let books = tx.list::<PriceBook>(Scope::Everything)?;
    let currency = books.first().map(|book| &book.prices.currency);
    if let Some(currency) = currency.filter(|currency| **currency != prices.currency) {
        return Err(refuse(format!("the currency is {}, and that of all other books is {currency}", prices.currency)));
    }
    // A book of another currency than the built-in prices must hold for all that was used.
    let is_first_of_all = books.is_empty() && account.is_none();
    if books.is_empty() && account.is_some() && prices.currency != Prices::default().currency {
        return Err(refuse("the first book of a currency is the one for all accounts; make that one first"));
    }
    let since = if is_first_of_all { Moment::EPOCH } else { tx.now() };
    for before in books.into_iter().filter(|book| book.account == account && book.until.is_none()) {
        tx.put(&PriceBook { until: Some(since), ..before })?;
    }
    let book = PriceBook { id: random::id(), account, prices, since, until: None };
    tx.insert(&book)?;
    tell_hosts(tx)?;
    Ok(book)
}

/// Hosts keep memory as the books say.
fn tell_hosts(tx: &mut Tx<'_>) -> Result<(), Problem> {
    tx.list::<HostRecord>(Scope::Everything)?.into_iter().for_each(|record| tx.touch(record.host.id));
    Ok(())
}

/// All books that there are and were.
pub(crate) fn books(tx: &Tx<'_>) -> Result<PriceBooks, Problem> {
    tx.list::<PriceBook>(Scope::Everything).map(PriceBooks::new)
}

/// The prices that hold for an account now.
pub(crate) fn prices(tx: &Tx<'_>, account: AccountId) -> Result<Prices, Problem> {
    Ok(books(tx)?.at(account, tx.now()).clone())
}

pub(crate) async fn list_price_books(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<PriceBook>>, Problem> {
    let (scope, query) = (call.caller.visible(), call.query);
    controller.store.read(move |tx| tx.page(scope, &query)).await.map(Json)
}

pub(crate) async fn get_price_book(
    controller: &Controller,
    call: Call<Caller, (PriceBookId,), NoQuery, Nothing>,
) -> Result<Json<PriceBook>, Problem> {
    let (scope, id) = (call.caller.visible(), call.path.0);
    controller.store.read(move |tx| tx.get(scope, id)).await.map(Json)
}

pub(crate) async fn end_price_book(
    controller: &Controller,
    call: Call<Caller, (PriceBookId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (scope, id) = (call.caller.scope(), call.path.0);
    controller.change(&call, move |tx| end(tx, scope, id)).await.map(|()| Done)
}

fn end(tx: &mut Tx<'_>, scope: Scope, id: PriceBookId) -> Result<(), Problem> {
    let book: PriceBook = tx.get(scope, id)?;
    if book.until.is_some() {
        let detail = format!("{id} has ended; what was used until then keeps its prices");
        return Err(Problem::new(ErrorCode::IncorrectState, detail));
    }
    if book.account.is_none() && book.prices.currency != Prices::default().currency {
        return Err(refuse("without it prices would be in another currency; make the book that follows it instead"));
    }
    tx.put(&PriceBook { until: Some(tx.now()), ..book })?;
    tell_hosts(tx)
}
