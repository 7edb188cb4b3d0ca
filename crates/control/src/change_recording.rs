//! Changes of networks that are recorded, noted with the recording.
//!
//! Owns which requests are noted: those that change what a network lets through, or what runs in it, and that carry no secret. A
//! change is noted in the transaction that makes it, so that there is none that was made and not noted, or the reverse. What is
//! asked of a duplicate again is the matter of [`crate::services::replays`].

use lucarne_api::Problem;
use lucarne_model::{
    AccountId, VpcId,
    network_acl::NetworkAcl,
    recorded_change::RecordedChange,
    recording::{Recording, RecordingState},
    security_group::SecurityGroup,
};
use serde::Serialize;
use serde_json::Value;

use crate::store::{Scope, Tx};

/// The operations that are noted.
const NOTED: &[&str] = &[
    "add_acl_entry",
    "associate_network_acl",
    "associate_route_table",
    "attach_volume",
    "authorize_rule",
    "change_tags",
    "create_network_acl",
    "create_route",
    "create_route_table",
    "create_security_group",
    "create_subnet",
    "delete_network_acl",
    "delete_route",
    "delete_route_table",
    "delete_security_group",
    "delete_subnet",
    "detach_volume",
    "launch_instances",
    "reboot_instance",
    REMOVE_ENTRY,
    REVOKE,
    "start_instance",
    "stop_instance",
    "terminate_instance",
];
/// Those that name a rule by an id that the duplicate's does not have.
pub(crate) const REVOKE: &str = "revoke_rule";
pub(crate) const REMOVE_ENTRY: &str = "remove_acl_entry";
/// More of one change, which may carry user-data, is not noted.
const LARGEST: usize = 64 << 10;

/// A request that is noted if it changes a network that is recorded.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    account: AccountId,
    operation: &'static str,
    path: Vec<String>,
    body: Value,
}

impl Asked {
    /// None of what is not noted. `path` and `body` as JSON.
    pub(crate) fn of(account: AccountId, operation: &'static str, path: &str, body: &str) -> Option<Self> {
        if !NOTED.contains(&operation) || path.len() + body.len() > LARGEST {
            return None;
        }
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let path: Vec<Value> = serde_json::from_str(path).ok()?;
        let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).ok()? };
        Some(Self { account, operation, path: path.into_iter().map(text).collect(), body })
    }

    /// What it takes away, looked at before it does.
    pub(crate) fn takes(&self, tx: &Tx<'_>) -> Result<Value, Problem> {
        let [holder, rule] = &self.path[..] else { return Ok(Value::Null) };
        let rules = rules_of(tx, Scope::Account(self.account), self.operation, holder)?;
        Ok(rules.into_iter().find(|(id, _)| id == rule).map(|(_, says)| says).unwrap_or_default())
    }

    /// Notes it with the recordings of the networks that it changed.
    pub(crate) fn note(&self, tx: &mut Tx<'_>, taken: Value, answer: &impl Serialize) -> Result<(), Problem> {
        let recordings = self.recordings(tx)?;
        if recordings.is_empty() {
            return Ok(());
        }
        let change = RecordedChange {
            at: tx.now(),
            operation: self.operation.to_owned(),
            path: self.path.clone(),
            body: self.body.clone(),
            taken,
            answer: serde_json::to_value(answer).unwrap_or_default(),
        };
        recordings.into_iter().try_for_each(|recording| tx.note_change(recording.id, &change))
    }

    fn recordings(&self, tx: &Tx<'_>) -> Result<Vec<Recording>, Problem> {
        let networks: Vec<VpcId> = tx.touched().iter().filter_map(|topic| topic.parse().ok()).collect();
        let mut recordings = Vec::new();
        for network in networks {
            recordings.extend(tx.referring::<Recording>(Scope::Account(self.account), network)?);
        }
        let is_under_way = |recording: &Recording| recording.clone().at(tx.now()).state == RecordingState::Recording;
        recordings.retain(is_under_way);
        Ok(recordings)
    }
}

/// The rules of the group or ACL of which the operation takes one away: what each says, by its id.
pub(crate) fn rules_of(
    tx: &Tx<'_>,
    scope: Scope,
    operation: &str,
    holder: &str,
) -> Result<Vec<(String, Value)>, Problem> {
    let rules = match operation {
        REVOKE => serde_json::to_value(tx.find::<SecurityGroup>(scope, holder)?.map(|group| group.rules)),
        REMOVE_ENTRY => serde_json::to_value(tx.find::<NetworkAcl>(scope, holder)?.map(|acl| acl.entries)),
        _ => return Ok(Vec::new()),
    };
    let says = |mut rule: Value| {
        let id = rule.as_object_mut()?.remove("id")?.as_str()?.to_owned();
        Some((id, rule))
    };
    let Ok(Value::Array(rules)) = rules else { return Ok(Vec::new()) };
    Ok(rules.into_iter().filter_map(says).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A name that no route has would note nothing, and nobody would see it.
    #[test]
    fn every_noted_operation_is_one_that_changes_something() {
        for operation in NOTED {
            let route = lucarne_api::ROUTES.iter().find(|route| route.name == *operation);
            assert!(route.is_some_and(lucarne_api::Route::changes), "{operation}");
        }
    }

    #[test]
    fn a_request_is_kept_with_its_parameters_as_text() {
        let account = AccountId::from_bits(1);
        let asked = Asked::of(account, REMOVE_ENTRY, r#"["acl-1", 100]"#, "").unwrap();
        assert_eq!((asked.path, asked.body), (vec!["acl-1".to_owned(), "100".to_owned()], Value::Null));
        let asked = Asked::of(account, "authorize_rule", r#"["sg-1"]"#, r#"{"port": 80}"#).unwrap();
        assert_eq!(asked.body, json!({"port": 80}));
        assert!(Asked::of(account, "create_access_key", "[]", "{}").is_none(), "its answer is a secret");
        assert!(Asked::of(account, "launch_instances", "[]", &"x".repeat(LARGEST + 1)).is_none());
    }
}
