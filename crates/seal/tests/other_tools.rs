//! Others' tools and ours agree: what we seal `age` and `rage` open, what `age` seals we open, and `ssh-keygen` and `openssl` sign what we
//! believe.
#![allow(clippy::unwrap_used)] // a test says by it what must not fail

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use lucarne_seal::{
    age::{Identity, Seed, reader::Reader, writer::Writer},
    key::VerifyingKey,
    sshsig,
};

fn run(folder: &Path, line: &str) -> Output {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).current_dir(folder).output();
    output.unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask setup` installs it", words[0]))
}

/// What opens age files here: `age` always, and `rage`, which is in no Debian package, where somebody installed it.
fn openers() -> impl Iterator<Item = &'static str> {
    let is_there = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    ["age", "rage"].into_iter().filter(move |tool| *tool == "age" || is_there(tool))
}

fn succeed(folder: &Path, line: &str) -> Vec<u8> {
    let output = run(folder, line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

const LENGTHS: [usize; 6] = [0, 1, 65_535, 65_536, 65_537, 300_000];

/// The reader needs nothing of ours.
#[test]
fn age_and_rage_open_what_we_seal_for_each_reader() {
    let folder = tempfile::tempdir().unwrap();
    let keys = [[1; 32], [2; 32]];
    let readers = keys.map(Identity::from_octets);
    for (number, reader) in readers.iter().enumerate() {
        fs::write(folder.path().join(format!("{number}.key")), Identity::text_of(&keys[number])).unwrap();
        let public = succeed(folder.path(), &format!("age-keygen -y {number}.key"));
        assert_eq!(String::from_utf8(public).unwrap().trim(), reader.recipient().to_string());
    }
    for length in LENGTHS {
        let (content, mut file) = (content(length), Vec::new());
        let recipients = readers.each_ref().map(Identity::recipient);
        let mut writer = Writer::begin(&Seed::new([length as u8; 32]), &recipients, &mut file).unwrap();
        writer.push(&content, &mut file).unwrap();
        writer.finish(&mut file).unwrap();
        fs::write(folder.path().join("result.age"), &file).unwrap();
        for number in 0..readers.len() {
            for tool in openers() {
                let opened = succeed(folder.path(), &format!("{tool} -d -i {number}.key result.age"));
                assert!(opened == content, "{tool}: {length}");
            }
        }
        file.pop();
        fs::write(folder.path().join("cut.age"), &file).unwrap();
        for tool in openers() {
            assert!(!run(folder.path(), &format!("{tool} -d -i 0.key cut.age")).status.success(), "{tool}: {length}");
        }
    }
}

#[test]
fn we_open_what_age_seals() {
    let folder = tempfile::tempdir().unwrap();
    succeed(folder.path(), "age-keygen -o its.key");
    let identity = Identity::from_file(&fs::read_to_string(folder.path().join("its.key")).unwrap()).unwrap();
    for length in LENGTHS {
        fs::write(folder.path().join("content"), content(length)).unwrap();
        let file = succeed(folder.path(), &format!("age -r {} content", identity.recipient()));
        let (mut reader, mut out) = (Reader::new(identity.clone()), Vec::new());
        reader.push(&file, &mut out).unwrap();
        reader.finish(&mut out).unwrap();
        assert!(out == content(length), "{length}");
    }
}

/// So an SSH agent can sign, and whatever an agent speaks to.
#[test]
fn we_believe_what_ssh_keygen_signs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("octets"), b"what is signed").unwrap();
    for kind in ["ed25519", "ecdsa"] {
        succeed(folder.path(), &format!("ssh-keygen -q -t {kind} -f {kind} -N  -C a@b"));
        let key: VerifyingKey = fs::read_to_string(folder.path().join(format!("{kind}.pub"))).unwrap().parse().unwrap();
        let sign = |namespace: &str| {
            let _ = fs::remove_file(folder.path().join("octets.sig"));
            succeed(folder.path(), &format!("ssh-keygen -q -Y sign -n {namespace} -f {kind} octets"));
            sshsig::from_armour(&fs::read_to_string(folder.path().join("octets.sig")).unwrap()).unwrap()
        };
        // Several, since the numbers of a signature on P-256 are not always equally long.
        for _ in 0..8 {
            let signature = sign(sshsig::NAMESPACE);
            assert!(key.verifies(b"what is signed", &signature).is_some(), "{kind}");
            assert!(key.verifies(b"what is not", &signature).is_none(), "{kind}");
        }
        assert!(key.verifies(b"what is signed", &sign("file")).is_none(), "{kind}");
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

/// As TPMs, HSMs and smart cards sign, once their numbers are in DER.
#[test]
fn we_believe_what_openssl_signs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("octets"), b"what is signed").unwrap();
    succeed(folder.path(), "openssl ecparam -name prime256v1 -genkey -noout -out p256.key");
    succeed(folder.path(), "openssl genpkey -algorithm ed25519 -out ed25519.key");
    let sign = [
        ("p256", "dgst -sha256 -sign p256.key octets"),
        ("ed25519", "pkeyutl -sign -rawin -inkey ed25519.key -in octets"),
    ];
    for (name, how) in sign {
        let public = succeed(folder.path(), &format!("openssl pkey -in {name}.key -pubout"));
        let key: VerifyingKey = String::from_utf8(public).unwrap().parse().unwrap();
        let signature = succeed(folder.path(), &format!("openssl {how}"));
        assert!(key.verifies(b"what is signed", &signature).is_some(), "{name}");
        assert!(key.verifies(b"what is not", &signature).is_none(), "{name}");
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}
