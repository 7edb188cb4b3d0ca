//! `lucarne demo`: plays the cloud's promises on real VMs, one chapter each, and says what it saw.
//!
//! Owns the choice of chapters and the verdict: success only if every step of every chapter held.

mod attestation;
mod flows;
mod memory;
mod moving;
mod networks;
mod nfdump;
mod own_host;
mod probes;
mod publishing;
mod questions;
mod replaying;
mod replicating;
mod report;
mod sealing;
mod soaking;
mod tenant;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use futures::future::join_all;

use self::{
    report::{Chapter, Report, Story},
    tenant::Tenant,
};
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
    /// Whose every flow was, and why it ended
    Flows,
    /// Hosts that prove what they run before a machine begins
    Attestation,
    /// Pages that leave and come back
    Memory,
    /// A guest's memory for one reader, carried by those who cannot read it
    Seals,
    /// A running network duplicated, and both go on
    Replicas,
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
        Err(Failure::local(LocalCode::DemoFailed, report.told_missing()))
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
        ChapterName::Flows => {
            let mut story = Story::begin("flows", flows::TITLE, aloud);
            flows::play(stage, &mut story).await;
            story.end()
        }
        ChapterName::Attestation => {
            let mut story = Story::begin("attestation", attestation::TITLE, aloud);
            attestation::play(stage, &mut story).await;
            story.end()
        }
        ChapterName::Memory => {
            let mut story = Story::begin("memory", memory::TITLE, aloud);
            memory::play(stage, &mut story).await;
            story.end()
        }
        ChapterName::Seals => {
            let mut story = Story::begin("seals", sealing::TITLE, aloud);
            sealing::play(stage, &mut story).await;
            story.end()
        }
        ChapterName::Replicas => {
            let mut story = Story::begin("replicas", replicating::TITLE, aloud);
            replicating::play(stage, &mut story).await;
            story.end()
        }
    }
}

/// Plays scenes with the tenants that they make, and clears everything away, also when they broke off or were interrupted.
async fn with_tenants(
    stage: &Stage,
    story: &mut Story,
    scenes: impl AsyncFnOnce(&mut Story, &mut Vec<Tenant>) -> Result<(), Failure>,
) {
    let mut tenants = Vec::new();
    let played = tokio::select! {
        played = scenes(story, &mut tenants) => played,
        _ = tokio::signal::ctrl_c() => Err(Failure::local(LocalCode::Interrupted, "the demonstration was interrupted")),
    };
    if let Err(failure) = played {
        story.step("the chapter goes to its end", "no failure", failure.to_string(), false);
    }
    let cleared = join_all(tenants.iter().map(|tenant| tenant.clear(&stage.operator))).await;
    let failure = cleared.into_iter().find_map(Result::err);
    let held = failure.is_none();
    let seen = failure.map_or_else(|| "machines, networks and accounts are gone".into(), |failure| failure.to_string());
    story.step("everything is cleared away", "machines, networks and accounts are gone", seen, held);
}
