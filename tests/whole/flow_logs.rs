//! Flow logs on real VMs: only what they are about is reported more often and delivered, an edit is followed, a destination that
//! is away misses nothing, and what the network's ACL and the operator do to traffic is in the tenant's records without being the
//! operator's own.
//!
//! One machine, `asks` in subnet `front`, pings and fetches from another one, `answers` in subnet `back` on another host.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use lucarne_tests::{
    api::Api,
    bucket::Bucket,
    cloud::{Cloud, Driver},
    eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

const BOOT: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(40);
/// The ACL's port; nobody listens there.
const DENIED_PORT: u16 = 81;

const ANSWERS: &str = "#!/bin/sh
mkdir -p /srv/www
echo page > /srv/www/index.html
httpd -p 80 -h /srv/www
";

/// Three pings a second, each a flow that goes on, and a page and a denied port every second.
const ASKS: &str = "#!/bin/sh
for n in 1 2 3; do ping 10.0.2.10 > /dev/null & done
while :; do
    timeout 2 wget -q -O /dev/null http://10.0.2.10/ &
    timeout 2 wget -q -O /dev/null http://10.0.2.10:81/ &
    sleep 1
done > /dev/null 2>&1 &
";

struct Scene {
    cloud: Cloud,
    tenant: Api,
    acl: String,
    front: String,
    asks: String,
    answers: String,
}

impl Scene {
    /// The network, and two machines that are being launched on two hosts.
    fn set() -> anyhow::Result<Self> {
        let cloud = Cloud::start(Driver::Qemu, 2)?;
        let image = cloud.tiny()?;
        let tenant = cloud.tenant("first")?;
        let (vpc, front) = tenant.network()?;
        let back = tenant.make("/v1/subnets", json!({"vpc": vpc, "cidr": "10.0.2.0/24"}), "/id")?;
        let acl = tenant.get(&format!("/v1/vpcs/{vpc}"))?.ok()?["default_network_acl"].as_str().map(Into::into);
        let hosts = cloud.operator()?.list("/v1/hosts")?;
        let launch = |subnet: &str, address: &str, host: usize, user_data: &str| {
            tenant.launch(json!({
                "image": image, "subnet": subnet, "address": address, "memory": 128 << 20,
                "placement": {"host": hosts[host]["id"]}, "user_data": user_data,
            }))
        };
        let answers = launch(&back, "10.0.2.10", 1, ANSWERS)?;
        let asks = launch(&front, "10.0.1.10", 0, ASKS)?;
        Ok(Self { acl: acl.context("no default ACL")?, cloud, tenant, front, asks, answers })
    }

    fn await_machines(&self) -> anyhow::Result<()> {
        for machine in [&self.answers, &self.asks] {
            self.tenant.await_log(machine, "lucarne: ready", BOOT).with_context(|| self.cloud.logs())?;
        }
        Ok(())
    }

    /// The tenant's records of a machine.
    fn records(&self, machine: &str, filter: &str) -> anyhow::Result<Vec<Value>> {
        let page = self.tenant.get(&format!("/v1/flows?since=0&limit=1000&instance={machine}&{filter}"))?.ok()?;
        Ok(page["items"].as_array().cloned().unwrap_or_default())
    }

    fn await_record(&self, machine: &str, filter: &str) -> anyhow::Result<Value> {
        let found =
            eventually(&format!("a record with {filter}"), PATIENCE, || self.records(machine, filter).ok()?.pop());
        found.with_context(|| format!("{:?}", self.records(machine, "").map(|all| tally(&all))))
    }
}

/// How many records there are of each protocol, port and end.
fn tally(records: &[Value]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for record in records {
        let what = ["direction", "protocol", "destination_port", "end_reason"].map(|field| record[field].to_string());
        *tally.entry(what.join(" ")).or_default() += 1;
    }
    tally
}

#[test]
fn flow_logs_reach_their_tenant_and_tell_what_acl_and_operator_did() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let log = ordered_once(&scene, &format!("ipfix+tcp://{address}"))?;
    let path = format!("/v1/flow-logs/{log}");
    scene.await_machines()?;
    told_while_it_is_away(&scene, &path)?;
    let listener = TcpListener::bind(address)?;
    delivered_when_it_comes(&scene, &path, &listener)?;
    only_what_is_concerned_is_reported_more_often(&scene, &log)?;
    acl_entries_are_named(&scene)?;
    only_what_is_ordered_comes_to_a_bucket(&scene)?;
    mitigations_are_told_and_stay_the_operators(&scene)?;
    edited_and_deleted(&scene, &path)
}

/// The same order twice is one flow log; a tenant cannot order files on the collector's machine.
fn ordered_once(scene: &Scene, to: &str) -> anyhow::Result<String> {
    let target = json!({"kind": "subnet", "subnet": scene.front});
    let order = || {
        let request = scene.tenant.request(Method::POST, "/v1/flow-logs").header("idempotency-key", "one flow log");
        let body = json!({"target": target, "to": to});
        Api::send(request.json(&body))?.ok()
    };
    let (first, again) = (order()?, order()?);
    ensure!(first["id"] == again["id"] && scene.tenant.list("/v1/flow-logs")?.len() == 1, "{first} {again}");
    let file = scene.tenant.post("/v1/flow-logs", &json!({"target": target, "to": "file:///tmp"}))?;
    ensure!(file.code() == "UnauthorizedOperation", "{file:?}");
    let bucket = json!({"target": target, "to": "s3://my-logs/lab?endpoint=http://192.0.2.1"});
    let bucket = scene.tenant.post("/v1/flow-logs", &bucket)?;
    ensure!(bucket.code() == "InvalidParameterValue", "a bucket without a key: {bucket:?}");
    first["id"].as_str().map(Into::into).context("no id")
}

fn told_while_it_is_away(scene: &Scene, path: &str) -> anyhow::Result<()> {
    let told = eventually("the destination is told to be away", PATIENCE, || {
        let delivery = scene.tenant.get(path).ok()?.ok().ok()?["delivery"].clone();
        (delivery["last_error"].is_string() && delivery["waiting"].as_u64() > Some(0)).then_some(delivery)
    })?;
    ensure!(told["delivered"] == 0, "{told}");
    Ok(())
}

fn delivered_when_it_comes(scene: &Scene, path: &str, listener: &TcpListener) -> anyhow::Result<()> {
    let octets = read_until(&mut accepted(listener)?, &id_octets(&scene.asks)?)?;
    ensure!(octets.starts_with(&[0, 10]), "no IPFIX: {:?}", &octets[..octets.len().min(16)]);
    ensure!(!contains(&octets, &id_octets(&scene.answers)?), "the other subnet's machine is in it");
    eventually("the delivery is well", PATIENCE, || {
        let delivery = scene.tenant.get(path).ok()?.ok().ok()?["delivery"].clone();
        (delivery["last_error"].is_null() && delivery["delivered"].as_u64() > Some(0)).then_some(())
    })
}

fn accepted(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let stream = eventually("the collector connects", PATIENCE, || listener.accept().ok())?.0;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(stream)
}

fn read_until(stream: &mut TcpStream, wanted: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (mut octets, mut buffer, begun) = (Vec::new(), vec![0; 65_536], Instant::now());
    while !contains(&octets, wanted) {
        ensure!(begun.elapsed() < PATIENCE, "{} octets came without the machine", octets.len());
        match stream.read(&mut buffer) {
            Ok(0) => bail!("it hung up after {} octets", octets.len()),
            Ok(count) => octets.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(octets)
}

/// The 68 bits of an id as records carry them.
fn id_octets(id: &str) -> anyhow::Result<[u8; 9]> {
    let digits = id.split_once('-').context("no id")?.1;
    let octets = u128::from_str_radix(digits, 16)?.to_be_bytes();
    Ok(octets[7..].try_into()?)
}

fn contains(octets: &[u8], wanted: &[u8]) -> bool {
    octets.windows(wanted.len()).any(|window| window == wanted)
}

/// The pings go on: reported every second where the flow log is that is edited so, and else every ten as it was ordered.
fn only_what_is_concerned_is_reported_more_often(scene: &Scene, log: &str) -> anyhow::Result<()> {
    scene.cloud.run(&scene.tenant, &["flow-log", "edit", log, "--interval", "1s"])?;
    let slices = |machine: &str| {
        let records = scene.records(machine, "protocol=1&end_reason=active-slice&direction=egress");
        records.map(|records| records.len())
    };
    let often = eventually("twelve slices of each ping", PATIENCE, || slices(&scene.asks).ok().filter(|n| *n >= 36))?;
    let seldom = slices(&scene.answers)?;
    ensure!(seldom * 4 <= often, "{often} slices with a flow log, {seldom} without");
    Ok(())
}

fn acl_entries_are_named(scene: &Scene) -> anyhow::Result<()> {
    let entry = json!({
        "number": 1, "direction": "ingress", "action": "reject", "cidr": "10.0.1.0/24",
        "traffic": {"protocol": "tcp", "from_port": DENIED_PORT, "to_port": DENIED_PORT},
    });
    let entry = scene.tenant.post(&format!("/v1/network-acls/{}/entries", scene.acl), &entry)?.ok()?;
    let record = scene.await_record(&scene.answers, "end_reason=denied-by-network-acl")?;
    ensure!(record["rule"] == entry["id"] && record["verdict"] == "reject", "{entry} {record}");
    ensure!(record["destination_port"] == DENIED_PORT, "{record}");
    Ok(())
}

/// Two flow logs by command: what is rejected at one machine, and what is accepted at one interface. Then the first becomes
/// another.
fn only_what_is_ordered_comes_to_a_bucket(scene: &Scene) -> anyhow::Result<()> {
    const FORMAT: &str = "${action} ${instance-id} ${interface-id} ${dstport} ${end-reason}";
    let Scene { cloud, tenant, asks, answers, .. } = scene;
    let bucket = Bucket::start(cloud.dir())?;
    let interface = |of: &str| -> anyhow::Result<String> {
        let of = tenant.get(&format!("/v1/instances/{of}"))?.ok()?;
        of["interface"].as_str().map(Into::into).context("no interface")
    };
    let asks_interface = interface(asks)?;
    let run = |arguments: &[&str]| -> anyhow::Result<String> {
        let mut command = cloud.cli(tenant, &[&["flow-log"], arguments].concat())?;
        let keys = [("LUCARNE_STORE_ACCESS_KEY_ID", "AKTEST"), ("LUCARNE_STORE_SECRET_ACCESS_KEY", "a-secret")];
        let output = command.envs(keys).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let order = |name: &str, target: [&str; 2], traffic: &str| {
        let to = bucket.destination(name);
        let order = ["create", "--name", name, target[0], target[1], "--traffic", traffic, "--interval", "1s"];
        run(&[&order[..], &["--format", FORMAT, "--to", &to]].concat())
    };
    order("rejects", ["--instance", answers], "reject")?;
    order("accepts", ["--interface", &asks_interface], "accept")?;
    let rows = |folder: &str, header: &str| -> anyhow::Result<Vec<String>> {
        let texts = bucket.texts(folder)?.into_values().filter(|text| text.first().is_some_and(|line| line == header));
        Ok(texts.flat_map(|text| text.into_iter().skip(1)).collect())
    };
    let some = |folder: &str, header: &str| {
        let found = || rows(folder, header).ok().filter(|rows| rows.len() >= 5);
        eventually(&format!("rows under {folder}"), PATIENCE, found).with_context(|| cloud.logs())
    };
    let header = "action instance-id interface-id dstport end-reason";
    let (rejects, accepts) = (some("rejects", header)?, some("accepts", header)?);
    let denied = format!("REJECT {answers} {} {DENIED_PORT} denied-by-network-acl", interface(answers)?);
    ensure!(rejects.iter().all(|row| *row == denied), "{rejects:?}");
    let accepted = format!("ACCEPT {asks} {asks_interface} ");
    ensure!(accepts.iter().all(|row| row.starts_with(&accepted)), "{accepts:?}");
    run(&["edit", "rejects", "--traffic", "accept", "--format", "${action} ${instance-id}"])?;
    let edited = some("rejects", "action instance-id")?;
    ensure!(edited.iter().all(|row| *row == format!("ACCEPT {answers}")), "{edited:?}");
    let shown: Value = serde_json::from_str(&run(&["show", "rejects", "--output", "json"])?)?;
    ensure!(shown["traffic"] == "accept" && shown["delivery"]["delivered"].as_u64() > Some(9), "{shown}");
    let listed = run(&["list"])?;
    ensure!(["rejects", "accepts"].iter().all(|name| listed.contains(name)), "{listed}");
    run(&["delete", "rejects", "accepts"])?;
    ensure!(tenant.list("/v1/flow-logs")?.len() == 1, "they are still there");
    Ok(())
}

fn mitigations_are_told_and_stay_the_operators(scene: &Scene) -> anyhow::Result<()> {
    let operator = scene.cloud.operator()?;
    let orders =
        [("abuse-mitigation", ["--block", "--port", "80"]), ("rate-limited", ["--cap=1", "--protocol", "icmp"])];
    for (end_reason, order) in orders {
        let common = ["--instance", &scene.answers, "--reason", "a test", "--for", "1h"];
        let create = [&["mitigation", "create"], &order[..], &common].concat();
        let by_tenant = scene.cloud.cli(&scene.tenant, &create)?.output()?;
        ensure!(!by_tenant.status.success(), "a tenant ordered a mitigation");
        let order = scene.cloud.run(&operator, &create)?.trim().to_owned();
        let listed = scene.cloud.run(&operator, &["mitigation", "list"])?;
        ensure!(order.starts_with("mit-") && listed.contains(&order), "{order}: {listed}");
        // One that was open when the order came was accepted until then, and says that the order ended it.
        let record = scene.await_record(&scene.answers, &format!("end_reason={end_reason}&verdict=reject"))?;
        ensure!(!record.to_string().contains(&order), "{record}");
        ensure!(record.get("mitigation").is_none() && record.get("host").is_none(), "the operator's own: {record}");
        let sql = format!("SELECT DISTINCT mitigation FROM flows WHERE end_reason = '{end_reason}'");
        let told = eventually("the operator's record names the order", PATIENCE, || {
            let rows = super::records::ask_in_sql(&scene.cloud, &sql).ok()?;
            rows.to_string().contains(&order).then_some(rows)
        });
        told?;
        scene.cloud.run(&operator, &["mitigation", "delete", &order])?;
    }
    Ok(())
}

/// What is refused goes to another place over UDP; after the deletion nothing does.
fn edited_and_deleted(scene: &Scene, path: &str) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let edit = json!({"to": format!("ipfix://{}", socket.local_addr()?)});
    let edited = Api::send(scene.tenant.request(Method::PATCH, path).json(&edit))?.ok()?;
    ensure!(edited["to"] == edit["to"] && edited["interval_millis"] == 1000, "{edited}");
    let mut datagram = [0; 2048];
    let length = socket.recv(&mut datagram).context("nothing came over UDP")?;
    ensure!(length > 16 && datagram.starts_with(&[0, 10]), "no IPFIX");
    scene.tenant.delete(path)?.ok()?;
    ensure!(scene.tenant.get(path)?.status == 404, "it is still there");
    // The controller tells the collector at once, who may be in the middle of a batch.
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let begun = Instant::now();
    while socket.recv(&mut datagram).is_ok() {
        ensure!(begun.elapsed() < PATIENCE, "records still come");
    }
    Ok(())
}
