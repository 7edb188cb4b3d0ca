//! Losses of flow records: what hosts made and could not keep.
//!
//! Owns who is shown what, and the order of the list. Counting and keeping losses is the hosts' and the collector's work.

use std::cmp::Reverse;

use lucarne_api::{
    Call, Problem,
    bodies::{
        Page,
        finding::{LossesQuery, ShownLoss},
    },
    input::{Json, Nothing},
};
use lucarne_model::{FlowLoss, FlowLossQuery};

use super::{checks::refuse, findings::whose, flows::problem};
use crate::{
    Caller, Controller,
    store::{page_limit, read_token, write_token},
};

const KIND: &str = "loss";

pub(crate) async fn list_losses(
    controller: &Controller,
    call: Call<Caller, (), LossesQuery, Nothing>,
) -> Result<Json<Page<ShownLoss>>, Problem> {
    let LossesQuery { account, since, until, limit, page_token } = call.query;
    let limit = page_limit(limit)?;
    if since.zip(until).is_some_and(|(since, until)| until <= since) {
        return Err(refuse("`until` is not after `since`"));
    }
    let behind = page_token.map(|token| read_token(&token, KIND)).transpose()?;
    let question = FlowLossQuery { account: whose(&call.caller, account)?, since, until };
    let losses = controller.collector.losses(&question).await.map_err(problem)?;
    let page = page(losses, limit, behind);
    let items = page.items.into_iter().map(|loss| shown(&call.caller, loss)).collect();
    Ok(Json(Page { items, next: page.next }))
}

fn shown(caller: &Caller, loss: FlowLoss) -> ShownLoss {
    let FlowLoss { account, host, since, until, records, cause } = loss;
    ShownLoss { account, host: caller.operator.then_some(host), since, until, records, cause }
}

/// Where a loss stands in the list.
fn place(loss: &FlowLoss) -> (i64, String) {
    let FlowLoss { account, host, since, until, cause, .. } = loss;
    (until.as_micros() as i64, format!("{:016x} {account} {host} {}", since.as_micros(), cause.code()))
}

/// The newest that stand behind the place.
fn page(mut losses: Vec<FlowLoss>, limit: usize, behind: Option<(i64, String)>) -> Page<FlowLoss> {
    losses.retain(|loss| behind.as_ref().is_none_or(|behind| place(loss) < *behind));
    losses.sort_by_cached_key(|loss| Reverse(place(loss)));
    let is_last = losses.len() <= limit;
    losses.truncate(limit);
    let end = losses.last().filter(|_| !is_last).map(place);
    Page { items: losses, next: end.map(|(until, rest)| write_token(KIND, until, rest)) }
}

#[cfg(test)]
mod tests {
    use lucarne_model::{AccountId, HostId, LossCause, Moment};

    use super::*;

    fn loss(number: u64) -> FlowLoss {
        FlowLoss {
            account: AccountId::from_bits(number),
            host: HostId::from_bits(1),
            since: Moment::from_secs(number / 2),
            until: Moment::from_secs(10 + number / 2),
            records: number,
            cause: LossCause::SpoolFull,
        }
    }

    #[test]
    fn pages_have_every_loss_once_newest_first_also_when_one_comes_between_them() {
        let (mut losses, mut seen, mut behind): (Vec<FlowLoss>, _, _) = ((0..7).map(loss).collect(), Vec::new(), None);
        loop {
            let page = page(losses.clone(), 2, behind);
            seen.extend(page.items.iter().map(|loss| loss.records));
            losses.push(loss(100 + losses.len() as u64));
            let Some(next) = page.next else { break };
            behind = Some(read_token(&next, KIND).unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(super::page((0..7).map(loss).collect(), 1, None).items[0].until, Moment::from_secs(13));
    }
}
