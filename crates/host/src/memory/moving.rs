//! A VM on its way to another host, awake or asleep.
//!
//! Owns who may be brought and what it is on both hosts afterwards. One that is awake is QEMU's to bring. Of one that sleeps the
//! files go ([`words`]): its devices, index and store of its pages as they are, sealed, what is left of the warm state that
//! it went on from, its volumes, and the key. The other host answers when all of it is on its disk: until then, and until the controller
//! has said that the VM is its own, nothing is deleted here.

mod words;

use std::{io, time::Duration};

use futures::future::join_all;
use lucarne_memory::governor::Life;
use lucarne_model::{InstanceId, VolumeId, memory_move::Moving, warm::Began};
use lucarne_vmm::{
    Error,
    driver::{Disk, MachineSpec, Origin, Passage, Ways},
};

use self::words::Opening;
use super::{
    Memory,
    guests::{Entry, Guest, Shared},
    sleep::{self, Sleeper},
};

const BRINGING: &str = "being brought from host to host";

impl Memory {
    /// Brings a VM to another host; it stands still afterwards, or sleeps on. One that is paused is not brought: it is about
    /// to sleep, or to go on.
    pub(crate) async fn send(&self, instance: InstanceId, to: Ways) -> Result<(), Error> {
        let guest = self.0.guest(instance);
        let _turn = guest.turn.lock().await;
        let life = guest.kept().life;
        match life {
            Life::Running => {
                guest.kept().is_on_its_way = true;
                let sent = self.0.send_awake(instance, to).await;
                guest.kept().is_on_its_way = false;
                sent
            }
            Life::Hibernated => {
                self.0.send_asleep(instance, to.machine).await?;
                guest.kept().is_brought = true;
                Ok(())
            }
            Life::Paused => Err(Error::NotRunning { instance }),
        }
    }

    /// Takes a VM in that another host brings: its memory is here what it was there. It stands still afterwards, or sleeps on.
    /// How it began is returned.
    pub(crate) async fn receive(&self, spec: &MachineSpec, mut from: Ways) -> Result<Began, Error> {
        let instance = spec.instance;
        let guest = self.0.guest(instance);
        let _turn = guest.turn.lock().await;
        let opening = words::hear(&mut *from.machine).await.map_err(|error| broken(instance, &error))?;
        let origin = match opening {
            Opening::Awake { origin } => {
                let spec = MachineSpec { origin: origin.clone(), ..spec.clone() };
                let begun = self.0.begin(&spec, &guest, Entry::Receive(from)).await?;
                guest.kept().still_since = begun.still_since;
                origin
            }
            Opening::Asleep { origin, pages, hypervisor, disks } => {
                let spec = MachineSpec { origin: origin.clone(), ..spec.clone() };
                if disks != volumes(&spec.disks) {
                    let reason = "it comes with other volumes than were told".into();
                    return Err(Error::Refused { instance, step: BRINGING, reason });
                }
                self.0.take_in_asleep(Sleeper { spec, pages }, &hypervisor, (&guest, from.machine)).await?;
                origin
            }
        };
        Ok(match origin {
            Origin::Warm { state, .. } => Began::Warm { digest: state },
            Origin::Boot | Origin::Fresh { .. } | Origin::Template => {
                Began::Cold { because: Some("it booted on another host, which brought it".into()) }
            }
        })
    }

    /// The VMs that are being brought to other hosts, and how far; of one that sleeps nothing is told.
    pub(super) async fn moving(&self) -> Vec<Moving> {
        let on_their_way: Vec<InstanceId> =
            self.0.guests().iter().filter(|(_, guest)| guest.kept().is_on_its_way).map(|(id, _)| *id).collect();
        let ask = |instance| async move {
            let progress = self.0.driver.progress(instance).await?;
            Some(Moving { instance, progress })
        };
        join_all(on_their_way.into_iter().map(ask)).await.into_iter().flatten().collect()
    }

    /// Lets a VM go on that stands still for its way from host to host; one that sleeps sleeps on, until it is woken. For how
    /// long it stood still is returned of one that came.
    pub(crate) async fn go_on(&self, instance: InstanceId) -> Result<Option<Duration>, Error> {
        let guest = self.0.guest(instance);
        let _turn = guest.turn.lock().await;
        let sleeps = guest.kept().life == Life::Hibernated;
        if !sleeps {
            self.0.driver.resume(instance).await?;
        }
        let mut kept = guest.kept();
        kept.is_brought = false;
        kept.life = if sleeps { Life::Hibernated } else { Life::Running };
        Ok(kept.still_since.take().map(|since| since.elapsed()))
    }
}

impl Shared {
    async fn send_awake(&self, instance: InstanceId, mut to: Ways) -> Result<(), Error> {
        let origin = self.driver.origin(instance).await?.brought();
        let opened = words::open(&mut *to.machine, &Opening::Awake { origin }).await;
        opened.map_err(|error| broken(instance, &error))?;
        self.driver.send(instance, to).await
    }

    async fn send_asleep(&self, instance: InstanceId, mut to: Box<dyn Passage>) -> Result<(), Error> {
        if self.is_part_elsewhere(instance) {
            let reason = "a part of its memory is that of the instance that it is a duplicate of".into();
            return Err(Error::Refused { instance, step: BRINGING, reason });
        }
        let hypervisor = self.driver.version().await?;
        let brought = async {
            let sleeper = sleep::read(&self.layout.asleep(instance))?;
            let (origin, pages) = (sleeper.spec.origin.clone(), sleeper.pages);
            let disks = volumes(&sleeper.spec.disks);
            words::open(&mut *to, &Opening::Asleep { origin, pages, hypervisor, disks }).await?;
            words::bring(&mut *to, &self.layout, &sleeper).await
        };
        brought.await.map_err(|error| broken(instance, &error))
    }

    /// Refused where it could not wake.
    async fn take_in_asleep(
        &self,
        sleeper: Sleeper,
        hypervisor: &str,
        (guest, mut from): (&Guest, Box<dyn Passage>),
    ) -> Result<(), Error> {
        let instance = sleeper.spec.instance;
        let refused = |reason: &str| Err(Error::Refused { instance, step: BRINGING, reason: reason.into() });
        if self.tools.is_none() {
            return refused("guests' memory is not paged on this host, and it sleeps");
        }
        if self.driver.version().await? != hypervisor {
            return refused("it sleeps, and was put to sleep by another hypervisor than this host's");
        }
        self.give_up_pages(instance, guest)?;
        if let Err(error) = words::take_in(&mut *from, &self.layout, &sleeper).await {
            self.give_up_pages(instance, guest)?;
            return Err(broken(instance, &error));
        }
        guest.falls_asleep(sleeper.pages);
        Ok(())
    }
}

/// In the order in which they go.
fn volumes(disks: &[Disk]) -> Vec<VolumeId> {
    words::in_order(disks).into_iter().map(|disk| disk.volume).collect()
}

fn broken(instance: InstanceId, error: &io::Error) -> Error {
    Error::Refused { instance, step: BRINGING, reason: error.to_string() }
}

#[cfg(test)]
mod tests;
