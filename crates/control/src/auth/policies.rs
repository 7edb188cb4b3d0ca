//! Who may call which route: the Cedar policies of `policies.cedar`, decided once for all kinds of callers.
//!
//! Owns the vocabulary that the policies are written in. A request's resource is always what the caller's own account owns,
//! because the store shows nobody else's; so a decision depends on the route and on [`Profile`] alone, and all of them are
//! made when the controller starts.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
};

use axum::http::Method;
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use lucarne_api::{ROUTES, Route};
use lucarne_model::identity::Role;

/// All that the policies look at of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Profile {
    Nobody,
    Host,
    TenantUser(Role),
    OperatorUser(Role),
}

impl Profile {
    const ALL: [Self; 8] = [
        Self::Nobody,
        Self::Host,
        Self::TenantUser(Role::Admin),
        Self::TenantUser(Role::Operator),
        Self::TenantUser(Role::Reader),
        Self::OperatorUser(Role::Admin),
        Self::OperatorUser(Role::Operator),
        Self::OperatorUser(Role::Reader),
    ];

    pub(crate) const fn is_operator(self) -> bool {
        matches!(self, Self::OperatorUser(_))
    }
    const fn kind(self) -> &'static str {
        match self {
            Self::Nobody => "Nobody",
            Self::Host => "Host",
            Self::TenantUser(_) | Self::OperatorUser(_) => "User",
        }
    }
    const fn role(self) -> Option<Role> {
        match self {
            Self::TenantUser(role) | Self::OperatorUser(role) => Some(role),
            _ => None,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Host => f.write_str("a host"),
            Self::TenantUser(role) => write!(f, "the role `{role}`"),
            Self::OperatorUser(role) => write!(f, "the role `{role}` of the operator account"),
        }
    }
}

/// Why the policies of this build cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("policies.cedar does not parse: {0}")]
    Policies(String),
    #[error("what the policies are about could not be said: {0}")]
    Vocabulary(String),
}

/// The decisions for all callers and routes.
#[derive(Debug)]
pub(crate) struct Policies {
    allowed: HashSet<(Profile, &'static str)>,
}

impl Policies {
    pub(crate) fn compile() -> Result<Self, PolicyError> {
        let policies = PolicySet::from_str(include_str!("policies.cedar"));
        let policies = policies.map_err(|error| PolicyError::Policies(error.to_string()))?;
        let authorizer = Authorizer::new();
        let mut allowed = HashSet::new();
        for profile in Profile::ALL {
            let entities = entities(profile)?;
            for route in ROUTES {
                let request = request(profile, route)?;
                if authorizer.is_authorized(&request, &policies, &entities).decision() == Decision::Allow {
                    allowed.insert((profile, route.name));
                }
            }
        }
        Ok(Self { allowed })
    }

    pub(crate) fn allow(&self, profile: Profile, route: &Route) -> bool {
        self.allowed.contains(&(profile, route.name))
    }
}

fn vocabulary(error: impl fmt::Display) -> PolicyError {
    PolicyError::Vocabulary(error.to_string())
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, PolicyError> {
    let kind = EntityTypeName::from_str(kind).map_err(vocabulary)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn request(profile: Profile, route: &Route) -> Result<Request, PolicyError> {
    let (principal, action) = (uid(profile.kind(), "caller")?, uid("Action", route.name)?);
    Request::new(principal, action, uid("Resource", "own")?, Context::empty(), None).map_err(vocabulary)
}

/// The caller, what its account owns, and every route as an action in its groups.
fn entities(profile: Profile) -> Result<Entities, PolicyError> {
    let account = RestrictedExpression::new_string("own".into());
    let mut attributes = HashMap::from([
        ("account".to_owned(), account.clone()),
        ("operator".to_owned(), RestrictedExpression::new_bool(profile.is_operator())),
    ]);
    if let Some(role) = profile.role() {
        attributes.insert("role".into(), RestrictedExpression::new_string(role.to_string()));
    }
    let caller = Entity::new(uid(profile.kind(), "caller")?, attributes, HashSet::new());
    let owned = HashMap::from([("account".to_owned(), account)]);
    let resource = Entity::new(uid("Resource", "own")?, owned, HashSet::new());
    let mut all = vec![caller.map_err(vocabulary)?, resource.map_err(vocabulary)?];
    for route in ROUTES {
        let mut groups = HashSet::from([uid("Action", route.access.name())?]);
        if route.method != Method::GET {
            groups.insert(uid("Action", "change")?);
        }
        all.push(Entity::new_no_attrs(uid("Action", route.name)?, groups));
    }
    Entities::from_entities(all, None).map_err(vocabulary)
}

#[cfg(test)]
mod tests {
    use lucarne_api::Access;

    use super::*;

    /// What the policies should come to, said a second time and in another way.
    fn expected(profile: Profile, route: &Route) -> bool {
        use Access as A;
        use Profile as P;
        match (route.access, profile) {
            (A::Public, _) => true,
            (A::Host, P::Host) => true,
            (A::Host, _) | (_, P::Host | P::Nobody) => false,
            (A::Read, _) => true,
            (A::Operate, P::TenantUser(role) | P::OperatorUser(role)) => role != Role::Reader,
            (A::Administer, P::TenantUser(role) | P::OperatorUser(role)) => role == Role::Admin,
            (A::Provide, P::TenantUser(_)) => false,
            (A::Provide, P::OperatorUser(role)) => role == Role::Admin || route.method == Method::GET,
        }
    }

    #[test]
    fn every_route_is_open_to_exactly_those_it_is_for() {
        let policies = Policies::compile().unwrap();
        for route in ROUTES {
            for profile in Profile::ALL {
                assert_eq!(policies.allow(profile, route), expected(profile, route), "{profile:?} {}", route.name);
            }
        }
    }
}
