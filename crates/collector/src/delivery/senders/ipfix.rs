//! IPFIX to a tenant's own collector, over UDP or TCP.
//!
//! Owns the connection and its templates. Over UDP they are sent again once a minute, and a receiver that is away is noticed
//! where its machine says so; more UDP does not offer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lucarne_flows::ipfix::Exporter;
use lucarne_model::{FlowLogId, flow_log::Transport};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::{Reach, SendError, Sending};

const CONNECT_TIME: Duration = Duration::from_secs(10);
const WRITE_TIME: Duration = Duration::from_secs(30);
/// RFC 7011 section 8.4 asks for at least three in a template's lifetime, which receivers set to some minutes.
const TEMPLATES_EVERY: Duration = Duration::from_secs(60);
/// How long a machine may take to say that nobody listens.
const ECHO: Duration = Duration::from_millis(50);
/// Datagrams sent at once; a receiver's buffer holds a few dozen.
const BURST: usize = 16;
const BETWEEN_BURSTS: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(in crate::delivery) struct IpfixSender {
    transport: Transport,
    host: String,
    port: u16,
    reach: Reach,
    /// The observation domain: of this log's records, as told by us.
    domain: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    exporter: Exporter,
    line: Line,
    templates_sent: Instant,
}

#[derive(Debug)]
enum Line {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl IpfixSender {
    pub(super) fn new(log: FlowLogId, transport: Transport, host: String, port: u16, reach: Reach) -> Self {
        let domain = (log.bits() & u128::from(u32::MAX)) as u32;
        Self { transport, host, port, reach, domain, open: None }
    }

    pub(super) async fn send(&mut self, sending: Sending<'_>) -> Result<(), SendError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        if matches!(open.line, Line::Udp(_)) && open.templates_sent.elapsed() >= TEMPLATES_EVERY {
            open.exporter.resend_templates();
            open.templates_sent = Instant::now();
        }
        let messages = open.exporter.encode_for_tenant(sending.records, sending.now);
        let sent = timeout(WRITE_TIME, open.line.write(&messages)).await;
        sent.map_err(|_| SendError::Late { to: self.to() })?
            .map_err(|source| SendError::Network { to: self.to(), source })?;
        // Only a line on which everything went well is used again.
        self.open = Some(open);
        Ok(())
    }

    fn to(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    async fn connect(&self) -> Result<Open, SendError> {
        let addresses = self.reach.resolve(&self.host, self.port).await?;
        let connected = timeout(CONNECT_TIME, connect(self.transport, &addresses)).await;
        let line = connected
            .map_err(|_| SendError::Late { to: self.to() })?
            .map_err(|source| SendError::Network { to: self.to(), source })?;
        let exporter = match line {
            Line::Udp(_) => Exporter::new(self.domain),
            Line::Tcp(_) => Exporter::new(self.domain).with_limit(Exporter::STREAM),
        };
        Ok(Open { exporter, line, templates_sent: Instant::now() })
    }
}

async fn connect(transport: Transport, addresses: &[SocketAddr]) -> std::io::Result<Line> {
    match transport {
        Transport::Tcp => TcpStream::connect(addresses).await.map(Line::Tcp),
        Transport::Udp => {
            let ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
            let any: SocketAddr = if ipv6 { ([0u16; 8], 0).into() } else { ([0u8; 4], 0).into() };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(addresses).await?;
            Ok(Line::Udp(socket))
        }
    }
}

impl Line {
    async fn write(&mut self, messages: &[Vec<u8>]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                for message in messages {
                    stream.write_all(message).await?;
                }
                stream.flush().await
            }
            Self::Udp(socket) => {
                // The first alone: where nobody listens, that is said now and not after all the others are lost.
                let (first, rest) = messages.split_at(messages.len().min(1));
                for burst in first.chunks(1).chain(rest.chunks(BURST)) {
                    for message in burst {
                        socket.send(message).await?;
                    }
                    sleep(BETWEEN_BURSTS).await;
                }
                sleep(ECHO).await;
                socket.take_error()?.map_or(Ok(()), Err)
            }
        }
    }
}
