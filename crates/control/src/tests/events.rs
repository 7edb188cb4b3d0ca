//! Events as tenants and operators meet them; the host here is this test.

use super::{
    attestation::{chip::Chip, paper::Machine},
    memory::image,
    *,
};

impl Cloud {
    /// Waits for the newest event of a kind, and gives it.
    async fn event(&self, user: &User, kind: &str) -> Value {
        let path = format!("/v1/events?kind={kind}&limit=1");
        let seen = async {
            loop {
                if let Some(event) = self.get(user, &path).await.1["items"].get(0) {
                    return event.clone();
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), seen).await.unwrap_or_else(|_| panic!("never {kind}"))
    }
}

/// Of a host that falls silent a tenant is told for each instance there, and is not told which host it is.
#[tokio::test]
async fn a_lost_host_is_told_to_whom_it_concerns_and_so_is_that_it_is_back() {
    let cloud = start_with(|settings| settings.host_timeout = Duration::from_secs(2)).await;
    let (operator, tenant, other) = (cloud.operator().await, cloud.tenant("a").await, cloud.tenant("b").await);
    let machine = Machine::with_tpm(&cloud, "k", Chip::new(1, None)).await;
    let vpc = cloud.vpc(&tenant).await;
    let (_, subnet) = cloud.post(&tenant, "/v1/subnets", json!({"vpc": vpc["id"], "cidr": "10.0.1.0/24"})).await;
    let launch = json!({"image": image(&cloud, &tenant).await, "subnet": subnet["id"], "memory": 64 << 20});
    let (_, launched) = cloud.post(&tenant, "/v1/instances", launch).await;
    let instance = path("instances", &launched["instances"][0]);
    let runs = async {
        while cloud.get(&tenant, &instance).await.1["state"] != "running" {
            machine.turn(&cloud).await;
        }
    };
    timeout(Duration::from_secs(30), runs).await.expect("it runs");

    let (own, hosts) = (cloud.event(&tenant, "host-lost").await, cloud.event(&operator, "host-lost").await);
    assert_eq!(own["resource"], launched["instances"][0]["id"]);
    assert_eq!(own["code"], "HostUnreachable");
    assert!(!own.to_string().contains(&machine.id) && !own.to_string().contains("host h"), "{own}");
    let by_operator = cloud.get(&operator, &format!("/v1/events?resource={}", machine.id)).await.1;
    assert_eq!(by_operator["items"][0]["kind"], "host-lost", "{hosts}");
    machine.turn(&cloud).await;
    assert_eq!(cloud.event(&tenant, "host-back").await["resource"], own["resource"]);
    assert_eq!(cloud.get(&other, "/v1/events").await.1["items"], json!([]));
    let foreign = cloud.get(&other, &format!("/v1/events?account={}", tenant.account)).await;
    assert_eq!(code(&foreign), ErrorCode::InvalidAccountNotFound);
}
