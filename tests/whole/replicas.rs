//! A running network is duplicated: its duplicate goes on where the source was, with a connection that is open between two of its
//! machines on two hosts, and neither misses a line.
//!
//! `serves` counts lines over one connection; `fetches`, on the other host, checks that none is missing or twice.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    download::{FETCHES, SERVES, came},
    eventually,
};
use serde_json::{Value, json};

const SLOW: Duration = Duration::from_secs(240);

fn last(lines: &[u64]) -> u64 {
    lines.last().copied().unwrap_or_default()
}

/// Waits until so many more lines have come than `from`, and gives what was said.
fn await_lines(cloud: &Cloud, tenant: &Api, fetches: &str, wanted: u64) -> anyhow::Result<Vec<u64>> {
    // Whether they have come or never will.
    let is_over = || (!matches!(came(tenant, fetches), Ok(lines) if last(&lines) < wanted)).then_some(());
    eventually("lines come", SLOW, is_over).with_context(|| format!("{:?}\n{}", tenant.log(fetches), cloud.logs()))?;
    came(tenant, fetches).with_context(|| cloud.logs())
}

/// Duplicates the network, and gives the replica.
fn duplicate(cloud: &Cloud, tenant: &Api, vpc: &str, name: &str, more: &[&str]) -> anyhow::Result<Value> {
    let create = [&["replica", "create", vpc, "--name", name, "--wait"], more].concat();
    let id = cloud.run(tenant, &create).with_context(|| cloud.logs())?;
    tenant.get(&format!("/v1/replicas/{}", id.trim()))?.ok()
}

fn duplicate_of(replica: &Value, source: &str) -> anyhow::Result<String> {
    let duplicate = replica["objects"][source].as_str();
    duplicate.map(Into::into).with_context(|| format!("{source} has no duplicate in {replica}"))
}

/// The duplicate's machines go on in the middle of what their sources did, and reach each other and nobody else.
fn goes_on(cloud: &Cloud, tenant: &Api, replica: &Value, (fetches, before): (&str, u64)) -> anyhow::Result<String> {
    let twin = duplicate_of(replica, fetches)?;
    let shown = tenant.get(&format!("/v1/instances/{twin}"))?.ok()?;
    ensure!(
        shown["began"] == json!({"from": "duplicate", "of": fetches}) && shown["address"] == "10.0.1.11",
        "{shown}"
    );
    let lines = await_lines(cloud, tenant, &twin, before + 100)?;
    ensure!(lines.first() > Some(&before), "it had {before} lines when it was cut, and then said {lines:?}");
    ensure!(lines.windows(2).all(|two| two[0] + 20 == two[1]), "{lines:?}");
    Ok(twin)
}

/// The duplicate's machines talk as their sources do, until a rule of the duplicate alone forbids it.
fn flows_are_compared(cloud: &Cloud, tenant: &Api, twins: [String; 2], group_of_twin: &str) -> anyhow::Result<()> {
    let mut compared = Value::Null;
    let mut compare = || -> anyhow::Result<Value> {
        let diff = ["replica", "diff", "shallow", "--flows", "--output", "json"];
        compared = serde_json::from_str(&cloud.run(tenant, &diff)?)?;
        Ok(compared.clone())
    };
    // Both ends of the download, on both sides.
    let alike = || (compare().ok()?["alike"].as_u64() >= Some(2)).then_some(());
    eventually("the download is seen on both sides", SLOW, alike).with_context(|| cloud.logs())?;

    let group = tenant.get(&format!("/v1/security-groups/{group_of_twin}"))?.ok()?;
    for rule in group["rules"].as_array().context("it has rules")? {
        let rule = rule["id"].as_str().context("a rule has an id")?;
        cloud.run(tenant, &["security-group", "revoke", group_of_twin, rule])?;
    }
    let refused = || {
        let compared = compare().ok()?;
        let is_refused = |one: &&Value| one["duplicate"]["rejected"].as_u64() > Some(0);
        compared["differences"].as_array()?.iter().find(is_refused).cloned()
    };
    let one = eventually("the refusal is told", SLOW, refused).with_context(|| cloud.logs())?;
    let of_duplicate = twins.iter().any(|twin| one["conversation"]["instance"] == *twin);
    ensure!(of_duplicate && one["source"]["rejected"].as_u64().unwrap_or_default() == 0, "{one}");
    Ok(())
}

#[test]
fn a_duplicated_network_goes_on_with_its_connections_and_a_deep_one_outlives_its_source() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Qemu, 2)?;
    let tenant = cloud.tenant("first")?;
    let (vpc, [serves, fetches]) = cloud.network_of_two(&tenant, [("10.0.1.10", SERVES), ("10.0.1.11", FETCHES)])?;
    let before = last(&await_lines(&cloud, &tenant, &fetches, 40)?);

    let shallow = duplicate(&cloud, &tenant, &vpc, "shallow", &[])?;
    let twin = goes_on(&cloud, &tenant, &shallow, (&fetches, before))?;
    let now = last(&came(&tenant, &fetches).with_context(|| cloud.logs())?);
    await_lines(&cloud, &tenant, &fetches, now + 40)?;
    let pauses: BTreeMap<String, Value> = serde_json::from_value(shallow["instances"].clone())?;
    ensure!(pauses.len() == 2 && pauses.values().all(|one| one["pause_micros"].as_u64() > Some(0)), "{pauses:?}");
    println!("stood still: {pauses:?}");

    // A change of the duplicate is none of its source, which it needs.
    let of_source = tenant.get(&format!("/v1/instances/{fetches}"))?.ok()?;
    let group = of_source["security_groups"][0].as_str().context("it has no group")?.to_owned();
    let of_twin = duplicate_of(&shallow, &group)?;
    let rules =
        |group: &str| tenant.get(&format!("/v1/security-groups/{group}"))?.ok().map(|shown| shown["rules"].clone());
    let rules_before = rules(&group)?;
    cloud.run(
        &tenant,
        &["security-group", "authorize", &of_twin, "--protocol", "tcp", "--port", "81", "--cidr", "10.9.0.0/16"],
    )?;
    ensure!(rules(&group)? == rules_before, "the source's rules changed");
    let differs: Value =
        serde_json::from_str(&cloud.run(&tenant, &["replica", "diff", "shallow", "--output", "json"])?)?;
    ensure!(differs["differences"].as_array().is_some_and(|all| !all.is_empty()), "{differs}");
    let refused = tenant.delete(&format!("/v1/instances/{serves}"))?;
    ensure!(refused.code() == "ReplicaDependsOnSource", "{refused:?}");

    let behind = |replica: &Value| -> anyhow::Result<u64> {
        let vpc = replica["vpc"].as_str().context("it has a network")?;
        tenant.get(&format!("/v1/vpcs/{vpc}"))?.ok()?["clock_behind_micros"].as_u64().context("it has a clock")
    };
    ensure!((1..600_000_000).contains(&behind(&shallow)?), "its clock did not go on with its guests");
    flows_are_compared(&cloud, &tenant, [twin.clone(), duplicate_of(&shallow, &serves)?], &of_twin)?;

    let before = last(&came(&tenant, &fetches).with_context(|| cloud.logs())?);
    let deep = duplicate(&cloud, &tenant, &vpc, "deep", &["--copy", "deep", "--clock", "correct"])?;
    ensure!(behind(&deep)? == 0, "its clock was not corrected");
    let whole = goes_on(&cloud, &tenant, &deep, (&fetches, before))?;
    cloud.run(&tenant, &["replica", "delete", "shallow", "--wait"]).with_context(|| cloud.logs())?;
    let gone = tenant.get(&format!("/v1/instances/{twin}"))?;
    ensure!(!gone.is_success() || gone.body["state"] == "terminated", "{gone:?}");
    for instance in [&serves, &fetches] {
        tenant.delete(&format!("/v1/instances/{instance}"))?.ok()?;
        tenant.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", SLOW)?;
    }
    let now = last(&came(&tenant, &whole).with_context(|| cloud.logs())?);
    await_lines(&cloud, &tenant, &whole, now + 60)?;
    Ok(())
}
