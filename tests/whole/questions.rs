//! Questions about flows on real VMs: each by the command line, its rows held against the records and the configuration
//! that they are about; what another tenant sees of it; and questions that would eat the machine, stopped or abandoned.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use lucarne_tests::{
    api::Api,
    cloud::{Cloud, Driver},
    eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

const BOOT: Duration = Duration::from_secs(180);
/// A handshake without an answer is over after 20 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// A question up to then is not only about what has been told by all.
const LATER: &str = "2100-01-01T00:00:00Z";

/// Answers on port 80, refuses on 81, has 82 closed by its group, and hears no echo request.
const SERVER: &str = "#!/bin/sh
echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all
mkdir -p /srv/www; echo page > /srv/www/index.html; httpd -p 80 -h /srv/www
echo server-$((40+2))
";
const CLIENT: &str = "#!/bin/sh
wget -q -O - http://10.0.1.10/
timeout 3 wget -q -O - http://10.0.1.10:81/
timeout 3 wget -q -O - http://10.0.1.10:82/
ping -c 1 -W 1 10.0.1.10
ping -c 1 -W 1 10.0.2.200
echo client-$((40+2))
";
/// What a join keeps is small here, and what passes it is not: it needs time and no memory.
const ENDLESS: &str = "SELECT sum(l.x + r.y) FROM \
    (SELECT a.bytes AS x FROM flows a, flows b, flows c, flows d, flows e) l CROSS JOIN \
    (SELECT f.bytes AS y FROM flows f, flows g, flows h, flows i, flows j, flows k) r";
/// Here each join keeps all that the ones before it made.
const LARGE: &str = "SELECT sum(a.bytes + b.bytes + c.bytes + d.bytes + e.bytes) FROM flows a, flows b, flows c, \
    flows d, flows e, flows f, flows g, flows h, flows i, flows j, flows k";

struct Scene {
    cloud: Cloud,
    tenant: Api,
    other: Api,
    client: String,
    server: String,
    /// The rule of the server's group that nobody needs.
    spare_rule: String,
}

fn scene() -> anyhow::Result<Scene> {
    let cloud = Cloud::start(Driver::Qemu, 1)?;
    let (tenant, other) = (cloud.tenant("first")?, cloud.tenant("second")?);
    cloud.hasten(&tenant)?;
    let image = cloud.tiny()?;
    let (vpc, subnet) = tenant.network()?;
    let group = tenant.make("/v1/security-groups", json!({"vpc": vpc, "name": "web"}), "/id")?;
    let rule = |traffic: Value| -> anyhow::Result<String> {
        let peer = json!({"kind": "cidr", "cidr": "10.0.0.0/16"});
        let rule = json!({"direction": "ingress", "traffic": traffic, "peer": peer});
        tenant.make(&format!("/v1/security-groups/{group}/rules"), json!({"rule": rule}), "/id")
    };
    rule(json!({"protocol": "tcp", "from_port": 80, "to_port": 81}))?;
    rule(json!({"protocol": "icmp"}))?;
    let spare_rule = rule(json!({"protocol": "udp", "from_port": 53, "to_port": 53}))?;
    let launch = |name: &str, address: &str, script: &str| -> anyhow::Result<String> {
        let instance = tenant.launch(json!({
            "image": image, "subnet": subnet, "memory": 128 << 20, "security_groups": [group], "address": address,
            "user_data": script, "tags": {"Name": name},
        }))?;
        tenant.await_log(&instance, &format!("{name}-42"), BOOT).with_context(|| cloud.logs())?;
        Ok(instance)
    };
    let server = launch("server", "10.0.1.10", SERVER)?;
    let client = launch("client", "10.0.1.11", CLIENT)?;
    Ok(Scene { cloud, tenant, other, client, server, spare_rule })
}

impl Scene {
    /// What a command of `flow` prints as JSON.
    fn flow(&self, api: &Api, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let arguments = [&["flow"], arguments, &["--output", "json"]].concat();
        Ok(serde_json::from_str(&self.cloud.run(api, &arguments)?)?)
    }

    /// Why a command of `flow` was refused.
    fn refusal(&self, api: &Api, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.cloud.cli(api, &[&["flow"], arguments].concat())?.output()?;
        ensure!(!output.status.success(), "{arguments:?} was answered");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A user's question without end, typed at a terminal.
    fn endless(&self) -> anyhow::Result<Child> {
        let asking = self.cloud.cli(&self.tenant, &["flow", "query", ENDLESS])?;
        let words = [asking.get_program()].into_iter().chain(asking.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let mut terminal = Command::new("script");
        terminal.env("TERM", "xterm").args(["--quiet", "--command", &format!("exec {}", words.join(" ")), "/dev/null"]);
        for (name, value) in asking.get_envs() {
            value.map(|value| terminal.env(name, value));
        }
        Ok(terminal.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
    }

    /// All records, when the flow that takes longest to end has ended.
    fn records(&self) -> anyhow::Result<Vec<Value>> {
        let settled = |records: &Vec<Value>| {
            let ended = |port: u64, reason: &str| {
                records.iter().any(|r| r["destination_port"] == port && r["end_reason"] == reason)
            };
            let silent = |r: &&Value| r["protocol"] == 1 && r["end_reason"] == "no-answer-from-vm";
            // Those between the machines and the router end by themselves, some time after the start.
            let of_flow = |r: &Value| (r["instance"].to_string(), r["flow_id"].to_string());
            let over: BTreeSet<_> = records.iter().filter(|r| r["end_reason"] != "active-slice").map(of_flow).collect();
            ended(80, "fin-both-sides")
                && ended(81, "refused-by-vm")
                && ended(82, "no-answer-from-vm")
                && records.iter().filter(silent).count() == 2
                && records.iter().all(|r| over.contains(&of_flow(r)))
        };
        let found = || self.tenant.list("/v1/flows").ok().filter(settled);
        eventually("all flows are over", PATIENCE, found)
            .with_context(|| format!("{:?}\n{}", self.tenant.list("/v1/flows"), self.cloud.logs()))
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The records added up by what `key` says of each: packets and bytes from the instance and to it, and the verdicts.
fn tally<K: Ord>(records: &[Value], key: impl Fn(&Value) -> Option<K>) -> BTreeMap<K, ([u64; 4], String)> {
    let mut tallies: BTreeMap<K, ([u64; 4], Vec<&str>)> = BTreeMap::new();
    for record in records {
        let Some(key) = key(record) else { continue };
        let (sums, verdicts) = tallies.entry(key).or_default();
        let first = if record["direction"] == "egress" { 0 } else { 2 };
        sums[first] += number(&record["packets"]);
        sums[first + 1] += number(&record["bytes"]);
        verdicts.push(text(&record["verdict"]));
    }
    let told = |mut verdicts: Vec<&str>| {
        verdicts.sort_unstable();
        verdicts.dedup();
        verdicts.join(",")
    };
    tallies.into_iter().map(|(key, (sums, verdicts))| (key, (sums, told(verdicts)))).collect()
}

fn peer(record: &Value) -> &str {
    text(&record[if record["direction"] == "egress" { "destination" } else { "source" }])
}

fn port(record: &Value) -> u64 {
    number(&record[if record["side"] == "initiator" { "destination_port" } else { "source_port" }])
}

fn sums(row: &Value) -> [u64; 4] {
    ["packets_sent", "bytes_sent", "packets_received", "bytes_received"].map(|name| number(&row[name]))
}

/// The rows' values of these columns.
fn cut(rows: &[Value], columns: &[&str]) -> Value {
    rows.iter().map(|row| columns.iter().map(|column| row[column].clone()).collect::<Value>()).collect()
}

#[test]
fn every_question_is_answered_by_the_records_and_to_their_owner_alone() -> anyhow::Result<()> {
    let scene = scene()?;
    eventually("some records", PATIENCE, || scene.tenant.list("/v1/flows").ok().filter(|all| all.len() > 9))?;
    stopped_while_others_are_answered(&scene)?;
    // Machines go on to talk with the router, so records may come between what is listed and what is asked.
    let compared = || scene.records().and_then(|records| peers(&scene, &records).and_then(|()| tops(&scene, &records)));
    compared().or_else(|_| compared())?;
    add_up_to_the_counters(&scene)?;
    what_went_wrong(&scene)?;
    in_sql(&scene)?;
    nobody_else(&scene)?;
    watched(&scene)
}

/// What leaves one host and never comes to the other has one end, and only that end's host can tell of it.
#[test]
fn a_flow_that_is_lost_between_two_hosts_was_seen_at_one_end() -> anyhow::Result<()> {
    let mut cloud = Cloud::start(Driver::Qemu, 2)?;
    let (operator, tenant) = (cloud.operator()?, cloud.tenant("first")?);
    let image = cloud.tiny()?;
    let (_, subnet) = tenant.network()?;
    let launch = |cloud: &Cloud, name: &str, address: &str, script: &str| -> anyhow::Result<String> {
        let instance = tenant.launch(json!({
            "image": image, "subnet": subnet, "memory": 128 << 20, "address": address,
            "user_data": script, "tags": {"Name": name},
        }))?;
        tenant.await_log(&instance, &format!("{name}-42"), BOOT).with_context(|| cloud.logs())?;
        Ok(instance)
    };
    let server = launch(&cloud, "server", "10.0.1.10", "#!/bin/sh\necho server-$((40+2))\n")?;
    let host = operator.get(&format!("/v1/instances/{server}"))?.ok()?["host"].clone();
    let path = format!("/v1/hosts/{}", text(&host));
    let shown = operator.get(&path)?.ok()?;
    let number = usize::from(text(&shown["description"]["name"]) == "host-2" || shown["name"] == "host-2");
    // Its switch goes with the agent, and its machines stay.
    cloud.kill_host(number);
    operator.await_state(&path, "state", "down", PATIENCE)?;
    let client = launch(&cloud, "client", "10.0.1.11", "#!/bin/sh\nping -c 1 -W 1 10.0.1.10\necho client-$((40+2))\n")?;
    let columns = ["initiator_instance", "responder", "responder_instance", "protocol", "finding", "packets_sent"];
    let expected = json!([[client, "10.0.1.10", null, 1, "seen-at-one-end", 1]]);
    let mut last = Vec::new();
    // Asked about what may not have been told by all: the records of a flow's two directions may come one after the other,
    // and between them any flow looks one-way.
    let asked = || {
        let rows = cloud.run(&tenant, &["flow", "asymmetric", "--until", LATER, "--output", "json"]).ok()?;
        last = serde_json::from_str::<Vec<Value>>(&rows).ok()?;
        (cut(&last, &columns) == expected && last[0]["packets_arrived"] == 0).then_some(())
    };
    let seen = eventually("that flow alone, when it is over", PATIENCE, asked);
    seen.with_context(|| format!("{last:?}\n{}", cloud.logs()))?;
    Ok(())
}

/// One question runs until it is stopped; a second is abandoned by its user. Others are answered meanwhile.
fn stopped_while_others_are_answered(scene: &Scene) -> anyhow::Result<()> {
    let one = ["query", "SELECT 1 AS one"];
    let body = json!({"sql": ENDLESS, "progress": "mine"});
    let asking = scene.tenant.request(Method::POST, "/v1/flows/query").json(&body);
    let stopped = thread::spawn(move || Api::send(asking));
    progress(scene)?;
    ensure!(scene.flow(&scene.tenant, &one)? == [json!({"one": 1})]);
    let (mut abandoned, began) = (scene.endless()?, Instant::now());
    thread::sleep(Duration::from_secs(2));
    ensure!(scene.flow(&scene.other, &one)? == [json!({"one": 1})], "another tenant is answered");
    let busy = scene.refusal(&scene.tenant, &one)?;
    ensure!(busy.starts_with("SqlBusy: "), "{busy}");
    abandoned.kill()?;
    let mut shown = String::new();
    abandoned.stdout.take().context("a terminal shows something")?.read_to_string(&mut shown)?;
    abandoned.wait()?;
    ensure!(shown.contains(" rows read") && !shown.contains("Sql"), "the terminal showed {shown:?}");
    let asked = Instant::now();
    ensure!(scene.flow(&scene.tenant, &one)? == [json!({"one": 1})], "who has gone away is not worked for");
    ensure!(
        asked.elapsed() < Duration::from_secs(4) && began.elapsed() < Duration::from_secs(15),
        "it was stopped late"
    );
    let large = scene.refusal(&scene.tenant, &["query", LARGE])?;
    ensure!(large.starts_with("SqlTooLarge: ") && large.contains("memory"), "{large}");
    let stopped = stopped.join().map_err(|_| anyhow!("the asking thread panicked"))??;
    let told = stopped.body["detail"].to_string();
    ensure!(stopped.code() == "SqlTooSlow" && told.contains("ask for less time"), "{stopped:?}");
    Ok(())
}

/// How far the question is that was named `mine`, for its own account alone.
fn progress(scene: &Scene) -> anyhow::Result<()> {
    let path = "/v1/flows/progress/mine";
    let works = || scene.tenant.get(path).ok()?.ok().ok().filter(|seen| seen["waits"] == false);
    let seen = eventually("the question is worked on", PATIENCE, works)?;
    ensure!(seen["elapsed"].as_u64() < Some(20_000) && seen["files_done"].as_u64() <= seen["files"].as_u64(), "{seen}");
    let others = scene.other.get(path)?;
    ensure!(others.code() == "InvalidQuestionId.NotFound", "{others:?}");
    Ok(())
}

/// What the switch counted at each interface, carried or dropped, is what its records add up to: once flows that go on have told
/// of it.
fn add_up_to_the_counters(scene: &Scene) -> anyhow::Result<()> {
    // Each flow that goes on is reported every second from here on.
    let order = ["flow-log", "create", "--instance"];
    for instance in [&scene.client, &scene.server] {
        scene.cloud.run(&scene.tenant, &[&order[..], &[instance, "--interval", "1s"]].concat())?;
    }
    let mut last = String::new();
    let alike = || {
        let shown = scene.cloud.run(&scene.tenant, &["interface", "list", "--output", "json"]).ok()?;
        let interfaces: Vec<Value> = serde_json::from_str(&shown).ok()?;
        let counted: BTreeMap<_, _> = interfaces
            .iter()
            .map(|interface| (text(&interface["instance"]).to_owned(), sums(&interface["counters"])))
            .collect();
        let recorded =
            tally(&scene.tenant.list("/v1/flows").ok()?, |record| Some(text(&record["instance"]).to_owned()));
        let recorded: BTreeMap<_, _> = recorded.into_iter().map(|(key, (sums, _))| (key, sums)).collect();
        last = format!("the counters say {counted:?}, the records {recorded:?}");
        (counted.len() == 2 && counted == recorded && counted.values().flatten().all(|sum| *sum > 0)).then_some(())
    };
    eventually("records and counters add up to the same", PATIENCE, alike).with_context(|| last)
}

fn peers(scene: &Scene, records: &[Value]) -> anyhow::Result<()> {
    let rows = scene.flow(&scene.tenant, &["peers", "--instance", "client"])?;
    let of_client = |record: &Value| (record["instance"] == scene.client.as_str()).then_some(());
    let expected = tally(records, |record| {
        of_client(record).map(|()| (peer(record).to_owned(), number(&record["protocol"]), port(record)))
    });
    // Five that the client asked for, and what its start asked the router: an address, and the metadata service.
    ensure!(expected.len() == 7, "{expected:?}");
    let key = |row: &Value| (text(&row["peer"]).to_owned(), number(&row["protocol"]), number(&row["port"]));
    let found: BTreeMap<_, _> =
        rows.iter().map(|row| (key(row), (sums(row), text(&row["verdicts"]).to_owned()))).collect();
    ensure!(found == expected && rows.len() == 7, "found {found:?}, expected {expected:?}");
    for row in &rows {
        let owner = if row["peer"] == "10.0.1.10" { json!(scene.server) } else { Value::Null };
        // Without their `Z`, times sort as text whether or not they have a fraction.
        let [first, last] = ["first_seen", "last_seen"].map(|name| text(&row[name]).trim_end_matches('Z'));
        ensure!(row["peer_instance"] == owner && !first.is_empty() && first <= last, "{row}");
    }
    let of_all: Vec<u64> = rows.iter().map(|row| sums(row)[1] + sums(row)[3]).collect();
    ensure!(of_all.is_sorted_by(|a, b| a >= b), "the largest come first: {of_all:?}");

    let rows = scene.flow(&scene.tenant, &["peers", "--account"])?;
    let expected = tally(records, |record| Some(peer(record).to_owned()));
    let found: BTreeMap<_, _> = rows
        .iter()
        .map(|row| (text(&row["peer"]).to_owned(), (sums(row), text(&row["verdicts"]).to_owned())))
        .collect();
    ensure!(found == expected && expected.len() == 5, "found {found:?}, expected {expected:?}");
    let operator = scene.cloud.operator()?;
    ensure!(scene.flow(&operator, &["peers", "--account", &scene.tenant.account])? == rows);
    ensure!(scene.flow(&operator, &["peers", "--account"])?.is_empty(), "the operator's own account has none");
    Ok(())
}

fn tops(scene: &Scene, records: &[Value]) -> anyhow::Result<()> {
    let rows = scene.flow(&scene.tenant, &["top", "talkers", "--by", "packets"])?;
    let expected = tally(records, |record| Some(text(&record["instance"]).to_owned()));
    let found: BTreeMap<_, _> = rows.iter().map(|row| (text(&row["instance"]).to_owned(), sums(row))).collect();
    ensure!(found == expected.into_iter().map(|(key, (sums, _))| (key, sums)).collect(), "{rows:?}");
    ensure!(rows[0]["instance"] == scene.client.as_str(), "the client sent more: {rows:?}");

    // Both are on one network, so each packet that was let through entered as someone's egress, or came from the router.
    let rows = scene.flow(&scene.tenant, &["top", "ports"])?;
    let expected = tally(records, |record| {
        let is_answer = record["path"] == "service";
        let entered = record["verdict"] == "accept" && (record["direction"] == "egress" || is_answer);
        entered.then(|| (number(&record["protocol"]), port(record)))
    });
    let key = |row: &Value| (number(&row["protocol"]), number(&row["port"]));
    let found: BTreeMap<_, _> =
        rows.iter().map(|row| (key(row), [number(&row["packets"]), number(&row["bytes"])])).collect();
    let both_ways = |sums: [u64; 4]| [sums[0] + sums[2], sums[1] + sums[3]];
    let expected: BTreeMap<_, _> = expected.into_iter().map(|(key, (sums, _))| (key, both_ways(sums))).collect();
    ensure!(found == expected && key(&rows[0]) == (6, 80), "found {found:?}, expected {expected:?}");
    ensure!(scene.flow(&scene.tenant, &["top", "ports", "--limit", "1"])? == rows[..1]);

    let rows = scene.flow(&scene.tenant, &["top", "rejects", "--by", "packets"])?;
    let mut found: Vec<Value> = vec![cut(&rows, &["instance", "direction", "peer", "protocol", "port", "end_reason"])];
    let expected = [
        json!([scene.server, "ingress", "10.0.1.11", 6, 82, "denied-by-group-at-destination"]),
        json!([scene.client, "egress", "10.0.2.200", 1, 0, "no-route"]),
    ];
    ensure!(found.remove(0) == json!(expected), "{rows:?}");
    Ok(())
}

fn what_went_wrong(scene: &Scene) -> anyhow::Result<()> {
    let rows = scene.flow(&scene.tenant, &["blackholes"])?;
    let mut found = cut(&rows, &["destination", "destination_instance", "protocol", "port"]);
    let found = found.as_array_mut().context("rows")?;
    found.sort_by_key(ToString::to_string);
    let mut expected = [
        json!(["10.0.1.10", scene.server, 6, 82]),
        json!(["10.0.1.10", scene.server, 1, 0]),
        json!(["10.0.2.200", null, 1, 0]),
    ];
    expected.sort_by_key(ToString::to_string);
    ensure!(*found == expected, "{rows:?}");
    let nowhere = rows.iter().find(|row| row["destination"] == "10.0.2.200").context("a row")?;
    ensure!(nowhere["packets"] == 1 && nowhere["no_route_packets"] == 1 && nowhere["bytes"] == 84, "{nowhere}");

    let rows = scene.flow(&scene.tenant, &["asymmetric", "--until", LATER])?;
    let columns =
        ["initiator_instance", "responder_instance", "protocol", "finding", "packets_sent", "packets_arrived"];
    let expected = json!([[scene.client, scene.server, 1, "one-way", 1, 1]]);
    ensure!(cut(&rows, &columns) == expected && rows[0]["answers_sent"] == 0, "{rows:?}");

    let rows = scene.flow(&scene.tenant, &["unused-rules"])?;
    let of_group = |row: &&Value| row["name"] == "web";
    let unused: Vec<&Value> = rows.iter().filter(of_group).collect();
    ensure!(unused.len() == 1 && unused[0]["rule"] == scene.spare_rule.as_str(), "{rows:?}");
    ensure!(unused[0]["younger"] == true && unused[0]["text"] == "UDP to port 53 from 10.0.0.0/16", "{rows:?}");
    // The other group is the VPC's default one, which nobody is in.
    ensure!(rows.len() == 3 && rows.iter().filter(|row| row["name"] == "default").count() == 2, "{rows:?}");
    Ok(())
}

fn in_sql(scene: &Scene) -> anyhow::Result<()> {
    // Machines go on to talk with the router, so both are asked until nothing came between.
    let agree = || {
        let records = scene.tenant.list("/v1/flows").ok()?;
        let packets: u64 = records.iter().map(|record| number(&record["packets"])).sum();
        let rows = scene.flow(&scene.tenant, &["query", "SELECT count(*) AS n, sum(packets) AS p FROM flows"]).ok()?;
        (rows == [json!({"n": records.len(), "p": packets})]).then_some(())
    };
    eventually("SQL counts what the list shows", PATIENCE, agree)?;
    let sql = "SELECT source, sum(bytes) AS b FROM flows WHERE destination = '10.0.2.200' GROUP BY source";
    let csv = scene.cloud.run(&scene.tenant, &["flow", "query", sql, "--format", "csv"])?;
    ensure!(csv == "source,b\r\n10.0.1.11,84\r\n", "{csv}");
    let table =
        scene.cloud.cli(&scene.tenant, &["flow", "query", "SELECT serial FROM flows", "--max-rows", "2"])?.output()?;
    ensure!(String::from_utf8_lossy(&table.stdout).lines().count() == 3, "{table:?}");
    ensure!(String::from_utf8_lossy(&table.stderr).contains("more rows than these 2"), "{table:?}");
    let columns = scene.flow(&scene.tenant, &["columns"])?;
    ensure!(
        columns.iter().any(|row| row["column"] == "end_reason") && !columns.iter().any(|row| row["column"] == "host")
    );
    let refused = scene.refusal(&scene.tenant, &["query", "SELECT host FROM flows"])?;
    ensure!(refused.starts_with("InvalidSql: ") && refused.contains("host"), "{refused}");
    let refused = scene.refusal(&scene.tenant, &["query", "DROP TABLE flows"])?;
    ensure!(refused.starts_with("SqlNotAllowed: "), "{refused}");
    let refused = scene.refusal(&scene.tenant, &["query", "--all-accounts", "SELECT 1"])?;
    ensure!(refused.starts_with("UnauthorizedOperation: "), "{refused}");
    let sql = "SELECT DISTINCT account, host IS NOT NULL AS known FROM flows";
    let rows = scene.flow(&scene.cloud.operator()?, &["query", "--all-accounts", sql])?;
    ensure!(rows == [json!({"account": scene.tenant.account, "known": true})], "{rows:?}");
    Ok(())
}

/// Whoever watches sees a flow when it comes, and nobody else's.
fn watched(scene: &Scene) -> anyhow::Result<()> {
    let watch = |api: &Api, more: &[&str]| -> anyhow::Result<Child> {
        let mut command = scene.cloud.cli(api, &[&["flow", "watch", "--output", "json"], more].concat())?;
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
    };
    let mut own = watch(&scene.tenant, &["--instance", "server", "--port", "81"])?;
    let mut others = watch(&scene.other, &[])?;
    let mut lines = BufReader::new(own.stdout.take().context("it has an output")?).lines();
    let line = thread::spawn(move || lines.next());
    // The watch may begin after a flow has ended; nobody is told when it did.
    let seen = eventually("a line", PATIENCE, || {
        scene.cloud.type_line(&scene.tenant, &scene.client, "timeout 3 wget -q -O - http://10.0.1.10:81/").ok()?;
        thread::sleep(Duration::from_secs(1));
        line.is_finished().then_some(())
    });
    for watching in [&mut own, &mut others] {
        watching.kill()?;
        watching.wait()?;
    }
    seen?;
    let line = line.join().map_err(|_| anyhow!("the reading thread panicked"))?.context("the watch ended")??;
    let event: Value = serde_json::from_str(&line)?;
    let record = &event["record"];
    ensure!(port(record) == 81 && record["instance"] == scene.server.as_str(), "{event}");
    ensure!(record.get("host").is_none(), "a tenant is told the host: {event}");
    let mut told = String::new();
    others.stdout.take().context("it has an output")?.read_to_string(&mut told)?;
    ensure!(told.is_empty(), "another tenant was told {told}");
    Ok(())
}

fn nobody_else(scene: &Scene) -> anyhow::Result<()> {
    let none =
        ["top talkers", "top ports", "top rejects", "asymmetric", "blackholes", "unused-rules", "peers --account"];
    for question in none.into_iter().map(|words| words.split(' ').collect::<Vec<_>>()) {
        let rows = scene.flow(&scene.other, &question)?;
        ensure!(rows.is_empty(), "{question:?} tells another tenant {rows:?}");
    }
    ensure!(scene.flow(&scene.other, &["peers", "--instance", &scene.client])?.is_empty());
    let rows = scene.flow(&scene.other, &["query", "SELECT count(*) AS n FROM flows"])?;
    ensure!(rows == [json!({"n": 0})], "{rows:?}");
    let refused = scene.refusal(&scene.other, &["peers", "--account", &scene.tenant.account])?;
    ensure!(refused.starts_with("UnauthorizedOperation: "), "{refused}");
    Ok(())
}
