//! A replica's plan as text for people.
//!
//! Owns its form. What it says is decided in the room `replica`.

use std::fmt::{self, Write};

use lucarne_model::{
    ResourceKind,
    replication::{Fate, LeftOut, LeftOutCause, ObjectId, PlannedObject, ReplicaEstimate, ReplicaPlan, ReplicaStep},
};

pub(super) fn text(plan: &ReplicaPlan) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write_plan(&mut text, plan);
    text
}

fn write_plan(text: &mut String, plan: &ReplicaPlan) -> fmt::Result {
    for (number, stage) in plan.stages.iter().enumerate() {
        writeln!(text, "Stage {}", number + 1)?;
        for step in stage {
            match step {
                ReplicaStep::Object { object } => {
                    let planned = plan.objects.iter().find(|planned| planned.id == *object);
                    writeln!(text, "  {}", planned.map_or_else(|| object.to_string(), described))?;
                }
                ReplicaStep::Rules { group } => writeln!(text, "  rules of {group}")?,
                ReplicaStep::Routes { route_table } => writeln!(text, "  routes of {route_table}")?,
            }
        }
    }
    write_all(text, "Left out", plan.left_out.iter().map(left_out))?;
    let broken = |prevents: bool| {
        let some = plan.broken.iter().filter(move |broken| broken.prevents == prevents);
        some.map(|broken| format!("{}: {}", broken.id, broken.breakage))
    };
    write_all(text, "Broken by that", broken(false))?;
    write_all(text, "Stands against it", broken(true))?;
    let pointed: Vec<&str> =
        plan.other_kinds.iter().filter(|other| other.fate == Fate::PointedTo).map(|other| other.kind.name()).collect();
    write_all(text, "Pointed to, not copied", [pointed.join(", ")].into_iter())?;
    writeln!(text, "Estimate\n  {}", estimate(&plan.estimate))
}

fn write_all(text: &mut String, title: &str, lines: impl Iterator<Item = String>) -> fmt::Result {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        writeln!(text, "{title}")?;
    }
    lines.try_for_each(|line| writeln!(text, "  {line}"))
}

pub(super) fn named(id: ObjectId, name: Option<&String>) -> String {
    name.map_or_else(|| id.to_string(), |name| format!("{id} ({name})"))
}

fn described(object: &PlannedObject) -> String {
    let mut words = vec![words_of(object.kind), named(object.id, object.name.as_ref())];
    words.extend(object.cidr.map(|cidr| cidr.to_string()));
    words.extend(object.address.map(|address| address.to_string()));
    words.extend(object.size.map(|size| size.to_string()));
    words.extend(object.copy.map(|copy| format!("{copy:?}").to_lowercase()));
    words.extend(object.memory.map(|memory| format!("{memory:?}").to_lowercase()));
    words.extend(object.reached.map(|reached| format!("fidelity {reached}")));
    words.join(" ")
}

pub(super) fn words_of(kind: ResourceKind) -> String {
    kind.name().replace('-', " ")
}

fn left_out(left: &LeftOut) -> String {
    let why = match &left.cause {
        LeftOutCause::OtherSubnet => "another subnet".to_owned(),
        LeftOutCause::OtherAddress => "another address".to_owned(),
        LeftOutCause::NotIncluded => "none of the tags".to_owned(),
        LeftOutCause::Excluded { tag } => format!("tagged {}={}", tag.key, tag.value),
        LeftOutCause::With { object } => format!("with {object}"),
        LeftOutCause::InPassing => "neither running nor stopped".to_owned(),
        LeftOutCause::OtherPlace => "delivers to a place of the source's".to_owned(),
    };
    format!("{}: {why}", named(left.id, left.name.as_ref()))
}

fn estimate(estimate: &ReplicaEstimate) -> String {
    format!(
        "{} written at once, {} copied behind; sources stand still for {} ms; duplicates run after {} ms, complete after {} ms",
        estimate.octets_at_once,
        estimate.octets_behind,
        estimate.pause_micros / 1000,
        estimate.millis_until_running,
        estimate.millis_until_complete
    )
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        Cidr, RouteTableId, VpcId,
        replication::{Breakage, Broken, TagMatch},
    };

    use super::*;

    #[test]
    fn a_plan_tells_order_omissions_and_what_stands_against_it() {
        let vpc = VpcId::from_bits(1);
        let object = PlannedObject {
            id: vpc.into(),
            kind: ResourceKind::Vpc,
            name: Some("shop".into()),
            cidr: "10.0.0.0/16".parse::<Cidr>().ok(),
            address: None,
            copy: None,
            memory: None,
            fidelity: None,
            reached: None,
            size: None,
        };
        let table = RouteTableId::from_bits(2);
        let tag = TagMatch { key: "tier".into(), value: "web".into() };
        let plan = ReplicaPlan {
            vpc,
            objects: vec![object],
            stages: vec![
                vec![ReplicaStep::Object { object: vpc.into() }],
                vec![ReplicaStep::Routes { route_table: table }],
            ],
            needs: Vec::new(),
            left_out: vec![LeftOut { id: table.into(), name: None, cause: LeftOutCause::Excluded { tag } }],
            broken: vec![Broken { id: vpc.into(), prevents: true, breakage: Breakage::OwnTpm }],
            other_kinds: Vec::new(),
            estimate: ReplicaEstimate::default(),
        };
        let text = text(&plan);
        assert!(
            text.contains("Stage 1\n  vpc vpc-00000000000000001 (shop) 10.0.0.0/16\nStage 2\n  routes of rtb-"),
            "{text}"
        );
        assert!(text.contains("Left out\n  rtb-00000000000000002: tagged tier=web\n"), "{text}");
        assert!(text.contains("Stands against it\n  vpc-00000000000000001: it has a TPM"), "{text}");
        assert!(!text.contains("Broken by that"), "{text}");
    }
}
