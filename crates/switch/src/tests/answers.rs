//! What the switch answers itself: ARP, DHCP, an echo of the gateway; and what it hands to the metadata service. DNS is in
//! [`super::names`].

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Packet, UdpPacket};

use lucarne_model::flow::Path;

use super::{frames::*, *};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn arp(sender_mac: MacAddress, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let broadcast = [0xff; 6];
    let (sender, target) = (sender.octets(), target.octets());
    [&broadcast[..], &sender_mac.0, &[8, 6], &head, &sender_mac.0, &sender, &[0; 6], &target].concat()
}

#[test]
fn arp_is_answered_for_the_gateway_the_neighbours_and_the_services() {
    for (target, owner) in [
        (GATEWAY, MacAddress::ROUTER),
        (METADATA, MacAddress::ROUTER),
        (Ipv4Addr::new(10, 0, 0, 2), MacAddress::ROUTER),
        (Ipv4Addr::new(169, 254, 169, 253), MacAddress::ROUTER),
        (address(APP), mac(APP)),
        (address(FAR), mac(FAR)),
    ] {
        let mut scene = Scene::new();
        scene.send_frame(WEB, &arp(mac(WEB), address(WEB), target));
        let (port, reply) = scene.out.to_guests.pop().unwrap();
        assert_eq!(port, scene.port(WEB));
        assert_eq!((&reply[..6], &reply[6..12]), (&mac(WEB).0[..], &owner.0[..]));
        assert_eq!(reply[20..22], [0, 2]);
        assert_eq!((&reply[22..28], &reply[28..32]), (&owner.0[..], &target.octets()[..]));
        assert_eq!(scene.switch.frame_counters().answered, 1);
    }
}

#[test]
fn arp_is_not_answered_for_others_nor_to_liars() {
    let own = address(WEB);
    for frame in [
        arp(mac(WEB), own, Ipv4Addr::new(10, 0, 1, 77)),
        arp(mac(WEB), own, address(DATABASE)),
        // Is my own address taken? It must not seem so (RFC 5227).
        arp(mac(WEB), Ipv4Addr::UNSPECIFIED, own),
        arp(mac(WEB), own, own),
        arp(mac(APP), own, GATEWAY),
        arp(mac(WEB), address(APP), GATEWAY),
    ] {
        let mut scene = Scene::new();
        scene.send_frame(WEB, &frame);
        assert_eq!(scene.given_on(), 0, "{frame:x?}");
        assert_eq!(scene.switch.frame_counters().dropped["arp-ignored"], 1);
    }
}

fn dhcp(kind: DhcpMessageType, requested: Option<Ipv4Addr>) -> Vec<u8> {
    let repr = DhcpRepr {
        message_type: kind,
        transaction_id: 0x1234_5678,
        secs: 0,
        client_hardware_address: EthernetAddress(mac(WEB).0),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: requested,
        client_identifier: None,
        server_identifier: requested.map(|_| GATEWAY),
        parameter_request_list: Some(&[1, 3, 12, 26]),
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut payload = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(payload.as_mut_slice())).unwrap();
    let mut shape = udp(68, 67, payload.len());
    shape.data = payload;
    let nowhere = Ipv4Addr::UNSPECIFIED;
    let (source_mac, destination_mac) = (mac(WEB), MacAddress::BROADCAST);
    Ends { source_mac, destination_mac, source: nowhere, destination: Ipv4Addr::BROADCAST }.frame(&shape)
}

/// Checks the whole frame with smoltcp and gives the options that it does not read itself.
fn read_reply(frame: &[u8], check: impl FnOnce(&DhcpRepr<'_>)) -> Vec<(u8, Vec<u8>)> {
    let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    assert!(ip.verify_checksum());
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    let packet = DhcpPacket::new_checked(udp.payload()).unwrap();
    check(&DhcpRepr::parse(&packet).unwrap());
    packet.options().map(|DhcpOption { kind, data }| (kind, data.to_vec())).collect()
}

#[test]
fn dhcp_gives_a_guest_its_address_and_all_that_goes_with_it() {
    let mut scene = Scene::new();
    scene.send_frame(WEB, &dhcp(DhcpMessageType::Discover, None));
    scene.send_frame(WEB, &dhcp(DhcpMessageType::Request, Some(address(WEB))));
    let replies = std::mem::take(&mut scene.out.to_guests);
    assert_eq!(replies.len(), 2);
    for ((port, frame), kind) in replies.iter().zip([DhcpMessageType::Offer, DhcpMessageType::Ack]) {
        assert_eq!(*port, scene.port(WEB));
        let options = read_reply(frame, |reply| {
            assert_eq!((reply.message_type, reply.your_ip), (kind, address(WEB)));
            assert_eq!((reply.transaction_id, reply.server_identifier), (0x1234_5678, Some(GATEWAY)));
            assert_eq!((reply.router, reply.lease_duration), (Some(GATEWAY), Some(3600)));
            assert_eq!(reply.subnet_mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
        });
        assert!(options.contains(&(26, 1400u16.to_be_bytes().to_vec())), "MTU");
        assert!(options.contains(&(12, b"machine-1".to_vec())), "host name");
        assert!(options.contains(&(6, vec![10, 0, 0, 2])), "resolver");
        assert!(options.contains(&(42, vec![169, 254, 169, 123])), "clock");
        assert!(options.contains(&(15, b"internal".to_vec())), "domain");
        assert!(options.contains(&(119, b"\x08internal\0".to_vec())), "where names are looked for");
    }
    scene.flush();
    let (asked, answered) = (scene.record(WEB, Direction::Egress), scene.record(WEB, Direction::Ingress));
    assert_eq!((asked.path, asked.verdict, asked.rule), (Path::Service, Verdict::Accept, None));
    assert_eq!((asked.packets, answered.packets), (2, 2));
    assert_eq!((asked.source, asked.destination), (address(WEB).into(), GATEWAY.into()));
    assert_eq!((asked.source_port, asked.destination_port), (68, 67));
    assert_eq!(asked.history.to_string(), "Dd");
}

#[test]
fn dhcp_refuses_an_address_that_is_not_the_guests() {
    let mut scene = Scene::new();
    scene.send_frame(WEB, &dhcp(DhcpMessageType::Request, Some(address(APP))));
    read_reply(&scene.out.to_guests[0].1, |reply| {
        assert_eq!((reply.message_type, reply.your_ip), (DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED));
        assert_eq!(reply.dns_servers, None);
    });
}

#[test]
fn the_gateway_answers_a_ping_and_nothing_else() {
    let mut scene = Scene::new();
    let ends = Ends { destination: GATEWAY, destination_mac: MacAddress::ROUTER, ..Ends::between(WEB, FAR) };
    scene.send_frame(WEB, &ends.frame(&ping(77).ttl(200)));
    let (_, reply) = &scene.out.to_guests[0];
    let back =
        Ends { source: GATEWAY, destination: address(WEB), source_mac: MacAddress::ROUTER, destination_mac: mac(WEB) };
    assert_eq!(*reply, back.frame(&pong(77)));
    assert_eq!(scene.switch.live_flows(), 1);
    scene.flush();
    let (asked, answered) = (scene.record(WEB, Direction::Egress), scene.record(WEB, Direction::Ingress));
    assert_eq!((asked.path, answered.path, answered.source), (Path::Service, Path::Service, GATEWAY.into()));
    assert_eq!((asked.packets, answered.packets, asked.ttl), (1, 1, 200));
    scene.send_frame(WEB, &ends.frame(&tcp(1, 80, SYN)));
    assert_eq!(scene.out.to_guests.len(), 1);
    assert_eq!(scene.switch.frame_counters().dropped["no-route"], 1);
}

/// With an open window, and an acknowledgement of the first octet.
fn open(mut shape: Shape) -> Shape {
    (shape.transport[11], shape.transport[14]) = (1, 0x40);
    shape
}

#[test]
fn metadata_goes_to_its_service_and_back_in_a_flow_that_no_rule_is_asked_about() {
    let mut scene = Scene::new();
    scene.plan.networks[0].groups[0].rules.clear();
    scene.apply();
    let ends = Ends { destination: METADATA, destination_mac: MacAddress::ROUTER, ..Ends::between(WEB, FAR) };
    let frame = ends.frame(&open(tcp(40000, 80, SYN)));
    scene.send_frame(WEB, &frame);
    let port = scene.port(WEB);
    assert_eq!(scene.out.to_metadata, [(port, frame)]);
    let (source, destination) = (ends.destination, ends.source);
    let back = Ends { source, destination, source_mac: MacAddress::ROUTER, destination_mac: mac(WEB) };
    let answer = back.frame(&open(tcp(80, 40000, SYN | ACK)));
    scene.wait(Duration::from_millis(2));
    scene.switch.handle_metadata_frame(port, &answer, scene.now, &mut scene.out);
    assert_eq!(scene.out.to_guests, [(port, answer)]);
    scene.send_frame(WEB, &ends.frame(&open(tcp(40000, 80, ACK))));
    // A new plan does not touch it.
    scene.plan.mitigations.clear();
    scene.plan.networks[0].groups.clear();
    scene.apply();
    scene.wait(Duration::from_secs(11));
    let asked = scene.record(WEB, Direction::Egress);
    assert_eq!((asked.path, asked.end_reason, asked.packets), (Path::Service, EndReason::ActiveSlice, 2));
    assert_eq!((asked.destination, asked.next_hop), (METADATA.into(), None));
    assert_eq!((asked.history.to_string().as_str(), asked.round_trip.unwrap().max), ("ShA", 2000));
    let spoofed = Ends { source: address(APP), ..ends }.frame(&tcp(40000, 80, SYN));
    scene.send_frame(WEB, &spoofed);
    assert_eq!(scene.out.to_metadata.len(), 2);
    assert_eq!(scene.switch.frame_counters().dropped["source-check"], 1);
}
