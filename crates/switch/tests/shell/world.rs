//! Two hosts with real switches on two loopback addresses, three guests, and a wiretap between the hosts.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use lucarne_model::{
    AccountId, Cidr, FlowRecord, HostId, ImageId, InstanceId, InterfaceId, MacAddress, Moment, RuleId, SecurityGroupId,
    SubnetId, VpcId,
    desired::{DesiredGroup, DesiredNetwork, DesiredSubnet, Endpoint, TunnelPeer},
    flow::Direction,
    network::{Route, RouteTarget},
    security_group::{Peer, Rule, RuleSpec, Traffic},
};
use lucarne_switch::{
    Plan, SwitchHandle,
    plan::{InstanceMetadata, PortPlan},
    shell, tunnel,
};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use crate::guest::Guest;

/// Guests, by their place in [`World::guests`]: two on the first host in different subnets, one on the second. Guest `n +
/// DUPLICATE` is the duplicate of guest `n`, in a network of its own, and not there before it is made.
pub(crate) const WEB: usize = 0;
pub(crate) const APP: usize = 1;
pub(crate) const FAR: usize = 2;
pub(crate) const DUPLICATE: usize = 3;

pub(crate) const USER_DATA: &str = "#!/bin/sh\necho hello\n";
const ADDRESSES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 0, 1, 10), Ipv4Addr::new(10, 0, 2, 20), Ipv4Addr::new(10, 0, 1, 50)];
/// The hosts' places in [`World::hosts`].
pub(crate) const HOSTS: [usize; 2] = [0, 1];
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct World {
    folder: TempDir,
    pub(crate) hosts: Vec<Host>,
    pub(crate) guests: Vec<Guest>,
    pub(crate) tap: Wiretap,
}

/// One host's switch.
pub(crate) struct Host {
    pub(crate) handle: SwitchHandle,
    pub(crate) records: Receiver<FlowRecord>,
}

impl World {
    /// Both switches run, and every guest has its address.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hosts = HOSTS.map(|host| Host::start(host, SocketAddr::from(([127, 0, 1, 1 + host as u8], 0)))).into();
        let mut world = Self { folder, hosts, guests: Vec::new(), tap: Wiretap::new() };
        for host in HOSTS {
            block_on(world.hosts[host].handle.apply(world.plan(host))).unwrap();
        }
        world.guests = [WEB, APP, FAR]
            .map(|guest| Guest::new(&world.path("guest", guest), &world.path("switch", guest), mac(guest)))
            .into();
        world.until("every guest has an address", |guests| guests.iter().all(|guest| guest.address().is_some()));
        world
    }

    /// Lets guests and wire work until `done`; fails when that takes too long.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut [Guest]) -> bool) {
        let began = Instant::now();
        while !done(&mut self.guests) {
            assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            self.run_once();
        }
    }

    /// Lets guests and wire work for a while.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let began = Instant::now();
        while began.elapsed() < span {
            self.run_once();
        }
    }

    fn run_once(&mut self) {
        self.tap.carry([0, 1].map(|host| self.hosts[host].handle.tunnel_address()));
        self.guests.iter_mut().for_each(Guest::poll);
        std::thread::sleep(Duration::from_micros(300));
    }

    /// One guest sends `text` to another over TCP and hears it back, reversed.
    pub(crate) fn exchange(&mut self, from: usize, to: usize, port: u16, text: &[u8]) {
        let server = self.guests[to].listen(port);
        let client = self.guests[from].connect(ADDRESSES[to], port);
        self.until("the connection stands", |guests| guests[from].tcp(client).may_send());
        self.guests[from].tcp(client).send_slice(text).unwrap();
        let mut heard = Vec::new();
        self.until("the server has heard", |guests| {
            heard.extend(guests[to].heard(server));
            heard.len() >= text.len()
        });
        assert_eq!(heard, text);
        heard.reverse();
        self.guests[to].tcp(server).send_slice(&heard).unwrap();
        self.guests[to].tcp(server).close();
        let mut answer = Vec::new();
        self.until("the client has heard", |guests| {
            answer.extend(guests[from].heard(client));
            !guests[from].tcp(client).may_recv()
        });
        assert_eq!(answer, heard);
        self.guests[from].tcp(client).close();
    }

    /// Asks until an echo comes: `smoltcp` forgets the answer for which it has to ask the gateway's MAC first.
    pub(crate) fn ping(&mut self, from: usize, to: Ipv4Addr, data: &[u8]) {
        let mut answer = None;
        let (mut asked, mut seq_no) = (None::<Instant>, 0);
        self.until("an echo is answered", |guests| {
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_millis(200)) {
                guests[from].ping(to, seq_no, data);
                (asked, seq_no) = (Some(Instant::now()), seq_no + 1);
            }
            answer = guests[from].pong(to);
            answer.is_some()
        });
        assert_eq!(answer.as_deref(), Some(data));
    }

    /// What the metadata service answers.
    pub(crate) fn ask_metadata(&mut self, guest: usize, request: &str) -> String {
        let client = self.guests[guest].connect(Ipv4Addr::new(169, 254, 169, 254), 80);
        self.until("the service is connected", |guests| guests[guest].tcp(client).may_send());
        self.guests[guest].tcp(client).send_slice(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        self.until("the service has answered", |guests| {
            answer.extend(guests[guest].heard(client));
            !guests[guest].tcp(client).may_recv()
        });
        self.guests[guest].tcp(client).close();
        String::from_utf8(answer).unwrap()
    }

    /// Replaces a host's switch by a new one at the same places, as when its agent is started again.
    pub(crate) fn restart(&mut self, host: usize) -> Vec<FlowRecord> {
        let address = self.hosts[host].handle.tunnel_address();
        let records = self.stop(host);
        self.hosts[host] = Host::start(host, address);
        block_on(self.hosts[host].handle.apply(self.plan(host))).unwrap();
        records
    }

    /// Stops a host's switch and returns all its records.
    pub(crate) fn stop(&mut self, host: usize) -> Vec<FlowRecord> {
        block_on(self.hosts[host].handle.stop());
        let mut records = Vec::new();
        while let Ok(record) = self.hosts[host].records.try_recv() {
            records.push(record);
        }
        assert!(self.hosts[host].records.is_closed());
        records
    }

    pub(crate) fn plan(&self, host: usize) -> Plan {
        let guests: &[usize] = if host == 0 { &[WEB, APP] } else { &[FAR] };
        let other = 1 - host;
        let duplicates = guests.iter().map(|guest| guest + DUPLICATE);
        Plan {
            networks: vec![network(0), network(DUPLICATE)],
            ports: guests.iter().copied().chain(duplicates).map(|guest| self.port_plan(guest)).collect(),
            peers: vec![TunnelPeer {
                host: host_id(other),
                address: self.tap.ends[host].local_addr().unwrap().ip(),
                port: self.tap.ends[host].local_addr().unwrap().port(),
                public_key: tunnel::public_key(&secret(other)),
                location: lucarne_model::flow::Location::default(),
            }],
            mitigations: Vec::new(),
            removals: Vec::new(),
        }
    }

    fn port_plan(&self, guest: usize) -> PortPlan {
        PortPlan {
            interface: interface(guest),
            instance: instance(guest),
            account: AccountId::from_bits(1),
            vpc: vpc(guest),
            socket: self.path("switch", guest),
            guest_socket: self.path("guest", guest),
            metadata: Some(InstanceMetadata {
                image: ImageId::from_bits(1),
                user_data: Some(USER_DATA.to_owned()),
                launched: Moment::EPOCH,
                origin: None,
            }),
            flow_interval: None,
        }
    }

    /// Where the switch (`switch`) or the guest (`guest`) has its socket.
    pub(crate) fn path(&self, side: &str, guest: usize) -> PathBuf {
        self.folder.path().join(format!("{side}-{guest}"))
    }
}

impl Host {
    fn start(host: usize, tunnel: SocketAddr) -> Self {
        let settings = shell::Settings {
            host: host_id(host),
            tunnel,
            private_key: secret(host),
            metadata_key: [9; 32],
            port_owner: None,
        };
        let (handle, records) = SwitchHandle::spawn(settings, lucarne_switch::Settings::default()).unwrap();
        Self { handle, records }
    }
}

/// What lies between the hosts: each believes that the other is at its end of the tap.
pub(crate) struct Wiretap {
    ends: [UdpSocket; 2],
    pub(crate) seen: Vec<Vec<u8>>,
}

impl Wiretap {
    fn new() -> Self {
        let end = |_| {
            let socket = UdpSocket::bind("127.0.1.9:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self { ends: HOSTS.map(end), seen: Vec::new() }
    }

    /// Carries what waits; `hosts` are their true addresses.
    pub(crate) fn carry(&mut self, hosts: [SocketAddr; 2]) {
        let mut datagram = [0; 4096];
        for host in HOSTS {
            while let Ok((length, _)) = self.ends[host].recv_from(&mut datagram) {
                self.seen.push(datagram[..length].to_vec());
                self.ends[1 - host].send_to(&datagram[..length], hosts[1 - host]).unwrap();
            }
        }
    }

    pub(crate) fn shows(&self, text: &[u8]) -> bool {
        self.seen.iter().any(|datagram| datagram.windows(text.len()).any(|window| window == text))
    }
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

pub(crate) fn address(guest: usize) -> Ipv4Addr {
    ADDRESSES[guest % DUPLICATE]
}
pub(crate) fn interface(guest: usize) -> InterfaceId {
    InterfaceId::from_bits(guest as u128)
}
pub(crate) fn vpc(guest: usize) -> VpcId {
    VpcId::from_bits(1 + (guest / DUPLICATE) as u128)
}
pub(crate) fn instance(guest: usize) -> InstanceId {
    InstanceId::from_bits(guest as u128)
}
pub(crate) fn mac(guest: usize) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, (guest % DUPLICATE) as u8])
}
pub(crate) fn host_id(host: usize) -> HostId {
    HostId::from_bits(host as u128)
}
fn secret(host: usize) -> [u8; 32] {
    [host as u8 + 1; 32]
}

/// Two subnets and one group, which lets everything out, and in echoes and TCP ports below 9000. Its guests are numbered from
/// `first`.
fn network(first: usize) -> DesiredNetwork {
    let cidr: Cidr = "10.0.0.0/16".parse().unwrap();
    let local = Route { destination: cidr, target: RouteTarget::Local };
    let subnet = |number: u8| DesiredSubnet {
        id: SubnetId::from_bits(number.into()),
        cidr: format!("10.0.{number}.0/24").parse().unwrap(),
        routes: vec![local.clone()],
        acl: Vec::new(),
    };
    let group = SecurityGroupId::from_bits(1);
    let endpoint = |guest: usize| Endpoint {
        interface: interface(guest),
        instance: instance(guest),
        subnet: SubnetId::from_bits(address(guest).octets()[2].into()),
        address: address(guest),
        mac: mac(guest),
        groups: vec![group],
        host: host_id(usize::from(guest % DUPLICATE == FAR)),
        name: None,
    };
    let rule = |id, direction, traffic| Rule {
        id: RuleId::from_bits(id),
        created: Moment::EPOCH,
        spec: RuleSpec { direction, traffic, peer: Peer::Cidr { cidr: Cidr::ANY } },
    };
    let rules = vec![
        rule(1, Direction::Egress, Traffic::All),
        rule(2, Direction::Ingress, Traffic::Tcp { from_port: 1, to_port: 8999 }),
        rule(3, Direction::Ingress, Traffic::Icmp { icmp_type: Some(8), icmp_code: None }),
    ];
    DesiredNetwork {
        vpc: vpc(first),
        account: AccountId::from_bits(1),
        vni: 77 + first as u32,
        cidr,
        subnets: vec![subnet(1), subnet(2)],
        groups: vec![DesiredGroup { id: group, rules }],
        endpoints: [WEB, APP, FAR].map(|guest| endpoint(guest + first)).into(),
        clock_behind_micros: 0,
    }
}
