//! How long answers took, on frames whose delays are known: by handshake, acknowledgements, timestamps, and by pairs of UDP.

use std::time::Duration;

use lucarne_model::flow::{Direction, RoundTrip};

use super::{frames::*, *};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

/// A packet of the connection that FAR has with WEB's port 80; the timestamps are laid out as Linux does.
struct Segment {
    sequence: u32,
    acknowledgement: u32,
    data: usize,
    stamps: Option<(u32, u32)>,
}

fn segment(sequence: u32, acknowledgement: u32) -> Segment {
    Segment { sequence, acknowledgement, data: 0, stamps: None }
}

impl Segment {
    fn data(self, data: usize) -> Self {
        Self { data, ..self }
    }
    fn stamps(self, value: u32, echo: u32) -> Self {
        Self { stamps: Some((value, echo)), ..self }
    }

    fn shape(&self, ports: (u16, u16), flags: u8) -> Shape {
        let mut shape = tcp(ports.0, ports.1, flags);
        shape.transport[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        shape.transport[8..12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        shape.transport[14] = 0x40;
        if let Some((value, echo)) = self.stamps {
            shape.transport[12] = 8 << 4;
            shape.transport.extend([1, 1, 8, 10]);
            shape.transport.extend([value, echo].map(u32::to_be_bytes).concat());
        }
        shape.data = vec![0x55; self.data];
        shape
    }
}

impl Scene {
    fn far_sends(&mut self, flags: u8, segment: &Segment) {
        self.send(FAR, WEB, segment.shape((40000, 80), flags));
    }
    fn web_sends(&mut self, flags: u8, segment: &Segment) {
        self.send(WEB, FAR, segment.shape((80, 40000), flags));
    }
    fn millis(&mut self, millis: u64) {
        self.wait(Duration::from_millis(millis));
    }

    /// What WEB's record of one direction tells of round trips.
    fn trip(&self, direction: Direction) -> Option<RoundTrip> {
        self.record(WEB, direction).round_trip
    }
}

#[test]
fn the_handshake_and_acknowledgements_measure_the_instance_and_the_way_apart() {
    let mut scene = Scene::new();
    scene.far_sends(SYN, &segment(100, 0));
    scene.millis(3);
    scene.web_sends(SYN | ACK, &segment(900, 101));
    scene.millis(20);
    scene.far_sends(ACK, &segment(101, 901));
    scene.far_sends(ACK, &segment(101, 901).data(50));
    scene.millis(5);
    scene.web_sends(ACK, &segment(901, 151).data(1000));
    scene.millis(30);
    scene.far_sends(ACK, &segment(151, 1901));
    scene.flush();
    let (way, instance) = (scene.trip(OUT).unwrap(), scene.trip(IN).unwrap());
    assert_eq!((way.count, way.min, way.max), (2, 20_000, 30_000));
    assert_eq!((instance.count, instance.min, instance.max), (2, 3_000, 5_000));
}

#[test]
fn timestamps_measure_what_was_sent_again_and_nothing_without_them_does() {
    for has_stamps in [true, false] {
        let mut scene = Scene::new();
        let with = |segment: Segment, value, echo| if has_stamps { segment.stamps(value, echo) } else { segment };
        scene.far_sends(SYN, &with(segment(100, 0), 1, 0));
        scene.web_sends(SYN | ACK, &with(segment(900, 101), 7000, 1));
        scene.far_sends(ACK, &with(segment(101, 901), 1, 7000));
        scene.web_sends(ACK, &with(segment(901, 101).data(1000), 7000, 1));
        scene.millis(200);
        scene.web_sends(ACK, &with(segment(901, 101).data(1000), 7200, 1));
        scene.millis(40);
        scene.far_sends(ACK, &with(segment(101, 1901), 241, 7200));
        scene.flush();
        let way = scene.trip(OUT).unwrap();
        let expected = if has_stamps { (2, 40_000) } else { (1, 0) };
        assert_eq!((way.count, way.max), expected, "timestamps: {has_stamps}");
        assert_eq!(scene.record(WEB, OUT).retransmissions, 1);
    }
}

#[test]
fn timestamps_are_found_among_other_options_and_nonsense_is_not_read() {
    let lost_answer = |options: &[u8]| {
        let mut scene = Scene::new();
        OPEN.iter().for_each(|(from, to, flags, numbers)| {
            let ports = if *from == FAR { (40000, 80) } else { (80, 40000) };
            scene.send(*from, *to, segment(numbers.0, numbers.1).shape(ports, *flags));
        });
        let mut question = segment(901, 101).data(100).shape((80, 40000), ACK);
        question.transport.extend(options);
        question.transport[12] = ((question.transport.len() / 4) as u8) << 4;
        scene.send(WEB, FAR, question);
        scene.millis(50);
        // It echoes something later than 16.
        scene.far_sends(ACK, &segment(101, 1001).stamps(9, 17));
        scene.flush();
        scene.trip(OUT).unwrap().count == 1
    };
    let stamp = [8, 10, 0, 0, 0, 16, 0, 0, 0, 0];
    assert!(lost_answer(&[&stamp[..], &[1, 1]].concat()));
    assert!(lost_answer(&[&[5, 10, 0, 0, 0, 1, 0, 0, 0, 2][..], &stamp].concat()));
    for nonsense in
        [&[8, 9, 0, 0, 0, 16, 0, 0][..], &[0, 0, 8, 10, 0, 0, 0, 16, 0, 0, 0, 0], &[8, 10, 0, 0], &[99, 0, 1, 8]]
    {
        assert!(!lost_answer(nonsense), "{nonsense:?}: measured by the acknowledgement alone");
    }
}

/// From, to, flags, and the two numbers.
type Opening = (u128, u128, u8, (u32, u32));
const OPEN: [Opening; 3] = [(FAR, WEB, SYN, (100, 0)), (WEB, FAR, SYN | ACK, (900, 101)), (FAR, WEB, ACK, (101, 901))];

/// Many questions of one resolver are on their way at once; each has a port of its own.
#[test]
fn each_question_of_dns_is_paired_with_its_own_answer() {
    let mut scene = Scene::new();
    for id in 0..5 {
        scene.send(WEB, FAR, udp(5000 + id, 53, 40));
    }
    for id in (0..5).rev() {
        scene.millis(10);
        scene.send(FAR, WEB, udp(53, 5000 + id, 90));
    }
    scene.flush();
    let trips = scene.records(WEB).into_iter().filter(|record| record.direction == OUT);
    let mut trips: Vec<_> = trips.map(|record| (record.source_port, record.round_trip.unwrap().mean)).collect();
    trips.sort_unstable();
    assert_eq!(trips, [(5000, 50_000), (5001, 40_000), (5002, 30_000), (5003, 20_000), (5004, 10_000)]);
}
