//! The questions that are asked with GET: what was noticed while records arrived, what was lost, and receipts.
//!
//! Owns which of the collector's paths answers which. That an account is given for a tenant is decided before.

use axum::body::Bytes;
use futures::{Stream, TryStreamExt as _};
use lucarne_collector::ReceiptPage;
use lucarne_model::{
    AccountId, FlowLoss, FlowLossQuery,
    finding::{ClosedPort, ClosedPortQuery, Complete, Finding, FindingQuery, ScannerQuery, Scanners},
};
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use super::{CollectorClient, CollectorError, in_time};

impl CollectorClient {
    async fn get<T: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<T, CollectorError> {
        in_time(async { self.ask(Method::GET, path, question).await?.json().await.map_err(CollectorError::NoAnswer) })
            .await
    }

    /// Newest first; all accounts' where none is asked for.
    pub(crate) async fn findings(&self, query: &FindingQuery) -> Result<Vec<Finding>, CollectorError> {
        self.get("findings", query).await
    }

    pub(crate) async fn scanners(&self, query: &ScannerQuery) -> Result<Scanners, CollectorError> {
        self.get("scanners", query).await
    }

    /// The machines of the account, or of all, that had the port closed to the source.
    pub(crate) async fn closed_ports(
        &self,
        account: Option<AccountId>,
        query: &ClosedPortQuery,
    ) -> Result<Complete<ClosedPort>, CollectorError> {
        #[derive(Serialize)]
        struct Asked<'a> {
            account: Option<AccountId>,
            source: &'a std::net::IpAddr,
            port: u16,
            since: lucarne_model::Moment,
        }
        let ClosedPortQuery { source, port, since } = query;
        self.get("closed-ports", &Asked { account, source, port: *port, since: *since }).await
    }

    /// Oldest first; all accounts' where none is asked for.
    pub(crate) async fn losses(&self, query: &FlowLossQuery) -> Result<Vec<FlowLoss>, CollectorError> {
        self.get("losses", query).await
    }

    /// An account's receipts from a number on.
    pub(crate) async fn receipts(&self, account: AccountId, since: u64) -> Result<ReceiptPage, CollectorError> {
        self.get("v1/receipts", &[("account", account.to_string()), ("since", since.to_string())]).await
    }

    /// The file of an account's part, as its octets come; none where the account has no part of the name.
    pub(crate) async fn part(
        &self,
        account: AccountId,
        name: &str,
    ) -> Result<Option<impl Stream<Item = Result<Bytes, CollectorError>> + Send + use<>>, CollectorError> {
        let question = [("account", account.to_string()), ("name", name.to_owned())];
        match in_time(self.ask(Method::GET, "v1/parts", &question)).await {
            Ok(answer) => Ok(Some(answer.bytes_stream().map_err(CollectorError::NoAnswer))),
            Err(CollectorError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
