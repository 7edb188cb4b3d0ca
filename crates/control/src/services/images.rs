//! Images: what instances boot from, made of uploaded blobs.
//!
//! Owns who may make an image of which blob, and that it is what it says. Disks are looked into by
//! [`lucarne_vmm::inspect_image`], kernels and initramfs by their magic numbers here.

use std::{io, path::Path};

use lucarne_api::{
    Call, Problem,
    answer::{Created, Done},
    bodies::{
        ListQuery, NoQuery, Page,
        storage::{CreateImage, ImageSource, WarmImage},
    },
    input::{Json, Nothing},
};
use lucarne_model::{
    AccountId, Bytes, ErrorCode, ImageId, Vcpus,
    storage::{Blob, BootSource, Digest, DiskFormat, Image},
    warm::{DesiredWarmState, WarmSize, WarmState},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use super::{
    checks::{check_name, check_tags, refuse},
    launch::DEFAULT_MEMORY,
};
use crate::{
    Caller, Controller, blobs,
    fleet::Fleet,
    quota, random,
    records::HostRecord,
    store::{Item, Scope, Tx},
};

const DEFAULT_MINIMUM_MEMORY: Bytes = Bytes::mib(64);
const MOST_WARM_STATES: usize = 4;
const LARGEST_WARM: Bytes = Bytes::gib(1);
const MOST_WARM_VCPUS: u32 = 8;
/// What the kernel itself takes, COMMAND_LINE_SIZE of x86.
const COMMAND_LINE_BYTES: usize = 2048;

pub(crate) async fn create_image(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Json<CreateImage>>,
) -> Result<Created<Image>, Problem> {
    let (account, request) = (call.caller.account, call.body.0.clone());
    if request.public && !call.caller.operator {
        return Err(Problem::new(ErrorCode::UnauthorizedOperation, "only operators can make an image public"));
    }
    check_name(&request.name)?;
    check_tags(&request.tags)?;
    let wanted = digests(&request.source);
    controller.store.read(move |tx| check_uploaded(tx, account, &wanted)).await?;
    let boot = inspect(controller, &request.source).await?;
    controller.change(&call, move |tx| create(tx, account, request, boot)).await.map(Created)
}

fn digests(source: &ImageSource) -> Vec<Digest> {
    match source {
        ImageSource::Kernel { kernel, initramfs, .. } => vec![kernel.clone(), initramfs.clone()],
        ImageSource::Disk { disk, .. } => vec![disk.clone()],
    }
}

/// Another account's blob is as one that does not exist: a digest may be known to who does not have the bytes.
fn check_uploaded(tx: &Tx<'_>, account: AccountId, digests: &[Digest]) -> Result<(), Problem> {
    for digest in digests {
        if !tx.has_uploaded(account, digest)? {
            return Err(refuse(format!("the account has not uploaded a blob {digest}, or it was too long ago")));
        }
    }
    Ok(())
}

fn create(tx: &mut Tx<'_>, account: AccountId, request: CreateImage, boot: BootSource) -> Result<Image, Problem> {
    // Again, because blobs may have been collected while they were looked into.
    check_uploaded(tx, account, &digests(&request.source))?;
    quota::check_one(tx, account, Item::Images)?;
    let image = Image {
        id: random::id(),
        account,
        name: request.name,
        public: request.public,
        boot,
        minimum_memory: request.minimum_memory.unwrap_or(DEFAULT_MINIMUM_MEMORY),
        warm_states: Vec::new(),
        created: tx.now(),
        tags: request.tags,
    };
    tx.insert(&image)?;
    Ok(image)
}

/// What the blobs are, as far as they can boot.
async fn inspect(controller: &Controller, source: &ImageSource) -> Result<BootSource, Problem> {
    match source {
        ImageSource::Kernel { kernel, initramfs, command_line } => {
            if command_line.len() > COMMAND_LINE_BYTES || command_line.chars().any(char::is_control) {
                return Err(refuse(format!("a command line is one line of at most {COMMAND_LINE_BYTES} bytes")));
            }
            check_kernel(&controller.blobs.path(kernel)).await?;
            check_initramfs(&controller.blobs.path(initramfs)).await?;
            let (kernel, initramfs) = (blob(controller, kernel).await?, blob(controller, initramfs).await?);
            Ok(BootSource::Kernel { kernel, initramfs, command_line: command_line.clone() })
        }
        ImageSource::Disk { disk, format } => inspect_disk(controller, disk, *format).await,
    }
}

async fn blob(controller: &Controller, digest: &Digest) -> Result<Blob, Problem> {
    let file = tokio::fs::metadata(controller.blobs.path(digest)).await.map_err(|error| blobs::failed(&error))?;
    Ok(Blob { digest: digest.clone(), size: Bytes(file.len()) })
}

async fn inspect_disk(controller: &Controller, disk: &Digest, said: Option<DiskFormat>) -> Result<BootSource, Problem> {
    let info = lucarne_vmm::inspect_image(&controller.blobs.path(disk)).await.map_err(unreadable)?;
    if let Some(said) = said
        && said != info.format
    {
        let detail = format!("the disk is {}, not {}", info.format.name(), said.name());
        return Err(Problem::new(ErrorCode::ImageUnreadable, detail));
    }
    let disk = blob(controller, disk).await?;
    Ok(BootSource::Disk { disk, format: info.format, virtual_size: info.virtual_size })
}

/// The uploader is told what is wrong with the image, not where the controller keeps it.
fn unreadable(error: lucarne_vmm::Error) -> Problem {
    match error {
        lucarne_vmm::Error::Unreadable { reason, .. } => Problem::new(ErrorCode::ImageUnreadable, reason),
        missing @ lucarne_vmm::Error::Missing { .. } => Problem::new(missing.code(), missing.to_string()),
        other => {
            tracing::error!(error = &other as &dyn std::error::Error, "an image could not be inspected");
            Problem::new(other.code(), "the image could not be inspected")
        }
    }
}

async fn check_kernel(path: &Path) -> Result<(), Problem> {
    // Linux's boot protocol, Documentation/arch/x86/boot.rst: the header's magic number.
    match read_at(path, 0x202).await? {
        Some(magic) if &magic[..4] == b"HdrS" => Ok(()),
        _ => Err(Problem::new(ErrorCode::ImageUnreadable, "the kernel is not a bzImage of Linux")),
    }
}

/// The first bytes of what Linux takes as an initramfs, Documentation/driver-api/early-userspace/buffer-format.rst.
const INITRAMFS: [&[u8]; 8] = [
    b"070701",
    b"070702",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"\xfd7zXZ\x00",
    b"\x02\x21\x4c\x18",
    b"BZh",
    b"\x5d\x00\x00",
];

async fn check_initramfs(path: &Path) -> Result<(), Problem> {
    match read_at(path, 0).await? {
        Some(start) if INITRAMFS.iter().any(|magic| start.starts_with(magic)) => Ok(()),
        _ => Err(Problem::new(
            ErrorCode::ImageUnreadable,
            "the initramfs is not a cpio archive, plain or compressed by gzip, zstd, xz, lz4, bzip2 or lzma",
        )),
    }
}

/// Six bytes; none where the file is too short.
async fn read_at(path: &Path, offset: u64) -> Result<Option<[u8; 6]>, Problem> {
    let read = async {
        let mut file = File::open(path).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        let mut bytes = [0; 6];
        file.read_exact(&mut bytes).await?;
        Ok::<_, io::Error>(bytes)
    };
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(blobs::failed(&error)),
    }
}

/// With what hosts say of its warm states.
fn shown(fleet: &Fleet, mut image: Image) -> Image {
    for state in &mut image.warm_states {
        state.hosts = fleet.warm_states(image.id, state.size);
    }
    image
}

pub(crate) async fn list_images(
    controller: &Controller,
    call: Call<Caller, (), ListQuery, Nothing>,
) -> Result<Json<Page<Image>>, Problem> {
    let (scope, query, fleet) = (call.caller.visible(), call.query, controller.fleet.clone());
    let show = move |_: &Tx<'_>, image| Ok(shown(&fleet, image));
    controller.store.read(move |tx| tx.page_shown(scope, &query, show)).await.map(Json)
}

pub(crate) async fn get_image(
    controller: &Controller,
    call: Call<Caller, (ImageId,), NoQuery, Nothing>,
) -> Result<Json<Image>, Problem> {
    let (scope, id) = (call.caller.visible(), call.path.0);
    let image = controller.store.read(move |tx| tx.get(scope, id)).await?;
    Ok(Json(shown(&controller.fleet, image)))
}

pub(crate) async fn warm_image(
    controller: &Controller,
    call: Call<Caller, (ImageId,), NoQuery, Json<WarmImage>>,
) -> Result<Json<Image>, Problem> {
    let (account, id, request) = (call.caller.account, call.path.0, call.body.0.clone());
    let image = controller.change(&call, move |tx| warm(tx, account, id, &request)).await?;
    Ok(Json(shown(&controller.fleet, image)))
}

fn warm(tx: &mut Tx<'_>, account: AccountId, id: ImageId, request: &WarmImage) -> Result<Image, Problem> {
    let mut image: Image = tx.get(Scope::Account(account), id)?;
    let size = WarmSize {
        vcpus: request.vcpus.unwrap_or(Vcpus(1)),
        memory: request.memory.unwrap_or(DEFAULT_MEMORY.max(image.minimum_memory)),
    };
    check_warm(&image, size)?;
    if image.warm_states.iter().all(|state| state.size != size) {
        image.warm_states.push(WarmState { size, hosts: Vec::new() });
        tx.put(&image)?;
        wake_hosts(tx)?;
    }
    Ok(image)
}

/// Every host keeps it, and boots it in memory that nobody has been promised: so there are few, and they are small.
fn check_warm(image: &Image, WarmSize { vcpus, memory }: WarmSize) -> Result<(), Problem> {
    if let BootSource::Disk { .. } = image.boot {
        return Err(refuse(
            "an image that boots from its disk has no warm state: its guest's disk would be all instances'",
        ));
    }
    if memory < image.minimum_memory || memory > LARGEST_WARM || !memory.0.is_multiple_of(Bytes::mib(1).0) {
        let least = image.minimum_memory;
        return Err(refuse(format!(
            "the memory of a warm state is whole MiB from {least} to {LARGEST_WARM}, not {memory}"
        )));
    }
    if !(1..=MOST_WARM_VCPUS).contains(&vcpus.0) {
        return Err(refuse(format!("a warm state has 1 to {MOST_WARM_VCPUS} vCPUs, not {vcpus}")));
    }
    let is_there = image.warm_states.iter().any(|state| state.size == WarmSize { vcpus, memory });
    if image.warm_states.len() >= MOST_WARM_STATES && !is_there {
        return Err(refuse(format!("an image has at most {MOST_WARM_STATES} warm states; delete them first")));
    }
    Ok(())
}

/// Warm states are on all hosts.
fn wake_hosts(tx: &mut Tx<'_>) -> Result<(), Problem> {
    let hosts = tx.list::<HostRecord>(Scope::Everything)?;
    hosts.into_iter().for_each(|record| tx.touch(record.host.id));
    Ok(())
}

/// What every host is to keep ready.
pub(crate) fn desired_warm_states(tx: &Tx<'_>) -> Result<Vec<DesiredWarmState>, Problem> {
    let of = |Image { id, boot, warm_states, .. }: Image| {
        let desired = move |state: WarmState| DesiredWarmState { image: id, size: state.size, boot: boot.clone() };
        warm_states.into_iter().map(desired)
    };
    Ok(tx.list::<Image>(Scope::Everything)?.into_iter().flat_map(of).collect())
}

pub(crate) async fn cool_image(
    controller: &Controller,
    call: Call<Caller, (ImageId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (account, id) = (call.caller.account, call.path.0);
    let cool = move |tx: &mut Tx<'_>| {
        let mut image: Image = tx.get(Scope::Account(account), id)?;
        image.warm_states.clear();
        tx.put(&image)?;
        wake_hosts(tx)
    };
    controller.change(&call, cool).await.map(|()| Done)
}

pub(crate) async fn delete_image(
    controller: &Controller,
    call: Call<Caller, (ImageId,), NoQuery, Nothing>,
) -> Result<Done, Problem> {
    let (account, id) = (call.caller.account, call.path.0);
    let delete = move |tx: &mut Tx<'_>| {
        let image: Image = tx.get(Scope::Account(account), id)?;
        tx.delete(&image)?;
        wake_hosts(tx)
    };
    controller.change(&call, delete).await.map(|()| Done)
}
