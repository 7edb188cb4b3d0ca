//! The routes of [`lucarne_api::ROUTES`], each answered by the service function of its name.
//!
//! Owns nothing but the pairing.

use axum::http::request::Parts;
use lucarne_api::{
    Api, Call, Problem, Route,
    answer::{Created, Done, Download, Lines, Upgraded},
    bodies::{
        ChangeTags, ListQuery, NoQuery, Page, attestation::*, event::*, finding::*, flow::*, flow_log::*,
        flow_question::*, host::*, identity::*, instance::*, load::*, memory::*, mitigation::*, network::*,
        price_book::*, publisher::*, receipt::*, recording::*, replay::*, replica::*, scaling_group::*, sealing::*,
        storage::*, tpm::*, trigger::*, usage::*,
    },
    input::{Json, Nothing, Socket, Upload},
};
use lucarne_model::{
    AccountId, Event, Evidence, FindingId, FlowLogId, HostId, ImageId, InstanceId, InterfaceId, JobId,
    KnownMeasurementId, LoadId, MitigationId, NetworkAclId, NotaryId, PriceBookId, PublisherId, RecordingId, ReplayId,
    ReplicaId, RouteTableId, RuleId, ScalingGroupId, SecurityGroupId, SnapshotId, SubnetId, Tags, TenantFlowRecord,
    TpmMakerId, TriggerId, UserId, VolumeId, VpcId,
    actual::{Host, HostDescription, Report},
    attestation::KnownMeasurement,
    finding::Scanners,
    flow_log::FlowLog,
    flow_sql::{SqlAnswer, SqlProgress, SqlTable},
    identity::{AccessKey, Account, Quota, User},
    instance::Instance,
    load::Load,
    network::{NetworkInterface, RouteTable, Subnet, Vpc},
    network_acl::{AclEntry, NetworkAcl},
    price::PriceBook,
    publisher::{Notary, Publisher},
    recording::Recording,
    replay::Replay,
    replica_flows::FlowDifferences,
    replication::{Replica, ReplicaPlan},
    scaling::ScalingGroup,
    sealing::{SealHost, SealLog, SealStanding},
    security_group::{Rule, SecurityGroup},
    storage::{Blob, Digest, Image, Snapshot, Volume},
    tpm::{ChallengeAnswer, PresentedTpm, TpmMaker},
    trigger::Trigger,
};

use crate::{Caller, Controller, auth, services};

/// A request for what its path names, with nothing else to say.
type Of<Id> = Call<Caller, (Id,), NoQuery, Nothing>;
/// The end of what duplicates may draw on.
type Source<Id> = Call<Caller, (Id,), EndSourceQuery, Nothing>;
/// A page of a list.
type Listing = Call<Caller, (), ListQuery, Nothing>;
/// What is to be made.
type New<Body> = Call<Caller, (), NoQuery, Json<Body>>;

impl Api for Controller {
    type Caller = Caller;

    async fn admit(&self, route: &'static Route, head: &Parts) -> Result<Caller, Problem> {
        auth::admit(self, route, head).await
    }

    async fn health(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Done, Problem> {
        services::about::health(self, call).await
    }
    async fn get_openapi(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Download, Problem> {
        services::about::get_openapi(self, call).await
    }
    async fn create_token(&self, call: New<CreateToken>) -> Result<Created<Token>, Problem> {
        services::identity::create_token(self, call).await
    }
    async fn get_identity(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Json<Identity>, Problem> {
        services::identity::get_identity(self, call).await
    }
    async fn get_own_account(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Json<AccountUsage>, Problem> {
        services::identity::get_own_account(self, call).await
    }
    async fn create_account(&self, call: New<CreateAccount>) -> Result<Created<NewAccount>, Problem> {
        services::accounts::create_account(self, call).await
    }
    async fn list_accounts(&self, call: Listing) -> Result<Json<Page<Account>>, Problem> {
        services::accounts::list_accounts(self, call).await
    }
    async fn get_account(&self, call: Of<AccountId>) -> Result<Json<Account>, Problem> {
        services::accounts::get_account(self, call).await
    }
    async fn delete_account(&self, call: Of<AccountId>) -> Result<Done, Problem> {
        services::accounts::delete_account(self, call).await
    }
    async fn set_quota(
        &self,
        call: Call<Caller, (AccountId,), NoQuery, Json<Quota>>,
    ) -> Result<Json<Account>, Problem> {
        services::accounts::set_quota(self, call).await
    }
    async fn create_user(&self, call: New<CreateUser>) -> Result<Created<User>, Problem> {
        services::users::create_user(self, call).await
    }
    async fn list_users(&self, call: Listing) -> Result<Json<Page<User>>, Problem> {
        services::users::list_users(self, call).await
    }
    async fn get_user(&self, call: Of<UserId>) -> Result<Json<User>, Problem> {
        services::users::get_user(self, call).await
    }
    async fn delete_user(&self, call: Of<UserId>) -> Result<Done, Problem> {
        services::users::delete_user(self, call).await
    }
    async fn create_access_key(&self, call: New<CreateAccessKey>) -> Result<Created<NewAccessKey>, Problem> {
        services::access_keys::create_access_key(self, call).await
    }
    async fn list_access_keys(&self, call: Listing) -> Result<Json<Page<AccessKey>>, Problem> {
        services::access_keys::list_access_keys(self, call).await
    }
    async fn delete_access_key(&self, call: Of<String>) -> Result<Done, Problem> {
        services::access_keys::delete_access_key(self, call).await
    }
    async fn list_hosts(&self, call: Listing) -> Result<Json<Page<Host>>, Problem> {
        services::hosts::list_hosts(self, call).await
    }
    async fn get_host(&self, call: Of<HostId>) -> Result<Json<Host>, Problem> {
        services::hosts::get_host(self, call).await
    }
    async fn delete_host(&self, call: Call<Caller, (HostId,), DeleteHostQuery, Nothing>) -> Result<Done, Problem> {
        services::host_removal::delete_host(self, call).await
    }
    async fn tell_join_token(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Json<JoinToken>, Problem> {
        services::hosts::tell_join_token(self, call).await
    }
    async fn drain_host(&self, call: Of<HostId>) -> Result<Json<Host>, Problem> {
        services::hosts::drain_host(self, call).await
    }
    async fn resume_host(&self, call: Of<HostId>) -> Result<Json<Host>, Problem> {
        services::hosts::resume_host(self, call).await
    }
    async fn create_vpc(&self, call: New<CreateVpc>) -> Result<Created<Vpc>, Problem> {
        services::vpcs::create_vpc(self, call).await
    }
    async fn list_vpcs(&self, call: Listing) -> Result<Json<Page<Vpc>>, Problem> {
        services::vpcs::list_vpcs(self, call).await
    }
    async fn get_vpc(&self, call: Of<VpcId>) -> Result<Json<Vpc>, Problem> {
        services::vpcs::get_vpc(self, call).await
    }
    async fn delete_vpc(&self, call: Source<VpcId>) -> Result<Done, Problem> {
        services::vpcs::delete_vpc(self, call).await
    }
    async fn set_attest_policy(
        &self,
        call: Call<Caller, (VpcId,), NoQuery, Json<SetAttestPolicy>>,
    ) -> Result<Json<Vpc>, Problem> {
        services::attest_policies::set_attest_policy(self, call).await
    }
    async fn clear_attest_policy(&self, call: Of<VpcId>) -> Result<Done, Problem> {
        services::attest_policies::clear_attest_policy(self, call).await
    }
    async fn create_subnet(&self, call: New<CreateSubnet>) -> Result<Created<Subnet>, Problem> {
        services::subnets::create_subnet(self, call).await
    }
    async fn list_subnets(&self, call: Listing) -> Result<Json<Page<Subnet>>, Problem> {
        services::subnets::list_subnets(self, call).await
    }
    async fn get_subnet(&self, call: Of<SubnetId>) -> Result<Json<Subnet>, Problem> {
        services::subnets::get_subnet(self, call).await
    }
    async fn delete_subnet(&self, call: Of<SubnetId>) -> Result<Done, Problem> {
        services::subnets::delete_subnet(self, call).await
    }
    async fn associate_route_table(
        &self,
        call: Call<Caller, (SubnetId,), NoQuery, Json<AssociateRouteTable>>,
    ) -> Result<Json<Subnet>, Problem> {
        services::subnets::associate_route_table(self, call).await
    }
    async fn create_route_table(&self, call: New<CreateRouteTable>) -> Result<Created<RouteTable>, Problem> {
        services::route_tables::create_route_table(self, call).await
    }
    async fn list_route_tables(&self, call: Listing) -> Result<Json<Page<RouteTable>>, Problem> {
        services::route_tables::list_route_tables(self, call).await
    }
    async fn get_route_table(&self, call: Of<RouteTableId>) -> Result<Json<RouteTable>, Problem> {
        services::route_tables::get_route_table(self, call).await
    }
    async fn delete_route_table(&self, call: Of<RouteTableId>) -> Result<Done, Problem> {
        services::route_tables::delete_route_table(self, call).await
    }
    async fn create_route(
        &self,
        call: Call<Caller, (RouteTableId,), NoQuery, Json<CreateRoute>>,
    ) -> Result<Created<RouteTable>, Problem> {
        services::route_tables::create_route(self, call).await
    }
    async fn delete_route(
        &self,
        call: Call<Caller, (RouteTableId,), NoQuery, Json<DeleteRoute>>,
    ) -> Result<Json<RouteTable>, Problem> {
        services::route_tables::delete_route(self, call).await
    }
    async fn create_network_acl(&self, call: New<CreateNetworkAcl>) -> Result<Created<NetworkAcl>, Problem> {
        services::network_acls::create_network_acl(self, call).await
    }
    async fn list_network_acls(&self, call: Listing) -> Result<Json<Page<NetworkAcl>>, Problem> {
        services::network_acls::list_network_acls(self, call).await
    }
    async fn get_network_acl(&self, call: Of<NetworkAclId>) -> Result<Json<NetworkAcl>, Problem> {
        services::network_acls::get_network_acl(self, call).await
    }
    async fn delete_network_acl(&self, call: Of<NetworkAclId>) -> Result<Done, Problem> {
        services::network_acls::delete_network_acl(self, call).await
    }
    async fn add_acl_entry(
        &self,
        call: Call<Caller, (NetworkAclId,), NoQuery, Json<AddAclEntry>>,
    ) -> Result<Created<AclEntry>, Problem> {
        services::network_acls::add_acl_entry(self, call).await
    }
    async fn remove_acl_entry(
        &self,
        call: Call<Caller, (NetworkAclId, RuleId), NoQuery, Nothing>,
    ) -> Result<Done, Problem> {
        services::network_acls::remove_acl_entry(self, call).await
    }
    async fn associate_network_acl(
        &self,
        call: Call<Caller, (SubnetId,), NoQuery, Json<AssociateNetworkAcl>>,
    ) -> Result<Json<Subnet>, Problem> {
        services::network_acls::associate_network_acl(self, call).await
    }
    async fn create_security_group(&self, call: New<CreateSecurityGroup>) -> Result<Created<SecurityGroup>, Problem> {
        services::security_groups::create_security_group(self, call).await
    }
    async fn list_security_groups(&self, call: Listing) -> Result<Json<Page<SecurityGroup>>, Problem> {
        services::security_groups::list_security_groups(self, call).await
    }
    async fn get_security_group(&self, call: Of<SecurityGroupId>) -> Result<Json<SecurityGroup>, Problem> {
        services::security_groups::get_security_group(self, call).await
    }
    async fn delete_security_group(&self, call: Of<SecurityGroupId>) -> Result<Done, Problem> {
        services::security_groups::delete_security_group(self, call).await
    }
    async fn authorize_rule(
        &self,
        call: Call<Caller, (SecurityGroupId,), NoQuery, Json<AuthorizeRule>>,
    ) -> Result<Created<Rule>, Problem> {
        services::security_groups::authorize_rule(self, call).await
    }
    async fn revoke_rule(
        &self,
        call: Call<Caller, (SecurityGroupId, RuleId), NoQuery, Nothing>,
    ) -> Result<Done, Problem> {
        services::security_groups::revoke_rule(self, call).await
    }
    async fn list_interfaces(&self, call: Listing) -> Result<Json<Page<NetworkInterface>>, Problem> {
        services::interfaces::list_interfaces(self, call).await
    }
    async fn get_interface(&self, call: Of<InterfaceId>) -> Result<Json<NetworkInterface>, Problem> {
        services::interfaces::get_interface(self, call).await
    }
    async fn upload_blob(&self, call: Call<Caller, (), NoQuery, Upload>) -> Result<Created<Blob>, Problem> {
        services::blobs::upload_blob(self, call).await
    }
    async fn create_image(&self, call: New<CreateImage>) -> Result<Created<Image>, Problem> {
        services::images::create_image(self, call).await
    }
    async fn list_images(&self, call: Listing) -> Result<Json<Page<Image>>, Problem> {
        services::images::list_images(self, call).await
    }
    async fn get_image(&self, call: Of<ImageId>) -> Result<Json<Image>, Problem> {
        services::images::get_image(self, call).await
    }
    async fn warm_image(
        &self,
        call: Call<Caller, (ImageId,), NoQuery, Json<WarmImage>>,
    ) -> Result<Json<Image>, Problem> {
        services::images::warm_image(self, call).await
    }
    async fn cool_image(&self, call: Of<ImageId>) -> Result<Done, Problem> {
        services::images::cool_image(self, call).await
    }
    async fn delete_image(&self, call: Of<ImageId>) -> Result<Done, Problem> {
        services::images::delete_image(self, call).await
    }
    async fn create_volume(&self, call: New<CreateVolume>) -> Result<Created<Volume>, Problem> {
        services::volumes::create_volume(self, call).await
    }
    async fn list_volumes(&self, call: Listing) -> Result<Json<Page<Volume>>, Problem> {
        services::volumes::list_volumes(self, call).await
    }
    async fn get_volume(&self, call: Of<VolumeId>) -> Result<Json<Volume>, Problem> {
        services::volumes::get_volume(self, call).await
    }
    async fn delete_volume(&self, call: Source<VolumeId>) -> Result<Done, Problem> {
        services::volumes::delete_volume(self, call).await
    }
    async fn attach_volume(
        &self,
        call: Call<Caller, (VolumeId,), NoQuery, Json<AttachVolume>>,
    ) -> Result<Json<Volume>, Problem> {
        services::attachments::attach_volume(self, call).await
    }
    async fn detach_volume(&self, call: Of<VolumeId>) -> Result<Json<Volume>, Problem> {
        services::attachments::detach_volume(self, call).await
    }
    async fn create_snapshot(&self, call: New<CreateSnapshot>) -> Result<Created<Snapshot>, Problem> {
        services::snapshots::create_snapshot(self, call).await
    }
    async fn list_snapshots(&self, call: Listing) -> Result<Json<Page<Snapshot>>, Problem> {
        services::snapshots::list_snapshots(self, call).await
    }
    async fn get_snapshot(&self, call: Of<SnapshotId>) -> Result<Json<Snapshot>, Problem> {
        services::snapshots::get_snapshot(self, call).await
    }
    async fn delete_snapshot(&self, call: Of<SnapshotId>) -> Result<Done, Problem> {
        services::snapshots::delete_snapshot(self, call).await
    }
    async fn launch_instances(&self, call: New<LaunchInstances>) -> Result<Created<Launched>, Problem> {
        services::instances::launch_instances(self, call).await
    }
    async fn list_instances(&self, call: Listing) -> Result<Json<Page<Instance>>, Problem> {
        services::instances::list_instances(self, call).await
    }
    async fn get_instance(&self, call: Of<InstanceId>) -> Result<Json<Instance>, Problem> {
        services::instances::get_instance(self, call).await
    }
    async fn terminate_instance(&self, call: Source<InstanceId>) -> Result<Json<Instance>, Problem> {
        services::instances::terminate_instance(self, call).await
    }
    async fn stop_instance(
        &self,
        call: Call<Caller, (InstanceId,), NoQuery, Json<StopInstance>>,
    ) -> Result<Json<Instance>, Problem> {
        services::instances::stop_instance(self, call).await
    }
    async fn start_instance(&self, call: Of<InstanceId>) -> Result<Json<Instance>, Problem> {
        services::instances::start_instance(self, call).await
    }
    async fn migrate_instance(
        &self,
        call: Call<Caller, (InstanceId,), NoQuery, Json<MigrateInstance>>,
    ) -> Result<Json<Job>, Problem> {
        services::migration::migrate_instance(self, call).await
    }
    async fn reboot_instance(&self, call: Of<InstanceId>) -> Result<Json<Instance>, Problem> {
        services::instances::reboot_instance(self, call).await
    }
    async fn open_console(&self, call: Call<Caller, (InstanceId,), NoQuery, Socket>) -> Result<Upgraded, Problem> {
        services::streams::open_console(self, call).await
    }
    async fn set_memory(
        &self,
        call: Call<Caller, (InstanceId,), NoQuery, Json<EditMemory>>,
    ) -> Result<Json<Instance>, Problem> {
        services::memory::set_memory(self, call).await
    }
    async fn get_memory(&self, call: Of<InstanceId>) -> Result<Json<ShownMemory>, Problem> {
        services::memory::get_memory(self, call).await
    }
    async fn get_memory_history(
        &self,
        call: Call<Caller, (InstanceId,), HistoryQuery, Nothing>,
    ) -> Result<Json<MemoryHistory>, Problem> {
        services::memory::get_memory_history(self, call).await
    }
    async fn list_memory(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Json<MemoryOverview>, Problem> {
        services::memory::list_memory(self, call).await
    }
    async fn get_usage(&self, call: Call<Caller, (), UsageQuery, Nothing>) -> Result<Json<ShownUsage>, Problem> {
        services::usage::get_usage(self, call).await
    }
    async fn get_log(&self, call: Of<InstanceId>) -> Result<Download, Problem> {
        services::streams::get_log(self, call).await
    }
    async fn change_tags(
        &self,
        call: Call<Caller, (String,), NoQuery, Json<ChangeTags>>,
    ) -> Result<Json<Tags>, Problem> {
        services::tags::change_tags(self, call).await
    }
    async fn list_flows(
        &self,
        call: Call<Caller, (), FlowsQuery, Nothing>,
    ) -> Result<Json<Page<TenantFlowRecord>>, Problem> {
        services::flows::list_flows(self, call).await
    }
    async fn watch_flows(&self, call: Call<Caller, (), FlowsQuery, Nothing>) -> Result<Lines, Problem> {
        services::flows::watch_flows(self, call).await
    }
    async fn export_flows(&self, call: Call<Caller, (), ExportQuery, Nothing>) -> Result<Download, Problem> {
        services::flows::export_flows(self, call).await
    }
    async fn explain_flow(&self, call: Call<Caller, (), WhyQuery, Nothing>) -> Result<Json<Explanation>, Problem> {
        services::why::explain_flow(self, call).await
    }
    async fn query_flows(&self, call: New<AskSql>) -> Result<Json<SqlAnswer>, Problem> {
        services::flow_questions::query_flows(self, call).await
    }
    async fn get_flow_progress(&self, call: Of<String>) -> Result<Json<SqlProgress>, Problem> {
        services::flow_questions::get_flow_progress(self, call).await
    }
    async fn list_flow_tables(
        &self,
        call: Call<Caller, (), TablesQuery, Nothing>,
    ) -> Result<Json<Vec<SqlTable>>, Problem> {
        services::flow_questions::list_flow_tables(self, call).await
    }
    async fn list_flow_questions(
        &self,
        call: Call<Caller, (), NoQuery, Nothing>,
    ) -> Result<Json<Vec<NamedQuestion>>, Problem> {
        services::flow_questions::list_flow_questions(self, call).await
    }
    async fn ask_flows(
        &self,
        call: Call<Caller, (String,), QuestionQuery, Nothing>,
    ) -> Result<Json<SqlAnswer>, Problem> {
        services::flow_questions::ask_flows(self, call).await
    }
    async fn list_scanners(&self, call: Call<Caller, (), ScannersQuery, Nothing>) -> Result<Json<Scanners>, Problem> {
        services::findings::list_scanners(self, call).await
    }
    async fn list_closed_ports(
        &self,
        call: Call<Caller, (), ClosedPortsQuery, Nothing>,
    ) -> Result<Json<ClosedPorts>, Problem> {
        services::findings::list_closed_ports(self, call).await
    }
    async fn list_losses(
        &self,
        call: Call<Caller, (), LossesQuery, Nothing>,
    ) -> Result<Json<Page<ShownLoss>>, Problem> {
        services::losses::list_losses(self, call).await
    }
    async fn list_receipts(&self, call: Call<Caller, (), ReceiptsQuery, Nothing>) -> Result<Json<Receipts>, Problem> {
        services::receipts::list_receipts(self, call).await
    }
    async fn download_part(&self, call: Call<Caller, (), PartQuery, Nothing>) -> Result<Download, Problem> {
        services::receipts::download_part(self, call).await
    }
    async fn list_findings(
        &self,
        call: Call<Caller, (), FindingsQuery, Nothing>,
    ) -> Result<Json<Page<ShownFinding>>, Problem> {
        services::findings::list_findings(self, call).await
    }
    async fn get_finding(&self, call: Of<FindingId>) -> Result<Json<ShownFinding>, Problem> {
        services::findings::get_finding(self, call).await
    }
    async fn create_flow_log(&self, call: New<CreateFlowLog>) -> Result<Created<FlowLog>, Problem> {
        services::flow_logs::create_flow_log(self, call).await
    }
    async fn list_flow_logs(&self, call: Listing) -> Result<Json<Page<FlowLog>>, Problem> {
        services::flow_logs::list_flow_logs(self, call).await
    }
    async fn get_flow_log(&self, call: Of<FlowLogId>) -> Result<Json<FlowLog>, Problem> {
        services::flow_logs::get_flow_log(self, call).await
    }
    async fn edit_flow_log(
        &self,
        call: Call<Caller, (FlowLogId,), NoQuery, Json<EditFlowLog>>,
    ) -> Result<Json<FlowLog>, Problem> {
        services::flow_logs::edit_flow_log(self, call).await
    }
    async fn delete_flow_log(&self, call: Of<FlowLogId>) -> Result<Done, Problem> {
        services::flow_logs::delete_flow_log(self, call).await
    }
    async fn start_recording(&self, call: New<StartRecording>) -> Result<Created<Recording>, Problem> {
        services::recordings::start_recording(self, call).await
    }
    async fn list_recordings(&self, call: Listing) -> Result<Json<Page<Recording>>, Problem> {
        services::recordings::list_recordings(self, call).await
    }
    async fn get_recording(&self, call: Of<RecordingId>) -> Result<Json<Recording>, Problem> {
        services::recordings::get_recording(self, call).await
    }
    async fn stop_recording(&self, call: Of<RecordingId>) -> Result<Json<Recording>, Problem> {
        services::recordings::stop_recording(self, call).await
    }
    async fn delete_recording(&self, call: Of<RecordingId>) -> Result<Done, Problem> {
        services::recordings::delete_recording(self, call).await
    }
    async fn export_recording(&self, call: Of<RecordingId>) -> Result<Download, Problem> {
        services::recordings::export_recording(self, call).await
    }
    async fn start_replay(&self, call: New<StartReplay>) -> Result<Created<Replay>, Problem> {
        services::replays::start_replay(self, call).await
    }
    async fn list_replays(&self, call: Listing) -> Result<Json<Page<Replay>>, Problem> {
        services::replays::list_replays(self, call).await
    }
    async fn get_replay(&self, call: Of<ReplayId>) -> Result<Json<Replay>, Problem> {
        services::replays::get_replay(self, call).await
    }
    async fn stop_replay(&self, call: Of<ReplayId>) -> Result<Json<Replay>, Problem> {
        services::replays::stop_replay(self, call).await
    }
    async fn delete_replay(&self, call: Of<ReplayId>) -> Result<Done, Problem> {
        services::replays::delete_replay(self, call).await
    }
    async fn fetch_replayed_frames(&self, call: Of<ReplayId>) -> Result<Download, Problem> {
        services::replays::fetch_replayed_frames(self, call).await
    }
    async fn start_load(&self, call: New<StartLoad>) -> Result<Created<Load>, Problem> {
        services::loads::start_load(self, call).await
    }
    async fn list_loads(&self, call: Listing) -> Result<Json<Page<Load>>, Problem> {
        services::loads::list_loads(self, call).await
    }
    async fn get_load(&self, call: Of<LoadId>) -> Result<Json<Load>, Problem> {
        services::loads::get_load(self, call).await
    }
    async fn stop_load(&self, call: Of<LoadId>) -> Result<Json<Load>, Problem> {
        services::loads::stop_load(self, call).await
    }
    async fn delete_load(&self, call: Of<LoadId>) -> Result<Done, Problem> {
        services::loads::delete_load(self, call).await
    }
    async fn create_trigger(&self, call: New<CreateTrigger>) -> Result<Created<Trigger>, Problem> {
        services::triggers::create_trigger(self, call).await
    }
    async fn list_triggers(&self, call: Listing) -> Result<Json<Page<Trigger>>, Problem> {
        services::triggers::list_triggers(self, call).await
    }
    async fn get_trigger(&self, call: Of<TriggerId>) -> Result<Json<Trigger>, Problem> {
        services::triggers::get_trigger(self, call).await
    }
    async fn delete_trigger(&self, call: Of<TriggerId>) -> Result<Done, Problem> {
        services::triggers::delete_trigger(self, call).await
    }
    async fn create_price_book(&self, call: New<CreatePriceBook>) -> Result<Created<PriceBook>, Problem> {
        services::price_books::create_price_book(self, call).await
    }
    async fn list_price_books(&self, call: Listing) -> Result<Json<Page<PriceBook>>, Problem> {
        services::price_books::list_price_books(self, call).await
    }
    async fn get_price_book(&self, call: Of<PriceBookId>) -> Result<Json<PriceBook>, Problem> {
        services::price_books::get_price_book(self, call).await
    }
    async fn end_price_book(&self, call: Of<PriceBookId>) -> Result<Done, Problem> {
        services::price_books::end_price_book(self, call).await
    }

    async fn get_attestation(&self, call: Of<InstanceId>) -> Result<Json<ShownAttestation>, Problem> {
        services::attestations::get_attestation(self, call).await
    }
    async fn get_evidence(&self, call: Of<InstanceId>) -> Result<Json<Evidence>, Problem> {
        services::attestations::get_evidence(self, call).await
    }
    async fn get_attested_manifest(&self, call: Of<InstanceId>) -> Result<Download, Problem> {
        services::attestations::get_attested_manifest(self, call).await
    }
    async fn approve_attestation(
        &self,
        call: Call<Caller, (InstanceId,), NoQuery, Json<AnswerAttestation>>,
    ) -> Result<Json<Instance>, Problem> {
        services::attestations::approve_attestation(self, call).await
    }
    async fn deny_attestation(
        &self,
        call: Call<Caller, (InstanceId,), NoQuery, Json<AnswerAttestation>>,
    ) -> Result<Json<Instance>, Problem> {
        services::attestations::deny_attestation(self, call).await
    }
    async fn challenge_host(
        &self,
        call: Call<Caller, (InstanceId,), NoQuery, Json<ChallengeHost>>,
    ) -> Result<Json<ChallengedHost>, Problem> {
        services::tpms::challenge_host(self, call).await
    }
    async fn add_measurements(&self, call: New<AddMeasurements>) -> Result<Created<AddedMeasurements>, Problem> {
        services::measurements::add_measurements(self, call).await
    }
    async fn list_measurements(&self, call: Listing) -> Result<Json<Page<KnownMeasurement>>, Problem> {
        services::measurements::list_measurements(self, call).await
    }
    async fn get_measurement(&self, call: Of<KnownMeasurementId>) -> Result<Json<KnownMeasurement>, Problem> {
        services::measurements::get_measurement(self, call).await
    }
    async fn remove_measurement(&self, call: Of<KnownMeasurementId>) -> Result<Done, Problem> {
        services::measurements::remove_measurement(self, call).await
    }
    async fn create_notary(&self, call: New<CreateNotary>) -> Result<Created<Notary>, Problem> {
        services::notaries::create_notary(self, call).await
    }
    async fn list_notaries(&self, call: Listing) -> Result<Json<Page<Notary>>, Problem> {
        services::notaries::list_notaries(self, call).await
    }
    async fn get_notary(&self, call: Of<NotaryId>) -> Result<Json<Notary>, Problem> {
        services::notaries::get_notary(self, call).await
    }
    async fn delete_notary(&self, call: Of<NotaryId>) -> Result<Done, Problem> {
        services::notaries::delete_notary(self, call).await
    }
    async fn create_publisher(&self, call: New<CreatePublisher>) -> Result<Created<Publisher>, Problem> {
        services::publishers::create_publisher(self, call).await
    }
    async fn list_publishers(&self, call: Listing) -> Result<Json<Page<Publisher>>, Problem> {
        services::publishers::list_publishers(self, call).await
    }
    async fn get_publisher(&self, call: Of<PublisherId>) -> Result<Json<Publisher>, Problem> {
        services::publishers::get_publisher(self, call).await
    }
    async fn remove_publisher(&self, call: Of<PublisherId>) -> Result<Done, Problem> {
        services::publishers::remove_publisher(self, call).await
    }
    async fn create_mitigation(&self, call: New<CreateMitigation>) -> Result<Created<Mitigation>, Problem> {
        services::mitigations::create_mitigation(self, call).await
    }
    async fn list_mitigations(&self, call: Listing) -> Result<Json<Page<Mitigation>>, Problem> {
        services::mitigations::list_mitigations(self, call).await
    }
    async fn get_mitigation(&self, call: Of<MitigationId>) -> Result<Json<Mitigation>, Problem> {
        services::mitigations::get_mitigation(self, call).await
    }
    async fn delete_mitigation(&self, call: Of<MitigationId>) -> Result<Done, Problem> {
        services::mitigations::delete_mitigation(self, call).await
    }
    async fn plan_replica(&self, call: New<PlanReplica>) -> Result<Json<ReplicaPlan>, Problem> {
        services::replicas::plan_replica(self, call).await
    }
    async fn create_replica(&self, call: New<CreateReplica>) -> Result<Created<Replica>, Problem> {
        services::replicas::create_replica(self, call).await
    }
    async fn list_replicas(&self, call: Listing) -> Result<Json<Page<Replica>>, Problem> {
        services::replicas::list_replicas(self, call).await
    }
    async fn get_replica(&self, call: Of<ReplicaId>) -> Result<Json<Replica>, Problem> {
        services::replicas::get_replica(self, call).await
    }
    async fn delete_replica(&self, call: Of<ReplicaId>) -> Result<Json<Replica>, Problem> {
        services::replicas::delete_replica(self, call).await
    }
    async fn deepen_replica(&self, call: Of<ReplicaId>) -> Result<Json<Replica>, Problem> {
        services::replicas::deepen_replica(self, call).await
    }
    async fn promote_replica(&self, call: Of<ReplicaId>) -> Result<Json<Replica>, Problem> {
        services::replicas::promote_replica(self, call).await
    }
    async fn compare_replica(&self, call: Of<ReplicaId>) -> Result<Json<ReplicaDifferences>, Problem> {
        services::replicas::compare_replica(self, call).await
    }
    async fn compare_replica_flows(
        &self,
        call: Call<Caller, (ReplicaId,), FlowDifferenceQuery, Nothing>,
    ) -> Result<Json<FlowDifferences>, Problem> {
        services::replicas::compare_replica_flows(self, call).await
    }
    async fn create_scaling_group(&self, call: New<CreateScalingGroup>) -> Result<Created<ScalingGroup>, Problem> {
        services::scaling_groups::create_scaling_group(self, call).await
    }
    async fn list_scaling_groups(&self, call: Listing) -> Result<Json<Page<ScalingGroup>>, Problem> {
        services::scaling_groups::list_scaling_groups(self, call).await
    }
    async fn get_scaling_group(&self, call: Of<ScalingGroupId>) -> Result<Json<ScalingGroup>, Problem> {
        services::scaling_groups::get_scaling_group(self, call).await
    }
    async fn edit_scaling_group(
        &self,
        call: Call<Caller, (ScalingGroupId,), NoQuery, Json<EditScalingGroup>>,
    ) -> Result<Json<ScalingGroup>, Problem> {
        services::scaling_groups::edit_scaling_group(self, call).await
    }
    async fn delete_scaling_group(
        &self,
        call: Call<Caller, (ScalingGroupId,), DeleteScalingGroupQuery, Nothing>,
    ) -> Result<Done, Problem> {
        services::scaling_groups::delete_scaling_group(self, call).await
    }
    async fn list_events(&self, call: Call<Caller, (), EventsQuery, Nothing>) -> Result<Json<Page<Event>>, Problem> {
        services::events::list_events(self, call).await
    }
    async fn list_jobs(&self, call: Listing) -> Result<Json<Page<Job>>, Problem> {
        services::jobs::list_jobs(self, call).await
    }
    async fn get_job(&self, call: Of<JobId>) -> Result<Json<Job>, Problem> {
        services::jobs::get_job(self, call).await
    }
    async fn add_tpm_maker(&self, call: New<AddTpmMaker>) -> Result<Created<TpmMaker>, Problem> {
        services::tpm_makers::add_tpm_maker(self, call).await
    }
    async fn list_tpm_makers(&self, call: Listing) -> Result<Json<Page<TpmMaker>>, Problem> {
        services::tpm_makers::list_tpm_makers(self, call).await
    }
    async fn get_tpm_maker(&self, call: Of<TpmMakerId>) -> Result<Json<TpmMaker>, Problem> {
        services::tpm_makers::get_tpm_maker(self, call).await
    }
    async fn remove_tpm_maker(&self, call: Of<TpmMakerId>) -> Result<Done, Problem> {
        services::tpm_makers::remove_tpm_maker(self, call).await
    }
    async fn submit_sealed_request(
        &self,
        call: Call<Caller, (), SealedAtQuery, Upload>,
    ) -> Result<Json<SealStanding>, Problem> {
        services::sealing::submit_sealed_request(self, call).await
    }
    async fn get_sealed_request(
        &self,
        call: Call<Caller, (Digest,), LookQuery, Nothing>,
    ) -> Result<Json<SealStanding>, Problem> {
        services::sealing::get_sealed_request(self, call).await
    }
    async fn get_sealed_result(
        &self,
        call: Call<Caller, (Digest,), ResultQuery, Nothing>,
    ) -> Result<Download, Problem> {
        services::sealing::get_sealed_result(self, call).await
    }
    async fn forget_sealed_request(
        &self,
        call: Call<Caller, (Digest,), SealedAtQuery, Nothing>,
    ) -> Result<Done, Problem> {
        services::sealing::forget_sealed_request(self, call).await
    }
    async fn get_seal_host(&self, call: Call<Caller, (), SealHostQuery, Nothing>) -> Result<Json<SealHost>, Problem> {
        services::sealing::get_seal_host(self, call).await
    }
    async fn get_seal_log(&self, call: Call<Caller, (), SealLogQuery, Nothing>) -> Result<Json<SealLog>, Problem> {
        services::sealing::get_seal_log(self, call).await
    }
    async fn publish_seal_policy(&self, call: New<SealPolicy>) -> Result<Done, Problem> {
        services::seal_policy::publish_seal_policy(self, call).await
    }
    async fn get_seal_policy(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Json<SealPolicy>, Problem> {
        services::seal_policy::get_seal_policy(self, call).await
    }
    async fn fetch_seal_policy(&self, call: Call<Caller, (), NoQuery, Nothing>) -> Result<Json<SealPolicy>, Problem> {
        services::seal_policy::get_seal_policy(self, call).await
    }
    async fn enrol_host(&self, call: New<EnrolHost>) -> Result<Created<Enrolled>, Problem> {
        services::hosts::enrol_host(self, call).await
    }
    async fn hello_host(&self, call: New<HostDescription>) -> Result<Json<HostSettings>, Problem> {
        services::hosts::hello_host(self, call).await
    }
    async fn present_tpm(&self, call: New<PresentedTpm>) -> Result<Done, Problem> {
        services::tpms::present_tpm(self, call).await
    }
    async fn answer_challenge(
        &self,
        call: Call<Caller, (String,), NoQuery, Json<ChallengeAnswer>>,
    ) -> Result<Done, Problem> {
        services::tpms::answer_challenge(self, call).await
    }
    async fn report_host(&self, call: New<Report>) -> Result<Done, Problem> {
        services::hosts::report_host(self, call).await
    }
    async fn get_desired(&self, call: Call<Caller, (), DesiredQuery, Nothing>) -> Result<Json<DesiredAnswer>, Problem> {
        services::hosts::get_desired(self, call).await
    }
    async fn download_blob(&self, call: Of<Digest>) -> Result<Download, Problem> {
        services::blobs::download_blob(self, call).await
    }
    async fn upload_host_blob(&self, call: Call<Caller, (), NoQuery, Upload>) -> Result<Created<Blob>, Problem> {
        services::blobs::upload_host_blob(self, call).await
    }
    async fn open_stream(&self, call: Call<Caller, (String,), NoQuery, Socket>) -> Result<Upgraded, Problem> {
        services::streams::open_stream(self, call).await
    }
}
