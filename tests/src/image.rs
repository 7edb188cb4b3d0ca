//! Images for tests: one that only looks like a kernel, for hosts that simulate, and the real `tiny`.

use std::{fs, path::Path};

use anyhow::Context;
use reqwest::Method;
use serde_json::json;

use crate::api::Api;

/// Uploads bytes and gives their digest.
pub fn upload(api: &Api, bytes: Vec<u8>) -> anyhow::Result<String> {
    let request = api.request(Method::POST, "/v1/blobs").header("content-type", "application/octet-stream").body(bytes);
    let blob = Api::send(request)?.ok()?;
    blob["digest"].as_str().map(Into::into).context("no digest came")
}

/// An image with the marks of a kernel and an initramfs, and nothing behind them; each account's is another.
pub fn fake(api: &Api, public: bool) -> anyhow::Result<String> {
    let mut kernel = vec![0; 0x1000];
    kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel.extend(api.account.bytes());
    let kernel = upload(api, kernel)?;
    let initramfs = upload(api, format!("070701 of {}", api.account).into_bytes())?;
    make(api, &kernel, &initramfs, "", public)
}

fn make(api: &Api, kernel: &str, initramfs: &str, command_line: &str, public: bool) -> anyhow::Result<String> {
    let source = json!({"kind": "kernel", "kernel": kernel, "initramfs": initramfs, "command_line": command_line});
    api.make("/v1/images", json!({"name": "test", "source": source, "public": public}), "/id")
}

/// A raw disk of one sector.
pub fn one_sector(api: &Api) -> anyhow::Result<String> {
    let disk = upload(api, vec![0x90; 512])?;
    api.make("/v1/images", json!({"name": "sector", "source": {"kind": "disk", "disk": disk}}), "/id")
}

/// Reads a file of the repository.
pub fn repository_file(path: &str) -> anyhow::Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests have no repository")?;
    Ok(fs::read_to_string(root.join(path))?)
}
