//! Hosts' TPMs as operators, tenants and a host meet them; the host here is this test, and its TPM is on paper.

use lucarne_attest::{
    credential::{self, Question},
    enrolment::TpmKeys,
};
use lucarne_model::{
    instance::StateReason,
    storage::Digest,
    tpm::{ChallengeAnswer, DesiredChallenge},
};

use super::{
    attestation::{
        chip::{Chip, Maker},
        paper::Machine,
    },
    memory::image,
    *,
};

impl Cloud {
    async fn trust(&self, maker: &Maker) -> Value {
        let trust = json!({"name": "Paper", "certificate": maker.root});
        let (status, made) = self.post(&self.operator().await, "/v1/tpm-makers", trust).await;
        assert_eq!(status, 201, "{made}");
        made
    }
}

/// Why the host's TPM does not count; none if it does.
async fn why_not(cloud: &Cloud, machine: &Machine) -> Option<ErrorCode> {
    let tpm = machine.shown(cloud).await["tpm"].clone();
    assert_eq!(tpm["proved"].is_null(), !tpm["reason"].is_null(), "{tpm}");
    serde_json::from_value(tpm["reason"]["code"].clone()).unwrap()
}

/// The one challenge that the host is asked now; asked again after an answer that proved nothing.
async fn challenge(cloud: &Cloud, machine: &Machine) -> DesiredChallenge {
    let asked = async {
        loop {
            if let Some(challenge) = machine.challenges(cloud).await.pop() {
                return challenge;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), asked).await.expect("it is asked")
}

#[tokio::test]
async fn a_tpm_counts_while_a_trusted_maker_vouches_for_it_and_it_has_proved_its_keys() {
    let (cloud, maker) = (start().await, Maker::new());
    let operator = cloud.operator().await;
    let machine = Machine::with_tpm(&cloud, "k", Chip::new(7, Some(&maker))).await;
    assert_eq!(machine.shown(&cloud).await["tpm"], Value::Null);
    assert_eq!(machine.present(&cloud).await.0, 204);
    assert_eq!(why_not(&cloud, &machine).await, Some(ErrorCode::EndorsementUntrusted), "nobody is trusted yet");
    let made = cloud.trust(&maker).await;
    assert_eq!(cloud.trust(&maker).await, made, "it is not added twice");
    assert_eq!(why_not(&cloud, &machine).await, Some(ErrorCode::HostNotProved), "it has not answered");
    let asked = challenge(&cloud, &machine).await;
    assert_eq!(machine.answer(&cloud, &asked, &machine.opens(&asked)).await.0, 204);
    assert_eq!(why_not(&cloud, &machine).await, None);
    let tpm = machine.shown(&cloud).await["tpm"].clone();
    assert_eq!(
        (&tpm["kind"], &tpm["maker"], &tpm["model"]["manufacturer"]),
        (&json!("hardware"), &json!("Paper"), &json!("PAPR"))
    );
    assert_eq!(tpm["endorsement_key"].as_str().map(str::len), Some(64));
    let replayed = machine.answer(&cloud, &asked, &machine.opens(&asked)).await;
    assert_eq!(code(&replayed), ErrorCode::ChallengeExpired);
    assert_eq!(machine.present(&cloud).await.0, 204);
    assert_eq!(machine.challenges(&cloud).await, [], "what was proved is not asked again");

    let maker_path = path("tpm-makers", &made);
    assert_eq!(cloud.delete(&operator, &maker_path).await.0, 204);
    assert_eq!(why_not(&cloud, &machine).await, Some(ErrorCode::EndorsementUntrusted));
    cloud.trust(&maker).await;
    assert_eq!(why_not(&cloud, &machine).await, None, "its proof was kept");
    let events = cloud.get(&operator, "/v1/events").await.1;
    let kinds: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["tpm-proved", "tpm-not-proved", "tpm-proved", "tpm-not-proved"]);
    let junk = json!({"name": "n", "certificate": "AAEC"});
    assert_eq!(code(&cloud.post(&operator, "/v1/tpm-makers", junk).await), ErrorCode::InvalidParameterValue);
}

fn killed() -> ChallengeAnswer {
    let message = "swtpm was killed".to_owned();
    ChallengeAnswer::Failed { reason: StateReason { code: ErrorCode::TpmFailed, message } }
}

#[tokio::test]
async fn an_answer_that_proves_nothing_has_a_code_and_the_tpm_is_asked_again() {
    let (cloud, maker) = (start().await, Maker::new());
    cloud.trust(&maker).await;
    let mut machine = Machine::with_tpm(&cloud, "k", Chip::new(7, Some(&maker))).await;
    machine.present(&cloud).await;
    type Wrong = fn(&Machine, &DesiredChallenge) -> ChallengeAnswer;
    let wrongs: [(Wrong, ErrorCode); 3] = [
        (|_, _| ChallengeAnswer::Opened { answer: vec![1; 32].into() }, ErrorCode::CredentialMismatch),
        // Another host's answer to the same question.
        (|machine, asked| machine.tpm.answer(asked, &Digest::from_bytes([8; 32])), ErrorCode::CredentialMismatch),
        (|_, _| killed(), ErrorCode::TpmFailed),
    ];
    for (wrong, expected) in wrongs {
        let asked = challenge(&cloud, &machine).await;
        assert_eq!(code(&machine.answer(&cloud, &asked, &wrong(&machine, &asked)).await), expected);
        assert_eq!(why_not(&cloud, &machine).await, Some(expected));
        // Presented anew it is asked at once, and at a round of upkeep anyhow.
        machine.present(&cloud).await;
    }
    // Another attestation key than the one that was asked for: the TPM does not open what was made for that.
    let asked = challenge(&cloud, &machine).await;
    machine.tpm = Chip::new(7, Some(&maker));
    let refused = machine.opens(&asked);
    assert!(matches!(refused, ChallengeAnswer::Failed { .. }));
    assert_eq!(code(&machine.answer(&cloud, &asked, &refused).await), ErrorCode::CredentialMismatch);
    // Presented by now, it is proved like the first one.
    machine.present(&cloud).await;
    machine.turn(&cloud).await;
    assert_eq!(why_not(&cloud, &machine).await, None);
}

#[tokio::test]
async fn a_host_keeps_its_tpm_and_a_tpm_its_host() {
    let (cloud, maker) = (start().await, Maker::new());
    cloud.trust(&maker).await;
    let mut first = Machine::with_tpm(&cloud, "k", Chip::new(7, Some(&maker))).await;
    first.present(&cloud).await;
    first.turn(&cloud).await;
    assert_eq!(why_not(&cloud, &first).await, None);
    let own = std::mem::replace(&mut first.tpm, Chip::new(8, Some(&maker)));
    assert_eq!(code(&first.present(&cloud).await), ErrorCode::TpmChanged);
    assert_eq!(why_not(&cloud, &first).await, Some(ErrorCode::TpmChanged));
    assert_eq!(first.challenges(&cloud).await, []);
    first.tpm = own;
    assert_eq!(first.present(&cloud).await.0, 204);
    assert_eq!(why_not(&cloud, &first).await, None, "its own is its own again");

    let second = Machine::with_tpm(&cloud, "other", Chip::new(7, Some(&maker))).await;
    second.present(&cloud).await;
    let asked = challenge(&cloud, &second).await;
    assert_eq!(code(&second.answer(&cloud, &asked, &second.opens(&asked)).await), ErrorCode::TpmInUse);
    let operator = cloud.operator().await;
    let removed = cloud.delete(&operator, &format!("/v1/hosts/{}", first.id)).await;
    assert_eq!(removed.0, 204, "{removed:?}");
    second.present(&cloud).await;
    second.turn(&cloud).await;
    assert_eq!(why_not(&cloud, &second).await, None);
}

/// What a launch ends with on a host whose TPM does not count; none if it begins.
async fn launch(cloud: &Cloud, tenant: &User, machine: &Machine, attested: bool) -> Option<ErrorCode> {
    let vpc = cloud.vpc(tenant).await;
    let (_, subnet) = cloud.post(tenant, "/v1/subnets", json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"})).await;
    let mut launch = json!({"image": image(cloud, tenant).await, "subnet": subnet["id"], "memory": 64 << 20});
    if attested {
        launch["attestation"] = json!({"policy": {"mode": {"kind": "prompt"}}, "nonce": "AAECAwQFBgcICQoLDA0ODw=="});
    }
    let (_, launched) = cloud.post(tenant, "/v1/instances", launch).await;
    let instance = path("instances", &launched["instances"][0]);
    let settled = async {
        loop {
            machine.turn(cloud).await;
            let shown = cloud.get(tenant, &instance).await.1;
            match shown["state"].as_str() {
                Some("terminated") => return serde_json::from_value(shown["state_reason"]["code"].clone()).ok(),
                Some("running" | "awaiting-approval") => return None,
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(Duration::from_secs(30), settled).await.expect("it begins or ends")
}

#[tokio::test]
async fn attested_instances_and_where_the_operator_says_so_all_go_only_where_a_tpm_was_proved() {
    for required in [false, true] {
        let (cloud, maker) = (start_with(|settings| settings.require_tpm = required).await, Maker::new());
        let tenant = cloud.tenant("a").await;
        let machine = Machine::with_tpm(&cloud, "k", Chip::new(7, Some(&maker))).await;
        let (status, refused) = machine.present(&cloud).await;
        assert_eq!(status, if required { 409 } else { 204 }, "{refused}");
        machine.turn(&cloud).await;
        let refused = Some(ErrorCode::HostNotProved);
        assert_eq!(launch(&cloud, &tenant, &machine, true).await, refused);
        assert_eq!(launch(&cloud, &tenant, &machine, false).await, if required { refused } else { None });
        cloud.trust(&maker).await;
        assert_eq!(launch(&cloud, &tenant, &machine, true).await, None);
    }
}

/// The tenant's own question, made for the keys in the evidence: nobody else knows its secret.
#[tokio::test]
async fn a_tenant_asks_its_instances_host_itself() {
    let cloud = start().await;
    let (tenant, other) = (cloud.tenant("a").await, cloud.tenant("b").await);
    let machine = Machine::enrol(&cloud).await;
    assert_eq!(launch(&cloud, &tenant, &machine, true).await, None);
    let instance = path("instances", &cloud.get(&tenant, "/v1/instances").await.1["items"][0]);
    let evidence = cloud.get(&tenant, &format!("{instance}/attestation/evidence")).await.1;
    let evidence: lucarne_model::Evidence = serde_json::from_value(evidence).unwrap();
    let keys = TpmKeys::read(machine.tpm.presented().identity().unwrap()).unwrap();
    let recorded = evidence.credential.as_ref().expect("what was proved at enrolment");
    let (name, host_key) = (keys.attestation.name(), &evidence.host_key);
    assert_eq!(credential::verify(recorded, &keys.endorsement, &name, host_key), Ok(()));
    assert_eq!(evidence.ek_certificates.len(), 1);

    let question = Question::new(&keys.endorsement, &name, [3; 32], [9; credential::RANDOMNESS]).unwrap();
    let made = question.credential();
    let body = json!({"credential_blob": lucarne_model::Octets(made.credential_blob.clone()),
        "encrypted_secret": lucarne_model::Octets(made.encrypted_secret.clone())});
    let at = format!("{instance}/attestation/challenge");
    assert_eq!(code(&cloud.post(&other, &at, body.clone()).await), ErrorCode::InvalidInstanceNotFound);
    let (asked, ()) = tokio::join!(cloud.post(&tenant, &at, body.clone()), async {
        let asked = challenge(&cloud, &machine).await;
        assert_eq!(machine.answer(&cloud, &asked, &machine.opens(&asked)).await.0, 204);
    });
    assert_eq!(asked.0, 200, "{asked:?}");
    let answer: lucarne_model::Octets = serde_json::from_value(asked.1["answer"].clone()).unwrap();
    assert!(question.judge(&answer, host_key).is_ok());

    let (failed, ()) = tokio::join!(cloud.post(&tenant, &at, body), async {
        let asked = challenge(&cloud, &machine).await;
        machine.answer(&cloud, &asked, &killed()).await;
    });
    assert_eq!(code(&failed), ErrorCode::TpmFailed);
    let large = json!({"credential_blob": "AAAA".repeat(1000), "encrypted_secret": ""});
    assert_eq!(code(&cloud.post(&tenant, &at, large).await), ErrorCode::InvalidParameterValue);
}
