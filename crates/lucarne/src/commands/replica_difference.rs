//! In what a replica and its source differ, as text for people: a line each, with a sign.
//!
//! Owns its form. What differs is decided in the room `replica`.

use std::fmt::{self, Write};

use lucarne_model::{
    flow::Side,
    replica_flows::{ConversationTally, FlowDifference, FlowDifferences},
    replication::Difference,
};

use super::replica_plan::{named, words_of};
use crate::output::protocol;

pub(super) fn configuration(differences: &[Difference]) -> String {
    let mut text = String::new();
    if differences.is_empty() {
        text.push_str("no differences\n");
    }
    for one in differences {
        // Writing to a text cannot fail.
        let _ = write_difference(&mut text, one);
    }
    text
}

fn write_difference(
    text: &mut String,
    Difference { source, duplicate, kind, name, fields }: &Difference,
) -> fmt::Result {
    let kind = words_of(*kind);
    match (source, duplicate) {
        (Some(source), None) => writeln!(text, "- {kind} {}", named(*source, name.as_ref())),
        (None, Some(duplicate)) => writeln!(text, "+ {kind} {}", named(*duplicate, name.as_ref())),
        (Some(source), Some(duplicate)) => {
            writeln!(text, "~ {kind} {} of {source}", named(*duplicate, name.as_ref()))?;
            fields
                .iter()
                .try_for_each(|field| writeln!(text, "    {}: {} -> {}", field.field, field.source, field.duplicate))
        }
        (None, None) => Ok(()),
    }
}

pub(super) fn flows(compared: &FlowDifferences) -> String {
    let mut text: String = compared.differences.iter().map(flow).collect();
    if compared.more > 0 {
        // Writing to a text cannot fail, here and below.
        let _ = writeln!(text, "{} more differ; see them with --limit", compared.more);
    }
    let differ = if compared.differences.is_empty() { "no flows differ; " } else { "" };
    let _ = writeln!(text, "{differ}{} alike", compared.alike);
    text
}

fn flow(FlowDifference { conversation, source, duplicate }: &FlowDifference) -> String {
    let asked = match conversation.side {
        Side::Initiator => "to",
        Side::Responder => "from",
    };
    let port = if conversation.port == 0 { String::new() } else { format!("/{}", conversation.port) };
    let protocol = protocol(conversation.protocol.into());
    let of = format!("{} {asked} {} {protocol}{port}", conversation.instance, conversation.peer);
    match (source, duplicate) {
        (Some(source), None) => format!("- {of}: {}\n", tally(source)),
        (None, Some(duplicate)) => format!("+ {of}: {}\n", tally(duplicate)),
        (Some(source), Some(duplicate)) => format!("~ {of}: {} -> {}\n", tally(source), tally(duplicate)),
        (None, None) => String::new(),
    }
}

fn tally(tally: &ConversationTally) -> String {
    let judged = match (tally.accepted > 0, tally.rejected > 0) {
        (true, true) => "accepted and rejected",
        (false, true) => "rejected",
        _ => "accepted",
    };
    format!("{judged}, {} packets, {} octets", tally.packets, tally.bytes)
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        InstanceId, Moment, ResourceKind, VpcId, replica_flows::Conversation, replication::FieldDifference,
    };

    use super::*;

    #[test]
    fn differences_are_lines_with_a_sign() {
        let (source, duplicate) = (Some(VpcId::from_bits(1).into()), Some(VpcId::from_bits(2).into()));
        let of =
            |source, duplicate, fields| Difference { source, duplicate, kind: ResourceKind::Vpc, name: None, fields };
        let field = FieldDifference { field: "cidr".into(), source: "a".into(), duplicate: "b".into() };
        let all = [of(source, None, vec![]), of(None, duplicate, vec![]), of(source, duplicate, vec![field])];
        let text = configuration(&all);
        let signs: Vec<char> = text.lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(signs, ['-', '+', '~', ' ']);
        assert!(text.ends_with("    cidr: a -> b\n"), "{text}");
        assert_eq!(configuration(&[]), "no differences\n");
    }

    #[test]
    fn a_flow_that_is_judged_otherwise_says_how() {
        let conversation = Conversation {
            instance: InstanceId::from_bits(7),
            peer: "10.0.1.5".parse().unwrap(),
            side: Side::Initiator,
            protocol: 6,
            port: 80,
        };
        let accepted = ConversationTally { accepted: 1, packets: 2, bytes: 90, ..ConversationTally::default() };
        let rejected = ConversationTally { rejected: 1, packets: 3, bytes: 120, ..ConversationTally::default() };
        let one = FlowDifference { conversation, source: Some(accepted), duplicate: Some(rejected) };
        let (since, until) = (Moment::from_secs(1), Moment::from_secs(2));
        let compared = |differences, more, alike| FlowDifferences { since, until, differences, more, alike };
        assert_eq!(
            flows(&compared(vec![one], 4, 9)),
            "~ i-00000000000000007 to 10.0.1.5 tcp/80: accepted, 2 packets, 90 octets -> rejected, 3 packets, 120 octets\n\
             4 more differ; see them with --limit\n9 alike\n"
        );
        assert_eq!(flows(&compared(Vec::new(), 0, 9)), "no flows differ; 9 alike\n");
    }
}
