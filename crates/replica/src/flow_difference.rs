//! What a duplicate's instances do on the network that their sources do not, and the other way round.
//!
//! Owns when two conversations are the same and when they are judged alike. How much was said is no difference: both sides run on by
//! themselves, and one has the clients of a replay or the outside that the other has not.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use lucarne_model::{
    replica_flows::{Conversation, ConversationTally, FlowDifference},
    replication::ObjectId,
};

use crate::{address_map::AddressMap, difference::Correspondence};

/// What one side had.
pub type Conversations = BTreeMap<Conversation, ConversationTally>;

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Those with the most packets first.
    pub differences: Vec<FlowDifference>,
    /// Conversations that both had and that were judged alike.
    pub alike: u64,
}

/// Compares the conversations of a source with those of its duplicate, in the time of both.
pub fn flow_differences(source: &Conversations, duplicate: &Conversations, by: Correspondence<'_>) -> Compared {
    let mut sides: BTreeMap<Conversation, (Option<ConversationTally>, Option<ConversationTally>)> = BTreeMap::new();
    // A flow that was open at the cut and then only ran out has a record without packets.
    let spoke = |(_, tally): &(&Conversation, &ConversationTally)| tally.packets > 0;
    for (conversation, tally) in source.iter().filter(spoke) {
        sides.entry(seen_from_duplicate(*conversation, by)).or_default().0 = Some(*tally);
    }
    for (conversation, tally) in duplicate.iter().filter(spoke) {
        sides.entry(*conversation).or_default().1 = Some(*tally);
    }
    let mut compared = Compared::default();
    for (conversation, (source, duplicate)) in sides {
        match (source, duplicate) {
            (Some(source), Some(duplicate)) if judged(source) == judged(duplicate) => compared.alike += 1,
            (source, duplicate) => compared.differences.push(FlowDifference { conversation, source, duplicate }),
        }
    }
    let packets = |side: Option<ConversationTally>| side.map_or(0, |tally| tally.packets);
    // Those of as many packets stay in the order of the conversations.
    compared.differences.sort_by_key(|one| Reverse(packets(one.source).saturating_add(packets(one.duplicate))));
    compared
}

/// Whether anything was let through, and whether anything was refused.
fn judged(tally: ConversationTally) -> (bool, bool) {
    (tally.accepted > 0, tally.rejected > 0)
}

fn seen_from_duplicate(of_source: Conversation, by: Correspondence<'_>) -> Conversation {
    let instance = match by.objects.get(&of_source.instance.into()) {
        Some(ObjectId::Instance(duplicate)) => *duplicate,
        _ => of_source.instance,
    };
    Conversation { instance, peer: mapped(of_source.peer, by.map), ..of_source }
}

fn mapped(peer: IpAddr, map: &AddressMap) -> IpAddr {
    match peer {
        IpAddr::V4(peer) => map.address(peer).into(),
        IpAddr::V6(_) => peer,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lucarne_model::{InstanceId, flow::Side};
    use proptest::prelude::*;

    use super::*;

    fn conversation(instance: u128, peer: [u8; 4], port: u16) -> Conversation {
        let peer = Ipv4Addr::from(peer).into();
        Conversation { instance: InstanceId::from_bits(instance), peer, side: Side::Initiator, protocol: 6, port }
    }

    fn accepted(packets: u64) -> ConversationTally {
        ConversationTally { accepted: 1, packets, ..ConversationTally::default() }
    }

    fn rejected(packets: u64) -> ConversationTally {
        ConversationTally { rejected: 1, packets, ..ConversationTally::default() }
    }

    /// Instance 1 became 101, and so on.
    fn objects() -> BTreeMap<ObjectId, ObjectId> {
        let id = |bits| ObjectId::from(InstanceId::from_bits(bits));
        (1..10).map(|bits| (id(bits), id(bits + 100))).collect()
    }

    fn compare(source: &Conversations, duplicate: &Conversations, map: &AddressMap) -> Compared {
        let objects = objects();
        flow_differences(source, duplicate, Correspondence { objects: &objects, map, left_out: &[] })
    }

    #[test]
    fn what_one_side_has_alone_and_what_is_judged_otherwise_is_told() {
        let source = Conversations::from([
            (conversation(1, [10, 0, 1, 5], 80), accepted(9)),
            (conversation(1, [10, 0, 1, 5], 443), accepted(2)),
            (conversation(2, [10, 0, 1, 4], 22), accepted(1)),
        ]);
        let duplicate = Conversations::from([
            (conversation(101, [10, 0, 1, 5], 80), accepted(700)),
            (conversation(101, [10, 0, 1, 5], 443), rejected(3)),
            (conversation(103, [198, 51, 100, 7], 53), accepted(40)),
            (conversation(103, [10, 0, 0, 1], 67), accepted(0)),
        ]);
        let Compared { differences, alike } = compare(&source, &duplicate, &AddressMap::default());
        assert_eq!(alike, 1);
        let told: Vec<_> = differences.iter().map(|one| (one.conversation, one.source, one.duplicate)).collect();
        let expected = [
            (conversation(103, [198, 51, 100, 7], 53), None, Some(accepted(40))),
            (conversation(101, [10, 0, 1, 5], 443), Some(accepted(2)), Some(rejected(3))),
            (conversation(102, [10, 0, 1, 4], 22), Some(accepted(1)), None),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_mapped_address_is_the_same_one() {
        let mapping = lucarne_model::replication::AddressMapping {
            from: "10.0.0.0/16".parse().unwrap(),
            to: "10.9.0.0/16".parse().unwrap(),
        };
        let map = AddressMap::new(&[mapping]).unwrap();
        let source = Conversations::from([(conversation(1, [10, 0, 1, 5], 80), accepted(9))]);
        let duplicate = Conversations::from([(conversation(101, [10, 9, 1, 5], 80), accepted(1))]);
        assert_eq!(compare(&source, &duplicate, &map), Compared { differences: Vec::new(), alike: 1 });
    }

    prop_compose! {
        fn conversations(instances: std::ops::Range<u128>)(
            all in prop::collection::btree_map(
                (instances, 0u8..4, 0u16..3).prop_map(|(bits, peer, port)| conversation(bits, [10, 0, 0, peer], port)),
                (0u64..2, 0u64..2, 1u64..50),
                0..12,
            )
        ) -> Conversations {
            let tally = |(accepted, rejected, packets)| ConversationTally { accepted, rejected, packets, bytes: 0 };
            all.into_iter().map(|(conversation, counts)| (conversation, tally(counts))).collect()
        }
    }

    proptest! {
        /// Each conversation is told or alike, once; and who changes sides sees the same.
        #[test]
        fn nothing_is_lost(source in conversations(1..5), duplicate in conversations(101..105)) {
            let compared = compare(&source, &duplicate, &AddressMap::default());
            let count = |side: fn(&FlowDifference) -> Option<ConversationTally>| {
                compared.differences.iter().filter_map(side).count() as u64
            };
            prop_assert_eq!(count(|one| one.source) + compared.alike, source.len() as u64);
            prop_assert_eq!(count(|one| one.duplicate) + compared.alike, duplicate.len() as u64);
            prop_assert!(compared.differences.iter().all(|one| one.source.is_some() || one.duplicate.is_some()));
        }

        #[test]
        fn a_side_compared_with_itself_is_alike(source in conversations(1..5)) {
            let duplicate = source.iter().map(|(conversation, tally)| {
                let instance = InstanceId::from_bits(conversation.instance.bits() + 100);
                (Conversation { instance, ..*conversation }, *tally)
            });
            let compared = compare(&source, &duplicate.collect(), &AddressMap::default());
            prop_assert_eq!(compared, Compared { differences: Vec::new(), alike: source.len() as u64 });
        }
    }
}
