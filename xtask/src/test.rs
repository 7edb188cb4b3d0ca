//! Everything that must hold before a change is good, in order: the quick and strict first, real VMs last.
//!
//! Owns the table of steps. Stops at the first that fails and says what to do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{
    deny, openapi,
    program::{cargo, run},
    real_vms, setup, tidy,
};

struct Step {
    name: &'static str,
    remedy: &'static str,
    needs_vms: bool,
    act: fn() -> Result<()>,
}

const STEPS: [Step; 9] = [
    Step {
        name: "setup",
        remedy: "see what is missing with `cargo xtask setup`",
        needs_vms: false,
        act: || setup::machine(true),
    },
    Step {
        name: "format",
        remedy: "run `cargo fmt --all`",
        needs_vms: false,
        act: || run(&mut cargo("fmt --all --check")),
    },
    Step {
        name: "tidy",
        remedy: "each finding says what to do; the rules are in xtask/src/tidy",
        needs_vms: false,
        act: tidy::check,
    },
    Step {
        name: "clippy",
        remedy: "see it again with `cargo clippy --workspace --all-targets`",
        needs_vms: false,
        act: || run(&mut cargo("clippy --workspace --all-targets -- -D warnings")),
    },
    Step {
        name: "doc links",
        remedy: "see it again with `cargo doc --no-deps --workspace`",
        needs_vms: false,
        act: || run(cargo("doc --no-deps --workspace").env("RUSTDOCFLAGS", "-D warnings")),
    },
    Step {
        name: "dependencies",
        remedy: "change the dependency, or argue for it in deny.toml",
        needs_vms: false,
        act: deny::check,
    },
    Step {
        name: "openapi",
        remedy: "run `cargo xtask openapi` and read the difference",
        needs_vms: false,
        act: openapi::check,
    },
    Step {
        name: "unit tests",
        remedy: "run the failed one alone with `cargo test -p CRATE NAME`",
        needs_vms: false,
        act: || run(&mut cargo("test --workspace --exclude lucarne-tests -- --quiet")),
    },
    Step {
        name: "tests on real VMs",
        remedy: "run the failed one alone with `cargo test -p lucarne-tests NAME`",
        needs_vms: true,
        act: real_vms::test,
    },
];

/// Runs all steps, or with `quick` those that need no VM.
pub(crate) fn all(quick: bool) -> Result<()> {
    let mut times = vec![];
    for step in STEPS.iter().filter(|step| !(quick && step.needs_vms)) {
        println!("== {}", step.name);
        let begin = Instant::now();
        let done = (step.act)();
        times.push((step.name, begin.elapsed(), done.is_ok()));
        if done.is_err() {
            summarise(&times);
        }
        done.with_context(|| format!("the step `{}` failed; {}", step.name, step.remedy))?;
    }
    summarise(&times);
    Ok(())
}

fn summarise(times: &[(&str, Duration, bool)]) {
    println!("\n{:<20} {:>8}", "step", "seconds");
    for (name, time, passed) in times {
        println!("{name:<20} {:>8.1}  {}", time.as_secs_f64(), if *passed { "passed" } else { "FAILED" });
    }
    let total: Duration = times.iter().map(|(_, time, _)| *time).sum();
    println!("{:<20} {:>8.1}", "all", total.as_secs_f64());
}
