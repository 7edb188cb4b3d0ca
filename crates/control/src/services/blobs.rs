//! Blobs: uploaded by who wants to make images, fetched and brought by hosts.
//!
//! Owns who may have which blob. Files are [`crate::blobs`]'.

use std::collections::HashSet;

use axum::body::Body;
use lucarne_api::{
    Call, Problem,
    answer::{Created, Download},
    bodies::NoQuery,
    input::{Nothing, Upload},
};
use lucarne_model::{
    AccountId, ErrorCode, HostId,
    desired::VolumeContent,
    storage::{Blob, Digest, Image, Snapshot},
};
use tokio_util::io::ReaderStream;

use crate::{
    Caller, Controller, quota,
    records::{InstanceRecord, VolumeRecord},
    store::{Item, Scope, Tx},
};

/// Uploads of one account that no image was made of yet. An image is of two blobs at most.
const UPLOADS_WAITING: u32 = 20;

pub(crate) async fn upload_blob(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Upload>,
) -> Result<Created<Blob>, Problem> {
    let account = call.caller.account;
    // Asked before the bytes come, so that an account without room does not fill the disk.
    controller.store.read(move |tx| check_room(tx, account)).await?;
    let incoming = controller.blobs.take(call.body.0).await?;
    let _held = controller.blobs.hold().await;
    let blob = controller.blobs.place(incoming).await?;
    let digest = blob.digest.clone();
    controller.store.write(move |tx| tx.note_upload(account, &digest)).await?;
    Ok(Created(blob))
}

fn check_room(tx: &Tx<'_>, account: AccountId) -> Result<(), Problem> {
    quota::check_one(tx, account, Item::Images)?;
    let used: HashSet<String> = tx.list::<Image>(Scope::Account(account))?.iter().flat_map(digests_of_image).collect();
    let waiting = tx.uploads_of(account)?.iter().filter(|digest| !used.contains(*digest)).count();
    if waiting >= UPLOADS_WAITING as usize {
        let detail = format!("{waiting} uploads wait for an image to be made of them; they are forgotten after a day");
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, detail));
    }
    Ok(())
}

fn digests_of_image(image: &Image) -> Vec<String> {
    image.boot.blobs().into_iter().map(|blob| blob.digest.to_string()).collect()
}

pub(crate) async fn download_blob(
    controller: &Controller,
    call: Call<Caller, (Digest,), NoQuery, Nothing>,
) -> Result<Download, Problem> {
    let (host, digest) = (call.caller.host()?, call.path.0);
    let wanted = digest.clone();
    if !controller.store.read(move |tx| is_for_host(tx, host, &wanted)).await? {
        let detail = format!("nothing on this host needs the blob {digest}");
        return Err(Problem::new(ErrorCode::InvalidImageNotFound, detail));
    }
    let file = controller.blobs.open_blob(&digest).await?;
    Ok(Download(Body::from_stream(ReaderStream::with_capacity(file, 256 << 10))))
}

/// A host gets what its instances and volumes are made of, and images that their owners want ready on all hosts, and nothing
/// else: a host that fell into wrong hands does not hand out every tenant's images.
fn is_for_host(tx: &Tx<'_>, host: HostId, digest: &Digest) -> Result<bool, Problem> {
    let instances = tx.referring::<InstanceRecord>(Scope::Everything, host)?;
    let boots = instances.iter().flat_map(|record| record.boot.blobs()).any(|blob| blob.digest == *digest);
    let volumes = tx.referring::<VolumeRecord>(Scope::Everything, host)?;
    let made_of = volumes.iter().filter_map(|record| content_of(&record.content)).any(|blob| blob.digest == *digest);
    Ok(boots || made_of || is_warm(tx, digest)?)
}

fn is_warm(tx: &Tx<'_>, digest: &Digest) -> Result<bool, Problem> {
    let images = tx.list::<Image>(Scope::Everything)?;
    let mut warm = images.iter().filter(|image| !image.warm_states.is_empty()).flat_map(|image| image.boot.blobs());
    Ok(warm.any(|blob| blob.digest == *digest))
}

fn content_of(content: &VolumeContent) -> Option<&Blob> {
    match content {
        VolumeContent::Empty | VolumeContent::Duplicate { .. } => None,
        VolumeContent::Snapshot { blob } | VolumeContent::Image { disk: blob, .. } => Some(blob),
    }
}

pub(crate) async fn upload_host_blob(
    controller: &Controller,
    call: Call<Caller, (), NoQuery, Upload>,
) -> Result<Created<Blob>, Problem> {
    let host = call.caller.host()?;
    let incoming = controller.blobs.take(call.body.0).await?;
    let _held = controller.blobs.hold().await;
    let blob = controller.blobs.place(incoming).await?;
    let digest = blob.digest.clone();
    controller.store.write(move |tx| tx.note_upload(host, &digest)).await?;
    Ok(Created(blob))
}

/// Deletes blobs that nothing is made of any more and that nobody brought lately.
pub(crate) async fn collect(controller: &Controller) -> Result<usize, Problem> {
    let store = controller.store.clone();
    let referenced = async move |old: Vec<Digest>| {
        let forget = move |tx: &mut Tx<'_>| {
            let kept = referenced(tx)?;
            // Forgotten before the files go: nobody can make an image of a blob that is about to vanish.
            for digest in old.iter().filter(|digest| !kept.contains(digest)) {
                tx.forget_uploads_of(digest)?;
            }
            Ok(kept)
        };
        store.write(forget).await
    };
    controller.blobs.collect(referenced).await
}

fn referenced(tx: &Tx<'_>) -> Result<HashSet<Digest>, Problem> {
    let all = Scope::Everything;
    let (images, instances) = (tx.list::<Image>(all)?, tx.list::<InstanceRecord>(all)?);
    let (volumes, snapshots) = (tx.list::<VolumeRecord>(all)?, tx.list::<Snapshot>(all)?);
    let of_images = images.iter().flat_map(|image| image.boot.blobs());
    let of_instances = instances.iter().flat_map(|record| record.boot.blobs());
    let of_volumes = volumes.iter().filter_map(|record| content_of(&record.content));
    let of_snapshots = snapshots.iter().filter_map(|snapshot| snapshot.blob.as_ref());
    let blobs = of_images.chain(of_instances).chain(of_volumes).chain(of_snapshots);
    Ok(blobs.map(|blob| blob.digest.clone()).collect())
}
