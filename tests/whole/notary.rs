//! A notary that is killed and away: launches that rest on it wait for nobody and begin on nobody's word, and what runs runs on.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually, image,
    process::{Process, lucarne},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(90);
const NONCE: &str = "AAECAwQFBgcICQoLDA0ODw==";
/// Where an attested launch stands when its proof is there and nobody has been asked yet.
const BEFORE_JUDGEMENT: &str = "attested-launch.measure.before";

/// A tenant who trusts a notary that vouches for the one host.
struct Scene {
    cloud: Cloud,
    tenant: Api,
    notary: Option<Process>,
    /// With its port, which it keeps.
    address: String,
    launch: Value,
    vpc: String,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 1)?;
        cloud.prove_tpms()?;
        let tenant = cloud.tenant("first")?;
        let (vpc, subnet) = tenant.network()?;
        let launch = json!({"image": image::one_sector(&tenant)?, "subnet": subnet});
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let mut scene = Self { cloud, tenant, notary: None, address, launch, vpc };
        scene.start_notary()?;
        let url = format!("http://{}", scene.address);
        scene.cloud.run(&scene.cloud.operator()?, &["notary", "add", "acme", "--url", &url])?;
        let key = scene.path("notary/notary.pub");
        scene.run(&["publisher", "add", "acme", "--notary", "acme", "--key", &key])?;
        Ok(scene)
    }

    fn path(&self, name: &str) -> String {
        self.cloud.dir().join(name).to_string_lossy().into_owned()
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cloud.run(&self.tenant, arguments)
    }

    fn start_notary(&mut self) -> anyhow::Result<()> {
        let listening = self.cloud.dir().join("notary/listen");
        let _ = fs::remove_file(&listening);
        let mut command = Command::new(lucarne()?);
        command.args(["notary", "--name", "acme", "--listen", &self.address, "--state-dir", &self.path("notary")]);
        self.notary = Some(Process::start(command, &self.cloud.dir().join("notary.log"))?);
        eventually("the notary answers", PATIENCE, || listening.exists().then_some(()))
            .with_context(|| self.cloud.logs())
    }

    fn kill_notary(&mut self) {
        self.notary.take().into_iter().for_each(Process::kill);
    }

    /// Begins a launch that rests on the publisher.
    fn begin(&self) -> anyhow::Result<String> {
        let mut body = self.launch.clone();
        let policy = json!({"mode": {"kind": "manifest", "publisher": "acme"}});
        body["attestation"] = json!({"policy": policy, "nonce": NONCE});
        self.tenant.launch(body)
    }

    fn ends(&self, instance: &str, code: &str) -> anyhow::Result<()> {
        let ended = self.until(instance, "terminated")?;
        ensure!(ended.pointer("/state_reason/code") == Some(&json!(code)), "{ended}");
        Ok(())
    }

    fn until(&self, instance: &str, state: &str) -> anyhow::Result<Value> {
        let path = format!("/v1/instances/{instance}");
        self.tenant.await_state(&path, "state", state, PATIENCE).with_context(|| self.cloud.logs())
    }

    fn proof(&self, instance: &str) -> anyhow::Result<String> {
        let shown = self.tenant.get(&format!("/v1/instances/{instance}"))?.ok()?;
        Ok(shown.pointer("/attestation/state").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    fn until_proof(&self, instance: &str, state: &str) -> anyhow::Result<()> {
        eventually(&format!("{instance} is {state}"), PATIENCE, || (self.proof(instance).ok()? == state).then_some(()))
            .with_context(|| self.cloud.logs())
    }

    /// What the host proved for an instance goes through the operator's hands to the notary, which publishes it.
    fn publish(&self, instance: &str) -> anyhow::Result<()> {
        let shown = self.tenant.get(&format!("/v1/instances/{instance}/attestation"))?.ok()?;
        let pick = |one: &Value| json!({"component": one["component"], "name": one["name"], "digest": one["digest"]});
        let all = shown["measurements"].as_array().context("no measurements")?;
        let is_hosts =
            |one: &&Value| !["devices", "memory", "disk-image"].contains(&one["component"].as_str().unwrap_or(""));
        let hosts: Vec<Value> = all.iter().filter(is_hosts).map(pick).collect();
        let file = self.path("new.json");
        fs::write(&file, serde_json::to_vec(&hosts)?)?;
        let url = format!("http://{}", self.address);
        let token = self.path("notary/publish.token");
        self.run(&[
            "manifest",
            "publish",
            "--notary",
            &url,
            "--token-file",
            &token,
            "--name",
            "host",
            "--measurements",
            &file,
        ])
        .map(drop)
    }
}

#[test]
fn a_notary_that_is_away_lets_nothing_begin_ends_nothing_and_is_heard_again() -> anyhow::Result<()> {
    let mut scene = Scene::start()?;
    let unpublished = scene.begin()?;
    scene.ends(&unpublished, "InvalidManifestId.NotFound")?;
    scene.publish(&unpublished)?;
    // What was answered is there after a kill.
    scene.kill_notary();
    scene.start_notary()?;
    let vpc = scene.vpc.clone();
    scene.run(&["vpc", "attest-policy", "set", &vpc, "--attest", "manifest=acme", "--recheck-every", "1d"])?;
    let first = scene.begin()?;
    scene.until(&first, "running")?;
    let machines = scene.cloud.machines(0);

    scene.kill_notary();
    let refused = scene.begin()?;
    scene.ends(&refused, "PublisherUnreachable")?;
    // Neither a controller nor a host that begins anew needs it, and nobody is cut off for want of it.
    scene.cloud.kill_controller();
    scene.cloud.start_controller(Some(BEFORE_JUDGEMENT))?;
    scene.cloud.kill_host(0);
    scene.cloud.start_host(0, |_| {})?;
    scene.until_proof(&first, "rechecking")?;
    let waiting = scene.begin()?;
    let controller = scene.cloud.controller.as_mut().context("there is a controller")?;
    controller.await_log(&format!("holding at {BEFORE_JUDGEMENT}"), PATIENCE)?;
    ensure!(scene.proof(&first)? == "rechecking" && scene.until(&first, "running").is_ok(), "it was cut off");

    // What was about to be judged is judged by the next controller, by what the notary says then.
    scene.cloud.kill_controller();
    scene.start_notary()?;
    scene.cloud.start_controller(None)?;
    scene.until(&waiting, "running")?;
    scene.until_proof(&waiting, "matched")?;
    scene.until_proof(&first, "matched")?;
    ensure!(machines.iter().all(|machine| scene.cloud.machines(0).contains(machine)), "it is not the VM that ran");
    Ok(())
}
