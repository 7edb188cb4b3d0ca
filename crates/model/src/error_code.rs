//! The stable error codes of the API: one table of code, HTTP status and title.
//!
//! Owns the vocabulary, in EC2's words where EC2 has one. Which error happened, and its sentence, is the services' work.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// A stable code; clients may match on its text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ErrorCode { $(#[doc = $title] #[serde(rename = $text)] $name,)* }

        impl ErrorCode {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            pub const fn status(self) -> u16 { match self { $(Self::$name => $status,)* } }
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

error_codes! {
    AuthFailure = "AuthFailure", 401, "The credentials are missing, wrong or expired";
    UnauthorizedOperation = "UnauthorizedOperation", 403, "The principal may not do this";
    InvalidParameterValue = "InvalidParameterValue", 400, "A parameter has a value that is not allowed";
    MalformedRequest = "MalformedRequest", 400, "The request could not be read";
    RequestTooLarge = "RequestTooLarge", 413, "The request is larger than allowed";
    RequestTimeout = "RequestTimeout", 408, "The request did not arrive in time";
    UnsupportedMediaType = "UnsupportedMediaType", 415, "The request body is not of the expected type";
    NoSuchRoute = "NoSuchRoute", 404, "The API has no such path";
    MethodNotAllowed = "MethodNotAllowed", 405, "The path does not take this method";
    RequestLimitExceeded = "RequestLimitExceeded", 429, "The account sends requests faster than its limit";
    IdempotentParameterMismatch = "IdempotentParameterMismatch", 409, "The idempotency key was used with other parameters";
    InvalidPageToken = "InvalidPageToken", 400, "The page token is not one that this list gave";
    ResourceLimitExceeded = "ResourceLimitExceeded", 403, "The account's quota is used up";
    DryRunOperation = "DryRunOperation", 412, "The request would have succeeded";
    DependencyViolation = "DependencyViolation", 409, "The resource is still used by another";
    IncorrectState = "IncorrectState", 409, "The resource is in a state that does not allow this";
    InvalidAccountNotFound = "InvalidAccountId.NotFound", 404, "No such account";
    InvalidUserNotFound = "InvalidUserId.NotFound", 404, "No such user";
    InvalidAccessKeyNotFound = "InvalidAccessKeyId.NotFound", 404, "No such access key";
    InvalidHostNotFound = "InvalidHostId.NotFound", 404, "No such host";
    InvalidVpcNotFound = "InvalidVpcId.NotFound", 404, "No such VPC";
    InvalidSubnetNotFound = "InvalidSubnetId.NotFound", 404, "No such subnet";
    InvalidRouteTableNotFound = "InvalidRouteTableId.NotFound", 404, "No such route table";
    InvalidNetworkAclNotFound = "InvalidNetworkAclId.NotFound", 404, "No such network ACL";
    InvalidAclEntryNotFound = "InvalidNetworkAclEntry.NotFound", 404, "No such entry of the network ACL";
    InvalidGroupNotFound = "InvalidGroupId.NotFound", 404, "No such security group";
    InvalidRuleNotFound = "InvalidSecurityGroupRuleId.NotFound", 404, "No such security group rule";
    InvalidInterfaceNotFound = "InvalidNetworkInterfaceId.NotFound", 404, "No such network interface";
    InvalidInstanceNotFound = "InvalidInstanceId.NotFound", 404, "No such instance";
    InvalidVolumeNotFound = "InvalidVolumeId.NotFound", 404, "No such volume";
    InvalidSnapshotNotFound = "InvalidSnapshotId.NotFound", 404, "No such snapshot";
    InvalidImageNotFound = "InvalidImageId.NotFound", 404, "No such image";
    InvalidFlowLogNotFound = "InvalidFlowLogId.NotFound", 404, "No such flow log";
    InvalidRecordingNotFound = "InvalidRecordingId.NotFound", 404, "No such recording";
    InvalidReplayNotFound = "InvalidReplayId.NotFound", 404, "No such replay";
    InvalidLoadNotFound = "InvalidLoadId.NotFound", 404, "No such load";
    InvalidTriggerNotFound = "InvalidTriggerId.NotFound", 404, "No such trigger";
    InvalidScalingGroupNotFound = "InvalidScalingGroupId.NotFound", 404, "No such scaling group";
    InvalidMitigationNotFound = "InvalidMitigationId.NotFound", 404, "No such mitigation";
    InvalidFindingNotFound = "InvalidFindingId.NotFound", 404, "No such finding";
    InvalidPriceBookNotFound = "InvalidPriceBookId.NotFound", 404, "No such price book";
    InvalidMeasurementNotFound = "InvalidMeasurementId.NotFound", 404, "No such measurement in the account's list";
    InvalidTpmMakerNotFound = "InvalidTpmMakerId.NotFound", 404, "No such maker of TPMs in the list of those that are trusted";
    InvalidNotaryNotFound = "InvalidNotaryId.NotFound", 404, "No such notary";
    InvalidPublisherNotFound = "InvalidPublisherId.NotFound", 404, "No such publisher in the account's list";
    AttestPolicyNotFound = "InvalidAttestPolicy.NotFound", 404, "The VPC has no attestation policy";
    AttestationNotFound = "InvalidAttestation.NotFound", 404, "Nothing was to be proved of the instance";
    InvalidPartNotFound = "InvalidPartName.NotFound", 404, "No such part of kept flow records";
    InvalidJobNotFound = "InvalidJobId.NotFound", 404, "No such job";
    InvalidReplicaNotFound = "InvalidReplicaId.NotFound", 404, "No such replica";
    AmbiguousName = "AmbiguousName", 409, "More than one resource has this name";
    InvalidCidr = "InvalidParameterValue.Cidr", 400, "The network is not usable here";
    SubnetConflict = "InvalidSubnet.Conflict", 409, "The subnet overlaps another of the VPC";
    SubnetRange = "InvalidSubnet.Range", 400, "The subnet does not lie in its VPC";
    InsufficientFreeAddresses = "InsufficientFreeAddressesInSubnet", 409, "The subnet has no free address";
    AddressInUse = "InvalidIPAddress.InUse", 409, "The address is taken";
    InvalidPermissionDuplicate = "InvalidPermission.Duplicate", 409, "The group has this rule";
    InvalidGroupDuplicate = "InvalidGroup.Duplicate", 409, "The VPC has a group of this name";
    AccountDuplicate = "AccountAlreadyExists", 409, "An account of this name exists";
    UserDuplicate = "UserAlreadyExists", 409, "A user of this name exists in the account";
    NotaryDuplicate = "NotaryAlreadyExists", 409, "A notary of this name exists";
    PublisherDuplicate = "PublisherAlreadyExists", 409, "The account has a publisher of this name";
    ReplicaDuplicate = "ReplicaAlreadyExists", 409, "The account has a replica of this name";
    TriggerDuplicate = "TriggerAlreadyExists", 409, "The account has a trigger of this name";
    ScalingGroupDuplicate = "ScalingGroupAlreadyExists", 409, "The VPC has a scaling group of this name";
    ReplicaDependsOnSource = "ReplicaDependsOnSource", 409, "A replica still draws on what was duplicated";
    ReplicaNotPossible = "ReplicaNotPossible", 409, "The network cannot be duplicated as asked";
    LoadTargetNotInReplica = "LoadTargetNotInReplica", 409, "Who is to be asked, or beside whom the clients are to stand, is not in the replica";
    RecordingUnplayable = "RecordingUnplayable", 409, "Nothing of the recording can be played as asked";
    AclEntryExists = "NetworkAclEntryAlreadyExists", 409, "The network ACL has an entry of this number and direction";
    RouteExists = "RouteAlreadyExists", 409, "The route table has a route for this destination";
    VolumeInUse = "VolumeInUse", 409, "The volume is attached";
    VolumeElsewhere = "VolumeOnOtherHost", 409, "The volume lies on another host than the instance";
    InstanceBoundToHost = "InstanceBoundToHost", 409, "What the instance was proved by, or keeps, does not leave its host";
    AttachmentLimitExceeded = "AttachmentLimitExceeded", 409, "The instance has as many volumes as it can";
    InsufficientInstanceCapacity = "InsufficientInstanceCapacity", 503, "No host has room for the instance";
    ImageUnreadable = "InvalidImage.Unreadable", 400, "The image is not what its format says";
    DiskFull = "InsufficientStorage", 507, "A disk is full";
    DiskSlow = "StorageSlow", 503, "A disk takes long for what it is asked";
    HostUnreachable = "HostUnreachable", 503, "The host did not answer in time";
    HypervisorMissing = "HypervisorMissing", 503, "The host has no usable QEMU";
    HypervisorFailed = "HypervisorFailed", 500, "QEMU ended or refused";
    AttestationNotYours = "AttestationNotYours", 403, "Only the account of the instance answers for it";
    AttestationAnswered = "AttestationAlreadyAnswered", 409, "The attestation has been answered";
    AttestationExpired = "AttestationExpired", 409, "The answer was not given in time";
    AttestationDenied = "AttestationDenied", 409, "The owner did not approve what was measured";
    HostNotProved = "HostNotProved", 503, "The host could not prove what it runs";
    TpmFailed = "TpmFailed", 503, "The TPM of the host, or of the instance, does not work";
    TpmChanged = "TpmChanged", 409, "The host has another TPM than the one that it proved";
    TpmInUse = "TpmInUse", 409, "Another host has proved this TPM to be its own";
    ChallengeExpired = "ChallengeExpired", 409, "The challenge was answered, or its time is over";
    MeasurementChanged = "MeasurementChanged", 409, "What was measured was changed afterwards";
    SealRefused = "SealRefused", 403, "The sealed request was refused";
    SealEnvelopeMalformed = "SealEnvelopeMalformed", 400, "The envelope of the sealed request cannot be read";
    SealRequestMalformed = "SealRequestMalformed", 400, "The sealed request asks for nothing that there is";
    SealKeyUntrusted = "SealKeyUntrusted", 403, "A key that signed is not trusted here";
    SealKeyRevoked = "SealKeyRevoked", 403, "A key that signed is not trusted any more";
    SealSignatureInvalid = "SealSignatureInvalid", 403, "A signature is not that of its key";
    SealExpired = "SealExpired", 403, "The sealed request does not hold at this time";
    SealReplayed = "SealReplayed", 409, "The sealed request was taken before";
    SealBusy = "SealBusy", 503, "No more sealed requests are taken for now";
    SealOtherTarget = "SealOtherTarget", 409, "The sealed request is for another host or instance";
    SealNotGranted = "SealNotGranted", 403, "Who signed may not ask for this";
    SealPolicyUnusable = "SealPolicyUnusable", 409, "The host's grants are older than the request wants, or cannot be used";
    SealResultUnreadable = "SealResultUnreadable", 409, "The sealed result is not whole, or not for this reader";
    SealReceiptInvalid = "SealReceiptInvalid", 409, "The receipt is not the host's, or is of another result";
    ControllerUnreachable = "ControllerUnreachable", 503, "The controller does not answer";
    CollectorUnavailable = "CollectorUnavailable", 503, "The flow collector does not answer";
    InvalidSql = "InvalidSql", 400, "The question cannot be read, or does not fit the tables";
    SqlNotAllowed = "SqlNotAllowed", 400, "Only one SELECT is answered";
    SqlTooSlow = "SqlTooSlow", 400, "The question took longer than its time limit";
    SqlTooLarge = "SqlTooLarge", 400, "The question needed more memory, or has a larger answer, than its limit";
    SqlBusy = "SqlBusy", 429, "Others are being answered";
    SqlUnavailable = "SqlUnavailable", 503, "The collector could not read its records";
    InvalidQuestionNotFound = "InvalidQuestionId.NotFound", 404, "No such question, or none that is being answered";
    EvidenceMalformed = "EvidenceMalformed", 400, "A part of the evidence is not what it should be";
    EvidenceSha1Only = "EvidenceSha1Only", 409, "The evidence rests on SHA-1, which proves nothing";
    QuoteSignatureInvalid = "QuoteSignatureInvalid", 409, "The attestation key did not sign the quote";
    QuoteNotGenerated = "QuoteNotGenerated", 409, "The quote was not made by a TPM";
    QuoteStale = "QuoteStale", 409, "The quote answers another nonce, or another launch";
    QuoteRelayed = "QuoteRelayed", 409, "The quote is that of another host";
    QuoteIncomplete = "QuoteIncomplete", 409, "The quote leaves out registers that are to be judged";
    QuoteClockBack = "QuoteClockBack", 409, "The TPM's counters went back";
    PcrDigestMismatch = "PcrDigestMismatch", 409, "The quote is not over these values";
    EventLogMalformed = "EventLogMalformed", 400, "The event log cannot be read";
    EventLogMismatch = "EventLogMismatch", 409, "The event log does not explain the quoted values";
    GuestMismatch = "GuestMismatch", 409, "The guest that was described is not the one that was quoted";
    AttestationKeyUntrusted = "AttestationKeyUntrusted", 409, "The key is not one that only signs what its TPM made";
    EndorsementUntrusted = "EndorsementUntrusted", 409, "No trusted maker vouches for the TPM";
    CredentialMismatch = "CredentialMismatch", 409, "The attestation key was not proved to live in the endorsed TPM";
    MeasurementUnknown = "MeasurementUnknown", 409, "A measurement matches nothing that is known";
    ManifestInvalid = "ManifestInvalid", 409, "The manifest is not one that the publisher signed";
    ManifestExpired = "ManifestExpired", 409, "The manifest is not valid at this time";
    ManifestRevoked = "ManifestRevoked", 409, "The publisher revoked the manifest";
    ManifestRolledBack = "ManifestRolledBack", 409, "A newer version of the manifest is known";
    ManifestNotLogged = "ManifestNotLogged", 409, "The manifest is not proved to be in the publisher's log";
    LogForked = "LogForked", 409, "The publisher's log shows different things to different readers";
    LogStale = "LogStale", 409, "The publisher's log was not shown as it is now";
    PublisherUnreachable = "PublisherUnreachable", 503, "The publisher's notary does not answer";
    InvalidManifestNotFound = "InvalidManifestId.NotFound", 404, "No such manifest";
    StoreUnavailable = "StoreUnavailable", 503, "The store could not be written";
    Internal = "InternalError", 500, "Something went wrong inside; it has been logged";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_one_name_and_a_status_that_is_an_error() {
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }
}
