//! What a demonstration saw, step by step: told to people as it happens, and to programs as a report at the end.
//!
//! Owns the shapes of both. A chapter holds when every one of its steps does, but for those that cannot be shown where it is played.

use std::time::Instant;

use serde::Serialize;

use crate::output;

/// One thing that was expected, and what came instead or as expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) expected: String,
    pub(crate) seen: String,
    /// None of what could not be tried here.
    pub(crate) held: Option<bool>,
    /// Since the chapter began.
    pub(crate) seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Chapter {
    pub(crate) chapter: &'static str,
    pub(crate) title: &'static str,
    pub(crate) held: bool,
    pub(crate) seconds: f64,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) held: bool,
    pub(crate) chapters: Vec<Chapter>,
}

/// A chapter that is being played.
pub(crate) struct Story {
    chapter: &'static str,
    title: &'static str,
    started: Instant,
    aloud: bool,
    steps: Vec<Step>,
}

impl Story {
    /// `aloud` prints each step as it comes.
    pub(crate) fn begin(chapter: &'static str, title: &'static str, aloud: bool) -> Self {
        if aloud {
            say(&format!("Chapter {chapter}: {title}\n"));
        }
        Self { chapter, title, started: Instant::now(), aloud, steps: Vec::new() }
    }

    /// Takes down a step, and returns whether it held.
    pub(crate) fn step(
        &mut self,
        step: impl Into<String>,
        expected: impl Into<String>,
        seen: impl Into<String>,
        held: bool,
    ) -> bool {
        self.take(step.into(), expected.into(), seen.into(), Some(held));
        held
    }

    /// Takes down a step that cannot be tried here, and why.
    pub(crate) fn not_shown(&mut self, step: &str, expected: impl Into<String>, why: impl Into<String>) {
        self.take(step.into(), expected.into(), why.into(), None);
    }

    fn take(&mut self, step: String, expected: String, seen: String, held: Option<bool>) {
        let step = Step { step, expected, seen, held, seconds: self.seconds() };
        if self.aloud {
            say(&told(&step));
        }
        self.steps.push(step);
    }

    pub(crate) fn end(self) -> Chapter {
        let seconds = self.seconds();
        let tried = || self.steps.iter().filter_map(|step| step.held);
        let held = tried().next().is_some() && tried().all(|held| held);
        if self.aloud {
            let verdict = if held { "held" } else { "DID NOT HOLD" };
            let untried = match self.steps.len() - tried().count() {
                0 => String::new(),
                count => format!(", but for {count} not shown"),
            };
            say(&format!("Chapter {} {verdict}{untried} in {seconds:.1} s\n\n", self.chapter));
        }
        Chapter { chapter: self.chapter, title: self.title, held, seconds, steps: self.steps }
    }

    fn seconds(&self) -> f64 {
        (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
    }
}

impl Report {
    pub(crate) fn new(chapters: Vec<Chapter>) -> Self {
        Self { held: !chapters.is_empty() && chapters.iter().all(|chapter| chapter.held), chapters }
    }

    /// What was expected and did not come, in a line each: all that is left of a report whose reader keeps only the error.
    pub(crate) fn told_missing(&self) -> String {
        let steps = self.chapters.iter().flat_map(|chapter| chapter.steps.iter().map(|step| (chapter.chapter, step)));
        let missing = steps.filter(|(_, step)| step.held == Some(false)).map(|(chapter, step)| {
            let Step { step, expected, seen, .. } = step;
            format!("\n  {chapter}: {step}; expected {expected}; seen {seen}")
        });
        format!("not everything was seen that was expected:{}", missing.collect::<String>())
    }
}

/// Who listens may have gone away; the chapter is still played to its end, so that it is cleared away.
fn say(text: &str) {
    let _ = output::print(text);
}

fn told(step: &Step) -> String {
    let mark = match step.held {
        Some(true) => "ok  ",
        Some(false) => "FAIL",
        None => "  - ",
    };
    format!(
        "  {mark} {:6.1} s  {}\n                 expected  {}\n                 seen      {}\n",
        step.seconds, step.step, step.expected, step.seen
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chapter_holds_only_if_every_step_does_and_an_empty_one_does_not() {
        let mut story = Story::begin("networks", "two tenants", false);
        assert!(story.step("a", "1", "1", true));
        assert!(!story.step("b", "1", "2", false));
        let failed = story.end();
        assert!(!failed.held);
        assert!(!Story::begin("networks", "two tenants", false).end().held);
        assert!(!Report::new(Vec::new()).held);
        let report = Report::new(vec![failed]);
        assert!(!report.held);
        assert_eq!(
            report.told_missing(),
            "not everything was seen that was expected:\n  networks: b; expected 1; seen 2",
            "what held is not told"
        );
    }

    #[test]
    fn what_cannot_be_shown_neither_holds_nor_fails() {
        let mut story = Story::begin("flows", "the whole record", false);
        story.not_shown("nfdump", "its flows", "it is not installed");
        assert!(!story.end().held, "nothing was tried");
        let mut story = Story::begin("flows", "the whole record", false);
        story.not_shown("nfdump", "its flows", "it is not installed");
        story.step("a", "1", "1", true);
        let held = story.end();
        assert!(held.held && told(&held.steps[0]).starts_with("    - "));
    }

    #[test]
    fn a_step_says_what_was_expected_and_what_was_seen() {
        let step = Step {
            step: "ping".into(),
            expected: "3 of 3".into(),
            seen: "0 of 3".into(),
            held: Some(false),
            seconds: 1.5,
        };
        let text = told(&step);
        assert!(
            text.contains("FAIL") && text.contains("expected  3 of 3") && text.contains("seen      0 of 3"),
            "{text}"
        );
    }
}
