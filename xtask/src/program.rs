//! Runs other programs from the root of the repository, and says plainly when one fails.
//!
//! Owns where things are: the root, the cache, the built binary.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Makes the root of the repository the current folder, from wherever the task was called.
pub(crate) fn enter_root() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository")?;
    env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))
}

/// Where downloads are kept: `$XDG_CACHE_HOME`, or else a folder of this repository, so that a chore writes nowhere else.
pub(crate) fn cache() -> PathBuf {
    let set = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    set.unwrap_or_else(|| target().join("cache"))
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    env::current_dir().unwrap_or_default().join(target)
}

/// `program` with `arguments` (separated by spaces), which uses the same cache.
pub(crate) fn program(program: impl AsRef<Path>, arguments: &str) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments.split_whitespace()).env("XDG_CACHE_HOME", cache());
    command
}

pub(crate) fn cargo(arguments: &str) -> Command {
    program(env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from), arguments)
}

/// Builds one of our programs and returns where it is.
pub(crate) fn build(name: &str) -> Result<PathBuf> {
    // Of the whole workspace and with a test beside it: so dependencies have the features that they have in `cargo test`,
    // and the query engine is not built once more.
    run(&mut cargo(&format!("build --workspace --bin {name} --test whole")))?;
    Ok(target().join("debug").join(name))
}

/// Runs it in the foreground; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(command));
    Ok(())
}

/// Runs it and returns what it printed; what it complains of is shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot run {}", shown(command)))?;
    ensure!(output.status.success(), "`{}` failed ({})", shown(command), output.status);
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no text", shown(command)))
}

/// Runs it unseen and tells whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Where a program is, looking also where only root usually does.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
