//! The route table: every path of the API, who it is for, what it takes and gives.
//!
//! Owns the list. Trait, router, OpenAPI document, client, policies and the test that tries to cross tenants all derive from
//! it, so a new route is one row here and one function in `control`.
#![allow(clippy::type_complexity)]

use axum::http::Method;
use lucarne_model::{
    AccountId, ErrorCode, Event, Evidence, FindingId, FlowLogId, HostId, ImageId, InstanceId, InterfaceId, JobId,
    KnownMeasurementId, LoadId, MitigationId, NetworkAclId, NotaryId, PriceBookId, PublisherId, RecordingId, ReplayId,
    ReplicaId, RouteTableId, RuleId, ScalingGroupId, SecurityGroupId, SnapshotId, SubnetId, Tags, TenantFlowRecord,
    TpmMakerId, TriggerId, UserId, VolumeId, VpcId,
    actual::{Host, Report},
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

use crate::{
    Access, Call, Problem, Route,
    answer::{Created, Done, Download, Lines, Upgraded},
    bodies::{
        ChangeTags, ListQuery, NoQuery, Page, attestation::*, event::*, finding::*, flow::*, flow_log::*,
        flow_question::*, host::*, identity::*, instance::*, load::*, memory::*, mitigation::*, network::*,
        price_book::*, publisher::*, receipt::*, recording::*, replay::*, replica::*, scaling_group::*, sealing::*,
        storage::*, tpm::*, trigger::*, usage::*,
    },
    input::{Json, Nothing, Socket, Upload},
    table::routes,
};

routes! {
    /// Says that the controller answers.
    Public GET "/v1/health" health((), NoQuery, Nothing) -> Done;
    /// This document.
    Public GET "/v1/openapi.json" get_openapi((), NoQuery, Nothing) -> Download;
    /// Exchanges an access key for a bearer token.
    Public POST "/v1/tokens" create_token((), NoQuery, Json<CreateToken>) -> Created<Token>;
    /// Says who the caller is.
    Read GET "/v1/identity" get_identity((), NoQuery, Nothing) -> Json<Identity>;
    /// Shows the caller's account with its quota and what is used of it.
    Read GET "/v1/account" get_own_account((), NoQuery, Nothing) -> Json<AccountUsage>;

    /// Makes an account and its first administrator.
    Provide POST "/v1/accounts" create_account((), NoQuery, Json<CreateAccount>) -> Created<NewAccount>;
    /// Lists accounts.
    Provide GET "/v1/accounts" list_accounts((), ListQuery, Nothing) -> Json<Page<Account>>;
    /// Shows an account.
    Provide GET "/v1/accounts/{account}" get_account((AccountId,), NoQuery, Nothing) -> Json<Account>;
    /// Deletes an account that owns nothing any more.
    Provide DELETE "/v1/accounts/{account}" delete_account((AccountId,), NoQuery, Nothing) -> Done;
    /// Sets an account's quota.
    Provide PUT "/v1/accounts/{account}/quota" set_quota((AccountId,), NoQuery, Json<Quota>) -> Json<Account>;

    /// Makes a user in the caller's account.
    Administer POST "/v1/users" create_user((), NoQuery, Json<CreateUser>) -> Created<User>;
    /// Lists users.
    Read GET "/v1/users" list_users((), ListQuery, Nothing) -> Json<Page<User>>;
    /// Shows a user.
    Read GET "/v1/users/{user}" get_user((UserId,), NoQuery, Nothing) -> Json<User>;
    /// Deletes a user and their access keys.
    Administer DELETE "/v1/users/{user}" delete_user((UserId,), NoQuery, Nothing) -> Done;
    /// Makes an access key; its secret is shown only this once.
    Administer POST "/v1/access-keys" create_access_key((), NoQuery, Json<CreateAccessKey>) -> Created<NewAccessKey>;
    /// Lists access keys, without secrets.
    Administer GET "/v1/access-keys" list_access_keys((), ListQuery, Nothing) -> Json<Page<AccessKey>>;
    /// Deletes an access key; its tokens stop working at once.
    Administer DELETE "/v1/access-keys/{access_key}" delete_access_key((String,), NoQuery, Nothing) -> Done;

    /// Tells the token with which machines join as hosts: to administrators, which is why it is no GET.
    Provide POST "/v1/join-token" tell_join_token((), NoQuery, Nothing) -> Json<JoinToken>;
    /// Lists hosts.
    Provide GET "/v1/hosts" list_hosts((), ListQuery, Nothing) -> Json<Page<Host>>;
    /// Shows a host.
    Provide GET "/v1/hosts/{host}" get_host((HostId,), NoQuery, Nothing) -> Json<Host>;
    /// Removes a host: its key, its certificate and its tunnel key no longer count.
    Provide DELETE "/v1/hosts/{host}" delete_host((HostId,), DeleteHostQuery, Nothing) -> Done;
    /// Lets a host take no new instances.
    Provide POST "/v1/hosts/{host}/drain" drain_host((HostId,), NoQuery, Nothing) -> Json<Host>;
    /// Lets a drained host take instances again.
    Provide POST "/v1/hosts/{host}/resume" resume_host((HostId,), NoQuery, Nothing) -> Json<Host>;

    /// Makes a VPC with its main route table, its default network ACL and its default security group.
    Administer POST "/v1/vpcs" create_vpc((), NoQuery, Json<CreateVpc>) -> Created<Vpc>;
    /// Lists VPCs.
    Read GET "/v1/vpcs" list_vpcs((), ListQuery, Nothing) -> Json<Page<Vpc>>;
    /// Shows a VPC.
    Read GET "/v1/vpcs/{vpc}" get_vpc((VpcId,), NoQuery, Nothing) -> Json<Vpc>;
    /// Deletes a VPC that has no subnets, with what it was born with.
    Administer DELETE "/v1/vpcs/{vpc}" delete_vpc((VpcId,), EndSourceQuery, Nothing) -> Done;
    /// Has every instance that is to be part of a VPC proved by its host, and proved again at an interval.
    Administer PUT "/v1/vpcs/{vpc}/attest-policy"
        set_attest_policy((VpcId,), NoQuery, Json<SetAttestPolicy>) -> Json<Vpc>;
    /// Wants nothing of a VPC's instances any more but what their launches asked for.
    Administer DELETE "/v1/vpcs/{vpc}/attest-policy" clear_attest_policy((VpcId,), NoQuery, Nothing) -> Done;
    /// Makes a subnet.
    Administer POST "/v1/subnets" create_subnet((), NoQuery, Json<CreateSubnet>) -> Created<Subnet>;
    /// Lists subnets.
    Read GET "/v1/subnets" list_subnets((), ListQuery, Nothing) -> Json<Page<Subnet>>;
    /// Shows a subnet.
    Read GET "/v1/subnets/{subnet}" get_subnet((SubnetId,), NoQuery, Nothing) -> Json<Subnet>;
    /// Deletes a subnet that has no interfaces.
    Administer DELETE "/v1/subnets/{subnet}" delete_subnet((SubnetId,), NoQuery, Nothing) -> Done;
    /// Routes a subnet by a route table of its VPC.
    Administer PUT "/v1/subnets/{subnet}/route-table"
        associate_route_table((SubnetId,), NoQuery, Json<AssociateRouteTable>) -> Json<Subnet>;
    /// Makes a route table.
    Administer POST "/v1/route-tables" create_route_table((), NoQuery, Json<CreateRouteTable>) -> Created<RouteTable>;
    /// Lists route tables.
    Read GET "/v1/route-tables" list_route_tables((), ListQuery, Nothing) -> Json<Page<RouteTable>>;
    /// Shows a route table.
    Read GET "/v1/route-tables/{route_table}" get_route_table((RouteTableId,), NoQuery, Nothing) -> Json<RouteTable>;
    /// Deletes a route table that is neither main nor associated.
    Administer DELETE "/v1/route-tables/{route_table}" delete_route_table((RouteTableId,), NoQuery, Nothing) -> Done;
    /// Adds a route.
    Administer POST "/v1/route-tables/{route_table}/routes"
        create_route((RouteTableId,), NoQuery, Json<CreateRoute>) -> Created<RouteTable>;
    /// Takes a route away.
    Administer POST "/v1/route-tables/{route_table}/routes/delete"
        delete_route((RouteTableId,), NoQuery, Json<DeleteRoute>) -> Json<RouteTable>;
    /// Makes a network ACL, which rejects everything until it has entries.
    Administer POST "/v1/network-acls" create_network_acl((), NoQuery, Json<CreateNetworkAcl>) -> Created<NetworkAcl>;
    /// Lists network ACLs.
    Read GET "/v1/network-acls" list_network_acls((), ListQuery, Nothing) -> Json<Page<NetworkAcl>>;
    /// Shows a network ACL.
    Read GET "/v1/network-acls/{network_acl}" get_network_acl((NetworkAclId,), NoQuery, Nothing) -> Json<NetworkAcl>;
    /// Deletes a network ACL that is neither default nor associated.
    Administer DELETE "/v1/network-acls/{network_acl}" delete_network_acl((NetworkAclId,), NoQuery, Nothing) -> Done;
    /// Adds an entry to a network ACL.
    Administer POST "/v1/network-acls/{network_acl}/entries"
        add_acl_entry((NetworkAclId,), NoQuery, Json<AddAclEntry>) -> Created<AclEntry>;
    /// Takes an entry away; live flows that are not allowed any more are cut.
    Administer DELETE "/v1/network-acls/{network_acl}/entries/{entry}"
        remove_acl_entry((NetworkAclId, RuleId), NoQuery, Nothing) -> Done;
    /// Has a subnet judged by a network ACL of its VPC.
    Administer PUT "/v1/subnets/{subnet}/network-acl"
        associate_network_acl((SubnetId,), NoQuery, Json<AssociateNetworkAcl>) -> Json<Subnet>;
    /// Makes a security group, which allows everything out and nothing in.
    Administer POST "/v1/security-groups"
        create_security_group((), NoQuery, Json<CreateSecurityGroup>) -> Created<SecurityGroup>;
    /// Lists security groups.
    Read GET "/v1/security-groups" list_security_groups((), ListQuery, Nothing) -> Json<Page<SecurityGroup>>;
    /// Shows a security group.
    Read GET "/v1/security-groups/{security_group}"
        get_security_group((SecurityGroupId,), NoQuery, Nothing) -> Json<SecurityGroup>;
    /// Deletes a security group that nothing uses.
    Administer DELETE "/v1/security-groups/{security_group}"
        delete_security_group((SecurityGroupId,), NoQuery, Nothing) -> Done;
    /// Adds a rule to a security group.
    Administer POST "/v1/security-groups/{security_group}/rules"
        authorize_rule((SecurityGroupId,), NoQuery, Json<AuthorizeRule>) -> Created<Rule>;
    /// Takes a rule away; live flows that only it allowed are cut.
    Administer DELETE "/v1/security-groups/{security_group}/rules/{rule}"
        revoke_rule((SecurityGroupId, RuleId), NoQuery, Nothing) -> Done;
    /// Lists network interfaces.
    Read GET "/v1/interfaces" list_interfaces((), ListQuery, Nothing) -> Json<Page<NetworkInterface>>;
    /// Shows a network interface.
    Read GET "/v1/interfaces/{interface}" get_interface((InterfaceId,), NoQuery, Nothing) -> Json<NetworkInterface>;

    /// Uploads bytes that an image is to be made of.
    Administer POST "/v1/blobs" upload_blob((), NoQuery, Upload) -> Created<Blob>;
    /// Makes an image of uploaded blobs.
    Administer POST "/v1/images" create_image((), NoQuery, Json<CreateImage>) -> Created<Image>;
    /// Lists the account's images and the public ones.
    Read GET "/v1/images" list_images((), ListQuery, Nothing) -> Json<Page<Image>>;
    /// Shows an image.
    Read GET "/v1/images/{image}" get_image((ImageId,), NoQuery, Nothing) -> Json<Image>;
    /// Has hosts boot an image once and save it, for launches of one size of machine to go on from.
    Administer POST "/v1/images/{image}/warm-states"
        warm_image((ImageId,), NoQuery, Json<WarmImage>) -> Json<Image>;
    /// Has hosts delete an image's warm states; instances that went on from them go on.
    Administer DELETE "/v1/images/{image}/warm-states" cool_image((ImageId,), NoQuery, Nothing) -> Done;
    /// Deletes an image; instances that were launched from it go on.
    Administer DELETE "/v1/images/{image}" delete_image((ImageId,), NoQuery, Nothing) -> Done;
    /// Makes a volume, empty or from a snapshot.
    Operate POST "/v1/volumes" create_volume((), NoQuery, Json<CreateVolume>) -> Created<Volume>;
    /// Lists volumes.
    Read GET "/v1/volumes" list_volumes((), ListQuery, Nothing) -> Json<Page<Volume>>;
    /// Shows a volume.
    Read GET "/v1/volumes/{volume}" get_volume((VolumeId,), NoQuery, Nothing) -> Json<Volume>;
    /// Deletes a volume that is not attached.
    Operate DELETE "/v1/volumes/{volume}" delete_volume((VolumeId,), EndSourceQuery, Nothing) -> Done;
    /// Attaches a volume to an instance, running or stopped.
    Operate POST "/v1/volumes/{volume}/attach" attach_volume((VolumeId,), NoQuery, Json<AttachVolume>) -> Json<Volume>;
    /// Detaches a volume.
    Operate POST "/v1/volumes/{volume}/detach" detach_volume((VolumeId,), NoQuery, Nothing) -> Json<Volume>;
    /// Takes a snapshot of a volume.
    Operate POST "/v1/snapshots" create_snapshot((), NoQuery, Json<CreateSnapshot>) -> Created<Snapshot>;
    /// Lists snapshots.
    Read GET "/v1/snapshots" list_snapshots((), ListQuery, Nothing) -> Json<Page<Snapshot>>;
    /// Shows a snapshot.
    Read GET "/v1/snapshots/{snapshot}" get_snapshot((SnapshotId,), NoQuery, Nothing) -> Json<Snapshot>;
    /// Deletes a snapshot; volumes made from it stay.
    Operate DELETE "/v1/snapshots/{snapshot}" delete_snapshot((SnapshotId,), NoQuery, Nothing) -> Done;

    /// Launches instances.
    Operate POST "/v1/instances" launch_instances((), NoQuery, Json<LaunchInstances>) -> Created<Launched>;
    /// Lists instances; terminated ones stay in the list for an hour.
    Read GET "/v1/instances" list_instances((), ListQuery, Nothing) -> Json<Page<Instance>>;
    /// Shows an instance.
    Read GET "/v1/instances/{instance}" get_instance((InstanceId,), NoQuery, Nothing) -> Json<Instance>;
    /// Terminates an instance.
    Operate DELETE "/v1/instances/{instance}" terminate_instance((InstanceId,), EndSourceQuery, Nothing) -> Json<Instance>;
    /// Stops an instance; its volumes and its address stay.
    Operate POST "/v1/instances/{instance}/stop" stop_instance((InstanceId,), NoQuery, Json<StopInstance>) -> Json<Instance>;
    /// Starts a stopped instance.
    Operate POST "/v1/instances/{instance}/start" start_instance((InstanceId,), NoQuery, Nothing) -> Json<Instance>;
    /// Moves a running instance to another host; it goes on there where it was, and its connections with it.
    Operate POST "/v1/instances/{instance}/migrate"
        migrate_instance((InstanceId,), NoQuery, Json<MigrateInstance>) -> Json<Job>;
    /// Reboots a running instance.
    Operate POST "/v1/instances/{instance}/reboot" reboot_instance((InstanceId,), NoQuery, Nothing) -> Json<Instance>;
    /// Opens the serial console.
    Operate GET "/v1/instances/{instance}/console" open_console((InstanceId,), NoQuery, Socket) -> Upgraded;
    /// Shows what the serial console printed last.
    Read GET "/v1/instances/{instance}/log" get_log((InstanceId,), NoQuery, Nothing) -> Download;
    /// Shows what was measured of an instance, whether it is known and who says so, and what was answered.
    Read GET "/v1/instances/{instance}/attestation"
        get_attestation((InstanceId,), NoQuery, Nothing) -> Json<ShownAttestation>;
    /// Gives what the host proved an instance's start with.
    Read GET "/v1/instances/{instance}/attestation/evidence"
        get_evidence((InstanceId,), NoQuery, Nothing) -> Json<Evidence>;
    /// Gives the manifest that an instance's host was held against, with the log's head and the proof that it is in it.
    Read GET "/v1/instances/{instance}/attestation/manifest"
        get_attested_manifest((InstanceId,), NoQuery, Nothing) -> Download;
    /// Lets an instance begin as it was measured.
    Operate POST "/v1/instances/{instance}/attestation/approve"
        approve_attestation((InstanceId,), NoQuery, Json<AnswerAttestation>) -> Json<Instance>;
    /// Has a launch undone because of what was measured.
    Operate POST "/v1/instances/{instance}/attestation/deny"
        deny_attestation((InstanceId,), NoQuery, Json<AnswerAttestation>) -> Json<Instance>;
    /// Has the TPM of an instance's host open a credential that the caller made for its keys.
    Operate POST "/v1/instances/{instance}/attestation/challenge"
        challenge_host((InstanceId,), NoQuery, Json<ChallengeHost>) -> Json<ChallengedHost>;
    /// Puts measurements into the account's list of known ones.
    Administer POST "/v1/measurements"
        add_measurements((), NoQuery, Json<AddMeasurements>) -> Created<AddedMeasurements>;
    /// Lists the account's known measurements.
    Read GET "/v1/measurements" list_measurements((), ListQuery, Nothing) -> Json<Page<KnownMeasurement>>;
    /// Shows a known measurement.
    Read GET "/v1/measurements/{measurement}"
        get_measurement((KnownMeasurementId,), NoQuery, Nothing) -> Json<KnownMeasurement>;
    /// Takes a measurement out of the account's list.
    Administer DELETE "/v1/measurements/{measurement}"
        remove_measurement((KnownMeasurementId,), NoQuery, Nothing) -> Done;
    /// Lets the controller ask a notary.
    Provide POST "/v1/notaries" create_notary((), NoQuery, Json<CreateNotary>) -> Created<Notary>;
    /// Lists the notaries that the controller may ask.
    Read GET "/v1/notaries" list_notaries((), ListQuery, Nothing) -> Json<Page<Notary>>;
    /// Shows a notary.
    Read GET "/v1/notaries/{notary}" get_notary((NotaryId,), NoQuery, Nothing) -> Json<Notary>;
    /// Lets the controller ask a notary no more, which no publisher publishes at.
    Provide DELETE "/v1/notaries/{notary}" delete_notary((NotaryId,), NoQuery, Nothing) -> Done;
    /// Puts a publisher into the account's list of those whose manifests it trusts.
    Administer POST "/v1/publishers" create_publisher((), NoQuery, Json<CreatePublisher>) -> Created<Publisher>;
    /// Lists the publishers that the account trusts.
    Read GET "/v1/publishers" list_publishers((), ListQuery, Nothing) -> Json<Page<Publisher>>;
    /// Shows a publisher.
    Read GET "/v1/publishers/{publisher}" get_publisher((PublisherId,), NoQuery, Nothing) -> Json<Publisher>;
    /// Takes a publisher out of the account's list.
    Administer DELETE "/v1/publishers/{publisher}" remove_publisher((PublisherId,), NoQuery, Nothing) -> Done;
    /// Changes how an instance's memory is kept, within one interval of its host's governor.
    Operate PATCH "/v1/instances/{instance}/memory"
        set_memory((InstanceId,), NoQuery, Json<EditMemory>) -> Json<Instance>;
    /// Shows how an instance's memory is kept, and where its pages are.
    Read GET "/v1/instances/{instance}/memory" get_memory((InstanceId,), NoQuery, Nothing) -> Json<ShownMemory>;
    /// Shows where an instance's pages were during the last hour.
    Read GET "/v1/instances/{instance}/memory/history"
        get_memory_history((InstanceId,), HistoryQuery, Nothing) -> Json<MemoryHistory>;
    /// Shows the memory of all instances, and to operators that of all hosts.
    Read GET "/v1/memory" list_memory((), NoQuery, Nothing) -> Json<MemoryOverview>;
    /// Shows what memory an account held, what that costs, and what it would have cost in another mode.
    Read GET "/v1/usage" get_usage((), UsageQuery, Nothing) -> Json<ShownUsage>;
    /// Makes a price book, which takes the place of the one before from now on.
    Provide POST "/v1/price-books" create_price_book((), NoQuery, Json<CreatePriceBook>) -> Created<PriceBook>;
    /// Lists price books: the account's own and those for all, ended ones too.
    Read GET "/v1/price-books" list_price_books((), ListQuery, Nothing) -> Json<Page<PriceBook>>;
    /// Shows a price book.
    Read GET "/v1/price-books/{price_book}" get_price_book((PriceBookId,), NoQuery, Nothing) -> Json<PriceBook>;
    /// Ends a price book: what was used until now keeps its prices.
    Provide DELETE "/v1/price-books/{price_book}" end_price_book((PriceBookId,), NoQuery, Nothing) -> Done;
    /// Changes the tags of any resource.
    Operate PUT "/v1/tags/{resource}" change_tags((String,), NoQuery, Json<ChangeTags>) -> Json<Tags>;

    /// Lists flow records, newest first.
    Read GET "/v1/flows" list_flows((), FlowsQuery, Nothing) -> Json<Page<TenantFlowRecord>>;
    /// Follows flow records as they come.
    Read GET "/v1/flows/watch" watch_flows((), FlowsQuery, Nothing) -> Lines;
    /// Gives a network's flows as a file, folded as one router between its subnets would have seen them.
    Read GET "/v1/flows/export" export_flows((), ExportQuery, Nothing) -> Download;
    /// Says what decides on a flow, and why.
    Read GET "/v1/flows/why" explain_flow((), WhyQuery, Nothing) -> Json<Explanation>;
    /// Answers a question in SQL over flow records.
    Read POST "/v1/flows/query" query_flows((), NoQuery, Json<AskSql>) -> Json<SqlAnswer>;
    /// Says how far a question is that is being answered, by the name that was given with it.
    Read GET "/v1/flows/progress/{name}" get_flow_progress((String,), NoQuery, Nothing) -> Json<SqlProgress>;
    /// Lists the tables that can be asked in SQL, with their columns.
    Read GET "/v1/flows/tables" list_flow_tables((), TablesQuery, Nothing) -> Json<Vec<SqlTable>>;
    /// Lists the questions that have a name.
    Read GET "/v1/flows/questions" list_flow_questions((), NoQuery, Nothing) -> Json<Vec<NamedQuestion>>;
    /// Answers a question by its name.
    Read GET "/v1/flows/questions/{question}" ask_flows((String,), QuestionQuery, Nothing) -> Json<SqlAnswer>;
    /// Lists the addresses outside that tried many different customers within a time.
    Provide GET "/v1/flows/scanners" list_scanners((), ScannersQuery, Nothing) -> Json<Scanners>;
    /// Lists the machines that had a port closed to a source.
    Read GET "/v1/flows/closed-ports" list_closed_ports((), ClosedPortsQuery, Nothing) -> Json<ClosedPorts>;
    /// Lists losses of flow records, newest first.
    Read GET "/v1/flows/losses" list_losses((), LossesQuery, Nothing) -> Json<Page<ShownLoss>>;
    /// Lists the receipts of the account's kept flow records, oldest first.
    Read GET "/v1/flows/receipts" list_receipts((), ReceiptsQuery, Nothing) -> Json<Receipts>;
    /// Gives a file of the account's kept flow records, as Parquet.
    Read GET "/v1/flows/parts" download_part((), PartQuery, Nothing) -> Download;
    /// Lists findings, newest first.
    Read GET "/v1/findings" list_findings((), FindingsQuery, Nothing) -> Json<Page<ShownFinding>>;
    /// Shows a finding.
    Read GET "/v1/findings/{finding}" get_finding((FindingId,), NoQuery, Nothing) -> Json<ShownFinding>;
    /// Makes a flow log: a standing order for flow records.
    Administer POST "/v1/flow-logs" create_flow_log((), NoQuery, Json<CreateFlowLog>) -> Created<FlowLog>;
    /// Lists flow logs, without how far their deliveries are.
    Read GET "/v1/flow-logs" list_flow_logs((), ListQuery, Nothing) -> Json<Page<FlowLog>>;
    /// Shows a flow log and how far its delivery is.
    Read GET "/v1/flow-logs/{flow_log}" get_flow_log((FlowLogId,), NoQuery, Nothing) -> Json<FlowLog>;
    /// Changes a flow log.
    Administer PATCH "/v1/flow-logs/{flow_log}" edit_flow_log((FlowLogId,), NoQuery, Json<EditFlowLog>) -> Json<FlowLog>;
    /// Deletes a flow log; what it has delivered stays where it is.
    Administer DELETE "/v1/flow-logs/{flow_log}" delete_flow_log((FlowLogId,), NoQuery, Nothing) -> Done;
    /// Begins to record the frames of a network.
    Administer POST "/v1/recordings" start_recording((), NoQuery, Json<StartRecording>) -> Created<Recording>;
    /// Lists recordings.
    Read GET "/v1/recordings" list_recordings((), ListQuery, Nothing) -> Json<Page<Recording>>;
    /// Shows a recording, and what hosts have told of it.
    Read GET "/v1/recordings/{recording}" get_recording((RecordingId,), NoQuery, Nothing) -> Json<Recording>;
    /// Ends a recording; what was recorded stays.
    Administer POST "/v1/recordings/{recording}/stop" stop_recording((RecordingId,), NoQuery, Nothing) -> Json<Recording>;
    /// Deletes a recording and its files.
    Administer DELETE "/v1/recordings/{recording}" delete_recording((RecordingId,), NoQuery, Nothing) -> Done;
    /// Gives what was recorded as one file of pcapng.
    Administer GET "/v1/recordings/{recording}/frames" export_recording((RecordingId,), NoQuery, Nothing) -> Download;
    /// Orders that traffic is blocked or capped.
    Provide POST "/v1/mitigations" create_mitigation((), NoQuery, Json<CreateMitigation>) -> Created<Mitigation>;
    /// Lists mitigations.
    Provide GET "/v1/mitigations" list_mitigations((), ListQuery, Nothing) -> Json<Page<Mitigation>>;
    /// Shows a mitigation.
    Provide GET "/v1/mitigations/{mitigation}" get_mitigation((MitigationId,), NoQuery, Nothing) -> Json<Mitigation>;
    /// Ends a mitigation.
    Provide DELETE "/v1/mitigations/{mitigation}" delete_mitigation((MitigationId,), NoQuery, Nothing) -> Done;
    /// Says what would be made of a network, and what not.
    Read POST "/v1/replicas/plan" plan_replica((), NoQuery, Json<PlanReplica>) -> Json<ReplicaPlan>;
    /// Duplicates a running network.
    Administer POST "/v1/replicas" create_replica((), NoQuery, Json<CreateReplica>) -> Created<Replica>;
    /// Lists replicas; those that have ended stay in the list for an hour.
    Read GET "/v1/replicas" list_replicas((), ListQuery, Nothing) -> Json<Page<Replica>>;
    /// Shows a replica.
    Read GET "/v1/replicas/{replica}" get_replica((ReplicaId,), NoQuery, Nothing) -> Json<Replica>;
    /// Ends a replica, its network and everything in it.
    Administer DELETE "/v1/replicas/{replica}" delete_replica((ReplicaId,), NoQuery, Nothing) -> Json<Replica>;
    /// Copies what a replica draws on while it runs; then it draws on nothing.
    Administer POST "/v1/replicas/{replica}/deepen" deepen_replica((ReplicaId,), NoQuery, Nothing) -> Json<Replica>;
    /// Makes a replica that draws on nothing a network in its own right.
    Administer POST "/v1/replicas/{replica}/promote" promote_replica((ReplicaId,), NoQuery, Nothing) -> Json<Replica>;
    /// Begins to play a recording into a duplicate of its network.
    Administer POST "/v1/replays" start_replay((), NoQuery, Json<StartReplay>) -> Created<Replay>;
    /// Lists replays, without the differences that their reports tell.
    Read GET "/v1/replays" list_replays((), ListQuery, Nothing) -> Json<Page<Replay>>;
    /// Shows a replay and its reports.
    Read GET "/v1/replays/{replay}" get_replay((ReplayId,), NoQuery, Nothing) -> Json<Replay>;
    /// Ends a replay that is not over; it has no report then.
    Administer POST "/v1/replays/{replay}/stop" stop_replay((ReplayId,), NoQuery, Nothing) -> Json<Replay>;
    /// Deletes a replay and its reports.
    Administer DELETE "/v1/replays/{replay}" delete_replay((ReplayId,), NoQuery, Nothing) -> Done;
    /// Begins to ask made-up requests of an instance of a duplicate.
    Administer POST "/v1/loads" start_load((), NoQuery, Json<StartLoad>) -> Created<Load>;
    /// Lists loads, without the series of their reports.
    Read GET "/v1/loads" list_loads((), ListQuery, Nothing) -> Json<Page<Load>>;
    /// Shows a load and how it goes.
    Read GET "/v1/loads/{load}" get_load((LoadId,), NoQuery, Nothing) -> Json<Load>;
    /// Ends a load that is not over; what was told of it stays.
    Administer POST "/v1/loads/{load}/stop" stop_load((LoadId,), NoQuery, Nothing) -> Json<Load>;
    /// Deletes a load and its report.
    Administer DELETE "/v1/loads/{load}" delete_load((LoadId,), NoQuery, Nothing) -> Done;
    /// Says what differs between a replica and its source now.
    Read GET "/v1/replicas/{replica}/differences"
        compare_replica((ReplicaId,), NoQuery, Nothing) -> Json<ReplicaDifferences>;
    /// Says what the instances of a replica and those of its source do on the network that the others do not.
    Read GET "/v1/replicas/{replica}/flow-differences"
        compare_replica_flows((ReplicaId,), FlowDifferenceQuery, Nothing) -> Json<FlowDifferences>;
    /// Makes a standing order: to duplicate and record a network when something happens to it.
    Administer POST "/v1/triggers" create_trigger((), NoQuery, Json<CreateTrigger>) -> Created<Trigger>;
    /// Lists triggers.
    Read GET "/v1/triggers" list_triggers((), ListQuery, Nothing) -> Json<Page<Trigger>>;
    /// Shows a trigger: what it made, what not, and why.
    Read GET "/v1/triggers/{trigger}" get_trigger((TriggerId,), NoQuery, Nothing) -> Json<Trigger>;
    /// Deletes a trigger; what it made stays.
    Administer DELETE "/v1/triggers/{trigger}" delete_trigger((TriggerId,), NoQuery, Nothing) -> Done;
    /// Makes a scaling group and launches its first instances.
    Operate POST "/v1/scaling-groups"
        create_scaling_group((), NoQuery, Json<CreateScalingGroup>) -> Created<ScalingGroup>;
    /// Lists scaling groups.
    Read GET "/v1/scaling-groups" list_scaling_groups((), ListQuery, Nothing) -> Json<Page<ScalingGroup>>;
    /// Shows a scaling group: its instances, what they have on the average, and what was decided.
    Read GET "/v1/scaling-groups/{scaling_group}"
        get_scaling_group((ScalingGroupId,), NoQuery, Nothing) -> Json<ScalingGroup>;
    /// Changes what a scaling group is kept at, and between which sizes.
    Operate PATCH "/v1/scaling-groups/{scaling_group}"
        edit_scaling_group((ScalingGroupId,), NoQuery, Json<EditScalingGroup>) -> Json<ScalingGroup>;
    /// Deletes a scaling group that has no instances, or with force those too.
    Operate DELETE "/v1/scaling-groups/{scaling_group}"
        delete_scaling_group((ScalingGroupId,), DeleteScalingGroupQuery, Nothing) -> Done;
    /// Lists events, newest first: what happened to the account's things without anybody asking for it.
    Read GET "/v1/events" list_events((), EventsQuery, Nothing) -> Json<Page<Event>>;
    /// Lists jobs: the workflows of launches and terminations.
    Read GET "/v1/jobs" list_jobs((), ListQuery, Nothing) -> Json<Page<Job>>;
    /// Shows a job.
    Read GET "/v1/jobs/{job}" get_job((JobId,), NoQuery, Nothing) -> Json<Job>;

    /// Trusts the TPMs of a maker.
    Provide POST "/v1/tpm-makers" add_tpm_maker((), NoQuery, Json<AddTpmMaker>) -> Created<TpmMaker>;
    /// Lists the makers whose TPMs are trusted.
    Provide GET "/v1/tpm-makers" list_tpm_makers((), ListQuery, Nothing) -> Json<Page<TpmMaker>>;
    /// Shows a maker whose TPMs are trusted.
    Provide GET "/v1/tpm-makers/{tpm_maker}" get_tpm_maker((TpmMakerId,), NoQuery, Nothing) -> Json<TpmMaker>;
    /// Trusts the TPMs of a maker no longer.
    Provide DELETE "/v1/tpm-makers/{tpm_maker}" remove_tpm_maker((TpmMakerId,), NoQuery, Nothing) -> Done;

    /// Brings a signed request to a host: octets that nobody on the way need be able to read.
    Operate POST "/v1/seal/requests" submit_sealed_request((), SealedAtQuery, Upload) -> Json<SealStanding>;
    /// Tells what came of a request that the caller's account brought, waiting for its end.
    Operate GET "/v1/seal/requests/{request}" get_sealed_request((Digest,), LookQuery, Nothing) -> Json<SealStanding>;
    /// Gives the result of a request, which only its readers can open.
    Operate GET "/v1/seal/requests/{request}/result" get_sealed_result((Digest,), ResultQuery, Nothing) -> Download;
    /// Lets a host forget a result that was collected.
    Operate DELETE "/v1/seal/requests/{request}" forget_sealed_request((Digest,), SealedAtQuery, Nothing) -> Done;
    /// Tells what a host says of itself to those who are to ask it: its keys, signed, and its newest beacon.
    Read GET "/v1/seal/host" get_seal_host((), SealHostQuery, Nothing) -> Json<SealHost>;
    /// Tells a host's log of sealed requests with proofs: of a tenant's, what concerns its instances.
    Read GET "/v1/seal/log" get_seal_log((), SealLogQuery, Nothing) -> Json<SealLog>;
    /// Carries to all hosts what they are to go by; each judges by its own pinned key whether it does.
    Provide PUT "/v1/seal/policy" publish_seal_policy((), NoQuery, Json<SealPolicy>) -> Done;
    /// Shows what is carried to hosts.
    Provide GET "/v1/seal/policy" get_seal_policy((), NoQuery, Nothing) -> Json<SealPolicy>;

    /// Makes a machine a host, by the operator's join token.
    Public POST "/v1/host/enrol" enrol_host((), NoQuery, Json<EnrolHost>) -> Created<Enrolled>;
    /// Says what the host is now, and learns where flow records go.
    Host POST "/v1/host/hello" hello_host((), NoQuery, Json<lucarne_model::actual::HostDescription>) -> Json<HostSettings>;
    /// Takes what a host says of its TPM, which is then asked to prove it.
    Host POST "/v1/host/tpm" present_tpm((), NoQuery, Json<PresentedTpm>) -> Done;
    /// Takes the answer to a challenge that the desired state asks for.
    Host POST "/v1/host/challenges/{token}" answer_challenge((String,), NoQuery, Json<ChallengeAnswer>) -> Done;
    /// Takes a host's heartbeat and actual state.
    Host POST "/v1/host/report" report_host((), NoQuery, Json<Report>) -> Done;
    /// Gives a host its desired state, waiting for a newer one.
    Host GET "/v1/host/desired" get_desired((), DesiredQuery, Nothing) -> Json<DesiredAnswer>;
    /// Gives a host the policy of sealed operations that its desired state names.
    Host GET "/v1/host/seal-policy" fetch_seal_policy((), NoQuery, Nothing) -> Json<SealPolicy>;
    /// Gives a host a blob that its desired state names.
    Host GET "/v1/host/blobs/{digest}" download_blob((Digest,), NoQuery, Nothing) -> Download;
    /// Gives a host the recording that it is to play.
    Host GET "/v1/host/replays/{replay}/frames" fetch_replayed_frames((ReplayId,), NoQuery, Nothing) -> Download;
    /// Takes a blob that a host made: a snapshot.
    Host POST "/v1/host/blobs" upload_host_blob((), NoQuery, Upload) -> Created<Blob>;
    /// Opens the host's end of a stream that the desired state asks for.
    Host GET "/v1/host/streams/{token}" open_stream((String,), NoQuery, Socket) -> Upgraded;
}
