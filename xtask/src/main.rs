//! The chores of the house, as `cargo xtask TASK`: set up the machine, test everything, play the demo, measure, keep tidy.
//!
//! Owns the order in which other programs run and what to do when one fails. What a test proves or a demo shows is in
//! `tests/` and in the binary.

mod bench;
mod demo;
mod deny;
mod fuzz;
mod openapi;
mod program;
mod real_vms;
mod setup;
mod test;
mod tidy;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository", disable_help_subcommand = true)]
enum Task {
    /// Install what is missing on this machine, after saying what and asking.
    Setup {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Run every check and test, those on real VMs included. Installs what is missing without asking.
    Test {
        /// Leave out the tests on real VMs.
        #[arg(long)]
        quick: bool,
    },
    /// Set up, build, start everything on this machine, play `lucarne demo`, and end it all.
    Demo(demo::Options),
    /// Check the rules of the house: edges, purity, headers, sizes, words.
    Tidy,
    /// Write docs/openapi.json from the code.
    Openapi {
        /// Fail if it is not current, and write nothing.
        #[arg(long)]
        check: bool,
    },
    /// Measure, with our own code optimised as in a release.
    Bench {
        /// The name of a bench, or `all`.
        name: String,
        /// Of a release build, for which all dependencies are built too.
        #[arg(long)]
        release: bool,
    },
    /// Throw octets at our readers of foreign ones, under libFuzzer.
    Fuzz {
        /// The name of a target, or `all`.
        #[arg(default_value = "all")]
        name: String,
        /// For how long, each.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> std::process::ExitCode {
    let task = Task::parse();
    let done = program::enter_root().and_then(|()| match task {
        Task::Setup { yes } => setup::machine(yes).and_then(|()| deny::install()),
        Task::Test { quick } => test::all(quick),
        Task::Demo(options) => demo::play(&options),
        Task::Tidy => tidy::check(),
        Task::Openapi { check: true } => openapi::check(),
        Task::Openapi { check: false } => openapi::write(),
        Task::Bench { name, release } => {
            bench::run_named(&name, if release { bench::Build::Release } else { bench::Build::Measured })
        }
        Task::Fuzz { name, seconds } => fuzz::run_named(&name, seconds),
    });
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
