//! `lucarne login`: keeps an endpoint and an access key as a profile, after trying them.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    configuration::{ConfigFile, Configuration, Credentials, DEFAULT_PROFILE, Profile},
    dev::ready::{Access, ReadyFile},
    failure::{Failure, LocalCode},
    output,
    session::{Manners, Session, answer},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Who {
    Operator,
    Tenant,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct LoginArgs {
    /// The key's id; the secret is read from LUCARNE_SECRET_ACCESS_KEY or from standard input
    #[arg(long, required_unless_present = "ready_file")]
    access_key_id: Option<String>,
    /// Take endpoint and key from the ready file of `lucarne dev`
    #[arg(long, value_name = "FILE", conflicts_with = "access_key_id")]
    ready_file: Option<PathBuf>,
    /// Whose key of the ready file
    #[arg(long = "as", value_enum, default_value = "tenant", value_name = "WHO")]
    who: Who,
}

impl LoginArgs {
    /// `profile` and `endpoint` are the global options.
    pub(crate) async fn run(
        &self,
        profile: Option<&str>,
        endpoint: Option<&str>,
        allow_plaintext: bool,
    ) -> Result<(), Failure> {
        let path = ConfigFile::path();
        let mut file = ConfigFile::read(&path)?;
        let name = profile.unwrap_or(DEFAULT_PROFILE);
        let found = Configuration::choose(endpoint, None, |variable| std::env::var(variable).ok(), &file)?;
        let configuration = self.configuration(found)?;
        let user = try_out(&configuration, allow_plaintext).await?;
        let credentials = configuration.credentials;
        file.profiles.insert(
            name.to_owned(),
            Profile {
                endpoint: Some(configuration.endpoint),
                access_key_id: credentials.as_ref().map(|key| key.access_key_id.clone()),
                secret_access_key: credentials.map(|key| key.secret_access_key),
            },
        );
        file.write(&path)?;
        output::print(&format!("{user}: profile `{name}` in {}\n", path.display()))
    }

    fn configuration(&self, found: Configuration) -> Result<Configuration, Failure> {
        if let Some(path) = &self.ready_file {
            let ready = ReadyFile::read(path)?;
            let access = match self.who {
                Who::Operator => ready.operator,
                Who::Tenant => ready.tenant,
            };
            return Ok(configuration_of(ready.endpoint, access));
        }
        let access_key_id = self.access_key_id.clone().unwrap_or_default();
        let secret_access_key = match std::env::var("LUCARNE_SECRET_ACCESS_KEY") {
            Ok(secret) => secret,
            Err(_) => ask_secret()?,
        };
        Ok(Configuration { credentials: Some(Credentials { access_key_id, secret_access_key }), ..found })
    }
}

/// What one of the ready file's keys is used by.
pub(crate) fn configuration_of(endpoint: String, access: Access) -> Configuration {
    let Access { access_key_id, secret_access_key, .. } = access;
    Configuration { endpoint, credentials: Some(Credentials { access_key_id, secret_access_key }) }
}

async fn try_out(configuration: &Configuration, allow_plaintext: bool) -> Result<String, Failure> {
    let session = Session::new(configuration.clone(), Manners { allow_plaintext, ..Manners::default() })?;
    let identity: Value = session.read(async |client| answer(client.get_identity()).await).await?;
    let word = |field: &str| identity[field].as_str().unwrap_or_default().to_owned();
    Ok(format!("{} of account {}", word("user_name"), word("account")))
}

fn ask_secret() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        eprint!("secret access key: ");
        // A prompt that does not appear is no reason not to read the answer.
        let _ = io::stderr().flush();
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("standard input: {cause}")))?;
    Ok(line.trim().to_owned())
}
