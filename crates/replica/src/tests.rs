//! The room's laws, over any network and any filters; and a network of three tiers, told through.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{
    Bytes, InstanceId, InterfaceId, ResourceKind, SecurityGroupId, SubnetId, Vcpus, VolumeId,
    instance::InstanceState,
    replica::{CopyType, Fidelity, MemoryCopy},
    replication::{
        AddressMapping, Breakage, LeftOutCause, ObjectId, ReplicaOverride, ReplicaPlan, ReplicaStep, ReplicaTerms,
    },
    security_group::Peer,
};
use proptest::prelude::*;

use crate::{
    AddressMap, HostTold, MapError, Network, Surroundings,
    difference::{Correspondence, differences},
    kinds::{Treatment, treatment},
    order::{dependencies, stages},
    plan,
    selection::{Selection, select},
    test_networks::{HOST, cidr, networks, tag, terms, three_tiers},
    wishes,
};

fn around() -> Surroundings {
    Surroundings { hosts: [(HOST, HostTold { hypervisor: "QEMU 7.2".into() })].into(), least_memory: BTreeMap::new() }
}

fn planned(network: &Network, terms: &ReplicaTerms) -> ReplicaPlan {
    plan(network, terms, &around()).unwrap()
}

fn mapping(from: &str, to: &str) -> AddressMapping {
    AddressMapping { from: cidr(from), to: cidr(to) }
}

/// An id of another object of the same kind, for each.
fn others(network: &Network, selection: &Selection) -> BTreeMap<ObjectId, ObjectId> {
    let other = |id: ObjectId| {
        let text = id.to_string();
        let (prefix, digits) = text.rsplit_once('-').unwrap();
        format!("{prefix}-f{}", &digits[1..]).parse().unwrap()
    };
    network.objects().filter(|object| selection.keeps(object.id)).map(|object| (object.id, other(object.id))).collect()
}

proptest! {
    #[test]
    fn every_object_is_kept_or_left_out_and_none_both(network in networks(), terms in terms()) {
        let selection = select(&network, &terms);
        let all: BTreeSet<ObjectId> = network.objects().map(|object| object.id).collect();
        let left: BTreeSet<ObjectId> = selection.left_out.iter().map(|left| left.id).collect();
        prop_assert_eq!(left.len(), selection.left_out.len());
        prop_assert!(left.is_disjoint(&selection.kept));
        prop_assert_eq!(left.union(&selection.kept).copied().collect::<BTreeSet<_>>(), all);
    }

    #[test]
    fn whatever_is_kept_stands_on_what_is_kept(network in networks(), terms in terms()) {
        let selection = select(&network, &terms);
        for instance in network.instances.iter().filter(|instance| selection.keeps(instance.id)) {
            prop_assert!(selection.keeps(instance.subnet) && selection.keeps(instance.interface));
        }
        for interface in network.interfaces.iter().filter(|interface| selection.keeps(interface.id)) {
            prop_assert!(selection.keeps(interface.instance));
        }
        for volume in network.volumes.iter().filter(|volume| selection.keeps(volume.id)) {
            prop_assert!(volume.instance.is_some_and(|instance| selection.keeps(instance)));
        }
        prop_assert!(network.objects().filter(|one| network.is_born_with(one.id)).all(|one| selection.keeps(one.id)));
    }

    #[test]
    fn every_step_comes_after_what_it_needs_and_none_is_forgotten(network in networks(), terms in terms()) {
        let selection = select(&network, &terms);
        let needs = dependencies(&network, &selection);
        let stages = stages(&needs);
        let at: BTreeMap<ReplicaStep, usize> =
            stages.iter().enumerate().flat_map(|(at, steps)| steps.iter().map(move |step| (*step, at))).collect();
        prop_assert_eq!(at.keys().collect::<BTreeSet<_>>(), needs.keys().collect::<BTreeSet<_>>());
        prop_assert_eq!(stages.iter().map(Vec::len).sum::<usize>(), at.len(), "none is made twice");
        for (step, needed) in &needs {
            prop_assert!(needed.iter().all(|need| at[need] < at[step]), "{:?}", step);
        }
        let objects = selection.kept.iter().map(|id| ReplicaStep::Object { object: *id });
        prop_assert!(objects.into_iter().all(|step| at.contains_key(&step)));
    }

    #[test]
    fn what_is_broken_is_said_of_what_is_kept_and_names_what_is_not(network in networks(), terms in terms()) {
        let plan = planned(&network, &terms);
        let left: BTreeSet<ObjectId> = plan.left_out.iter().map(|left| left.id).collect();
        for broken in &plan.broken {
            prop_assert!(!left.contains(&broken.id));
            let missing: Option<ObjectId> = match broken.breakage {
                Breakage::DanglingRoute { interface, .. } => Some(interface.into()),
                Breakage::RuleWithoutGroup { group, .. } | Breakage::WithoutGroup { group } => Some(group.into()),
                Breakage::WithoutVolume { volume, .. } => Some(volume.into()),
                _ => None,
            };
            prop_assert!(missing.is_none_or(|missing| left.contains(&missing)));
        }
        let whole = plan.left_out.iter().all(|left| left.cause == LeftOutCause::OtherPlace);
        prop_assert!(!whole || plan.broken.is_empty(), "nothing breaks where nothing is left out: {:?}", plan.broken);
    }

    #[test]
    fn no_two_addresses_become_one(n in 0..200u8, addresses in proptest::collection::btree_set(any::<u32>(), 2..50)) {
        let map = [mapping("10.0.0.0/8", "11.0.0.0/8"), mapping("11.0.0.0/8", "10.0.0.0/8"),
            mapping(&format!("192.168.{n}.0/24"), &format!("192.168.{n}.0/24"))];
        let map = AddressMap::new(&map).unwrap();
        let mapped: BTreeSet<_> = addresses.iter().map(|address| map.address((*address).into())).collect();
        prop_assert_eq!(mapped.len(), addresses.len());
    }

    #[test]
    fn a_network_that_passes_has_addresses_of_its_own_that_its_subnets_give_out(
        network in networks(), terms in terms(), last in 0..=255u8, whole: bool,
    ) {
        let mappings = match whole {
            true => vec![mapping("10.0.0.0/16", &format!("10.{last}.0.0/16"))],
            false => vec![mapping("10.0.0.10/32", &format!("10.0.0.{last}/32"))],
        };
        let map = AddressMap::new(&mappings).unwrap();
        let selection = select(&network, &terms);
        if map.check(&network, &selection).is_ok() {
            let kept: Vec<_> = network.interfaces.iter().filter(|one| selection.keeps(one.id)).collect();
            let mapped: BTreeSet<_> = kept.iter().map(|interface| map.address(interface.address)).collect();
            prop_assert_eq!(mapped.len(), kept.len());
            for interface in kept {
                let subnet = network.subnets.iter().find(|subnet| subnet.id == interface.subnet).unwrap();
                let address = map.address(interface.address);
                prop_assert!(map.network(subnet.cidr).assignable().any(|given| given == address));
            }
        }
    }

    #[test]
    fn a_duplicate_that_nobody_touched_differs_in_nothing(network in networks(), terms in terms()) {
        let selection = select(&network, &terms);
        let objects = others(&network, &selection);
        let left_out: Vec<ObjectId> = selection.left_out.iter().map(|left| left.id).collect();
        let map = AddressMap::default();
        let by = Correspondence { objects: &objects, map: &map, left_out: &left_out };
        // Seen from the source, all that is kept has a counterpart that is not there.
        let empty = Network { vpc: network.vpc.clone(), route_tables: vec![], network_acls: vec![], subnets: vec![],
            security_groups: vec![], interfaces: vec![], volumes: vec![], flow_logs: vec![], instances: vec![],
            scaling_groups: vec![] };
        let missing = differences(&network, &empty, by).iter().filter(|one| one.duplicate.is_none()).count();
        prop_assert_eq!(missing, selection.kept.len());
        let same: BTreeMap<ObjectId, ObjectId> = selection.kept.iter().map(|id| (*id, *id)).collect();
        let by = Correspondence { objects: &same, ..by };
        let left: BTreeSet<ObjectId> = left_out.iter().copied().collect();
        let apart = differences(&network, &network, by);
        prop_assert!(apart.iter().all(|one| one.duplicate.is_some_and(|id| left.contains(&id))), "{:?}", apart);
    }
}

#[test]
fn every_kind_that_a_network_has_is_copied_and_no_other() {
    let network = three_tiers();
    let has: BTreeSet<ResourceKind> = network.objects().map(|object| object.id.kind()).collect();
    let copied = ResourceKind::ALL.iter().filter(|kind| treatment(**kind) == Treatment::Copied);
    assert_eq!(copied.copied().collect::<BTreeSet<_>>(), has);
    let others = planned(&network, &ReplicaTerms::default()).other_kinds.len();
    assert_eq!(others + has.len(), ResourceKind::ALL.len());
}

#[test]
fn each_filter_leaves_what_it_says_and_tells_why_the_rest_is_gone() {
    let network = three_tiers();
    let left = |terms: ReplicaTerms| -> BTreeMap<ObjectId, LeftOutCause> {
        select(&network, &terms).left_out.into_iter().map(|left| (left.id, left.cause)).collect()
    };
    let (first, second) = (InstanceId::from_bits(0), InstanceId::from_bits(1));
    let only = left(ReplicaTerms { subnets: vec![SubnetId::from_bits(0)], ..ReplicaTerms::default() });
    assert_eq!(only[&SubnetId::from_bits(1).into()], LeftOutCause::OtherSubnet);
    assert_eq!(only[&second.into()], LeftOutCause::With { object: SubnetId::from_bits(1).into() });
    assert_eq!(only[&VolumeId::from_bits(8).into()], LeftOutCause::With { object: second.into() });
    assert!(!only.contains_key(&first.into()));
    let near = left(ReplicaTerms { addresses: vec![cidr("10.0.1.10/32")], ..ReplicaTerms::default() });
    assert_eq!(near[&SubnetId::from_bits(0).into()], LeftOutCause::OtherAddress);
    assert_eq!(near[&InstanceId::from_bits(3).into()], LeftOutCause::OtherAddress);
    assert!(!near.contains_key(&second.into()));
    let web = left(ReplicaTerms { include_tags: vec![tag("web")], ..ReplicaTerms::default() });
    assert_eq!(web[&second.into()], LeftOutCause::NotIncluded);
    assert!(!web.contains_key(&SubnetId::from_bits(1).into()), "subnets stay, if only with others in them");
    let not_web = left(ReplicaTerms { exclude_tags: vec![tag("web")], ..ReplicaTerms::default() });
    assert_eq!(not_web[&SubnetId::from_bits(0).into()], LeftOutCause::Excluded { tag: tag("web") });
}

#[test]
fn instances_that_are_on_their_way_are_left_out() {
    let mut network = three_tiers();
    network.instances[0].state = InstanceState::ShuttingDown;
    let left = select(&network, &ReplicaTerms::default()).left_out;
    assert!(left.iter().any(|one| one.id == InstanceId::from_bits(0).into() && one.cause == LeftOutCause::InPassing));
}

#[test]
fn a_plan_tells_what_its_filters_break() {
    let mut network = three_tiers();
    // Only what is tagged so goes.
    network.security_groups[1].tags.0.insert("go".into(), "yes".into());
    network.instances[3].tags.0.insert("go".into(), "yes".into());
    network.volumes[1].tags.0.insert("go".into(), "yes".into());
    let gone = lucarne_model::replication::TagMatch { key: "go".into(), value: "yes".into() };
    let terms = ReplicaTerms { exclude_tags: vec![gone], ..ReplicaTerms::default() };
    let plan = planned(&network, &terms);
    let has = |id: ObjectId, breakage: Breakage, prevents: bool| {
        plan.broken.iter().any(|one| one.id == id && one.breakage == breakage && one.prevents == prevents)
    };
    let (table, group) = (network.route_tables[1].id, SecurityGroupId::from_bits(1));
    let dangling =
        Breakage::DanglingRoute { destination: cidr("192.168.0.0/16"), interface: InterfaceId::from_bits(3) };
    assert!(has(table.into(), dangling, false));
    let rule = network.security_groups[0].rules[0].id;
    assert!(has(SecurityGroupId::from_bits(0).into(), Breakage::RuleWithoutGroup { rule, group }, false));
    let second: ObjectId = InstanceId::from_bits(1).into();
    assert!(has(second, Breakage::WithoutGroup { group }, false));
    assert!(has(second, Breakage::WithoutVolume { volume: VolumeId::from_bits(8), slot: 1 }, true));
    let cold = planned(&network, &ReplicaTerms { memory: MemoryCopy::Cold, ..terms });
    assert_eq!(cold.obstacles().count(), 0, "a guest that boots can do without a data volume");
    let alone = ReplicaTerms { addresses: vec![cidr("10.0.0.10/32")], ..ReplicaTerms::default() };
    let plan = planned(&three_tiers(), &alone);
    assert!(plan.broken.iter().any(|one| one.breakage == Breakage::GroupWithoutMembers));
}

#[test]
fn what_cannot_be_duplicated_stands_against_it() {
    let mut network = three_tiers();
    network.instances[0].virtual_tpm = true;
    network.instances[1].host = None;
    let plan = planned(&network, &ReplicaTerms::default());
    let obstacles: Vec<_> = plan.obstacles().map(|one| (one.id, one.breakage.clone())).collect();
    let (first, second) = (InstanceId::from_bits(0), InstanceId::from_bits(1));
    assert!(obstacles.contains(&(first.into(), Breakage::OwnTpm)));
    assert!(obstacles.contains(&(second.into(), Breakage::Unplaced)));
}

#[test]
fn a_running_guest_keeps_its_address_and_one_that_boots_takes_the_new_one() {
    let network = three_tiers();
    let map = vec![mapping("10.0.0.0/16", "10.9.0.0/16")];
    let terms = ReplicaTerms { map, ..ReplicaTerms::default() };
    let live = planned(&network, &terms);
    assert_eq!(live.obstacles().count(), 4);
    assert!(live.obstacles().all(|one| one.breakage.to_string().contains("--memory cold")));
    let cold = planned(&network, &ReplicaTerms { memory: MemoryCopy::Cold, ..terms });
    assert_eq!(cold.obstacles().count(), 0);
    assert_eq!(cold.objects[0].cidr, Some(cidr("10.9.0.0/16")));
    assert!(cold.objects.iter().filter_map(|one| one.address).all(|address| address.octets()[1] == 9));
}

#[test]
fn maps_that_lose_an_address_are_refused_with_the_cause() {
    use MapError as Is;
    let new = |mappings: &[AddressMapping]| AddressMap::new(mappings).unwrap_err();
    let sizes = new(&[mapping("10.0.0.0/16", "10.9.0.0/24")]);
    assert_eq!(sizes, Is::Sizes { from: cidr("10.0.0.0/16"), to: cidr("10.9.0.0/24") });
    let twice = [mapping("10.0.0.0/16", "10.9.0.0/16"), mapping("10.0.1.0/24", "10.8.0.0/24")];
    assert!(matches!(new(&twice), Is::Sources(..)));
    let onto_one = [mapping("10.0.0.0/24", "10.9.0.0/24"), mapping("10.0.1.0/24", "10.9.0.0/24")];
    assert!(matches!(new(&onto_one), Is::Targets(..)));

    let network = three_tiers();
    let check = |mappings: &[AddressMapping]| {
        let terms = ReplicaTerms { map: mappings.to_vec(), memory: MemoryCopy::Cold, ..ReplicaTerms::default() };
        plan(&network, &terms, &around()).unwrap_err()
    };
    assert!(matches!(check(&[mapping("10.0.0.0/24", "10.9.0.0/24")]), Is::OutsideVpc { .. }));
    assert!(matches!(check(&[mapping("10.0.0.0/24", "10.0.1.0/24")]), Is::Subnets(..)));
    assert!(matches!(check(&[mapping("10.0.0.10/32", "10.0.1.77/32")]), Is::OutsideSubnet { .. }));
    assert!(matches!(check(&[mapping("10.0.0.10/32", "10.0.0.3/32")]), Is::Reserved { .. }));
    assert!(matches!(check(&[mapping("10.0.0.10/32", "10.0.0.255/32")]), Is::Reserved { .. }));
    assert!(matches!(check(&[mapping("10.0.0.10/32", "10.0.0.11/32")]), Is::Taken(_)));
}

#[test]
fn a_rule_over_half_mapped_addresses_is_told() {
    let network = three_tiers();
    let terms = ReplicaTerms {
        map: vec![mapping("10.0.0.10/32", "10.0.0.77/32"), mapping("192.168.1.0/24", "192.169.1.0/24")],
        memory: MemoryCopy::Cold,
        ..ReplicaTerms::default()
    };
    let divided: Vec<_> = planned(&network, &terms).broken;
    let told = Breakage::PartlyMapped { cidr: cidr("192.168.0.0/16") };
    assert!(divided.iter().any(|one| one.breakage == told));
    let group = |one: &&lucarne_model::replication::Broken| one.id.kind() == ResourceKind::SecurityGroup;
    assert_eq!(divided.iter().filter(group).count(), 0, "what stays within the network is the network's still");
}

#[test]
fn a_word_for_one_object_counts_more_than_one_by_tag_and_that_more_than_the_word_for_all() {
    let network = three_tiers();
    let about = |object: Option<ObjectId>, tag, copy| ReplicaOverride { object, tag, copy: Some(copy), fidelity: None };
    let first = InstanceId::from_bits(0);
    let terms = ReplicaTerms {
        overrides: vec![
            about(None, Some(tag("web")), CopyType::Shallow),
            about(Some(first.into()), None, CopyType::Deep),
            about(Some(VolumeId::from_bits(8).into()), None, CopyType::Shallow),
        ],
        copy: CopyType::Deep,
        ..ReplicaTerms::default()
    };
    assert_eq!(wishes::copy_of_instance(&terms, &network.instances[0]), CopyType::Deep);
    assert_eq!(wishes::copy_of_instance(&terms, &network.instances[2]), CopyType::Shallow);
    assert_eq!(wishes::copy_of_instance(&terms, &network.instances[1]), CopyType::Deep);
    assert_eq!(wishes::copy_of_volume(&terms, &network, &network.volumes[1]), CopyType::Shallow);
}

#[test]
fn low_fidelity_boots_a_smaller_machine_and_a_guest_that_goes_on_keeps_its_own() {
    let network = three_tiers();
    let instance = &network.instances[0];
    let mut around = around();
    around.least_memory.insert(instance.image, Bytes::mib(96));
    let low = ReplicaTerms { fidelity: Fidelity::Low, ..ReplicaTerms::default() };
    assert_eq!(around.machine(instance, &low).memory, instance.memory);
    let cold = ReplicaTerms { memory: MemoryCopy::Cold, ..low };
    let machine = around.machine(instance, &cold);
    assert_eq!((machine.vcpus, machine.memory), (Vcpus(1), Bytes::mib(96)));
    let reached = plan(&network, &cold, &around).unwrap().objects.into_iter().find_map(|one| one.reached);
    assert_eq!(reached, Some(Fidelity::Low));
}

#[test]
fn exact_needs_a_host_that_tells_its_hypervisor() {
    let network = three_tiers();
    let exact = ReplicaTerms { fidelity: Fidelity::Exact, ..ReplicaTerms::default() };
    assert_eq!(planned(&network, &exact).obstacles().count(), 0);
    let silent = plan(&network, &exact, &Surroundings::default()).unwrap();
    let told = Breakage::Fidelity { wanted: Fidelity::Exact, reached: Fidelity::High };
    assert_eq!(silent.obstacles().filter(|one| one.breakage == told).count(), 4);
}

#[test]
fn a_shallow_copy_writes_little_and_a_deep_one_all_of_it_behind() {
    let network = three_tiers();
    let size = 4 * (Bytes::mib(256).0 + Bytes::mib(64).0);
    let shallow = planned(&network, &ReplicaTerms::default()).estimate;
    assert!(shallow.octets_at_once.0 * 50 < size && shallow.octets_behind == Bytes::ZERO);
    let deep = planned(&network, &ReplicaTerms { copy: CopyType::Deep, ..ReplicaTerms::default() }).estimate;
    assert_eq!(deep.octets_behind, Bytes(size));
    assert!(deep.millis_until_complete > shallow.millis_until_complete);
}

#[test]
fn differences_are_told_field_by_field_in_the_duplicates_words() {
    let source = three_tiers();
    let same: BTreeMap<ObjectId, ObjectId> = source.objects().map(|one| (one.id, one.id)).collect();
    let map = AddressMap::default();
    let by = Correspondence { objects: &same, map: &map, left_out: &[] };
    let mut duplicate = source.clone();
    duplicate.security_groups[0].rules.retain(|rule| matches!(rule.spec.peer, Peer::Group { .. }));
    duplicate.instances[0].state = InstanceState::Stopped;
    let gone = duplicate.interfaces.pop().unwrap();
    let apart = differences(&source, &duplicate, by);
    let of = |id: ObjectId| apart.iter().find(|one| one.source == Some(id)).unwrap();
    assert_eq!(of(SecurityGroupId::from_bits(0).into()).fields[0].field, "rules");
    let state = &of(InstanceId::from_bits(0).into()).fields[0];
    assert_eq!(
        (state.field.as_str(), state.source.as_str(), state.duplicate.as_str()),
        ("state", "running", "stopped")
    );
    assert_eq!(of(gone.id.into()).duplicate, None);
    assert_eq!(apart.len(), 3);
}
