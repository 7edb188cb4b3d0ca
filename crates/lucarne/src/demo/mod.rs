//! `lucarne demo`: plays the cloud's promises on real VMs, one chapter each, and says what it saw.
//!
//! Owns the choice of chapters and the verdict: success only if every step of every chapter held.

mod networks;
mod probes;
mod report;
mod tenant;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use self::report::{Chapter, Report, Story};
use crate::{
    command_line::Global,
    dev::{furnish, ready::ReadyFile},
    failure::{Failure, LocalCode},
    output::Format,
    session::{Session, json_of},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChapterName {
    /// Two tenants with the same addresses, apart; their flows recorded
    Networks,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Only this chapter; all if not given
    #[arg(long, value_enum)]
    chapter: Option<ChapterName>,
    /// The ready file of `lucarne dev`, for the operator's key; the usual configuration if not given
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// What chapters play with.
pub(crate) struct Stage {
    /// Makes tenants, and sees hosts.
    pub(crate) operator: Session,
    pub(crate) allow_plaintext: bool,
}

impl DemoArgs {
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let stage = Stage { operator: self.operator(global)?, allow_plaintext: global.allow_plaintext };
        let aloud = global.output == Format::Table;
        let mut chapters = Vec::new();
        for name in ChapterName::value_variants() {
            if self.chapter.is_none_or(|only| only == *name) {
                chapters.push(play(*name, &stage, aloud).await);
            }
        }
        let report = Report::new(chapters);
        if !aloud {
            global.output.print_value(&json_of(&report)?)?;
        }
        if report.held {
            return Ok(());
        }
        Err(Failure::local(LocalCode::DemoFailed, "not everything was seen that was expected"))
    }

    fn operator(&self, global: &Global) -> Result<Session, Failure> {
        match &self.ready_file {
            Some(path) => {
                let ready = ReadyFile::read(path)?;
                furnish::session(&ready.endpoint, &ready.operator, global.allow_plaintext)
            }
            None => global.session(),
        }
    }
}

async fn play(name: ChapterName, stage: &Stage, aloud: bool) -> Chapter {
    match name {
        ChapterName::Networks => {
            let mut story = Story::begin("networks", networks::TITLE, aloud);
            networks::play(stage, &mut story).await;
            story.end()
        }
    }
}
