//! A change that was asked of a network, as it is asked of its duplicate.
//!
//! Owns what of a request names something of the source, and so must name what the duplicate has for it: ids of objects in the network,
//! and addresses that the duplicate has others for. A change of what the duplicate does not have is none of it: above all it must
//! not meet the source.

use std::{collections::BTreeMap, net::Ipv4Addr};

use lucarne_model::{Cidr, recorded_change::RecordedChange, replication::ObjectId};
use serde_json::Value;

use crate::address_map::AddressMap;

/// What the duplicate has for an id of the source.
pub type Ids = BTreeMap<String, String>;

/// What a change concerns is not in the duplicate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not in the duplicate")]
pub struct LeftOut(pub String);

/// By what names of the source become those of the duplicate.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pub ids: &'a Ids,
    pub map: &'a AddressMap,
    /// The addresses of the source's network.
    pub network: Cidr,
}

impl Names<'_> {
    /// Path and body of the change, as the duplicate's.
    pub fn translate(&self, change: &RecordedChange) -> Result<(Vec<String>, Value), LeftOut> {
        let path = change.path.iter().map(|parameter| self.text(parameter)).collect::<Result<_, _>>()?;
        Ok((path, self.value(&change.body)?))
    }

    pub fn value(&self, value: &Value) -> Result<Value, LeftOut> {
        Ok(match value {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| Ok((name.clone(), self.value(value)?));
                Value::Object(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    fn text(&self, text: &str) -> Result<String, LeftOut> {
        if let Some(id) = self.ids.get(text) {
            return Ok(id.clone());
        }
        if text.parse::<ObjectId>().is_ok() {
            return Err(LeftOut(text.to_owned()));
        }
        if let Some(address) = text.parse::<Ipv4Addr>().ok().filter(|address| self.network.contains(*address)) {
            return Ok(self.map.address(address).to_string());
        }
        let inside = text.parse::<Cidr>().ok().filter(|cidr| self.network.encloses(cidr));
        Ok(inside.map_or_else(|| text.to_owned(), |cidr| self.map.network(cidr).to_string()))
    }
}

/// Learns what the duplicate has for what a change made: where the two answers have ids of one kind at the same place.
pub fn learn(ids: &mut Ids, of_source: &Value, of_duplicate: &Value) {
    match (of_source, of_duplicate) {
        (Value::String(source), Value::String(duplicate))
            if kind(source).is_some() && kind(source) == kind(duplicate) && source != duplicate =>
        {
            ids.entry(source.clone()).or_insert_with(|| duplicate.clone());
        }
        (Value::Array(source), Value::Array(duplicate)) => {
            source.iter().zip(duplicate).for_each(|(source, duplicate)| learn(ids, source, duplicate));
        }
        (Value::Object(source), Value::Object(duplicate)) => {
            let both = source.iter().filter_map(|(name, value)| Some((value, duplicate.get(name)?)));
            both.for_each(|(source, duplicate)| learn(ids, source, duplicate));
        }
        _ => {}
    }
}

/// What an id is of: what stands before its 17 digits.
fn kind(text: &str) -> Option<&str> {
    let (kind, digits) = text.rsplit_once('-')?;
    let is_digit = |octet: u8| octet.is_ascii_digit() || (b'a'..=b'f').contains(&octet);
    (digits.len() == 17 && digits.bytes().all(is_digit)).then_some(kind)
}

#[cfg(test)]
mod tests {
    use lucarne_model::{Moment, replication::AddressMapping};
    use serde_json::json;

    use super::*;

    const GROUP: &str = "sg-00000000000000001";
    const TWIN: &str = "sg-00000000000000002";
    const OTHER: &str = "sg-00000000000000003";

    fn change(path: &[&str], body: Value) -> RecordedChange {
        let path = path.iter().map(ToString::to_string).collect();
        let operation = "authorize_rule".into();
        RecordedChange { at: Moment::from_secs(1), operation, path, body, taken: Value::Null, answer: Value::Null }
    }

    fn translated(change: &RecordedChange, map: &AddressMap) -> Result<(Vec<String>, Value), LeftOut> {
        let ids = Ids::from([(GROUP.into(), TWIN.into())]);
        Names { ids: &ids, map, network: "10.0.0.0/16".parse().unwrap() }.translate(change)
    }

    #[test]
    fn a_change_of_the_source_is_asked_of_what_the_duplicate_has_for_it() {
        let body = json!({"spec": {"peer": {"group": GROUP}, "port": 80, "cidr": "10.0.1.0/24", "to": "10.0.1.4",
            "outside": "10.1.0.0/16", "image": "img-00000000000000009"}, "note": "of 10.0.1.4"});
        let mapping = AddressMapping { from: "10.0.0.0/16".parse().unwrap(), to: "10.9.0.0/16".parse().unwrap() };
        let (path, body) = translated(&change(&[GROUP, "7"], body), &AddressMap::new(&[mapping]).unwrap()).unwrap();
        assert_eq!(path, [TWIN, "7"]);
        assert_eq!(
            body,
            json!({"spec": {"peer": {"group": TWIN}, "port": 80, "cidr": "10.9.1.0/24", "to": "10.9.1.4",
                "outside": "10.1.0.0/16", "image": "img-00000000000000009"}, "note": "of 10.0.1.4"})
        );
    }

    #[test]
    fn what_the_duplicate_does_not_have_is_not_changed_in_the_source() {
        let none = AddressMap::default();
        assert_eq!(translated(&change(&[OTHER], Value::Null), &none), Err(LeftOut(OTHER.into())));
        let inside = change(&[GROUP], json!({"groups": [GROUP, OTHER]}));
        assert_eq!(translated(&inside, &none), Err(LeftOut(OTHER.into())));
    }

    #[test]
    fn what_a_change_made_is_known_to_those_that_come_after_it() {
        let mut ids = Ids::new();
        let of = |id: &str, twin: &str| json!({"id": id, "name": "web", "all": [{"id": twin}], "image": "img-00000000000000009"});
        learn(&mut ids, &of(GROUP, "i-00000000000000001"), &of(TWIN, "i-00000000000000002"));
        // Of another kind, or no id.
        learn(&mut ids, &json!({"id": "vol-00000000000000001"}), &json!({"id": "i-00000000000000004"}));
        learn(&mut ids, &json!({"id": "web-1"}), &json!({"id": "web-2"}));
        let expected = [(GROUP, TWIN), ("i-00000000000000001", "i-00000000000000002")];
        assert_eq!(ids, expected.map(|(source, twin)| (source.to_owned(), twin.to_owned())).into());
    }
}
