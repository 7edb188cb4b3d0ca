//! `lucarne`: the one binary. Its commands ask a controller, or are the cloud's own processes.
//!
//! Owns the wiring and the exit codes: 0 done, 1 refused or failed, 2 wrong usage. What the processes do is in the crates
//! `control`, `host` and `collector`.

mod command_line;
mod commands;
mod configuration;
mod demo;
mod dev;
mod failure;
mod image;
mod kind;
mod listing;
mod nonces;
mod output;
mod private_file;
mod session;
mod wait;

use std::{io, process::ExitCode};

use clap::Parser;
use lucarne_model::ErrorCode;
use tokio::runtime::{Builder, Runtime};

use crate::{
    command_line::{Command, CommandLine},
    failure::{Failure, LocalCode},
    output::Format,
};

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    if matches!(command_line.command, Command::Sealer) {
        // Before there are other threads: what it gives up is given up by the thread that it is.
        return lucarne_sealer::serve_one();
    }
    let result = match runtime(command_line.command.worker_threads()) {
        Ok(runtime) => {
            let result = runtime.block_on(command_line.run());
            // A thread may still wait for a key or a file: the process does not wait for it.
            runtime.shutdown_background();
            result
        }
        Err(cause) => Err(Failure::local(LocalCode::ProcessFailed, format!("no threads: {cause}"))),
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    eprintln!("{}", failure.told(command_line.global.output == Format::Json));
    // A dry run that would have succeeded is told as a problem, but it is what was asked for.
    if command_line.global.dry_run && failure.code() == Some(ErrorCode::DryRunOperation) {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(failure.exit_code())
}

/// With one worker thread for each processor, if no number of them is given.
fn runtime(worker_threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(count) = worker_threads {
        builder.worker_threads(count);
    }
    builder.enable_all().build()
}
