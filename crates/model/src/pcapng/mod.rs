//! Frames as files that other people's programs open: pcapng (draft-ietf-opsawg-pcapng), little-endian, times in microseconds.
//!
//! Owns the blocks that we write, and their taking apart where a file of ours is read again. Files of one recording are made one
//! by [`merge`]. What only we know is in the format's own place for that, a custom option or block, under the number that RFC 5612
//! keeps for examples, as JSON: of an interface, [`Interface`]; of what happened beside the frames, any.

use serde::{Deserialize, Serialize};

use crate::{AccountId, InstanceId, InterfaceId, Moment, SubnetId, VpcId, flow::Direction};

pub mod merge;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const FRAME: u32 = 6;
/// A custom block that may be copied from file to file.
const CUSTOM: u32 = 0x0bad;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Version 1.0, and a section of unknown length.
const VERSION: [u16; 2] = [1, 0];
const ETHERNET: u16 = 1;
/// The enterprise number for examples and tests (RFC 5612).
const ENTERPRISE: u32 = 32473;

/// Of any block.
const END_OF_OPTIONS: u16 = 0;
const CUSTOM_TEXT: u16 = 2988;
/// Of a section.
const APPLICATION: u16 = 4;
/// Of an interface.
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
/// Of a frame.
const FLAGS: u16 = 2;
const DROPPED: u16 = 4;
/// Of statistics.
const RECEIVED: u16 = 4;
const LOST: u16 = 5;

/// No block of ours is longer.
const LONGEST: usize = 1 << 20;
/// What a block has around its body.
const AROUND: usize = 12;

/// An interface whose frames are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interface {
    pub account: AccountId,
    pub instance: InstanceId,
    pub interface: InterfaceId,
    pub subnet: SubnetId,
    pub vpc: VpcId,
}

/// The block that begins a section.
pub fn section() -> Vec<u8> {
    let mut body = BYTE_ORDER.to_le_bytes().to_vec();
    body.extend(VERSION.iter().flat_map(|number| number.to_le_bytes()));
    body.extend(u64::MAX.to_le_bytes());
    option(&mut body, APPLICATION, b"Lucarne");
    end(&mut body);
    block(SECTION, &body)
}

/// The block that names an interface. The interfaces of a section are numbered in the order of these, from 0.
pub fn interface(interface: &Interface) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(u32::from(ETHERNET).to_le_bytes());
    // As long as they are.
    body.extend(0u32.to_le_bytes());
    option(&mut body, NAME, interface.interface.to_string().as_bytes());
    let Interface { account, instance, subnet, vpc, .. } = interface;
    let description = format!("{instance} in {subnet} of {vpc}, account {account}");
    option(&mut body, DESCRIPTION, description.as_bytes());
    // It is made of ids.
    let json = serde_json::to_vec(interface).unwrap_or_default();
    option(&mut body, CUSTOM_TEXT, &[&ENTERPRISE.to_le_bytes()[..], &json].concat());
    end(&mut body);
    block(INTERFACE, &body)
}

/// A frame that the interface of this number saw, and how many it did not see that should be before this one.
pub fn frame(interface: u32, at: Moment, direction: Direction, lost: u64, frame: &[u8]) -> Vec<u8> {
    let mut body = interface.to_le_bytes().to_vec();
    time(&mut body, at);
    let length = frame.len() as u32;
    body.extend([length, length].iter().flat_map(|length| length.to_le_bytes()));
    body.extend_from_slice(frame);
    pad(&mut body);
    // As the instance sees it: what it sends goes out.
    let flags: u32 = if direction == Direction::Egress { 2 } else { 1 };
    option(&mut body, FLAGS, &flags.to_le_bytes());
    if lost > 0 {
        option(&mut body, DROPPED, &lost.to_le_bytes());
    }
    end(&mut body);
    block(FRAME, &body)
}

/// How many frames an interface saw and how many of them are missing, by then.
pub fn statistics(interface: u32, at: Moment, seen: u64, lost: u64) -> Vec<u8> {
    let mut body = interface.to_le_bytes().to_vec();
    time(&mut body, at);
    option(&mut body, RECEIVED, &seen.to_le_bytes());
    option(&mut body, LOST, &lost.to_le_bytes());
    end(&mut body);
    block(STATISTICS, &body)
}

/// What happened beside the frames, as JSON.
pub fn custom(json: &[u8]) -> Vec<u8> {
    block(CUSTOM, &[&ENTERPRISE.to_le_bytes()[..], json].concat())
}

fn time(body: &mut Vec<u8>, at: Moment) {
    let micros = at.as_micros();
    body.extend(((micros >> 32) as u32).to_le_bytes());
    body.extend((micros as u32).to_le_bytes());
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn end(body: &mut Vec<u8>) {
    option(body, END_OF_OPTIONS, &[]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = (padded + AROUND) as u32;
    let mut block = Vec::with_capacity(padded + AROUND);
    block.extend(kind.to_le_bytes());
    block.extend(length.to_le_bytes());
    block.extend_from_slice(body);
    block.resize(padded + AROUND - 4, 0);
    block.extend(length.to_le_bytes());
    block
}

/// A block, and what follows it.
pub type BlockAndRest<'a> = (&'a [u8], &'a [u8]);

/// The first block of `octets` and the rest; none when no whole one is there.
///
/// # Errors
/// When they do not begin as a block of ours does.
pub fn split(octets: &[u8]) -> Result<Option<BlockAndRest<'_>>, Damaged> {
    let Some(length) = word(octets, 4) else { return Ok(None) };
    let length = length as usize;
    if !(AROUND..=LONGEST).contains(&length) || !length.is_multiple_of(4) {
        return Err(Damaged);
    }
    let Some((block, rest)) = octets.split_at_checked(length) else { return Ok(None) };
    if word(block, length - 4) == Some(length as u32) { Ok(Some((block, rest))) } else { Err(Damaged) }
}

/// What is no block, or cut short by something else than the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the octets are not blocks of pcapng")]
pub struct Damaged;

/// How much of `octets` is whole blocks, and how many of these are frames.
pub fn whole(octets: &[u8]) -> (usize, u64) {
    let (mut rest, mut frames) = (octets, 0);
    while let Ok(Some((block, behind))) = split(rest) {
        frames += u64::from(word(block, 0) == Some(FRAME));
        rest = behind;
    }
    (octets.len() - rest.len(), frames)
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    let word = octets.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

/// The number in the option of this code.
fn number(options: &[u8], code: u16) -> u64 {
    let mut rest = options;
    while let Some((head, behind)) = rest.split_at_checked(4) {
        let [kind, length] = [0, 2].map(|at| u16::from_le_bytes([head[at], head[at + 1]]));
        let value = behind.get(..usize::from(length)).unwrap_or_default();
        if kind == code {
            return value.try_into().map_or(0, u64::from_le_bytes);
        }
        rest = behind.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    0
}
