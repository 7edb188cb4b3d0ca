//! VPCs with a policy: nothing joins that does not match, and what has joined is asked again for as long as it is there.

use super::{
    notary::{Fault, Notary},
    *,
};

/// A VPC that wants `mode` of all, and asks again every second.
async fn wants(scene: &Scene, mode: Value) -> (u16, Value) {
    let body = json!({"policy": {"mode": mode}, "recheck_seconds": 1});
    let at = format!("{}/attest-policy", scene.vpc);
    scene.cloud.send(scene.cloud.request(Method::PUT, &at, &scene.tenant.token).json(&body)).await
}

fn by_acme() -> Value {
    json!({"kind": "manifest", "publisher": "acme"})
}

/// One in a VPC of which a publisher vouches for the hosts, running.
async fn running() -> (Scene, Notary, String) {
    let (scene, notary) = (scene().await, Notary::start().await);
    notary.is_trusted(&scene).await;
    notary.publish(scene.machine.software(), true);
    assert_eq!(wants(&scene, by_acme()).await.0, 200);
    let instance = scene.launch_plainly().await;
    scene.until(&instance, "running").await;
    (scene, notary, instance)
}

impl Scene {
    /// Begins a launch that asks for nothing.
    async fn launch_plainly(&self) -> String {
        let (status, launched) = self.cloud.post(&self.tenant, "/v1/instances", self.launch.clone()).await;
        assert_eq!(status, 201, "{launched}");
        path("instances", &launched["instances"][0])
    }

    /// Lets the host do as it is told until the attestation fulfils this.
    async fn until_attested(&self, instance: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let reached = async {
            loop {
                self.machine.turn(&self.cloud).await;
                let shown = self.cloud.get(&self.tenant, instance).await.1;
                if is(&shown["attestation"]) {
                    return shown;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(Duration::from_secs(30), reached).await {
            Ok(shown) => shown,
            Err(_) => panic!("never {what}: {}", self.attestation(instance).await),
        }
    }

    async fn until_state(&self, instance: &str, state: AttestState) -> Value {
        self.until_attested(instance, &state.to_string(), |about| about["state"] == json!(state)).await
    }
}

#[tokio::test]
async fn a_launch_that_asks_for_nothing_is_held_against_what_its_vpc_wants() {
    let (mut scene, _notary, instance) = running().await;
    let shown = scene.cloud.get(&scene.tenant, &instance).await.1;
    assert_eq!(shown["attestation"]["source"], "vpc");
    assert_eq!(scene.attestation(&instance).await["history"][0]["manifest"]["version"], 1);
    scene.cloud.delete(&scene.tenant, &instance).await;
    scene.until(&instance, "terminated").await;
    scene.machine.changes(Component::Hypervisor);
    let other = scene.launch_plainly().await;
    assert_eq!(why(&scene.until(&other, "terminated").await), ErrorCode::MeasurementUnknown);
    scene.nothing_is_left().await;
}

#[tokio::test]
async fn what_a_launch_asks_for_holds_beside_what_its_vpc_wants() {
    let (scene, _notary, _) = running().await;
    let list = json!({"mode": {"kind": "list"}, "on_mismatch": "quarantine"});
    let instance = scene.launch(list).await;
    let ended = scene.until(&instance, "terminated").await;
    assert_eq!(why(&ended), ErrorCode::MeasurementUnknown, "the list knows nothing, and the VPC's end is the harder");
    let prompt = scene.prompt().await;
    scene.until(&prompt, "awaiting-approval").await;
    assert_eq!(scene.answer(&scene.tenant, &prompt, "approve").await.0, 200);
    scene.until(&prompt, "running").await;
}

#[tokio::test]
async fn what_runs_is_asked_again_and_is_cut_off_and_told_when_its_host_is_another() {
    let (mut scene, notary, instance) = running().await;
    let first = scene.cloud.get(&scene.tenant, &instance).await.1["attestation"].clone();
    let again = |about: &Value| about["proved"].as_u64() > first["proved"].as_u64();
    let shown = scene.until_attested(&instance, "proved again", again).await;
    assert_ne!(shown["attestation"]["nonce"], first["nonce"], "it is asked with a nonce of its own");
    assert!(scene.machine.joins(&scene.cloud).await);

    scene.machine.changes(Component::Agent);
    let shown = scene.until_state(&instance, AttestState::Quarantined).await;
    assert_eq!(why(&shown), ErrorCode::MeasurementUnknown);
    assert_eq!(shown["state"], "running", "it is not taken back");
    assert!(!scene.machine.joins(&scene.cloud).await, "its interface is still in the network");
    let history = scene.attestation(&instance).await["history"].clone();
    assert_eq!((&history[0]["state"], &history[1]["state"]), (&json!("quarantined"), &json!("matched")));
    assert_eq!(history[0]["reason"]["code"], "MeasurementUnknown");
    let events = scene.cloud.get(&scene.tenant, "/v1/events?kind=attestation-failed").await.1;
    assert_eq!(events["items"][0]["code"], "MeasurementUnknown", "{events}");
    assert!(instance.ends_with(events["items"][0]["resource"].as_str().unwrap()));

    notary.publish(scene.machine.software(), true);
    let shown = scene.until_state(&instance, AttestState::Matched).await;
    assert_eq!(shown["state_reason"], Value::Null);
    assert!(scene.machine.joins(&scene.cloud).await, "it has come back");
}

#[tokio::test]
async fn a_host_whose_agent_began_anew_is_asked_at_once() {
    let (scene, _notary, instance) = running().await;
    let body = json!({"policy": {"mode": by_acme()}, "recheck_seconds": 86400});
    let at = format!("{}/attest-policy", scene.vpc);
    let set = scene.cloud.send(scene.cloud.request(Method::PUT, &at, &scene.tenant.token).json(&body)).await;
    assert_eq!(set.0, 200, "{}", set.1);
    // What was asked for before is answered, and its slot of this day may have been.
    scene.until_state(&instance, AttestState::Matched).await;
    sleep(Duration::from_millis(1500)).await;
    let before = scene.until_state(&instance, AttestState::Matched).await["attestation"]["proved"].as_u64();
    scene.machine.begins_anew(&scene.cloud).await;
    scene.until_attested(&instance, "proved again", |about| about["proved"].as_u64() > before).await;
}

#[tokio::test]
async fn a_publisher_that_is_away_cuts_nobody_off_and_a_false_proof_does_at_once() {
    let (mut scene, notary, instance) = running().await;
    notary.fault(Some(Fault::Away));
    scene.until_state(&instance, AttestState::Rechecking).await;
    let looked = async {
        loop {
            scene.machine.turn(&scene.cloud).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = timeout(Duration::from_secs(4), looked).await;
    assert!(scene.machine.joins(&scene.cloud).await, "a notary that is away says nothing of the host");
    notary.fault(None);
    let before = scene.cloud.get(&scene.tenant, &instance).await.1["attestation"]["proved"].as_u64();
    scene.until_attested(&instance, "proved again", |about| about["proved"].as_u64() > before).await;
    notary.fault(Some(Fault::Away));
    scene.machine.forge(Some(Forgery::Signature));
    let shown = scene.until_state(&instance, AttestState::Quarantined).await;
    assert_eq!(why(&shown), ErrorCode::QuoteSignatureInvalid);
}

#[tokio::test]
async fn a_vpc_in_which_something_runs_unproved_gets_no_policy_and_one_with_a_policy_starts_nothing_unproved() {
    let scene = scene().await;
    let (cloud, tenant) = (&scene.cloud, &scene.tenant);
    let at = format!("{}/attest-policy", scene.vpc);
    assert_eq!(code(&cloud.delete(tenant, &at).await), ErrorCode::AttestPolicyNotFound);
    let plain = scene.launch_plainly().await;
    scene.until(&plain, "running").await;
    assert_eq!(code(&wants(&scene, json!({"kind": "list"})).await), ErrorCode::IncorrectState);
    cloud.post(tenant, &format!("{plain}/stop"), json!({"force": true})).await;
    scene.until(&plain, "stopped").await;
    let (status, vpc) = wants(&scene, json!({"kind": "list"})).await;
    assert_eq!((status, &vpc["attest_policy"]["policy"]["mode"]["kind"]), (200, &json!("list")));
    let start = format!("{plain}/start");
    assert_eq!(code(&cloud.post(tenant, &start, json!(null)).await), ErrorCode::IncorrectState);

    let operator = cloud.operator().await;
    assert_eq!(code(&cloud.delete(&operator, &at).await), ErrorCode::InvalidVpcNotFound, "it is the tenant's to say");
    let other = cloud.tenant("b").await;
    assert_eq!(code(&cloud.delete(&other, &at).await), ErrorCode::InvalidVpcNotFound);
    assert_eq!(code(&wants(&scene, by_acme()).await), ErrorCode::InvalidPublisherNotFound);
    let notary = Notary::start().await;
    let publisher = notary.is_trusted(&scene).await;
    assert_eq!(wants(&scene, by_acme()).await.0, 200);
    assert_eq!(code(&cloud.delete(tenant, &publisher).await), ErrorCode::DependencyViolation);

    assert_eq!(cloud.delete(tenant, &at).await.0, 204);
    assert_eq!(cloud.delete(tenant, &publisher).await.0, 204);
    assert_eq!(cloud.post(tenant, &start, json!(null)).await.0, 200);
    scene.until(&plain, "running").await;
}
