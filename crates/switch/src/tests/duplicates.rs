//! Ports that begin with what others had at a cut. Here the other tenant's machine is the duplicate of the web server: it has
//! its address, in a network of its own.

use super::{frames::*, *};

/// The duplicate's network gets a second machine, which is where the other end of the web server's connections was.
fn scene() -> Scene {
    let mut scene = Scene::new();
    let mut far = endpoint(FAR);
    (far.interface, far.instance, far.subnet) = (interface(9), instance(9), subnet(OTHER_TENANT));
    scene.plan.networks[1].endpoints.push(far);
    scene.apply();
    scene.wait(Duration::from_secs(100));
    scene
}

fn duplicate(scene: &mut Scene) {
    let connections = scene.switch.connections(vpc(WEB));
    let to = scene.port(OTHER_TENANT);
    scene.switch.adopt(to, &connections[&interface(WEB)], scene.now, &mut scene.out);
    scene.out = Outcome::default();
}

#[test]
fn a_duplicates_connection_goes_on_though_its_network_would_not_let_it_begin_so() {
    let answer = udp(53, 40000, 5);
    let sent = |scene: &mut Scene| {
        scene.send_frame(OTHER_TENANT, &Ends::between(OTHER_TENANT, FAR).frame(&udp(40000, 53, 5)));
        scene.switch.handle_tunnel_frame(
            THERE,
            VNI_B,
            &Ends::between(FAR, OTHER_TENANT).frame(&answer),
            scene.now,
            &mut scene.out,
        );
        scene.out.to_guests.len()
    };
    for adopts in [false, true] {
        let mut scene = scene();
        scene.send(WEB, FAR, udp(40000, 53, 5));
        if adopts {
            duplicate(&mut scene);
        } else {
            scene.out = Outcome::default();
        }
        let frame = Ends::between(FAR, OTHER_TENANT).frame(&answer);
        scene.switch.handle_tunnel_frame(THERE, VNI_B, &frame, scene.now, &mut scene.out);
        assert_eq!(scene.out.to_guests.len(), usize::from(adopts), "an answer to what was asked before the cut");
        assert_eq!(sent(&mut scene), usize::from(adopts) + 1);
    }
}

#[test]
fn what_was_in_flight_reaches_the_duplicate_by_its_own_networks_rules_and_is_counted_there() {
    let mut scene = scene();
    scene.send(FAR, WEB, tcp(40000, 80, SYN));
    duplicate(&mut scene);
    let to = scene.port(OTHER_TENANT);
    let denied = tcp(40000, 9999, SYN);
    for shape in [tcp(40000, 80, SYN), denied] {
        let frame = Ends::between(FAR, WEB).frame(&shape);
        scene.switch.handle_copied_frame(to, &frame, scene.now, &mut scene.out);
    }
    assert_eq!(scene.out.to_guests, [(to, Ends::between(FAR, WEB).frame(&tcp(40000, 80, SYN)))]);
    assert_eq!(scene.counters(OTHER_TENANT).ingress.packets, 2);
    scene.flush();
    let told = scene.out.records.iter().filter(|record| record.instance == instance(OTHER_TENANT));
    let told: Vec<_> = told.map(|record| (record.destination_port, record.packets, record.vpc)).collect();
    assert_eq!(told, [(80, 1, vpc(OTHER_TENANT)), (9999, 1, vpc(OTHER_TENANT))]);
}

/// The router's own answers are no flows that groups judge.
#[test]
fn an_answer_of_the_router_that_was_in_flight_reaches_the_duplicate() {
    let mut scene = scene();
    let to = scene.port(OTHER_TENANT);
    let gateway = Ipv4Addr::new(10, 0, 1, 1);
    let ends = Ends { source: gateway, source_mac: MacAddress::ROUTER, ..Ends::between(FAR, WEB) };
    scene.switch.handle_copied_frame(to, &ends.frame(&pong(1)), scene.now, &mut scene.out);
    scene.switch.handle_copied_frame(to, &[0xff; 60], scene.now, &mut scene.out);
    assert_eq!(scene.out.to_guests.len(), 2);
}
