//! Keeps `docs/openapi.json` as the code says it.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::program::{build, output, program};

const DOCUMENT: &str = "docs/openapi.json";

pub(crate) fn write() -> Result<()> {
    fs::write(DOCUMENT, current()?).with_context(|| format!("cannot write {DOCUMENT}"))
}

pub(crate) fn check() -> Result<()> {
    let kept = fs::read_to_string(DOCUMENT).with_context(|| format!("cannot read {DOCUMENT}"))?;
    ensure!(kept == current()?, "{DOCUMENT} is not what the code says");
    Ok(())
}

fn current() -> Result<String> {
    output(&mut program(build("openapi")?, ""))
}
