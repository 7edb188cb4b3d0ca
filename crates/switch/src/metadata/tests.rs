//! The service as a guest sees it: HTTP over TCP in whole frames, through a guest's stack of `smoltcp`.

use std::{collections::VecDeque, net::Ipv4Addr, time::Duration};

use lucarne_model::{
    AccountId, HostId, HostName, ImageId, InstanceId, InterfaceId, MacAddress, Moment, ReplicaId, SecurityGroupId,
    SubnetId, VpcId,
    desired::{DesiredNetwork, DesiredSubnet, Endpoint},
    replica::DuplicateOrigin,
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp,
    time::Instant,
    wire::{HardwareAddress, IpCidr},
};

use super::{
    stack::{CONNECTIONS, Link},
    *,
};
use crate::plan::{InstanceMetadata, PortPlan};

const PORT: PortIndex = PortIndex(0);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 4);
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 4]);
const USER_DATA: &str = "#!/bin/sh\necho hello\n";

fn plan(user_data: &str) -> Plan {
    let endpoint = Endpoint {
        interface: InterfaceId::from_bits(4),
        instance: InstanceId::from_bits(0xabc),
        subnet: SubnetId::from_bits(2),
        address: GUEST,
        mac: MAC,
        groups: vec![SecurityGroupId::from_bits(6), SecurityGroupId::from_bits(7)],
        host: HostId::from_bits(1),
        name: HostName::from_tag("Web"),
    };
    let (vpc, account) = (VpcId::from_bits(1), AccountId::from_bits(42));
    let metadata = InstanceMetadata {
        image: ImageId::from_bits(3),
        user_data: Some(user_data.to_owned()),
        launched: Moment::from_secs(1_000),
        origin: None,
    };
    let subnet = DesiredSubnet {
        id: endpoint.subnet,
        cidr: "10.0.1.0/24".parse().unwrap(),
        routes: Vec::new(),
        acl: Vec::new(),
    };
    Plan {
        ports: vec![PortPlan {
            interface: endpoint.interface,
            instance: endpoint.instance,
            account,
            vpc,
            socket: "unused".into(),
            guest_socket: "unused".into(),
            metadata: Some(metadata),
            flow_interval: None,
        }],
        networks: vec![DesiredNetwork {
            vpc,
            account,
            vni: 1,
            cidr: "10.0.0.0/16".parse().unwrap(),
            subnets: vec![subnet],
            groups: Vec::new(),
            endpoints: vec![endpoint],
            clock_behind_micros: 0,
        }],
        peers: Vec::new(),
        mitigations: Vec::new(),
        removals: Vec::new(),
    }
}

/// A guest and the service, joined by a wire on virtual time.
struct Scene {
    metadata: Metadata,
    now: Moment,
    interface: Interface,
    link: Link,
    sockets: SocketSet<'static>,
    next_port: u16,
}

impl Scene {
    fn new() -> Self {
        Self::with(USER_DATA)
    }

    fn with(user_data: &str) -> Self {
        Self::of(&plan(user_data))
    }

    fn of(plan: &Plan) -> Self {
        let mut metadata = Metadata::new(&[7; 32], 1, 1400);
        metadata.apply(plan, |_| Some(PORT));
        let mut link = Link { arrived: VecDeque::new(), leaving: Vec::new(), mtu: 1400 };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(Ipv4Addr::new(10, 0, 1, 1)).unwrap();
        let sockets = SocketSet::new(Vec::new());
        Self { metadata, now: Moment::from_secs(2_000), interface, link, sockets, next_port: 40_000 }
    }

    fn connect(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 16]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        let server = (Ipv4Addr::new(169, 254, 169, 254), 80);
        socket.connect(self.interface.context(), server, self.next_port).unwrap();
        self.sockets.add(socket)
    }

    /// Carries frames both ways until both sides are silent.
    fn carry(&mut self) {
        loop {
            let now = Instant::from_micros(self.now.as_micros() as i64);
            self.interface.poll(now, &mut self.link, &mut self.sockets);
            let sent: Vec<_> = self.link.leaving.drain(..).collect();
            for packet in &sent {
                let frame = [&MacAddress::ROUTER.0[..], &MAC.0, &[8, 0], packet].concat();
                self.metadata.handle_frame(PORT, &frame);
            }
            let mut answers = Vec::new();
            self.metadata.poll(self.now, &mut answers);
            for (port, frame) in &answers {
                assert_eq!((*port, &frame[..6]), (PORT, &MAC.0[..]));
                self.link.arrived.push_back(frame[14..].to_vec());
            }
            if sent.is_empty() && answers.is_empty() {
                return;
            }
        }
    }

    fn say(&mut self, socket: SocketHandle, text: &[u8]) {
        self.sockets.get_mut::<tcp::Socket<'_>>(socket).send_slice(text).unwrap();
        self.carry();
    }

    fn heard(&mut self, socket: SocketHandle) -> String {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(socket);
        let mut text = Vec::new();
        while socket.can_recv() {
            socket.recv(|octets| (octets.len(), text.extend_from_slice(octets))).unwrap();
        }
        String::from_utf8(text).unwrap()
    }

    /// One request on a connection of its own.
    fn request(&mut self, text: &str) -> String {
        let socket = self.connect();
        self.carry();
        self.say(socket, text.as_bytes());
        let mut heard = self.heard(socket);
        // The receive buffer is emptied, so that more may come.
        for _ in 0..20 {
            self.carry();
            heard += &self.heard(socket);
        }
        self.sockets.get_mut::<tcp::Socket<'_>>(socket).close();
        self.carry();
        heard
    }

    fn token(&mut self) -> String {
        let answer = self
            .request("PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        body(&answer).to_owned()
    }

    fn get(&mut self, path: &str, token: &str) -> String {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n"))
    }

    fn wait(&mut self, span: Duration) {
        let end = self.now.plus(span);
        while let Some(due) = self.metadata.next_poll(self.now).filter(|due| *due <= end) {
            self.now = due.max(self.now.plus(Duration::from_millis(1)));
            self.carry();
        }
        self.now = end;
        self.carry();
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn with_a_token_an_instance_reads_its_own_facts_and_user_data() {
    let mut scene = Scene::new();
    let token = scene.token();
    let instance = InstanceId::from_bits(0xabc).to_string();
    for (path, value) in [
        ("meta-data/instance-id", instance.as_str()),
        ("meta-data/ami-id", &ImageId::from_bits(3).to_string()),
        ("meta-data/local-ipv4", "10.0.1.4"),
        ("meta-data/mac", &MAC.to_string()),
        ("meta-data/hostname", "web"),
        ("meta-data/security-groups", &format!("{}\n{}", SecurityGroupId::from_bits(6), SecurityGroupId::from_bits(7))),
        ("user-data", USER_DATA),
    ] {
        let answer = scene.get(&format!("/latest/{path}"), &token);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{path}: {answer}");
        assert_eq!(body(&answer), value, "{path}");
    }
    let document = scene.get("/latest/dynamic/instance-identity/document", &token);
    assert!(body(&document).contains(&format!("\"instanceId\": \"{instance}\"")), "{document}");
    let listing = scene.get("/latest/meta-data/", &token);
    assert!(body(&listing).lines().any(|line| line == "network/"), "{listing}");
}

#[test]
fn a_duplicate_is_told_whose_it_is_and_nobody_else_is() {
    let mut plan = plan(USER_DATA);
    let (source, replica) = (InstanceId::from_bits(0xdef), ReplicaId::from_bits(9));
    plan.ports[0].metadata.as_mut().unwrap().origin =
        Some(DuplicateOrigin { source, replica, cut: Some(Moment(1_500_000_250_000)) });
    let mut duplicate = Scene::of(&plan);
    let token = duplicate.token();
    let listing = duplicate.get("/latest/meta-data/duplicate/", &token);
    assert_eq!(body(&listing), "cut\nof\nreplica");
    for (leaf, value) in
        [("of", source.to_string()), ("replica", replica.to_string()), ("cut", "1970-01-18T08:40:00.25Z".into())]
    {
        assert_eq!(body(&duplicate.get(&format!("/latest/meta-data/duplicate/{leaf}"), &token)), value);
    }
    let mut other = Scene::new();
    let token = other.token();
    assert!(other.get("/latest/meta-data/duplicate/", &token).starts_with("HTTP/1.1 404 "));
    assert!(!body(&other.get("/latest/meta-data/", &token)).contains("duplicate"));
}

#[test]
fn without_a_valid_token_nothing_is_told() {
    let mut scene = Scene::new();
    let token = scene.token();
    assert!(scene.request("GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 401 "));
    assert!(scene.get("/latest/user-data", "guess").starts_with("HTTP/1.1 401 "));
    scene.wait(Duration::from_secs(61));
    assert!(scene.get("/latest/user-data", &token).starts_with("HTTP/1.1 401 "), "expired");
}

#[test]
fn a_token_is_not_given_through_a_proxy_or_for_too_long() {
    let mut scene = Scene::new();
    let put = |headers: &str| format!("PUT /latest/api/token HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    assert!(scene.request(&put("")).starts_with("HTTP/1.1 400 "));
    assert!(scene.request(&put(&format!("{ttl}: 21601\r\n"))).starts_with("HTTP/1.1 400 "));
    let forwarded = put(&format!("{ttl}: 60\r\nX-Forwarded-For: 10.0.0.9\r\n"));
    assert!(scene.request(&forwarded).starts_with("HTTP/1.1 403 "));
    assert!(scene.request("POST /latest/api/token HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
}

/// The user data of EC2 has at most 16 KiB; it is more than the sockets' buffers hold at once.
#[test]
fn long_user_data_arrives_whole() {
    let data = "0123456789abcdef".repeat(1024);
    let mut scene = Scene::with(&data);
    let token = scene.token();
    assert_eq!(body(&scene.get("/latest/user-data", &token)), data);
}

#[test]
fn many_requests_one_after_the_other_are_all_answered() {
    let mut scene = Scene::new();
    let token = scene.token();
    for round in 0..5 * CONNECTIONS {
        assert!(scene.get("/latest/meta-data/mac", &token).starts_with("HTTP/1.1 200"), "request {round}");
    }
}

/// Clients that say little and slowly have the connections for ten seconds, not for ever, and the service forgets them.
#[test]
fn slow_clients_are_cut_off_and_cost_nothing_after() {
    let mut scene = Scene::new();
    let slow: Vec<_> = (0..CONNECTIONS).map(|_| scene.connect()).collect();
    scene.carry();
    slow.iter().for_each(|socket| scene.say(*socket, b"GET /lat"));
    let refused = scene.connect();
    scene.carry();
    assert!(!scene.sockets.get_mut::<tcp::Socket<'_>>(refused).is_open(), "all connections are taken");
    for _ in 0..6 {
        scene.wait(Duration::from_secs(2));
        slow.iter().for_each(|socket| {
            let socket = scene.sockets.get_mut::<tcp::Socket<'_>>(*socket);
            let _ = socket.send_slice(b"e");
        });
    }
    assert!(scene.metadata.stacks.is_empty(), "{:?}", scene.metadata);
    scene.token();
}

#[test]
fn an_oversized_request_is_refused_and_its_connection_ended() {
    let mut scene = Scene::new();
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(5000));
    assert!(scene.request(&endless).starts_with("HTTP/1.1 400 "));
    scene.wait(Duration::from_secs(11));
    assert!(scene.metadata.stacks.is_empty(), "{:?}", scene.metadata);
}

#[test]
fn what_is_not_ip_or_of_no_port_is_dropped_and_counted() {
    let mut scene = Scene::new();
    scene.metadata.handle_frame(PORT, &[0; 60]);
    scene.metadata.handle_frame(PORT, &[0; 3]);
    scene.metadata.handle_frame(PortIndex(1), &[8; 60]);
    assert_eq!(scene.metadata.dropped(), 3);
    for octets in 0..200u8 {
        let frame: Vec<u8> = [8, 0].into_iter().cycle().take(12).chain([8, 0]).chain(vec![octets; 60]).collect();
        scene.metadata.handle_frame(PORT, &frame);
        scene.metadata.poll(scene.now, &mut Vec::new());
    }
    scene.token();
}
