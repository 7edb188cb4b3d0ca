//! Attested launches as tenants, operators and a host meet them; the host here is this test, and its TPM is on paper.

pub(crate) mod chip;
mod manifests;
mod notary;
pub(crate) mod paper;
mod policies;

use lucarne_model::{Component, attestation::AttestState};
use paper::{Forgery, Machine};

use super::{memory::image, *};

struct Scene {
    cloud: Cloud,
    tenant: User,
    vpc: String,
    subnet: String,
    launch: Value,
    machine: Machine,
}

async fn scene() -> Scene {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let vpc = cloud.vpc(&tenant).await;
    let (_, subnet) = cloud.post(&tenant, "/v1/subnets", json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"})).await;
    let launch = json!({"image": image(&cloud, &tenant).await, "subnet": subnet["id"], "memory": 64 << 20});
    let machine = Machine::enrol(&cloud).await;
    Scene { vpc: path("vpcs", &vpc), subnet: path("subnets", &subnet), cloud, tenant, launch, machine }
}

impl Scene {
    /// Begins a launch, and gives the instance's path.
    async fn launch(&self, policy: Value) -> String {
        let mut body = self.launch.clone();
        body["attestation"] = json!({"policy": policy, "nonce": "AAECAwQFBgcICQoLDA0ODw=="});
        let (status, launched) = self.cloud.post(&self.tenant, "/v1/instances", body).await;
        assert_eq!(status, 201, "{launched}");
        path("instances", &launched["instances"][0])
    }

    async fn prompt(&self) -> String {
        self.launch(json!({"mode": {"kind": "prompt"}})).await
    }

    /// Lets the host do as it is told until the instance is in this state.
    async fn until(&self, instance: &str, state: &str) -> Value {
        let reached = async {
            loop {
                self.machine.turn(&self.cloud).await;
                let shown = self.cloud.get(&self.tenant, instance).await.1;
                if shown["state"] == state {
                    return shown;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(Duration::from_secs(30), reached).await {
            Ok(shown) => shown,
            Err(_) => panic!("never {state}: {}", self.cloud.get(&self.tenant, instance).await.1),
        }
    }

    async fn attestation(&self, instance: &str) -> Value {
        self.cloud.get(&self.tenant, &format!("{instance}/attestation")).await.1
    }

    async fn answer(&self, who: &User, instance: &str, answer: &str) -> (u16, Value) {
        let nonce = self.attestation(instance).await["attestation"]["nonce"].clone();
        self.cloud.post(who, &format!("{instance}/attestation/{answer}"), json!({"nonce": nonce})).await
    }

    /// Nothing is left of any launch: no room promised, no address taken, no interface.
    async fn nothing_is_left(&self) {
        let operator = self.cloud.operator().await;
        let host = self.cloud.get(&operator, &format!("/v1/hosts/{}", self.machine.id)).await.1;
        assert_eq!((&host["used"]["memory"], &host["instances"]), (&json!(0), &json!(0)), "{host}");
        assert_eq!(self.cloud.get(&self.tenant, "/v1/interfaces").await.1["items"], json!([]));
        assert_eq!(self.cloud.get(&self.tenant, &self.subnet).await.1["available_addresses"], 251);
    }
}

fn why(shown: &Value) -> ErrorCode {
    serde_json::from_value(shown["state_reason"]["code"].clone()).unwrap_or_else(|_| panic!("no reason: {shown}"))
}

#[tokio::test]
async fn an_instance_begins_when_its_owner_and_nobody_else_approves_it_once() {
    let scene = scene().await;
    let (other, operator) = (scene.cloud.tenant("b").await, scene.cloud.operator().await);
    let instance = scene.prompt().await;
    scene.until(&instance, "awaiting-approval").await;
    let shown = scene.attestation(&instance).await;
    let measured: Vec<_> = shown["measurements"].as_array().unwrap().iter().map(|one| &one["component"]).collect();
    assert_eq!(measured, ["hypervisor", "agent", "guest-kernel"]);
    assert!(!scene.machine.joins(&scene.cloud).await, "it is in the network before anybody approved it");

    assert_eq!(code(&scene.answer(&other, &instance, "approve").await), ErrorCode::InvalidInstanceNotFound);
    assert_eq!(code(&scene.answer(&operator, &instance, "approve").await), ErrorCode::AttestationNotYours);
    let stale = json!({"nonce": "AAAAAAAAAAAAAAAAAAAAAA=="});
    let stale = scene.cloud.post(&scene.tenant, &format!("{instance}/attestation/approve"), stale).await;
    assert_eq!(code(&stale), ErrorCode::InvalidParameterValue);
    assert_eq!(scene.cloud.get(&scene.tenant, &instance).await.1["state"], "awaiting-approval");

    assert_eq!(scene.answer(&scene.tenant, &instance, "approve").await.0, 200);
    for again in ["approve", "deny"] {
        assert_eq!(code(&scene.answer(&scene.tenant, &instance, again).await), ErrorCode::AttestationAnswered);
    }
    scene.until(&instance, "running").await;
    assert!(scene.machine.joins(&scene.cloud).await);
    let history = scene.attestation(&instance).await["history"].clone();
    let states: Vec<_> = history.as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["approved", "awaiting-approval"]);
    assert!(history[0]["by"].is_string());
    let (status, evidence) = scene.cloud.get(&scene.tenant, &format!("{instance}/attestation/evidence")).await;
    assert_eq!((status, &evidence["nonce"]), (200, &json!("AAECAwQFBgcICQoLDA0ODw==")));
}

#[tokio::test]
async fn a_denied_launch_leaves_nothing() {
    let scene = scene().await;
    let instance = scene.prompt().await;
    scene.until(&instance, "awaiting-approval").await;
    assert_eq!(scene.answer(&scene.tenant, &instance, "deny").await.0, 200);
    let shown = scene.until(&instance, "terminated").await;
    assert_eq!(why(&shown), ErrorCode::AttestationDenied);
    scene.nothing_is_left().await;
    assert_eq!(code(&scene.answer(&scene.tenant, &instance, "approve").await), ErrorCode::AttestationAnswered);
}

#[tokio::test]
async fn a_launch_that_nobody_answers_in_time_leaves_nothing_and_takes_no_answer() {
    let scene = scene().await;
    let instance = scene.launch(json!({"mode": {"kind": "prompt"}, "approve_within_seconds": 1})).await;
    let shown = scene.until(&instance, "terminated").await;
    assert_eq!(why(&shown), ErrorCode::AttestationExpired);
    scene.nothing_is_left().await;
    assert_eq!(code(&scene.answer(&scene.tenant, &instance, "approve").await), ErrorCode::AttestationExpired);
}

#[tokio::test]
async fn what_is_in_the_list_begins_unasked_and_one_byte_of_the_host_less_is_taken_back_or_kept_apart() {
    let mut scene = scene().await;
    let list = |policy: &str| json!({"mode": {"kind": "list"}, "on_mismatch": policy});
    let unknown = scene.launch(list("rollback")).await;
    assert_eq!(why(&scene.until(&unknown, "terminated").await), ErrorCode::MeasurementUnknown);
    scene.nothing_is_left().await;

    let measured = scene.attestation(&unknown).await["measurements"].clone();
    let pick = |one: &Value| json!({"component": one["component"], "name": one["name"], "digest": one["digest"]});
    let measured: Vec<_> = measured.as_array().unwrap().iter().map(pick).collect();
    let add = json!({"measurements": measured, "configuration": "web"});
    let (status, added) = scene.cloud.post(&scene.tenant, "/v1/measurements", add.clone()).await;
    assert_eq!(status, 201, "{added}");
    let again = scene.cloud.post(&scene.tenant, "/v1/measurements", add).await.1;
    assert_eq!(again, added, "what is there is not added again");
    for mode in [json!({"kind": "list"}), json!({"kind": "config", "name": "web"})] {
        let known = scene.launch(json!({"mode": mode})).await;
        let shown = scene.until(&known, "running").await;
        assert_eq!(shown["attestation"]["state"], json!(AttestState::Matched));
        scene.cloud.delete(&scene.tenant, &known).await;
        scene.until(&known, "terminated").await;
    }

    scene.machine.changes(Component::Agent);
    let changed = scene.launch(list("rollback")).await;
    assert_eq!(why(&scene.until(&changed, "terminated").await), ErrorCode::MeasurementUnknown);
    let apart = scene.launch(list("quarantine")).await;
    let shown = scene.until(&apart, "running").await;
    assert_eq!(shown["attestation"]["state"], json!(AttestState::Quarantined));
    assert!(!scene.machine.joins(&scene.cloud).await, "its interface is in the network");
    let judged = scene.attestation(&apart).await["measurements"].clone();
    let matches: Vec<_> = judged.as_array().unwrap().iter().map(|one| one["matches"].as_bool().unwrap()).collect();
    assert_eq!(matches, [true, false, true]);
}

#[tokio::test]
async fn a_proof_that_is_none_is_refused_with_its_own_code_and_nobody_is_asked() {
    let mut scene = scene().await;
    let forgeries = [
        (Forgery::OtherHost, ErrorCode::QuoteRelayed),
        (Forgery::Signature, ErrorCode::QuoteSignatureInvalid),
        (Forgery::OtherNonceSigned, ErrorCode::QuoteStale),
        (Forgery::OtherValues, ErrorCode::PcrDigestMismatch),
        (Forgery::MissingEvent, ErrorCode::EventLogMismatch),
        (Forgery::OtherGuest, ErrorCode::GuestMismatch),
    ];
    for (forgery, expected) in forgeries {
        scene.machine.forge(Some(forgery));
        let instance = scene.prompt().await;
        assert_eq!(why(&scene.until(&instance, "terminated").await), expected, "{forgery:?}");
        scene.nothing_is_left().await;
    }
    scene.machine.forge(None);
    let instance = scene.prompt().await;
    scene.until(&instance, "awaiting-approval").await;
    scene.answer(&scene.tenant, &instance, "deny").await;
    scene.until(&instance, "terminated").await;
    scene.machine.changes_key();
    let instance = scene.prompt().await;
    assert_eq!(why(&scene.until(&instance, "terminated").await), ErrorCode::AttestationKeyUntrusted);
}

#[tokio::test]
async fn a_start_again_is_proved_again_and_another_host_software_is_cut_off() {
    let mut scene = scene().await;
    let instance = scene.prompt().await;
    scene.until(&instance, "awaiting-approval").await;
    scene.answer(&scene.tenant, &instance, "approve").await;
    scene.until(&instance, "running").await;
    let reboot = format!("{instance}/reboot");
    let settled = |shown: Value| shown["attestation"]["state"].as_str().unwrap().to_owned();
    for (changes, expected) in [(false, "approved"), (true, "quarantined")] {
        if changes {
            scene.machine.changes(Component::Hypervisor);
        }
        let begun = scene.cloud.post(&scene.tenant, &reboot, json!(null)).await;
        assert_eq!((begun.0, settled(begun.1).as_str()), (200, "rechecking"));
        let proved = async {
            while settled(scene.until(&instance, "running").await) == "rechecking" {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), proved).await.expect("it is proved again");
        assert_eq!(settled(scene.cloud.get(&scene.tenant, &instance).await.1), expected);
    }
    assert!(!scene.machine.joins(&scene.cloud).await, "its interface is still in the network");
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_before_anything_is_made() {
    let scene = scene().await;
    let nonce = "AAECAwQFBgcICQoLDA0ODw==";
    let prompt = json!({"mode": {"kind": "prompt"}});
    for attestation in [
        json!({"policy": prompt, "nonce": "AAEC"}),
        json!({"policy": {"mode": {"kind": "prompt"}, "approve_within_seconds": 0}, "nonce": nonce}),
        json!({"policy": {"mode": {"kind": "config", "name": ""}}, "nonce": nonce}),
    ] {
        let mut body = scene.launch.clone();
        body["attestation"] = attestation.clone();
        let refused = scene.cloud.post(&scene.tenant, "/v1/instances", body).await;
        assert_eq!(code(&refused), ErrorCode::InvalidParameterValue, "{attestation}");
    }
    let (_, plain) = scene.cloud.post(&scene.tenant, "/v1/instances", scene.launch.clone()).await;
    let plain = path("instances", &plain["instances"][0]);
    let shown = scene.cloud.get(&scene.tenant, &format!("{plain}/attestation")).await;
    assert_eq!(code(&shown), ErrorCode::AttestationNotFound);
}

#[tokio::test]
async fn what_was_proved_or_has_a_tpm_stays_on_its_host() {
    let scene = scene().await;
    let proved = scene.prompt().await;
    scene.until(&proved, "awaiting-approval").await;
    scene.answer(&scene.tenant, &proved, "approve").await;
    let mut body = scene.launch.clone();
    body["virtual_tpm"] = json!(true);
    let (status, launched) = scene.cloud.post(&scene.tenant, "/v1/instances", body).await;
    assert_eq!(status, 201, "{launched}");
    let with_tpm = path("instances", &launched["instances"][0]);
    for instance in [proved, with_tpm] {
        scene.until(&instance, "running").await;
        let refused = scene.cloud.post(&scene.tenant, &format!("{instance}/migrate"), json!({})).await;
        assert_eq!(code(&refused), ErrorCode::InstanceBoundToHost);
    }
}
