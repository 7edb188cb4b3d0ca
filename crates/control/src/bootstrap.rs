//! The first start: the operator's account and administrator, the secrets of the controller, and `operator.json`.
//!
//! Owns what must be there before the first request. A start that was cut short is made good by the next one, and an
//! operator file that was lost is made again with a new access key.

use std::{io, path::PathBuf};

use lucarne_api::{Problem, bodies::identity::NewAccessKey};
use lucarne_model::{
    AccountId, Tags,
    identity::{Account, Quota, Role, User},
};

use crate::{
    OperatorFile,
    auth::secret,
    random,
    services::{access_keys, hosts::JOIN_TOKEN, tpms::REQUIRE_TPM},
    settings::Settings,
    store::{AccessKeyRecord, Scope, Store, Tx},
};

const TOKEN_SECRET: &str = "token-secret";
const ADMINISTRATOR: &str = "admin";

/// Why the controller could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("the store refused: {0}")]
    Store(Problem),
    #[error("{path} could not be written")]
    OperatorFile {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// The secret under which this store's tokens are made.
pub(crate) async fn token_secret(store: &Store) -> Result<String, BootstrapError> {
    store.write(|tx| setting_or_secret(tx, TOKEN_SECRET)).await.map_err(BootstrapError::Store)
}

/// Makes what is missing, notes what placement must know of the settings, and tells the operator how to reach `endpoint`.
pub(crate) async fn write_operator_file(
    store: &Store,
    settings: &Settings,
    endpoint: String,
) -> Result<(), BootstrapError> {
    let path = settings.state_dir.join(OperatorFile::NAME);
    let (earlier, require_tpm) = (OperatorFile::read(&path).ok(), settings.require_tpm);
    let make = move |tx: &mut Tx<'_>| {
        match require_tpm {
            true => tx.set_setting(REQUIRE_TPM, "")?,
            false => tx.forget_setting(REQUIRE_TPM)?,
        }
        let administrator = administrator(tx)?;
        let join_token = setting_or_secret(tx, JOIN_TOKEN)?;
        let (access_key_id, secret_access_key) = match earlier.filter(|file| still_good(tx, file)) {
            Some(file) => (file.access_key_id, file.secret_access_key),
            None => {
                let NewAccessKey { access_key, secret_access_key } = access_keys::make(tx, &administrator)?;
                (access_key.id, secret_access_key)
            }
        };
        let account = AccountId::OPERATOR;
        Ok(OperatorFile { endpoint, account, access_key_id, secret_access_key, join_token })
    };
    let file = store.write(make).await.map_err(BootstrapError::Store)?;
    file.write(&path).map_err(|cause| BootstrapError::OperatorFile { path, cause })
}

fn still_good(tx: &Tx<'_>, file: &OperatorFile) -> bool {
    let record = tx.find::<AccessKeyRecord>(Scope::Account(AccountId::OPERATOR), &file.access_key_id);
    matches!(record, Ok(Some(record)) if secret::matches(&file.secret_access_key, &record.secret_digest))
}

fn setting_or_secret(tx: &mut Tx<'_>, key: &str) -> Result<String, Problem> {
    if let Some(value) = tx.setting(key)? {
        return Ok(value);
    }
    let value = random::secret();
    tx.set_setting(key, &value)?;
    Ok(value)
}

/// The operator account's first user; both are made if they are not there.
fn administrator(tx: &mut Tx<'_>) -> Result<User, Problem> {
    let scope = Scope::Account(AccountId::OPERATOR);
    if tx.find::<Account>(scope, AccountId::OPERATOR)?.is_none() {
        let quota = Quota { requests_per_second: 1000, request_burst: 4000, ..Quota::default() };
        let (id, name, created) = (AccountId::OPERATOR, "operator".to_owned(), tx.now());
        tx.insert(&Account { id, name, quota, created, tags: Tags::default() })?;
    }
    let existing = tx.list::<User>(scope)?.into_iter().find(|user| user.role == Role::Admin);
    if let Some(user) = existing {
        return Ok(user);
    }
    let user = User {
        id: random::id(),
        account: AccountId::OPERATOR,
        name: ADMINISTRATOR.into(),
        role: Role::Admin,
        created: tx.now(),
        tags: Tags::default(),
    };
    tx.insert(&user)?;
    Ok(user)
}
