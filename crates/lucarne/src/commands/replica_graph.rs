//! A replica's plan as a graph: a tree of text for people, and DOT for Graphviz.
//!
//! Owns both forms. What needs what is decided in the room `replica`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use lucarne_model::replication::{ObjectId, ReplicaPlan, ReplicaStep};

use super::replica_plan::{named, words_of};

/// The steps of a plan by what they need.
struct Graph<'a> {
    plan: &'a ReplicaPlan,
    needs: BTreeMap<ReplicaStep, &'a [ReplicaStep]>,
    /// In which stage each step is made.
    stage: BTreeMap<ReplicaStep, usize>,
}

impl<'a> Graph<'a> {
    fn of(plan: &'a ReplicaPlan) -> Self {
        let needs = plan.needs.iter().map(|one| (one.step, one.needs.as_slice())).collect();
        let steps = plan.stages.iter().enumerate().flat_map(|(at, stage)| stage.iter().map(move |step| (*step, at)));
        Self { plan, needs, stage: steps.collect() }
    }

    fn label(&self, step: ReplicaStep) -> String {
        let of = |id: ObjectId| {
            let name =
                self.plan.objects.iter().find(|planned| planned.id == id).and_then(|planned| planned.name.as_ref());
            format!("{} {}", words_of(id.kind()), named(id, name))
        };
        let label = match step {
            ReplicaStep::Object { object } => of(object),
            ReplicaStep::Rules { group } => format!("rules of {}", of(group.into())),
            ReplicaStep::Routes { route_table } => format!("routes of {}", of(route_table.into())),
        };
        // Names are their tenants' own words: nothing in one breaks a line.
        label.replace(|one: char| one.is_control(), " ")
    }

    /// What a step needs that nothing else that it needs brings with it.
    fn direct(&self, step: ReplicaStep) -> Vec<ReplicaStep> {
        let all = self.needs.get(&step).copied().unwrap_or_default();
        let brought: BTreeSet<ReplicaStep> = all.iter().flat_map(|need| self.below(*need)).collect();
        all.iter().copied().filter(|need| !brought.contains(need)).collect()
    }

    /// All that a step needs, and what that needs. Needs lead to earlier stages, so this ends.
    fn below(&self, step: ReplicaStep) -> BTreeSet<ReplicaStep> {
        let mut found = BTreeSet::new();
        let mut open = vec![step];
        while let Some(step) = open.pop() {
            for need in self.needs.get(&step).copied().unwrap_or_default() {
                if found.insert(*need) {
                    open.push(*need);
                }
            }
        }
        found
    }

    /// The step under which each is shown in a tree: of those that it needs directly, the last to be made.
    fn children(&self) -> BTreeMap<Option<ReplicaStep>, Vec<ReplicaStep>> {
        let mut children: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for step in self.plan.stages.iter().flatten() {
            let above = self.direct(*step).into_iter().max_by_key(|need| self.stage.get(need));
            children.entry(above).or_default().push(*step);
        }
        children
    }
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum GraphForm {
    Tree,
    Dot,
}

impl GraphForm {
    pub(super) fn text(self, plan: &ReplicaPlan) -> String {
        match self {
            Self::Tree => tree(plan),
            Self::Dot => dot(plan),
        }
    }
}

/// Each step once, under the last that it waits for; what else it waits for stands beside it.
fn tree(plan: &ReplicaPlan) -> String {
    let graph = Graph::of(plan);
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write_tree(&mut text, &graph);
    text
}

fn write_tree(text: &mut String, graph: &Graph<'_>) -> fmt::Result {
    let children = graph.children();
    let under = |step| children.get(&step).map(Vec::as_slice).unwrap_or_default();
    let mut open: Vec<(ReplicaStep, String, bool)> = Vec::new();
    let push = |open: &mut Vec<_>, steps: &[ReplicaStep], indent: &str| {
        let last = steps.len().saturating_sub(1);
        open.extend(steps.iter().enumerate().rev().map(|(at, step)| (*step, indent.to_owned(), at == last)));
    };
    push(&mut open, under(None), "");
    while let Some((step, indent, is_last)) = open.pop() {
        let needs = graph.direct(step);
        let (above, others) = (needs.iter().max_by_key(|need| graph.stage.get(need)), needs.len().saturating_sub(1));
        let (branch, below) = match (above.is_some(), is_last) {
            (false, _) => ("", ""),
            (true, false) => ("├─ ", "│  "),
            (true, true) => ("└─ ", "   "),
        };
        write!(text, "{indent}{branch}{}", graph.label(step))?;
        if others > 0 {
            let others = needs.iter().filter(|need| Some(*need) != above).map(|need| graph.label(*need));
            write!(text, " (after {})", others.collect::<Vec<_>>().join(", "))?;
        }
        writeln!(text)?;
        push(&mut open, under(Some(step)), &format!("{indent}{below}"));
    }
    Ok(())
}

/// For `dot -Tsvg`: an arrow from what is needed to what needs it, and steps of one stage beside each other.
fn dot(plan: &ReplicaPlan) -> String {
    let graph = Graph::of(plan);
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write_dot(&mut text, &graph);
    text
}

fn write_dot(text: &mut String, graph: &Graph<'_>) -> fmt::Result {
    writeln!(text, "digraph replica {{\n  rankdir=LR;\n  node [shape=box];")?;
    for stage in &graph.plan.stages {
        let nodes = stage.iter().map(|step| format!("{};", quoted(&node(*step))));
        writeln!(text, "  {{ rank=same; {} }}", nodes.collect::<Vec<_>>().join(" "))?;
    }
    for step in graph.plan.stages.iter().flatten() {
        writeln!(text, "  {} [label={}];", quoted(&node(*step)), quoted(&graph.label(*step)))?;
        for need in graph.direct(*step) {
            writeln!(text, "  {} -> {};", quoted(&node(need)), quoted(&node(*step)))?;
        }
    }
    writeln!(text, "}}")
}

fn node(step: ReplicaStep) -> String {
    match step {
        ReplicaStep::Object { object } => object.to_string(),
        ReplicaStep::Rules { group } => format!("rules of {group}"),
        ReplicaStep::Routes { route_table } => format!("routes of {route_table}"),
    }
}

/// Nothing in the text ends the string, or is read as more than text.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        RouteTableId, SubnetId, VpcId,
        replication::{PlannedObject, ReplicaEstimate, StepNeeds},
    };

    use super::*;

    fn object(id: impl Into<ObjectId>) -> ReplicaStep {
        ReplicaStep::Object { object: id.into() }
    }

    /// A VPC, its route table, a subnet that needs both, and the table's routes.
    fn plan() -> ReplicaPlan {
        let (vpc, table, subnet) = (VpcId::from_bits(1), RouteTableId::from_bits(2), SubnetId::from_bits(3));
        let routes = ReplicaStep::Routes { route_table: table };
        let planned = PlannedObject {
            id: subnet.into(),
            kind: ObjectId::from(subnet).kind(),
            name: Some("a \"front\"\n".into()),
            cidr: None,
            address: None,
            copy: None,
            memory: None,
            fidelity: None,
            reached: None,
            size: None,
        };
        let needs = |step, needs: &[ReplicaStep]| StepNeeds { step, needs: needs.to_vec() };
        ReplicaPlan {
            vpc,
            objects: vec![planned],
            stages: vec![vec![object(vpc)], vec![object(table)], vec![object(subnet), routes]],
            needs: vec![
                needs(object(vpc), &[]),
                needs(object(table), &[object(vpc)]),
                needs(object(subnet), &[object(vpc), object(table)]),
                needs(routes, &[object(table)]),
            ],
            left_out: Vec::new(),
            broken: Vec::new(),
            other_kinds: Vec::new(),
            estimate: ReplicaEstimate::default(),
        }
    }

    #[test]
    fn a_tree_has_each_step_once_under_the_last_that_it_waits_for() {
        let expected = "vpc vpc-00000000000000001\n\
                        └─ route table rtb-00000000000000002\n   \
                        ├─ subnet subnet-00000000000000003 (a \"front\" )\n   \
                        └─ routes of route table rtb-00000000000000002\n";
        assert_eq!(tree(&plan()), expected);
    }

    #[test]
    fn what_two_steps_bring_is_drawn_once_and_no_name_leaves_its_string() {
        let text = dot(&plan());
        assert_eq!(text.matches(" -> ").count(), 3, "the VPC comes with the route table: {text}");
        assert!(text.contains(r#""rtb-00000000000000002" -> "subnet-00000000000000003";"#), "{text}");
        assert!(text.contains(r#"[label="subnet subnet-00000000000000003 (a \"front\" )"]"#), "{text}");
        assert!(
            text.contains(r#"{ rank=same; "subnet-00000000000000003"; "routes of rtb-00000000000000002"; }"#),
            "{text}"
        );
    }
}
