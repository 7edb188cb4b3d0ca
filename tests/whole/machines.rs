//! What a user does with real VMs: consoles, user-data and metadata, names, volumes and snapshots, stopping and starting.

use std::time::Duration;

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, guest_program,
};
use serde_json::{Value, json};

const BOOT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

const USER_DATA: &str = "#!/bin/sh
echo \"probe: id $(metadata meta-data/instance-id)\"
echo \"probe: address $(metadata meta-data/local-ipv4)\"
timeout 3 wget -q -O - http://169.254.169.254/latest/meta-data/instance-id || echo 'probe: refused without a token'
echo \"page of $(metadata meta-data/instance-id)\" > /srv/index.html
httpd -p 80 -h /srv
";

/// Asks the network's clock for the seconds since 1900, and says whether they are those of the guest's own clock.
const ASK_TIME: &str = "T=$(/run/clock | tail -c 8 | head -c 4 | xxd -p); D=$((0x$T - 2208988800 - $(date +%s))); \
    [ $D -ge -10 ] && [ $D -le 10 ] && echo told-$((1+1))-times";

/// Runs a command in the guest and waits until the console shows what it should print.
fn in_guest(cloud: &Cloud, api: &Api, instance: &str, line: &str, prints: &str) -> anyhow::Result<()> {
    cloud.type_line(api, instance, line)?;
    api.await_log(instance, prints, PATIENCE).map(drop).with_context(|| format!("`{line}` in the guest"))
}

struct Guest<'a> {
    cloud: &'a Cloud,
    api: &'a Api,
    id: String,
}

impl Guest<'_> {
    fn path(&self) -> String {
        format!("/v1/instances/{}", self.id)
    }
    fn run(&self, line: &str, prints: &str) -> anyhow::Result<()> {
        in_guest(self.cloud, self.api, &self.id, line, prints)
    }
    fn await_state(&self, state: &str) -> anyhow::Result<Value> {
        self.api.await_state(&self.path(), "state", state, PATIENCE).with_context(|| self.cloud.logs())
    }
    /// Types until a shell answers: the console does not say when it listens.
    fn await_shell(&self, word: &str) -> anyhow::Result<()> {
        let answered = || {
            self.cloud.type_line(self.api, &self.id, &format!("echo {word}-$((1+1))")).ok()?;
            self.api.log(&self.id).ok()?.contains(&format!("{word}-2")).then_some(())
        };
        eventually(&format!("a shell says {word}"), BOOT, answered)
    }
    /// The other one is called so: it serves a page at its name and at its id, and its address has its name.
    fn finds(&self, other: &Guest<'_>, [a, b, c, d]: [u8; 4]) -> anyhow::Result<()> {
        let page = format!("page of {}", other.id);
        self.run("timeout 10 wget -q -O - http://other/", &page)?;
        let by_id = format!("timeout 10 wget -q -O - http://{}.internal/ | sed s/^/by-id:/", other.id);
        self.run(&by_id, &format!("by-id:{page}"))?;
        self.run(
            &format!("nslookup {a}.{b}.{c}.{d}"),
            &format!("{d}.{c}.{b}.{a}.in-addr.arpa\tname = other.internal"),
        )?;
        self.run("nslookup other.internal | sed s/^/found:/", &format!("found:Address: {a}.{b}.{c}.{d}"))
    }
    fn attach(&self, volume: &str) -> anyhow::Result<()> {
        let path = format!("/v1/volumes/{volume}");
        self.api.post(&format!("{path}/attach"), &json!({"instance": self.id}))?.ok()?;
        self.api.await_state(&path, "state", "in-use", PATIENCE).map(drop).with_context(|| self.cloud.logs())
    }
    fn detach(&self, volume: &str) -> anyhow::Result<()> {
        let path = format!("/v1/volumes/{volume}");
        self.api.post(&format!("{path}/detach"), &json!({}))?.ok()?;
        self.api.await_state(&path, "state", "available", PATIENCE).map(drop).with_context(|| self.cloud.logs())
    }
}

#[test]
fn a_user_works_with_machines_volumes_and_snapshots() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Qemu, 2)?;
    let image = cloud.tiny()?;
    let tenant = cloud.tenant("first")?;
    let (_, subnet) = tenant.network()?;
    let user_data = format!("{USER_DATA}{}", guest_program::placed(guest_program::CLOCK, "/run/clock"));
    let launch = |name: &str, address: &str| -> anyhow::Result<Guest<'_>> {
        let body = json!({"image": image, "subnet": subnet, "memory": 128 << 20, "user_data": user_data,
            "address": address, "tags": {"Name": name}});
        Ok(Guest { cloud: &cloud, api: &tenant, id: tenant.launch(body)? })
    };
    let (one, other) = (launch("One", "10.0.1.10")?, launch("Other", "10.0.1.20")?);
    user_data_and_metadata(&tenant, &one)?;
    tenant.await_log(&other.id, "lucarne: ready", BOOT)?;
    let volume = volumes_while_it_runs(&tenant, &one)?;
    a_snapshot_on_the_other_host(&tenant, &one, &other, &volume)?;
    one.finds(&other, [10, 0, 1, 20])?;
    one.run(ASK_TIME, "told-2-times")?;
    cloud.run(&tenant, &["instance", "terminate", &other.id, "--wait"])?;
    let replacement = launch("Other", "10.0.1.30")?;
    tenant.await_log(&replacement.id, "lucarne: ready", BOOT)?;
    one.finds(&replacement, [10, 0, 1, 30])?;
    stopped_started_rebooted(&tenant, &one)?;
    cloud.run(&tenant, &["instance", "terminate", &one.id, &replacement.id, "--wait"])?;
    for guest in [&one, &other, &replacement] {
        guest.await_state("terminated")?;
    }
    questions_are_recorded(&tenant, &one)?;
    tenant.delete(&format!("/v1/volumes/{volume}"))?.ok()?;
    nothing_is_left(&cloud, &tenant)
}

fn questions_are_recorded(api: &Api, guest: &Guest<'_>) -> anyhow::Result<()> {
    let path = format!("/v1/flows?since=0&limit=100&instance={}&port=53", guest.id);
    let recorded = || {
        let records = api.get(&path).ok()?.body["items"].as_array()?.clone();
        records.iter().any(|record| record["path"] == "service" && record["destination"] == "10.0.0.2").then_some(())
    };
    eventually("its questions to the resolver are recorded", PATIENCE, recorded)
}

fn user_data_and_metadata(api: &Api, guest: &Guest<'_>) -> anyhow::Result<()> {
    let log = api.await_log(&guest.id, "lucarne: ready", BOOT).with_context(|| guest.cloud.logs())?;
    let shown = guest.await_state("running")?;
    let address = shown["address"].as_str().unwrap_or_default();
    for wanted in
        [format!("probe: id {}", guest.id), format!("probe: address {address}"), "probe: refused without".into()]
    {
        ensure!(log.contains(&wanted), "no `{wanted}` in:\n{log}");
    }
    guest.run("echo typed-$((40+2))", "typed-42")
}

/// A volume comes and goes while the guest runs, and keeps what was written.
fn volumes_while_it_runs(api: &Api, guest: &Guest<'_>) -> anyhow::Result<String> {
    let volume = api.make("/v1/volumes", json!({"size": 16 << 20}), "/id")?;
    guest.attach(&volume)?;
    guest.run("echo precious > /dev/vda; sync; echo written-$((1+1))", "written-2")?;
    let again = api.post(&format!("/v1/volumes/{volume}/attach"), &json!({"instance": guest.id}))?;
    ensure!(again.code() == "VolumeInUse", "{again:?}");
    guest.detach(&volume)?;
    guest.run("ls /dev/vda || echo gone-$((1+2))", "gone-3")?;
    guest.attach(&volume)?;
    guest.run("echo it is $(head -c 8 /dev/vda) still", "it is precious still")?;
    Ok(volume)
}

fn a_snapshot_on_the_other_host(api: &Api, from: &Guest<'_>, to: &Guest<'_>, volume: &str) -> anyhow::Result<()> {
    let snapshot = api.make("/v1/snapshots", json!({"volume": volume}), "/id")?;
    let path = format!("/v1/snapshots/{snapshot}");
    api.await_state(&path, "state", "completed", PATIENCE).with_context(|| from.cloud.logs())?;
    from.run("echo changed!! > /dev/vda; sync; echo later-$((2+2))", "later-4")?;
    let elsewhere = api.post(&format!("/v1/volumes/{volume}/detach"), &json!({}))?;
    ensure!(elsewhere.is_success(), "{elsewhere:?}");
    api.await_state(&format!("/v1/volumes/{volume}"), "state", "available", PATIENCE)?;
    let refused = api.post(&format!("/v1/volumes/{volume}/attach"), &json!({"instance": to.id}))?;
    ensure!(refused.code() == "VolumeOnOtherHost", "{refused:?}");
    let copy = api.make("/v1/volumes", json!({"snapshot": snapshot}), "/id")?;
    to.attach(&copy)?;
    to.run("echo copy is $(head -c 8 /dev/vda) here", "copy is precious here")?;
    to.detach(&copy)?;
    api.delete(&format!("/v1/volumes/{copy}"))?.ok()?;
    api.delete(&path)?.ok()?;
    Ok(())
}

fn stopped_started_rebooted(api: &Api, guest: &Guest<'_>) -> anyhow::Result<()> {
    api.post(&format!("{}/stop", guest.path()), &json!({}))?.ok()?;
    guest.await_state("stopped")?;
    let wrong = api.post(&format!("{}/reboot", guest.path()), &json!({}))?;
    ensure!(wrong.code() == "IncorrectState", "{wrong:?}");
    api.post(&format!("{}/start", guest.path()), &json!({}))?.ok()?;
    guest.await_state("running")?;
    guest.await_shell("started")?;
    api.post(&format!("{}/reboot", guest.path()), &json!({}))?.ok()?;
    guest.await_state("running")?;
    guest.await_shell("rebooted")?;
    // A guest that powers itself off is a stopped instance, not one that is started again.
    guest.cloud.type_line(api, &guest.id, "poweroff -f")?;
    let stopped = guest.await_state("stopped")?;
    ensure!(stopped["state_reason"] != Value::Null, "{stopped}");
    Ok(())
}

fn nothing_is_left(cloud: &Cloud, api: &Api) -> anyhow::Result<()> {
    eventually("all volumes are gone", PATIENCE, || api.list("/v1/volumes").ok()?.is_empty().then_some(()))?;
    let used = |host: &Value| host["used"] != json!({"vcpus": 0, "memory": 0, "disk": 0});
    let hosts = cloud.operator()?.list("/v1/hosts")?;
    ensure!(!hosts.iter().any(used), "room is still promised: {hosts:?}");
    ensure!((0..2).all(|host| cloud.machines(host).is_empty()), "machines run");
    Ok(())
}
