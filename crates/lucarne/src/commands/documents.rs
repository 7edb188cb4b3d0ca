//! `lucarne completions` and `lucarne man`: what derives from the command definitions themselves.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    command_line::CommandLine,
    failure::{Failure, LocalCode},
    output,
};

/// The completion script of a shell, on standard output.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "lucarne", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// The manual: all pages into `folder`, or the first one on standard output.
pub(crate) fn man(folder: Option<&PathBuf>) -> Result<(), Failure> {
    match folder {
        Some(folder) => write_pages(folder)
            .map_err(|cause| Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", folder.display()))),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(CommandLine::command())
                .render(&mut page)
                .map_err(|cause| Failure::local(LocalCode::FileUnwritable, cause.to_string()))?;
            output::print(&String::from_utf8_lossy(&page))
        }
    }
}

/// One page for each command.
fn write_pages(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(CommandLine::command(), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_manual_page_for_each_command() {
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        for name in ["lucarne.1", "lucarne-vpc.1", "lucarne-vpc-create.1", "lucarne-instance-launch.1", "lucarne-dev.1"]
        {
            let page = fs::read_to_string(folder.path().join(name)).unwrap_or_else(|cause| panic!("{name}: {cause}"));
            assert!(page.contains(".TH"), "{name}");
        }
    }

    #[test]
    fn every_shell_gets_completions_that_know_the_nouns() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "lucarne", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("security-group") && script.contains("authorize"), "{shell}");
        }
    }
}
