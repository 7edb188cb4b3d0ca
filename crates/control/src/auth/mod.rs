//! Who asks, and whether they may: the way of every request from its head to a [`Caller`].
//!
//! Owns the order: the credentials, then the rate of the account, then the policies. Whose resources a caller may then see
//! is the store's [`Scope`].
//!
//! Requests carry bearer tokens that expire, not signatures: any HTTP client can send one, and a signature would protect a
//! request on a line that others read, but not its answer. So a token lives for an hour and ends with its key, and the
//! server does not listen beyond loopback, where a line could be read, unless told that something in front speaks TLS.

mod policies;
mod principals;
pub(crate) mod secret;
mod throttle;
mod token;

use std::net::IpAddr;

use axum::http::{header, request::Parts};
use lucarne_api::{Access, Problem, Route};
use lucarne_model::{
    AccountId, ErrorCode, HostId, Moment, UserId,
    identity::{Account, Role, User},
};

pub use policies::PolicyError;
pub(crate) use policies::{Policies, Profile};
pub(crate) use principals::Principals;
pub(crate) use throttle::{Limit, Throttle};
pub(crate) use token::TokenKey;

use crate::{
    Controller, clock, http, services,
    store::{Scope, Tx},
};

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    User(UserId),
    Host(HostId),
    Nobody,
}

/// What is known of who asks, when they may.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The user's; for hosts and nobody it is the operator's, which owns what they touch.
    pub(crate) account: AccountId,
    pub(crate) principal: Principal,
    /// Whether it is a user of the operator account.
    pub(crate) operator: bool,
    pub(crate) route: &'static Route,
    /// The other end of the connection.
    pub(crate) remote: Option<IpAddr>,
}

impl Caller {
    /// What the caller sees and acts on. Operators look at everything, and change what tenants own only by the routes that
    /// are theirs: on the others they act in their own account, as anyone does.
    pub(crate) fn scope(&self) -> Scope {
        let looks = matches!(self.route.access, Access::Read | Access::Provide);
        if self.operator && looks || matches!(self.principal, Principal::Host(_)) {
            return Scope::Everything;
        }
        Scope::Account(self.account)
    }

    /// As [`Caller::scope`], with what others made public.
    pub(crate) fn visible(&self) -> Scope {
        match self.scope() {
            Scope::Account(account) => Scope::Visible(account),
            other => other,
        }
    }

    pub(crate) fn user(&self) -> Result<UserId, Problem> {
        match self.principal {
            Principal::User(user) => Ok(user),
            _ => Err(Problem::new(ErrorCode::UnauthorizedOperation, "only users may do this")),
        }
    }

    pub(crate) fn host(&self) -> Result<HostId, Problem> {
        match self.principal {
            Principal::Host(host) => Ok(host),
            _ => Err(Problem::new(ErrorCode::UnauthorizedOperation, "only hosts may do this")),
        }
    }
}

/// Authenticates, limits the rate and authorises, from the head of the request alone.
pub(crate) async fn admit(controller: &Controller, route: &'static Route, head: &Parts) -> Result<Caller, Problem> {
    let identity = identify(controller, route, head).await?;
    let profile = identity.profile();
    if !controller.policies.allow(profile, route) {
        return Err(refusal(profile, route));
    }
    Ok(Caller {
        account: identity.account,
        principal: identity.principal,
        operator: profile.is_operator(),
        route,
        remote: head.extensions.get::<http::RequestInfo>().map(|info| info.remote),
    })
}

struct Identity {
    account: AccountId,
    principal: Principal,
    role: Option<Role>,
}

impl Identity {
    const NOBODY: Self = Self { account: AccountId::OPERATOR, principal: Principal::Nobody, role: None };

    fn profile(&self) -> Profile {
        match (self.principal, self.role) {
            (Principal::Host(_), _) => Profile::Host,
            (Principal::User(_), Some(role)) if self.account == AccountId::OPERATOR => Profile::OperatorUser(role),
            (Principal::User(_), Some(role)) => Profile::TenantUser(role),
            _ => Profile::Nobody,
        }
    }
}

async fn identify(controller: &Controller, route: &'static Route, head: &Parts) -> Result<Identity, Problem> {
    if route.access == Access::Public {
        return Ok(Identity::NOBODY);
    }
    if let Some(OnBehalf(user)) = head.extensions.get() {
        return on_behalf(controller, *user).await;
    }
    let bearer = read_bearer(head)?;
    if let Some((host, secret)) = services::hosts::parse_key(bearer) {
        let host = services::hosts::authenticate(controller, host, secret).await?;
        return Ok(Identity { account: AccountId::OPERATOR, principal: Principal::Host(host), role: None });
    }
    let now = clock::now();
    let key = controller.token_key.verify(bearer, now).map_err(|error| refused(error.to_string()))?;
    let user = controller.principals.look_up(&controller.store, &key).await?;
    let user = user.ok_or_else(|| refused("the token's access key was deleted"))?;
    limit_rate(controller, user.account, Limit::requests(&user.quota), now)?;
    Ok(Identity { account: user.account, principal: Principal::User(user.user), role: Some(user.role) })
}

/// A request that the controller itself makes for a user. Nobody can say so over HTTP: extensions of a request do not travel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnBehalf(pub(crate) UserId);

async fn on_behalf(controller: &Controller, user: UserId) -> Result<Identity, Problem> {
    let look_up = move |tx: &Tx<'_>| {
        let user = tx.find::<User>(Scope::Everything, user)?.ok_or_else(|| refused("the user was deleted"))?;
        let account: Account = tx.get(Scope::Everything, user.account)?;
        Ok((user, account.quota))
    };
    let (user, quota) = controller.store.read(look_up).await?;
    limit_rate(controller, user.account, Limit::requests(&quota), clock::now())?;
    Ok(Identity { account: user.account, principal: Principal::User(user.id), role: Some(user.role) })
}

fn read_bearer(head: &Parts) -> Result<&str, Problem> {
    let value = head.headers.get(header::AUTHORIZATION).ok_or_else(|| refused("send `Authorization: Bearer TOKEN`"))?;
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refused("the authorization is not of the form `Bearer TOKEN`"))
}

fn limit_rate(controller: &Controller, account: AccountId, limit: Limit, now: Moment) -> Result<(), Problem> {
    controller.throttle.take(account, limit, now).map_err(|wait| too_fast("the account sends requests faster", wait))
}

pub(crate) fn too_fast(what: &str, wait: std::time::Duration) -> Problem {
    let detail = format!("{what} than its limit; try again in {} ms", wait.as_millis().max(1));
    let retry_after = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    Problem { retry_after, ..Problem::new(ErrorCode::RequestLimitExceeded, detail) }
}

pub(crate) fn refused(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::AuthFailure, detail)
}

fn refusal(profile: Profile, route: &Route) -> Problem {
    let detail = format!("{profile} may not call {}, which is of the kind `{}`", route.name, route.access.name());
    Problem::new(ErrorCode::UnauthorizedOperation, detail)
}
