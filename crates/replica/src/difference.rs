//! What has come apart between a source and its duplicate since: objects that only one has, and fields that differ.
//!
//! Owns which fields are configuration. Ids and addresses of the source are seen as those that the duplicate got for them, so that
//! what is the same in both is no difference.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{
    Cidr, Tags,
    instance::Instance,
    network::{NetworkInterface, RouteTable, RouteTarget, Subnet},
    network_acl::NetworkAcl,
    replication::{Difference, FieldDifference, ObjectId, Replica},
    scaling::ScalingGroup,
    security_group::{Peer, SecurityGroup},
};
use serde_json::{Value, json};

use crate::{address_map::AddressMap, network::Network};

/// What became of what, when the duplicate was made.
#[derive(Clone, Copy, Debug)]
pub struct Correspondence<'a> {
    /// Each object of the source, and its duplicate.
    pub objects: &'a BTreeMap<ObjectId, ObjectId>,
    pub map: &'a AddressMap,
    /// What of the source was not wanted: that it is not in the duplicate is no difference.
    pub left_out: &'a [ObjectId],
}

pub fn differences(source: &Network, duplicate: &Network, by: Correspondence<'_>) -> Vec<Difference> {
    let seen = Lens { by: Some(by) };
    let (theirs, own) = (Fields::of(source, &seen), Fields::of(duplicate, &Lens { by: None }));
    let mut differences = Vec::new();
    let mut met: BTreeSet<ObjectId> = BTreeSet::new();
    for (id, fields) in &theirs.0 {
        let counterpart = by.objects.get(id).filter(|duplicate| own.0.contains_key(duplicate));
        met.extend(counterpart.copied());
        match counterpart.and_then(|duplicate| Some((duplicate, own.0.get(duplicate)?))) {
            Some((duplicate, other)) => {
                let fields = apart(&fields.0, &other.0);
                if !fields.is_empty() {
                    differences.push(difference(Some(*id), Some(*duplicate), other.1.clone(), fields));
                }
            }
            None if by.left_out.contains(id) => {}
            None => differences.push(difference(Some(*id), None, fields.1.clone(), Vec::new())),
        }
    }
    let added = own.0.iter().filter(|(id, _)| !met.contains(id));
    differences.extend(added.map(|(id, fields)| difference(None, Some(*id), fields.1.clone(), Vec::new())));
    differences
}

fn difference(
    source: Option<ObjectId>,
    duplicate: Option<ObjectId>,
    name: Option<String>,
    fields: Vec<FieldDifference>,
) -> Difference {
    // One of them is there.
    let kind = source.or(duplicate).map_or(lucarne_model::ResourceKind::Vpc, ObjectId::kind);
    Difference { source, duplicate, kind, name, fields }
}

fn apart(source: &Configuration, duplicate: &Configuration) -> Vec<FieldDifference> {
    let differ = |(field, value): (&&'static str, &Value)| {
        let other = duplicate.get(field).unwrap_or(&Value::Null);
        (other != value).then(|| FieldDifference {
            field: (*field).to_owned(),
            source: shown(value),
            duplicate: shown(other),
        })
    };
    source.iter().filter_map(differ).collect()
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

type Configuration = BTreeMap<&'static str, Value>;

/// The configuration of each object, and its name.
struct Fields(BTreeMap<ObjectId, (Configuration, Option<String>)>);

impl Fields {
    fn of(network: &Network, lens: &Lens<'_>) -> Self {
        let mut all: BTreeMap<ObjectId, Configuration> = BTreeMap::new();
        all.insert(network.vpc.id.into(), Configuration::from([("cidr", lens.cidr(network.vpc.cidr))]));
        all.extend(network.route_tables.iter().map(|table| (table.id.into(), lens.route_table(table))));
        all.extend(network.network_acls.iter().map(|acl| (acl.id.into(), lens.network_acl(acl))));
        all.extend(network.subnets.iter().map(|subnet| (subnet.id.into(), lens.subnet(subnet))));
        all.extend(network.security_groups.iter().map(|group| (group.id.into(), lens.security_group(group))));
        all.extend(network.interfaces.iter().map(|interface| (interface.id.into(), lens.interface(interface))));
        all.extend(network.volumes.iter().map(|volume| {
            let holder = volume.instance.map(|instance| lens.id(instance));
            (volume.id.into(), Configuration::from([("size", json!(volume.size)), ("instance", json!(holder))]))
        }));
        all.extend(network.flow_logs.iter().map(|log| {
            let fields = [
                ("traffic", json!(log.traffic)),
                ("interval_millis", json!(log.interval_millis)),
                ("format", json!(log.format)),
                ("to", json!(log.to)),
            ];
            (log.id.into(), Configuration::from(fields))
        }));
        all.extend(network.instances.iter().map(|instance| (instance.id.into(), lens.instance(instance))));
        all.extend(network.scaling_groups.iter().map(|group| (group.id.into(), lens.scaling_group(group))));
        let named = network.objects().filter_map(|object| {
            let mut fields = all.remove(&object.id)?;
            fields.insert("tags", tags(object.tags));
            Some((object.id, (fields, object.name())))
        });
        Self(named.collect())
    }
}

/// Those that say what is a duplicate of what, and whose it is, are no difference.
fn tags(tags: &Tags) -> Value {
    let told = |key: &str| [Replica::TAG, Replica::SOURCE_TAG, ScalingGroup::TAG].contains(&key);
    json!(tags.0.iter().filter(|(key, _)| !told(key)).collect::<BTreeMap<_, _>>())
}

/// How the ids and addresses of a network are seen: as they are, or as those of the duplicate.
struct Lens<'a> {
    by: Option<Correspondence<'a>>,
}

impl Lens<'_> {
    fn id(&self, id: impl Into<ObjectId>) -> Value {
        let id = id.into();
        json!(self.by.and_then(|by| by.objects.get(&id)).unwrap_or(&id))
    }

    /// In one order, whatever order they are kept in.
    fn ids<T: Into<ObjectId> + Copy>(&self, ids: &[T]) -> Value {
        sorted(ids.iter().map(|id| self.id(*id)).collect())
    }

    fn cidr(&self, cidr: Cidr) -> Value {
        json!(self.by.map_or(cidr, |by| by.map.network(cidr)))
    }

    fn route_table(&self, table: &RouteTable) -> Configuration {
        let target = |target| match target {
            RouteTarget::Interface { interface } => self.id(interface),
            RouteTarget::Local => json!("local"),
            RouteTarget::Blackhole => json!("blackhole"),
        };
        let routes = table.routes.iter().map(|route| json!([self.cidr(route.destination), target(route.target)]));
        Configuration::from([("routes", sorted(routes.collect()))])
    }

    fn network_acl(&self, acl: &NetworkAcl) -> Configuration {
        let entry = |entry: &lucarne_model::network_acl::AclEntry| {
            json!([entry.number, entry.direction, entry.action, entry.traffic, self.cidr(entry.cidr)])
        };
        Configuration::from([("entries", sorted(acl.entries.iter().map(entry).collect()))])
    }

    fn subnet(&self, subnet: &Subnet) -> Configuration {
        Configuration::from([
            ("cidr", self.cidr(subnet.cidr)),
            ("route_table", self.id(subnet.route_table)),
            ("network_acl", self.id(subnet.network_acl)),
        ])
    }

    fn security_group(&self, group: &SecurityGroup) -> Configuration {
        let peer = |peer| match peer {
            Peer::Cidr { cidr } => self.cidr(cidr),
            Peer::Group { group } => self.id(group),
        };
        let rules =
            group.rules.iter().map(|rule| json!([rule.spec.direction, rule.spec.traffic, peer(rule.spec.peer)]));
        Configuration::from([
            ("name", json!(group.name)),
            ("description", json!(group.description)),
            ("rules", sorted(rules.collect())),
        ])
    }

    fn interface(&self, interface: &NetworkInterface) -> Configuration {
        let address = self.by.map_or(interface.address, |by| by.map.address(interface.address));
        Configuration::from([
            ("address", json!(address)),
            ("mac", json!(interface.mac)),
            ("subnet", self.id(interface.subnet)),
            ("groups", self.ids(&interface.groups)),
        ])
    }

    fn instance(&self, instance: &Instance) -> Configuration {
        let volumes = instance.volumes.iter().map(|one| json!([one.slot, self.id(one.volume)]));
        Configuration::from([
            ("image", json!(instance.image)),
            ("vcpus", json!(instance.vcpus)),
            ("memory", json!(instance.memory)),
            ("memory_settings", json!(instance.memory_settings)),
            ("state", json!(instance.state)),
            ("user_data", json!(instance.user_data)),
            ("volumes", sorted(volumes.collect())),
        ])
    }

    /// Its instances are told of as such.
    fn scaling_group(&self, group: &ScalingGroup) -> Configuration {
        let template = &group.template;
        Configuration::from([
            ("name", json!(group.name)),
            ("min", json!(group.min)),
            ("max", json!(group.max)),
            ("target", json!(group.target)),
            ("cool_down_seconds", json!(group.cool_down_seconds)),
            ("desired", json!(group.desired)),
            ("subnets", self.ids(&group.subnets)),
            ("image", json!(template.image)),
            ("vcpus", json!(template.vcpus)),
            ("memory", json!(template.memory)),
            ("memory_settings", json!(template.memory_settings)),
            ("security_groups", self.ids(&template.security_groups)),
            ("user_data", json!(template.user_data)),
            ("cold", json!(template.cold)),
            ("instance_tags", json!(template.tags)),
        ])
    }
}

fn sorted(mut values: Vec<Value>) -> Value {
    values.sort_by_cached_key(Value::to_string);
    Value::Array(values)
}
