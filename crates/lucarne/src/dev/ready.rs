//! The ready file: where a cloud on one machine answers, and with which keys.
//!
//! Owns its shape, which scripts rely on. It holds secrets and is for its owner only.

use std::path::Path;

use lucarne_model::AccountId;
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, LocalCode},
    private_file,
};

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ReadyFile {
    pub(crate) endpoint: String,
    /// For browsers.
    pub(crate) console: String,
    pub(crate) operator: Access,
    pub(crate) tenant: Access,
}

/// An account and the access key of its administrator.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) account: AccountId,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

impl ReadyFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        read_json(path)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        write_json(path, self)
    }
}

impl Access {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        read_json(path)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        write_json(path, self)
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Failure> {
    let refuse = |why: String| Failure::local(LocalCode::FileUnreadable, format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|cause| refuse(cause.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|cause| refuse(cause.to_string()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|cause| Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", path.display())))?;
    private_file::write(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_has_the_words_that_scripts_look_for() {
        let access = |number| Access {
            account: AccountId::from_number(number).unwrap(),
            access_key_id: "LK".into(),
            secret_access_key: "s".into(),
        };
        let ready = ReadyFile {
            endpoint: "http://127.0.0.1:7070".into(),
            console: "http://127.0.0.1:7070/v1/openapi.json".into(),
            operator: access(1),
            tenant: access(100_000_000_000),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        assert!(ready.write(&path).is_ok());
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["operator"]["account"], "000000000001");
        assert_eq!(read["tenant"]["access_key_id"], "LK");
        assert!(ReadyFile::read(&path).is_ok_and(|read| read.endpoint == ready.endpoint));
    }
}
