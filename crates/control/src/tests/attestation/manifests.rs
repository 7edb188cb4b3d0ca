//! Hosts held against what a publisher shows: let in by a manifest that holds, and refused for each reason by its own code.

use lucarne_attest::manifest::Published;

use super::{
    notary::{Fault, Notary},
    *,
};

fn manifest(on_mismatch: &str) -> Value {
    json!({"mode": {"kind": "manifest", "publisher": "acme"}, "on_mismatch": on_mismatch})
}

async fn published() -> (Scene, Notary, String) {
    let (scene, notary) = (scene().await, Notary::start().await);
    let publisher = notary.is_trusted(&scene).await;
    notary.publish(scene.machine.software(), true);
    (scene, notary, publisher)
}

/// Launches, and gives the code by which that ended.
async fn refusal(scene: &Scene) -> (ErrorCode, String) {
    let instance = scene.launch(manifest("rollback")).await;
    let ended = scene.until(&instance, "terminated").await;
    scene.nothing_is_left().await;
    (why(&ended), ended["state_reason"]["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_host_that_a_publisher_vouches_for_is_let_in_and_the_tenant_sees_by_which_manifest() {
    let (scene, notary, publisher) = published().await;
    let instance = scene.launch(manifest("rollback")).await;
    let shown = scene.until(&instance, "running").await;
    assert_eq!(shown["attestation"]["state"], json!(AttestState::Matched));
    let shown = scene.attestation(&instance).await;
    let version = json!({"publisher": "acme", "series": "host", "version": 1});
    assert_eq!(shown["history"][0]["manifest"], version);
    let measured = shown["measurements"].as_array().unwrap();
    let verdicts: Vec<_> = measured.iter().map(|one| (&one["matches"], one["vouchers"].as_array().unwrap())).collect();
    for (matches, vouchers) in &verdicts[..2] {
        assert_eq!((*matches, &vouchers[0]["kind"]), (&json!(true), &json!("manifest")), "{shown}");
        assert_eq!(vouchers[0]["version"], 1);
    }
    assert_eq!(verdicts[2], (&Value::Null, &Vec::new()), "the guest is not the publisher's");

    let (status, held) = scene.cloud.get(&scene.tenant, &format!("{instance}/attestation/manifest")).await;
    assert_eq!(status, 200);
    let held: Published = serde_json::from_value(held).unwrap();
    let known = held.verify(&notary.public_key(), crate::clock::now(), None).unwrap();
    assert_eq!((known.version, known.measurements.len()), (1, 2), "anyone can believe it");
    let other = scene.cloud.tenant("b").await;
    let hidden = scene.cloud.get(&other, &format!("{instance}/attestation/manifest")).await;
    assert_eq!(code(&hidden), ErrorCode::InvalidInstanceNotFound);
    let seen = scene.cloud.get(&scene.tenant, &publisher).await.1["seen"].clone();
    assert_eq!(seen["size"], 1);
}

#[tokio::test]
async fn a_patched_host_is_refused_until_its_version_is_published_and_then_let_in() {
    let (mut scene, notary, _) = published().await;
    let before = scene.machine.software().to_vec();
    scene.machine.changes(Component::Agent);
    let (code, message) = refusal(&scene).await;
    assert_eq!(code, ErrorCode::MeasurementUnknown);
    let after = scene.machine.software();
    for digest in [&before[1].digest, &after[1].digest] {
        assert!(message.contains(&digest.to_string()), "{message} does not name {digest}");
    }
    notary.publish(after, true);
    let instance = scene.launch(manifest("rollback")).await;
    scene.until(&instance, "running").await;
    assert_eq!(scene.attestation(&instance).await["history"][0]["manifest"]["version"], 2);
}

#[tokio::test]
async fn each_reason_to_refuse_a_manifest_or_a_log_has_its_own_code() {
    let (scene, notary, publisher) = published().await;
    notary.publish(&scene.machine.software()[..1], true);
    notary.publish(scene.machine.software(), true);
    // From here on what was seen counts.
    let instance = scene.launch(manifest("rollback")).await;
    scene.until(&instance, "running").await;
    scene.cloud.delete(&scene.tenant, &instance).await;
    scene.until(&instance, "terminated").await;
    let seen = scene.cloud.get(&scene.tenant, &publisher).await.1["seen"].clone();
    let faults = [
        (Fault::Away, ErrorCode::PublisherUnreachable),
        (Fault::OtherKey, ErrorCode::ManifestInvalid),
        (Fault::Forked, ErrorCode::LogForked),
        (Fault::Shrunk, ErrorCode::LogForked),
        (Fault::Unlogged, ErrorCode::ManifestNotLogged),
        (Fault::Stale, ErrorCode::LogStale),
    ];
    for (fault, expected) in faults {
        notary.fault(Some(fault));
        assert_eq!(refusal(&scene).await.0, expected, "{fault:?}");
        let now = scene.cloud.get(&scene.tenant, &publisher).await.1["seen"].clone();
        assert_eq!(now, seen, "what is not believed is not remembered: {fault:?}");
    }
    notary.fault(None);
    notary.revoke(3);
    notary.revoke(1);
    assert_eq!(refusal(&scene).await.0, ErrorCode::ManifestRevoked);
    notary.publish(scene.machine.software(), false);
    notary.revoke(2);
    assert_eq!(refusal(&scene).await.0, ErrorCode::ManifestExpired);
    notary.publish(scene.machine.software(), true);
    let instance = scene.launch(manifest("rollback")).await;
    scene.until(&instance, "running").await;
    scene.cloud.delete(&scene.tenant, &instance).await;
    scene.until(&instance, "terminated").await;
    notary.accept_from(6);
    notary.publish(&scene.machine.software()[..1], true);
    assert_eq!(refusal(&scene).await.0, ErrorCode::ManifestRolledBack);
}

#[tokio::test]
async fn operators_say_where_notaries_are_and_tenants_whose_key_they_trust() {
    let (scene, notary, publisher) = published().await;
    let (cloud, tenant, operator) = (&scene.cloud, &scene.tenant, scene.cloud.operator().await);
    let entered = json!({"name": "mine", "url": "http://169.254.169.254"});
    assert_eq!(code(&cloud.post(tenant, "/v1/notaries", entered).await), ErrorCode::UnauthorizedOperation);
    for url in ["http://u:p@127.0.0.1", "file:///etc/passwd", "http://127.0.0.1/v1/tokens"] {
        let refused = cloud.post(&operator, "/v1/notaries", json!({"name": "x", "url": url})).await;
        assert_eq!(code(&refused), ErrorCode::InvalidParameterValue, "{url}");
    }
    let again = cloud.post(&operator, "/v1/notaries", json!({"name": "n", "url": notary.url})).await;
    assert_eq!(code(&again), ErrorCode::NotaryDuplicate);
    let listed = cloud.get(tenant, "/v1/notaries").await.1;
    let id = listed["items"][0]["id"].clone();
    assert_eq!(
        code(&cloud.delete(tenant, &path("notaries", &listed["items"][0])).await),
        ErrorCode::UnauthorizedOperation
    );
    let in_use = cloud.delete(&operator, &path("notaries", &listed["items"][0])).await;
    assert_eq!(code(&in_use), ErrorCode::DependencyViolation);

    let key = notary.public_key().to_pem();
    let cases = [
        (json!({"name": "acme", "notary": id, "key": key}), ErrorCode::PublisherDuplicate),
        (json!({"name": "b", "notary": id, "key": "no key"}), ErrorCode::InvalidParameterValue),
        (json!({"name": "b", "notary": id, "key": key, "series": "../../v1"}), ErrorCode::InvalidParameterValue),
        (json!({"name": "b", "notary": "notary-00000000000000000", "key": key}), ErrorCode::InvalidNotaryNotFound),
    ];
    for (body, expected) in cases {
        assert_eq!(code(&cloud.post(tenant, "/v1/publishers", body.clone()).await), expected, "{body}");
    }
    let other = cloud.tenant("b").await;
    assert_eq!(code(&cloud.get(&other, &publisher).await), ErrorCode::InvalidPublisherNotFound);
    assert_eq!(code(&cloud.delete(&other, &publisher).await), ErrorCode::InvalidPublisherNotFound);
    assert_eq!(cloud.delete(tenant, &publisher).await.0, 204);
    let mut body = scene.launch.clone();
    body["attestation"] = json!({"policy": manifest("rollback"), "nonce": "AAECAwQFBgcICQoLDA0ODw=="});
    assert_eq!(code(&cloud.post(tenant, "/v1/instances", body).await), ErrorCode::InvalidPublisherNotFound);
}
