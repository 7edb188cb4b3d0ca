//! How each object is to be copied and how much alike it is to be: the terms' words for all, and those for some.
//!
//! Owns which word counts for which object.

use lucarne_model::{
    Tags,
    instance::Instance,
    replica::{CopyType, Fidelity},
    replication::{ObjectId, ReplicaOverride, ReplicaTerms},
    storage::Volume,
};

use crate::network::Network;

/// Something that a wish can be about.
#[derive(Clone, Copy)]
struct About<'a> {
    id: ObjectId,
    tags: &'a Tags,
}

/// What the overrides say of one object: one that names it before one by a tag, and the first of each.
fn overridden<T>(terms: &ReplicaTerms, about: About<'_>, read: fn(&ReplicaOverride) -> Option<T>) -> Option<T> {
    let named = terms.overrides.iter().filter(|wish| wish.object == Some(about.id));
    let tagged = terms.overrides.iter().filter(|wish| wish.tag.as_ref().is_some_and(|tag| tag.is_on(about.tags)));
    named.chain(tagged).find_map(read)
}

fn of_instance(instance: &Instance) -> About<'_> {
    About { id: instance.id.into(), tags: &instance.tags }
}

/// How an instance's memory is copied.
pub fn copy_of_instance(terms: &ReplicaTerms, instance: &Instance) -> CopyType {
    overridden(terms, of_instance(instance), |wish| wish.copy).unwrap_or(terms.copy)
}

/// How a volume is copied: as its instance if nothing is said of it.
pub fn copy_of_volume(terms: &ReplicaTerms, network: &Network, volume: &Volume) -> CopyType {
    let own = overridden(terms, About { id: volume.id.into(), tags: &volume.tags }, |wish| wish.copy);
    let holder = volume.instance.and_then(|instance| network.instance(instance));
    own.or_else(|| holder.map(|instance| copy_of_instance(terms, instance))).unwrap_or(terms.copy)
}

pub fn fidelity_of(terms: &ReplicaTerms, instance: &Instance) -> Fidelity {
    overridden(terms, of_instance(instance), |wish| wish.fidelity).unwrap_or(terms.fidelity)
}
