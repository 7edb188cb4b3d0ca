//! Questions to the collector.
//!
//! Owns how the collector is found (its connection file, read again when it does not answer as last known) and that every
//! question names the account it is asked for. Which account a caller may ask for is decided before.

mod watched;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use futures::{Stream, TryStreamExt as _};
use lucarne_collector::{Connection, ConnectionError};
use lucarne_model::{
    AccountId, FlowFilter, FlowLogId, FlowPage, FlowQuery, FlowWatch, HostTrust,
    flow_log::{Delivery, DeliveryOrder, ExportQuestion},
    flow_sql::{SqlAnswer, SqlProgress, SqlQuestion, SqlRefusal, SqlTable},
};
use reqwest::{Client, Method, Response, StatusCode};
use serde::Serialize;

/// For a whole page, which may take a scan of many files, or until a watch begins.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Characters of a refusal that are read: a question in SQL may be quoted in it.
const LONGEST_DETAIL: usize = 2000;

/// Why the collector gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectorError {
    #[error("the collector's address is not known")]
    Connection(#[source] ConnectionError),
    #[error("the collector does not answer")]
    NoAnswer(#[source] reqwest::Error),
    #[error("the collector did not answer within {} s", ANSWER_TIME.as_secs())]
    Late,
    #[error("the collector's token is not the one in its connection file")]
    Token,
    /// The caller's fault, in the collector's words: the cursor is not one of a page.
    #[error("{0}")]
    Question(String),
    /// Why a question in SQL was not answered, in words for whoever asked.
    #[error("{}", .0.message)]
    Sql(SqlRefusal),
    #[error("the collector refused with status {status}: {detail}")]
    Refused { status: StatusCode, detail: String },
}

impl CollectorError {
    /// Takes the refusal of a question in SQL out of what came with a status.
    fn of_sql(self) -> Self {
        let (Self::Question(detail) | Self::Refused { detail, .. }) = &self else { return self };
        serde_json::from_str(detail).map_or(self, Self::Sql)
    }
}

/// A collector, as its connection file describes it.
#[derive(Debug)]
pub(crate) struct CollectorClient {
    connection_file: PathBuf,
    http: Client,
    known: Mutex<Option<Connection>>,
}

impl CollectorClient {
    /// A collector that may not run yet; nothing is read or connected before the first question.
    pub(crate) fn new(connection_file: PathBuf) -> Self {
        Self { connection_file, http: Client::new(), known: Mutex::new(None) }
    }

    /// How the collector is reached now, read anew: for hosts, which are told where to send their records.
    pub(crate) async fn connection(&self) -> Result<Connection, CollectorError> {
        let path = self.connection_file.clone();
        let read = tokio::task::spawn_blocking(move || Connection::read(&path)).await;
        let read = read.map_err(|stopped| ConnectionError::Read {
            path: self.connection_file.clone(),
            source: std::io::Error::other(stopped),
        });
        let connection = read.flatten().map_err(CollectorError::Connection)?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    /// A page of the account's records. The account in `query` is replaced by `account`.
    pub(crate) async fn list(&self, account: AccountId, query: FlowQuery) -> Result<FlowPage, CollectorError> {
        let query = FlowQuery { account, ..query };
        in_time(async {
            self.ask(Method::POST, "flows/list", &query).await?.json().await.map_err(CollectorError::NoAnswer)
        })
        .await
    }

    /// The account's records as they arrive: lines of JSON, each a [`lucarne_model::FlowEvent`], until dropped.
    pub(crate) async fn watch(
        &self,
        account: AccountId,
        filter: FlowFilter,
    ) -> Result<impl Stream<Item = Result<Bytes, CollectorError>> + Send + use<>, CollectorError> {
        let answer = in_time(self.ask(Method::POST, "flows/watch", &FlowWatch { account, filter })).await?;
        Ok(answer.bytes_stream().map_err(CollectorError::NoAnswer))
    }

    /// Tells the collector which hosts are let in.
    pub(crate) async fn trust(&self, trust: &HostTrust) -> Result<(), CollectorError> {
        in_time(self.ask(Method::PUT, "host-trust", trust)).await.map(drop)
    }

    /// A file of a network's flows, as its octets come.
    pub(crate) async fn export(
        &self,
        question: &ExportQuestion,
    ) -> Result<impl Stream<Item = Result<Bytes, CollectorError>> + Send + use<>, CollectorError> {
        let answer = in_time(self.ask(Method::POST, "flows/export", question)).await?;
        Ok(answer.bytes_stream().map_err(CollectorError::NoAnswer))
    }

    /// Tells the collector which flow logs to deliver: these and no others.
    pub(crate) async fn deliver(&self, orders: &[DeliveryOrder]) -> Result<(), CollectorError> {
        in_time(self.ask(Method::PUT, "deliveries", &orders)).await.map(drop)
    }

    /// How far the deliveries of all flow logs are.
    pub(crate) async fn deliveries(&self) -> Result<BTreeMap<FlowLogId, Delivery>, CollectorError> {
        let told = async {
            self.ask(Method::POST, "deliveries/list", &()).await?.json().await.map_err(CollectorError::NoAnswer)
        };
        in_time(told).await
    }

    /// The rows that answer a question in SQL. Dropped, it is not worked on any longer.
    pub(crate) async fn sql(&self, question: &SqlQuestion) -> Result<SqlAnswer, CollectorError> {
        let answer = async {
            let answer = self.ask(Method::POST, "v1/sql", question).await.map_err(CollectorError::of_sql)?;
            answer.json().await.map_err(CollectorError::NoAnswer)
        };
        in_time(answer).await
    }

    /// How far a question in SQL is, by its name; none when it is not being worked on.
    pub(crate) async fn sql_progress(&self, name: &str) -> Result<Option<SqlProgress>, CollectorError> {
        // Names have no characters that a URL gives a meaning to.
        let asked = in_time(self.ask(Method::GET, &format!("v1/sql/progress?name={name}"), &())).await;
        match asked {
            Ok(answer) => answer.json().await.map(Some).map_err(CollectorError::NoAnswer),
            Err(CollectorError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tables that an account, or the operator, can ask in SQL.
    pub(crate) async fn sql_tables(&self, account: Option<AccountId>) -> Result<Vec<SqlTable>, CollectorError> {
        let whose = account.map_or_else(String::new, |account| format!("?account={account}"));
        let answer = in_time(self.ask(Method::GET, &format!("v1/sql/tables{whose}"), &())).await?;
        answer.json().await.map_err(CollectorError::NoAnswer)
    }

    /// Asks where the collector was last known to be; if it is not there any more, looks and asks again.
    async fn ask(&self, method: Method, path: &str, question: &impl Serialize) -> Result<Response, CollectorError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(connection) = known {
            match self.ask_at(&connection, method.clone(), path, question).await {
                Err(CollectorError::NoAnswer(_) | CollectorError::Token) => {}
                answer => return answer,
            }
        }
        let connection = self.connection().await?;
        self.ask_at(&connection, method, path, question).await
    }

    async fn ask_at(
        &self,
        connection: &Connection,
        method: Method,
        path: &str,
        question: &impl Serialize,
    ) -> Result<Response, CollectorError> {
        let url = format!("http://{}/{path}", connection.query);
        let is_in_the_path = method == Method::GET;
        let request = self.http.request(method, url).bearer_auth(&connection.query_token);
        let request = if is_in_the_path { request.query(question) } else { request.json(question) };
        let answer = request.send().await.map_err(CollectorError::NoAnswer)?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED => Err(CollectorError::Token),
            StatusCode::BAD_REQUEST => Err(CollectorError::Question(detail(answer).await)),
            status => Err(CollectorError::Refused { status, detail: detail(answer).await }),
        }
    }
}

/// The line of text that comes with a refusal.
async fn detail(answer: Response) -> String {
    answer.text().await.unwrap_or_default().chars().take(LONGEST_DETAIL).collect()
}

async fn in_time<T>(answer: impl Future<Output = Result<T, CollectorError>>) -> Result<T, CollectorError> {
    tokio::time::timeout(ANSWER_TIME, answer).await.unwrap_or(Err(CollectorError::Late))
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::Path};

    use lucarne_collector::Settings;
    use lucarne_model::{ErrorCode, InstanceId, Moment};
    use tokio_util::sync::CancellationToken;

    use super::*;

    const ACCOUNT: AccountId = AccountId::OPERATOR;

    /// A collector at ports of its own choice.
    async fn collector(dir: &Path) -> (tokio::task::JoinHandle<()>, CancellationToken) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = Settings { state_dir: dir.to_owned(), listen_ipfix: any, listen_query: any, listen_flows: None };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { lucarne_collector::run(settings, stop).await.unwrap() });
        while Connection::read(&dir.join(Connection::FILE)).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (task, shutdown)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_moved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let client = CollectorClient::new(dir.path().join(Connection::FILE));
        let query = FlowQuery::new(ACCOUNT, Moment::EPOCH);
        assert!(matches!(client.list(ACCOUNT, query.clone()).await, Err(CollectorError::Connection(_))));
        for _ in 0..2 {
            let (task, shutdown) = collector(dir.path()).await;
            assert_eq!(client.list(ACCOUNT, query.clone()).await.unwrap().records, []);
            drop(client.watch(ACCOUNT, FlowFilter::default()).await.unwrap());
            shutdown.cancel();
            task.await.unwrap();
            // Nobody remembers: the next one has other ports and other secrets.
            std::fs::remove_file(dir.path().join(Connection::FILE)).unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bad_cursor_is_the_callers_fault_and_said_in_the_collectors_words() {
        let dir = tempfile::tempdir().unwrap();
        let (task, shutdown) = collector(dir.path()).await;
        let client = CollectorClient::new(dir.path().join(Connection::FILE));
        let query = FlowQuery { cursor: Some("x".into()), ..FlowQuery::new(ACCOUNT, Moment::EPOCH) };
        let error = client.list(ACCOUNT, query).await.unwrap_err();
        assert!(matches!(&error, CollectorError::Question(words) if words.contains("cursor")), "{error:?}");
        shutdown.cancel();
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_named_question_is_one_that_the_collector_can_answer() {
        use crate::named_questions::{Asked, Parameter, QUESTIONS};
        let dir = tempfile::tempdir().unwrap();
        let (task, shutdown) = collector(dir.path()).await;
        let client = CollectorClient::new(dir.path().join(Connection::FILE));
        for question in QUESTIONS {
            let instance = question.takes.contains(&Parameter::OneInstance).then(|| InstanceId::from_bits(1));
            let (since, until) = (Moment::EPOCH, Moment::from_secs(1));
            let sql = question.sql(&Asked { since, until, instance, vpc: None, by: None }).unwrap();
            let answer = client.sql(&SqlQuestion::new(Some(ACCOUNT), sql)).await;
            let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", question.name));
            assert_eq!((answer.rows.len(), answer.truncated), (0, false), "{}", question.name);
        }
        let refused = client.sql(&SqlQuestion::new(Some(ACCOUNT), "SELECT nothing FROM flows")).await.unwrap_err();
        assert!(
            matches!(&refused, CollectorError::Sql(refusal) if refusal.code == ErrorCode::InvalidSql),
            "{refused:?}"
        );
        assert_eq!(client.sql_progress("none").await.unwrap(), None);
        let tables = client.sql_tables(Some(ACCOUNT)).await.unwrap().into_iter().map(|table| table.name);
        assert_eq!(tables.collect::<Vec<_>>(), ["flows", "flow_sums", "lopsided_flows"]);
        shutdown.cancel();
        task.await.unwrap();
    }
}
