//! Where the controller is and who asks: flags, environment and `~/.config/lucarne/config.toml`, in that order.
//!
//! Owns the profile file's shape and the precedence. A profile named on the command line comes before the environment,
//! because naming it is the more deliberate act.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, LocalCode};

pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7070";
pub(crate) const DEFAULT_PROFILE: &str = "default";

/// An access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

/// One profile of the file; each part may be missing and is then looked for elsewhere.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_access_key: Option<String>,
}

/// The whole of `config.toml`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// What one command goes by.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) endpoint: String,
    pub(crate) credentials: Option<Credentials>,
}

impl Configuration {
    /// Decides from what is at hand. `named` is the profile given on the command line, `environment` looks a variable up.
    pub(crate) fn choose(
        endpoint: Option<&str>,
        named: Option<&str>,
        environment: impl Fn(&str) -> Option<String>,
        file: &ConfigFile,
    ) -> Result<Self, Failure> {
        let from_environment = Profile {
            endpoint: environment("LUCARNE_ENDPOINT"),
            access_key_id: environment("LUCARNE_ACCESS_KEY_ID"),
            secret_access_key: environment("LUCARNE_SECRET_ACCESS_KEY"),
        };
        let sources = match named {
            Some(name) => {
                let profile = file.profiles.get(name).ok_or_else(|| {
                    let detail =
                        format!("config.toml has no profile `{name}`; `lucarne login --profile {name}` makes it");
                    Failure::local(LocalCode::ConfigurationInvalid, detail)
                })?;
                [profile.clone(), from_environment]
            }
            None => [from_environment, file.profiles.get(DEFAULT_PROFILE).cloned().unwrap_or_default()],
        };
        let flag = endpoint.map(str::to_owned);
        let chosen = flag.or_else(|| sources.iter().find_map(|source| source.endpoint.clone()));
        Ok(Self {
            endpoint: chosen.unwrap_or_else(|| DEFAULT_ENDPOINT.into()).trim_end_matches('/').into(),
            credentials: sources.iter().find_map(Profile::credentials),
        })
    }
}

impl Profile {
    /// Only whole pairs count: a key id from one source and a secret from another would not fit.
    fn credentials(&self) -> Option<Credentials> {
        let access_key_id = self.access_key_id.clone()?;
        let secret_access_key = self.secret_access_key.clone()?;
        Some(Credentials { access_key_id, secret_access_key })
    }
}

impl ConfigFile {
    /// A file that is not there is an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let refuse =
            |why: String| Failure::local(LocalCode::ConfigurationInvalid, format!("{}: {why}", path.display()));
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|cause| refuse(cause.message().to_owned())),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(refuse(cause.to_string())),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self)
            .map_err(|cause| Failure::local(LocalCode::ConfigurationInvalid, cause.to_string()))?;
        crate::private_file::write(path, text.as_bytes())
    }

    pub(crate) fn path() -> PathBuf {
        folder("XDG_CONFIG_HOME", ".config").join("config.toml")
    }
}

/// `lucarne` in one of the XDG base directories: the variable's, or `fallback` in the home folder.
pub(crate) fn folder(variable: &str, fallback: &str) -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").unwrap_or_else(|| "/".into()).join(fallback);
    absolute(variable).unwrap_or_else(home).join("lucarne")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ConfigFile {
        toml::from_str(
            "[profiles.default]\nendpoint = 'http://from-file:1/'\naccess_key_id = 'LKF'\nsecret_access_key = 'sf'\n\
             [profiles.other]\naccess_key_id = 'LKO'\nsecret_access_key = 'so'\n",
        )
        .unwrap()
    }

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "LUCARNE_ENDPOINT" => "http://from-environment:2",
            "LUCARNE_ACCESS_KEY_ID" => "LKE",
            "LUCARNE_SECRET_ACCESS_KEY" => "se",
            _ => return None,
        };
        Some(value.into())
    }

    fn key(configuration: &Configuration) -> &str {
        configuration.credentials.as_ref().map_or("", |credentials| &credentials.access_key_id)
    }

    #[test]
    fn a_flag_comes_before_the_environment_and_that_before_the_default_profile() {
        let chosen =
            Configuration::choose(Some("http://flag:3"), None, environment, &file()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((chosen.endpoint.as_str(), key(&chosen)), ("http://flag:3", "LKE"));
        let chosen = Configuration::choose(None, None, environment, &file()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((chosen.endpoint.as_str(), key(&chosen)), ("http://from-environment:2", "LKE"));
        let chosen = Configuration::choose(None, None, |_| None, &file()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((chosen.endpoint.as_str(), key(&chosen)), ("http://from-file:1", "LKF"));
        let chosen =
            Configuration::choose(None, None, |_| None, &ConfigFile::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((chosen.endpoint.as_str(), key(&chosen)), (DEFAULT_ENDPOINT, ""));
    }

    #[test]
    fn a_profile_that_is_named_comes_before_the_environment() {
        let chosen = Configuration::choose(None, Some("other"), environment, &file()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((chosen.endpoint.as_str(), key(&chosen)), ("http://from-environment:2", "LKO"));
        assert!(Configuration::choose(None, Some("nobody"), environment, &file()).is_err());
    }

    #[test]
    fn a_misspelt_setting_is_refused_and_a_missing_file_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert!(ConfigFile::read(&path).is_ok_and(|read| read == ConfigFile::default()));
        fs::write(&path, "[profiles.default]\nendpiont = 'x'\n").unwrap();
        assert!(ConfigFile::read(&path).is_err());
        assert!(file().write(&path).is_ok());
        assert!(ConfigFile::read(&path).is_ok_and(|read| read == file()));
    }
}
