//! Hosts on which something is wrong: no QEMU, a QEMU that dies at once, a full disk, an image that is none.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    image,
    small_disk::SmallDisk,
};
use reqwest::Method;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// Launches and waits for the failure; gives the instance as it ended.
fn failed_launch(cloud: &Cloud, api: &Api, body: Value) -> anyhow::Result<Value> {
    let instance = api.launch(body)?;
    let ended = api.await_state(&format!("/v1/instances/{instance}"), "state", "terminated", PATIENCE);
    let ended = ended.with_context(|| cloud.logs())?;
    ensure!(api.list("/v1/interfaces")?.is_empty(), "an interface is left");
    ensure!(cloud.machines(0).is_empty(), "a machine is left");
    Ok(ended)
}

fn code(ended: &Value) -> &str {
    ended.pointer("/state_reason/code").and_then(Value::as_str).unwrap_or_default()
}

/// A folder for `PATH` with links to what an agent runs.
fn programs(dir: &Path) -> anyhow::Result<PathBuf> {
    let bin = dir.join("bin");
    fs::create_dir(&bin)?;
    for program in ["qemu-img", "qemu-system-x86_64", "prlimit", "sh"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{program}"), bin.join(program))?;
    }
    Ok(bin)
}

#[test]
fn a_host_without_qemu_and_one_whose_qemu_dies_say_so() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 1)?;
    let tenant = cloud.tenant("first")?;
    let (_, subnet) = tenant.network()?;
    let disk = image::one_sector(&tenant)?;
    let bin = programs(cloud.dir())?;
    let qemu = bin.join("qemu-system-x86_64");
    let body = json!({"image": disk, "subnet": subnet, "memory": 64 << 20});
    let restart = |cloud: &mut Cloud| -> anyhow::Result<()> {
        cloud.kill_host(0);
        fs::remove_file(cloud.dir().join("host-0.log"))?;
        cloud.start_host(0, |command| {
            command.env("PATH", &bin);
        })
    };

    restart(&mut cloud)?;
    cloud.hosts[0].as_mut().context("there is a host")?.await_log("this machine is a host", PATIENCE)?;
    fs::remove_file(&qemu)?;
    let ended = failed_launch(&cloud, &tenant, body.clone())?;
    ensure!(code(&ended) == "HypervisorMissing", "{ended}\n{}", cloud.logs());

    fs::write(&qemu, "#!/bin/sh\necho 'no such luck' >&2\nexit 1\n")?;
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755))?;
    let ended = failed_launch(&cloud, &tenant, body)?;
    ensure!(code(&ended) == "HypervisorFailed", "{ended}\n{}", cloud.logs());
    let said = ended.pointer("/state_reason/message").and_then(Value::as_str).unwrap_or_default();
    ensure!(said.contains("no such luck"), "the reason does not tell what QEMU said: {said}");

    fs::remove_file(&qemu)?;
    restart(&mut cloud)?;
    let agent = cloud.hosts[0].as_mut().context("there is a host")?;
    agent.await_log("apt-get install qemu-system-x86", PATIENCE).context("an agent without QEMU ends with the remedy")
}

#[test]
fn a_full_disk_on_a_host_ends_the_launch_and_room_lets_the_next_one_through() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 1)?;
    let tenant = cloud.tenant("first")?;
    let (_, subnet) = tenant.network()?;
    cloud.kill_host(0);
    let blobs = cloud.host_dir(0).join("blobs");
    let small = SmallDisk::mount(&blobs, "4m")?;
    cloud.start_host(0, |_| {})?;
    let large = image::upload(&tenant, vec![0x90; 8 << 20])?;
    let source = json!({"name": "large", "source": {"kind": "disk", "disk": large}});
    let large = tenant.make("/v1/images", source, "/id")?;
    let body = json!({"image": large, "subnet": subnet, "memory": 64 << 20});
    let ended = failed_launch(&cloud, &tenant, body.clone())?;
    ensure!(code(&ended) == "InsufficientStorage", "{ended}\n{}", cloud.logs());
    cloud.kill_host(0);
    drop(small);
    cloud.start_host(0, |_| {})?;
    let instance = tenant.launch(body)?;
    tenant
        .await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE)
        .map(drop)
        .with_context(|| cloud.logs())
}

#[test]
fn a_full_disk_at_the_controller_refuses_an_upload_and_nothing_else() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Simulated, 1)?;
    let tenant = cloud.tenant("first")?;
    cloud.kill_controller();
    let small = SmallDisk::mount(&cloud.dir().join("k/blobs"), "2m")?;
    cloud.start_controller(None)?;
    let upload = tenant.request(Method::POST, "/v1/blobs").body(vec![1; 4 << 20]);
    let refused = Api::send(upload)?;
    ensure!((refused.status, refused.code()) == (507, "InsufficientStorage"), "{refused:?}");
    ensure!(
        fs::read_dir(cloud.dir().join("k/blobs"))?
            .flatten()
            .all(|entry| entry.metadata().is_ok_and(|m| m.len() == 0 || m.is_dir()))
    );
    tenant.network()?;
    image::upload(&tenant, vec![1; 1 << 20]).map(drop)?;
    cloud.kill_controller();
    drop(small);
    Ok(())
}

#[test]
fn an_image_that_is_not_what_it_says_is_refused() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 0)?;
    let tenant = cloud.tenant("first")?;
    let mut torn = b"QFI\xfb\0\0\0\x03".to_vec();
    torn.extend([0xff; 600]);
    let disk = |bytes: Vec<u8>, format: Value| -> anyhow::Result<(u16, String)> {
        let digest = image::upload(&tenant, bytes)?;
        let source = json!({"kind": "disk", "disk": digest, "format": format});
        let answer = tenant.post("/v1/images", &json!({"name": "bad", "source": source}))?;
        Ok((answer.status, answer.code().to_owned()))
    };
    for (bytes, format) in
        [(torn, Value::Null), (vec![1; 700], Value::Null), (vec![1; 512], json!("qcow2")), (Vec::new(), json!("raw"))]
    {
        let answer = disk(bytes, format.clone())?;
        ensure!(answer == (400, "InvalidImage.Unreadable".into()), "{format}: {answer:?}");
    }
    let text = image::upload(&tenant, b"no kernel at all".to_vec())?;
    let source = json!({"kind": "kernel", "kernel": text, "initramfs": text, "command_line": ""});
    let answer = tenant.post("/v1/images", &json!({"name": "bad", "source": source}))?;
    ensure!(answer.code() == "InvalidImage.Unreadable", "{answer:?}");
    ensure!(tenant.list("/v1/images")?.is_empty());
    Ok(())
}
