//! Recordings as they are written, read by another program.

use std::{process::Command, time::Duration};

use lucarne_model::{
    AccountId, Bytes, InstanceId, InterfaceId, Moment, SubnetId, VpcId,
    flow::Direction,
    pcapng::{Interface, merge::Merge},
    recording::{RecordingFilter, RecordingRoom},
};
use lucarne_switch::shell::SeenFrame;

use super::*;

/// A packet of UDP to port 53 behind an Ethernet header.
const FRAME: &[u8] =
    b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00\x45\x00\x00\x1d\x00\x00\x40\x00\x40\x11\
    \x26\xce\x0a\x00\x00\x01\x0a\x00\x00\x02\x9c\x40\x00\x35\x00\x09\x00\x00x";

fn interface(number: u128) -> Interface {
    Interface {
        account: AccountId::from_bits(1),
        instance: InstanceId::from_bits(number),
        interface: InterfaceId::from_bits(number),
        subnet: SubnetId::from_bits(1),
        vpc: VpcId::from_bits(1),
    }
}

fn seen(number: u128, direction: Direction, at: u64) -> SeenFrame {
    SeenFrame {
        interface: interface(number),
        direction,
        at: Moment(at),
        lost: u64::from(at % 10 == 7),
        frame: FRAME.into(),
    }
}

fn begin(shelf: &Shelf, room: RecordingRoom, before: Recorded) -> Writing {
    Writing::begin(shelf.clone(), (VpcId::from_bits(1), RecordingFilter::default(), room), before).unwrap()
}

fn room(mib: u64) -> RecordingRoom {
    RecordingRoom::Ring { size: Bytes::mib(mib) }
}

/// What tshark reads of a file, a row for each frame.
fn rows(file: &[u8], fields: &[&str]) -> Vec<Vec<String>> {
    let place = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(place.path(), file).unwrap();
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let read = Command::new("tshark").arg("-r").arg(place.path()).args(["-n", "-T", "fields"]).args(fields).output();
    let read = read.expect("`cargo xtask setup` installs tshark");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn whole_file(shelf: &Shelf) -> Vec<u8> {
    shelf.numbers().unwrap().into_iter().flat_map(|number| shelf.read(number).unwrap()).collect()
}

#[test]
fn another_program_reads_each_frame_with_its_time_interface_and_direction() {
    let place = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(place.path().join("rec"));
    let writing = begin(&shelf, room(1), Recorded::default());
    let began = 1_700_000_000_000_000;
    let frames = [
        seen(1, Direction::Egress, began + 1),
        seen(2, Direction::Ingress, began + 2),
        seen(2, Direction::Egress, began + 1_000_003),
    ];
    for frame in &frames {
        writing.tap.frames.blocking_send(frame.clone()).unwrap();
    }
    let recorded = writing.end();
    assert_eq!((recorded.frames, recorded.lost, recorded.full), (3, 0, false));
    let fields = [
        "frame.time_epoch",
        "frame.interface_name",
        "frame.interface_description",
        "frame.packet_flags_direction",
        "udp.dstport",
    ];
    let file = whole_file(&shelf);
    assert_eq!(recorded.size, Bytes(file.len() as u64));
    let read = rows(&file, &fields);
    let times: Vec<_> = read.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(times, ["1700000000.000001000", "1700000000.000002000", "1700000001.000003000"]);
    for (row, frame) in read.iter().zip(&frames) {
        assert_eq!(row[1], frame.interface.interface.to_string());
        assert!(row[2].starts_with(&format!("{} in ", frame.interface.instance)), "{row:?}");
        let direction = u32::from_str_radix(row[3].trim_start_matches("0x"), 16).unwrap();
        assert_eq!(direction, if frame.direction == Direction::Egress { 2 } else { 1 });
        assert_eq!(row[4], "53");
    }
}

/// kill -9 in the middle of a write, and another agent that goes on.
#[test]
fn what_was_on_disk_when_the_writer_was_killed_opens_and_the_next_goes_on_behind_it() {
    let place = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(place.path().join("rec"));
    let writing = begin(&shelf, room(1), Recorded::default());
    for at in 1..=5 {
        writing.tap.frames.blocking_send(seen(1, Direction::Egress, at)).unwrap();
    }
    writing.end();
    let path = shelf.path(0);
    let file = std::fs::read(&path).unwrap();
    std::fs::write(&path, &file[..middle_of_the_fifth_frame(&file)]).unwrap();
    let (_, found) = shelf.repair().unwrap();
    assert_eq!(found.frames, 4);
    let writing = begin(&shelf, room(1), found);
    writing.tap.frames.blocking_send(seen(1, Direction::Egress, 9)).unwrap();
    assert_eq!(writing.end().frames, 5);
    assert_eq!(rows(&whole_file(&shelf), &["frame.number"]).len(), 5);
    let mut merge = Merge::new(1, Vec::new());
    merge.push(0, &whole_file(&shelf));
    merge.end(0);
    let merged = merge.take();
    assert_eq!(rows(&merged, &["frame.interface_id"]), vec![vec!["0".to_owned()]; 5], "one interface, named once");
}

fn middle_of_the_fifth_frame(file: &[u8]) -> usize {
    let cuts: Vec<_> = (0..file.len()).filter(|cut| lucarne_model::pcapng::whole(&file[..*cut]).1 == 4).collect();
    cuts[cuts.len() / 2]
}

#[test]
fn a_ring_keeps_the_newest_and_a_recording_with_an_end_says_that_it_is_full() {
    let place = tempfile::tempdir().unwrap();
    let many = 30_000;
    for ring in [true, false] {
        let shelf = Shelf::at(place.path().join(ring.to_string()));
        let size = Bytes::mib(1);
        let writing = begin(&shelf, if ring { room(1) } else { RecordingRoom::Max { size } }, Recorded::default());
        for at in 1..=many {
            writing.tap.frames.blocking_send(seen(1, Direction::Egress, at)).unwrap();
        }
        let recorded = writing.end();
        let file = whole_file(&shelf);
        assert!(file.len() as u64 <= size.0 && file.len() as u64 > size.0 * 3 / 4, "{}", file.len());
        assert_eq!(recorded.size, Bytes(file.len() as u64));
        let times = rows(&file, &["frame.time_epoch"]);
        assert_eq!(times.len() as u64, recorded.frames);
        let micros = |row: &Vec<String>| row[0].split_once('.').unwrap().1[..6].parse::<u64>().unwrap();
        let (first, last) = (micros(&times[0]), micros(times.last().unwrap()));
        assert_eq!(last - first + 1, recorded.frames, "without gaps");
        assert_eq!((recorded.full, recorded.lost > 0), (!ring, !ring));
        assert_eq!(if ring { last } else { first }, if ring { many } else { 1 });
    }
}

#[derive(Debug, Default)]
struct Taps(std::sync::Mutex<Vec<lucarne_switch::shell::Tap>>);

#[async_trait::async_trait]
impl Network for Taps {
    async fn apply(&self, _: &lucarne_switch::Plan) -> Result<(), crate::NetworkError> {
        Ok(())
    }
    async fn dropped_frames(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
    async fn stop(&self) {}
    async fn set_taps(&self, taps: Vec<lucarne_switch::shell::Tap>) {
        *self.0.lock().unwrap() = taps;
    }
}

#[tokio::test]
async fn a_recording_stops_by_itself_and_its_files_stay_until_they_are_to_go() {
    let place = tempfile::tempdir().unwrap();
    let id = RecordingId::from_bits(7);
    let network = Taps::default();
    let taps = || network.0.lock().unwrap().clone();
    let desired = |state| vec![DesiredRecording { id, state, streams: Vec::new() }];
    let until = Some(now().plus(Duration::from_millis(300)));
    let recording = DesiredRecordingState::Recording {
        vpc: VpcId::from_bits(1),
        filter: RecordingFilter::default(),
        room: room(1),
        until,
    };
    let mut recordings = Recordings::read(place.path().join("recordings")).await;
    recordings.bring_about(&desired(recording.clone()), &network).await;
    taps()[0].frames.send(seen(1, Direction::Egress, 1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    recordings.bring_about(&desired(recording), &network).await;
    assert!(taps().is_empty());
    let told = |recordings: &Recordings| recordings.told().iter().map(|told| told.recorded.frames).collect::<Vec<_>>();
    assert_eq!(told(&recordings), [1]);
    recordings.bring_about(&[], &network).await;
    let mut again = Recordings::read(place.path().join("recordings")).await;
    assert_eq!(told(&again), [1], "what is not spoken of stays");
    again.bring_about(&desired(DesiredRecordingState::Absent), &network).await;
    assert!(told(&again).is_empty() && !place.path().join("recordings").join(id.to_string()).exists());
}
