//! A scene of the chapter "memory": machines see twice the memory of their host. A soaker takes what is idle, is squeezed when
//! others come, sleeps, and wakes where it stopped when they have gone.
//!
//! Owns the three machines and what is expected of them, on a host of the demonstration's own, because memory that others use
//! would not get scarce. The soaker counts in its memory and nowhere else: a number that is missing, or comes twice, is seen.

use std::time::Duration;

use lucarne_control::opaque_host;
use lucarne_model::{
    Bytes, HostId, ImageId, InstanceId, SubnetId,
    instance::Placement,
    memory::{MemoryMode, MemorySettings},
    memory_report::{InstanceMemory, MemoryState},
};

use super::{
    Stage,
    memory::{Cast, checks, launch, look, memory, tell_rounds},
    own_host::{OwnHost, Size},
    report::Story,
    tenant::Tenant,
};
use crate::{commands::instance::log, failure::Failure};

/// Of the host; its machines see twice as much.
pub(super) const SIZE: Size = Size { memory: Bytes::mib(256), oversubscription: "2" };
const SOAKER: Bytes = Bytes::mib(256);
const OTHER: Bytes = Bytes::mib(128);
/// Below this the soaker does not run, and with the second it starts again.
const OPERATING: Bytes = Bytes::mib(80);
const STARTING: Bytes = Bytes::mib(96);
const HELD_MIB: u32 = 60;
/// A soaker that finds no room is paused for half a minute before it sleeps.
const PATIENCE: Duration = Duration::from_secs(240);
const COUNTED: &str = "probe:counted:";
const WRONG: &str = "probe:wrong";
/// Counted before others come, and after the soaker has woken.
const NUMBERS: u64 = 3;

/// Counts, beside a file in memory that it checks now and then.
fn counts() -> String {
    format!(
        "#!/bin/sh\n(dd if=/dev/urandom of=/held bs=1M count={HELD_MIB} 2> /dev/null; was=$(md5sum < /held); n=0\n\
         while :; do n=$((n+1)); printf '\\n{COUNTED}%s\\n' $n; sleep 1\n\
         if [ $((n % 10)) = 0 ] && [ \"$was\" != \"$(md5sum < /held)\" ]; then printf '\\n{WRONG}\\n'; fi\n\
         done) > /dev/console 2>&1 &\n"
    )
}

/// The last number, if each came after the one before it; none if one is missing, came twice, or a byte was wrong.
fn counted(log: &str) -> Option<u64> {
    if log.contains(WRONG) {
        return None;
    }
    let numbers: Vec<u64> = log.lines().filter_map(|line| line.trim().strip_prefix(COUNTED)?.parse().ok()).collect();
    let goes_on = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
    goes_on.then(|| numbers.last().copied().unwrap_or_default())
}

/// Plays it on `host`, where nothing else runs.
pub(super) async fn tell(
    stage: &Stage,
    story: &mut Story,
    (tenant, image, subnet): (&Tenant, ImageId, SubnetId),
    host: &mut OwnHost,
) -> Result<(), Failure> {
    let host = host.begin(&stage.operator).await?;
    let cast = |name, memory, memory_settings, user_data| Cast {
        name,
        memory,
        memory_settings,
        user_data,
        placement: on(tenant, host),
        ..Cast::default()
    };
    let soaks = MemorySettings {
        mode: MemoryMode::Soaker,
        minimum_operating: Some(OPERATING),
        minimum_starting: Some(STARTING),
        ..MemorySettings::default()
    };
    let soaker = launch(tenant, (image, subnet), cast("s1", SOAKER, soaks, counts())).await?.id;
    tenant.until_running(soaker).await?;
    tell_growth(story, tenant, soaker).await?;
    let mut others = Vec::new();
    for name in ["s2", "s3"] {
        let other = cast(name, OTHER, MemorySettings::default(), checks(HELD_MIB));
        let other = launch(tenant, (image, subnet), other).await?.id;
        tenant.until_running(other).await?;
        others.push(other);
    }
    let seen = Bytes(SOAKER.0 + others.len() as u64 * OTHER.0);
    let (wanted, words) = (format!("twice the host's {}", SIZE.memory), format!("{seen} in all"));
    story.step(
        "s1, a soaker, and s2 and s3, which come later, see more than there is",
        wanted,
        words,
        seen.0 == 2 * SIZE.memory.0,
    );
    let stopped_at = tell_sleep(story, tenant, soaker).await?;
    for (name, other) in ["s2", "s3"].into_iter().zip(&others) {
        tell_rounds(story, tenant, *other, &format!("{name}, for which the soaker made room,")).await?;
    }
    for other in &others {
        tenant.terminate(*other).await?;
    }
    tell_waking(story, tenant, soaker, stopped_at).await
}

pub(super) fn on(tenant: &Tenant, host: HostId) -> Placement {
    Placement { host: Some(opaque_host(tenant.account, host)), ..Placement::default() }
}

async fn actual(
    tenant: &Tenant,
    id: InstanceId,
    done: impl Fn(&InstanceMemory) -> bool,
) -> Result<Option<InstanceMemory>, Failure> {
    let is_done = |actual: &Option<InstanceMemory>| actual.as_ref().is_some_and(&done);
    look(PATIENCE, async || Ok(memory(tenant, id).await?.actual), is_done).await
}

fn words(actual: Option<&InstanceMemory>) -> String {
    actual.map_or_else(
        || "its host tells nothing of its memory".into(),
        |actual| format!("{}, {} resident", actual.state, actual.pages.resident.bytes()),
    )
}

async fn tell_growth(story: &mut Story, tenant: &Tenant, soaker: InstanceId) -> Result<(), Failure> {
    let enough = |log: &String| counted(log).is_none_or(|number| number >= NUMBERS);
    let log = look(PATIENCE, async || log(&tenant.session, soaker).await, enough).await?;
    let has_grown = |actual: &InstanceMemory| actual.pages.resident.bytes() > OPERATING;
    let actual = actual(tenant, soaker, has_grown).await?;
    let held = counted(&log).is_some_and(|number| number >= NUMBERS) && actual.as_ref().is_some_and(has_grown);
    story.step("s1 takes memory that is idle", format!("more than its {OPERATING}"), words(actual.as_ref()), held);
    Ok(())
}

/// The number that it stopped at is returned.
async fn tell_sleep(story: &mut Story, tenant: &Tenant, soaker: InstanceId) -> Result<u64, Failure> {
    let sleeps = |actual: &InstanceMemory| actual.state == MemoryState::Hibernated;
    let actual = actual(tenant, soaker, sleeps).await?;
    let stopped_at = counted(&log(&tenant.session, soaker).await?);
    let held = actual.as_ref().is_some_and(sleeps) && stopped_at.is_some();
    let words = format!("{}; it had counted to {}", words(actual.as_ref()), stopped_at.unwrap_or_default());
    story.step(
        "s1 is squeezed until it sleeps, and leaves its room to others",
        "hibernated, nothing resident",
        words,
        held,
    );
    Ok(stopped_at.unwrap_or_default())
}

async fn tell_waking(story: &mut Story, tenant: &Tenant, soaker: InstanceId, stopped_at: u64) -> Result<(), Failure> {
    let enough = |log: &String| counted(log).is_none_or(|number| number >= stopped_at + NUMBERS);
    let log = look(PATIENCE, async || log(&tenant.session, soaker).await, enough).await?;
    let number = counted(&log);
    // A host that it moved to in its sleep has only what it said there.
    let first = log.lines().find_map(|line| line.trim().strip_prefix(COUNTED)?.parse::<u64>().ok());
    let is_gapless = first.is_some_and(|first| first <= stopped_at + 1);
    let held = is_gapless && number.is_some_and(|number| number >= stopped_at + NUMBERS);
    let words = number.map_or_else(
        || "a number is missing, or a byte is wrong".into(),
        |number| format!("it has counted to {number}, none missing"),
    );
    let wanted = format!("it counts on from {stopped_at}");
    story.step("s2 and s3 have gone: s1 wakes where it stopped", wanted, words, held);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_counts_and_a_gap_ends_all() {
        assert_eq!(counted("x\r\nprobe:counted:1\r\n\nprobe:counted:2\r\n"), Some(2));
        assert_eq!(counted(""), Some(0));
        assert_eq!(counted("probe:counted:1\nprobe:counted:3\n"), None);
        assert_eq!(counted("probe:counted:1\nprobe:counted:1\n"), None);
        assert_eq!(counted("probe:counted:1\nprobe:wrong\n"), None);
    }

    #[test]
    fn the_soaker_has_no_room_beside_the_others_and_has_it_alone() {
        assert!(2 * OTHER.0 + OPERATING.0 > SIZE.memory.0 && STARTING < SIZE.memory && OPERATING < STARTING);
        assert!(counts().contains(&format!("count={HELD_MIB}")));
    }
}
