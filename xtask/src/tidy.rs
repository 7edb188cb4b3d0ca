//! The rules about the house, as checks of its own source text.
//!
//! Owns which rules there are and how findings are shown. They are ratchets: a limit may be tightened at any time, and is
//! loosened, like a new edge is drawn, only in a commit of its own that says why.

mod edges;
mod purity;
mod sizes;
mod source;
mod words;

use std::fmt;

use anyhow::{Result, bail};

use source::Tree;

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// The file, and the line if one is meant.
    place: String,
    /// What is wrong and what to do.
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

const RULES: [fn(&Tree) -> Vec<Finding>; 6] =
    [edges::check, purity::check, source::check_headers, sizes::check, words::check_text, words::check_names];

/// Checks every rule on the repository.
pub(crate) fn check() -> Result<()> {
    let tree = Tree::read()?;
    let findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    println!("{}", sizes::summary(&tree));
    if findings.is_empty() { Ok(()) } else { bail!("breaches of the rules of the house: {}", findings.len()) }
}
