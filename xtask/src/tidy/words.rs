//! Words that must not stand in the repository: of unfinished work, of one machine, and second names for a concept that
//! has one.
//!
//! This file says them and is passed over.

use super::{
    Finding,
    source::{Source, Tree},
};

const THIS_FILE: &str = "xtask/src/tidy/words.rs";

/// Words, and what to do instead. They count when no letter or digit stands beside them.
const BANNED: [(&str, &str); 10] = [
    ("TODO", "do it, or leave it out"),
    ("FIXME", "fix it"),
    ("XXX", "say what is the matter"),
    ("todo!", "write the real thing"),
    ("unimplemented!", "write the real thing"),
    ("placeholder", "write the real thing"),
    ("stub", "write the real thing"),
    ("/work/", "name no path of one machine"),
    ("/home/", "name no path of one machine"),
    ("/Users/", "name no path of one machine"),
];

/// A second name for a concept of the glossary, and the one that it has.
const SECOND_NAMES: [(&str, &str); 13] = [
    ("tenant_id", "account"),
    ("vm_id", "instance"),
    ("nic_id", "interface"),
    ("hypervisor_id", "host"),
    ("node_id", "host"),
    ("sg_id", "security_group"),
    ("secgroup", "security_group"),
    ("close_reason", "end_reason"),
    ("termination_reason", "end_reason"),
    ("api_key", "access_key"),
    ("user_id", "principal or user"),
    ("disk_id", "volume"),
    ("userdata", "user_data"),
];

/// Names of files and ends of types that say that the subject was not found yet.
const NO_SUBJECT: [&str; 5] = ["manager", "helper", "utils", "common", "misc"];

pub(super) fn check_text(tree: &Tree) -> Vec<Finding> {
    judge_lines(&tree.sources, |line| {
        let found = BANNED.iter().find(|(word, _)| contains_word(line, word))?;
        Some(format!("`{}`: {}", found.0, found.1))
    })
}

pub(super) fn check_names(tree: &Tree) -> Vec<Finding> {
    let rust = tree.rust();
    let unfound = rust.filter(|source| subject(&source.path).is_some_and(|name| NO_SUBJECT.contains(&name)));
    let unfound = unfound.map(|source| Finding::new(&source.path, "name the file for its one subject"));
    let named = judge_lines(tree.rust(), |line| {
        let second = SECOND_NAMES.iter().find(|(name, _)| contains_word(line, name));
        let second = second.map(|(name, right)| format!("`{name}`: the house says {right}"));
        second.or_else(|| subjectless_type(line).map(|name| format!("`{name}`: name the type for what it is")))
    });
    unfound.chain(named).collect()
}

fn judge_lines<'a>(
    sources: impl IntoIterator<Item = &'a Source>,
    judge: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let sources = sources.into_iter().filter(|source| source.path != THIS_FILE);
    let lines =
        sources.flat_map(|source| source.text.lines().enumerate().map(move |(at, line)| (source, at + 1, line)));
    let found =
        lines.filter_map(|(source, at, line)| Some(Finding::new(format!("{}:{at}", source.path), judge(line)?)));
    found.collect()
}

/// The name of a file, or of the folder whose `mod.rs` it is.
fn subject(path: &str) -> Option<&str> {
    let path = path.strip_suffix("/mod.rs").or_else(|| path.strip_suffix(".rs"))?;
    path.rsplit('/').next()
}

fn subjectless_type(line: &str) -> Option<&str> {
    let definition = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
    let name = ["struct ", "enum ", "trait "].iter().find_map(|kind| definition.strip_prefix(kind))?;
    let name = name.split(|c: char| !c.is_alphanumeric()).next()?;
    let lower = name.to_lowercase();
    NO_SUBJECT.iter().any(|word| lower.ends_with(word)).then_some(name)
}

/// Whether `word` stands in `line` by itself and not within a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        let whole = |edge: Option<char>, beside| part_of_name(edge) && part_of_name(beside);
        !whole(word.chars().next(), before) && !whole(word.chars().next_back(), after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        let tree = Tree::of(&[(path, text)]);
        check_text(&tree).len() + check_names(&tree).len()
    }

    #[test]
    fn words_of_unfinished_work_are_found_in_any_file() {
        assert_eq!(findings("a.md", "first\nTODO: second\n"), 1);
        assert_eq!(findings("a.rs", "    todo!()\n"), 1);
        assert_eq!(findings("a.rs", "    // from /work/here\n"), 1);
    }

    #[test]
    fn a_longer_word_that_holds_a_banned_one_is_not_meant() {
        assert_eq!(findings("a.rs", "let stubborn = unicast(TODOS);\n"), 0);
        assert_eq!(findings("a.rs", "fn f(my_vm_id: u8, nic_ids: u8)\n"), 0);
    }

    #[test]
    fn second_names_are_found_in_code_and_not_in_prose() {
        assert_eq!(findings("a.rs", "fn f(tenant_id: u8)\n"), 1);
        assert_eq!(findings("a.md", "EC2 says user_id here\n"), 0);
    }

    #[test]
    fn files_and_types_without_a_subject_are_found() {
        assert_eq!(findings("crates/a/src/utils.rs", ""), 1);
        assert_eq!(findings("crates/a/src/common/mod.rs", ""), 1);
        assert_eq!(findings("a.rs", "pub(crate) struct PortManager {\n"), 1);
        assert_eq!(findings("a.rs", "pub struct Port {\n"), 0);
    }
}
