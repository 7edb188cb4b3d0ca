//! Files and functions stay small enough to be read at once.

use super::{
    Finding,
    source::{Source, Tree},
};

/// Lines without tests that nine of ten files stay under.
const FILE_P90: usize = 400;
/// Lines without tests that no file goes beyond.
const FILE_MOST: usize = 800;
/// Lines that nine of ten functions stay under.
const FUNCTION_P90: usize = 30;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let long = code(tree).filter(|source| source.code().len() > FILE_MOST);
    let long =
        long.map(|source| Finding::new(&source.path, format!("has more than {FILE_MOST} lines: split it by subject")));
    let shape = [
        (p90(files(tree)), FILE_P90, "lines of a file, nine of ten"),
        (p90(functions(tree)), FUNCTION_P90, "lines of a function, nine of ten"),
    ];
    let shape = shape.into_iter().filter(|(found, limit, _)| found >= limit);
    let shape =
        shape.map(|(found, limit, what)| Finding::new("the tree", format!("{what}: {found}; must be under {limit}")));
    long.chain(shape).collect()
}

/// The sizes as they are, so that one sees how much room is left.
pub(super) fn summary(tree: &Tree) -> String {
    let (files, functions) = (files(tree), functions(tree));
    let total: usize = files.iter().sum();
    format!(
        "{} files with {total} lines (p90 {}, most {}); {} functions (p90 {}, most {}); without tests",
        files.len(),
        p90(files.clone()),
        files.iter().max().unwrap_or(&0),
        functions.len(),
        p90(functions.clone()),
        functions.iter().max().unwrap_or(&0),
    )
}

fn code(tree: &Tree) -> impl Iterator<Item = &Source> {
    tree.rust().filter(|source| !source.is_test())
}

fn files(tree: &Tree) -> Vec<usize> {
    code(tree).map(|source| source.code().len()).collect()
}

fn functions(tree: &Tree) -> Vec<usize> {
    code(tree).flat_map(Source::functions).map(|function| function.length).collect()
}

/// The least number that nine of ten do not exceed.
fn p90(mut sizes: Vec<usize>) -> usize {
    sizes.sort_unstable();
    let position = (sizes.len() * 9).div_ceil(10);
    position.checked_sub(1).and_then(|last| sizes.get(last)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ninetieth_percentile_is_exceeded_by_one_of_ten() {
        assert_eq!(p90((1..=10).collect()), 9);
        assert_eq!(p90(vec![7]), 7);
        assert_eq!(p90(vec![]), 0);
    }

    #[test]
    fn a_file_that_is_too_long_is_found_and_its_tests_do_not_count() {
        let lines = "line\n".repeat(FILE_MOST + 1);
        let places = |path: &str, text: &str| {
            check(&Tree::of(&[(path, text)])).into_iter().map(|finding| finding.place).collect::<Vec<_>>()
        };
        assert!(places("crates/a/src/b.rs", &lines).contains(&"crates/a/src/b.rs".to_owned()));
        assert_eq!(places("crates/a/src/tests.rs", &lines), [""; 0]);
        assert_eq!(places("crates/a/src/b.rs", &format!("#[cfg(test)]\nmod tests {{\n{lines}}}\n")), [""; 0]);
    }

    #[test]
    fn functions_that_are_mostly_too_long_are_found() {
        let long = format!("fn long() {{\n{}}}\n", "    line\n".repeat(FUNCTION_P90));
        assert_eq!(check(&Tree::of(&[("a.rs", &long)])).len(), 1);
        assert_eq!(check(&Tree::of(&[("a.rs", &format!("{long}{}", "fn short() {}\n".repeat(10)))])), []);
    }
}
