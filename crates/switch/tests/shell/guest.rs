//! A guest without a VM: a unix datagram socket where QEMU's would be, and `smoltcp` as the guest's stack.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::Ipv4Addr,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::SystemTime,
};

use lucarne_model::MacAddress;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::{dhcpv4, icmp, tcp},
    time::Instant,
    wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Cidr},
};

const IDENT: u16 = 0x22b;
/// As DHCP tells it, and an Ethernet header.
const LONGEST_FRAME: usize = 1414;

/// A guest that asks for its address as soon as it is polled.
pub(crate) struct Guest {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    icmp: SocketHandle,
    address: Option<Ipv4Cidr>,
    next_port: u16,
}

impl Guest {
    pub(crate) fn new(own: &Path, switch: &Path, mac: MacAddress) -> Self {
        let mut wire = Wire::bind(own, switch);
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let interface = Interface::new(config, &mut wire, now());
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = sockets.add(dhcpv4::Socket::new());
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 4096]);
        let mut echo = icmp::Socket::new(buffer(), buffer());
        echo.bind(icmp::Endpoint::Ident(IDENT)).unwrap();
        let icmp = sockets.add(echo);
        Self { wire, interface, sockets, dhcp, icmp, address: None, next_port: 40_000 }
    }

    /// Lets the stack do what it can.
    pub(crate) fn poll(&mut self) {
        self.interface.poll(now(), &mut self.wire, &mut self.sockets);
        let Some(dhcpv4::Event::Configured(lease)) = self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.dhcp).poll()
        else {
            return;
        };
        let (address, router) = (lease.address, lease.router.unwrap());
        self.address = Some(address);
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::Ipv4(address)).unwrap();
        });
        self.interface.routes_mut().add_default_ipv4_route(router).unwrap();
    }

    /// What DHCP gave.
    pub(crate) fn address(&self) -> Option<Ipv4Cidr> {
        self.address
    }

    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = new_tcp();
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn connect(&mut self, to: Ipv4Addr, port: u16) -> SocketHandle {
        self.next_port += 1;
        let mut socket = new_tcp();
        socket.connect(self.interface.context(), (to, port), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, socket: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(socket)
    }

    /// What has come over a connection since it was last asked.
    pub(crate) fn heard(&mut self, socket: SocketHandle) -> Vec<u8> {
        let mut text = Vec::new();
        let socket = self.tcp(socket);
        while socket.can_recv() {
            socket.recv(|octets| (octets.len(), text.extend_from_slice(octets))).unwrap();
        }
        text
    }

    /// Asks for an echo; what does not fit, because the switch does not read for a while, is not sent.
    pub(crate) fn ping(&mut self, to: Ipv4Addr, seq_no: u16, data: &[u8]) {
        let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no, data };
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.icmp);
        let Ok(room) = socket.send(request.buffer_len(), IpAddress::Ipv4(to)) else { return };
        request.emit(&mut Icmpv4Packet::new_unchecked(room), &ChecksumCapabilities::default());
    }

    /// The data of an echo's answer from `from`, if one has come.
    pub(crate) fn pong(&mut self, from: Ipv4Addr) -> Option<Vec<u8>> {
        let (packet, source) = self.sockets.get_mut::<icmp::Socket<'_>>(self.icmp).recv().ok()?;
        match Icmpv4Repr::parse(&Icmpv4Packet::new_checked(packet).unwrap(), &ChecksumCapabilities::default()) {
            Ok(Icmpv4Repr::EchoReply { data, .. }) if source == IpAddress::Ipv4(from) => Some(data.to_vec()),
            _ => None,
        }
    }

    /// The guest's process ends: its socket is gone, its path stays.
    pub(crate) fn kill(&mut self) {
        self.wire.socket = UnixDatagram::unbound().unwrap();
        self.wire.socket.set_nonblocking(true).unwrap();
    }

    /// A new process binds the same path.
    pub(crate) fn revive(&mut self) {
        let Wire { own, switch, .. } = &self.wire;
        self.wire = Wire::bind(own, switch);
    }
}

fn new_tcp() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 16]);
    tcp::Socket::new(buffer(), buffer())
}

fn now() -> Instant {
    Instant::from_micros(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64)
}

/// The guest's network device.
struct Wire {
    socket: UnixDatagram,
    own: PathBuf,
    switch: PathBuf,
    /// Frames that wait until the switch has taken some: its socket holds as few as ten (`net.unix.max_dgram_qlen`), and
    /// QEMU loses none of those behind.
    waiting: VecDeque<Vec<u8>>,
}

impl Wire {
    fn bind(own: &Path, switch: &Path) -> Self {
        let _ = std::fs::remove_file(own);
        let socket = UnixDatagram::bind(own).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, own: own.to_owned(), switch: switch.to_owned(), waiting: VecDeque::new() }
    }

    /// Sends what waits, as far as there is room. A switch that is not there loses frames, as an unplugged cable does.
    fn flush(&mut self) {
        while let Some(frame) = self.waiting.front() {
            let sent = self.socket.send_to(frame, &self.switch);
            if sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Wire);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        self.flush();
        let mut frame = vec![0; 2048];
        let length = self.socket.recv(&mut frame).ok()?;
        frame.truncate(length);
        Some((Received(frame), Sending(self)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        self.flush();
        self.waiting.is_empty().then_some(Sending(self))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LONGEST_FRAME;
        capabilities
    }
}
impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}
impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.waiting.push_back(frame);
        self.0.flush();
        result
    }
}
