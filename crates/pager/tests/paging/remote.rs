//! Copies in other hosts' memory: every byte comes back right, whatever the lender does, and nobody else has any of it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lucarne_model::{HostId, Pages};
use lucarne_pager::{
    Borrowing, Identity,
    client::Client,
    control::Statistics,
    lender::{Instructions, Quota, Told},
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::house::{House, eventually};

const PAGES: u64 = 2048;
/// Longer than anything takes on a busy machine, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const ROLE: &str = "LUCARNE_TEST_LENDER";

/// Not a test by itself: the tests below start it in a process of its own.
#[test]
#[ignore = "a role that other tests start"]
fn role_of_the_lender() {
    if let Ok(key) = std::env::var(ROLE) {
        // The harness has begun a line.
        println!();
        lucarne_pager::lender::lend(IpAddr::V4(Ipv4Addr::LOCALHOST), key.into()).unwrap();
    }
}

/// A host CA, and the identities that it gives.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.clone().self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn identity(&self, host: HostId, folder: &Path) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_string()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let path = folder.join(format!("{host}.key"));
        fs::write(&path, key.serialize_der()).unwrap();
        Identity { key: path, certificate, authority: self.certificate.clone() }
    }
}

struct Lender {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    identity: Identity,
}

impl Lender {
    fn start(identity: Identity) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "remote::role_of_the_lender", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, &identity.key).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, identity }
    }

    fn set(&mut self, quotas: &[Quota]) -> Told {
        let Identity { certificate, authority, .. } = self.identity.clone();
        let instructions = Instructions { certificate, authority, quotas: quotas.to_vec() };
        writeln!(self.input, "{}", serde_json::to_string(&instructions).unwrap()).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
            if let Ok(told) = serde_json::from_str(&line) {
                return told;
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Where it keeps what others brought.
    fn memory_files(&self) -> Vec<PathBuf> {
        let folder = PathBuf::from(format!("/proc/{}/fd", self.child.id()));
        let files = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        let is_lent =
            |file: &PathBuf| fs::read_link(file).is_ok_and(|link| link.to_string_lossy().contains("memfd:lent"));
        files.filter(is_lent).collect()
    }

    fn memory(&self) -> Vec<u8> {
        self.memory_files().iter().flat_map(|file| fs::read(file).unwrap()).collect()
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn host(number: u128) -> HostId {
    HostId::from_bits(number)
}

/// A house whose pager borrows from a lender.
struct Scene {
    authority: Authority,
    house: House,
    client: Client,
    _pager: crate::house::Role,
    lender: Lender,
    address: SocketAddr,
}

const LENDER: u128 = 1;
const BORROWER: u128 = 2;

const fn quota(pages: u64) -> Quota {
    Quota { borrower: HostId::from_bits(BORROWER), epoch: 7, pages: Pages(pages) }
}

impl Scene {
    /// All pages of the guest are on the disk, and as many as the lender takes with it too.
    fn start(room: u64) -> Self {
        let authority = Authority::new();
        let mut house = House::new(PAGES);
        let (pager, client) = house.serve(0);
        house.write_all(1);
        let lender = Lender::start(authority.identity(host(LENDER), house.path()));
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
        let mut scene = Self { authority, house, client, _pager: pager, lender, address };
        scene.address.set_port(scene.lender.set(&[quota(room)]).port);
        scene.borrow(BORROWER, room);
        scene.house.evict_until_all_is_away(&mut scene.client);
        scene
    }

    fn borrow(&mut self, as_host: u128, room: u64) {
        let borrowing = self.borrowing(as_host, room);
        self.client.set_remote(vec![borrowing]).unwrap();
    }

    fn borrowing(&self, as_host: u128, room: u64) -> Borrowing {
        let identity = self.authority.identity(host(as_host), self.house.path());
        Borrowing { lender: host(LENDER), address: self.address, epoch: 7, room: Pages(room), identity }
    }

    fn eventually(&mut self, what: &str, holds: impl Fn(&Statistics) -> bool) -> Statistics {
        eventually(&mut self.client, what, holds)
    }

    /// Until the lender, told this quota again and again, keeps so many pages.
    fn eventually_held(&mut self, pages: u64, held: u64) {
        let end = Instant::now() + PATIENCE;
        while self.lender.set(&[quota(pages)]).held != [(host(BORROWER), Pages(held))] {
            assert!(Instant::now() < end, "the lender keeps {:?}", self.lender.set(&[quota(pages)]));
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has the guest read all of it back until `seen`, which a busy machine may miss: who is asked late is not waited for.
    fn read_back_until(
        &mut self,
        what: &str,
        prepare: impl Fn(&Self),
        seen: impl Fn(&Statistics) -> bool,
    ) -> Statistics {
        let end = Instant::now() + PATIENCE;
        loop {
            let stored = self.stored();
            self.eventually("all are there", |now| now.pages.remote.0 == stored && !now.remote.lenders.is_empty());
            prepare(self);
            self.house.check_all();
            let now = self.client.statistics().unwrap();
            if seen(&now) {
                return now;
            }
            assert!(Instant::now() < end, "{what}: {now:?}");
            self.house.evict_until_all_is_away(&mut self.client);
        }
    }

    /// How many of the guest's pages are on the disk at all: the others are the same all over.
    fn stored(&mut self) -> u64 {
        let pages = self.client.statistics().unwrap().pages;
        (pages.ssd + pages.remote).0
    }
}

#[test]
fn pages_go_to_another_host_and_come_back_with_every_byte() {
    let mut scene = Scene::start(PAGES);
    let stored = scene.stored();
    assert!(stored > PAGES / 2);
    let told = scene.eventually("all are there", |now| now.pages.remote.0 == stored);
    assert_eq!((told.pages.ssd, told.pages.total()), (Pages::ZERO, Pages(PAGES)));
    scene.eventually_held(PAGES, stored);
    let now = scene.read_back_until("some come from the lender", |_| {}, |now| now.remote.fetched > 0);
    assert_eq!(now.remote.altered, 0);
    scene.eventually_held(PAGES, 0);
    scene.house.write_all(2);
    scene.house.evict_until_all_is_away(&mut scene.client);
    scene.eventually("they go again", |now| now.pages.remote.0 == stored);
    scene.house.check_all();
}

#[test]
fn a_lender_that_is_killed_costs_no_byte_and_a_new_one_is_used() {
    let mut scene = Scene::start(PAGES);
    scene.eventually("some are there", |now| now.pages.remote > Pages::ZERO);
    scene.house.machine.ask("storm");
    scene.lender.kill();
    for _ in 0..3 {
        scene.house.evict_all(&mut scene.client);
    }
    assert_ne!(scene.house.machine.ask("calm"), "0");
    scene.house.evict_until_all_is_away(&mut scene.client);
    scene.eventually("none counts as remote", |now| now.pages.remote == Pages::ZERO && now.remote.lenders.is_empty());
    scene.house.check_all();
    scene.lender = Lender::start(scene.lender.identity.clone());
    scene.address.set_port(scene.lender.set(&[quota(PAGES)]).port);
    scene.borrow(BORROWER, PAGES);
    scene.house.evict_until_all_is_away(&mut scene.client);
    scene.eventually("the new one has them", |now| now.pages.remote.0 > PAGES / 2);
    scene.house.check_all();
}

#[test]
fn a_lender_takes_its_memory_back_bit_by_bit_and_the_borrower_hears_of_it() {
    let mut scene = Scene::start(PAGES);
    let stored = scene.stored();
    scene.eventually("all are there", |now| now.pages.remote.0 == stored);
    for left in [stored / 2, 10, 0] {
        scene.eventually_held(left, left);
        let now = scene.eventually("it is heard", |now| now.pages.remote.0 == left);
        assert_eq!(now.pages.ssd.0, stored - left);
    }
    assert_eq!(scene.lender.memory().iter().filter(|byte| **byte != 0).count(), 0, "it is given back to the machine");
    scene.lender.set(&[]);
    scene.eventually("the lease is over", |now| now.remote.lenders.is_empty());
    scene.house.check_all();
    // A VM may have less there than it had, though the lender has room.
    scene.lender.set(&[quota(PAGES)]);
    scene.house.evict_until_all_is_away(&mut scene.client);
    scene.eventually("they go again", |now| now.pages.remote.0 == stored);
    scene.borrow(BORROWER, 20);
    scene.eventually("it may have less", |now| now.pages.remote.0 <= 20);
    scene.house.check_all();
}

/// What is brought is noise to the lender, and what it changes is not taken for a page.
#[test]
fn a_lender_can_neither_read_nor_change_what_it_keeps() {
    let mut scene = Scene::start(PAGES);
    let stored = scene.stored();
    scene.eventually("all are there", |now| now.pages.remote.0 == stored);
    let memory = scene.lender.memory();
    // One page in three of what was written is nearly all zeros; sealed, none has so much as sixteen in a row.
    let kept: Vec<&[u8]> = memory.chunks(4096).filter(|page| page.iter().any(|byte| *byte != 0)).collect();
    assert!(kept.len() as u64 >= stored);
    assert!(!kept.iter().any(|page| page.windows(16).any(|window| window.iter().all(|byte| *byte == 0))));
    let turn = |scene: &Scene| {
        // Each copy where another one was.
        let memory = scene.lender.memory();
        let turned = [&memory[4096..], &memory[..4096]].concat();
        scene.lender.memory_files().iter().for_each(|file| fs::write(file, &turned).unwrap());
    };
    let now = scene.read_back_until("an altered page is noticed", turn, |now| now.remote.altered > 0);
    assert_eq!(now.remote.fetched, 0);
}

#[test]
fn strangers_get_nothing_from_a_lender_and_bring_it_nothing() {
    let mut scene = Scene::start(0);
    let stored = scene.stored();
    scene.lender.set(&[quota(PAGES)]);
    // Of the cloud, but without a lease: so is a host that was removed.
    scene.borrow(3, PAGES);
    // Of another cloud.
    let other = Authority::new();
    let ours = scene.authority.certificate.clone();
    let stranger = Identity { authority: ours, ..other.identity(host(BORROWER), scene.house.path()) };
    let borrowing =
        Borrowing { lender: host(LENDER), address: scene.address, epoch: 7, room: Pages(PAGES), identity: stranger };
    let nothing = |scene: &mut Scene| {
        // Longer than it takes where it is let.
        thread::sleep(Duration::from_millis(500));
        assert_eq!(scene.lender.set(&[quota(PAGES)]).held, [(host(BORROWER), Pages::ZERO)]);
        assert_eq!(scene.client.statistics().unwrap().pages.remote, Pages::ZERO);
    };
    nothing(&mut scene);
    scene.client.set_remote(vec![borrowing]).unwrap();
    nothing(&mut scene);
    // Under a lease that is over.
    let identity = scene.authority.identity(host(BORROWER), scene.house.path());
    let old = Borrowing { lender: host(LENDER), address: scene.address, epoch: 6, room: Pages(PAGES), identity };
    scene.client.set_remote(vec![old]).unwrap();
    nothing(&mut scene);
    // And one who says nothing that can be understood.
    let mut nonsense = TcpStream::connect(scene.address).unwrap();
    nonsense.write_all(&[0xff; 4096]).unwrap();
    // Whom the pager takes for its lender must be it.
    scene.borrow(BORROWER, PAGES);
    scene.eventually("the right one is let in", |now| now.pages.remote.0 == stored);
    scene.house.check_all();
}

/// A host that is not the one that the lease names is not brought anything, though it is of the same cloud.
#[test]
fn another_host_is_not_taken_for_the_lender() {
    let mut scene = Scene::start(0);
    let impostor = scene.authority.identity(host(9), scene.house.path());
    scene.lender = Lender::start(impostor);
    scene.address.set_port(scene.lender.set(&[quota(PAGES)]).port);
    scene.borrow(BORROWER, PAGES);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(scene.lender.set(&[quota(PAGES)]).held, [(host(BORROWER), Pages::ZERO)]);
    assert!(scene.client.statistics().unwrap().remote.lenders.is_empty());
    scene.house.check_all();
}

/// A lender that takes everything and answers no question in time: faults read the disk, and do not all wait for it.
#[test]
fn a_lender_that_stops_answering_is_not_waited_for_by_each_fault() {
    let mut scene = Scene::start(PAGES);
    let stored = scene.stored();
    scene.eventually("all are there", |now| now.pages.remote.0 == stored);
    let pid = rustix::process::Pid::from_raw(scene.lender.child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    scene.house.check_all();
    let now = scene.client.statistics().unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(now.remote.broken < stored / 16, "each fault waited: {now:?}");
}

/// What one lender has no room for is with the next, until one has room for all of it; who is killed meanwhile takes nothing along.
#[test]
fn a_vm_that_does_not_fit_with_one_lender_is_with_several_at_once_and_loses_nothing_with_any_of_them() {
    const OTHERS: [u128; 2] = [11, 12];
    let mut scene = Scene::start(0);
    let stored = scene.stored();
    let room = stored / 3 + 1;
    let mut others = OTHERS.map(|number| Lender::start(scene.authority.identity(host(number), scene.house.path())));
    let mut all = vec![scene.borrowing(BORROWER, room)];
    scene.lender.set(&[quota(room)]);
    for (lender, number) in others.iter_mut().zip(OTHERS) {
        let address = SocketAddr::new(scene.address.ip(), lender.set(&[quota(room)]).port);
        all.push(Borrowing { lender: host(number), address, ..all[0].clone() });
    }
    scene.client.set_remote(all.clone()).unwrap();
    scene.eventually("all are there", |now| now.pages.remote.0 == stored && now.remote.lenders.len() == 3);
    let held = |lender: &mut Lender, room: u64| lender.set(&[quota(room)]).held[0].1.0;
    let parts = [held(&mut scene.lender, room), held(&mut others[0], room), held(&mut others[1], room)];
    assert!(parts.iter().all(|part| (stored / 4..=room).contains(part)), "{parts:?} of {stored}");
    scene.house.machine.ask("storm");
    scene.house.evict_all(&mut scene.client);
    others[0].kill();
    scene.house.evict_all(&mut scene.client);
    assert_ne!(scene.house.machine.ask("calm"), "0");
    scene.house.evict_until_all_is_away(&mut scene.client);
    let left = [host(LENDER), host(OTHERS[1])];
    let now = scene.eventually("two are left", |now| now.remote.lenders == left && now.pages.remote.0 == 2 * room);
    assert_eq!(now.pages.ssd + now.pages.remote, Pages(scene.stored()));
    scene.house.check_all();
    scene.house.evict_until_all_is_away(&mut scene.client);
    scene.lender.set(&[quota(PAGES)]);
    all.truncate(1);
    all[0].room = Pages(PAGES);
    scene.client.set_remote(all).unwrap();
    let stored = scene.stored();
    scene.eventually("one has all", |now| now.remote.lenders == left[..1] && now.pages.remote.0 == stored);
    let end = Instant::now() + PATIENCE;
    while held(&mut others[1], room) > 0 {
        assert!(Instant::now() < end, "who lends nothing any more keeps something");
        thread::sleep(Duration::from_millis(10));
    }
    let now = scene.read_back_until("some come from it", |_| {}, |now| now.remote.fetched > 0);
    assert_eq!(now.remote.altered, 0);
}
