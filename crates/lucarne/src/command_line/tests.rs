//! What the command line promises to scripts: each line here is one that others rely on.

use clap::{CommandFactory, error::ErrorKind};

use super::*;

const ACCEPTED: &[&str] = &[
    "attestation verify d --nonce 00ff --roots makers.pem --manifest-key notary.pub --output json",
    "notary --state-dir d --name notary.example --listen 127.0.0.1:7090 --inspect built",
    "notary add acme --url http://127.0.0.1:7090",
    "notary list --output json",
    "notary remove acme",
    "publisher add acme --notary acme --key notary.pub --series host",
    "publisher list",
    "publisher show acme",
    "publisher remove acme",
    "vpc attest-policy set blue --attest manifest=acme --on-mismatch quarantine --recheck-every 5m",
    "vpc attest-policy show blue --output json",
    "attest-policy set blue --attest list",
    "attest-policy show blue",
    "attest-policy clear blue",
    "manifest submit --token-file t --name host --measurements m.json",
    "manifest publish --token-file t --name host --measurements m.json --valid 2h --oldest-accepted 2",
    "manifest list --notary http://127.0.0.1:7090",
    "manifest show host 2",
    "manifest verify host --key notary.pub --state seen.json",
    "manifest verify --file manifest.json --key notary.pub",
    "manifest revoke host 2 --reason flaw --token-file t",
    "dev",
    "dev --hosts 3 --state-dir /tmp/d --listen 127.0.0.1:0 --ready-file /tmp/r",
    "account create --name acme",
    "account list --output json",
    "account show 100000000000",
    "account delete acme",
    "user create --name eve --role reader",
    "access-key create --user eve",
    "access-key list",
    "access-key delete LKABC",
    "host list --output yaml",
    "host show host-1",
    "image warm tiny --memory 128M --cpus 2 --wait",
    "image cool tiny",
    "instance launch --image tiny --subnet front --cold",
    "host drain host-1",
    "host resume host-1",
    "image build tiny",
    "image list --output json",
    "image show tiny",
    "image delete tiny",
    "image import disk.qcow2 --name debian --minimum-memory 512M",
    "vpc create --cidr 10.0.0.0/16 --name blue",
    "vpc list --filter tag:Name=b* --limit 5",
    "vpc show blue --output json",
    "vpc delete blue",
    "vpc delete blue --deepen-duplicates",
    "volume delete data --deepen-duplicates",
    "instance terminate web --deepen-duplicates --wait",
    "replica deepen trial --wait",
    "subnet create --vpc blue --cidr 10.0.1.0/24",
    "route-table create --vpc blue",
    "route-table associate rtb-1 --subnet front",
    "route-table add-route rtb-1 --destination 10.9.0.0/16 --blackhole",
    "route-table delete-route rtb-1 --destination 10.9.0.0/16",
    "security-group create --vpc blue --name web",
    "security-group authorize web --protocol tcp --port 80 --cidr 0.0.0.0/0",
    "security-group authorize web --direction egress --protocol all --from-group db",
    "security-group revoke web sgr-0123456789abcdef0",
    "interface list",
    "interface show eni-1",
    "volume create --size 10G --name data",
    "volume attach data --instance web --wait",
    "volume detach data",
    "snapshot create --volume data --wait",
    "snapshot list",
    "instance launch --image tiny --subnet front",
    "instance launch --image tiny --subnet front --memory 256M --cpus 1 --name web --user-data f.sh \
     --security-group a --security-group b --address 10.0.1.9 --host host-1 --count 1 --wait",
    "instance list --output json",
    "instance show web",
    "instance stop web --force --wait",
    "instance start web",
    "instance reboot web",
    "instance terminate web db --wait",
    "instance console web",
    "instance log web",
    "instance launch --image tiny --subnet front --memory-mode soaker --priority 7 --minimum-operating 64M \
     --minimum-starting 96M",
    "instance launch --image tiny --subnet front --pin --eviction decayed-lfu",
    "instance migrate web --to host-1 --wait",
    "instance migrate web --output json",
    "memory show",
    "memory show web --output json",
    "memory history web --since 10m",
    "memory set web --mode soaker --priority 7 --minimum-operating 64M --minimum-starting 96M",
    "memory set web --mode generic --fill-above 200M --drain-below 150M --eviction random",
    "memory set web --pin",
    "memory set web --unpin --automatic-thresholds",
    "usage show",
    "usage show --account acme --since 1d --output json",
    "tag add i-1 Name=web Stage=test",
    "tag remove i-1 Stage",
    "flow list --since 10m --instance web --verdict reject --end-reason refused-by-vm --protocol tcp --port 80",
    "flow watch --vpc blue --output json",
    "flow query SELECT --max-rows 5 --format csv",
    "flow query --file - --all-accounts",
    "flow query --columns",
    "flow columns --output yaml",
    "flow questions",
    "flow peers --instance web --since 10m --limit 5",
    "flow peers --account --until 1h",
    "flow peers --account 000000000007 --vpc blue",
    "flow top talkers --by packets",
    "flow top",
    "flow top rejects --instance web",
    "flow unused-rules --vpc blue --since 1d",
    "flow asymmetric",
    "flow blackholes --instance web --output json",
    "flow scanners --min-accounts 1000 --window 5m",
    "flow closed-port --source 203.0.113.9 --port 22 --since 2h",
    "flow losses --since 1d --account acme --output json",
    "flow top --interval 5s --by packets --once --vpc blue --limit 5 --output json",
    "flow receipts list",
    "flow receipts verify --since 1d --until 1h --out parts --state heads.json",
    "flow receipts verify --known-head 0:0000000000000000000000000000000000000000000000000000000000000000",
    "finding list --kind sweep --since 1h --instance web --account acme --limit 5",
    "finding show find-0123456789abcdef0 --output json",
    "job list",
    "job show job-1",
    "demo",
    "demo --chapter networks --output json",
    "vpc create --cidr 10.0.0.0/16 --dry-run --idempotency-key k --endpoint http://127.0.0.1:1 --profile p",
    "controller --state-dir d --listen 127.0.0.1:0 --allow-plaintext --collector c.json --die-with-parent",
    "collector --state-dir d --die-with-parent",
    "collector --state-dir d --seal-after 10s",
    "host join-token",
    "host --state-dir d --controller http://127.0.0.1:7070 --join-token-file f --address 127.0.1.1 --name host-1 \
     --driver simulated --stop-machines --die-with-parent",
    "host --state-dir d --controller http://127.0.0.1:7070 --address 127.0.1.1 --name host-1 --memory 2G \
     --memory-oversubscription 1.5 --memory-pool 256M",
    "host --state-dir d --controller http://127.0.0.1:7070 --address 127.0.1.1 --name host-1 --tpm /dev/tpmrm0",
    "dev --memory 1G --memory-oversubscription 2",
    "pager --instance i-0123456789abcdef0 --machine m.sock --control c.sock --state-dir d --pool 64MiB",
    "completions bash",
    "man --out pages",
];

const REFUSED: &[&str] = &[
    "",
    "vpc",
    "vpc create",
    "host --state-dir d --controller http://127.0.0.1:7070 --address 127.0.1.1 --name host-1 --tpm chip",
    "vpc create --cidr 10.0.0.1/16",
    "vpc delete",
    "host --state-dir d",
    "instance launch --image tiny",
    "instance launch --image tiny --subnet s --memory much",
    "memory set web --mode greedy",
    "memory set web --pin --unpin",
    "memory set web --fill-above 200M",
    "memory set web --priority 256",
    "memory history",
    "security-group authorize web --protocol tcp --port 80",
    "security-group authorize web --protocol tcp --cidr 0.0.0.0/0 --from-group db",
    "route-table add-route rtb-1 --destination 10.9.0.0/16",
    "volume create",
    "tag add i-1 Name",
    "flow list --end-reason tired",
    "flow query",
    "flow query SELECT --file x",
    "flow peers",
    "flow peers --instance web --account",
    "flow top everything",
    "flow top talkers --by luck",
    "finding list --kind strange",
    "flow receipts verify --known-head 7",
    "finding show web",
    "flow closed-port --port 22",
    "flow scanners --window 5",
    "flow top --interval 0s",
    "flow top --by weight",
    "collector --state-dir d --seal-after 0s",
    "vpc list --output xml",
];

fn parse(line: &str) -> Result<CommandLine, clap::Error> {
    CommandLine::try_parse_from(std::iter::once("lucarne").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_consistent() {
    CommandLine::command().debug_assert();
}

#[test]
fn every_command_that_others_rely_on_is_understood() {
    for line in ACCEPTED {
        if let Err(error) = parse(line) {
            panic!("lucarne {line}: {error}");
        }
    }
}

#[test]
fn wrong_usage_is_refused_with_exit_code_2() {
    for line in REFUSED {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "lucarne {line}");
        assert_ne!(error.kind(), ErrorKind::DisplayHelp, "lucarne {line}");
    }
}

#[test]
fn host_with_a_verb_asks_and_without_one_is_the_agent() {
    let Command::Host(host) = parse("host list").unwrap().command else { panic!() };
    assert!(host.verb.is_some() && host.agent.is_none());
    let line = "host --state-dir d --controller http://127.0.0.1:7070 --address 127.0.1.1 --name h";
    let Command::Host(host) = parse(line).unwrap().command else { panic!() };
    assert!(host.verb.is_none() && host.agent.is_some());
}

#[test]
fn processes_of_which_there_are_many_have_few_threads_on_any_machine() {
    let threads = |line: &str| parse(line).unwrap().command.worker_threads();
    assert_eq!(threads("collector --state-dir d"), Some(2));
    assert_eq!(threads("host --state-dir d --controller http://h:7070 --address 127.0.1.1 --name h"), Some(2));
    let pager = "pager --instance i-0123456789abcdef0 --machine m.sock --control c.sock --state-dir d";
    assert_eq!(threads(pager), Some(1), "it has threads of its own");
    assert_eq!(threads("controller --state-dir d --collector c.json"), None);
    assert_eq!(threads("host list"), None);
}

#[test]
fn every_command_says_what_it_does() {
    fn walk(command: &clap::Command, path: &str) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let path = format!("{path} {}", inner.get_name());
            assert!(inner.get_about().is_some(), "`{path}` has no description");
            walk(inner, &path);
        }
    }
    walk(&CommandLine::command(), "lucarne");
}
