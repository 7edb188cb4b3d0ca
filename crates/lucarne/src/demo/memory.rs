//! The chapter "memory": a machine gives back what it holds beyond its threshold and misses nothing, another is pinned and
//! gives nothing, the host's memory adds up, a third one moves to another host ([`moving`]), and a soaker sleeps and wakes
//! ([`soaking`]).
//!
//! Owns the cast and what is expected. The first two hold a file in memory that no compression makes smaller, and check every
//! byte of it for ever; that they say so on their consoles is what counts.

use std::{net::Ipv4Addr, time::Duration};

use lucarne_api::{
    bodies::{
        instance::LaunchInstances,
        memory::{EditMemory, MemoryOverview, ShownMemory},
    },
    client::Client,
};
use lucarne_model::{
    Bytes, ErrorCode, ImageId, InstanceId, SubnetId, Tags, Vcpus,
    instance::{Instance, Placement},
    memory::{MemoryMode, MemorySettings, MemoryThresholds},
};

use super::{
    Stage, moving,
    networks::{BETWEEN_LOOKS, cidr},
    own_host::OwnHost,
    report::Story,
    soaking,
    tenant::Tenant,
};
use crate::{
    commands::instance::log,
    failure::Failure,
    kind::IMAGE,
    listing::resolve,
    session::{answer, random_key},
    wait::Progress,
};

pub(crate) const TITLE: &str = "a machine's pages leave and come back, and no byte is missed";

const NETWORK: &str = "10.0.0.0/16";
const SUBNET: &str = "10.0.1.0/24";
const MEMORY: Bytes = Bytes::mib(128);
/// With the guest's own needs this is more than the thresholds.
const HELD_MIB: u32 = 60;
const THRESHOLDS: MemoryThresholds = MemoryThresholds { fill_above: Bytes::mib(80), drain_below: Bytes::mib(72) };
const PATIENCE: Duration = Duration::from_secs(120);
const ROUND: &str = "probe:round:";
const WRONG: &str = "probe:wrong";

pub(crate) async fn play(stage: &Stage, story: &mut Story) {
    let mut host = None;
    super::with_tenants(stage, story, async |story, tenants| scenes(stage, story, tenants, &mut host).await).await;
    if let Some(host) = host
        && let Err(failure) = host.end(&stage.operator).await
    {
        story.step("the chapter's host is gone", "no failure", failure.to_string(), false);
    }
}

/// What a machine does for ever.
pub(super) fn checks(held_mib: u32) -> String {
    format!(
        "#!/bin/sh\n(dd if=/dev/urandom of=/held bs=1M count={held_mib} 2> /dev/null; was=$(md5sum < /held); n=0\n\
         while :; do n=$((n+1))\n\
         if [ \"$was\" = \"$(md5sum < /held)\" ]; then printf '\\n{ROUND}%s\\n' $n; else printf '\\n{WRONG}\\n'; fi\n\
         done) > /dev/console 2>&1 &\n"
    )
}

/// Rounds that a machine has told of; none if a byte was wrong.
fn rounds(log: &str) -> Option<u64> {
    if log.contains(WRONG) {
        return None;
    }
    let told = log.lines().filter_map(|line| line.trim().strip_prefix(ROUND)?.parse().ok());
    Some(told.max().unwrap_or(0))
}

async fn scenes(
    stage: &Stage,
    story: &mut Story,
    tenants: &mut Vec<Tenant>,
    host: &mut Option<OwnHost>,
) -> Result<(), Failure> {
    let image: ImageId = resolve(&stage.operator, &IMAGE, "tiny").await?;
    tenants.push(Tenant::create(&stage.operator, "demo-m", &random_key()[..8], stage.allow_plaintext).await?);
    let tenant = &tenants[0];
    let _progress = Progress::start("machines that check what they hold");
    let vpc = tenant.vpc(cidr(NETWORK)?).await?;
    let subnet = tenant.subnet(vpc, cidr(SUBNET)?).await?;
    let squeezed = MemorySettings { thresholds: Some(THRESHOLDS), ..MemorySettings::default() };
    let pinned = MemorySettings { pinned: true, ..MemorySettings::default() };
    let holds = |name, memory_settings| Cast { name, memory_settings, user_data: checks(HELD_MIB), ..Cast::default() };
    let squeezed = launch(tenant, (image, subnet), holds("m1", squeezed)).await?.id;
    let pinned = launch(tenant, (image, subnet), holds("m2", pinned)).await?.id;
    let serves = Cast { name: "m3", address: Some(moving::ADDRESS), user_data: moving::serves(), ..Cast::default() };
    let serves = launch(tenant, (image, subnet), serves).await?.id;
    let downloads = Cast { name: "m4", user_data: moving::downloads(), ..Cast::default() };
    let downloads = launch(tenant, (image, subnet), downloads).await?.id;
    for machine in [squeezed, pinned, serves, downloads] {
        tenant.until_running(machine).await?;
    }
    tell_pages(story, tenant, squeezed).await?;
    tell_rounds(story, tenant, squeezed, "m1, whose pages come and go,").await?;
    tell_rounds(story, tenant, pinned, "m2, which is pinned,").await?;
    tell_pinned(story, tenant, pinned).await?;
    tell_sum(stage, story).await?;
    tell_refusal(story, tenant, squeezed).await?;
    moving::tell(story, tenant, (serves, downloads)).await?;
    // They have been seen, and their work would slow down what comes.
    for machine in [squeezed, pinned, serves, downloads] {
        tenant.terminate(machine).await?;
    }
    let host = host.insert(OwnHost::prepare(&stage.operator, soaking::SIZE).await?);
    soaking::tell(stage, story, (tenant, image, subnet), host).await
}

/// One machine's part.
pub(super) struct Cast {
    pub(super) name: &'static str,
    pub(super) memory: Bytes,
    pub(super) memory_settings: MemorySettings,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) user_data: String,
    pub(super) placement: Placement,
}

impl Default for Cast {
    fn default() -> Self {
        Self {
            name: "",
            memory: MEMORY,
            memory_settings: MemorySettings::default(),
            address: None,
            user_data: String::new(),
            placement: Placement::default(),
        }
    }
}

pub(super) async fn launch(
    tenant: &Tenant,
    (image, subnet): (ImageId, SubnetId),
    Cast { name, memory, memory_settings, address, user_data, placement }: Cast,
) -> Result<Instance, Failure> {
    let request = LaunchInstances {
        image,
        subnet,
        memory: Some(memory),
        memory_settings,
        vcpus: Some(Vcpus(1)),
        count: None,
        security_groups: Vec::new(),
        address,
        cold: false,
        virtual_tpm: false,
        attestation: None,
        user_data: Some(user_data),
        volumes: Vec::new(),
        placement,
        tags: Tags::named(name),
    };
    tenant.launch(&request).await
}

pub(super) async fn memory(tenant: &Tenant, id: InstanceId) -> Result<ShownMemory, Failure> {
    tenant.session.read(async |client: Client| answer(client.get_memory(&id)).await).await
}

/// Looks until `done`, or for so long; the last look is returned.
pub(super) async fn look<T>(
    patience: Duration,
    look: impl AsyncFn() -> Result<T, Failure>,
    done: impl Fn(&T) -> bool,
) -> Result<T, Failure> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let seen = look().await?;
        if done(&seen) || tokio::time::Instant::now() > deadline {
            return Ok(seen);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

async fn tell_pages(story: &mut Story, tenant: &Tenant, id: InstanceId) -> Result<(), Failure> {
    let below = |shown: &ShownMemory| {
        let actual = shown.actual.as_ref();
        actual.is_some_and(|actual| actual.evictions > 0 && actual.pages.resident.bytes() <= THRESHOLDS.fill_above)
    };
    let has_held = look(PATIENCE, async || log(&tenant.session, id).await, |log| rounds(log) != Some(0)).await?;
    let shown = look(PATIENCE, async || memory(tenant, id).await, below).await?;
    let seen = shown.actual.as_ref().map_or_else(
        || "its host tells nothing of its memory".into(),
        |actual| format!("{} resident, {} pages have left", actual.pages.resident, actual.evictions),
    );
    let wanted = format!("at most {} resident, and pages have left", THRESHOLDS.fill_above);
    let held = rounds(&has_held).is_some() && below(&shown);
    story.step("m1 gives back what it holds above its threshold", wanted, seen, held);
    Ok(())
}

pub(super) async fn tell_rounds(story: &mut Story, tenant: &Tenant, id: InstanceId, who: &str) -> Result<(), Failure> {
    let begun = rounds(&log(&tenant.session, id).await?).unwrap_or_default();
    let enough = |log: &String| rounds(log).is_none_or(|now| now >= begun + 2);
    let log = look(PATIENCE, async || log(&tenant.session, id).await, enough).await?;
    let seen = rounds(&log);
    let words = seen.map_or_else(|| "a byte was wrong".into(), |now| format!("{} more, all right", now - begun));
    let held = seen.is_some_and(|now| now >= begun + 2);
    story.step(format!("{who} checks every byte that it holds"), "2 more checks, all right", words, held);
    Ok(())
}

async fn tell_pinned(story: &mut Story, tenant: &Tenant, id: InstanceId) -> Result<(), Failure> {
    let told = |shown: &ShownMemory| shown.actual.is_some();
    let actual = look(PATIENCE, async || memory(tenant, id).await, told).await?.actual;
    let left = actual.as_ref().map(|actual| actual.evictions);
    let seen = left.map_or_else(|| "its host tells nothing of its memory".into(), |left| format!("{left} have left"));
    story.step("m2 is pinned: none of its pages leaves", "0 have left", seen, left == Some(0));
    Ok(())
}

async fn tell_sum(stage: &Stage, story: &mut Story) -> Result<(), Failure> {
    let call = async |client: Client| answer(client.list_memory()).await;
    let overview: MemoryOverview = stage.operator.read(call).await?;
    let wrong = overview.hosts.iter().filter(|host| host.memory.parts() != host.memory.total).count();
    let seen = format!("of {} hosts {wrong} do not", overview.hosts.len());
    let held = wrong == 0 && !overview.hosts.is_empty();
    story.step("the parts of each host's memory are its total", "they are, to the byte", seen, held);
    Ok(())
}

async fn tell_refusal(story: &mut Story, tenant: &Tenant, id: InstanceId) -> Result<(), Failure> {
    let edit = EditMemory {
        mode: Some(MemoryMode::Soaker),
        minimum_operating: Some(Bytes::mib(96)),
        minimum_starting: Some(Bytes::mib(64)),
        ..EditMemory::default()
    };
    let call = async |client: Client| answer::<_, Instance>(client.set_memory(&id, None, None, &edit)).await;
    let refused = tenant.session.change(call).await.err();
    let held = refused.as_ref().and_then(Failure::code) == Some(ErrorCode::InvalidParameterValue);
    let seen = refused.map_or_else(|| "it was taken".into(), |failure| failure.to_string());
    story.step("settings that cannot be are refused", "InvalidParameterValue", seen, held);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_round_counts_and_a_wrong_byte_ends_all() {
        assert_eq!(rounds("x\r\nprobe:round:1\r\n\nprobe:round:2\r\n"), Some(2));
        assert_eq!(rounds(""), Some(0));
        assert_eq!(rounds("probe:round:1\nprobe:wrong\n"), None);
    }

    #[test]
    fn a_machine_holds_more_than_its_threshold_and_fits_its_memory() {
        assert!(THRESHOLDS.fill_above < MEMORY && THRESHOLDS.drain_below <= THRESHOLDS.fill_above);
        assert!(checks(HELD_MIB).contains(&format!("count={HELD_MIB}")));
    }
}
