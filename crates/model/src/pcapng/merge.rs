//! One file out of several: the frames of all in the order of their times, each interface named once.
//!
//! Owns the order, the numbers of interfaces, and their statistics, which are of the frames that are there. Where octets come from and go to is the caller's
//! business: it asks from which file there should be [more](Merge::wants), and takes what can go.
//!
//! Each file has its frames in order, as who writes one has; the clocks of hosts are as far apart as they are.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{CUSTOM, DROPPED, FRAME, INTERFACE, SECTION, number, section, split, statistics, word};
use crate::Moment;

/// Where the frame begins in its block.
const CONTENT: usize = 28;

/// Several files on their way to be one.
#[derive(Debug)]
pub struct Merge {
    files: Vec<File>,
    /// Blocks beside the frames, in the order of their times.
    beside: VecDeque<(Moment, Vec<u8>)>,
    /// The number that each block that names an interface has.
    interfaces: HashMap<Vec<u8>, u32>,
    /// Frames seen and lost, by interface.
    sums: BTreeMap<u32, (u64, u64)>,
    last: Moment,
    out: Vec<u8>,
    finished: bool,
}

#[derive(Debug, Default)]
struct File {
    octets: Vec<u8>,
    /// The numbers of its section's interfaces in the merged file.
    interfaces: Vec<u32>,
    ended: bool,
    /// The frame that comes next, and when it was seen.
    next: Option<(Moment, Vec<u8>)>,
}

impl Merge {
    /// Of so many files; with blocks such as [`custom`](super::custom) at their times.
    pub fn new(files: usize, mut beside: Vec<(Moment, Vec<u8>)>) -> Self {
        beside.sort_by_key(|(at, _)| *at);
        let files = (0..files).map(|_| File::default()).collect();
        let (interfaces, sums) = Default::default();
        let (last, out) = (Moment::EPOCH, section());
        let mut merge = Self { files, beside: beside.into(), interfaces, sums, last, out, finished: false };
        merge.go_on();
        merge
    }

    /// The file of which there must be more before anything else can go out.
    pub fn wants(&self) -> Option<usize> {
        self.files.iter().position(|file| file.next.is_none() && !file.ended)
    }

    /// More of a file.
    pub fn push(&mut self, file: usize, octets: &[u8]) {
        self.files[file].octets.extend_from_slice(octets);
        self.look(file);
        self.go_on();
    }

    /// There is no more of a file. What is cut off at its end is left out.
    pub fn end(&mut self, file: usize) {
        self.files[file].ended = true;
        self.go_on();
    }

    /// What can go out. When no file [wants](Self::wants) to be read, that is all.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Puts out frames as long as it is known which is the next.
    fn go_on(&mut self) {
        while self.wants().is_none() {
            let times = self.files.iter().enumerate().filter_map(|(at, file)| Some((file.next.as_ref()?.0, at)));
            let next = times.min();
            while let Some((_, block)) = self.beside.pop_front_if(|(at, _)| next.is_none_or(|(first, _)| *at <= first))
            {
                self.out.extend(block);
            }
            let Some((at, file)) = next else { return self.finish() };
            if let Some((_, block)) = self.files[file].next.take() {
                self.out.extend(block);
            }
            self.last = self.last.max(at);
            self.look(file);
        }
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            for (interface, (seen, lost)) in std::mem::take(&mut self.sums) {
                self.out.extend(statistics(interface, self.last, seen, lost));
            }
        }
    }

    /// Reads a file up to its next frame.
    fn look(&mut self, at: usize) {
        let mut read = 0;
        while self.files[at].next.is_none() {
            let octets = std::mem::take(&mut self.files[at].octets);
            match split(&octets[read..]) {
                Ok(Some((block, _))) => {
                    read += block.len();
                    self.take_block(at, block);
                    self.files[at].octets = octets;
                }
                Ok(None) => {
                    self.files[at].octets = octets;
                    break;
                }
                // What follows damage cannot be found.
                Err(_) => {
                    self.files[at].ended = true;
                    return;
                }
            }
        }
        self.files[at].octets.drain(..read);
    }

    fn take_block(&mut self, at: usize, block: &[u8]) {
        let file = &mut self.files[at];
        let interface = word(block, 8).and_then(|number| file.interfaces.get(number as usize)).copied();
        match (word(block, 0), interface) {
            (Some(SECTION), _) => file.interfaces.clear(),
            (Some(INTERFACE), _) => {
                let number = self.interfaces.len() as u32;
                let number = *self.interfaces.entry(block.to_vec()).or_insert_with(|| {
                    self.out.extend_from_slice(block);
                    number
                });
                file.interfaces.push(number);
            }
            (Some(FRAME), Some(interface)) => {
                if let Some([high, low]) = word(block, 12).zip(word(block, 16)).map(|(high, low)| [high, low]) {
                    let length = word(block, 20).unwrap_or(0) as usize;
                    let options = CONTENT.saturating_add(length).checked_next_multiple_of(4);
                    let options = options.and_then(|start| block.get(start..block.len() - 4)).unwrap_or_default();
                    let sum = self.sums.entry(interface).or_default();
                    sum.0 += 1;
                    sum.1 = sum.1.saturating_add(number(options, DROPPED));
                    let mut block = block.to_vec();
                    block[8..12].copy_from_slice(&interface.to_le_bytes());
                    file.next = Some((Moment(u64::from(high) << 32 | u64::from(low)), block));
                }
            }
            (Some(CUSTOM), _) => self.out.extend_from_slice(block),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Interface, LOST, RECEIVED, STATISTICS, frame, interface, whole},
        *,
    };
    use crate::{AccountId, InstanceId, InterfaceId, SubnetId, VpcId, flow::Direction};

    fn named(number: u128) -> Interface {
        Interface {
            account: AccountId::from_bits(1),
            instance: InstanceId::from_bits(number),
            interface: InterfaceId::from_bits(number),
            subnet: SubnetId::from_bits(1),
            vpc: VpcId::from_bits(1),
        }
    }

    /// Two sections, as one file has that was begun anew; each frame's content is its time and its interface.
    fn file(interfaces: [u128; 2], times: &[(u64, bool)]) -> Vec<u8> {
        let mut file = Vec::new();
        for half in times.chunks(times.len().div_ceil(2).max(1)) {
            file.extend(section());
            interfaces.iter().for_each(|number| file.extend(interface(&named(*number))));
            for (at, second) in half {
                let content = format!("{at} {}", interfaces[usize::from(*second)]);
                file.extend(frame(u32::from(*second), Moment(*at), Direction::Ingress, at % 3, content.as_bytes()));
            }
            for number in 0..2 {
                // Of the one file; those of the merged one are counted anew.
                file.extend(statistics(number, Moment(0), 99, 99));
            }
        }
        file
    }

    type Frames = Vec<(u64, String)>;
    type Sums = BTreeMap<u32, (u64, u64)>;

    /// The frames of a merged file with their times and interfaces, and its sums.
    fn read(mut file: &[u8]) -> (Frames, Sums) {
        let (mut frames, mut sums, mut names, mut sections) = (Vec::new(), BTreeMap::new(), Vec::new(), 0);
        while let Some((block, rest)) = split(file).unwrap() {
            match word(block, 0).unwrap() {
                SECTION => sections += 1,
                INTERFACE => names.push(block.to_vec()),
                FRAME => {
                    let length = word(block, 20).unwrap() as usize;
                    let content = String::from_utf8(block[28..28 + length].to_vec()).unwrap();
                    let (at, number) = content.split_once(' ').unwrap();
                    assert_eq!(u64::from(word(block, 16).unwrap()), at.parse::<u64>().unwrap());
                    assert_eq!(names[word(block, 8).unwrap() as usize], interface(&named(number.parse().unwrap())));
                    frames.push((at.parse().unwrap(), number.to_owned()));
                }
                STATISTICS => {
                    let options = &block[20..];
                    let sum = (number(options, RECEIVED), number(options, LOST));
                    assert!(sums.insert(word(block, 8).unwrap(), sum).is_none());
                }
                _ => {}
            }
            file = rest;
        }
        assert!(file.is_empty() && sections == 1);
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "each interface is named once");
        (frames, sums)
    }

    fn times() -> impl Strategy<Value = Vec<(u64, bool)>> {
        prop::collection::vec((0u64..50, any::<bool>()), 0..30).prop_map(|mut times| {
            times.sort();
            times
        })
    }

    proptest! {
        #[test]
        fn a_merged_file_has_every_frame_in_the_order_of_time(
            files in prop::collection::vec(times(), 0..4), pieces in prop::collection::vec(1usize..400, 1..20),
        ) {
            let octets: Vec<_> =
                files.iter().enumerate().map(|(at, times)| file([at as u128, 7], times)).collect();
            let mut merge = Merge::new(octets.len(), vec![(Moment(25), super::super::custom(b"{}"))]);
            let (mut out, mut given) = (merge.take(), vec![0; octets.len()]);
            let mut pieces = pieces.iter().cycle();
            while let Some(wanted) = merge.wants() {
                let rest = &octets[wanted][given[wanted]..];
                let piece = (*pieces.next().unwrap()).min(rest.len());
                given[wanted] += piece;
                if piece == 0 { merge.end(wanted) } else { merge.push(wanted, &rest[..piece]) }
                out.extend(merge.take());
            }
            let (frames, sums) = read(&out);
            let mut expected: Vec<(u64, String)> = Vec::new();
            for (at, times) in files.iter().enumerate() {
                let name = |second: bool| if second { 7 } else { at };
                expected.extend(times.iter().map(|(at, second)| (*at, name(*second).to_string())));
            }
            expected.sort();
            let mut sorted = frames.clone();
            prop_assert!(frames.is_sorted_by_key(|(at, _)| *at));
            sorted.sort();
            prop_assert_eq!(&sorted, &expected);
            let seen: u64 = sums.values().map(|(seen, _)| *seen).sum();
            prop_assert_eq!(seen, expected.len() as u64);
            let lost: u64 = sums.values().map(|(_, lost)| *lost).sum();
            prop_assert_eq!(lost, expected.iter().map(|(at, _)| at % 3).sum::<u64>());
        }

        #[test]
        fn no_octets_make_the_merger_panic(octets in prop::collection::vec(any::<u8>(), 0..200), at: usize, value: u8) {
            let mut nearly = file([1, 2], &[(1, false), (2, true), (3, true)]);
            let at = at % nearly.len();
            nearly[at] = value;
            for octets in [octets, nearly] {
                let mut merge = Merge::new(1, Vec::new());
                merge.push(0, &octets);
                merge.end(0);
                let _ = merge.take();
            }
        }

        #[test]
        fn a_file_that_was_cut_has_its_whole_frames(cut in 0usize..2000) {
            let file = file([1, 2], &[(1, false), (2, true), (3, true), (4, false)]);
            let cut = cut.min(file.len());
            let (length, frames) = whole(&file[..cut]);
            prop_assert!(length <= cut && whole(&file[..length]) == (length, frames));
            let mut merge = Merge::new(1, Vec::new());
            merge.push(0, &file[..cut]);
            merge.end(0);
            prop_assert_eq!(read(&merge.take()).0.len() as u64, frames);
        }
    }
}
