//! Tenant crossing tried on every route of the OpenAPI document: a new route is covered without anyone thinking of it.
//!
//! Two tenants own one of everything. The second then calls every route with ids of the first, one id at a time, wherever
//! the document says that an id goes: in the path, in the query, anywhere in the body. Each such call must answer as if the
//! id did not exist. And nobody without credentials gets anything.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use lucarne_tests::{
    api::{Answer, Api},
    cloud::{Cloud, Driver},
    image,
};
use reqwest::Method;
use serde_json::{Map, Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a tenant owns: an id for each kind that the document names, such as `VpcId`.
type Owned = BTreeMap<&'static str, String>;

/// The public key of RFC 8410, whose private half everybody knows.
const PUBLISHERS_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

/// Ids that belong to operators, and routes that tenants may not call at all.
const OPERATORS: &[&str] = &["HostId", "NotaryId"];

fn own_one_of_everything(cloud: &Cloud, api: &Api) -> anyhow::Result<Owned> {
    let (vpc, subnet) = api.network()?;
    let image = image::fake(api, false)?;
    let launched = api.post("/v1/instances", &json!({"image": image, "subnet": subnet}))?.ok()?;
    let text = |value: &Value, pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("no {pointer} in {value}"))
    };
    let instance = text(&launched, "/instances/0/id")?;
    api.await_state(&format!("/v1/instances/{instance}"), "state", "running", PATIENCE)
        .with_context(|| cloud.logs())?;
    let volume = api.make("/v1/volumes", json!({"size": 1 << 20}), "/id")?;
    api.post(&format!("/v1/volumes/{volume}/attach"), &json!({"instance": instance}))?.ok()?;
    api.await_state(&format!("/v1/volumes/{volume}"), "state", "in-use", PATIENCE).with_context(|| cloud.logs())?;
    let group = api.make("/v1/security-groups", json!({"vpc": vpc, "name": "own"}), "/id")?;
    let rule =
        json!({"direction": "ingress", "traffic": {"protocol": "all"}, "peer": {"kind": "cidr", "cidr": "10.0.0.0/8"}});
    let rule = api.make(&format!("/v1/security-groups/{group}/rules"), json!({"rule": rule}), "/id")?;
    let target = json!({"kind": "subnet", "subnet": subnet});
    let flow_log = api.make("/v1/flow-logs", json!({"target": target}), "/id")?;
    let recording = api.make("/v1/recordings", json!({"vpc": vpc}), "/id")?;
    let replica = api.make("/v1/replicas", json!({"vpc": vpc, "terms": {"memory": "cold"}}), "/id")?;
    api.await_state(&format!("/v1/replicas/{replica}"), "state", "available", PATIENCE)
        .with_context(|| cloud.logs())?;
    api.post(&format!("/v1/recordings/{recording}/stop"), &json!({}))?.ok()?;
    let replay = api.make("/v1/replays", json!({"recording": recording, "replica": replica}), "/id")?;
    // Nothing was recorded. What is over does not change any more.
    api.await_state(&format!("/v1/replays/{replay}"), "state", "failed", PATIENCE).with_context(|| cloud.logs())?;
    let duplicate = api.get(&format!("/v1/replicas/{replica}"))?.ok()?["objects"][&instance].clone();
    let duplicate = duplicate.as_str().context("the instance has no duplicate")?;
    api.await_state(&format!("/v1/instances/{duplicate}"), "state", "running", PATIENCE)
        .with_context(|| cloud.logs())?;
    let asked = json!({"replica": replica, "to": duplicate, "port": 80, "kind": "tcp"});
    let load = api.make("/v1/loads", asked, "/id")?;
    api.post(&format!("/v1/loads/{load}/stop"), &json!({}))?.ok()?;
    let trigger = json!({"name": "own", "vpc": vpc, "on": "schedule:1d"});
    let template = json!({"image": image});
    let scaling_group = json!({"name": "own", "subnets": [subnet], "template": template, "min": 0, "max": 0,
        "target": "cpu=50", "cool_down_seconds": 0});
    let image_shown = api.get(&format!("/v1/images/{image}"))?.ok()?;
    let notary = json!({"name": vpc.replace("vpc-", "notary "), "url": "http://127.0.0.1:1"});
    let notary = cloud.operator()?.make("/v1/notaries", notary, "/id")?;
    let publisher = json!({"name": "own", "notary": notary, "key": PUBLISHERS_KEY});
    let user = api.make("/v1/users", json!({"name": "reader", "role": "reader"}), "/id")?;
    Ok(Owned::from([
        ("AccountId", api.account.clone()),
        ("VpcId", vpc.clone()),
        ("SubnetId", subnet),
        ("RouteTableId", api.make("/v1/route-tables", json!({"vpc": vpc}), "/id")?),
        ("NetworkAclId", api.make("/v1/network-acls", json!({"vpc": vpc}), "/id")?),
        ("SecurityGroupId", group),
        ("RuleId", rule),
        ("InterfaceId", text(&launched, "/instances/0/interface")?),
        ("InstanceId", instance),
        ("VolumeId", volume.clone()),
        ("SnapshotId", api.make("/v1/snapshots", json!({"volume": volume}), "/id")?),
        ("ImageId", image),
        ("Digest", text(&image_shown, "/boot/kernel/digest")?),
        ("UserId", user),
        ("FlowLogId", flow_log),
        ("RecordingId", recording),
        ("PublisherId", api.make("/v1/publishers", publisher, "/id")?),
        ("ReplicaId", replica),
        ("ReplayId", replay),
        ("LoadId", load),
        ("TriggerId", api.make("/v1/triggers", trigger, "/id")?),
        ("ScalingGroupId", api.make("/v1/scaling-groups", scaling_group, "/id")?),
        ("JobId", text(&launched, "/jobs/0")?),
        ("access_key", api.key.clone()),
    ]))
}

/// The document, and whose id goes to which place in what is built of it.
struct Builder<'a> {
    document: &'a Value,
    own: &'a Owned,
    foreign: &'a Owned,
    /// The place that gets the other tenant's id.
    crossed: usize,
    /// Places so far.
    places: usize,
    /// Which alternative is taken where the document has several.
    alternative: usize,
    most_alternatives: usize,
}

impl Builder<'_> {
    fn id(&mut self, kind: &str) -> Option<String> {
        if OPERATORS.contains(&kind) {
            return None;
        }
        let owned = if self.places == self.crossed { self.foreign } else { self.own };
        let id = owned.get(kind)?.clone();
        self.places += 1;
        Some(id)
    }

    /// A value for the schema; none where one may be left out.
    fn value(&mut self, schema: &Value) -> Option<Value> {
        if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
            return self.named(name);
        }
        for several in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[several].as_array() {
                let real: Vec<&Value> = choices.iter().filter(|choice| choice["nullable"] != true).collect();
                self.most_alternatives = self.most_alternatives.max(real.len());
                return self.value(real.get(self.alternative % real.len().max(1))?);
            }
        }
        if let Some(all) = schema["allOf"].as_array() {
            return self.value(all.first()?);
        }
        if let Some(choice) = schema["enum"].as_array().and_then(|choices| choices.first()) {
            return Some(choice.clone());
        }
        match schema["type"].as_str() {
            Some("object") => Some(self.object(schema)),
            Some("array") => Some(self.value(&schema["items"]).map_or(json!([]), |item| json!([item]))),
            Some("integer" | "number") => Some(json!(schema["minimum"].as_u64().unwrap_or(0).max(1))),
            Some("boolean") => Some(json!(false)),
            Some("string") if schema["nullable"] == true => None,
            Some("string") => Some(json!("text")),
            _ => None,
        }
    }

    fn named(&mut self, name: &str) -> Option<Value> {
        if self.own.contains_key(name) || OPERATORS.contains(&name) {
            return self.id(name).map(Value::from);
        }
        match name {
            "LoadTarget" | "LoadFrom" => self.id("InstanceId").map(Value::from),
            "TriggerOn" => Some(json!("schedule:1d")),
            "ScalingTarget" => Some(json!("cpu=50")),
            "Cidr" => Some(json!("10.0.200.0/24")),
            "Bytes" => None,
            // Its digest is what somebody expects, and no blob that somebody has.
            "Measurement" => Some(json!({"component": "kernel", "name": "text", "digest": "0".repeat(64)})),
            _ => {
                let schema = self.document.pointer(&format!("/components/schemas/{name}"))?.clone();
                self.value(&schema)
            }
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        let mut object = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let before = self.places;
            let value = self.value(property);
            let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name.as_str()));
            // What may be left out is given only where it brings an id.
            if let Some(value) = value
                && (required || self.places > before)
            {
                object.insert(name.clone(), value);
            }
        }
        Value::Object(object)
    }
}

struct Operation<'a> {
    method: Method,
    path: &'a str,
    spec: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, methods)| {
            methods.as_object().into_iter().flatten().map(move |(method, spec)| Operation {
                method: method.to_uppercase().parse().expect("the document names methods"),
                path,
                spec,
            })
        })
        .collect()
}

/// A request ready to be sent, and how many places for ids it has.
struct Built {
    path: String,
    body: Option<Value>,
    places: usize,
    alternatives: usize,
}

fn build(operation: &Operation<'_>, builder: &mut Builder<'_>) -> anyhow::Result<Built> {
    let mut path = operation.path.to_owned();
    let mut query = Vec::new();
    for parameter in operation.spec["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().context("a parameter has a name")?;
        match parameter["in"].as_str() {
            Some("path") => {
                let value = match (operation.path, name) {
                    ("/v1/tags/{resource}", _) => builder.id("VpcId").map(Value::from),
                    (_, "access_key") => builder.id("access_key").map(Value::from),
                    (_, "price_book") => Some(json!("pb-00000000000000000")),
                    (_, "tpm_maker") => Some(json!("maker-00000000000000000")),
                    (_, "measurement") => Some(json!("meas-00000000000000000")),
                    (_, "notary") => Some(json!("notary-00000000000000000")),
                    (_, "mitigation") => Some(json!("mit-00000000000000000")),
                    (_, "question") => Some(json!("top-ports")),
                    (_, "host" | "token") => Some(json!("host-00000000000000000")),
                    _ => builder.value(&parameter["schema"]),
                };
                let value = value.with_context(|| format!("{}: what is {{{name}}}? tell this test", operation.path))?;
                path = path.replace(&format!("{{{name}}}"), value.as_str().unwrap_or_default());
            }
            Some("query") => {
                let before = builder.places;
                let value = match name {
                    "host" if parameter["required"] == true => Some(json!("host-00000000000000000")),
                    _ => builder.value(&parameter["schema"]),
                };
                if let Some(value) = value
                    && (parameter["required"] == true || builder.places > before)
                {
                    query.push(format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), Into::into)));
                }
            }
            _ => {}
        }
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let schema = operation.spec.pointer("/requestBody/content/application~1json/schema");
    let body = schema.and_then(|schema| builder.value(schema));
    Ok(Built { path, body, places: builder.places, alternatives: builder.most_alternatives })
}

fn call(api: &Api, operation: &Operation<'_>, built: &Built) -> anyhow::Result<Answer> {
    let mut request = api.request(operation.method.clone(), &built.path).timeout(Duration::from_secs(15));
    if operation.spec["responses"].get("101").is_some() {
        request = request.header("connection", "upgrade").header("upgrade", "websocket");
        request = request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    }
    request = match &built.body {
        Some(body) => request.json(body),
        None => request,
    };
    Api::send(request)
}

/// Blobs have no id that could be not found: one that the account did not upload is a wrong value, whoever else has it.
fn is_denied(answer: &Answer) -> bool {
    let not_its_blob = answer.body["detail"].as_str().is_some_and(|text| text.contains("has not uploaded a blob"));
    answer.code().ends_with(".NotFound")
        || matches!(answer.code(), "UnauthorizedOperation" | "AuthFailure")
        || answer.code() == "InvalidParameterValue" && not_its_blob
}

#[test]
fn no_route_gives_a_tenant_anything_of_another() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 1)?;
    let (first, second) = (cloud.tenant("first")?, cloud.tenant("second")?);
    cloud.hasten(&second)?;
    let (theirs, own) = (own_one_of_everything(&cloud, &first)?, own_one_of_everything(&cloud, &second)?);
    let document: Value = serde_json::from_str(&image::repository_file("docs/openapi.json")?)?;
    let before = everything(&first)?;
    let mut crossings = 0;
    for operation in operations(&document) {
        for alternative in 0.. {
            let mut builder = Builder {
                document: &document,
                own: &own,
                foreign: &theirs,
                crossed: usize::MAX,
                places: 0,
                alternative,
                most_alternatives: 1,
            };
            let Built { places, alternatives, .. } = build(&operation, &mut builder)?;
            for crossed in 0..places {
                builder.crossed = crossed;
                builder.places = 0;
                cross(&second, &operation, &build(&operation, &mut builder)?, &theirs)?;
                crossings += 1;
            }
            if alternative + 1 >= alternatives {
                break;
            }
        }
    }
    ensure!(crossings > 60, "only {crossings} crossings were tried");
    ensure!(everything(&first)? == before, "what the first tenant owns was changed");
    Ok(())
}

/// One id of the other tenant: as if it did not exist, or, in a question about flows, no answer to it.
fn cross(api: &Api, operation: &Operation<'_>, built: &Built, theirs: &Owned) -> anyhow::Result<()> {
    let what = format!("{} {} {:?}", operation.method, built.path, built.body);
    let streams = operation.path.ends_with("/watch");
    if streams {
        return Ok(());
    }
    let answer = call(api, operation, built).with_context(|| what.clone())?;
    if ["/v1/flows", "/v1/findings"].contains(&operation.path) && !answer.code().ends_with(".NotFound") {
        ensure!(answer.is_success() && answer.body["items"] == json!([]), "{what}: {answer:?}");
        return Ok(());
    }
    if operation.path == "/v1/flows/questions/{question}" && answer.is_success() {
        ensure!(answer.body["rows"] == json!([]), "{what}: {answer:?}");
        return Ok(());
    }
    ensure!(is_denied(&answer), "{what} was answered with {answer:?}");
    let told = answer.body.to_string();
    let given = format!("{} {:?}", built.path, built.body);
    let leaked = theirs.values().find(|id| told.contains(id.as_str()) && !given.contains(id.as_str()));
    ensure!(leaked.is_none(), "{what} told {leaked:?}");
    Ok(())
}

/// All that a tenant's lists show, without what changes by itself.
fn everything(api: &Api) -> anyhow::Result<Vec<Value>> {
    let lists = [
        "vpcs",
        "subnets",
        "route-tables",
        "network-acls",
        "security-groups",
        "images",
        "users",
        "access-keys",
        "interfaces",
        "flow-logs",
        "recordings",
        "replays",
        "loads",
        "triggers",
        "scaling-groups",
        "publishers",
    ];
    lists.into_iter().map(|list| Ok(Value::from(api.list(&format!("/v1/{list}"))?))).collect()
}

#[test]
fn no_list_shows_anything_of_another_account() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 1)?;
    let (first, second) = (cloud.tenant("first")?, cloud.tenant("second")?);
    let theirs = own_one_of_everything(&cloud, &first)?;
    let document: Value = serde_json::from_str(&image::repository_file("docs/openapi.json")?)?;
    let is_list = |operation: &Operation<'_>| operation.method == Method::GET && !operation.path.contains('{');
    for operation in operations(&document).iter().filter(|operation| is_list(operation)) {
        if operation.path.ends_with("/watch") || operation.path.starts_with("/v1/host/") {
            continue;
        }
        let told = second.get(operation.path)?.body.to_string();
        let leaked = theirs.values().find(|id| told.contains(id.as_str()));
        ensure!(leaked.is_none(), "{} tells {leaked:?}", operation.path);
    }
    Ok(())
}

#[test]
fn nobody_without_credentials_is_answered() -> anyhow::Result<()> {
    let cloud = Cloud::start(Driver::Simulated, 1)?;
    let tenant = cloud.tenant("first")?;
    let own = own_one_of_everything(&cloud, &tenant)?;
    let document: Value = serde_json::from_str(&image::repository_file("docs/openapi.json")?)?;
    let stranger = reqwest::blocking::Client::builder().no_proxy().build()?;
    let public = ["/v1/health", "/v1/openapi.json", "/v1/tokens", "/v1/host/enrol"];
    for operation in operations(&document).iter().filter(|operation| !public.contains(&operation.path)) {
        let mut builder = Builder {
            document: &document,
            own: &own,
            foreign: &own,
            crossed: 0,
            places: 0,
            alternative: 0,
            most_alternatives: 1,
        };
        let path = build(operation, &mut builder)?.path;
        for authorization in ["", "Bearer nonsense", "Bearer lucarne-host.host-00000000000000000.00", "Basic YTpi"] {
            let request = stranger.request(operation.method.clone(), format!("{}{path}", tenant.endpoint));
            let request =
                if authorization.is_empty() { request } else { request.header("authorization", authorization) };
            let answer = Api::send(request)?;
            ensure!(answer.status == 401 && answer.code() == "AuthFailure", "{} {path}: {answer:?}", operation.method);
        }
    }
    Ok(())
}
