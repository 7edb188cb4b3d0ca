//! Events in the store: noted in the transaction of what they tell, kept for a while, never changed.
//!
//! Owns their SQL, their order, and how many are kept. Who is shown which is decided in
//! [`crate::services::events`].

use lucarne_api::{Problem, bodies::event::EventsQuery};
use lucarne_model::{AccountId, Event, Moment};

use super::{Tx, tx};

/// How many of an account are kept: the newest.
const KEPT: i64 = 1000;

/// Where an event stands in the list of all.
pub(crate) type Place = (Moment, AccountId);

impl Tx<'_> {
    /// Notes an event, to be seen when this transaction is committed. It gets a later time if its account has one of the same.
    pub(crate) fn note_event(&mut self, mut event: Event) -> Result<(), Problem> {
        let account = event.account.to_string();
        let newest = "SELECT at FROM event WHERE account = $1 ORDER BY at DESC LIMIT 1";
        let newest: Option<i64> = self.row(newest, [&account], |row| row.get(0))?;
        let at = newest.map_or(i64::MIN, |newest| newest + 1).max(event.at.as_micros() as i64);
        event.at = Moment(at as u64);
        let sql = "INSERT INTO event (account, at, kind, resource, body) VALUES ($1, $2, $3, $4, $5)";
        let body = serde_json::to_string(&event).map_err(|error| tx::unreadable("event", &error))?;
        self.execute(sql, (&account, at, event.kind.name(), &event.resource, body))?;
        let oldest = "DELETE FROM event WHERE account = $1 AND at <= \
                      (SELECT at FROM event WHERE account = $1 ORDER BY at DESC LIMIT 1 OFFSET $2)";
        self.execute(oldest, (account, KEPT)).map(|_| ())
    }

    /// Events that `query` asks for, newest first, from behind a place of the list on; at most `limit`.
    pub(crate) fn events(
        &self,
        query: &EventsQuery,
        behind: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Event>, Problem> {
        let sql = "SELECT body FROM event WHERE ($1 = '' OR account = $1) AND ($2 = '' OR kind = $2) \
                   AND ($3 = '' OR resource = $3) AND at >= $4 AND (at, account) < ($5, $6) \
                   ORDER BY at DESC, account DESC LIMIT $7";
        let EventsQuery { account, kind, resource, since, .. } = query;
        let account = account.map(|account| account.to_string()).unwrap_or_default();
        let kind = kind.map_or("", |kind| kind.name());
        let since = since.map_or(i64::MIN, |since| since.as_micros() as i64);
        let (at, of) = behind.map_or((i64::MAX, String::new()), |(at, of)| (at.as_micros() as i64, of.to_string()));
        let parameters = (account, kind, resource.as_deref().unwrap_or_default(), since, at, of, limit as i64);
        let mut statement = self.connection.prepare_cached(sql).map_err(tx::unavailable)?;
        let bodies = statement.query_map(parameters, |row| row.get::<_, String>(0)).map_err(tx::unavailable)?;
        bodies.map(|body| read(&body.map_err(tx::unavailable)?)).collect()
    }

    pub(crate) fn forget_events_before(&mut self, moment: Moment) -> Result<(), Problem> {
        self.execute("DELETE FROM event WHERE at < $1", [moment.as_micros() as i64]).map(|_| ())
    }

    pub(crate) fn forget_events_of(&mut self, account: AccountId) -> Result<(), Problem> {
        self.execute("DELETE FROM event WHERE account = $1", [account.to_string()]).map(|_| ())
    }
}

fn read(body: &str) -> Result<Event, Problem> {
    serde_json::from_str(body).map_err(|error| tx::unreadable("event", &error))
}

#[cfg(test)]
mod tests {
    use lucarne_model::EventKind;

    use super::*;
    use crate::store::Store;

    fn event(account: u64, kind: EventKind, message: usize) -> Event {
        let (at, account) = (Moment::from_secs(7), AccountId::from_bits(account));
        Event { at, account, kind, resource: "i-1".into(), code: None, message: message.to_string() }
    }

    /// More of the same instant than are kept, of one account; the other's stay.
    #[tokio::test]
    async fn the_newest_events_of_each_account_are_kept_in_their_order_and_pages_have_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let most = KEPT as usize;
        let note = move |tx: &mut Tx<'_>| {
            tx.note_event(event(2, EventKind::HostBack, 0))?;
            (0..most + 5).try_for_each(|message| tx.note_event(event(1, EventKind::HostLost, message)))
        };
        store.write(note).await.unwrap();
        let look = move |tx: &Tx<'_>| {
            let of_one = EventsQuery { account: Some(AccountId::from_bits(1)), ..EventsQuery::default() };
            let (mut seen, mut behind) = (Vec::new(), None);
            loop {
                let page = tx.events(&of_one, behind, 300)?;
                let Some(last) = page.last() else { break };
                behind = Some((last.at, last.account));
                seen.extend(page.into_iter().map(|event| event.message));
            }
            assert_eq!(seen, (5..most + 5).rev().map(|message| message.to_string()).collect::<Vec<_>>());
            let all = tx.events(&EventsQuery::default(), None, 2 * most)?;
            assert_eq!(all.len(), most + 1);
            let back = EventsQuery { kind: Some(EventKind::HostBack), ..EventsQuery::default() };
            assert_eq!(tx.events(&back, None, 10)?, [event(2, EventKind::HostBack, 0)]);
            let other = EventsQuery { resource: Some("i-2".into()), ..EventsQuery::default() };
            assert_eq!(tx.events(&other, None, 10)?, []);
            let later = EventsQuery { since: Some(Moment::from_secs(8)), ..EventsQuery::default() };
            assert_eq!(tx.events(&later, None, 10)?, []);
            Ok(())
        };
        store.read(look).await.unwrap();
    }
}
