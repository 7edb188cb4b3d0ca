//! Authoriser, carrier and reader with their files, and a host in between that is a few lines: the commands fit together.

use std::{fs, path::Path};

use clap::Parser as _;
use lucarne_attest::canonical;
use lucarne_model::{ErrorCode, HostId, Moment};
use lucarne_seal::{
    age::{Recipient, Seed, writer::Writer},
    card::Card,
    receipt::{Consistency, Outcome, Receipt, Tally},
    request::RequestId,
    sealed_request,
};

use super::*;
use crate::{
    command_line::{Command, CommandLine},
    commands::seal_request,
};

fn run(folder: &Path, line: &str) -> Result<(), Failure> {
    let line = line.replace('@', &format!("{}/", folder.display()));
    let typed = CommandLine::try_parse_from(line.split(' ').map(|word| word.replace('_', " "))).expect("a command");
    match typed.command {
        Command::Seal(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(command.run(&typed.global))
        }
        other => panic!("another noun: {other:?}"),
    }
}

const ASKED: &str = "lucarne seal request guest.memory.read --argument space=physical --argument address=0x1000 \
    --argument length=4096 --host host-00000000000000001 --host-key @host.pub --instance i-00000000000000007 \
    --generation 2 --account 100000000005 --sign-key @alice --purpose a_ticket --out @request";

/// A folder with the keys of all, a request, and the result of it with its receipt.
fn scene() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, purpose) in [("alice", "signing"), ("bob", "signing"), ("host", "signing"), ("reader", "reading")] {
        run(folder.path(), &format!("lucarne seal keygen --purpose {purpose} --out @{name}")).expect("a key");
    }
    let recipient = fs::read_to_string(folder.path().join("reader.pub")).expect("a key");
    run(folder.path(), &format!("{ASKED} --result-key {}", recipient.trim())).expect("a request");
    let content: Vec<u8> = (0..300_000).map(|at| (at % 251) as u8).collect();
    answer(folder.path(), &content, recipient.trim().parse().expect("a recipient"));
    (folder, content)
}

/// What a host does, once it has judged the request.
fn answer(folder: &Path, content: &[u8], recipient: Recipient) {
    let envelope = seal_request::read(&folder.join("request")).expect("a request");
    let mut file = Vec::new();
    let mut writer = Writer::begin(&Seed::new([1; 32]), &[recipient], &mut file).expect("begun");
    writer.push(content, &mut file).expect("pushed");
    writer.finish(&mut file).expect("finished");
    let mut tally = Tally::default();
    tally.push(&file);
    let receipt = Receipt {
        request: RequestId::of(&envelope),
        host: HostId::from_bits(1),
        time: Moment::EPOCH,
        log_index: 0,
        occurrence: None,
        outcome: Outcome::Done {
            operation: OperationName::GuestMemoryRead,
            result: tally.finish().expect("a result"),
            consistency: Consistency::Instant,
            paused_nanoseconds: 0,
        },
        quote: None,
    };
    let signed = read_signing_key(&folder.join("host")).expect("a key").sign(&receipt).expect("an envelope");
    fs::write(folder.join("result.receipt"), canonical::write(&signed).expect("octets")).expect("written");
    fs::write(folder.join("result"), file).expect("written");
}

const VERIFY: &str = "lucarne seal verify @result --request @request --host-key @host.pub";
const OPEN: &str = "lucarne seal open @result --request @request --host-key @host.pub --key @reader --out @content";

#[test]
fn what_was_asked_on_files_comes_back_to_its_reader() {
    let (folder, content) = scene();
    run(folder.path(), VERIFY).expect("whole");
    run(folder.path(), OPEN).expect("opened");
    assert!(fs::read(folder.path().join("content")).expect("content") == content);
    run(folder.path(), "lucarne seal show @request --signed-octets @octets").expect("shown");
    assert!(fs::read(folder.path().join("octets")).expect("octets").starts_with(b"DSSEv1 "));
    run(folder.path(), "lucarne seal operations --output json").expect("a list");
    run(folder.path(), "lucarne seal operations guest.memory.read").expect("one of them");
}

/// Who wants the host's TPM to have said it takes no receipt without that, and believes no card of another host's.
#[test]
fn a_receipt_without_a_quote_is_refused_where_one_is_required() {
    let (folder, _) = scene();
    let key = |name: &str| read_signing_key(&folder.path().join(name)).expect("a key");
    let card = |name: &str| {
        let recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj".parse().expect("a recipient");
        let card = Card::make(HostId::from_bits(1), (&key(name), &key(name)), (recipient, 0), None).expect("a card");
        fs::write(folder.path().join("card"), canonical::write(&card).expect("octets")).expect("written");
    };
    let refused = |line: &str| run(folder.path(), line).expect_err("refused").code();
    card("host");
    assert_eq!(refused(&format!("{VERIFY} --require-quote @card")), Some(ErrorCode::HostNotProved));
    assert_eq!(refused(&format!("{OPEN} --require-quote @card")), Some(ErrorCode::HostNotProved));
    assert!(!folder.path().join("content").exists());
    let vouched = format!("{VERIFY} --require-quote @card --authority @bob.pub");
    assert_eq!(refused(&vouched), Some(ErrorCode::SealKeyUntrusted));
    card("bob");
    assert_eq!(refused(&format!("{VERIFY} --require-quote @card")), Some(ErrorCode::AttestationKeyUntrusted));
}

/// Attack: a result that was cut, changed or made by somebody else leaves nothing behind that could be used.
#[test]
fn nothing_is_opened_without_a_good_receipt() {
    let (folder, content) = scene();
    let good = fs::read(folder.path().join("result")).expect("a result");
    let refused = |code| {
        assert_eq!(run(folder.path(), OPEN).expect_err("refused").code(), Some(code));
        assert!(!folder.path().join("content").exists() && !folder.path().join("content.unproved").exists());
    };
    fs::write(folder.path().join("result"), &good[..good.len() - 1]).expect("written");
    refused(ErrorCode::SealResultUnreadable);
    // Sealed for the right reader, and not by the host.
    let recipient: Recipient =
        fs::read_to_string(folder.path().join("reader.pub")).expect("a key").trim().parse().expect("a recipient");
    let mut forged = Vec::new();
    let mut writer = Writer::begin(&Seed::new([2; 32]), &[recipient], &mut forged).expect("begun");
    writer.push(&content, &mut forged).expect("pushed");
    writer.finish(&mut forged).expect("finished");
    fs::write(folder.path().join("result"), forged).expect("written");
    refused(ErrorCode::SealReceiptInvalid);
    fs::write(folder.path().join("result"), &good).expect("written");
    // Another request's receipt.
    let recipient = fs::read_to_string(folder.path().join("reader.pub")).expect("a key");
    run(folder.path(), &format!("{ASKED} --result-key {}", recipient.trim())).expect("another request");
    refused(ErrorCode::SealReceiptInvalid);
}

#[test]
fn a_second_person_signs_and_nobody_twice() {
    let (folder, _) = scene();
    run(folder.path(), "lucarne seal sign @request --sign-key @bob").expect("signed");
    let envelope = seal_request::read(&folder.path().join("request")).expect("a request");
    assert_eq!(envelope.signatures.len(), 2);
    run(folder.path(), VERIFY).expect("the request is the same");
    let twice = run(folder.path(), "lucarne seal sign @request --sign-key @bob").expect_err("refused");
    assert_eq!(twice.code(), Some(ErrorCode::SealEnvelopeMalformed));
    let envelope = seal_request::read(&folder.path().join("request")).expect("still a request");
    assert_eq!(envelope.signatures.len(), 2);
}

#[test]
fn a_request_for_one_host_alone_is_read_there_and_nowhere_else() {
    let (folder, _) = scene();
    run(folder.path(), "lucarne seal keygen --purpose reading --out @chip").expect("a key");
    let recipient = fs::read_to_string(folder.path().join("chip.pub")).expect("a key");
    let encrypt = format!("--host-recipient {} --out @sealed", recipient.trim());
    run(folder.path(), &format!("lucarne seal encrypt @request {encrypt}")).expect("sealed");
    let sealed = fs::read(folder.path().join("sealed")).expect("a file");
    let identity = |name: &str| {
        let text = fs::read_to_string(folder.path().join(name)).expect("a key");
        Identity::from_file(&text).expect("an identity")
    };
    let envelope = fs::read(folder.path().join("request")).expect("a request");
    assert!(sealed_request::open(&sealed, &identity("chip")) == Ok(envelope));
    assert!(sealed_request::open(&sealed, &identity("reader")).is_err());
    let wrong = run(folder.path(), &format!("lucarne seal encrypt @reader.pub {encrypt}")).expect_err("refused");
    assert_eq!(wrong.code(), Some(ErrorCode::SealEnvelopeMalformed));
}

#[test]
fn what_makes_no_sense_is_not_written() {
    let (folder, _) = scene();
    let recipient = fs::read_to_string(folder.path().join("reader.pub")).expect("a key");
    let asked = format!("{ASKED} --result-key {}", recipient.trim()).replace("@request", "@wrong");
    let wrong = [
        (asked.replace("length=4096", "length=0"), 1),
        (asked.replace("--argument space=physical ", ""), 1),
        (asked.replace("length=4096", "more=1"), 2),
        (asked.replace("length=4096", "length=many"), 2),
        (format!("{asked} --valid 2d"), 1),
        (asked.replace("guest.memory.read", "host.health"), 2),
    ];
    for (line, exit) in wrong {
        assert_eq!(run(folder.path(), &line).expect_err("refused").exit_code(), exit, "{line}");
        assert!(!folder.path().join("wrong").exists(), "{line}");
    }
    let again = run(folder.path(), "lucarne seal keygen --out @alice").expect_err("a key is not written over");
    assert_eq!(again.exit_code(), 1);
}
