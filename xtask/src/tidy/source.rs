//! The source as the rules see it: files, their code without tests, their functions, and the crates' dependencies.
//!
//! Reads text, not syntax: rustfmt has made the text regular, which is checked in another step.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::Finding;
use crate::program::{cargo, output};

/// Where source and documents are. What is built or kept for machines is not read.
const FOLDERS: [&str; 10] = [".ci", ".cargo", "bench", "console", "crates", "docs", "fuzz", "images", "tests", "xtask"];
const TEXT: [&str; 10] = ["rs", "md", "toml", "sh", "py", "html", "css", "js", "ts", "sql"];

/// A text file of the repository.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the repository.
    pub(super) path: String,
    pub(super) text: String,
}

/// A dependency of one of our crates.
#[derive(Debug)]
pub(super) struct Dependency {
    pub(super) of: String,
    pub(super) on: String,
    /// Only for its tests or its build.
    pub(super) aside: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) sources: Vec<Source>,
    /// All of our crates, by name.
    pub(super) crates: Vec<String>,
    pub(super) dependencies: Vec<Dependency>,
}

/// A function: where it begins, counted from one, and how many lines its body and signature take.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) length: usize,
}

impl Tree {
    pub(super) fn read() -> Result<Self> {
        let mut tree = Self::default();
        for folder in FOLDERS.iter().map(Path::new).filter(|folder| folder.is_dir()) {
            read_folder(folder, &mut tree.sources)?;
        }
        read_files(Path::new("."), &mut tree.sources)?;
        tree.sources.sort_by(|a, b| a.path.cmp(&b.path));
        tree.read_crates()?;
        Ok(tree)
    }

    fn read_crates(&mut self) -> Result<()> {
        let metadata = output(&mut cargo("metadata --no-deps --format-version 1 --quiet"))?;
        let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let name = package["name"].as_str().unwrap_or_default();
            for dependency in package["dependencies"].as_array().into_iter().flatten() {
                self.dependencies.push(Dependency {
                    of: name.to_owned(),
                    on: dependency["name"].as_str().unwrap_or_default().to_owned(),
                    aside: !dependency["kind"].is_null(),
                });
            }
            self.crates.push(name.to_owned());
        }
        Ok(())
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| source.path.ends_with(".rs"))
    }
}

fn read_folder(folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    read_files(folder, sources)?;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let skipped = ["target", "node_modules", "proptest-regressions"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !skipped {
            read_folder(&path, sources)?;
        }
    }
    Ok(())
}

/// The text files right in `folder`: by their ending, or by beginning as a script does.
fn read_files(folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if path.is_dir() || !ending.is_none_or(|ending| TEXT.contains(&ending)) {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            let path = path.strip_prefix(".").unwrap_or(&path).to_string_lossy().into_owned();
            sources.push(Source { path, text });
        }
    }
    Ok(())
}

impl Source {
    /// Whether all of the file is there for tests.
    pub(super) fn is_test(&self) -> bool {
        let in_folder = |folder: &str| self.path.starts_with(folder) || self.path.contains(&format!("/{folder}"));
        in_folder("tests/") || ["/tests.rs", "_tests.rs"].iter().any(|end| self.path.ends_with(end))
    }

    /// Its lines up to its module of tests.
    pub(super) fn code(&self) -> Vec<&str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
        lines[..tests.unwrap_or(lines.len())].to_vec()
    }

    pub(super) fn functions(&self) -> Vec<Function> {
        let code = self.code();
        (0..code.len()).filter_map(|at| function(&code, at)).collect()
    }
}

/// The function that begins at line `at` of `code`, if one with a body does. It ends where a brace closes at its indent.
fn function(code: &[&str], at: usize) -> Option<Function> {
    let line = code[at].trim_start();
    let indent = &code[at][..code[at].len() - line.len()];
    let modifiers = ["pub ", "pub(crate) ", "pub(super) ", "default ", "const ", "async ", "unsafe ", "extern \"C\" "];
    let plain = modifiers.iter().fold(line, |rest, modifier| rest.strip_prefix(modifier).unwrap_or(rest));
    let name = plain.strip_prefix("fn ")?.split(['(', '<']).next()?.to_owned();
    let ends = |line: &str| line.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}'));
    let declared =
        |line: &str| line.strip_prefix(indent).is_some_and(|rest| !rest.starts_with(' ') && rest.ends_with(';'));
    for (length, line) in code[at..].iter().enumerate() {
        match () {
            () if declared(line) => return None,
            () if length == 0 && line.ends_with('}') => return Some(Function { name, line: at + 1, length: 1 }),
            () if ends(line) => return Some(Function { name, line: at + 1, length: length + 1 }),
            () => {}
        }
    }
    None
}

/// Every file of Rust says first what it is for.
pub(super) fn check_headers(tree: &Tree) -> Vec<Finding> {
    let bare = tree.rust().filter(|source| !source.text.starts_with("//! "));
    let what = "begin with a `//!` header: what the file is for, what it owns, what it leaves to others";
    bare.map(|source| Finding::new(&source.path, what)).collect()
}

#[cfg(test)]
impl Tree {
    /// A tree of made-up files.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let source = |(path, text): &(&str, &str)| Source { path: (*path).to_owned(), text: (*text).to_owned() };
        Self { sources: files.iter().map(source).collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "//! Header.\n\npub(crate) async fn long(\n    a: u8,\n) -> u8 {\n    a\n}\n\ntrait T {\n    fn \
        declared(&self) -> u8;\n    fn given(&self) -> u8 {\n        { 1 }\n    }\n}\nconst fn short() {}\n\n#[cfg(test)]\nmod \
        tests {\n    fn in_tests() {}\n}\n";

    #[test]
    fn functions_are_measured_from_signature_to_brace_and_tests_left_out() {
        let tree = Tree::of(&[("crates/a/src/lib.rs", TEXT)]);
        let found: Vec<_> = tree.sources[0].functions().into_iter().map(|f| (f.name, f.line, f.length)).collect();
        let expected = [("long", 3, 5), ("given", 11, 3), ("short", 15, 1)];
        assert_eq!(found, expected.map(|(name, line, length)| (name.to_owned(), line, length)));
        assert_eq!(tree.sources[0].code().len(), 16);
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        let tree = Tree::of(&[("a.rs", "//! Good.\n"), ("b.rs", "use std;\n"), ("c.md", "text")]);
        let places: Vec<String> = check_headers(&tree).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["b.rs"]);
    }

    #[test]
    fn files_of_tests_are_known_by_where_they_lie() {
        let tree = Tree::of(&[("tests/src/lib.rs", ""), ("crates/a/tests/b.rs", ""), ("crates/a/src/b/tests.rs", "")]);
        assert!(tree.sources.iter().all(Source::is_test));
        assert!(!Tree::of(&[("crates/a/src/latests.rs", "")]).sources[0].is_test());
    }
}
