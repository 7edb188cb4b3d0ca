//! Usage: charged by the clock from what hosts tell, and shown with what it costs.
//!
//! Owns whose usage a caller may see. Prices are [`lucarne_memory::price`]'s, the file [`crate::usage`]'s.

use std::collections::BTreeMap;

use lucarne_api::{
    Call, Problem,
    bodies::usage::{InstanceUsage, OtherMode, PricedMode, ShownUsage, UsageLine, UsageQuery},
    input::{Json, Nothing},
};
use lucarne_memory::{
    price::{Bill, Item, Line, PriceBooks},
    usage::{Mode, Usage},
};
use lucarne_model::{AccountId, ErrorCode, InstanceId, Moment, price::Prices};

use super::{memory, price_books};
use crate::{
    Caller, Controller,
    clock::now,
    records::{InstanceRecord, JobRecord},
    store::{Scope, Tx},
    usage::{Move, Reading, Used},
};

/// Charges all instances of which hosts have told anything new, and all moves.
pub(crate) async fn meter(controller: &Controller) -> Result<(), Problem> {
    let fleet = controller.fleet.clone();
    let read = move |tx: &Tx<'_>| {
        let placed = tx.list::<InstanceRecord>(Scope::Everything)?;
        let reading = |record: InstanceRecord| {
            let instance = record.instance;
            let host = instance.host?;
            let memory = fleet.memory_of(host, instance.id)?;
            let keeping = memory::keeping(&instance.memory_settings, instance.memory).ok()?;
            Some(Reading { host, account: instance.account, mode: Mode::of(&keeping), memory })
        };
        let readings: Vec<Reading> = placed.into_iter().filter_map(reading).collect();
        Ok((readings, tx.with_all(|jobs| jobs.into_iter().filter_map(moved).collect::<Vec<_>>())?))
    };
    let (readings, moves) = controller.store.read(read).await?;
    let ledger = controller.usage.clone();
    let charged = tokio::task::spawn_blocking(move || ledger.charge(&readings, &moves)).await;
    charged.map_err(std::io::Error::other).and_then(|charged| charged).map_err(|error| unavailable(&error))
}

fn moved(JobRecord { job, .. }: &JobRecord) -> Option<Move> {
    Some(Move { account: job.account, instance: job.instance?, moved: job.moved? })
}

fn unavailable(error: &std::io::Error) -> Problem {
    Problem::new(ErrorCode::StoreUnavailable, format!("the ledger of usage: {error}"))
}

pub(crate) async fn get_usage(
    controller: &Controller,
    call: Call<Caller, (), UsageQuery, Nothing>,
) -> Result<Json<ShownUsage>, Problem> {
    let (caller, UsageQuery { account, since }) = (call.caller, call.query);
    let account = account.unwrap_or(caller.account);
    if account != caller.account && !caller.operator {
        let detail = "only operators see what other accounts use";
        return Err(Problem::new(ErrorCode::UnauthorizedOperation, detail));
    }
    let books = controller.store.read(price_books::books).await?;
    let (ledger, changes) = (controller.usage.clone(), books.changes(account));
    let used = tokio::task::spawn_blocking(move || ledger.usage(account, since, &changes)).await;
    let used = used.map_err(std::io::Error::other).and_then(|used| used).map_err(|error| unavailable(&error))?;
    Ok(Json(shown(account, &books, &used)))
}

fn shown(account: AccountId, books: &PriceBooks, used: &BTreeMap<Moment, Used>) -> ShownUsage {
    let mut all: Vec<(&Prices, Usage)> = Vec::new();
    let mut of_instances: BTreeMap<InstanceId, Vec<(&Prices, &Usage)>> = BTreeMap::new();
    for (begin, used) in used {
        let prices = books.at(account, *begin);
        let mut sum = Usage::default();
        for (instance, usage) in used {
            sum.merge(usage);
            of_instances.entry(*instance).or_default().push((prices, usage));
        }
        all.push((prices, sum));
    }
    let Bill { lines, total, otherwise } = Bill::of(all.iter().map(|(prices, usage)| (*prices, usage)));
    let instance = |(instance, used): (InstanceId, Vec<(&Prices, &Usage)>)| {
        let bill = Bill::of(used);
        let held = bill.lines.iter().filter(|line| matches!(line.item, Item::Held(..)) && line.amount > 0);
        let page_millis: u128 = held.map(|line| line.quantity).sum();
        InstanceUsage { instance, page_seconds: small(page_millis / 1000), micros: small(bill.total) }
    };
    ShownUsage {
        account,
        currency: books.at(account, now()).currency.clone(),
        lines: lines.iter().map(line).collect(),
        total_micros: small(total),
        otherwise: otherwise.into_iter().map(|(of, cost)| OtherMode { mode: mode(of), micros: small(cost) }).collect(),
        instances: of_instances.into_iter().map(instance).collect(),
    }
}

fn line(line: &Line) -> UsageLine {
    let (quantity, micros) = (line.quantity, small(line.amount));
    match line.item {
        Item::Held(of, place) => {
            UsageLine::Held { mode: mode(of), place, page_seconds: small(quantity / 1000), micros }
        }
        Item::Conversions => UsageLine::Conversions { count: small(quantity), micros },
        Item::PagesMoved => UsageLine::PagesMoved { count: small(quantity), micros },
    }
}

const fn mode(mode: Mode) -> PricedMode {
    match mode {
        Mode::Pinned => PricedMode::Pinned,
        Mode::Generic => PricedMode::Generic,
        Mode::Soaker => PricedMode::Soaker,
    }
}

/// As JSON's readers can take it; a terabyte for a century of seconds fits.
fn small(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
