//! Compiles the shim, a library for another program than ours, so that it ships inside of this crate.
//!
//! Always optimised and without std, whatever the profile is: it runs inside of QEMU.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo gives a build script {name}"));
    let library = PathBuf::from(variable("OUT_DIR")).join("shim.so");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition=2024", "--crate-name=lucarne_shim", "--crate-type=cdylib", "shim/lib.rs"]);
    rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=yes", "-Coverflow-checks=off"]);
    rustc.arg("--target").arg(variable("TARGET")).arg("-o").arg(&library);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let compiled = rustc.status().expect("rustc can be started");
    assert!(compiled.success(), "the shim does not compile");
}
