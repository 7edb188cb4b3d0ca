//! Instances that go on where others were at a cut.
//!
//! Owns what a duplicate's memory is of, in a file beside it for as long as the instance is not begun anew: its pager is told
//! that at each start, also after the VM slept. All else that it needs of the cut it gets at its beginning.

use std::{fs, io};

use lucarne_model::{
    InstanceId, Pages, ReplicaId,
    replica::{CopyType, DesiredDuplicate},
    warm::Began,
};
use lucarne_pager::client::ClientError;
use lucarne_vmm::driver::{Disk, MachineSpec};
use serde::{Deserialize, Serialize};

use super::{Memory, cutting, guests::Shared, supervisor::Wishes};
use crate::{
    durable::{self, Outlives},
    layout::Layout,
};

/// Why an instance does not go on from another.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DuplicateError {
    #[error("the memory of guests is not paged on this host")]
    NotPaged,
    #[error("what the cut holds of {of} cannot be had")]
    Cut {
        of: InstanceId,
        #[source]
        cause: io::Error,
    },
    #[error("it is to have another {what} than {of}")]
    Unlike { of: InstanceId, what: &'static str },
    #[error("its memory cannot be given up or noted")]
    Pages(#[source] io::Error),
    #[error("its pager was not told to bring all of it")]
    Pager(#[source] ClientError),
    #[error("its hypervisor")]
    Driver(#[source] lucarne_vmm::Error),
}

/// What the memory of a duplicate is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parent {
    pub(super) of: InstanceId,
    replica: ReplicaId,
    copy: CopyType,
}

impl Parent {
    /// None of an instance that is no duplicate.
    pub(super) fn read(layout: &Layout, instance: InstanceId) -> Option<Self> {
        serde_json::from_slice(&fs::read(layout.parent(instance)).ok()?).ok()
    }

    fn write(&self, layout: &Layout, instance: InstanceId) -> io::Result<()> {
        durable::replace(&layout.parent(instance), &serde_json::to_vec(self)?, Outlives::PowerCut)
    }

    /// As its pager is told.
    pub(super) fn origin(&self, layout: &Layout) -> lucarne_pager::Origin {
        lucarne_pager::Origin::Parent {
            control: layout.pager_socket(self.of),
            capture: self.replica.to_string(),
            whole: self.copy == CopyType::Deep,
        }
    }
}

impl Memory {
    /// Starts a VM that goes on where another was at a cut, and lets it stand there.
    pub(crate) async fn duplicate(
        &self,
        spec: &MachineSpec,
        duplicate: &DesiredDuplicate,
    ) -> Result<Began, DuplicateError> {
        let (shared, instance, of) = (&self.0, spec.instance, duplicate.source);
        let guest = shared.guest(instance);
        let _turn = guest.turn.lock().await;
        let paging = shared.paging(instance).ok_or(DuplicateError::NotPaged)?;
        let held = cutting::held_instance(&shared.layout, duplicate.replica, of);
        let (source, devices) = held.map_err(|cause| DuplicateError::Cut { of, cause })?;
        if let Some(what) = difference(&source, spec) {
            return Err(DuplicateError::Unlike { of, what });
        }
        shared.give_up_pages(instance, &guest).map_err(DuplicateError::Driver)?;
        let parent = Parent { of, replica: duplicate.replica, copy: duplicate.copy };
        parent.write(&shared.layout, instance).map_err(DuplicateError::Pages)?;
        let origin = source.origin.duplicate(instance.bits());
        let spec = MachineSpec { paging: Some(paging), origin, ..spec.clone() };
        shared.watch(&spec, &guest, Wishes::at_first(Pages::covering(spec.memory)));
        let begun = shared.driver.stand(&spec, &devices).await;
        if begun.is_err() {
            shared.give_up_pages(instance, &guest).map_err(DuplicateError::Driver)?;
        }
        begun.map(|()| Began::Duplicate { of }).map_err(DuplicateError::Driver)
    }

    /// Has all of a duplicate's memory brought here. What is noted first is so with each pager that it will have, should this one die.
    pub(crate) async fn complete(&self, instance: InstanceId) -> Result<(), DuplicateError> {
        let guest = self.0.guest(instance);
        let _turn = guest.turn.lock().await;
        let Some(parent) = Parent::read(&self.0.layout, instance) else { return Ok(()) };
        if parent.copy != CopyType::Deep {
            let parent = Parent { copy: CopyType::Deep, ..parent };
            parent.write(&self.0.layout, instance).map_err(DuplicateError::Pages)?;
        }
        let pager = guest.kept().pager.clone();
        match pager {
            Some(pager) => pager.fetch_all().await.map_err(DuplicateError::Pager),
            // It sleeps.
            None => Ok(()),
        }
    }

    /// Whose duplicate an instance is, if it is one.
    pub(crate) fn duplicate_of(&self, instance: InstanceId) -> Option<InstanceId> {
        Parent::read(&self.0.layout, instance).map(|parent| parent.of)
    }
}

impl Shared {
    /// Whether a part of the memory of a VM that sleeps is another's still.
    pub(super) fn is_part_elsewhere(&self, instance: InstanceId) -> bool {
        let parent = Parent::read(&self.layout, instance);
        parent.is_some() && !lucarne_pager::is_whole(&self.layout.pages(instance))
    }
}

/// Devices are loaded as they were saved: there must be the same of them, in the same places.
fn difference(source: &MachineSpec, spec: &MachineSpec) -> Option<&'static str> {
    let slots = |disks: &[Disk]| {
        let mut slots: Vec<_> = disks.iter().map(|disk| (disk.slot, disk.size)).collect();
        slots.sort_unstable();
        slots
    };
    let mac = |spec: &MachineSpec| spec.nic.as_ref().map(|nic| nic.mac);
    let differences = [
        ("memory", source.memory != spec.memory),
        ("number of processors", source.vcpus != spec.vcpus),
        ("set of disks", slots(&source.disks) != slots(&spec.disks)),
        ("MAC address", mac(source) != mac(spec)),
        ("TPM", source.tpm.is_some() || spec.tpm.is_some()),
    ];
    differences.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what)
}
