//! Lists whole, pages followed; and what a name stands for.
//!
//! Owns both searches that every noun shares. A name is looked for only where a text is not an id, so ids cost no call.

use std::str::FromStr;

use lucarne_model::{ErrorCode, replication::Replica};
use serde_json::Value;

use crate::{
    failure::{Failure, LocalCode},
    kind::{Kind, PageRequest},
    session::Session,
};

/// The largest page that the API gives.
const PAGE: u32 = 1000;

/// All resources of the kind that match, or the first `limit` of them.
pub(crate) async fn list(
    session: &Session,
    kind: &Kind,
    filter: Option<&str>,
    limit: Option<u32>,
) -> Result<Vec<Value>, Failure> {
    let page = async |limit, page_token| {
        let request = PageRequest { filter: filter.map(str::to_owned), limit: Some(limit), page_token };
        session.read(async |client| (kind.list)(client, request.clone()).await).await
    };
    follow(limit, page).await
}

/// Calls `page` (how many, from which token) until the list or the limit ends.
pub(crate) async fn follow(
    limit: Option<u32>,
    page: impl AsyncFn(u32, Option<String>) -> Result<Value, Failure>,
) -> Result<Vec<Value>, Failure> {
    let mut items = Vec::new();
    let mut token = None;
    loop {
        let left = limit.map_or(PAGE, |limit| limit.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX)));
        if left == 0 {
            return Ok(items);
        }
        let mut answer = page(left.min(PAGE), token.take()).await?;
        let Value::Array(part) = answer["items"].take() else {
            return Err(Failure::local(LocalCode::UnexpectedAnswer, "the list has no items"));
        };
        items.extend(part);
        match answer["next"].as_str() {
            Some(next) => token = Some(next.to_owned()),
            None => return Ok(items),
        }
    }
}

/// The id that `text` is or names.
pub(crate) async fn resolve_id(session: &Session, kind: &Kind, text: &str) -> Result<String, Failure> {
    if kind.is_id(text) {
        return Ok(text.to_owned());
    }
    let mut found = Vec::new();
    for field in kind.names {
        let filter = format!("{field}={}", pattern(text));
        found.extend(list(session, kind, Some(&filter), None).await?);
    }
    the_one(kind, text, &found)
}

/// The same, typed.
pub(crate) async fn resolve<T: FromStr>(session: &Session, kind: &Kind, text: &str) -> Result<T, Failure> {
    let id = resolve_id(session, kind, text).await?;
    id.parse()
        .map_err(|_| Failure::local(LocalCode::UnexpectedAnswer, format!("`{id}` is not an id of a {}", kind.noun)))
}

/// The same for each of `texts`.
pub(crate) async fn resolve_all<T: FromStr>(
    session: &Session,
    kind: &Kind,
    texts: &[String],
) -> Result<Vec<T>, Failure> {
    let mut ids = Vec::with_capacity(texts.len());
    for text in texts {
        ids.push(resolve(session, kind, text).await?);
    }
    Ok(ids)
}

/// The same where there may be none.
pub(crate) async fn resolve_option<T: FromStr>(
    session: &Session,
    kind: &Kind,
    text: Option<&String>,
) -> Result<Option<T>, Failure> {
    match text {
        Some(text) => resolve(session, kind, text).await.map(Some),
        None => Ok(None),
    }
}

/// A filter's pattern that matches `text` and nothing else: a backslash takes the meaning from the signs of the language.
fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for sign in text.chars() {
        if matches!(sign, '\\' | ',' | ';' | '*' | '?') {
            pattern.push('\\');
        }
        pattern.push(sign);
    }
    pattern
}

/// States of what is shown for a while though it has ended.
const ENDED: [&str; 4] = ["terminated", "deleted", "failed", "promoted"];

/// Of what the filters found, the only one that really has the name. What has ended keeps its own for a while and does not
/// count beside a live one, nor does what a replica has duplicated beside its source.
fn the_one(kind: &Kind, text: &str, found: &[Value]) -> Result<String, Failure> {
    let named = |item: &&Value| {
        let fields = kind.names.iter().map(|field| match field.strip_prefix("tag:") {
            Some(key) => &item["tags"][key],
            None => &item[*field],
        });
        fields.into_iter().any(|value| value.as_str() == Some(text))
    };
    let gone = |item: &&Value| ENDED.iter().any(|ended| item["state"] == *ended);
    let ids = |items: Vec<&Value>| {
        let mut ids: Vec<_> = items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let duplicated = |item: &&Value| !item["tags"][Replica::TAG].is_null();
    let live: Vec<&Value> = found.iter().filter(named).filter(|item| !gone(item)).collect();
    let sources = live.iter().copied().filter(|item| !duplicated(item)).collect();
    let groups = [ids(sources), ids(live), ids(found.iter().filter(named).collect())];
    let candidates = groups.into_iter().find(|group| !group.is_empty()).unwrap_or_default();
    match candidates.as_slice() {
        [] => Err(Failure::problem(kind.not_found, format!("no {} has the id or the name `{text}`", kind.noun))),
        [only] => Ok(only.clone()),
        several => {
            let detail = format!("`{text}` could be {}: say which by its id", several.join(" or "));
            Err(Failure::problem(ErrorCode::AmbiguousName, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;

    use super::*;
    use crate::kind::{INSTANCE, SECURITY_GROUP};

    fn instance(id: &str, name: &str, state: &str) -> Value {
        json!({"id": id, "state": state, "tags": {"Name": name}})
    }

    #[test]
    fn a_name_stands_for_the_one_that_has_it() {
        let found = [instance("i-1", "web", "running"), instance("i-2", "web2", "running")];
        assert_eq!(the_one(&INSTANCE, "web", &found).unwrap(), "i-1");
        let failure = the_one(&INSTANCE, "db", &found).unwrap_err();
        assert_eq!(failure.code(), Some(ErrorCode::InvalidInstanceNotFound));
    }

    #[test]
    fn a_name_that_two_have_is_refused_and_both_are_said() {
        let found = [instance("i-2", "web", "running"), instance("i-1", "web", "stopped")];
        let failure = the_one(&INSTANCE, "web", &found).unwrap_err();
        assert_eq!(failure.to_string(), "AmbiguousName: `web` could be i-1 or i-2: say which by its id");
    }

    #[test]
    fn a_duplicate_does_not_take_its_source_s_name() {
        let mut duplicate = instance("i-2", "web", "running");
        duplicate["tags"][Replica::TAG] = json!("rep-1");
        let found = [instance("i-1", "web", "running"), duplicate];
        assert_eq!(the_one(&INSTANCE, "web", &found).unwrap(), "i-1");
        assert_eq!(the_one(&INSTANCE, "web", &found[1..]).unwrap(), "i-2");
    }

    #[test]
    fn a_terminated_instance_does_not_make_a_name_ambiguous() {
        let found = [instance("i-1", "web", "terminated"), instance("i-2", "web", "running")];
        assert_eq!(the_one(&INSTANCE, "web", &found).unwrap(), "i-2");
        assert_eq!(the_one(&INSTANCE, "web", &found[..1]).unwrap(), "i-1");
    }

    #[test]
    fn one_found_by_name_and_by_tag_is_still_one() {
        let group = json!({"id": "sg-1", "name": "web", "tags": {"Name": "web"}});
        assert_eq!(the_one(&SECURITY_GROUP, "web", &[group.clone(), group]).unwrap(), "sg-1");
    }

    #[test]
    fn a_name_with_the_filters_own_signs_is_still_found() {
        assert_eq!(pattern(r"a,b;c*\d"), r"a\,b\;c\*\\d");
    }

    #[tokio::test]
    async fn pages_are_followed_to_the_end_or_to_the_limit() {
        let asked = RefCell::new(Vec::new());
        let page = async |limit: u32, token: Option<String>| {
            let from: u32 = token.as_deref().map_or(0, |token| token.parse().unwrap());
            asked.borrow_mut().push((limit, from));
            let end = (from + limit.min(2)).min(5);
            let next = (end < 5).then(|| end.to_string());
            Ok(json!({"items": (from..end).collect::<Vec<_>>(), "next": next}))
        };
        assert_eq!(follow(None, page).await.unwrap().len(), 5);
        assert_eq!(follow(Some(3), page).await.unwrap().len(), 3);
        assert_eq!(asked.into_inner(), [(1000, 0), (1000, 2), (1000, 4), (3, 0), (1, 2)]);
    }
}
