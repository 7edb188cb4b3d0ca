//! The access keys of tenants' own stores, sealed where the store keeps them.
//!
//! Owns what a start does about them: it makes sure that all of them open, so that a lost key is told by the operator's log
//! and not by deliveries that fail, and seals what an older build left plain.

use std::path::Path;

use lucarne_api::Problem;
use lucarne_collector::{SecretBox, SecretError};
use lucarne_model::{ErrorCode, flow_log::StoreCredentials};

use crate::{
    records::FlowLogCredentials,
    store::{Scope, Store, StoreError, Tx},
};

const REMEDY: &str = "if it is lost, start once with --forget-store-secrets, and give the flow logs that deliver to s3:// \
                      their access keys again (lucarne flow-log edit)";

/// Why the secrets of tenants' stores cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("the store refused: {0}")]
    Store(Problem),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("what was plain could not be wiped out of the store's files")]
    Scrub(#[source] StoreError),
}

/// The box that opens all that the store has sealed. With `forget`, what it has is thrown away first.
pub(crate) async fn open(store: &Store, state_dir: &Path, forget: bool) -> Result<SecretBox, SecretsError> {
    if forget {
        let forgotten = store.write(forget_all).await.map_err(SecretsError::Store)?;
        tracing::warn!(forgotten, "the access keys of tenants' stores were forgotten");
    }
    let kept = store.read(|tx| tx.list::<FlowLogCredentials>(Scope::Everything)).await.map_err(SecretsError::Store)?;
    let is_sealed = kept.iter().any(|kept| kept.secret.is_some());
    let secrets = SecretBox::open(state_dir, is_sealed, REMEDY)?;
    kept.iter().try_for_each(|kept| credentials(&secrets, kept).map(drop))?;
    if kept.iter().any(|kept| kept.credentials.is_some()) {
        let sealing = secrets.clone();
        store.write(move |tx| seal_plain(tx, &sealing)).await.map_err(SecretsError::Store)?;
        store.scrub().await.map_err(SecretsError::Scrub)?;
    }
    Ok(secrets)
}

/// What a log's store is opened with; none where nothing was kept.
pub(crate) fn credentials(
    secrets: &SecretBox,
    kept: &FlowLogCredentials,
) -> Result<Option<StoreCredentials>, SecretError> {
    match &kept.secret {
        Some(secret) => secrets.unseal(&kept.log.to_string(), secret).map(Some),
        None => Ok(kept.credentials.clone()),
    }
}

/// A record of what opens the log's store.
pub(crate) fn sealed(
    secrets: &SecretBox,
    kept: FlowLogCredentials,
    given: &StoreCredentials,
) -> Result<FlowLogCredentials, Problem> {
    let secret = secrets.seal(&kept.log.to_string(), given).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a secret could not be sealed");
        Problem::new(ErrorCode::Internal, "the access key could not be kept")
    })?;
    Ok(FlowLogCredentials { secret: Some(secret), credentials: None, ..kept })
}

fn seal_plain(tx: &mut Tx<'_>, secrets: &SecretBox) -> Result<(), Problem> {
    for kept in tx.list::<FlowLogCredentials>(Scope::Everything)? {
        if let Some(plain) = kept.credentials.clone() {
            tx.put(&sealed(secrets, kept, &plain)?)?;
        }
    }
    Ok(())
}

fn forget_all(tx: &mut Tx<'_>) -> Result<usize, Problem> {
    let kept = tx.list::<FlowLogCredentials>(Scope::Everything)?;
    kept.iter().try_for_each(|kept| tx.delete(kept))?;
    Ok(kept.len())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use lucarne_model::{AccountId, FlowLogId};

    use super::*;

    const LOG: FlowLogId = FlowLogId::from_bits(7);
    const SECRET: &str = "geheim-geheim-geheim";

    fn given() -> StoreCredentials {
        StoreCredentials { access_key_id: "LKXX".into(), secret_access_key: SECRET.into() }
    }

    fn nothing() -> FlowLogCredentials {
        FlowLogCredentials { log: LOG, account: AccountId::OPERATOR, secret: None, credentials: None }
    }

    async fn kept(store: &Store, secrets: &SecretBox) -> Option<StoreCredentials> {
        let kept = store.read(|tx| tx.find::<FlowLogCredentials>(Scope::Everything, LOG)).await.unwrap()?;
        credentials(secrets, &kept).unwrap()
    }

    /// Whether the secret can be read in any of the store's files.
    fn lies_open(dir: &Path) -> bool {
        let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file());
        files.into_iter().any(|path| {
            let octets = fs::read(path).unwrap();
            octets.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
        })
    }

    #[tokio::test]
    async fn what_an_older_build_left_plain_is_sealed_and_wiped_out_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write(|tx| tx.insert(&nothing())).await.unwrap();
        // As the older build wrote it.
        let connection = rusqlite::Connection::open(dir.path().join("lucarne.db")).unwrap();
        let body = serde_json::json!({"log": LOG, "account": AccountId::OPERATOR, "credentials": given()}).to_string();
        connection.execute("UPDATE resource SET body = $1 WHERE kind = 'flow-log-credentials'", [body]).unwrap();
        drop(connection);
        assert!(lies_open(dir.path()));
        let secrets = open(&store, dir.path(), false).await.unwrap();
        assert!(!lies_open(dir.path()));
        assert_eq!(kept(&store, &secrets).await, Some(given()));
        let again = open(&store, dir.path(), false).await.unwrap();
        assert_eq!(kept(&store, &again).await, Some(given()));
    }

    #[tokio::test]
    async fn a_lost_or_wrong_key_ends_the_start_with_what_to_do_and_forgetting_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let secrets = open(&store, dir.path(), false).await.unwrap();
        let record = sealed(&secrets, nothing(), &given()).unwrap();
        store.write(move |tx| tx.insert(&record)).await.unwrap();
        let key = dir.path().join("secrets.key");
        let right = fs::read(&key).unwrap();
        fs::write(&key, [1; 32]).unwrap();
        let wrong = open(&store, dir.path(), false).await.unwrap_err().to_string();
        assert!(wrong.contains(&LOG.to_string()) && wrong.contains("--forget-store-secrets"), "{wrong}");
        fs::remove_file(&key).unwrap();
        let missing = open(&store, dir.path(), false).await.unwrap_err().to_string();
        assert!(missing.contains("secrets.key is missing") && missing.contains("--forget-store-secrets"), "{missing}");
        fs::write(&key, right).unwrap();
        assert_eq!(kept(&store, &open(&store, dir.path(), false).await.unwrap()).await, Some(given()));
        fs::remove_file(&key).unwrap();
        let secrets = open(&store, dir.path(), true).await.unwrap();
        assert_eq!(kept(&store, &secrets).await, None);
    }
}
