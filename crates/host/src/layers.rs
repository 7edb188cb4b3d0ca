//! Volumes that are frozen: what they held at an instant stays in a file that nobody changes, and an overlay takes their place.
//!
//! Owns the names of those files and the order in which they are made, so that a volume has the same content whoever dies in
//! between. A frozen file is named for its volume and the replica it was frozen for; before that there is the *layer*, the empty
//! overlay that is to take the volume's name. A duplicate has a name of its own for what it is an overlay of. So how many
//! depend on a frozen file is the number of its names, and it goes once its volume and they have gone.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use lucarne_model::{Bytes, ReplicaId, VolumeId, replica::CopyType, storage::DiskFormat};
use lucarne_vmm::{
    Error,
    driver::{Driver, Layer, VolumeSource},
    file_below,
};

use crate::{durable, layout::Layout};

/// What the name of a frozen file ends with.
pub(crate) const FROZEN: &str = ".frozen";
/// What the name of a layer ends with, beside its volume's.
pub(crate) const LAYER: &str = ".layer";
/// Of one volume; more are not looked through.
const MOST_LAYERS: usize = 1000;

fn layer(layout: &Layout, replica: ReplicaId, volume: VolumeId) -> PathBuf {
    layout.volumes().join(format!("{volume}.{replica}{LAYER}"))
}

/// Makes the layer, while a VM may write to the volume.
pub(crate) async fn prepare(
    driver: &dyn Driver,
    layout: &Layout,
    replica: ReplicaId,
    (volume, size): (VolumeId, Bytes),
) -> Result<(), Error> {
    let (file, layer) = (layout.volume(volume), layer(layout, replica, volume));
    let below = layout.frozen(volume, replica);
    let failed = |source| Error::File { doing: "freeze", path: file.clone(), source };
    durable::remove(&below).and_then(|()| durable::remove(&layer)).map_err(failed)?;
    fs::hard_link(&file, &below).map_err(failed)?;
    driver.create_volume(&layer, size, VolumeSource::Layer { below: &below }).await
}

/// The layer, as a VM's driver is told of it.
pub(crate) fn layer_of(layout: &Layout, replica: ReplicaId, volume: VolumeId) -> Layer {
    Layer { name: replica.to_string(), path: layer(layout, replica, volume) }
}

/// The layer takes its volume's name beside its own, which a VM that has it open knows it by: who opens the volume from here on
/// writes to it, and what is below changes no more. The VM that has the volume must have been told before, and stand still.
pub(crate) fn freeze(layout: &Layout, replica: ReplicaId, volume: VolumeId) -> io::Result<()> {
    let (layer, beside) = (layer(layout, replica, volume), layout.volume(volume).with_extension("part"));
    durable::remove(&beside)?;
    fs::hard_link(layer, &beside)?;
    fs::rename(beside, layout.volume(volume))
}

/// Whether the layer is there and has not taken its volume's name.
pub(crate) fn is_prepared(layout: &Layout, replica: ReplicaId, volume: VolumeId) -> bool {
    let layer = layer(layout, replica, volume);
    layer.exists() && inode(&layer) != inode(&layout.volume(volume))
}

/// Takes back what was only prepared.
pub(crate) fn give_up(layout: &Layout, replica: ReplicaId, volume: VolumeId) -> io::Result<()> {
    durable::remove(&layer(layout, replica, volume))?;
    durable::remove(&layout.frozen(volume, replica))
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|about| about.ino())
}

/// The volumes that were frozen for this replica, or were to be.
pub(crate) fn frozen_for(layout: &Layout, replica: ReplicaId) -> io::Result<Vec<VolumeId>> {
    let suffix = format!(".{replica}{FROZEN}");
    let names = names(&layout.volumes())?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(&suffix)?.parse().ok()).collect())
}

/// The volume of a frozen file's name.
pub(crate) fn volume_of(name: &str) -> Option<VolumeId> {
    name.strip_suffix(FROZEN)?.split('.').next()?.parse().ok()
}

/// Makes a volume that holds what another held when it was frozen; how much was copied for it.
pub(crate) async fn duplicate(
    driver: &dyn Driver,
    layout: &Layout,
    (replica, source, copy): (ReplicaId, VolumeId, CopyType),
    (volume, size): (VolumeId, Bytes),
) -> Result<Bytes, Error> {
    let (frozen, file) = (layout.frozen(source, replica), layout.volume(volume));
    match copy {
        CopyType::Deep => driver.snapshot(&frozen, None, &file).await?,
        CopyType::Shallow => {
            let base = layout.volume_base(volume);
            match fs::hard_link(&frozen, &base) {
                Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                    return Err(Error::File { doing: "keep what is below", path: base, source });
                }
                _ => {}
            }
            driver.create_volume(&file, size, VolumeSource::Overlay { base: &base, format: DiskFormat::Qcow2 }).await?;
        }
    }
    let about = fs::metadata(&file);
    let about = about.map_err(|source| Error::File { doing: "look at", path: file, source })?;
    // As POSIX counts blocks: a file has holes.
    Ok(Bytes(about.blocks() * 512))
}

/// Whether what a volume was made from is still below it, whatever of its own lies in between.
pub(crate) fn has_base(layout: &Layout, volume: VolumeId) -> bool {
    let (base, own) = (layout.volume_base(volume), format!("{volume}."));
    let is_own = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.parent() == Some(&layout.volumes()) && name.is_some_and(|name| name.starts_with(&own))
    };
    let mut file = layout.volume(volume);
    for _ in 0..MOST_LAYERS {
        match file_below(&file) {
            Ok(Some(below)) if below == base => return true,
            // What a guest's process may have written there leads nowhere else.
            Ok(Some(below)) if is_own(&below) => file = below,
            Ok(_) => return false,
            Err(error) => {
                tracing::warn!(%volume, %error, "what is below a volume cannot be read");
                return false;
            }
        }
    }
    false
}

/// Makes a volume whole that no VM has open: a copy of all that it holds takes its place.
pub(crate) async fn complete(driver: &dyn Driver, layout: &Layout, volume: VolumeId) -> Result<(), Error> {
    let (file, beside) = (layout.volume(volume), layout.volumes().join(format!("{volume}.new")));
    let failed = |source| Error::File { doing: "make whole", path: file.clone(), source };
    durable::remove(&beside).map_err(failed)?;
    driver.snapshot(&file, None, &beside).await?;
    fs::rename(&beside, &file).and_then(|()| fs::File::open(layout.volumes())?.sync_all()).map_err(failed)
}

/// Deletes what was below a volume that is whole now, unless something else depends on it.
pub(crate) fn let_go_below(layout: &Layout, volume: VolumeId) -> io::Result<()> {
    let (folder, own) = (layout.volumes(), format!("{volume}."));
    let names = names(&folder)?;
    let frozen: Vec<&String> = names.iter().filter(|name| name.ends_with(FROZEN) && name.starts_with(&own)).collect();
    let is_held = |name: &&String| {
        let replica = name.strip_suffix(FROZEN).and_then(|name| name.split('.').nth(1)?.parse().ok());
        let is_of_cut = replica.is_none_or(|replica| layout.cut(replica).exists());
        is_of_cut || fs::metadata(folder.join(name)).is_ok_and(|about| about.nlink() > 1)
    };
    // They lie over each other, so they go together.
    if !frozen.iter().any(is_held) {
        frozen.into_iter().try_for_each(|name| durable::remove(&folder.join(name)))?;
        durable::remove(&layout.volume_base(volume))?;
    }
    sweep(layout)
}

/// Deletes a volume, and what was below it or another that is not here any more, unless a duplicate depends on it.
pub(crate) fn delete(layout: &Layout, volume: VolumeId) -> io::Result<()> {
    // The overlay goes first: a base without one is swept at the next start, the reverse could not be opened.
    durable::remove(&layout.volume(volume))?;
    let (folder, stem) = (layout.volumes(), volume.to_string());
    let layers = names(&folder)?;
    let layers = layers.iter().filter(|name| name.ends_with(LAYER) && name.split('.').next() == Some(&stem));
    layers.into_iter().try_for_each(|name| durable::remove(&folder.join(name)))?;
    if !has_frozen(&names(&layout.volumes())?, &stem) {
        durable::remove(&layout.volume_base(volume))?;
    }
    sweep(layout)
}

/// Whether what this volume was is kept in a file of its name.
pub(crate) fn has_frozen(names: &[String], volume: &str) -> bool {
    names.iter().any(|name| name.ends_with(FROZEN) && name.split('.').next() == Some(volume))
}

/// Deletes what is below volumes that are not here any more, where nothing depends on it.
pub(crate) fn sweep(layout: &Layout) -> io::Result<()> {
    // What goes may have been the last that another depended on.
    while sweep_once(&layout.volumes())? {}
    Ok(())
}

fn sweep_once(folder: &Path) -> io::Result<bool> {
    let names = names(folder)?;
    let is_of = |name: &str, volume: &str| {
        name == format!("{volume}.base") || (name.ends_with(FROZEN) && name.split('.').next() == Some(volume))
    };
    // A base alone may be that of a volume that is being made.
    let volumes = names.iter().filter(|name| name.ends_with(FROZEN)).filter_map(|name| name.split('.').next());
    let gone = volumes.filter(|volume| !names.contains(&format!("{volume}.qcow2")));
    for volume in gone {
        let files: Vec<&String> = names.iter().filter(|name| is_of(name, volume)).collect();
        let has_others = |name: &&&String| {
            name.ends_with(FROZEN) && fs::metadata(folder.join(name)).is_ok_and(|about| about.nlink() > 1)
        };
        if files.iter().any(|name| has_others(&name)) {
            continue;
        }
        files.into_iter().try_for_each(|name| durable::remove(&folder.join(name)))?;
        return Ok(true);
    }
    Ok(false)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers below a volume stay as long as any duplicate, or a duplicate of one, is made of them.
    #[test]
    fn what_is_below_goes_with_the_last_that_depends_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().into());
        fs::create_dir(layout.volumes()).unwrap();
        let [source, first, second] = [1, 2, 3].map(VolumeId::from_bits);
        let replica = ReplicaId::from_bits(7);
        let write = |path: PathBuf| fs::write(path, b"x").unwrap();
        [source, first, second].iter().for_each(|volume| write(layout.volume(*volume)));
        write(layout.volume_base(source));
        write(layout.frozen(source, replica));
        fs::hard_link(layout.frozen(source, replica), layout.volume_base(first)).unwrap();
        write(layout.frozen(first, replica));
        fs::hard_link(layout.frozen(first, replica), layout.volume_base(second)).unwrap();
        let count = || fs::read_dir(layout.volumes()).unwrap().count();
        write(layout.volume_base(VolumeId::from_bits(4)));
        sweep(&layout).unwrap();
        assert_eq!(count(), 9);
        delete(&layout, source).unwrap();
        assert!(layout.volume_base(source).exists() && layout.frozen(source, replica).exists());
        delete(&layout, first).unwrap();
        assert_eq!(count(), 7, "the second is over both");
        delete(&layout, second).unwrap();
        assert_eq!(count(), 1, "a volume that is being made keeps its base");
    }

    /// A qcow2 header that names what is below it.
    fn over(below: &Path) -> Vec<u8> {
        let name = below.to_str().unwrap().as_bytes();
        let mut header = vec![0; 1024];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        header[8..16].copy_from_slice(&512_u64.to_be_bytes());
        header[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        header[512..512 + name.len()].copy_from_slice(name);
        header
    }

    /// The duplicate was itself duplicated, and that one draws on what was frozen.
    #[test]
    fn what_is_below_a_volume_is_seen_through_its_layers_and_goes_when_it_is_whole_and_nobody_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().into());
        fs::create_dir(layout.volumes()).unwrap();
        let [volume, second] = [1, 2].map(VolumeId::from_bits);
        let replica = ReplicaId::from_bits(7);
        let (file, base, frozen) = (layout.volume(volume), layout.volume_base(volume), layout.frozen(volume, replica));
        fs::write(&base, over(Path::new("/elsewhere"))).unwrap();
        fs::write(&file, over(&base)).unwrap();
        assert!(has_base(&layout, volume));
        fs::write(&frozen, over(&base)).unwrap();
        fs::hard_link(&frozen, layout.volume_base(second)).unwrap();
        fs::write(layout.volume(second), over(&layout.volume_base(second))).unwrap();
        fs::write(&file, over(&frozen)).unwrap();
        assert!(has_base(&layout, volume) && has_base(&layout, second));
        for elsewhere in [Path::new("/etc/passwd"), &layout.frozen(second, replica), &file] {
            fs::write(&file, over(elsewhere)).unwrap();
            assert!(!has_base(&layout, volume), "{}", elsewhere.display());
        }
        fs::write(&file, b"QFI\xfb and no more").unwrap();
        assert!(!has_base(&layout, volume));

        let_go_below(&layout, volume).unwrap();
        assert!(frozen.exists() && base.exists(), "the second needs them");
        let_go_below(&layout, second).unwrap();
        assert!(!layout.volume_base(second).exists());
        fs::create_dir_all(layout.cut(replica)).unwrap();
        let_go_below(&layout, volume).unwrap();
        assert!(frozen.exists() && base.exists(), "of a cut that is held more can be made");
        fs::remove_dir(layout.cut(replica)).unwrap();
        let_go_below(&layout, volume).unwrap();
        assert!(!frozen.exists() && !base.exists() && file.exists());
    }

    #[test]
    fn what_was_only_prepared_is_taken_back_and_what_is_frozen_stays() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().into());
        fs::create_dir(layout.volumes()).unwrap();
        let (volume, replica) = (VolumeId::from_bits(1), ReplicaId::from_bits(7));
        fs::write(layout.volume(volume), b"x").unwrap();
        fs::hard_link(layout.volume(volume), layout.frozen(volume, replica)).unwrap();
        fs::write(layer(&layout, replica, volume), b"y").unwrap();
        assert_eq!(frozen_for(&layout, replica).unwrap(), [volume]);
        assert!(is_prepared(&layout, replica, volume));
        freeze(&layout, replica, volume).unwrap();
        assert_eq!(fs::read(layout.volume(volume)).unwrap(), b"y");
        assert!(!is_prepared(&layout, replica, volume));
        assert_eq!(volume_of(&format!("{volume}.{replica}{FROZEN}")), Some(volume));
    }
}
