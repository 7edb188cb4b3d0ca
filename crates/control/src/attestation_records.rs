//! What the store keeps of attestations, and of publishers, beyond what the API shows.
//!
//! Owns the records' shapes and what each points at.

use lucarne_attest::{log::Head, manifest::Published};
use lucarne_model::{
    AccountId, ErrorCode, Evidence, InstanceId, Measurement, PublisherId, ResourceKind, Tags,
    attestation::Judgement,
    publisher::{ManifestVersion, Publisher, SeenHead},
};
use serde::{Deserialize, Serialize};

use crate::store::Resource;

/// What was proved of an instance, and what was thought of it: beside its instance, of which every look needs the rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AttestationRecord {
    pub(crate) instance: InstanceId,
    pub(crate) account: AccountId,
    /// The newest proof that could be read.
    pub(crate) evidence: Option<Evidence>,
    /// What it says, the host's first.
    pub(crate) measurements: Vec<Measurement>,
    /// The manifest that the host's software was found in last, where one was asked for.
    #[serde(default)]
    pub(crate) held_against: Option<HeldAgainst>,
    /// Oldest first.
    pub(crate) history: Vec<Judgement>,
}

impl Resource for AttestationRecord {
    const KIND: ResourceKind = ResourceKind::Attestation;
    const NOT_FOUND: ErrorCode = ErrorCode::AttestationNotFound;
    /// Not the instance's own: one id names one thing.
    type Id = String;
    fn id(&self) -> String {
        Self::id_of(self.instance)
    }
    fn account(&self) -> AccountId {
        self.account
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        None
    }
}

impl AttestationRecord {
    /// How many judgements are kept.
    const HISTORY: usize = 100;

    pub(crate) fn id_of(instance: InstanceId) -> String {
        format!("{}/{instance}", Self::KIND)
    }

    /// Of a row of judgements that say the same the first and the newest are kept: what runs is judged again and again.
    pub(crate) fn note(&mut self, judgement: Judgement) {
        let says_the_same = |one: &Judgement| {
            let Judgement { at, nonce, .. } = judgement.clone();
            Judgement { at, nonce, ..one.clone() } == judgement
        };
        if self.history.len() >= 2 && self.history.iter().rev().take(2).all(says_the_same) {
            self.history.pop();
        }
        self.history.push(judgement);
        let excess = self.history.len().saturating_sub(Self::HISTORY);
        self.history.drain(..excess);
    }
}

/// A manifest that vouched for a host, and all that others need to believe it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HeldAgainst {
    pub(crate) manifest: ManifestVersion,
    /// All that the manifest knows.
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) published: Published,
}

/// A publisher and the newest head that it has shown to the account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublisherRecord {
    #[serde(flatten)]
    pub(crate) publisher: Publisher,
    pub(crate) head: Option<Head>,
}

impl PublisherRecord {
    /// From now on its log must go on from there.
    pub(crate) fn see(&mut self, head: Head) {
        let Head { size, ref root, time, .. } = head;
        self.publisher.seen = Some(SeenHead { size, root: root.clone(), time });
        self.head = Some(head);
    }
}

impl Resource for PublisherRecord {
    const KIND: ResourceKind = ResourceKind::Publisher;
    const NOT_FOUND: ErrorCode = ErrorCode::InvalidPublisherNotFound;
    type Id = PublisherId;
    fn id(&self) -> PublisherId {
        self.publisher.id
    }
    fn account(&self) -> AccountId {
        self.publisher.account
    }
    fn references(&self) -> Vec<String> {
        vec![self.publisher.notary.to_string()]
    }
    fn tags_mut(&mut self) -> Option<&mut Tags> {
        Some(&mut self.publisher.tags)
    }
}
