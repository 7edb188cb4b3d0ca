//! What a new cloud on one machine is given before it is called ready: hosts that are up and have proved their TPMs, a public
//! image, a first tenant.
//!
//! Each step looks first whether it has been done, so a later start does nothing twice.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use lucarne_api::bodies::identity::{CreateAccount, NewAccount};
use lucarne_attest::signing::from_pem;
use lucarne_model::{AccountId, ErrorCode, Tags};
use serde_json::Value;

use super::ready::Access;
use crate::{
    commands::{image, login::configuration_of, tpm_maker},
    failure::{Failure, LocalCode},
    kind::{HOST, IMAGE},
    listing::list,
    session::{Manners, Session, answer},
    wait::Progress,
};

const HOSTS_TIME: Duration = Duration::from_secs(60);
const TPMS_TIME: Duration = Duration::from_secs(60);
/// What a certificate in PEM is called.
const CERTIFICATE: &str = "CERTIFICATE";
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A session of an account's administrator that keeps nothing for other commands.
pub(crate) fn session(endpoint: &str, access: &Access, allow_plaintext: bool) -> Result<Session, Failure> {
    let configuration = configuration_of(endpoint.to_owned(), access.clone());
    Session::new(configuration, Manners { allow_plaintext, ..Manners::default() })
}

/// The hosts that are up. Asked without a filter: whether a host is heard of is not in the store that filters look into.
pub(crate) async fn hosts_up(operator: &Session) -> Result<Vec<Value>, Failure> {
    let mut hosts = list(operator, &HOST, None, None).await?;
    hosts.retain(|host| host["state"] == "up");
    Ok(hosts)
}

/// Waits until so many hosts are up.
pub(crate) async fn hosts_are_up(operator: &Session, wanted: usize) -> Result<(), Failure> {
    let _progress = Progress::start("waiting for the hosts");
    let look = async {
        while hosts_up(operator).await?.len() < wanted {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(())
    };
    tokio::time::timeout(HOSTS_TIME, look).await.unwrap_or_else(|_| {
        let detail = format!("not all of {wanted} hosts were up after {} s; see their logs", HOSTS_TIME.as_secs());
        Err(Failure::local(LocalCode::ProcessFailed, detail))
    })
}

/// Trusts the roots of the hosts' software TPMs, and waits until the hosts have proved them. Hosts that have none are left
/// without; one that takes long proves itself later.
pub(crate) async fn tpms_are_proved(operator: &Session, roots: &[PathBuf]) -> Result<(), Failure> {
    let _progress = Progress::start("waiting for the hosts' TPMs");
    let mut trusted = BTreeSet::new();
    let look = async {
        loop {
            for root in roots {
                let read = || from_pem(&std::fs::read_to_string(root).ok()?, CERTIFICATE).pop();
                if !trusted.contains(root)
                    && let Some(certificate) = read()
                {
                    tpm_maker::add(operator, "software", certificate.into()).await?;
                    trusted.insert(root);
                }
            }
            let hosts = hosts_up(operator).await?;
            let is_settled = |host: &Value| host["tpm"]["kind"] == "none" || !host["tpm"]["proved"].is_null();
            if hosts.iter().all(is_settled) {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    tokio::time::timeout(TPMS_TIME, look).await.unwrap_or_else(|_| {
        eprintln!("lucarne dev: not all hosts have proved their TPM yet; `lucarne host list` shows why");
        Ok(())
    })
}

/// Makes the public image `tiny` if there is none.
pub(crate) async fn image_is_there(operator: &Session) -> Result<(), Failure> {
    let images = list(operator, &IMAGE, Some("name=tiny"), None).await?;
    if images.iter().any(|image| image["public"] == Value::Bool(true)) {
        return Ok(());
    }
    let tiny = image::build_tiny(operator, "tiny".into(), true).await?;
    image::register(operator, &tiny).await?;
    Ok(())
}

/// The first tenant's key: the one kept in `file` if it still opens the door, or that of a new account.
pub(crate) async fn tenant(operator: &Session, file: &Path, allow_plaintext: bool) -> Result<Access, Failure> {
    if let Ok(access) = Access::read(file)
        && opens(operator.endpoint(), &access, allow_plaintext).await?
    {
        return Ok(access);
    }
    for number in 1.. {
        let name = if number == 1 { "tenant".to_owned() } else { format!("tenant-{number}") };
        match create_account(operator, &name).await {
            Ok(access) => {
                access.write(file)?;
                return Ok(access);
            }
            // Its key is lost: only its digest is kept by the controller.
            Err(failure) if failure.code() == Some(ErrorCode::AccountDuplicate) => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::problem(ErrorCode::AccountDuplicate, "every name for a tenant is taken"))
}

/// Makes an account and returns its administrator's key.
pub(crate) async fn create_account(operator: &Session, name: &str) -> Result<Access, Failure> {
    let body = CreateAccount { name: name.to_owned(), quota: None, tags: Tags::default() };
    let call = async |client: lucarne_api::client::Client| answer(client.create_account(None, None, &body)).await;
    let made: NewAccount = operator.change(call).await?;
    let account: AccountId = made.account.id;
    let key = made.access_key;
    Ok(Access { account, access_key_id: key.access_key.id, secret_access_key: key.secret_access_key })
}

async fn opens(endpoint: &str, access: &Access, allow_plaintext: bool) -> Result<bool, Failure> {
    let session = session(endpoint, access, allow_plaintext)?;
    match session.read(async |client| answer::<_, Value>(client.get_identity()).await).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.code() == Some(ErrorCode::AuthFailure) => Ok(false),
        Err(failure) => Err(failure),
    }
}
