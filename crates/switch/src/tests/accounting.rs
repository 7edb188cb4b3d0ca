//! The law of the flow table: the records of a port add up to its counters, to the packet and the octet.

use std::collections::BTreeMap;

use lucarne_model::{
    MitigationId,
    flow::Path,
    mitigation::{DesiredMitigation, MitigationAction, MitigationTarget},
};
use proptest::prelude::*;

use super::{frames::*, *};
use crate::counters::Sum;

#[derive(Clone, Debug)]
enum Step {
    Send {
        from: usize,
        to: usize,
        shape: Shape,
        source: Option<u8>,
    },
    Wait(u64),
    /// Takes a rule away or gives it back.
    Rule(usize),
    /// Stops an instance or starts it again.
    Port(usize),
    /// Gives the subnets other ACLs: rejecting entries of these numbers among accepting ones.
    Acl(Vec<u16>),
    /// Gives other orders.
    Orders(Vec<DesiredMitigation>),
    /// One machine tries so many ports of another.
    Flood {
        from: usize,
        to: usize,
        attempts: u16,
        port: u16,
    },
    /// Asks the router: for an address, an echo, or its metadata, which the service answers.
    Ask(usize, u8),
    /// Another interval for an instance's records, in seconds.
    Interval(usize, u64),
    /// Another process takes over from the switch.
    Restart,
}

const MACHINES: [u128; 5] = [WEB, APP, DATABASE, FAR, FAR_DATABASE];

fn shape() -> impl Strategy<Value = Shape> {
    let port = prop_oneof![Just(80u16), Just(22), Just(443), 40000u16..40004];
    let flags = prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(FIN | ACK), Just(RST), any::<u8>()];
    let kinds = prop_oneof![
        4 => (port.clone(), port, flags).prop_map(|(a, b, flags)| tcp(a, b, flags)),
        2 => (0u16..4, 52u16..55, 0usize..200).prop_map(|(a, b, data)| udp(a, b, data)),
        1 => (0u16..4, 52u16..55, 0usize..200).prop_map(|(a, b, data)| udp(b, a, data)),
        2 => (0u16..3, any::<bool>()).prop_map(|(id, asks)| if asks { ping(id) } else { pong(id) }),
        1 => any::<u16>().prop_map(|seed| {
            let about = Ends::between(FAR, WEB).frame(&tcp(40000 + seed % 4, 80, SYN));
            error_about(3, (seed >> 8) as u8 % 4, &about)
        }),
    ];
    (kinds, prop_oneof![8 => Just(64u8), 1 => Just(1)]).prop_map(|(shape, ttl)| shape.ttl(ttl))
}

fn mitigation() -> impl Strategy<Value = DesiredMitigation> {
    let action = prop_oneof![
        Just(MitigationAction::Block),
        (1u32..20).prop_map(|packets_per_second| MitigationAction::Cap { packets_per_second }),
    ];
    let port = prop_oneof![Just(80u16), Just(53), Just(443)];
    let target = (prop::option::of(0usize..5), prop::option::of(port), prop::option::of(any::<bool>()));
    (any::<u8>(), target, action).prop_map(|(id, (machine, port, egress), action)| DesiredMitigation {
        id: MitigationId::from_bits(id.into()),
        target: MitigationTarget {
            instance: machine.map(|at| instance(MACHINES[at])),
            port,
            direction: egress.map(|egress| if egress { Direction::Egress } else { Direction::Ingress }),
            ..MitigationTarget::default()
        },
        action,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let spoofed = prop_oneof![9 => Just(None), 1 => any::<u8>().prop_map(Some)];
    prop_oneof![
        20 => (0usize..5, 0usize..5, shape(), spoofed)
            .prop_map(|(from, to, shape, source)| Step::Send { from, to, shape, source }),
        4 => (0u64..15_000_000).prop_map(Step::Wait),
        1 => (0usize..5).prop_map(Step::Rule),
        1 => (0usize..3).prop_map(Step::Port),
        1 => prop::collection::vec(1u16..40, 0..4).prop_map(Step::Acl),
        1 => prop::collection::vec(mitigation(), 0..3).prop_map(Step::Orders),
        1 => (0usize..5, 0usize..5, 1u16..60, prop_oneof![Just(80u16), Just(444)])
            .prop_map(|(from, to, attempts, port)| Step::Flood { from, to, attempts, port }),
        3 => (0usize..3, any::<u8>()).prop_map(|(machine, what)| Step::Ask(machine, what)),
        1 => (0usize..3, 1u64..30).prop_map(|(machine, seconds)| Step::Interval(machine, seconds)),
        1 => Just(Step::Restart),
    ]
}

/// The sums that the counters of ports gave, by interface: those that are gone and those that are there.
#[derive(Default)]
struct Ledger(BTreeMap<(InterfaceId, Direction), Sum>);

impl Ledger {
    fn add(&mut self, interface: InterfaceId, direction: Direction, packets: u64, bytes: u64) {
        if packets > 0 {
            let sum = self.0.entry((interface, direction)).or_default();
            sum.packets += packets;
            sum.bytes += bytes;
        }
    }

    fn add_port(&mut self, scene: &Scene, machine: u128) {
        let Some(port) = scene.switch.port(interface(machine)) else { return };
        let counters = scene.switch.port_counters(port).unwrap();
        self.add(interface(machine), Direction::Egress, counters.egress.packets, counters.egress.bytes);
        self.add(interface(machine), Direction::Ingress, counters.ingress.packets, counters.ingress.bytes);
    }
}

fn perform(scene: &mut Scene, step: &Step, gone: &mut Ledger) {
    match step {
        Step::Send { from, to, shape, source } => send(scene, MACHINES[*from], MACHINES[*to], shape, *source),
        Step::Wait(micros) => scene.wait(Duration::from_micros(*micros)),
        Step::Rule(at) => {
            let all = groups();
            let rules = &mut scene.plan.networks[0].groups[0].rules;
            match rules.iter().position(|rule| rule.id == all[0].rules[*at].id) {
                Some(present) => drop(rules.remove(present)),
                None => rules.push(all[0].rules[*at].clone()),
            }
            scene.apply();
        }
        Step::Port(at) => {
            let machine = MACHINES[*at];
            gone.add_port(scene, machine);
            let ports = &mut scene.plan.ports;
            match ports.iter().position(|port| port.interface == interface(machine)) {
                Some(present) => drop(ports.remove(present)),
                None => ports.push(port_plan(machine)),
            }
            scene.apply();
        }
        Step::Acl(numbers) => {
            for subnet in &mut scene.plan.networks[0].subnets {
                subnet.acl = if numbers.is_empty() { Vec::new() } else { mixed_acl(numbers) };
            }
            scene.apply();
        }
        Step::Orders(orders) => {
            scene.plan.mitigations.clone_from(orders);
            scene.apply();
        }
        Step::Flood { from, to, attempts, port } => {
            for attempt in 0..*attempts {
                send(scene, MACHINES[*from], MACHINES[*to], &tcp(50_000 + attempt, *port, SYN), None);
            }
        }
        Step::Ask(at, what) => ask(scene, MACHINES[*at], *what),
        Step::Interval(at, seconds) => {
            let ports = scene.plan.ports.iter_mut().filter(|port| port.interface == interface(MACHINES[*at]));
            ports.for_each(|port| port.flow_interval = Some(Duration::from_secs(*seconds)));
            scene.apply();
        }
        Step::Restart => {
            MACHINES.iter().for_each(|machine| gone.add_port(scene, *machine));
            scene.flush();
            scene.switch = Switch::new(HERE, scene.switch.settings.clone(), 8);
            scene.apply();
        }
    }
}

/// A guest asks the router for something, and is answered.
fn ask(scene: &mut Scene, machine: u128, what: u8) {
    let Some(port) = scene.switch.port(interface(machine)) else { return };
    let gateway = Ipv4Addr::from_bits(address(machine).to_bits() & 0xffff_ff00 | 1);
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let to = |destination| Ends { destination, destination_mac: MacAddress::ROUTER, ..Ends::between(machine, machine) };
    let (ends, shape) = match what % 4 {
        0 => (to(gateway), ping(u16::from(what / 4))),
        1 => (to(Ipv4Addr::BROADCAST), udp(68, 67, usize::from(what))),
        2 => (to(metadata), tcp(u16::from(what / 8), 80, if what & 4 == 0 { SYN } else { FIN | ACK })),
        _ => (to(metadata), ping(1)),
    };
    scene.switch.handle_guest_frame(port, &mut ends.frame(&shape), scene.now, &mut scene.out);
    let back = Ends { source: metadata, destination: address(machine), ..ends };
    let answer = back.frame(&tcp(80, u16::from(what / 8), if what & 4 == 0 { SYN | ACK } else { RST }));
    scene.switch.handle_metadata_frame(port, &answer, scene.now, &mut scene.out);
}

/// Entries that reject one end or the other by their number, and behind them ones that accept all.
fn mixed_acl(numbers: &[u16]) -> Vec<AclEntry> {
    let cidrs = ["10.0.2.20/32", "10.0.2.60/32", "10.0.1.0/24"];
    let direction = |number| if number % 2 == 0 { Direction::Egress } else { Direction::Ingress };
    let reject = |number: &u16| {
        acl_entry(*number, direction(*number), Verdict::Reject, cidrs[usize::from(*number) % cidrs.len()])
    };
    let accept = |number| acl_entry(number, direction(number), Verdict::Accept, "0.0.0.0/0");
    numbers.iter().map(reject).chain([accept(100), accept(101)]).collect()
}

fn send(scene: &mut Scene, from: u128, to: u128, shape: &Shape, source: Option<u8>) {
    if endpoint(from).host == THERE {
        return scene.send(from, to, shape.clone());
    }
    let Some(port) = scene.switch.port(interface(from)) else { return };
    let mut ends = Ends::between(from, to);
    if let Some(last) = source {
        ends.source = Ipv4Addr::new(10, 0, 1, last);
    }
    scene.switch.handle_guest_frame(port, &mut ends.frame(shape), scene.now, &mut scene.out);
}

fn check(capacity: usize, port_capacity: usize, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut settings = Settings::default();
    (settings.flows.capacity, settings.flows.port_capacity) = (capacity, port_capacity);
    let mut scene = Scene::young(settings);
    let mut counted = Ledger::default();
    for step in steps {
        perform(&mut scene, step, &mut counted);
    }
    for machine in MACHINES {
        counted.add_port(&scene, machine);
    }
    scene.flush();
    prop_assert_eq!(scene.switch.live_flows(), 0);
    let mut recorded = Ledger::default();
    for record in &scene.out.records {
        recorded.add(record.interface, record.direction, record.packets, record.bytes);
        prop_assert!(record.start <= record.end, "{:?}", record);
        prop_assert!(!Path::RESERVED.contains(&record.path), "{:?}", record);
        prop_assert_eq!(record.verdict == Verdict::Reject, record.forwarding_status() >= 0x80);
    }
    prop_assert_eq!(recorded.0, counted.0);
    let frames = scene.switch.frame_counters();
    // Since the last restart.
    let ended = frames.to_guests + frames.to_tunnel + frames.to_metadata + frames.answered;
    prop_assert_eq!(frames.received, ended + frames.dropped.values().sum::<u64>());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_records_of_a_port_add_up_to_its_counters(steps in prop::collection::vec(step(), 1..120)) {
        check(1 << 12, 1 << 12, &steps)?;
    }

    /// With so little room that flows are given up, and gathered, and refused ones share an entry.
    #[test]
    fn they_do_in_a_full_table_too(
        capacity in 1usize..32, port_capacity in 1usize..32, steps in prop::collection::vec(step(), 1..120),
    ) {
        check(capacity, port_capacity, &steps)?;
    }
}
