//! Measurements held against what is known: for each of them whether somebody vouches for it, and who.
//!
//! Owns the comparison, whoever vouches: a tenant's own list, a configuration that the tenant named, a publisher's
//! [`manifest`](crate::manifest). Collecting what is known, and acting on the judgement, is `control`'s.

use std::collections::BTreeMap;

use lucarne_model::{Component, ErrorCode, Measurement, storage::Digest};

/// A measurement that somebody vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known<V> {
    pub measurement: Measurement,
    /// Who says so.
    pub by: V,
}

/// What was found, held against what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'a, V> {
    /// All that was found, in its order.
    pub judged: Vec<Judged<'a, V>>,
    /// What is known and was not found under its component and name: a configuration is not complete without it.
    pub missing: Vec<&'a Known<V>>,
}

/// One measurement, and who knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged<'a, V> {
    pub measurement: &'a Measurement,
    /// Who vouches for exactly this; empty: nobody.
    pub vouchers: Vec<&'a V>,
    /// The digests that are known for this component and name instead.
    pub expected: Vec<&'a Digest>,
}

/// Why a policy is not content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("{component} `{name}` is {found}; known for it is {expected}")]
    Changed { component: Component, name: String, found: Digest, expected: Digest },
    #[error("{component} `{name}` is {found}, which nobody vouches for")]
    Unknown { component: Component, name: String, found: Digest },
    #[error("{component} `{name}` was not measured, and must be there")]
    Missing { component: Component, name: String },
}

impl ReferenceError {
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::MeasurementUnknown
    }
}

/// Holds `found` against `known`.
pub fn judge<'a, V>(found: &'a [Measurement], known: &'a [Known<V>]) -> Judgement<'a, V> {
    let mut places: BTreeMap<_, Vec<&'a Known<V>>> = BTreeMap::new();
    for one in known {
        places.entry(place(&one.measurement)).or_default().push(one);
    }
    let judged: Vec<_> = found
        .iter()
        .map(|measurement| {
            let here = places.get(&place(measurement)).map(Vec::as_slice).unwrap_or_default();
            let same = |one: &&&Known<V>| one.measurement.digest == measurement.digest;
            let vouchers = here.iter().filter(same).map(|one| &one.by).collect();
            let expected = here.iter().filter(|one| !same(one)).map(|one| &one.measurement.digest).collect();
            Judged { measurement, vouchers, expected }
        })
        .collect();
    for measurement in found {
        places.remove(&place(measurement));
    }
    Judgement { judged, missing: places.into_values().flatten().collect() }
}

/// Where in a host or guest a measurement is, whatever it is.
fn place(measurement: &Measurement) -> (Component, &str) {
    (measurement.component, &measurement.name)
}

impl<V> Judgement<'_, V> {
    /// Whether each measurement is vouched for by somebody. What is the instance's own is held only against what speaks of it.
    pub fn all_known(&self) -> Result<(), ReferenceError> {
        let is_refused = |one: &&Judged<'_, V>| one.vouchers.is_empty() && !one.is_new_and_own();
        self.judged.iter().find(is_refused).map_or(Ok(()), |one| Err(one.refusal()))
    }

    /// Whether what is known under its component and name is that, and nothing else; what nobody knows may be anything.
    pub fn none_changed(&self) -> Result<(), ReferenceError> {
        let changed = |one: &&Judged<'_, V>| one.vouchers.is_empty() && !one.expected.is_empty();
        self.judged.iter().find(changed).map_or(Ok(()), |one| Err(one.refusal()))
    }

    /// Whether each is vouched for, and nothing that is known is missing: the host or guest is exactly that. What boots instead of
    /// going on from a warm state that is known is no less: of what the state was made it boots.
    pub fn complete(&self) -> Result<(), ReferenceError> {
        self.all_known()?;
        let is_missed = |one: &&&Known<V>| one.measurement.component != Component::WarmState;
        self.missing.iter().find(is_missed).map_or(Ok(()), |one| {
            let Measurement { component, name, .. } = one.measurement.clone();
            Err(ReferenceError::Missing { component, name })
        })
    }
}

impl<V> Judged<'_, V> {
    fn is_new_and_own(&self) -> bool {
        self.measurement.component.is_instances_own() && self.expected.is_empty()
    }

    fn refusal(&self) -> ReferenceError {
        let Measurement { component, name, digest: found } = self.measurement.clone();
        match self.expected.first() {
            Some(&expected) => ReferenceError::Changed { component, name, found, expected: expected.clone() },
            None => ReferenceError::Unknown { component, name, found },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(component: Component, name: &str, octet: u8) -> Measurement {
        Measurement { component, name: name.to_owned(), digest: Digest::from_bytes([octet; 32]) }
    }
    fn known(measurement: &Measurement, by: &'static str) -> Known<&'static str> {
        Known { measurement: measurement.clone(), by }
    }

    #[test]
    fn each_measurement_is_told_with_all_who_vouch_for_it() {
        let qemu = measured(Component::Hypervisor, "qemu", 1);
        let found = [qemu.clone()];
        let list = [known(&qemu, "own"), known(&qemu, "publisher")];
        let judgement = judge(&found, &list);
        assert_eq!(judgement.judged[0].vouchers, [&"own", &"publisher"]);
        assert_eq!(judgement.complete(), Ok(()));
    }

    /// One octet, another name, another kind: each is another thing.
    #[test]
    fn what_is_almost_known_is_not_known() {
        let list = [known(&measured(Component::Hypervisor, "qemu", 1), "own")];
        let others = [
            (measured(Component::Hypervisor, "qemu", 2), 1),
            (measured(Component::Hypervisor, "qemu-9", 1), 0),
            (measured(Component::Agent, "qemu", 1), 0),
        ];
        for (other, expected) in others {
            let found = [other];
            let judgement = judge(&found, &list);
            assert_eq!(judgement.judged[0].expected.len(), expected);
            let refused = judgement.all_known().expect_err("refused");
            assert_eq!(refused.code(), ErrorCode::MeasurementUnknown);
            assert_eq!(matches!(refused, ReferenceError::Changed { .. }), expected == 1);
        }
    }

    #[test]
    fn a_configuration_is_not_complete_without_all_of_it_and_a_list_may_know_more() {
        let (qemu, agent) = (measured(Component::Hypervisor, "qemu", 1), measured(Component::Agent, "lucarne", 2));
        let list = [known(&qemu, "own"), known(&agent, "own")];
        let found = [qemu];
        let judgement = judge(&found, &list);
        assert_eq!(judgement.all_known(), Ok(()));
        let missing = ReferenceError::Missing { component: Component::Agent, name: "lucarne".to_owned() };
        assert_eq!(judgement.complete(), Err(missing));
    }

    #[test]
    fn what_boots_is_no_less_than_what_goes_on_from_a_known_state_and_not_the_other_way_round() {
        let (kernel, state) =
            (measured(Component::GuestKernel, "kernel", 1), measured(Component::WarmState, "state", 2));
        let list = [known(&kernel, "own"), known(&state, "own")];
        let (cold, warm) = ([kernel.clone()], [kernel, state]);
        assert_eq!(judge(&cold, &list).complete(), Ok(()));
        assert_eq!(judge(&warm, &list).complete(), Ok(()));
        assert!(judge(&warm, &list[..1]).complete().is_err());
    }

    #[test]
    fn one_of_two_versions_that_are_known_is_enough() {
        let (old, new) = (measured(Component::Shim, "shim", 1), measured(Component::Shim, "shim", 2));
        let list = [known(&old, "own"), known(&new, "own")];
        let found = [new];
        assert_eq!(judge(&found, &list).complete(), Ok(()));
    }

    #[test]
    fn what_is_the_instances_own_needs_nobody_and_may_not_change() {
        let (one, other) = (measured(Component::VirtualTpm, "key", 1), measured(Component::VirtualTpm, "key", 2));
        let (found, qemu) = ([one.clone()], measured(Component::Hypervisor, "qemu", 1));
        assert_eq!(judge::<()>(&found, &[]).all_known(), Ok(()));
        assert!(judge(&found, &[known(&qemu, "own")]).complete().is_err(), "the rest must be there all the same");
        assert_eq!(judge(&found, &[known(&one, "approved")]).complete(), Ok(()));
        assert!(judge(&found, &[known(&other, "approved")]).complete().is_err());
        assert!(judge(&[], &[known(&one, "approved")]).complete().is_err());
    }

    #[test]
    fn where_nothing_is_known_nothing_is_content_but_nothing() {
        assert_eq!(judge::<()>(&[], &[]).complete(), Ok(()));
        assert!(judge::<()>(&[measured(Component::Cpu, "cpu", 0)], &[]).all_known().is_err());
    }
}
