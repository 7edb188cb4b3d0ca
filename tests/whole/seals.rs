//! Sealed operations from end to end: who signs, who carries and who reads are three folders, and the host trusts none of those
//! between.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use serde_json::{Value, json};

const BOOT: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(60);

/// Operators read everything; tenants do with their own instances what reads and controls.
const GRANTS: &str = r#"
    permit(principal, action in Action::"reads", resource) when { principal.account == "000000000001" };
    permit(principal, action in [Action::"reads", Action::"controls"], resource is Instance)
        when { principal.account == resource.account };
"#;

/// A guest that always has something to say to its router.
const TALKS: &str =
    "#!/bin/sh\n(while :; do ping -c 1 -W 1 10.0.1.1 && echo talks; sleep 1; done) > /dev/console 2>&1 &\n";

/// A cloud with a host that goes by a policy, an instance of one tenant, and the keys of all who take part.
struct Scene {
    cloud: Cloud,
    operator: Api,
    /// Whose instance it is, and another.
    tenants: [Api; 2],
    host: String,
    instance: String,
    generation: u64,
}

impl Scene {
    fn new() -> anyhow::Result<Self> {
        let mut cloud = Cloud::start(Driver::Qemu, 1)?;
        for folder in ["authoriser", "carrier", "reader"] {
            fs::create_dir(cloud.dir().join(folder))?;
        }
        let (operator, tenants) = (cloud.operator()?, [cloud.tenant("first")?, cloud.tenant("second")?]);
        for name in ["policy", "alice", "tina", "olaf"] {
            cloud.run(&operator, &["seal", "keygen", "--out", &format!("authoriser/{name}")])?;
        }
        cloud.run(&operator, &["seal", "keygen", "--purpose", "reading", "--out", "reader/key"])?;
        restart(&mut cloud)?;
        publish(&cloud, &operator, &tenants)?;
        let (_, subnet) = tenants[0].network()?;
        let image = cloud.tiny()?;
        let instance =
            tenants[0].launch(json!({"image": image, "subnet": subnet, "memory": 128 << 20, "user_data": TALKS}))?;
        let path = format!("/v1/instances/{instance}");
        let running = tenants[0].await_state(&path, "state", "running", BOOT).with_context(|| cloud.logs())?;
        let generation = running["generation"].as_u64().context("no generation")?;
        let mut scene = Self { cloud, operator, tenants, host: String::new(), instance, generation };
        scene.host = scene.learn_host()?;
        Ok(scene)
    }

    /// A tenant learns who its host is, once that goes by the policy.
    fn learn_host(&self) -> anyhow::Result<String> {
        let tenant = &self.tenants[0];
        let ask =
            ["seal", "host-key", "--instance", &self.instance, "--out", "authoriser/guest.pub", "--output", "json"];
        let ask = [&ask[..], &["--authority", "authoriser/policy.pub"]].concat();
        let told = eventually("the host goes by the policy", PATIENCE, || {
            let told: Value = serde_json::from_str(&self.cloud.run(tenant, &ask).ok()?).ok()?;
            (told["policy"] == 1).then_some(told)
        });
        let told = told.with_context(|| self.cloud.logs())?;
        let host = told["host"].as_str().context("no host")?.to_owned();
        let recipient = told["recipient"].as_str().unwrap_or_default();
        ensure!(recipient.starts_with("age1tag1") && told["epoch"] == 1, "not a key of its TPM: {told}");
        fs::write(self.path("authoriser/recipient"), recipient)?;
        self.cloud
            .run(&self.operator, &["seal", "host-key", &host, "--layer", "host", "--out", "authoriser/host.pub"])?;
        Ok(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cloud.dir().join(name)
    }

    /// A request for the instance's memory, signed by somebody.
    fn request(&self, name: &str, by: &str, host: &str) -> anyhow::Result<String> {
        let (generation, account) = (self.generation.to_string(), self.tenants[0].account.clone());
        let arguments = ["--argument", "space=physical", "--argument", "address=0x1000", "--argument", "length=4096"];
        let target = ["--instance", &self.instance, "--generation", &generation, "--account", &account];
        self.write(
            name,
            by,
            "guest.memory.read",
            &[&arguments[..], &target, &["--host", host, "--host-key", "authoriser/guest.pub"]].concat(),
        )
    }
    fn health(&self, name: &str) -> anyhow::Result<String> {
        self.write(name, "alice", "host.health", &["--host", &self.host, "--host-key", "authoriser/host.pub"])
    }
    /// A request for the flows of the host's switch.
    fn flows(&self, name: &str) -> anyhow::Result<String> {
        let arguments = ["--argument", "seconds=3600", "--argument", "most_records=1000"];
        let target = ["--host", &self.host, "--host-key", "authoriser/host.pub"];
        self.write(name, "alice", "host.flows", &[&arguments[..], &target].concat())
    }
    fn write(&self, name: &str, by: &str, operation: &str, more: &[&str]) -> anyhow::Result<String> {
        let (out, key) = (format!("carrier/{name}.json"), format!("authoriser/{by}"));
        let reader = fs::read_to_string(self.path("reader/key.pub"))?;
        let fixed = ["seal", "request", operation, "--sign-key", &key, "--result-key", reader.trim(), "--out", &out];
        self.cloud.run(&self.operator, &[&fixed[..], &["--purpose", "ticket 4711"], more].concat())?;
        Ok(out)
    }

    fn submit(&self, by: &Api, request: &str, more: &[&str]) -> anyhow::Result<String> {
        let out = request.replace(".json", ".age");
        self.cloud.run(by, &[&["seal", "submit", request, "--out", &out][..], more].concat())?;
        Ok(out)
    }
    fn refused(&self, by: &Api, request: &str, more: &[&str]) -> anyhow::Result<()> {
        let refused = self.cloud.cli(by, &[&["seal", "submit", request][..], more].concat())?.output()?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            refused.status.code() == Some(1) && said.starts_with("SealRefused"),
            "{request}: {said}\n{}",
            self.cloud.logs()
        );
        Ok(())
    }

    /// The host's TPM said of which host a result is: by the key on the card that the operator vouches for.
    fn check_quote(&self, verify: &[&str]) -> anyhow::Result<()> {
        let (tenant, card) = (&self.tenants[0], "carrier/card");
        let ask = ["seal", "host-key", "--instance", &self.instance, "--card-out", card, "--output", "json"];
        let host: Value = serde_json::from_str(&self.cloud.run(tenant, &ask)?)?;
        ensure!(host["quote"]["registers"].is_array() && host["tpm"]["endorsement_certificates"].is_array(), "{host}");
        let quoted = ["--require-quote", card, "--authority", "authoriser/policy.pub", "--output", "json"];
        let told: Value = serde_json::from_str(&self.cloud.run(tenant, &[verify, &quoted].concat())?)?;
        let checked = &told["quote_checked"];
        ensure!(checked["vouched"] == true && checked["tpm"] == "software" && checked["host"] == self.host, "{told}");
        ensure!(checked["registers"].as_array().is_some_and(|registers| registers.len() == 7), "{told}");
        // A card that another key vouches for is none.
        let other = [verify, &["--require-quote", card, "--authority", "authoriser/alice.pub"]].concat();
        ensure!(self.cloud.run(tenant, &other).is_err(), "anybody may vouch for a card");
        Ok(())
    }

    /// The tenant's own sealed requests take its instance's power away and have it started again, by its controller's wish.
    fn stop_and_start(&self) -> anyhow::Result<()> {
        let (tenant, path) = (&self.tenants[0], format!("/v1/instances/{}", self.instance));
        let generation = self.generation.to_string();
        let target = ["--instance", &self.instance, "--generation", &generation, "--account", &tenant.account];
        let target = [&target[..], &["--host", &self.host, "--host-key", "authoriser/guest.pub"]].concat();
        self.submit(tenant, &self.write("stop", "tina", "guest.stop", &target)?, &[])?;
        tenant.await_state(&path, "state", "stopped", PATIENCE).with_context(|| self.cloud.logs())?;
        // Of what does not run nothing else is asked.
        self.refused(tenant, &self.request("stopped", "tina", &self.host)?, &[])?;
        let started = self.submit(tenant, &self.write("start", "tina", "guest.start", &target)?, &[])?;
        let told: Value = serde_json::from_slice(&decrypt(&self.path(&started), &self.path("reader/key"))?)?;
        ensure!(told["result"] == json!({"changed": true, "generation": self.generation + 1}), "{told}");
        let running = tenant.await_state(&path, "state", "running", PATIENCE).with_context(|| self.cloud.logs())?;
        ensure!(running["generation"] == self.generation + 1, "{running}");
        // It was started once, and what started it starts nothing more.
        self.refused(tenant, "carrier/start.json", &[])
    }

    /// Entries of the log, with proofs.
    fn log(&self, by: &Api, of: &[&str]) -> anyhow::Result<Vec<Value>> {
        let fixed = ["seal", "log", "--verify", "--host-key", "authoriser/guest.pub", "--output", "json"];
        Ok(serde_json::from_str(&self.cloud.run(by, &[&fixed[..], of].concat())?)?)
    }
}

/// Starts the host with the policy key that it pins.
fn restart(cloud: &mut Cloud) -> anyhow::Result<()> {
    cloud.kill_host(0);
    cloud.start_host(0, |command| {
        command.args(["--seal-policy-key", "authoriser/policy.pub", "--seal-recipient", "tpm", "--seal-epoch", "1"]);
    })
}

fn publish(cloud: &Cloud, operator: &Api, tenants: &[Api; 2]) -> anyhow::Result<()> {
    fs::write(cloud.dir().join("authoriser/grants"), GRANTS)?;
    for (person, account) in
        [("alice", &operator.account), ("tina", &tenants[0].account), ("olaf", &tenants[1].account)]
    {
        let file = format!("authoriser/{person}.pub");
        cloud.run(operator, &["seal", "keys", "add", &file, "--person", person, "--account", account])?;
    }
    cloud.run(operator, &["seal", "grants", "add", "all", "authoriser/grants"])?;
    // The operator's word for the cards of all hosts, which then come with it.
    let vouch = ["seal", "policy", "vouch", "--all", "--policy-key", "authoriser/policy"];
    eventually("the host shows its card", PATIENCE, || cloud.run(operator, &vouch).ok())
        .with_context(|| cloud.logs())?;
    cloud.run(operator, &["seal", "policy", "publish", "--policy-key", "authoriser/policy"]).map(drop)
}

/// A stock tool, with the reader's key.
fn decrypt(sealed: &Path, key: &Path) -> anyhow::Result<Vec<u8>> {
    let opened = Command::new("age").args(["-d", "-i"]).arg(key).arg(sealed).output()?;
    ensure!(opened.status.success(), "age: {}", String::from_utf8_lossy(&opened.stderr));
    Ok(opened.stdout)
}

#[test]
fn a_tenants_sealed_request_is_carried_out_once_and_only_its_reader_opens_what_comes_of_it() -> anyhow::Result<()> {
    let mut scene = Scene::new()?;
    let [first, second] = scene.tenants.clone();
    // The flows of its switch.
    first.await_log(&scene.instance, "talks", BOOT).with_context(|| scene.cloud.logs())?;
    let flows = scene.submit(&scene.operator, &scene.flows("flows")?, &[])?;
    let flows: Value = serde_json::from_slice(&decrypt(&scene.path(&flows), &scene.path("reader/key"))?)?;
    let records = flows["result"]["records"].as_array().context("no records")?;
    ensure!(records.iter().any(|record| record["instance"] == scene.instance), "{flows}");
    // The operator carries what the tenant signed, and what comes back opens for the reader with a stock tool.
    let good = scene.request("good", "tina", &scene.host)?;
    // What is asked nobody reads on the way: the host opens it by its TPM.
    let recipient = fs::read_to_string(scene.path("authoriser/recipient"))?;
    let closed = ["seal", "encrypt", &good, "--host-recipient", &recipient, "--out", "carrier/closed.json"];
    scene.cloud.run(&scene.operator, &closed)?;
    let result = scene.submit(&scene.operator, "carrier/closed.json", &["--host", &scene.host])?;
    ensure!(
        decrypt(&scene.path(&result), &scene.path("reader/key"))?.len() == 4096,
        "not the memory that was asked for"
    );
    let verify = ["seal", "verify", &result, "--request", &good, "--host-key", "authoriser/guest.pub"];
    scene.cloud.run(&second, &verify)?;
    scene.check_quote(&verify)?;
    // Attacks: replay, another host's, another tenant's key, and another tenant as the carrier.
    scene.refused(&scene.operator, &good, &[])?;
    let elsewhere = scene.request("elsewhere", "tina", "host-00000000000000001")?;
    scene.refused(&scene.operator, &elsewhere, &["--host", &scene.host])?;
    let foreign = scene.request("foreign", "olaf", &scene.host)?;
    scene.refused(&scene.operator, &foreign, &[])?;
    let unreached = scene.cloud.cli(&second, &["seal", "submit", &foreign])?.output()?;
    ensure!(
        String::from_utf8_lossy(&unreached.stderr).contains("NotFound"),
        "a tenant reached a host without anything of it"
    );
    // Killed in the middle: it may have been done or not, and is not done again.
    let cut = scene.health("cut")?;
    let mut submitting = scene.cloud.cli(&scene.operator, &["seal", "submit", &cut])?.spawn()?;
    let log = ["--host", &scene.host];
    let taken = || (scene.log(&scene.operator, &log).ok()?.len() == 6).then_some(());
    eventually("the request is in the log", PATIENCE, taken).with_context(|| scene.cloud.logs())?;
    scene.cloud.kill_host(0);
    // What its carrier says of it now does not matter.
    let _ = submitting.kill();
    submitting.wait()?;
    restart(&mut scene.cloud)?;
    let up = || scene.log(&scene.operator, &["--host", &scene.host]).ok();
    eventually("the host answers again", PATIENCE, up).with_context(|| scene.cloud.logs())?;
    scene.refused(&scene.operator, &cut, &[])?;
    // The log: all for the operator, its own for the tenant, none for another.
    let all = scene.log(&scene.operator, &["--host", &scene.host, "--state", "carrier/head"])?;
    let verdicts: Vec<&str> = all.iter().filter_map(|entry| entry["verdict"].as_str()).collect();
    let expected =
        ["allowed", "allowed", "SealReplayed", "SealOtherTarget", "SealNotGranted", "allowed", "SealReplayed"];
    ensure!(verdicts == expected, "{verdicts:?}");
    ensure!(scene.log(&first, &["--instance", &scene.instance])?.len() == 4);
    ensure!(scene.log(&second, &["--instance", &scene.instance]).is_err());
    // One that watches is answered within a moment of what is unusual: there is always some memory in use.
    let watching =
        ["--watched", "10s", "--threshold", "memory=0", "--host", &scene.host, "--host-key", "authoriser/host.pub"];
    let watching = scene.write("watching", "alice", "host.health", &watching)?;
    scene.cloud.run(&scene.operator, &["seal", "submit", &watching, "--out", "carrier/watching.age"])?;
    let collect = ["seal", "collect", &watching, "--out", "carrier/watching.age", "--keep"];
    let snapshot = || {
        scene.cloud.run(&scene.operator, &collect).ok()?;
        let taken = fs::read_dir(scene.path("carrier")).ok()?.flatten().map(|entry| entry.path());
        taken.into_iter().find(|path| {
            path.to_string_lossy().contains("/watching.0") && path.extension().is_some_and(|end| end == "age")
        })
    };
    let snapshot = eventually("what is unusual is answered", PATIENCE, snapshot).with_context(|| scene.cloud.logs())?;
    let health: Value = serde_json::from_slice(&decrypt(&snapshot, &scene.path("reader/key"))?)?;
    ensure!(health["operation"] == "host.health", "{health}");
    scene.stop_and_start()?;
    // With the controller away, on the host itself.
    let local = scene.health("local")?;
    scene.cloud.kill_controller();
    let folder = scene.cloud.host_dir(0).to_string_lossy().into_owned();
    let result = scene.submit(&scene.operator, &local, &["--local", &folder])?;
    let health: Value = serde_json::from_slice(&decrypt(&scene.path(&result), &scene.path("reader/key"))?)?;
    ensure!(health.is_object(), "{health}");
    // Beside what was counted so far: the flows, this, the request that watches, and its times since.
    ensure!(scene.log(&scene.operator, &["--local", &folder, "--state", "carrier/head"])?.len() >= 10);
    Ok(())
}

/// One signed request for three hosts, of which one is down: what there is is brought, and proved; a carrier that is killed goes on where
/// it was; and no host does it twice.
#[test]
fn a_fleet_is_asked_by_one_request_and_what_comes_of_it_is_collected_as_hosts_can_give_it() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 3)?;
    fs::create_dir(cloud.dir().join("authoriser"))?;
    let operator = cloud.operator()?;
    for (name, purpose) in [("policy", "signing"), ("alice", "signing"), ("reader", "reading")] {
        let file = format!("authoriser/{name}");
        cloud.run(&operator, &["seal", "keygen", "--purpose", purpose, "--out", &file])?;
    }
    let start = |cloud: &mut Cloud, host: usize| {
        cloud.kill_host(host);
        cloud.start_host(host, |command| {
            command.args(["--seal-policy-key", "authoriser/policy.pub"]);
        })
    };
    (0..3).try_for_each(|host| start(&mut cloud, host))?;
    fs::write(cloud.dir().join("authoriser/grants"), GRANTS)?;
    let person = ["--person", "alice", "--account", &operator.account];
    cloud.run(&operator, &[&["seal", "keys", "add", "authoriser/alice.pub"][..], &person].concat())?;
    cloud.run(&operator, &["seal", "grants", "add", "all", "authoriser/grants"])?;
    let vouch = ["seal", "policy", "vouch", "--all", "--policy-key", "authoriser/policy", "--output", "json"];
    let vouched = eventually("all hosts show their cards", PATIENCE, || cloud.run(&operator, &vouch).ok());
    let vouched: Value = serde_json::from_str(&vouched.with_context(|| cloud.logs())?)?;
    ensure!(vouched["vouched"].as_array().map(Vec::len) == Some(3), "{vouched}");
    cloud.run(&operator, &["seal", "policy", "publish", "--policy-key", "authoriser/policy"])?;
    // It names all hosts, by the keys that the operator vouches for.
    let reader = fs::read_to_string(cloud.dir().join("authoriser/reader.pub"))?;
    let hosts = ["--hosts", "all", "--authority", "authoriser/policy.pub", "--sign-key", "authoriser/alice"];
    let terms = ["--result-key", reader.trim(), "--purpose", "how all do", "--out", "fleet.json"];
    let request = [&["seal", "request", "host.health"][..], &hosts, &terms].concat();
    eventually("hosts show what they are vouched for with", PATIENCE, || cloud.run(&operator, &request).ok())
        .with_context(|| cloud.logs())?;
    cloud.kill_host(2);
    // Killed while one host does not answer: what came from the others is there.
    let results = cloud.dir().join("results");
    let have = || {
        let files = fs::read_dir(&results).into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|end| end == "age")).count()
    };
    let mut killed = submit_to_all(&cloud, &operator, "10m")?.spawn()?;
    let two = eventually("two hosts have answered", PATIENCE, || (have() == 2).then_some(()));
    killed.kill()?;
    killed.wait()?;
    two.with_context(|| cloud.logs())?;
    let outcomes = |told: &[u8]| -> anyhow::Result<Vec<String>> {
        let told: Vec<Value> = serde_json::from_slice(told)?;
        let mut outcomes: Vec<_> = told.iter().filter_map(|one| one["outcome"].as_str().map(str::to_owned)).collect();
        outcomes.sort();
        Ok(outcomes)
    };
    let partial = submit_to_all(&cloud, &operator, "1s")?.output()?;
    ensure!(partial.status.code() == Some(1), "one host is down");
    ensure!(outcomes(&partial.stdout)? == ["done", "done", "none"], "{}", String::from_utf8_lossy(&partial.stdout));
    start(&mut cloud, 2)?;
    let whole = submit_to_all(&cloud, &operator, "1m")?.output()?.stdout;
    ensure!(outcomes(&whole)? == ["done"; 3], "{}\n{}", String::from_utf8_lossy(&whole), cloud.logs());
    for entry in fs::read_dir(&results)?.flatten().map(|entry| entry.path()) {
        if entry.extension().is_some_and(|end| end == "age") {
            let (age, key) = (entry.to_string_lossy().into_owned(), entry.with_extension("pub"));
            cloud.run(
                &operator,
                &["seal", "verify", &age, "--request", "fleet.json", "--host-key", &key.to_string_lossy()],
            )?;
            let health: Value = serde_json::from_slice(&decrypt(&entry, &cloud.dir().join("authoriser/reader"))?)?;
            ensure!(health["operation"] == "host.health", "{health}");
        }
    }
    ensure!(have() == 3);
    Ok(())
}

/// A carrier that tries for so long with a host that does not answer.
fn submit_to_all(cloud: &Cloud, by: &Api, patience: &str) -> anyhow::Result<Command> {
    let arguments = ["seal", "submit", "fleet.json", "--out", "results", "--for", patience, "--output", "json"];
    let mut command = cloud.cli(by, &arguments)?;
    command.stdout(std::process::Stdio::piped());
    Ok(command)
}
