//! What another's tool makes of a tenant's flows: nfcapd is fed the export over UDP, since it reads no IPFIX files, and
//! nfdump is asked what it has.
//!
//! Owns the process, which ends with the question, and the cutting of a file into messages. Reading the answer is pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{net::UdpSocket, process::Command, time::sleep};

use crate::failure::{Failure, LocalCode};

/// How to get it where it is missing.
pub(super) const PACKAGE: &str = "apt-get install nfdump";
const START_TIME: Duration = Duration::from_secs(5);
/// It takes from its socket as it likes, and is asked to end only then.
const TAKE_TIME: Duration = Duration::from_millis(500);
const LIST: &str = "fmt:%sa,%da,%pr,%sp,%dp,%pkt,%byt";

/// Source, destination, protocol and both ports; ports are 0 where the protocol has none.
type Flow = (IpAddr, IpAddr, u8, u16, u16);

/// Packets and bytes of each flow.
pub(super) type Counts = BTreeMap<Flow, (u64, u64)>;

/// What it made of a file.
pub(super) struct Opened {
    pub(super) counts: Counts,
    /// Messages whose number it did not expect.
    pub(super) sequence_errors: u64,
    /// Messages with option records beside flow records: RFC 7011 counts both, nfcapd only the latter, and so does not
    /// expect the number of the next message.
    pub(super) explained_errors: u64,
}

/// Feeds it the file; none where it is not installed.
pub(super) async fn open(file: &[u8]) -> Result<Option<Opened>, Failure> {
    let failed = |cause: io::Error| Failure::local(LocalCode::ProcessFailed, format!("nfcapd: {cause}"));
    let folder = tempfile::tempdir().map_err(failed)?;
    let socket = UdpSocket::bind("127.0.0.1:0").await.map_err(failed)?;
    let free = UdpSocket::bind("127.0.0.1:0").await.and_then(|socket| socket.local_addr()).map_err(failed)?;
    let port = free.port().to_string();
    let mut command = Command::new("nfcapd");
    command.args(["-b", "127.0.0.1", "-p", &port, "-t", "3600", "-w"]).arg(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let nfcapd = match command.spawn() {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        spawned => spawned.map_err(failed)?,
    };
    until_it_listens(free).await?;
    let messages = messages(file);
    for message in &messages {
        socket.send_to(message, free).await.map_err(failed)?;
        sleep(Duration::from_millis(1)).await;
    }
    sleep(TAKE_TIME).await;
    if let Some(pid) = nfcapd.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It is a child that nobody has waited for yet, so the pid is its own.
        kill_process(pid, Signal::TERM).map_err(|cause| failed(cause.into()))?;
    }
    let said = nfcapd.wait_with_output().await.map_err(failed)?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    let explained_errors = messages.iter().filter(|message| has_both(message)).count() as u64;
    Ok(Some(Opened { counts: list(folder.path()).await?, sequence_errors: sequence_errors(&said), explained_errors }))
}

/// It listens when nobody else can any more.
async fn until_it_listens(address: SocketAddr) -> Result<(), Failure> {
    let listens = async {
        while UdpSocket::bind(address).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let late = |_| Failure::local(LocalCode::ProcessFailed, "nfcapd does not listen");
    tokio::time::timeout(START_TIME, listens).await.map_err(late)
}

async fn list(folder: &Path) -> Result<Counts, Failure> {
    let mut command = Command::new("nfdump");
    command.arg("-R").arg(folder).args(["-q", "-N", "-o", LIST]);
    let output = command.output().await;
    let output = output.map_err(|cause| Failure::local(LocalCode::ProcessFailed, format!("nfdump: {cause}")))?;
    Ok(read_list(&String::from_utf8_lossy(&output.stdout)))
}

/// The sum of "Sequence Errors" in its last words.
fn sequence_errors(said: &str) -> u64 {
    let numbers = said.split("Sequence Errors: ").skip(1);
    numbers.filter_map(|rest| rest.split(',').next()?.trim().parse::<u64>().ok()).sum()
}

fn read_list(text: &str) -> Counts {
    let mut counts = Counts::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [source, destination, protocol, from, to, packets, bytes] = fields[..] else { continue };
        let ports = [from, to].map(|port| port.parse().unwrap_or(0));
        let addresses = source.parse().ok().zip(destination.parse().ok());
        let numbers = packets.parse().ok().zip(bytes.parse().ok());
        if let (Some((source, destination)), Ok(protocol), Some(amount)) = (addresses, protocol.parse(), numbers) {
            add(&mut counts, (source, destination, protocol, ports[0], ports[1]), amount);
        }
    }
    counts
}

/// The same of the lines of an export in JSON.
pub(super) fn read_json_lines(text: &str) -> Counts {
    let mut counts = Counts::new();
    for record in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let address = |field: &str| record[field].as_str()?.parse().ok();
        let number = |field: &str| record[field].as_u64().unwrap_or(0);
        let port = |field: &str| number(field) as u16;
        if let Some((source, destination)) = address("source").zip(address("destination")) {
            let flow = (source, destination, number("protocol") as u8, port("source_port"), port("destination_port"));
            add(&mut counts, flow, (number("packets"), number("bytes")));
        }
    }
    counts
}

/// The ports of protocols that have none are used by nfdump for something else.
fn add(counts: &mut Counts, flow: Flow, (packets, bytes): (u64, u64)) {
    let (source, destination, protocol, from, to) = flow;
    let ports = if [6, 17].contains(&protocol) { (from, to) } else { (0, 0) };
    let sum = counts.entry((source, destination, protocol, ports.0, ports.1)).or_default();
    *sum = (sum.0 + packets, sum.1 + bytes);
}

/// The messages of an IPFIX file, each with its header (RFC 5655).
fn messages(mut file: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some(length) = file.get(2..4).map(|octets| usize::from(u16::from_be_bytes([octets[0], octets[1]]))) {
        let Some((message, rest)) = file.split_at_checked(length).filter(|_| length >= 16) else { break };
        messages.push(message);
        file = rest;
    }
    messages
}

/// Whether a message that says its own templates has records of options and of flows.
fn has_both(message: &[u8]) -> bool {
    let mut sets = message.get(16..).unwrap_or_default();
    let (mut options, mut data) = (BTreeSet::new(), Vec::new());
    while let [a, b, c, d, ..] = *sets {
        let (id, length) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
        let Some((set, rest)) = sets.split_at_checked(length).filter(|_| length > 4) else { break };
        match id {
            3 => options.extend(template_ids(&set[4..])),
            256.. => data.push(id),
            _ => {}
        }
        sets = rest;
    }
    data.iter().any(|id| options.contains(id)) && data.iter().any(|id| !options.contains(id))
}

/// The ids of the options templates of a set.
fn template_ids(mut templates: &[u8]) -> Vec<u16> {
    let mut ids = Vec::new();
    while let [a, b, c, d, _, _, ref fields @ ..] = *templates {
        ids.push(u16::from_be_bytes([a, b]));
        templates = fields;
        for _ in 0..u16::from_be_bytes([c, d]) {
            // An enterprise's number follows where the first bit is set.
            let length = if templates.first().is_some_and(|octet| octet & 0x80 != 0) { 8 } else { 4 };
            templates = templates.get(length..).unwrap_or_default();
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_say_the_same_of_the_same_flows() {
        let listed = "        10.0.0.1,        10.0.0.2,6    ,  1000,    80,       1,     100\n\
                      10.0.0.1,10.0.0.2,6,1000,80,2,200\n10.0.0.1,10.0.0.2,1,0,8.0,1,84\nNo matching flows\n";
        let exported = r#"{"source":"10.0.0.1","destination":"10.0.0.2","protocol":6,"source_port":1000,"destination_port":80,"packets":3,"bytes":300}
{"source":"10.0.0.1","destination":"10.0.0.2","protocol":1,"source_port":0,"destination_port":0,"packets":1,"bytes":84}"#;
        assert_eq!(read_list(listed), read_json_lines(exported));
        assert_eq!(read_list(listed).len(), 2);
    }

    #[test]
    fn its_last_words_say_how_many_messages_it_did_not_expect() {
        assert_eq!(sequence_errors("Ident: 'none' Flows: 9, Sequence Errors: 2, Bad Packets: 0\n"), 2);
        assert_eq!(sequence_errors(""), 0);
    }

    fn set(id: u16, body: &[u8]) -> Vec<u8> {
        let length = (4 + body.len()) as u16;
        [&id.to_be_bytes(), &length.to_be_bytes(), body].concat()
    }

    fn message(sets: &[Vec<u8>]) -> Vec<u8> {
        let body = sets.concat();
        let length = (16 + body.len()) as u16;
        [&10u16.to_be_bytes(), &length.to_be_bytes(), [0; 12].as_slice(), &body].concat()
    }

    #[test]
    fn a_file_is_cut_into_its_messages_and_what_is_torn_is_left_out() {
        let enterprise = [1, 2, 0, 1, 0, 1, 0x80, 10, 0, 4, 0, 0, 0x7e, 0xd9];
        let options = set(3, &[enterprise.as_slice(), &[1, 1, 0, 1, 0, 1, 0, 10, 0, 4]].concat());
        let (named, flows) = (set(257, &[0; 4]), set(256, &[0; 8]));
        let (both, alone) = (message(&[options.clone(), named.clone(), flows.clone()]), message(&[options, named]));
        let mut file = [both.clone(), alone.clone(), message(&[flows])].concat();
        assert_eq!(messages(&file).len(), 3);
        assert!(has_both(&both) && !has_both(&alone));
        file.pop();
        assert_eq!(messages(&file), [both, alone]);
    }
}
