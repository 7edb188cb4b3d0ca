//! Crates that only decide stay so: they deny what clippy.toml bans, and have no dependency that acts.

use super::{Finding, source::Tree};

/// The words and the rooms. Pure modules elsewhere deny the same by themselves.
const PURE: [&str; 7] = ["model", "statement", "flows", "memory", "attest", "replica", "seal"];
const DENIAL: &str = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";
/// What acts: on threads, sockets, files, processes, databases.
const ACTORS: [&str; 16] = [
    "async-std",
    "axum",
    "hyper",
    "hyper-util",
    "libc",
    "mio",
    "nix",
    "parquet",
    "rayon",
    "reqwest",
    "rusqlite",
    "rustix",
    "signal-hook",
    "socket2",
    "tokio",
    "tokio-util",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    PURE.iter().flat_map(|name| check_crate(tree, name)).collect()
}

fn check_crate(tree: &Tree, name: &str) -> Vec<Finding> {
    let root = format!("crates/{name}/src/lib.rs");
    let open = tree.sources.iter().filter(|source| source.path == root && !source.text.contains(DENIAL));
    let open = open.map(|source| Finding::new(&source.path, format!("a pure crate opens with {DENIAL}")));
    let crate_name = format!("lucarne-{name}");
    let acts = tree.dependencies.iter().filter(|dependency| {
        dependency.of == crate_name && !dependency.aside && ACTORS.contains(&dependency.on.as_str())
    });
    let acts = acts.map(|dependency| {
        Finding::new(&crate_name, format!("a pure crate may not depend on {}: its caller acts", dependency.on))
    });
    open.chain(acts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Dependency;

    #[test]
    fn a_pure_crate_without_the_denial_is_found() {
        let header = "//! Header.\n";
        let good = format!("{header}{DENIAL}\n");
        assert_eq!(check(&Tree::of(&[("crates/flows/src/lib.rs", &good), ("crates/host/src/lib.rs", header)])), []);
        assert_eq!(check(&Tree::of(&[("crates/flows/src/lib.rs", header)])).len(), 1);
    }

    #[test]
    fn a_pure_crate_that_depends_on_what_acts_is_found() {
        let dependency = Dependency { of: "lucarne-flows".to_owned(), on: "tokio".to_owned(), aside: false };
        let tree = Tree { dependencies: vec![dependency], ..Tree::default() };
        assert_eq!(check(&tree).len(), 1);
    }
}
