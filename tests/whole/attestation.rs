//! Attested launches: approved on a real host's proof, which others' tools verify too, or undone as a whole, whenever the
//! controller is killed.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, image,
    process::{processes_of, sweep},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// Room promised on all hosts, and all interfaces, volumes and free addresses.
fn room(operator: &Api, tenant: &Api) -> anyhow::Result<Value> {
    let hosts: Vec<Value> = operator.list("/v1/hosts")?.into_iter().map(|host| host["used"].clone()).collect();
    let free: Vec<Value> =
        tenant.list("/v1/subnets")?.into_iter().map(|subnet| subnet["available_addresses"].clone()).collect();
    Ok(json!([hosts, free, tenant.list("/v1/interfaces")?, tenant.list("/v1/volumes")?]))
}

fn attested(image: &str, subnet: &str) -> Value {
    let policy = json!({"mode": {"kind": "prompt"}, "approve_within_seconds": 1});
    json!({"image": image, "subnet": subnet, "attestation": {"policy": policy, "nonce": "AAECAwQFBgcICQoLDA0ODw=="}})
}

fn is_undone(operator: &Api, tenant: &Api, instance: &str, before: &Value) -> anyhow::Result<()> {
    let ended = tenant.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE)?;
    let code = ended.pointer("/state_reason/code").and_then(Value::as_str).unwrap_or_default();
    ensure!(code == "AttestationExpired", "{ended}");
    let mut after = Value::Null;
    eventually("everything is given back", PATIENCE, || {
        after = room(operator, tenant).ok()?;
        (after == *before).then_some(())
    })
    .with_context(|| format!("left: {after}\nbefore: {before}"))
}

#[test]
fn an_attested_launch_without_an_answer_is_undone_across_a_kill_of_the_controller_at_every_step() -> anyhow::Result<()>
{
    let mut cloud = Cloud::start(Driver::Qemu, 1)?;
    cloud.prove_tpms()?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room(&operator, &tenant)?;
    for step in ["place.before", "place.after", "place.undo-before", "place.undo-after", "admit.undo-before"] {
        let point = format!("attested-launch.{step}");
        cloud.kill_controller();
        cloud.start_controller(Some(&point))?;
        let instance = tenant.launch(attested(&disk, &subnet))?;
        let controller = cloud.controller.as_mut().context("there is a controller")?;
        controller.await_log(&format!("holding at {point}"), PATIENCE)?;
        cloud.kill_controller();
        cloud.start_controller(None)?;
        is_undone(&operator, &tenant, &instance, &before)
            .with_context(|| format!("after a kill at {point}"))
            .with_context(|| cloud.logs())?;
    }
    Ok(())
}

/// The guest prints as soon as it runs; of one that was held and ended, nothing was ever printed.
#[test]
fn a_real_vm_that_is_not_approved_never_runs_and_leaves_nothing() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Qemu, 1)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let before = room(&operator, &tenant)?;
    let nowhere = tenant.launch(attested(&disk, &subnet))?;
    let ended = tenant.await_state(&format!("/v1/instances/{nowhere}"), "state", "terminated", PATIENCE)?;
    ensure!(ended.pointer("/state_reason/code") == Some(&json!("HostNotProved")), "{ended}");
    cloud.prove_tpms()?;
    let instance = tenant.launch(attested(&disk, &subnet))?;
    is_undone(&operator, &tenant, &instance, &before).with_context(|| cloud.logs())?;
    ensure!(cloud.machines(0).is_empty(), "a process is left");
    let shown = tenant.get(&format!("/v1/instances/{instance}/attestation"))?.ok()?;
    ensure!(shown.pointer("/attestation/state") != Some(&json!("approved")), "{shown}");
    Ok(())
}

const NONCE: &str = "000102030405060708090a0b0c0d0e0f";
/// Says that it runs; and of its TPM, asked in its own words, the digest of the endorsement key's certificate and whom that
/// names: TPM2_NV_ReadPublic for its size, then TPM2_NV_Read (TPM 2.0 Library, Part 3), each answer behind its header.
const SAYS: &str = r#"#!/bin/sh
echo 'probe: RUNS' > /dev/console
[ -e /dev/tpm0 ] || exit
exec 3<>/dev/tpm0
printf '\200\001\0\0\0\016\0\0\001\151\001\300\0\012' >&3
size=$(dd bs=4096 count=1 <&3 2> /dev/null | od -An -v -tu1 -j24 -N2 | awk '{print $1 * 256 + $2}')
long=$(printf '\\%03o\\%03o' $((size / 256)) $((size % 256)))
printf "\200\002\0\0\0\043\0\0\001\116\001\300\0\012\001\300\0\012\0\0\0\011\100\0\0\011\0\0\0\0\0$long\0\0" >&3
dd bs=4096 count=1 <&3 2> /dev/null | tail -c +17 | head -c "$size" > /run/certificate
echo "probe: TPM $(sha256sum < /run/certificate | head -c 64) $(grep -ao 'i-[0-9a-f]*' /run/certificate | head -n 1)" > /dev/console
"#;
const SLOW: Duration = Duration::from_secs(240);

/// A tenant who launches real VMs of the image `tiny` on one real host with a TPM in software.
struct Scene {
    cloud: Cloud,
    tenant: Api,
    vpc: String,
    launch: Vec<String>,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 1)?;
        cloud.prove_tpms()?;
        let (image, tenant) = (cloud.tiny()?, cloud.tenant("first")?);
        let (vpc, subnet) = tenant.network()?;
        let user_data = cloud.dir().join("says").to_string_lossy().into_owned();
        fs::write(&user_data, SAYS)?;
        let launch = ["instance", "launch", "--image", &image, "--subnet", &subnet, "--memory", "128M"];
        let launch = launch.into_iter().chain(["--user-data", &user_data]).map(str::to_owned).collect();
        Ok(Self { cloud, tenant, vpc, launch })
    }

    fn launch(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let launch: Vec<&str> = self.launch.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        Ok(self.cloud.run(&self.tenant, &launch)?.trim().to_owned())
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cloud.run(&self.tenant, arguments)
    }

    /// Runs a command that is to be refused, and gives what it said.
    fn refused(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.cloud.cli(&self.tenant, arguments)?.output()?;
        ensure!(!output.status.success(), "it was not refused: {arguments:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn until(&self, instance: &str, state: &str) -> anyhow::Result<Value> {
        let path = format!("/v1/instances/{instance}");
        self.tenant.await_state(&path, "state", state, SLOW).with_context(|| self.cloud.logs())
    }

    fn runs(&self, instance: &str) -> anyhow::Result<()> {
        self.until(instance, "running")?;
        self.tenant.await_log(instance, "probe: RUNS", SLOW).map(drop).with_context(|| self.cloud.logs())
    }

    fn ends(&self, instance: &str, code: &str) -> anyhow::Result<()> {
        let ended = self.until(instance, "terminated")?;
        ensure!(ended.pointer("/state_reason/code") == Some(&json!(code)), "{ended}");
        Ok(())
    }

    /// The evidence in a folder, as its owner, `tpm2_checkquote` and a stranger to the launch see it.
    fn verify_evidence(&self, instance: &str) -> anyhow::Result<()> {
        let folder = self.cloud.dir().join("evidence");
        let dir = folder.to_string_lossy().into_owned();
        self.run(&["attestation", "evidence", instance, "--out", &dir])?;
        self.run(&["attestation", "verify", &dir, "--nonce", NONCE])?;
        let said = self.refused(&["attestation", "verify", &dir, "--nonce", "ff0102030405060708090a0b0c0d0e0f"])?;
        ensure!(said.contains("QuoteStale"), "{said}");
        // As the folder itself says that it is done.
        let readme = fs::read_to_string(folder.join("README.txt"))?;
        let part = readme.split("\n\n").find(|part| part.contains("tpm2_checkquote"));
        let (_, commands) =
            part.and_then(|part| part.split_once('\n')).context("README.txt names no tpm2_checkquote")?;
        let checked = Command::new("sh").current_dir(&folder).args(["-e", "-c", commands]).output()?;
        ensure!(checked.status.success(), "{commands}: {}", String::from_utf8_lossy(&checked.stderr));
        // With its own question to the TPM the tenant believes the maker, and nobody else.
        let roots = self.cloud.tpm_root(0).to_string_lossy().into_owned();
        self.run(&["attestation", "challenge", instance, "--roots", &roots, "--out", &dir])?;
        let verify = ["attestation", "verify", &dir, "--nonce", NONCE, "--roots", &roots, "--output", "json"];
        let report: Value = serde_json::from_str(&self.run(&verify)?)?;
        let checks = report["checks"].as_array().context("no checks")?;
        for wanted in ["endorsement", "credential"] {
            let holds = |check: &&Value| check["check"] == wanted && check["result"] == "holds";
            ensure!(checks.iter().any(|check| holds(&check)), "{wanted}: {report}");
        }
        fs::write(folder.join("event_log.bin"), b"what never happened")?;
        self.refused(&["attestation", "verify", &dir, "--nonce", NONCE]).map(drop)
    }
}

#[test]
fn a_real_vm_begins_on_its_hosts_proof_and_on_no_other_hosts_by_one_byte() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    let first = scene.launch(&["--tpm", "--attest", "prompt", "--nonce", NONCE, "--wait"])?;
    scene.until(&first, "awaiting-approval")?;
    let shown: Value = serde_json::from_str(&scene.run(&["attestation", "show", &first, "--output", "json"])?)?;
    let measured: Vec<_> = shown["measurements"].as_array().into_iter().flatten().collect();
    for component in
        ["guest-firmware", "hypervisor", "shim", "agent", "kernel", "guest-kernel", "guest-initramfs", "memory"]
    {
        ensure!(measured.iter().any(|one| one["component"] == component), "no {component} in {shown}");
    }
    scene.verify_evidence(&first)?;

    let machines = scene.cloud.machines(0);
    scene.cloud.kill_host(0);
    scene.cloud.start_host(0, |_| {})?;
    ensure!(scene.tenant.log(&first)?.trim().is_empty(), "it ran before it was approved");
    scene.run(&["attestation", "approve", &first])?;
    scene.runs(&first)?;
    ensure!(scene.cloud.machines(0) == machines, "it is not the VM that was measured");
    let own = measured.iter().find(|one| one["component"] == "virtual-tpm").context("its TPM was not measured")?;
    let digest = own["digest"].as_str().context("a digest")?;
    scene
        .tenant
        .await_log(&first, &format!("probe: TPM {digest} {first}"), SLOW)
        .with_context(|| scene.cloud.logs())?;
    ensure!(scene.refused(&["attestation", "deny", &first])?.contains("AttestationAlreadyAnswered"));

    scene.run(&["measurements", "add", "--from", &first, "--config", "known"])?;
    // Its TPM is another one.
    let known = scene.launch(&["--tpm", "--attest", "config=known"])?;
    scene.runs(&known)?;
    // A host whose TPM in software was killed has it again, and proves with it.
    let tpm = scene.cloud.host_dir(0).join("attestation/software");
    ensure!(!processes_of(&tpm).is_empty(), "the host has no TPM");
    sweep(&tpm);
    let denied = scene.launch(&["--attest", "prompt", "--wait"])?;
    scene.run(&["attestation", "deny", &denied])?;
    scene.ends(&denied, "AttestationDenied")?;

    scene.cloud.kill_host(0);
    // One byte of the agent's configuration is another.
    scene.cloud.start_host(0, |command| _ = command.args(["--memory-pool", "1M"]))?;
    let changed = scene.launch(&["--tpm", "--attest", "config=known"])?;
    scene.ends(&changed, "MeasurementUnknown")?;
    ensure!(scene.cloud.machines(0).len() == 2, "a process is left of what was denied or refused");
    Ok(())
}

const LISTENER: &str = "10.0.1.10";
const PINGER: &str = "10.0.1.11";

const COUNTS: &str = "probe: echoes ";

/// Says every second how many pings have reached it.
fn listens() -> String {
    let count = format!("awk '/^Icmp:/ {{ if (seen++) print \"{COUNTS}\" $10 }}' /proc/net/snmp");
    format!("#!/bin/sh\n(while :; do {count}; sleep 1; done) > /dev/console &\n{SAYS}")
}

/// Pings for ever, and says of each ping whether it was answered.
fn pings() -> String {
    format!(
        "#!/bin/sh\n(while :; do if ping -c 1 -W 1 {LISTENER} > /dev/null 2>&1; then echo 'probe: reached'; \
         else echo 'probe: lost'; fi; sleep 1; done) > /dev/console &\n"
    )
}

impl Scene {
    fn attested(&self, instance: &str, state: &str) -> anyhow::Result<()> {
        let mut last = Value::Null;
        let found = eventually(&format!("{instance} is {state}"), SLOW, || {
            last = self.tenant.get(&format!("/v1/instances/{instance}")).ok()?.body;
            (last.pointer("/attestation/state") == Some(&json!(state))).then_some(())
        });
        found.with_context(|| format!("last seen: {last}")).with_context(|| self.cloud.logs())
    }

    /// Waits until a console has printed a line some more times.
    fn prints_more(&self, instance: &str, line: &str, times: usize) -> anyhow::Result<()> {
        let count = || self.tenant.log(instance).ok().map(|log| log.matches(line).count());
        let before = count().context("there is a log")?;
        eventually(&format!("{instance} prints `{line}` again"), SLOW, || (count()? >= before + times).then_some(()))
            .with_context(|| self.cloud.logs())
    }

    /// How many pings have reached the listener, by its own kernel's count: as it says next.
    fn echoes(&self, listener: &str) -> anyhow::Result<u64> {
        self.prints_more(listener, COUNTS, 2)?;
        let log = self.tenant.log(listener)?;
        let number = |line: &str| line.split_once(COUNTS)?.1.split_whitespace().next()?.parse().ok();
        log.lines().rev().find_map(number).context("the listener says no number")
    }
}

/// The listener's kernel counts what reaches it, whatever the other machine makes of that.
#[test]
fn a_machine_whose_host_has_become_another_reaches_nobody_until_it_is_what_it_was() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    fs::write(scene.cloud.dir().join("says"), listens())?;
    let listener = scene.launch(&["--attest", "prompt", "--address", LISTENER, "--wait"])?;
    scene.run(&["measurements", "add", "--from", &listener])?;
    scene.run(&["attestation", "approve", &listener])?;
    scene.runs(&listener)?;
    let vpc = scene.vpc.clone();
    scene.run(&["vpc", "attest-policy", "set", &vpc, "--attest", "list", "--recheck-every", "1d"])?;
    fs::write(scene.cloud.dir().join("says"), pings())?;
    let pinger = scene.launch(&["--address", PINGER])?;
    scene.tenant.await_log(&pinger, "probe: reached", SLOW).with_context(|| scene.cloud.logs())?;

    let machines = scene.cloud.machines(0);
    scene.cloud.kill_host(0);
    scene.cloud.start_host(0, |command| _ = command.args(["--memory-pool", "1M"]))?;
    scene.attested(&pinger, "quarantined")?;
    // What the switch had before it was told.
    std::thread::sleep(Duration::from_secs(1));
    let before = scene.echoes(&listener)?;
    scene.prints_more(&pinger, "probe: lost", 3)?;
    ensure!(before > 0 && scene.echoes(&listener)? == before, "frames of a machine that was cut off go on");
    let shown = scene.tenant.get(&format!("/v1/instances/{pinger}"))?.ok()?;
    ensure!(shown["state"] == "running", "{shown}");
    ensure!(shown.pointer("/state_reason/code") == Some(&json!("MeasurementUnknown")), "{shown}");
    let events = scene.tenant.get("/v1/events?kind=attestation-failed")?.ok()?.to_string();
    ensure!(events.contains(&pinger) && events.contains("agent-configuration"), "{events}");

    scene.cloud.kill_host(0);
    scene.cloud.start_host(0, |_| {})?;
    scene.attested(&pinger, "matched")?;
    scene.prints_more(&pinger, "probe: reached", 2)?;
    ensure!(scene.cloud.machines(0) == machines, "they are not the VMs that were cut off");
    ensure!(scene.echoes(&listener)? > before, "nothing reaches it again");
    Ok(())
}
