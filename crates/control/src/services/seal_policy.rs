//! What hosts are to go by for sealed operations, as the operator signed it.
//!
//! Owns carrying it. Nobody here judges it for the hosts: each takes it from the key that it was given, or not. What would
//! certainly be refused is not carried, so that who publishes hears of it.

use lucarne_api::{
    Call, Problem,
    answer::Done,
    bodies::{NoQuery, sealing::SealPolicy},
    input::{Json, Nothing},
};
use lucarne_model::{ErrorCode, Octets, storage::Digest};
use lucarne_seal::policy::{MOST_OCTETS, Policy};
use lucarne_statement::{
    canonical, sha256,
    signing::{Envelope, Statement},
};

use super::checks::refuse;
use crate::{
    Caller, Controller,
    records::HostRecord,
    store::{Scope, Tx},
};

/// The settings under which it is kept, and its digest, by which hosts are told that there is another.
const POLICY: &str = "seal-policy";
const POLICY_DIGEST: &str = "seal-policy-digest";

/// Which one hosts are to fetch.
pub(crate) fn digest(tx: &Tx<'_>) -> Result<Option<Digest>, Problem> {
    Ok(tx.setting(POLICY_DIGEST)?.and_then(|digest| digest.parse().ok()))
}

fn kept(tx: &Tx<'_>) -> Result<Option<Octets>, Problem> {
    Ok(tx.setting(POLICY)?.map(|text| text.into_bytes().into()))
}

/// The policy in an envelope, whoever signed it.
fn read(octets: &Octets) -> Result<Policy, Problem> {
    let malformed = |error: String| refuse(format!("not a seal policy: {error}"));
    if octets.len() > MOST_OCTETS {
        return Err(malformed(format!("it has more than {MOST_OCTETS} octets")));
    }
    let envelope: Envelope = canonical::read(octets).map_err(|error| malformed(error.to_string()))?;
    if envelope.payload_type != Policy::TYPE {
        return Err(malformed(format!("its type is `{}`", envelope.payload_type)));
    }
    let policy: Policy = canonical::read(&envelope.payload).map_err(|error| malformed(error.to_string()))?;
    policy.rules().map_err(|error| malformed(error.to_string()))?;
    Ok(policy)
}

pub(crate) async fn publish_seal_policy(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<SealPolicy>>,
) -> Result<Done, Problem> {
    let octets = call.body.0.policy.clone();
    let offered = read(&octets)?;
    let publish = move |tx: &mut Tx<'_>| {
        let known = kept(tx)?;
        let held = known.as_ref().and_then(|known| read(known).ok()).map_or(0, |policy| policy.version);
        if known.as_ref() != Some(&octets) && offered.version <= held {
            let detail =
                format!("version {held} is published; hosts take no older one, and no other of the same version");
            return Err(Problem::new(ErrorCode::SealPolicyUnusable, detail));
        }
        let text = String::from_utf8(octets.0.clone()).map_err(|error| refuse(error.to_string()))?;
        tx.set_setting(POLICY, &text)?;
        tx.set_setting(POLICY_DIGEST, Digest::from_bytes(sha256(&[&octets])).as_str())?;
        for host in tx.list::<HostRecord>(Scope::Everything)? {
            tx.touch(host.host.id);
        }
        Ok(())
    };
    controller.change(&call, publish).await.map(|()| Done)
}

/// Also what hosts fetch.
pub(crate) async fn get_seal_policy(
    controller: &Controller,
    _: Call<Caller, (), NoQuery, Nothing>,
) -> Result<Json<SealPolicy>, Problem> {
    let policy = controller.store.read(kept).await?;
    let none = || Problem::new(ErrorCode::SealPolicyUnusable, "no seal policy was published");
    Ok(Json(SealPolicy { policy: policy.ok_or_else(none)? }))
}
