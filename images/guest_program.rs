//! How a program of a guest is compiled, for build scripts: always optimised, without std and libc, whatever the profile is, because
//! it runs in a guest that has neither.

use std::{env, path::PathBuf, process::Command};

/// Compiles `source` as `name` into the build script's folder.
pub(crate) fn compile(source: &str, name: &str) {
    println!("cargo::rerun-if-changed={source}");
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo gives a build script {name}"));
    let program = PathBuf::from(variable("OUT_DIR")).join(name);
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition=2024", "--crate-type=bin", "--crate-name", name, source]);
    rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-Coverflow-checks=off"]);
    rustc.args(["-Crelocation-model=static", "-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"]);
    rustc.args(["-Clink-arg=-Wl,--build-id=none"]);
    rustc.arg("--target").arg(variable("TARGET")).arg("-o").arg(&program);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let compiled = rustc.status().expect("rustc can be started");
    assert!(compiled.success(), "the guest's program {name} does not compile");
}
