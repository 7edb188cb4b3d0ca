//! `lucarne flow receipts`: what the collector has signed for, and whether it still has it.
//!
//! Owns what is kept between two verifications, and where copies of parts lie.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use futures::StreamExt;
use lucarne_api::client::Client;
use lucarne_collector::{ReceiptPage, contents_of, is_part_name};
use lucarne_flows::receipts::{Digest, Head, PartContents, PublicKey, Sha256};
use lucarne_model::{AccountId, ErrorCode, Moment};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Context,
    flow::Since,
    receipt_audit::{Archive, Audit, Known, Span, audit},
};
use crate::{
    failure::{Failure, LocalCode},
    kind::RECEIPT_COLUMNS,
    output::Format,
    private_file,
    session::{Session, answer, byte_stream, now},
    wait::Progress,
};

const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ReceiptsCommand {
    /// List the receipts of the account's kept records, oldest first
    List,
    /// Fetch receipts and kept records, and check that nothing is missing or changed; exits 1 with the first thing that is
    Verify(VerifyArgs),
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct VerifyArgs {
    /// Look only into files with records since then (10m, 2h, a time); the chain is followed whole all the same
    #[arg(long)]
    since: Option<Since>,
    /// Look only into files with records before then
    #[arg(long)]
    until: Option<Since>,
    /// Keep the files (Parquet) and the receipts in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The head that an earlier verification printed: the chain must go on from it
    #[arg(long, value_name = "NEXT:DIGEST", conflicts_with = "state")]
    known_head: Option<Head>,
    /// Keep head and key in this file, and hold the next verification against them
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

/// What is kept between two verifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    account: AccountId,
    key: PublicKey,
    head: Head,
}

impl ReceiptsCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List => list(context).await,
            Self::Verify(args) => {
                let told = args.verify(&context.session).await?;
                context.format.print_value(&told)
            }
        }
    }
}

async fn page(session: &Session, from: u64) -> Result<Value, Failure> {
    session.read(async |client: Client| answer(client.list_receipts(Some(from))).await).await
}

async fn list(context: &Context) -> Result<(), Failure> {
    let mut receipts = Vec::new();
    let mut from = Some(0);
    while let Some(number) = from {
        let mut page = page(&context.session, number).await?;
        receipts.extend(page["receipts"].as_array_mut().map(std::mem::take).unwrap_or_default());
        from = page["next"].as_u64();
    }
    if context.format == Format::Table {
        for receipt in &mut receipts {
            let minutes = receipt["part"]["minutes"].as_array().into_iter().flatten();
            receipt["records"] = minutes.filter_map(|minute| minute[1].as_u64()).sum::<u64>().into();
        }
    }
    context.format.print_list(&receipts, RECEIPT_COLUMNS)
}

impl VerifyArgs {
    /// Verifies, and says what was checked.
    pub(crate) async fn verify(&self, session: &Session) -> Result<Value, Failure> {
        let identity: Value = session.read(async |client: Client| answer(client.get_identity()).await).await?;
        let account = identity["account"].as_str().and_then(|account| account.parse().ok());
        let account: AccountId =
            account.ok_or_else(|| Failure::local(LocalCode::UnexpectedAnswer, "the identity has no account"))?;
        let known = self.known(account)?;
        let aside = match &self.out {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(|cause| unwritable(Path::new("a temporary folder"), &cause))?),
        };
        let folder = aside.as_ref().map(tempfile::TempDir::path).or(self.out.as_deref()).unwrap_or(Path::new("."));
        let span = Span { since: at(self.since), until: at(self.until) };
        let store = Store { session, folder, progress: Progress::start("fetching receipts") };
        let found = audit(&store, account, known, span).await?;
        drop(store);
        self.keep(account, &found)?;
        Ok(told(account, known, &found))
    }

    fn known(&self, account: AccountId) -> Result<Known, Failure> {
        let Some(path) = self.state.as_deref().filter(|path| path.exists()) else {
            return Ok(Known { key: None, head: self.known_head });
        };
        let unreadable =
            |cause: String| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display()));
        let text = std::fs::read(path).map_err(|cause| unreadable(cause.to_string()))?;
        let kept: Kept = serde_json::from_slice(&text).map_err(|cause| unreadable(cause.to_string()))?;
        if kept.account != account {
            return Err(unreadable(format!("it is of account {}, and this is {account}", kept.account)));
        }
        Ok(Known { key: Some(kept.key), head: Some(kept.head) })
    }

    fn keep(&self, account: AccountId, found: &Audit) -> Result<(), Failure> {
        let written = |path: &Path, value: &Value| private_file::write(path, format!("{value:#}\n").as_bytes());
        if let Some(path) = &self.state {
            let kept = Kept { account, key: found.key, head: found.chain.head() };
            written(path, &json!(kept))?;
        }
        if let Some(folder) = &self.out {
            let page = ReceiptPage { key: found.key, receipts: found.receipts.clone(), next: None };
            written(&folder.join("receipts.json"), &json!(page))?;
        }
        Ok(())
    }
}

fn at(time: Option<Since>) -> Option<Moment> {
    time.map(|time| time.moment(now()))
}

fn told(account: AccountId, known: Known, found: &Audit) -> Value {
    let minutes = found.chain.minutes();
    let minute = |minute: Option<&u64>| minute.map(|minute| Moment::from_secs(60 * minute));
    let compared = match known.head {
        Some(head) => format!("goes on from {head}"),
        None => "compared with no earlier one: keep the head, and give it with --known-head the next time".into(),
    };
    json!({
        "account": account,
        "receipts": found.receipts.len(),
        "parts": found.chain.current().count(),
        "records": minutes.values().sum::<u64>(),
        "first_seen": minute(minutes.keys().next()),
        "last_seen": minute(minutes.keys().next_back()),
        "parts_checked": found.parts,
        "records_checked": found.records,
        "earlier": compared,
        "key": found.key,
        "head": found.chain.head().to_string(),
    })
}

/// The API, and a folder for copies.
struct Store<'a> {
    session: &'a Session,
    folder: &'a Path,
    progress: Progress,
}

impl Archive for Store<'_> {
    async fn receipts(&self, from: u64) -> Result<ReceiptPage, Failure> {
        serde_json::from_value(page(self.session, from).await?)
            .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, format!("a receipt: {cause}")))
    }

    async fn take(&self, name: &str) -> Result<Option<(u64, Sha256)>, Failure> {
        if !is_part_name(name) {
            let detail = format!("a receipt names `{name}`, which is no name of a file of records");
            return Err(Failure::local(LocalCode::ReceiptsBroken, detail));
        }
        self.progress.say(format!("fetching {name}"));
        let call = async |client: Client| byte_stream(client.download_part(name)).await;
        let octets = match self.session.stream(call).await {
            Err(failure) if failure.code() == Some(ErrorCode::InvalidPartNotFound) => return Ok(None),
            octets => octets?,
        };
        let path = self.folder.join(name);
        let unwritable = |cause: io::Error| unwritable(&path, &cause);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(unwritable)?;
        }
        let mut file = File::create(&path).map_err(unwritable)?;
        let (mut octets, mut digest, mut size) = (octets.into_inner(), Digest::begin(), 0);
        while let Some(chunk) = octets.next().await {
            let chunk = chunk
                .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, format!("the file broke off: {cause}")))?;
            digest.add(&chunk);
            size += chunk.len() as u64;
            file.write_all(&chunk).map_err(unwritable)?;
        }
        Ok(Some((size, digest.finish())))
    }

    async fn contents(&self, name: &str) -> Result<PartContents, Failure> {
        contents_of(self.folder, name).map_err(|error| Failure::caused(LocalCode::FileUnreadable, &error))
    }

    async fn wait(&self) {
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

fn unwritable(path: &Path, cause: &io::Error) -> Failure {
    Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", path.display()))
}
