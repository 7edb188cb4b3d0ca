//! Kinds of resources that the writer keeps decoded, because many writes look at all of them.
//!
//! Owns the copies. They are what the writer's transaction sees, for as long as it tells of every write; after a roll-back
//! they are forgotten, and read anew at the next look.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, hash_map::Entry},
};

use lucarne_api::Problem;
use lucarne_model::ResourceKind;

use super::Resource;

#[derive(Default)]
pub(super) struct Decoded {
    /// By kind, a [`Kind`] of its type.
    kinds: HashMap<ResourceKind, Box<dyn Any + Send>>,
    /// Whether a write since the last commit changed any of them.
    is_changed: bool,
}

/// By id.
type Kind<R> = BTreeMap<String, R>;

impl std::fmt::Debug for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.kinds.keys()).finish()
    }
}

impl Decoded {
    /// All resources of a kind; `load` is asked for them the first time.
    pub(super) fn all<R: Resource>(
        &mut self,
        load: impl FnOnce() -> Result<Vec<R>, Problem>,
    ) -> Result<impl Iterator<Item = &R>, Problem> {
        if let Entry::Vacant(unknown) = self.kinds.entry(R::KIND) {
            let all: Kind<R> = load()?.into_iter().map(|resource| (resource.id().to_string(), resource)).collect();
            unknown.insert(Box::new(all));
        }
        let kind = self.kinds.get(&R::KIND).and_then(|kind| kind.downcast_ref::<Kind<R>>());
        Ok(kind.into_iter().flat_map(BTreeMap::values))
    }

    /// A resource was written, or deleted when there is none.
    pub(super) fn set<R: Resource>(&mut self, id: &str, resource: Option<&R>) {
        let Some(kind) = self.kinds.get_mut(&R::KIND).and_then(|kind| kind.downcast_mut::<Kind<R>>()) else { return };
        self.is_changed = true;
        match resource {
            Some(resource) => kind.insert(id.to_owned(), resource.clone()),
            None => kind.remove(id),
        };
    }

    /// All writes so far stand.
    pub(super) fn committed(&mut self) {
        self.is_changed = false;
    }

    /// Writes since the last commit do not stand.
    pub(super) fn rolled_back(&mut self) {
        if self.is_changed {
            *self = Self::default();
        }
    }
}
