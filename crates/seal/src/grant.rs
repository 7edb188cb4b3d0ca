//! Who may ask for what: policies in Cedar, evaluated on the host. What no policy permits is refused, and what one forbids
//! is refused whatever others permit.
//!
//! Owns the vocabulary of the policies, made from the table of operations; a policy that uses another word, or compares what
//! cannot be compared, is not taken. What holds whatever policies say is [`judge`](crate::judge)'s.

use std::{
    collections::{HashMap, HashSet},
    fmt::{Display, Write as _},
    str::FromStr as _,
};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet,
    Request as Question, RestrictedExpression as Expression, Schema, ValidationMode, Validator,
};
use lucarne_model::{AccountId, Moment};

use crate::{
    bounded::{Form, Seen},
    operation::{Effect, Layer, OperationName},
    refusal::Refusal,
    request::Request,
    trust::{Opened, Person},
};

/// Why a text is no grants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("the grants do not parse: {0}")]
    Syntax(String),
    #[error("the grants say what makes no sense: {0}")]
    Meaning(String),
    #[error("the vocabulary of grants: {0}")]
    Vocabulary(String),
}

/// All policies of a host, and which version of them.
#[derive(Clone, Debug)]
pub struct Grants {
    version: u64,
    policies: PolicySet,
}

impl Grants {
    /// Reads policies, and checks each against what can be asked.
    pub fn compile(version: u64, text: &str) -> Result<Self, GrantError> {
        let policies = PolicySet::from_str(text).map_err(|error| GrantError::Syntax(error.to_string()))?;
        let (schema, _) =
            Schema::from_cedarschema_str(&vocabulary()).map_err(|error| GrantError::Vocabulary(error.to_string()))?;
        let checked = Validator::new(schema).validate(&policies, ValidationMode::Strict);
        if checked.validation_passed() {
            return Ok(Self { version, policies });
        }
        let errors: Vec<String> = checked.validation_errors().map(ToString::to_string).collect();
        Err(GrantError::Meaning(errors.join("; ")))
    }
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether everybody who signed may ask for this, of an instance that is `account`'s.
    pub fn judge(&self, opened: &Opened, account: AccountId, now: Moment) -> Result<(), Refusal> {
        let unusable = |error: String| Refusal::Grants(error);
        let request = &opened.request;
        let operation = request.operation().name();
        let context = context(opened, now).map_err(unusable)?;
        for (person, signer) in &opened.signers {
            let entities = entities(person, signer.account, request, account).map_err(unusable)?;
            let question = question(person, signer.account, request, context.clone()).map_err(unusable)?;
            let answer = Authorizer::new().is_authorized(&question, &self.policies, &entities);
            // A policy that cannot be evaluated might have forbidden it.
            if let Some(error) = answer.diagnostics().errors().next() {
                return Err(Refusal::Grants(error.to_string()));
            }
            if answer.decision() == Decision::Deny {
                let person = person.clone();
                return Err(match answer.diagnostics().reason().next() {
                    Some(forbidding) => Refusal::Forbidden { person, operation, grant: forbidding.to_string() },
                    None => Refusal::NotGranted { person, operation },
                });
            }
        }
        Ok(())
    }
}

/// The words that policies are written in, as a schema of Cedar's.
pub fn vocabulary() -> String {
    let mut schema =
        "entity Host;\nentity Person { account: String };\nentity Instance in [Host] { account: String };\n".to_owned();
    let groups: Vec<String> = group_names().map(|group| format!("\"{group}\"")).collect();
    schema.push_str(&format!("action {};\n", groups.join(", ")));
    for operation in OperationName::ALL {
        let groups = groups_of(*operation).map(|group| format!("\"{group}\"")).join(", ");
        let resource = if operation.layer() == Layer::Host { "Host" } else { "Instance" };
        let arguments = operation.arguments().into_iter().fold(String::new(), |mut text, argument| {
            let kind = if argument.form == Form::Text { "String" } else { "Long" };
            let _ = write!(text, "{}: {kind}, ", argument.name);
            text
        });
        let context = format!(
            "{{ now: Long, people: Long, result_octets: Long, recipients: Set<String>, purpose: String, arguments: {{ {arguments} }} }}"
        );
        schema.push_str(&format!(
            "action \"{operation}\" in [{groups}] appliesTo {{ principal: Person, resource: {resource}, context: {context} }};\n"
        ));
    }
    schema
}

fn group_names() -> impl Iterator<Item = &'static str> {
    Layer::ALL.into_iter().map(Layer::name).chain(Effect::ALL.into_iter().map(Effect::name))
}
const fn groups_of(operation: OperationName) -> [&'static str; 2] {
    [operation.layer().name(), operation.effect().name()]
}

fn uid(kind: &str, id: impl Display) -> Result<EntityUid, String> {
    let kind = EntityTypeName::from_str(kind).map_err(|error| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id.to_string())))
}

fn resource(request: &Request) -> Result<EntityUid, String> {
    let target = request.target();
    match &target.instance {
        Some(instance) => uid("Instance", instance.id),
        None => uid("Host", target.host),
    }
}

/// A person by account and name: an authority of another account may vouch for somebody of the same name.
fn principal(person: &Person, of: AccountId) -> Result<EntityUid, String> {
    uid("Person", format_args!("{of}/{person}"))
}

fn question(person: &Person, of: AccountId, request: &Request, context: Context) -> Result<Question, String> {
    let action = uid("Action", request.operation().name())?;
    Question::new(principal(person, of)?, action, resource(request)?, context, None).map_err(|error| error.to_string())
}

fn entities(person: &Person, of: AccountId, request: &Request, account: AccountId) -> Result<Entities, String> {
    let with_account =
        |account: AccountId| HashMap::from([("account".to_owned(), Expression::new_string(account.to_string()))]);
    let entity = |uid, attributes, parents| Entity::new(uid, attributes, parents).map_err(|error| error.to_string());
    let operation = request.operation().name();
    let groups = groups_of(operation).into_iter().map(|group| uid("Action", group)).collect::<Result<_, _>>()?;
    let mut all = vec![
        entity(principal(person, of)?, with_account(of), HashSet::new())?,
        entity(uid("Action", operation)?, HashMap::new(), groups)?,
    ];
    if request.target().instance.is_some() {
        let host = HashSet::from([uid("Host", request.target().host)?]);
        all.push(entity(resource(request)?, with_account(account), host)?);
    }
    Entities::from_entities(all, None).map_err(|error| error.to_string())
}

fn context(opened: &Opened, now: Moment) -> Result<Context, String> {
    let (request, terms) = (&opened.request, opened.request.terms());
    let number = |number: u64| Expression::new_long(i64::try_from(number).unwrap_or(i64::MAX));
    let arguments = request.operation().seen().into_iter().map(|(name, seen)| {
        let value = match seen {
            Seen::Number(number) => Expression::new_long(number),
            Seen::Text(text) => Expression::new_string(text),
        };
        (name.to_owned(), value)
    });
    let arguments = Expression::new_record(arguments).map_err(|error| error.to_string())?;
    let recipients = terms.result.recipients.iter().map(|one| Expression::new_string(one.to_string()));
    let context = [
        ("now", number(now.as_secs())),
        ("people", number(opened.signers.len() as u64)),
        ("result_octets", number(terms.result.most_octets.get())),
        ("recipients", Expression::new_set(recipients)),
        ("purpose", Expression::new_string(terms.purpose.as_str().to_owned())),
        ("arguments", arguments),
    ];
    Context::from_pairs(context.map(|(name, value)| (name.to_owned(), value))).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
