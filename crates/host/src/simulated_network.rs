//! A network that carries nothing and tells of much: made-up flow records for the ports of simulated VMs.
//!
//! Owns the making of records at a rate, so that everything behind the switch (spool, export, collector, questions) can be
//! run at any load without a VM. Each record's flow id is the process's start in seconds, and below it the record's number:
//! who reads the records can tell what is missing.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use lucarne_model::{
    ConnState, EndReason, FlowRecord, History, HostId, Moment, SubnetId,
    flow::{Direction, Location, Path, Side, Verdict},
};
use lucarne_switch::{Plan, plan::PortPlan};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::network::{Network, NetworkError};

/// Records are made so often, as many as are due.
const TICK: Duration = Duration::from_millis(20);
/// As the switch's queue in front of the spool.
const QUEUE: usize = 1 << 16;
/// Bits of a flow id that number the record.
const NUMBER_BITS: u32 = 32;

/// A running source of records.
#[derive(Debug)]
pub(crate) struct SimulatedNetwork {
    ports: watch::Sender<Vec<PortPlan>>,
    end: CancellationToken,
    source: TaskTracker,
}

impl SimulatedNetwork {
    /// Makes `rate` records a second as long as there is a port.
    pub(crate) fn spawn(host: HostId, rate: u32) -> (Self, mpsc::Receiver<FlowRecord>) {
        let (sender, records) = mpsc::channel(QUEUE);
        let (ports, planned) = watch::channel(Vec::new());
        let (end, source) = (CancellationToken::new(), TaskTracker::new());
        let making = Source { host, rate, ports: planned, sender, made: 0 };
        source.spawn(end.clone().run_until_cancelled_owned(making.run()));
        source.close();
        (Self { ports, end, source }, records)
    }
}

#[async_trait]
impl Network for SimulatedNetwork {
    async fn apply(&self, plan: &Plan) -> Result<(), NetworkError> {
        self.ports.send_replace(plan.ports.clone());
        Ok(())
    }
    async fn dropped_frames(&self) -> std::collections::BTreeMap<String, u64> {
        Default::default()
    }
    async fn stop(&self) {
        self.end.cancel();
        self.source.wait().await;
    }
}

struct Source {
    host: HostId,
    rate: u32,
    ports: watch::Receiver<Vec<PortPlan>>,
    sender: mpsc::Sender<FlowRecord>,
    made: u64,
}

impl Source {
    async fn run(mut self) {
        let first = now().as_secs() << NUMBER_BITS;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut due = 0.0;
        loop {
            ticks.tick().await;
            let ports = self.ports.borrow().clone();
            due += if ports.is_empty() { 0.0 } else { f64::from(self.rate) * TICK.as_secs_f64() };
            for port in ports.iter().cycle().take(due as usize) {
                let record = record(port, self.host, first + self.made);
                self.made += 1;
                if self.sender.send(record).await.is_err() {
                    return;
                }
            }
            due = due.fract();
        }
    }
}

/// One packet that a VM sent and nobody answered.
fn record(port: &PortPlan, host: HostId, flow_id: u64) -> FlowRecord {
    let end = now();
    FlowRecord {
        flow_id,
        account: port.account,
        instance: port.instance,
        interface: port.interface,
        subnet: SubnetId::from_bits(0),
        vpc: port.vpc,
        host,
        location: Location::default(),
        groups: Vec::new(),
        rule: None,
        verdict: Verdict::Accept,
        end_reason: EndReason::NoAnswerFromVm,
        direction: Direction::Egress,
        path: Path::OtherHost,
        side: Side::Initiator,
        start: end.minus(Duration::from_millis(1)),
        end,
        packets: 1,
        bytes: 60,
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        destination: Ipv4Addr::new(10, 0, 0, 2).into(),
        source_port: (flow_id % 28_000) as u16 + 32_768,
        destination_port: 80,
        protocol: 6,
        icmp_type: None,
        icmp_code: None,
        tos: 0,
        tcp_flags: 2,
        ttl: 64,
        source_prefix_length: None,
        destination_prefix_length: None,
        next_hop: None,
        history: History::default(),
        conn_state: ConnState::S0,
        round_trip: None,
        retransmissions: 0,
        zero_windows: 0,
        ingress_interface: 0,
        egress_interface: 0,
        mitigation: None,
    }
}

/// The wall clock.
fn now() -> Moment {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment::EPOCH.plus(since_epoch)
}
