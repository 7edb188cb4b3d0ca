//! Where packets go: between neighbours, through the router, through the tunnel, and never to another tenant.

use lucarne_model::flow::Path;

use super::{frames::*, *};

#[test]
fn neighbours_of_one_host_reach_each_other_and_both_sides_keep_the_flow() {
    let mut scene = Scene::new();
    scene.send(WEB, APP, ping(1));
    scene.send(APP, WEB, pong(1));
    let open = scene.switch.live_connections();
    let of = |machine| open[&instance(machine)];
    assert_eq!((of(WEB), of(APP), of(DATABASE)), (1, 1, 0));
    let (first, second) = (scene.out.to_guests[0].clone(), scene.out.to_guests[1].clone());
    assert_eq!(first, (scene.port(APP), Ends::between(WEB, APP).frame(&ping(1))));
    assert_eq!(second, (scene.port(WEB), Ends::between(APP, WEB).frame(&pong(1))));
    scene.flush();
    let ids: Vec<_> = scene.out.records.iter().map(|record| record.flow_id).collect();
    assert_eq!(ids.len(), 4, "two directions at two ports");
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn pings_that_cross_with_the_same_identifier_are_two_flows() {
    let mut scene = Scene::new();
    scene.send(WEB, FAR, ping(1));
    scene.send(FAR, WEB, ping(1));
    scene.send(FAR, WEB, pong(1));
    assert_eq!((scene.switch.live_flows(), scene.given_on()), (2, 3));
}

#[test]
fn the_router_rewrites_addresses_and_takes_from_the_time_to_live() {
    let mut scene = Scene::new();
    scene.send(WEB, DATABASE, udp(1, 53, 5).ttl(9));
    let arrived =
        Ends { source_mac: MacAddress::ROUTER, destination_mac: mac(DATABASE), ..Ends::between(WEB, DATABASE) };
    assert_eq!(scene.out.to_guests, [(scene.port(DATABASE), arrived.frame(&udp(1, 53, 5).ttl(8)))]);
}

#[test]
fn a_packet_for_another_host_goes_through_the_tunnel_in_its_network() {
    let mut scene = Scene::new();
    scene.send(WEB, FAR_DATABASE, udp(1, 53, 5));
    let (host, vni, frame) = scene.out.to_tunnel[0].clone();
    assert_eq!((host, vni), (THERE, VNI_A));
    assert_eq!((&frame[..6], &frame[6..12]), (&mac(FAR_DATABASE).0[..], &MacAddress::ROUTER.0[..]));
    scene.send(FAR_DATABASE, WEB, udp(53, 1, 5));
    assert_eq!(scene.out.to_guests.len(), 1);
}

/// A guest that moves has a port at its new host before it is there.
#[test]
fn a_port_gets_packets_when_its_guest_lives_here_and_takes_its_connections_up_then() {
    let mut scene = Scene::new();
    scene.plan.ports.push(port_plan(FAR));
    scene.apply();
    scene.send(WEB, FAR, udp(1, 53, 5));
    assert_eq!((scene.out.to_guests.len(), scene.out.to_tunnel.len()), (0, 1), "it still lives on the other host");
    scene.wait(Duration::from_secs(100));
    scene.plan.networks[0].endpoints[3].host = HERE;
    scene.apply();
    scene.send(WEB, FAR, udp(1, 53, 5));
    assert_eq!(scene.out.to_guests.len(), 1);
    scene.send(FAR_DATABASE, FAR, tcp(40000, 80, ACK));
    assert_eq!(scene.out.to_guests.len(), 2, "a connection that is older than the port goes on");
    scene.wait(Duration::from_secs(100));
    scene.send(FAR_DATABASE, FAR, tcp(40001, 80, ACK));
    assert_eq!(scene.out.to_guests.len(), 2, "later nothing begins in its middle");
}

#[test]
fn records_tell_how_far_the_other_end_is() {
    let path = |machine, location: &str| {
        let mut scene = Scene::new();
        scene.plan.peers[0].location = location.parse().unwrap();
        scene.apply();
        scene.send(WEB, machine, udp(1, 53, 5));
        scene.flush();
        scene.record(WEB, Direction::Egress).path
    };
    assert_eq!(path(APP, "berlin"), Path::SameHost);
    assert_eq!(path(FAR, "local"), Path::OtherHost);
    assert_eq!(path(FAR, "berlin"), Path::OtherLocation);
}

#[test]
fn padding_is_not_given_on() {
    let mut scene = Scene::new();
    let frame = Ends::between(WEB, FAR).frame(&tcp(1, 80, SYN));
    scene.send_frame(WEB, &[frame.as_slice(), b"secrets"].concat());
    assert_eq!(scene.out.to_tunnel[0].2, frame);
}

#[test]
fn a_tenant_cannot_reach_another_with_the_same_addresses() {
    let mut scene = Scene::new();
    scene.send(APP, WEB, ping(1));
    assert_eq!(scene.out.to_guests[0].0, scene.port(WEB));
    // B's machine asks for an address that only A has; then A's frame arrives under B's number.
    let ends = Ends { source_mac: mac(OTHER_TENANT), ..Ends::between(WEB, APP) };
    scene.send_frame(OTHER_TENANT, &ends.frame(&ping(2)));
    assert_eq!(scene.out.to_guests.len(), 1);
    let frame = Ends { destination_mac: mac(OTHER_TENANT), ..Ends::between(FAR, WEB) }.frame(&ping(3));
    scene.switch.handle_tunnel_frame(THERE, VNI_B, &frame, scene.now, &mut scene.out);
    scene.switch.handle_tunnel_frame(THERE, VNI_A, &frame, scene.now, &mut scene.out);
    assert_eq!(scene.out.to_guests.len(), 1);
    let dropped = scene.switch.frame_counters().dropped;
    assert_eq!((dropped["no-route"], dropped["tunnel-false-source"], dropped["tunnel-no-target"]), (1, 1, 1));
    assert!(scene.records(OTHER_TENANT).iter().all(|record| record.account == account(OTHER_TENANT)));
}

#[test]
fn a_host_can_send_only_for_interfaces_that_live_there() {
    let mut scene = Scene::new();
    let frame = Ends { source: address(APP), ..Ends::between(FAR, WEB) }.frame(&ping(3));
    scene.switch.handle_tunnel_frame(THERE, VNI_A, &frame, scene.now, &mut scene.out);
    let honest = Ends::between(FAR, WEB).frame(&ping(3));
    scene.switch.handle_tunnel_frame(HostId::from_bits(3), VNI_A, &honest, scene.now, &mut scene.out);
    assert_eq!(scene.given_on(), 0);
    assert_eq!(scene.switch.frame_counters().dropped["tunnel-false-source"], 2);
    assert_eq!(scene.counters(WEB), PortCounters::default());
}

#[test]
fn a_group_as_peer_lets_its_members_in_and_nobody_else() {
    let mut scene = Scene::new();
    scene.send(FAR, APP, tcp(1, 9999, SYN));
    assert_eq!(scene.out.to_guests.len(), 1, "both are members");
    scene.send(WEB, APP, tcp(1, 9999, SYN));
    assert_eq!(scene.out.to_guests.len(), 1, "WEB is none");
    scene.wait(Duration::from_secs(3));
    let refused = scene.records(APP).into_iter().find(|record| record.source == address(WEB)).unwrap();
    assert_eq!(refused.end_reason, EndReason::DeniedByGroupAtDestination);
}

#[test]
fn the_longest_prefix_decides() {
    let mut scene = Scene::new();
    let through = |destination: &str, target| Route { destination: destination.parse().unwrap(), target };
    let routes = &mut scene.plan.networks[0].subnets[0].routes;
    routes.push(through("0.0.0.0/0", RouteTarget::Interface { interface: interface(FAR) }));
    routes.push(through("10.0.2.20/32", RouteTarget::Blackhole));
    scene.apply();
    scene.send(WEB, DATABASE, ping(1));
    assert_eq!(scene.given_on(), 0);
    scene.send(WEB, FAR_DATABASE, ping(1));
    let outside = Ends { destination: Ipv4Addr::new(192, 0, 2, 1), ..Ends::between(WEB, FAR_DATABASE) };
    scene.send_frame(WEB, &outside.frame(&ping(2)));
    let targets: Vec<_> = scene.out.to_tunnel.iter().map(|(_, _, frame)| frame[..6].to_vec()).collect();
    assert_eq!(targets, [mac(FAR_DATABASE).0.to_vec(), mac(FAR).0.to_vec()]);
}

#[test]
fn an_icmp_error_of_a_router_on_the_way_belongs_to_the_connection_that_it_quotes() {
    let mut scene = Scene::new();
    let question = tcp(40000, 80, SYN).options(&[1, 1, 1, 0]);
    scene.send(WEB, FAR_DATABASE, question.clone());
    let about = scene.out.to_tunnel[0].2.clone();
    scene.send(FAR, WEB, error_about(11, 0, &about));
    assert_eq!(scene.out.to_guests.len(), 0, "options leave no room for the ports in the 28 octets quoted");
    scene.send(FAR, WEB, Shape { data: about[14..14 + 32].to_vec(), ..icmp(11, 0, 0) });
    assert_eq!(scene.out.to_guests.len(), 1);
}

#[test]
fn the_type_of_service_is_that_of_the_first_packet() {
    let mut scene = Scene::new();
    scene.send(WEB, FAR, udp(1, 2, 0).tos(0xb8));
    scene.send(WEB, FAR, udp(1, 2, 0));
    scene.flush();
    assert_eq!(scene.record(WEB, Direction::Egress).tos, 0xb8);
}
