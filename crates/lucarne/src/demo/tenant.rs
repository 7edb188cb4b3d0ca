//! A tenant of a demonstration: an account of its own, what it made, and how all of it is cleared away again.
//!
//! Owns the calls. What is made, and why, is the chapters' business.

use std::time::Duration;

use lucarne_api::{
    bodies::{instance::LaunchInstances, network::AuthorizeRule},
    client::{Client, types},
};
use lucarne_model::{
    AccountId, Cidr, ErrorCode, InstanceId, ReplicaId, SecurityGroupId, SubnetId, Tags, VpcId,
    flow::Direction,
    instance::Instance,
    network::{Subnet, Vpc},
    replication::Replica,
    security_group::{Peer, RuleSpec, SecurityGroup, Traffic},
};
use serde_json::{Value, json};

use crate::{
    commands::instance::launch,
    dev::furnish,
    failure::{Failure, LocalCode},
    kind::{INSTANCE, Kind, MEASUREMENT, PUBLISHER, REPLICA, SECURITY_GROUP, SUBNET, VPC},
    listing::list,
    session::{Session, answer},
    wait::{self, Goal},
};

/// How long instances may take to end.
const END_TIME: Duration = Duration::from_secs(45);
/// How long something that has ended may still hold what it used.
const RELEASE_TIME: Duration = Duration::from_secs(15);
const BETWEEN_TRIES: Duration = Duration::from_millis(250);

pub(crate) struct Tenant {
    pub(crate) name: &'static str,
    pub(crate) account: AccountId,
    pub(crate) session: Session,
}

impl Tenant {
    /// Makes the account `NAME-MARK`.
    pub(crate) async fn create(
        operator: &Session,
        name: &'static str,
        mark: &str,
        allow_plaintext: bool,
    ) -> Result<Self, Failure> {
        let access = furnish::create_account(operator, &format!("{name}-{mark}")).await?;
        let session = furnish::session(operator.endpoint(), &access, allow_plaintext)?;
        Ok(Self { name, account: access.account, session })
    }

    pub(crate) async fn vpc(&self, cidr: Cidr) -> Result<VpcId, Failure> {
        let body = types::CreateVpc { cidr, tags: Tags::named("demo") };
        let made: Vpc = self.session.change(async |client| answer(client.create_vpc(None, None, &body)).await).await?;
        Ok(made.id)
    }

    pub(crate) async fn subnet(&self, vpc: VpcId, cidr: Cidr) -> Result<SubnetId, Failure> {
        let body = types::CreateSubnet { vpc, cidr, tags: Tags::named("demo") };
        let made: Subnet =
            self.session.change(async |client| answer(client.create_subnet(None, None, &body)).await).await?;
        Ok(made.id)
    }

    /// A group that lets `traffic` in from `peer`, and nothing else.
    pub(crate) async fn group(
        &self,
        vpc: VpcId,
        name: &str,
        traffic: &[Traffic],
        peer: Cidr,
    ) -> Result<SecurityGroupId, Failure> {
        let (name, description) = (name.to_owned(), "made by lucarne demo".to_owned());
        let body = types::CreateSecurityGroup { vpc, name, description, tags: Tags::default() };
        let call = async |client: Client| answer(client.create_security_group(None, None, &body)).await;
        let group: SecurityGroup = self.session.change(call).await?;
        for traffic in traffic {
            let rule = RuleSpec { direction: Direction::Ingress, traffic: *traffic, peer: Peer::Cidr { cidr: peer } };
            let body = AuthorizeRule { rule };
            let call =
                async |client: Client| answer::<_, Value>(client.authorize_rule(&group.id, None, None, &body)).await;
            self.session.change(call).await?;
        }
        Ok(group.id)
    }

    pub(crate) async fn launch(&self, request: &LaunchInstances) -> Result<Instance, Failure> {
        let launched = launch(&self.session, request).await?;
        let none = || Failure::local(LocalCode::UnexpectedAnswer, "a launch made no instance");
        launched.instances.into_iter().next().ok_or_else(none)
    }

    pub(crate) async fn terminate(&self, id: InstanceId) -> Result<(), Failure> {
        self.delete(&INSTANCE, &json!({ "id": id })).await
    }

    pub(crate) async fn until_running(&self, id: InstanceId) -> Result<(), Failure> {
        wait::until(&self.session, &INSTANCE, &id.to_string(), Goal::state("running")).await?;
        Ok(())
    }

    /// Ends a replica and all in it.
    pub(crate) async fn end_replica(&self, id: ReplicaId) -> Result<(), Failure> {
        let call = async |client: Client| answer::<_, Replica>(client.delete_replica(&id, None, None)).await;
        let replica = self.session.change(call).await?;
        wait::until_over(&self.session, replica.job).await.map(drop)
    }

    /// Takes away all that the account has, and then the account. Asks the API what there is, so that also what a failed
    /// step made is found.
    pub(crate) async fn clear(&self, operator: &Session) -> Result<(), Failure> {
        for replica in list(&self.session, &REPLICA, None, None).await? {
            if let Some(id) = replica["id"].as_str().filter(|_| replica["state"] != "deleted")
                && let Ok(id) = id.parse()
            {
                self.end_replica(id).await?;
            }
        }
        self.clear_instances().await?;
        for subnet in list(&self.session, &SUBNET, None, None).await? {
            self.delete(&SUBNET, &subnet).await?;
        }
        for group in list(&self.session, &SECURITY_GROUP, None, None).await? {
            // The default group goes with its VPC.
            if group["name"] != "default" {
                self.delete(&SECURITY_GROUP, &group).await?;
            }
        }
        for kind in [&VPC, &MEASUREMENT, &PUBLISHER] {
            for item in list(&self.session, kind, None, None).await? {
                self.delete(kind, &item).await?;
            }
        }
        let call = async |client: Client| answer(client.delete_account(&self.account, None, None)).await;
        patiently(async || operator.change(call).await).await
    }

    async fn clear_instances(&self) -> Result<(), Failure> {
        let instances = list(&self.session, &INSTANCE, None, None).await?;
        let live = || instances.iter().filter(|instance| instance["state"] != "terminated");
        for instance in live() {
            self.delete(&INSTANCE, instance).await?;
        }
        for id in live().filter_map(|instance| instance["id"].as_str()) {
            let goal = Goal { state: "terminated", hopeless: &[], patience: END_TIME };
            wait::until(&self.session, &INSTANCE, id, goal).await?;
        }
        Ok(())
    }

    async fn delete(&self, kind: &Kind, item: &Value) -> Result<(), Failure> {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        let Some(delete) = kind.delete else { return Ok(()) };
        patiently(async || self.session.change(async |client| delete(client, id.clone()).await).await).await
    }
}

/// Deletes what may for a moment still be used by something that is on its way out.
pub(super) async fn patiently(delete: impl AsyncFn() -> Result<Value, Failure>) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + RELEASE_TIME;
    loop {
        match delete().await {
            Err(failure)
                if failure.code() == Some(ErrorCode::DependencyViolation) && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            result => return result.map(drop),
        }
    }
}
