//! Runs the benches of `bench/`, each a program that prints a table.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::program::{cargo, program, run, target};

const FOLDER: &str = "bench/src/bin";

/// How benches are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Our own code optimised, and dependencies as tests use them: minutes where tests were built.
    Measured,
    /// As it is installed. Everything is built for it.
    Release,
}

/// Runs the bench `name`, or each in turn of those that begin with it (`flows` is `flows_metering` and so on), or all.
pub(crate) fn run_named(name: &str, build: Build) -> Result<()> {
    let names = names()?;
    let is_meant = |known: &&String| {
        let rest = known.strip_prefix(name);
        name == "all" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let chosen: Vec<&String> = names.iter().filter(is_meant).collect();
    ensure!(!chosen.is_empty(), "there is no bench `{name}`; there are: all, {}", names.join(", "));
    for name in chosen {
        match build {
            Build::Measured => {
                // Of the whole workspace and with a small test beside it, so that dependencies have the features that they
                // have in tests, and are not built once more.
                run(&mut cargo(&format!(
                    "build --workspace --bin {name} --test service --config bench/measured.toml"
                )))?;
                run(&mut program(target().join("debug").join(name), ""))?;
            }
            Build::Release => {
                // Each bench is a feature too, so that one does not build what only others need.
                let only = format!("--no-default-features --features {name}");
                run(&mut cargo(&format!("run --quiet --release --package lucarne-bench {only} --bin {name}")))?;
            }
        }
    }
    Ok(())
}

fn names() -> Result<Vec<String>> {
    let mut names = vec![];
    for entry in fs::read_dir(FOLDER).with_context(|| format!("cannot read {FOLDER}"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}
