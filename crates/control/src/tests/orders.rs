//! Network ACLs, mitigations and flow logs, as their users and those of other accounts meet them.

use super::*;

async fn patch(cloud: &Cloud, user: &User, path: &str, body: Value) -> (u16, Value) {
    cloud.send(cloud.request(Method::PATCH, path, &user.token).json(&body)).await
}

fn entry(number: u32, direction: &str) -> Value {
    json!({"number": number, "direction": direction, "action": "reject", "traffic": {"protocol": "all"}, "cidr": "0.0.0.0/0"})
}

#[tokio::test]
async fn a_subnet_has_one_acl_at_any_time_and_an_acl_in_use_stays() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let (vpc, other) = (cloud.vpc(&tenant).await, cloud.vpc(&tenant).await);
    let default = format!("/v1/network-acls/{}", vpc["default_network_acl"].as_str().unwrap());
    let (_, acl) = cloud.get(&tenant, &default).await;
    assert_eq!((acl["is_default"].as_bool(), acl["entries"].as_array().map(Vec::len)), (Some(true), Some(2)));
    assert_eq!(code(&cloud.delete(&tenant, &default).await), ErrorCode::DependencyViolation);
    let (_, subnet) = cloud.post(&tenant, "/v1/subnets", json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"})).await;
    assert_eq!(subnet["network_acl"], vpc["default_network_acl"]);
    let (_, guarded) = cloud.post(&tenant, "/v1/network-acls", json!({"vpc": vpc["id"]})).await;
    let at = format!("{}/network-acl", path("subnets", &subnet));
    let associate =
        |acl: &Value| cloud.request(Method::PUT, &at, &tenant.token).json(&json!({"network_acl": acl["id"]}));
    let (_, foreign) = cloud.post(&tenant, "/v1/network-acls", json!({"vpc": other["id"]})).await;
    assert_eq!(code(&cloud.send(associate(&foreign)).await), ErrorCode::InvalidParameterValue);
    assert_eq!(cloud.send(associate(&guarded)).await.1["network_acl"], guarded["id"]);
    let guarded = path("network-acls", &guarded);
    assert_eq!(code(&cloud.delete(&tenant, &guarded).await), ErrorCode::DependencyViolation);
    assert_eq!(cloud.delete(&tenant, &path("subnets", &subnet)).await.0, 204);
    assert_eq!(cloud.delete(&tenant, &guarded).await.0, 204);
    assert_eq!(cloud.delete(&tenant, &path("vpcs", &vpc)).await.0, 204);
    assert_eq!(code(&cloud.get(&tenant, &default).await), ErrorCode::InvalidNetworkAclNotFound);
}

#[tokio::test]
async fn entries_are_kept_in_the_order_of_their_numbers_of_which_each_direction_has_its_own() {
    let cloud = start().await;
    let tenant = cloud.tenant("a").await;
    let vpc = cloud.vpc(&tenant).await;
    let acl = format!("/v1/network-acls/{}", vpc["default_network_acl"].as_str().unwrap());
    let entries = format!("{acl}/entries");
    let (status, made) = cloud.post(&tenant, &entries, entry(90, "ingress")).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(cloud.post(&tenant, &entries, entry(90, "egress")).await.0, 201);
    assert_eq!(code(&cloud.post(&tenant, &entries, entry(90, "ingress")).await), ErrorCode::AclEntryExists);
    for number in [0, 32_767] {
        let refused = cloud.post(&tenant, &entries, entry(number, "ingress")).await;
        assert_eq!(code(&refused), ErrorCode::InvalidParameterValue);
    }
    let numbers = async || {
        let (_, shown) = cloud.get(&tenant, &acl).await;
        let numbers = shown["entries"].as_array().unwrap().iter().map(|entry| entry["number"].as_u64().unwrap());
        numbers.collect::<Vec<_>>()
    };
    assert_eq!(numbers().await, [90, 90, 100, 100]);
    let first = format!("{entries}/{}", made["id"].as_str().unwrap());
    assert_eq!(cloud.delete(&tenant, &first).await.0, 204);
    assert_eq!(code(&cloud.delete(&tenant, &first).await), ErrorCode::InvalidAclEntryNotFound);
    assert_eq!(numbers().await, [90, 100, 100]);
}

#[tokio::test]
async fn only_operators_order_mitigations_which_end_by_themselves() {
    let cloud = start().await;
    let (operator, tenant) = (cloud.operator().await, cloud.tenant("a").await);
    let order =
        |target: Value| json!({"target": target, "action": {"kind": "block"}, "reason": "spam", "lasts_seconds": 1});
    let spam = order(json!({"port": 25}));
    assert_eq!(code(&cloud.post(&tenant, "/v1/mitigations", spam.clone()).await), ErrorCode::UnauthorizedOperation);
    assert_eq!(code(&cloud.get(&tenant, "/v1/mitigations").await), ErrorCode::UnauthorizedOperation);
    let of_nobody = cloud.post(&operator, "/v1/mitigations", order(json!({}))).await;
    assert_eq!(code(&of_nobody), ErrorCode::InvalidParameterValue);
    let nowhere = order(json!({"instance": "i-00000000000000001"}));
    assert_eq!(code(&cloud.post(&operator, "/v1/mitigations", nowhere).await), ErrorCode::InvalidInstanceNotFound);
    let once = || {
        let request = cloud.request(Method::POST, "/v1/mitigations", &operator.token);
        cloud.send(request.header("idempotency-key", "m").json(&spam))
    };
    let (first, again) = (once().await, once().await);
    assert_eq!((first.0, &first.1), (201, &again.1));
    let ended = timeout(Duration::from_secs(10), async {
        while cloud.get(&operator, "/v1/mitigations").await.1["items"] != json!([]) {
            sleep(Duration::from_millis(50)).await;
        }
    });
    ended.await.expect("its time is over, and it is still there");
}

#[tokio::test]
async fn a_flow_log_is_made_edited_and_deleted_by_its_owner() {
    let cloud = start().await;
    let (a, b) = (cloud.tenant("a").await, cloud.tenant("b").await);
    let vpc = cloud.vpc(&a).await;
    let of_vpc = json!({"kind": "vpc", "vpc": vpc["id"]});
    let (status, made) = cloud.post(&a, "/v1/flow-logs", json!({"target": of_vpc})).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!((made["to"].as_str(), made["interval_millis"].as_u64()), (Some("store"), Some(10_000)));
    let at = path("flow-logs", &made);
    let edited = patch(&cloud, &a, &at, json!({"interval_millis": 1000, "to": "ipfix://192.0.2.1"})).await.1;
    assert_eq!((edited["to"].as_str(), edited["traffic"].as_str()), (Some("ipfix://192.0.2.1:4739"), Some("all")));
    // Nobody says how the delivery is, and the log is shown all the same.
    assert_eq!(cloud.get(&a, &at).await.1["delivery"], Value::Null);
    assert_eq!(code(&cloud.post(&b, "/v1/flow-logs", json!({"target": of_vpc})).await), ErrorCode::InvalidVpcNotFound);
    assert_eq!(code(&patch(&cloud, &b, &at, json!({})).await), ErrorCode::InvalidFlowLogNotFound);
    assert_eq!(code(&cloud.delete(&a, &path("vpcs", &vpc)).await), ErrorCode::DependencyViolation);
    assert_eq!(cloud.delete(&a, &at).await.0, 204);
    assert_eq!(cloud.delete(&a, &path("vpcs", &vpc)).await.0, 204);
}

#[tokio::test]
async fn a_flow_log_that_cannot_be_is_refused() {
    let cloud = start().await;
    let (operator, tenant) = (cloud.operator().await, cloud.tenant("a").await);
    let vpc = cloud.vpc(&tenant).await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"target": {"kind": "vpc", "vpc": vpc["id"]}});
        body[field] = value;
        body
    };
    for (field, value, expected) in [
        ("interval_millis", json!(999), ErrorCode::InvalidParameterValue),
        ("interval_millis", json!(600_001), ErrorCode::InvalidParameterValue),
        ("format", json!("${nothing}"), ErrorCode::InvalidParameterValue),
        ("to", json!("ftp://host/"), ErrorCode::MalformedRequest),
        ("to", json!("file:///var/log"), ErrorCode::UnauthorizedOperation),
    ] {
        let refused = cloud.post(&tenant, "/v1/flow-logs", with(field, value.clone())).await;
        assert_eq!(code(&refused), expected, "{field} {value}");
    }
    let own = cloud.vpc(&operator).await;
    let to_disk = json!({"target": {"kind": "vpc", "vpc": own["id"]}, "to": "file:///var/log"});
    assert_eq!(cloud.post(&operator, "/v1/flow-logs", to_disk).await.0, 201);
}
