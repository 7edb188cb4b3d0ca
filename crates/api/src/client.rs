//! The client, generated from `docs/openapi.json`: one method for each route.
//!
//! Owns the reading of problems from failed calls. Types of `lucarne_model` and of [`crate::bodies`] stand in for the
//! generator's own where programs go on with them.

use futures::TryStreamExt;
use lucarne_model::ErrorCode;
pub use progenitor_client::{ByteStream, Error, ResponseValue};

use crate::Problem;

mod generated {
    #![allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::unwrap_used)]
    progenitor::generate_api!(
        spec = "../../docs/openapi.json",
        interface = Positional,
        replace = {
            AccountId = lucarne_model::AccountId,
            AddMeasurements = crate::bodies::attestation::AddMeasurements,
            AddedMeasurements = crate::bodies::attestation::AddedMeasurements,
            AnswerAttestation = crate::bodies::attestation::AnswerAttestation,
            AddTpmMaker = crate::bodies::tpm::AddTpmMaker,
            AddAclEntry = crate::bodies::network::AddAclEntry,
            AskSql = crate::bodies::flow_question::AskSql,
            AuthorizeRule = crate::bodies::network::AuthorizeRule,
            ChallengeAnswer = lucarne_model::tpm::ChallengeAnswer,
            ChallengeHost = crate::bodies::tpm::ChallengeHost,
            ChallengedHost = crate::bodies::tpm::ChallengedHost,
            Cidr = lucarne_model::Cidr,
            CreateAccessKey = crate::bodies::identity::CreateAccessKey,
            CreateAccount = crate::bodies::identity::CreateAccount,
            CreateFlowLog = crate::bodies::flow_log::CreateFlowLog,
            CreateImage = crate::bodies::storage::CreateImage,
            CreateMitigation = crate::bodies::mitigation::CreateMitigation,
            CreateNotary = crate::bodies::publisher::CreateNotary,
            CreatePriceBook = crate::bodies::price_book::CreatePriceBook,
            CreatePublisher = crate::bodies::publisher::CreatePublisher,
            CreateReplica = crate::bodies::replica::CreateReplica,
            CreateRoute = crate::bodies::network::CreateRoute,
            CreateToken = crate::bodies::identity::CreateToken,
            CreateVolume = crate::bodies::storage::CreateVolume,
            DesiredAnswer = crate::bodies::host::DesiredAnswer,
            Destination = lucarne_model::flow_log::Destination,
            Digest = lucarne_model::storage::Digest,
            Direction = lucarne_model::flow::Direction,
            EditMemory = crate::bodies::memory::EditMemory,
            EditFlowLog = crate::bodies::flow_log::EditFlowLog,
            EndReason = lucarne_model::EndReason,
            EnrolHost = crate::bodies::host::EnrolHost,
            Enrolled = crate::bodies::host::Enrolled,
            EventKind = lucarne_model::EventKind,
            Evidence = lucarne_model::Evidence,
            ExportFormat = lucarne_model::flow_log::ExportFormat,
            FindingId = lucarne_model::FindingId,
            FindingKind = lucarne_model::finding::FindingKind,
            FlowLogId = lucarne_model::FlowLogId,
            History = lucarne_model::History,
            HostDescription = lucarne_model::actual::HostDescription,
            HostId = lucarne_model::HostId,
            HostName = lucarne_model::HostName,
            HostSettings = crate::bodies::host::HostSettings,
            ImageId = lucarne_model::ImageId,
            Instance = lucarne_model::instance::Instance,
            InstanceId = lucarne_model::InstanceId,
            InterfaceId = lucarne_model::InterfaceId,
            Job = crate::bodies::instance::Job,
            JobId = lucarne_model::JobId,
            ObjectId = lucarne_model::replication::ObjectId,
            PlanReplica = crate::bodies::replica::PlanReplica,
            Replica = lucarne_model::replication::Replica,
            ReplicaDifferences = crate::bodies::replica::ReplicaDifferences,
            FlowDifferences = lucarne_model::replica_flows::FlowDifferences,
            ReplicaPlan = lucarne_model::replication::ReplicaPlan,
            ReplicaTerms = lucarne_model::replication::ReplicaTerms,
            KnownMeasurement = lucarne_model::attestation::KnownMeasurement,
            KnownMeasurementId = lucarne_model::KnownMeasurementId,
            LaunchInstances = crate::bodies::instance::LaunchInstances,
            Launched = crate::bodies::instance::Launched,
            Location = lucarne_model::flow::Location,
            MacAddress = lucarne_model::MacAddress,
            Measure = crate::bodies::flow_question::Measure,
            MigrateInstance = crate::bodies::instance::MigrateInstance,
            MitigationId = lucarne_model::MitigationId,
            Moment = lucarne_model::Moment,
            NetworkAclId = lucarne_model::NetworkAclId,
            NewAccount = crate::bodies::identity::NewAccount,
            NewAccessKey = crate::bodies::identity::NewAccessKey,
            Notary = lucarne_model::publisher::Notary,
            NotaryId = lucarne_model::NotaryId,
            Octets = lucarne_model::Octets,
            PresentedTpm = lucarne_model::tpm::PresentedTpm,
            PriceBookId = lucarne_model::PriceBookId,
            Problem = crate::Problem,
            Publisher = lucarne_model::publisher::Publisher,
            PublisherId = lucarne_model::PublisherId,
            Quota = lucarne_model::identity::Quota,
            Recording = lucarne_model::recording::Recording,
            RecordingId = lucarne_model::RecordingId,
            RecordingFilter = lucarne_model::recording::RecordingFilter,
            RecordingRoom = lucarne_model::recording::RecordingRoom,
            ReplicaId = lucarne_model::ReplicaId,
            Load = lucarne_model::load::Load,
            LoadId = lucarne_model::LoadId,
            StartLoad = crate::bodies::load::StartLoad,
            Replay = lucarne_model::replay::Replay,
            ReplayId = lucarne_model::ReplayId,
            StartReplay = crate::bodies::replay::StartReplay,
            StartRecording = crate::bodies::recording::StartRecording,
            Report = lucarne_model::actual::Report,
            RouteTableId = lucarne_model::RouteTableId,
            RuleId = lucarne_model::RuleId,
            CreateScalingGroup = crate::bodies::scaling_group::CreateScalingGroup,
            EditScalingGroup = crate::bodies::scaling_group::EditScalingGroup,
            ScalingGroup = lucarne_model::scaling::ScalingGroup,
            ScalingGroupId = lucarne_model::ScalingGroupId,
            ShownAttestation = crate::bodies::attestation::ShownAttestation,
            SecurityGroupId = lucarne_model::SecurityGroupId,
            SetAttestPolicy = crate::bodies::attestation::SetAttestPolicy,
            Snapshot = lucarne_model::storage::Snapshot,
            SnapshotId = lucarne_model::SnapshotId,
            SqlAnswer = lucarne_model::flow_sql::SqlAnswer,
            SqlProgress = lucarne_model::flow_sql::SqlProgress,
            SqlTable = lucarne_model::flow_sql::SqlTable,
            SubnetId = lucarne_model::SubnetId,
            Tags = lucarne_model::Tags,
            Token = crate::bodies::identity::Token,
            TpmMakerId = lucarne_model::TpmMakerId,
            CreateTrigger = crate::bodies::trigger::CreateTrigger,
            Trigger = lucarne_model::trigger::Trigger,
            TriggerId = lucarne_model::TriggerId,
            UserId = lucarne_model::UserId,
            Verdict = lucarne_model::flow::Verdict,
            Volume = lucarne_model::storage::Volume,
            VolumeId = lucarne_model::VolumeId,
            VpcId = lucarne_model::VpcId,
            WarmImage = crate::bodies::storage::WarmImage,
        },
    );
}
pub use generated::{Client, types};

/// The largest problem document that is read from a controller.
const PROBLEM_BYTES: usize = 64 << 10;

/// What a failed call means, whether the controller said it or nobody answered.
pub async fn problem_of(error: Error<ByteStream>) -> Problem {
    match error {
        Error::ErrorResponse(response) => {
            let status = response.status().as_u16();
            read_problem(status, response.into_inner().into_inner()).await
        }
        Error::UnexpectedResponse(response) => {
            let status = response.status().as_u16();
            read_problem(status, response.bytes_stream()).await
        }
        Error::CommunicationError(cause) => {
            Problem::new(ErrorCode::ControllerUnreachable, format!("the controller does not answer: {}", root(&cause)))
        }
        other => Problem::new(ErrorCode::MalformedRequest, other.to_string()),
    }
}

async fn read_problem(
    status: u16,
    mut stream: impl futures::Stream<Item = Result<bytes::Bytes, reqwest::Error>> + Unpin,
) -> Problem {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = stream.try_next().await {
        body.extend_from_slice(&chunk);
        if body.len() > PROBLEM_BYTES {
            break;
        }
    }
    serde_json::from_slice(&body).unwrap_or_else(|_| {
        Problem::new(
            ErrorCode::ControllerUnreachable,
            format!("something that is no controller answered with status {status}"),
        )
    })
}

fn root(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
