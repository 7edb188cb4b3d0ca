//! Holds the dependencies to `deny.toml` with cargo-deny, installing it in the version that was tried.
//!
//! Licences, bans and sources are judged from what cargo has here. Advisories need RustSec's database from GitHub: where
//! that cannot be reached they are left out, and the output says so.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::program::{program, run, succeeds, target};

const VERSION: &str = "0.20.2";

/// Installs cargo-deny beside what this repository builds, unless that version is there. Takes a minute on two idle cores.
pub(crate) fn install() -> Result<()> {
    if installed() {
        return Ok(());
    }
    eprintln!("installing cargo-deny {VERSION} into {}", tools().display());
    // Its checks take seconds unoptimised too, and optimising it would take minutes.
    let mut install = program("cargo", &format!("install --quiet --locked --debug cargo-deny@{VERSION} --root"));
    install.arg(tools()).env("CARGO_PROFILE_DEV_DEBUG", "0");
    run(&mut install).context("without cargo-deny the dependencies cannot be judged")
}

pub(crate) fn check() -> Result<()> {
    install()?;
    run(&mut program(binary(), "--log-level error check --hide-inclusion-graph bans licenses sources"))?;
    if !succeeds(&mut program(binary(), "fetch db")) {
        println!("note: advisories were NOT checked: the advisory database cannot be reached from here");
        return Ok(());
    }
    run(&mut program(binary(), "--log-level error --offline check advisories"))
}

fn tools() -> PathBuf {
    target().join("tools")
}

fn binary() -> PathBuf {
    tools().join("bin/cargo-deny")
}

fn installed() -> bool {
    let version = program(binary(), "--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(VERSION))
}
