//! Other people's programs: started, waited for and ended.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a program says that ends by itself.
pub(crate) fn output(command: &mut Command) -> Output {
    let name = command.get_program().to_owned();
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{name:?}: {error}; `cargo xtask setup` installs it"));
    assert!(output.status.success(), "{name:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A collector of somebody else's on a port of its own, killed with the test.
#[derive(Debug)]
pub(crate) struct Collector {
    child: Child,
    address: SocketAddrV4,
}

impl Collector {
    /// A port that nobody has.
    pub(crate) fn free_port() -> u16 {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
    }

    /// Starts the program, which is to listen on the port.
    pub(crate) fn start(command: &mut Command, port: u16) -> Self {
        let name = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name:?}: {error}; `cargo xtask setup` installs it"));
        let collector = Self { child, address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port) };
        // It listens when nobody else can any more.
        until("it listens", || UdpSocket::bind(collector.address).is_err().then_some(()));
        collector
    }

    /// Sends datagrams, and returns when the program is through with all: it has taken from its socket the one behind
    /// them, which says nothing.
    pub(crate) fn give(&self, datagrams: &[Vec<u8>]) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for datagram in datagrams.iter().chain([&vec![0; 4]]) {
            socket.send_to(datagram, self.address).unwrap();
            self.await_taken();
        }
    }

    /// The kernel tells each socket's queues, what is to send and what was received, with its address in hexadecimal.
    fn await_taken(&self) {
        let local = format!(": 0100007F:{:04X} ", self.address.port());
        until("it reads its socket", || {
            let sockets = fs::read_to_string("/proc/net/udp").unwrap();
            let socket = sockets.lines().find(|line| line.contains(&local)).expect("it has stopped listening");
            let queues = socket.split_whitespace().nth(4).unwrap_or_default();
            queues.ends_with(":00000000").then_some(())
        });
    }

    /// Asks it to end, and waits until it has written what it has.
    pub(crate) fn end(mut self, signal: &str) {
        output(Command::new("kill").args([signal, &self.child.id().to_string()]));
        self.child.wait().unwrap();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Waits for something to be there.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5));
    }
}
