//! Runs the fuzz targets of `fuzz/` under libFuzzer, each for a while.
//!
//! Owns how they are built (with the compiler's coverage counters, which need no other toolchain) and where inputs are kept:
//! in the folder `fuzz` of where cargo builds, so that the next run goes on from what this one reached.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::program::{cargo, output, program, run, target};

/// What libFuzzer needs to see of the program, and faults that a release build lets pass.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1";
/// More would be an attack on memory: readers bound what they take.
const MEMORY_MIB: u32 = 1024;

/// Runs the target `name`, or all of them, for so many seconds each. An input that makes one fall over stays in its folder.
pub(crate) fn run_named(name: &str, seconds: u32) -> Result<()> {
    let inputs = target().join("fuzz/inputs");
    let mut seeds = cargo("run --quiet --package lucarne-fuzz --");
    let names = output(seeds.arg(&inputs))?;
    let names: Vec<&str> = names.lines().filter(|known| name == "all" || *known == name).collect();
    ensure!(!names.is_empty(), "there is no fuzz target `{name}`; `all` shows and runs them");
    let binary = build()?;
    for name in names {
        println!("== {name}, {seconds} s");
        let inputs = inputs.join(name);
        let found = target().join("fuzz/found").join(name);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let limits = format!("-max_total_time={seconds} -rss_limit_mb={MEMORY_MIB} -timeout=10 -max_len=8192");
        let mut fuzzer = program(&binary, &format!("{limits} -print_final_stats=1 -verbosity=0"));
        fuzzer.arg(format!("-artifact_prefix={}/", found.display())).arg(&inputs).env("LUCARNE_FUZZ", name);
        run(&mut fuzzer).with_context(|| format!("`{name}` fell over; the input is in {}", found.display()))?;
    }
    Ok(())
}

/// For another target than the machine's own, in name: else what runs while building would have the counters too.
fn build() -> Result<PathBuf> {
    let version = output(&mut program("rustc", "-vV"))?;
    let machine =
        version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not say its host")?;
    let folder = target().join("fuzz");
    let mut build = cargo(&format!("build --release --package lucarne-fuzz --target {machine}"));
    build.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", FLAGS).env("CARGO_PROFILE_RELEASE_LTO", "false");
    run(&mut build)?;
    Ok(folder.join(machine).join("release/lucarne-fuzz"))
}
