//! The OpenAPI document, made from the route table.
//!
//! Owns its composition. Version 3.0.3, because the client generator reads that one.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::{Access, Problem, Route, input::schema_of};

pub(crate) fn document(routes: &[Route]) -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let problem = schema_of::<Problem>(&mut generator);
    let mut paths = Map::new();
    for route in routes {
        let operation = operation(route, &mut generator, &problem);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas = generator.take_definitions(true);
    // Queries are spelt out as parameters.
    schemas.retain(|name, _| !name.ends_with("Query"));
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Lucarne",
            "version": "1",
            "description": "A self-hosted, multi-tenant cloud of virtual machines that its tenants can see into.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(route: &Route, generator: &mut schemars::SchemaGenerator, problem: &Value) -> Value {
    let mut responses = (route.answer)(generator);
    // The client generator cannot read a typed problem beside an upgrade; those routes leave the shape unsaid.
    let upgrades = responses.get("101").is_some();
    for (status, description) in [("4XX", "Refused."), ("5XX", "Failed.")] {
        responses[status] = json!({"description": description});
        if !upgrades {
            responses[status]["content"] = json!({Problem::MEDIA_TYPE: {"schema": problem}});
        }
    }
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary.trim(),
        "tags": [route.access.name()],
        "parameters": parameters(route, generator),
        "responses": responses,
    });
    if route.access != Access::Public {
        operation["security"] = json!([{"token": []}]);
    }
    if let Some(body) = (route.body)(generator) {
        operation["requestBody"] = body;
    }
    operation
}

fn parameters(route: &Route, generator: &mut schemars::SchemaGenerator) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let path = names.zip((route.parameters)(generator));
    let mut all: Vec<_> =
        path.map(|(name, schema)| json!({"name": name, "in": "path", "required": true, "schema": schema})).collect();
    all.extend(query_parameters(&(route.query)(generator), generator));
    if route.changes() {
        all.push(json!({
            "name": "idempotency-key", "in": "header", "schema": {"type": "string", "maxLength": 128},
            "description": "A request with the key of an earlier one is answered as that one was, and does nothing.",
        }));
        all.push(json!({
            "name": "dry-run", "in": "header", "schema": {"type": "boolean"},
            "description": "Checks everything and changes nothing: answered with the code DryRunOperation.",
        }));
    }
    all
}

fn query_parameters(schema: &Value, generator: &schemars::SchemaGenerator) -> Vec<Value> {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let object = name.and_then(|name| generator.definitions().get(name)).unwrap_or(schema);
    let required: Vec<_> = object.get("required").and_then(Value::as_array).into_iter().flatten().collect();
    let properties: BTreeMap<_, _> =
        object.get("properties").and_then(Value::as_object).into_iter().flatten().collect();
    properties
        .into_iter()
        .map(|(name, property)| {
            let mut property = without_null(property.clone());
            let description = property.as_object_mut().and_then(|object| object.remove("description"));
            let mut parameter = json!({"name": name, "in": "query", "schema": property});
            if required.iter().any(|entry| entry.as_str() == Some(name)) {
                parameter["required"] = json!(true);
            }
            if let Some(description) = description {
                parameter["description"] = description;
            }
            parameter
        })
        .collect()
}

/// A query parameter that is absent is simply not there: OpenAPI 3.0 knows no null type.
fn without_null(mut schema: Value) -> Value {
    if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            schema["type"] = only.clone();
        }
    }
    let alternatives = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let mut real = alternatives.filter(|alternative| alternative["type"] != "null");
    match real.next().cloned() {
        Some(mut only) => {
            if let (Some(description), Some(object)) = (schema.get("description"), only.as_object_mut()) {
                object.insert("description".into(), description.clone());
            }
            only
        }
        None => schema,
    }
}

/// The same with all fields in the order of their names. Whether `serde_json` keeps the order of insertion depends on what
/// else is built; the document must not.
pub(crate) fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            fields.into_iter().map(|(name, value)| (name, sorted(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}
