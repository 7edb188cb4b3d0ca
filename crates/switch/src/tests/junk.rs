//! What a guest or a broken host can throw at the switch: 200,000 arbitrary and mutated frames, none of which may crash
//! it, and each of which is counted once.

use proptest::{collection::vec, prelude::*};

use super::{frames::*, *};

const CASES: u32 = 2000;
const FRAMES: usize = 100;

/// A frame that some part of the switch takes seriously, to be damaged.
fn sound_frame() -> impl Strategy<Value = Vec<u8>> {
    let shape = prop_oneof![
        any::<(u16, u16, u8)>().prop_map(|(a, b, flags)| tcp(a, b, flags)),
        (any::<(u16, u16)>(), 0usize..1500).prop_map(|((a, b), data)| udp(a, b, data)),
        (0usize..400).prop_map(|data| udp(68, 67, data)),
        vec(any::<u8>(), 0..100).prop_map(|data| Shape { data: data.clone(), ..udp(9, 53, data.len()) }),
        any::<(u8, u8, u16)>().prop_map(|(kind, code, id)| icmp(kind, code, id)),
        (prop_oneof![Just(3u8), Just(11), Just(12)], vec(any::<u8>(), 0..60))
            .prop_map(|(kind, data)| Shape { data, ..icmp(kind, 3, 0) }),
        (vec(any::<u8>(), 0..11), any::<u16>()).prop_map(|(mut options, fragment)| {
            options.truncate(options.len() / 4 * 4);
            tcp(1, 80, SYN).options(&options).fragment(fragment & 0x3fff)
        }),
        (any::<u8>(), vec(any::<u8>(), 0..64)).prop_map(|(protocol, data)| Shape { protocol, data, ..ping(1) }),
    ];
    let ends = (0usize..5, any::<[u8; 4]>()).prop_map(|(kind, octets)| match kind {
        0 => Ends::between(WEB, FAR),
        1 => Ends::between(WEB, DATABASE),
        2 => Ends::between(FAR, WEB),
        3 => Ends { destination: Ipv4Addr::new(10, 0, 0, 2), ..Ends::between(WEB, FAR) },
        _ => Ends { destination: octets.into(), ..Ends::between(WEB, APP) },
    });
    (ends, shape).prop_map(|(ends, shape)| ends.frame(&shape))
}

fn arp_frame() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40).prop_map(|junk| {
        let head = [&[0xff; 6][..], &mac(WEB).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(WEB).0].concat();
        [head, junk].concat()
    })
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let sound = prop_oneof![4 => sound_frame(), 1 => arp_frame()];
    (sound, vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<Option<prop::sample::Index>>(), any::<bool>())
        .prop_map(|(mut frame, changes, cut, repair)| {
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if repair && frame.len() >= 34 {
                // So that the damage gets past the checksum.
                (frame[24], frame[25]) = (0, 0);
                let header = frame.len().min(14 + usize::from(frame[14] & 15).max(5) * 4);
                let sum = internet_checksum(&frame[14..header]).to_be_bytes();
                frame[24..26].copy_from_slice(&sum);
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame
        })
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => vec(any::<u8>(), 0..128),
        1 => vec(any::<u8>(), 1400..1600),
        8 => damaged(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn no_frame_crashes_the_switch_and_each_is_counted_once(frames in vec((0u8..4, frame()), FRAMES)) {
        let mut scene = Scene::young(Settings::default());
        let web = scene.port(WEB);
        for (way, frame) in &frames {
            match way {
                0 => scene.switch.handle_tunnel_frame(THERE, VNI_A, frame, scene.now, &mut scene.out),
                1 => scene.switch.handle_metadata_frame(PortIndex(9), frame, scene.now, &mut scene.out),
                _ => scene.switch.handle_guest_frame(web, &mut frame.clone(), scene.now, &mut scene.out),
            }
            scene.now = scene.now.plus(Duration::from_millis(1));
        }
        let counted = scene.switch.frame_counters();
        let ended = counted.to_guests + counted.to_tunnel + counted.to_metadata + counted.answered;
        prop_assert_eq!(counted.received, FRAMES as u64);
        prop_assert_eq!(counted.received, ended + counted.dropped.values().sum::<u64>());
        let given: usize = scene.given_on() + scene.out.to_metadata.len();
        prop_assert_eq!(given as u64, ended);
        for (_, frame) in &scene.out.to_guests {
            prop_assert!(frame.len() <= 1414);
        }
    }
}

/// Each reason for which a frame is no packet has a frame that brings it about.
#[test]
fn each_kind_of_malformed_frame_is_told_apart() {
    let sound = Ends::between(WEB, FAR).frame(&udp(1, 53, 4));
    let with = |at: usize, octets: &[u8]| {
        let mut frame = sound.clone();
        frame[at..at + octets.len()].copy_from_slice(octets);
        (frame[24], frame[25]) = (0, 0);
        let sum = internet_checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    let mut broken = sound.clone();
    broken[24] ^= 1;
    let with_options = |options: &[u8]| Ends::between(WEB, FAR).frame(&udp(1, 53, 4).options(options));
    for (frame, name) in [
        (sound[..13].to_vec(), "truncated"),
        (sound[..30].to_vec(), "truncated"),
        (sound[..sound.len() - 1].to_vec(), "truncated"),
        (vec![0; 1415], "oversized"),
        (with(12, &[0x81, 0x00]), "vlan-tagged"),
        (with(12, &[0x88, 0xa8]), "vlan-tagged"),
        (with(12, &[0x86, 0xdd]), "ipv6"),
        (with(12, &[0x12, 0x34]), "unknown-ether-type"),
        (with(14, &[0x65]), "bad-ip-header"),
        (with(14, &[0x44]), "bad-ip-header"),
        (with_options(&[7, 1, 0, 0]), "bad-ip-header"),
        (with_options(&[7, 9, 0, 0]), "bad-ip-header"),
        (broken, "bad-checksum"),
        (with_options(&[131, 3, 4, 0]), "source-routed"),
        (with_options(&[1, 137, 3, 4]), "source-routed"),
        (with(38, &[0, 7]), "bad-transport-header"),
        (with(38, &[0, 13]), "bad-transport-header"),
        (with(23, &[6]), "bad-transport-header"),
    ] {
        let mut scene = Scene::new();
        scene.send_frame(WEB, &frame);
        assert_eq!(scene.switch.frame_counters().dropped, [(name, 1)].into(), "{frame:x?}");
        assert_eq!(scene.counters(WEB), PortCounters::default());
    }
}
