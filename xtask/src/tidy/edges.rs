//! Which crate may use which: the map of the house as a table.
//!
//! A new edge is a design decision: it is made here, in a commit of its own. Rooms never use rooms, nor hands hands; they
//! meet in `control` and `host`.

use super::{Finding, source::Tree};

/// Each crate and those that it may use. Only for its tests a crate may use more, see [`TEST_EDGES`].
const EDGES: [(&str, &[&str]); 22] = [
    ("model", &[]),
    // what rooms have signed and logged
    ("statement", &["model"]),
    // rooms: they decide and never act
    ("flows", &["model"]),
    ("memory", &["model"]),
    ("attest", &["model", "statement"]),
    ("replica", &["model"]),
    ("seal", &["model", "statement"]),
    // hands: they act
    ("switch", &["model", "flows"]),
    ("vmm", &["model"]),
    ("pager", &["model", "memory"]),
    ("tpm", &["model", "attest"]),
    ("collector", &["model", "flows"]),
    ("notary", &["model", "attest"]),
    // the face
    ("api", &["model"]),
    // where rooms meet
    ("control", &["model", "statement", "flows", "memory", "attest", "replica", "seal", "api", "vmm", "collector"]),
    ("sealer", &["model", "statement", "seal", "vmm", "pager"]),
    (
        "host",
        &[
            "model",
            "statement",
            "flows",
            "memory",
            "attest",
            "replica",
            "seal",
            "api",
            "switch",
            "vmm",
            "pager",
            "tpm",
            "sealer",
        ],
    ),
    // the binary
    (
        "lucarne",
        &["model", "flows", "attest", "seal", "api", "collector", "pager", "notary", "sealer", "control", "host"],
    ),
    // beside the house
    ("tests", &["model", "attest", "api"]),
    (
        "bench",
        &[
            "model",
            "flows",
            "memory",
            "attest",
            "seal",
            "sealer",
            "switch",
            "vmm",
            "pager",
            "tpm",
            "api",
            "collector",
            "control",
            "host",
        ],
    ),
    ("fuzz", &["model", "flows", "attest", "replica", "seal", "sealer", "switch", "bench"]),
    ("xtask", &[]),
];

/// Edges that exist for a crate's tests alone.
const TEST_EDGES: [(&str, &[&str]); 2] = [("control", &["host"]), ("host", &["collector", "control"])];

fn short(name: &str) -> &str {
    name.strip_prefix("lucarne-").unwrap_or(name)
}

fn allowed<'a>(table: &'a [(&str, &'a [&'a str])], of: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(name, _)| *name == of).map(|(_, uses)| *uses)
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let unknown = tree.crates.iter().filter(|name| allowed(&EDGES, short(name)).is_none());
    let unknown = unknown.map(|name| Finding::new(name, "this crate is not in the table of xtask/src/tidy/edges.rs"));
    let ours = tree.dependencies.iter().filter(|dependency| tree.crates.contains(&dependency.on));
    let drawn = ours.filter(|dependency| {
        let (of, on) = (short(&dependency.of), short(&dependency.on));
        let always = allowed(&EDGES, of).unwrap_or_default();
        let in_tests = allowed(&TEST_EDGES, of).unwrap_or_default();
        !(always.contains(&on) || dependency.aside && in_tests.contains(&on))
    });
    let drawn = drawn.map(|dependency| {
        let what = format!("may not use {}: see the table of xtask/src/tidy/edges.rs", dependency.on);
        Finding::new(&dependency.of, what)
    });
    unknown.chain(drawn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Dependency;

    fn tree(of: &str, on: &str, aside: bool) -> Tree {
        let crates = ["lucarne-model", "lucarne-flows", "lucarne-host", "lucarne-control", "xtask"];
        Tree {
            crates: crates.map(str::to_owned).to_vec(),
            dependencies: vec![Dependency { of: of.to_owned(), on: on.to_owned(), aside }],
            ..Tree::default()
        }
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        assert_eq!(check(&tree("lucarne-flows", "lucarne-model", false)), []);
        assert_eq!(check(&tree("lucarne-flows", "serde", false)), []);
        assert_eq!(check(&tree("lucarne-model", "lucarne-flows", false)).len(), 1);
    }

    #[test]
    fn an_edge_for_tests_is_not_one_for_code() {
        assert_eq!(check(&tree("lucarne-control", "lucarne-host", true)), []);
        assert_eq!(check(&tree("lucarne-control", "lucarne-host", false)).len(), 1);
    }

    #[test]
    fn a_crate_that_is_not_in_the_table_is_found() {
        let mut tree = tree("lucarne-flows", "lucarne-model", false);
        tree.crates.push("lucarne-utils".to_owned());
        assert_eq!(check(&tree)[0].place, "lucarne-utils");
    }

    /// The table itself cannot hold a circle: each crate uses only those above it.
    #[test]
    fn the_table_goes_one_way() {
        for (at, (name, uses)) in EDGES.iter().enumerate() {
            let above: Vec<&str> = EDGES[..at].iter().map(|(name, _)| *name).collect();
            assert!(uses.iter().all(|used| above.contains(used)), "{name}");
        }
    }
}
