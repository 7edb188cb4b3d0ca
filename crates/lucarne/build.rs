//! Compiles `reseed`, a program of the guest image `tiny`, so that it ships inside of this crate; and says how the binary is linked.
//!
//! Always optimised, without std and libc, whatever the profile is: it runs in a guest that has neither.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "../../images/tiny/reseed.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    // At a fixed address: the loader would otherwise write 4.6 MiB of addresses into each process of ours, and there is one
    // for each VM.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo gives a build script {name}"));
    let program = PathBuf::from(variable("OUT_DIR")).join("reseed");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition=2024", "--crate-name=reseed", "--crate-type=bin", SOURCE]);
    rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-Coverflow-checks=off"]);
    rustc.args(["-Crelocation-model=static", "-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"]);
    rustc.args(["-Clink-arg=-Wl,--build-id=none"]);
    rustc.arg("--target").arg(variable("TARGET")).arg("-o").arg(&program);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let compiled = rustc.status().expect("rustc can be started");
    assert!(compiled.success(), "the guest's program does not compile");
}
