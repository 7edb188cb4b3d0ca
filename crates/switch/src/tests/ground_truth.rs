//! Every end reason on real frames: what brings it about, and that the record then names it.
//!
//! The walk goes over [`EndReason::ALL`], and [`cause`] has no catch-all: a reason without a cause does not compile.

use std::time::Duration;

use lucarne_model::{
    EndReason, MitigationId,
    flow::Verdict,
    mitigation::{DesiredMitigation, MitigationAction, MitigationTarget},
};

use super::{frames::*, *};
use crate::plan::{PortRemoval, RemovalReason};

const SECOND: Duration = Duration::from_secs(1);

/// What makes a flow of WEB end for this reason, and the verdict that its record has.
fn cause(reason: EndReason) -> (Verdict, fn() -> Scene) {
    use EndReason as R;
    let (verdict, scene): (Verdict, fn() -> Scene) = match reason {
        R::FinBothSides => (Verdict::Accept, || closed(&[(FAR, FIN | ACK), (WEB, FIN | ACK), (FAR, ACK)])),
        R::ResetByInitiator => (Verdict::Accept, || closed(&[(FAR, RST)])),
        R::ResetByResponder => (Verdict::Accept, || closed(&[(WEB, RST | ACK)])),
        R::Idle => (Verdict::Accept, || after(40, &[(FAR, WEB, udp(5000, 53, 20)), (WEB, FAR, udp(53, 5000, 20))])),
        R::ActiveSlice => (Verdict::Accept, || after(11, &OPENING.map(|(from, to, shape)| (from, to, shape())))),
        R::DeniedByGroupAtSource => (Verdict::Reject, denied_at_source),
        R::DeniedByGroupAtDestination => (Verdict::Reject, || after(2, &[(FAR, WEB, tcp(40000, 443, SYN))])),
        R::DeniedByNetworkAcl => (Verdict::Reject, denied_by_acl),
        R::SourceCheck => (Verdict::Reject, false_source),
        R::NoRoute => (Verdict::Reject, || after(2, &[(WEB, STOPPED, udp(1, 53, 0))])),
        R::RefusedByVm => {
            (Verdict::Accept, || after(3, &[(FAR, WEB, tcp(40000, 22, SYN)), (WEB, FAR, tcp(22, 40000, RST | ACK))]))
        }
        R::NoAnswerFromVm => (Verdict::Accept, || after(25, &[(FAR, WEB, tcp(40000, 80, SYN))])),
        R::AbuseMitigation => (Verdict::Reject, || mitigated(MitigationAction::Block, 1)),
        R::RateLimited => (Verdict::Reject, || mitigated(MitigationAction::Cap { packets_per_second: 2 }, 5)),
        R::InstanceStopped => (Verdict::Accept, || changed(|plan| plan.ports.retain(|port| !is_web(port)))),
        R::InstanceMigrated => (Verdict::Accept, || changed(|plan| remove_web(plan, RemovalReason::Migrated))),
        R::InterfaceDetached => (Verdict::Accept, || changed(|plan| remove_web(plan, RemovalReason::Detached))),
        R::RuleChange => (Verdict::Accept, || {
            let mut scene = changed(|plan| plan.networks[0].groups[0].rules.retain(|rule| rule.id != RULE_HTTP));
            scene.wait(12 * SECOND);
            scene
        }),
        R::EvictedForSpace => (Verdict::Accept, flooded),
        R::AgentRestart => (Verdict::Accept, || {
            let mut scene = opened();
            scene.flush();
            scene
        }),
        R::Invalid => (Verdict::Reject, || after(2, &[(WEB, FAR, tcp(80, 40000, ACK))])),
        R::TtlOrFragment => (Verdict::Reject, || after(2, &[(WEB, FAR, udp(1, 53, 8).fragment(0x2000))])),
        R::HalfOpenTimeout => {
            (Verdict::Accept, || after(25, &[(FAR, WEB, tcp(40000, 80, SYN)), (WEB, FAR, tcp(80, 40000, SYN | ACK))]))
        }
        // Between hosts nothing goes unencrypted, and there is no key for this one.
        R::EncryptionRequired => (Verdict::Reject, || {
            let mut scene = Scene::new();
            scene.plan.peers.clear();
            scene.apply();
            scene.send(WEB, FAR, udp(1, 53, 8));
            scene.wait(2 * SECOND);
            scene
        }),
    };
    (verdict, scene)
}

#[test]
fn every_end_reason_has_its_ground_truth() {
    for reason in EndReason::ALL.iter().copied() {
        let (verdict, scene) = cause(reason);
        let scene = scene();
        let found = scene.records(WEB).into_iter().find(|record| record.end_reason == reason);
        let record = found.unwrap_or_else(|| panic!("{reason}: {:#?}", scene.out.records));
        assert_eq!(record.verdict, verdict, "{reason}");
        assert_eq!(record.forwarding_status() >= 0x80, verdict == Verdict::Reject, "{reason}");
    }
}

type Sent = (u128, u128, Shape);
/// From, to, and what.
type ToSend = (u128, u128, fn() -> Shape);

const OPENING: [ToSend; 3] =
    [(FAR, WEB, || tcp(40000, 80, SYN)), (WEB, FAR, || tcp(80, 40000, SYN | ACK)), (FAR, WEB, || tcp(40000, 80, ACK))];

/// FAR has opened a connection to WEB's port 80.
fn opened() -> Scene {
    let mut scene = Scene::new();
    OPENING.iter().for_each(|(from, to, shape)| scene.send(*from, *to, shape()));
    scene
}

/// What is there so many seconds after these packets.
fn after(seconds: u32, packets: &[Sent]) -> Scene {
    let mut scene = Scene::new();
    packets.iter().for_each(|(from, to, shape)| scene.send(*from, *to, shape.clone()));
    scene.wait(seconds * SECOND);
    scene
}

/// The open connection, and what its two sides sent then.
fn closed(packets: &[(u128, u8)]) -> Scene {
    let mut scene = opened();
    for (from, flags) in packets {
        match *from {
            WEB => scene.send(WEB, FAR, tcp(80, 40000, *flags)),
            _ => scene.send(FAR, WEB, tcp(40000, 80, *flags)),
        }
    }
    scene.wait(3 * SECOND);
    scene
}

/// The open connection under a plan that was changed.
fn changed(change: fn(&mut Plan)) -> Scene {
    let mut scene = opened();
    change(&mut scene.plan);
    scene.apply();
    scene
}

/// The plan without WEB's port, and with the word why.
fn remove_web(plan: &mut Plan, reason: RemovalReason) {
    plan.ports.retain(|port| !is_web(port));
    plan.removals.push(PortRemoval { interface: interface(WEB), reason });
}

fn is_web(port: &PortPlan) -> bool {
    port.interface == interface(WEB)
}

fn denied_at_source() -> Scene {
    let mut scene = Scene::new();
    scene.plan.networks[0].groups[0].rules.remove(0);
    scene.apply();
    scene.send(WEB, FAR, tcp(40000, 443, SYN));
    scene.wait(2 * SECOND);
    scene
}

fn denied_by_acl() -> Scene {
    let mut scene = Scene::new();
    scene.plan.networks[0].subnets[0].acl = vec![acl_entry(100, Direction::Ingress, Verdict::Reject, "0.0.0.0/0")];
    scene.apply();
    scene.send(FAR_DATABASE, WEB, tcp(40000, 80, SYN));
    scene.wait(2 * SECOND);
    scene
}

fn false_source() -> Scene {
    let mut scene = Scene::new();
    let ends = Ends { source: address(APP), ..Ends::between(WEB, FAR) };
    scene.send_frame(WEB, &ends.frame(&udp(1, 53, 0)));
    scene.wait(2 * SECOND);
    scene
}

fn mitigated(action: MitigationAction, packets: u16) -> Scene {
    let mut scene = Scene::new();
    let target = MitigationTarget { instance: Some(instance(WEB)), ..MitigationTarget::default() };
    scene.plan.mitigations = vec![DesiredMitigation { id: MitigationId::from_bits(1), target, action }];
    scene.apply();
    for port in 0..packets {
        scene.send(WEB, FAR, udp(1000 + port, 53, 8));
    }
    scene.wait(2 * SECOND);
    scene
}

fn flooded() -> Scene {
    let mut settings = Settings::default();
    settings.flows.capacity = 16;
    let mut scene = Scene::young(settings);
    for port in 0..100 {
        scene.send(FAR, WEB, tcp(50000 + port, 80, SYN));
    }
    scene.wait(2 * SECOND);
    scene
}
