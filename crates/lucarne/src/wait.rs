//! Waiting for a state, with a sign of life on a terminal and none in a pipe.
//!
//! Owns the polling. Which state a verb aims at is the commands' business.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lucarne_api::bodies::instance::{Job, JobState};
use lucarne_model::{JobId, memory_move::Carried};
use serde_json::Value;

use crate::{
    failure::{Failure, LocalCode},
    kind::Kind,
    session::{Session, answer},
};

const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// A line that turns while something takes long. Drawn on standard error, and only where that is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn start(message: impl Into<String>) -> Self {
        // indicatif itself draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_message(message.into());
        Self(bar)
    }

    pub(crate) fn say(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }

    /// Draws how much of something has been carried.
    fn draw(&self, carried: Carried) {
        if let Ok(style) = ProgressStyle::with_template(
            "{spinner} {msg} {wide_bar} {binary_bytes} of {binary_total_bytes} ({elapsed})",
        ) {
            self.0.set_style(style);
        }
        self.0.set_length((carried.sent + carried.left).0);
        self.0.set_position(carried.sent.0);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) state: &'static str,
    /// States from which it is never reached.
    pub(crate) hopeless: &'static [&'static str],
    /// How long at most.
    pub(crate) patience: Duration,
}

impl Goal {
    /// `terminated` and `error` are dead ends for every other goal, and `stopped` for what is starting. What is shutting
    /// down is waited for: it will say why.
    pub(crate) fn state(state: &'static str) -> Self {
        let hopeless: &[&str] =
            if state == "running" { &["terminated", "stopped", "error"] } else { &["terminated", "error"] };
        Self { state, hopeless, patience: Duration::from_secs(300) }
    }

    /// Whether it is reached (`Some(true)`), given up (`Some(false)`) or still open.
    fn judge(&self, state: &str) -> Option<bool> {
        if state == self.state { Some(true) } else { self.hopeless.contains(&state).then_some(false) }
    }
}

/// Looks at the resource until its `state` is the goal's, and returns it.
pub(crate) async fn until(session: &Session, kind: &Kind, id: &str, goal: Goal) -> Result<Value, Failure> {
    until_telling(session, kind, id, goal, |_| None).await
}

/// The same; `tell` says how far it is.
pub(crate) async fn until_telling(
    session: &Session,
    kind: &Kind,
    id: &str,
    goal: Goal,
    tell: impl Fn(&Value) -> Option<String>,
) -> Result<Value, Failure> {
    let Some(show) = kind.show else {
        return Err(Failure::wrong_usage(format!("a {} has no state to wait for", kind.noun)));
    };
    let progress = Progress::start(format!("{id}: waiting for {}", goal.state));
    let started = Instant::now();
    loop {
        let value = session.read(async |client| show(client, id.to_owned()).await).await?;
        let state = value["state"].as_str().unwrap_or_default();
        match goal.judge(state) {
            Some(true) => return Ok(value),
            Some(false) => return Err(missed(id, state, &value)),
            None if started.elapsed() > goal.patience => {
                let detail = format!("{id} is still {state} after {} s", goal.patience.as_secs());
                return Err(Failure::local(LocalCode::WaitFailed, detail));
            }
            None => {
                let told = tell(&value).unwrap_or_else(|| format!("waiting for {}", goal.state));
                progress.say(format!("{id}: {state}, {told}"));
            }
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Follows a job to its end, step by step.
pub(crate) async fn until_done(session: &Session, id: JobId) -> Result<Job, Failure> {
    let progress = Progress::start(id.to_string());
    loop {
        let job: Job = session.read(async |client| answer(client.get_job(&id)).await).await?;
        match job.state {
            JobState::Done => return Ok(job),
            JobState::Failed => {
                let why = job.reason.map_or_else(|| "no reason was given".into(), |why| why.message);
                return Err(Failure::local(LocalCode::WaitFailed, format!("{id} failed and was undone: {why}")));
            }
            JobState::Running => {
                progress.say(format!("{}: {}", subject(&job), job.step));
                if let Some(way) = job.progress {
                    progress.draw(way.carried());
                }
            }
            JobState::Undoing => progress.say(format!("{}: undoing {}", subject(&job), job.step)),
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Follows a job until it is over, whichever way it ends.
pub(crate) async fn until_over(session: &Session, id: JobId) -> Result<(), Failure> {
    let progress = Progress::start(id.to_string());
    loop {
        let job: Job = session.read(async |client| answer(client.get_job(&id)).await).await?;
        if matches!(job.state, JobState::Done | JobState::Failed) {
            return Ok(());
        }
        progress.say(format!("{}: {}", subject(&job), job.step));
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// What a job works on.
fn subject(job: &Job) -> String {
    let replica = job.replica.map(|replica| replica.to_string());
    replica.or(job.instance.map(|instance| instance.to_string())).unwrap_or_default()
}

fn missed(id: &str, state: &str, value: &Value) -> Failure {
    let reason = &value["state_reason"];
    let why = match (reason["code"].as_str(), reason["message"].as_str()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => "no reason was given".into(),
    };
    Failure::local(LocalCode::WaitFailed, format!("{id} is {state}: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wait_ends_at_its_goal_or_where_the_goal_cannot_be_reached() {
        let running = Goal::state("running");
        assert_eq!(running.judge("pending"), None);
        assert_eq!(running.judge("running"), Some(true));
        assert_eq!(running.judge("terminated"), Some(false));
        assert_eq!(running.judge("stopped"), Some(false));
        assert_eq!(Goal::state("stopped").judge("running"), None);
        assert_eq!(Goal::state("terminated").judge("shutting-down"), None);
        assert_eq!(Goal::state("terminated").judge("terminated"), Some(true));
    }

    #[test]
    fn a_missed_goal_says_the_reason_that_the_controller_gave() {
        let value = json!({"state_reason": {"code": "HypervisorMissing", "message": "no QEMU"}});
        assert_eq!(
            missed("i-1", "terminated", &value).to_string(),
            "WaitFailed: i-1 is terminated: HypervisorMissing: no QEMU"
        );
    }
}
