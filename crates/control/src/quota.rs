//! Whether an account may have more: its quota against what it has, in the transaction that adds to it.
//!
//! Owns the comparison. What is in use is kept by the store with every write.

use lucarne_api::Problem;
use lucarne_model::{
    AccountId, Bytes, ErrorCode, Vcpus,
    identity::{Account, Quota},
};

use crate::store::{Item, Scope, Tx};

pub(crate) fn check_instances(
    tx: &Tx<'_>,
    account: AccountId,
    count: u32,
    vcpus: Vcpus,
    memory: Bytes,
) -> Result<(), Problem> {
    let count = u64::from(count);
    let asked = [
        (Item::Instances, count),
        (Item::Vcpus, count * u64::from(vcpus.0)),
        (Item::Memory, count.saturating_mul(memory.0)),
    ];
    check(tx, account, &asked)
}

pub(crate) fn check_volume(tx: &Tx<'_>, account: AccountId, size: Bytes) -> Result<(), Problem> {
    check(tx, account, &[(Item::Volumes, 1), (Item::VolumeBytes, size.0)])
}

/// A network with all that is in it.
pub(crate) fn check_network(
    tx: &Tx<'_>,
    account: AccountId,
    machines: &[(Vcpus, Bytes)],
    volumes: &[Bytes],
) -> Result<(), Problem> {
    let asked = [
        (Item::Vpcs, 1),
        (Item::Instances, machines.len() as u64),
        (Item::Vcpus, machines.iter().map(|(vcpus, _)| u64::from(vcpus.0)).sum()),
        (Item::Memory, machines.iter().map(|(_, memory)| memory.0).sum()),
        (Item::Volumes, volumes.len() as u64),
        (Item::VolumeBytes, volumes.iter().map(|size| size.0).sum()),
    ];
    check(tx, account, &asked)
}

/// One more of something that is counted singly.
pub(crate) fn check_one(tx: &Tx<'_>, account: AccountId, item: Item) -> Result<(), Problem> {
    check(tx, account, &[(item, 1)])
}

fn check(tx: &Tx<'_>, account: AccountId, asked: &[(Item, u64)]) -> Result<(), Problem> {
    let quota = tx.get::<Account>(Scope::Everything, account)?.quota;
    for (item, more) in asked {
        let (used, most) = (tx.used(account, *item)?, most(&quota, *item));
        if used.saturating_add(*more) > most {
            let detail =
                format!("the quota of {} is {most}; {used} are in use, {more} more were asked for", item.name());
            return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
        }
    }
    Ok(())
}

fn most(quota: &Quota, item: Item) -> u64 {
    match item {
        Item::Instances => quota.instances.into(),
        Item::Vcpus => quota.vcpus.into(),
        Item::Memory => quota.memory.0,
        Item::Vpcs => quota.vpcs.into(),
        Item::Volumes => quota.volumes.into(),
        Item::VolumeBytes => quota.volume_bytes.0,
        Item::Snapshots => quota.snapshots.into(),
        Item::Images => quota.images.into(),
    }
}
