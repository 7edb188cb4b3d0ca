//! The first bytes of a disk image (qcow2: docs/interop/qcow2.txt of QEMU), judged before any other program sees it.
//!
//! Owns telling formats apart by their magic and what of qcow2 is refused. The tables behind the header are qemu-img's.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_model::{Bytes, storage::DiskFormat};

use super::MAX_VIRTUAL_SIZE;

/// Bytes of the file's beginning that [`judge`] wants to see.
pub(super) const LENGTH: usize = 512;

const SECTOR: u64 = 512;
/// Of the file below another.
const LONGEST_NAME: usize = 1023;
/// Formats that are known and refused, as (offset, magic, name): taken for raw, a guest would boot their metadata.
const REFUSED: [(usize, &[u8], &str); 9] = [
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"WithoutFreeSpace", "Parallels"),
];
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Says what the image is by its `beginning` (at most [`LENGTH`] bytes) and the file's length in bytes; an error says
/// why it is refused.
pub(super) fn judge(beginning: &[u8], length: u64) -> Result<(DiskFormat, Bytes), String> {
    if let Some((_, _, name)) = REFUSED.iter().find(|(at, magic, _)| starts_with(beginning, *at, magic)) {
        return Err(format!("its format is {name}; convert it to qcow2 or raw"));
    }
    let (format, size) = match starts_with(beginning, 0, b"QFI\xfb") {
        true => (DiskFormat::Qcow2, qcow2(beginning)?),
        false => (DiskFormat::Raw, length),
    };
    if size == 0 || size % SECTOR != 0 {
        return Err(format!("its size of {size} bytes is not a number of sectors of {SECTOR} bytes"));
    }
    if size > MAX_VIRTUAL_SIZE.0 {
        return Err(format!("its size of {size} bytes is over the limit of {MAX_VIRTUAL_SIZE}"));
    }
    Ok((format, Bytes(size)))
}

/// The virtual size that a qcow2 header tells.
fn qcow2(header: &[u8]) -> Result<u64, String> {
    let cut = || "it ends within its header".to_owned();
    let u32_at = |at| number(header, at, 4).ok_or_else(cut);
    let u64_at = |at| number(header, at, 8).ok_or_else(cut);
    let version = u32_at(4)?;
    if !(2..=3).contains(&version) {
        return Err(format!("it is qcow version {version}; versions 2 and 3 can be read"));
    }
    if u64_at(8)? != 0 {
        return Err("it needs a backing file; flatten it with `qemu-img convert`".into());
    }
    if !(9..=21).contains(&u32_at(20)?) {
        return Err("its cluster size is not one that qcow2 has".into());
    }
    if u32_at(32)? != 0 {
        return Err("it is encrypted".into());
    }
    let features = if version == 3 { u64_at(72)? } else { 0 };
    if features & CORRUPT != 0 {
        return Err("it is marked as corrupt; repair it with `qemu-img check -r all`".into());
    }
    if features & EXTERNAL_DATA != 0 {
        return Err("its data is in another file".into());
    }
    if features & !(DIRTY | COMPRESSION_TYPE | EXTENDED_L2) != 0 {
        return Err("it uses features of qcow2 that are not known here".into());
    }
    u64_at(24)
}

/// Where in a qcow2 file the name of what is below it stands, and how long it is; none of one that stands for itself, or is no qcow2.
pub(super) fn below(header: &[u8]) -> Option<(u64, usize)> {
    let at = number(header, 8, 8).filter(|at| *at > 0 && starts_with(header, 0, b"QFI\xfb"))?;
    let length = usize::try_from(number(header, 16, 4)?).ok()?;
    (1..=LONGEST_NAME).contains(&length).then_some((at, length))
}

/// The big-endian number of `length` bytes at `at`.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn starts_with(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(64u64 << 20).to_be_bytes());
        bytes
    }
    fn changed(at: usize, to: u8) -> Result<(DiskFormat, Bytes), String> {
        let mut bytes = header();
        bytes[at] = to;
        judge(&bytes, 200_000)
    }

    proptest! {
        #[test]
        fn no_beginning_makes_the_judge_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..LENGTH), length: u64, qcow2: bool,
        ) {
            if qcow2 && bytes.len() > 4 { bytes[..4].copy_from_slice(b"QFI\xfb"); }
            if let Ok((_, size)) = judge(&bytes, length) {
                prop_assert!(size.0 > 0 && size <= MAX_VIRTUAL_SIZE);
            }
        }

        /// However much of a header is there: it is refused, not read beyond its end.
        #[test]
        fn a_header_that_is_cut_is_refused(kept in 4usize..80) {
            prop_assert!(judge(&header()[..kept], kept as u64).is_err());
        }
    }

    #[test]
    fn a_plain_qcow2_and_a_raw_disk_are_taken() {
        assert_eq!(judge(&header(), 200_000), Ok((DiskFormat::Qcow2, Bytes::mib(64))));
        assert_eq!(judge(&[0; 512], 1024), Ok((DiskFormat::Raw, Bytes(1024))));
    }

    #[test]
    fn what_could_reach_outside_or_cannot_be_read_is_refused_with_its_reason() {
        for (at, to, reason) in [
            (15, 1, "backing file"),
            (35, 2, "encrypted"),
            (79, 2, "corrupt"),
            (79, 4, "another file"),
            (79, 64, "not known"),
            (7, 1, "version 1"),
            (23, 40, "cluster size"),
            (24, 0x7f, "limit"),
        ] {
            let refused = changed(at, to).unwrap_err();
            assert!(refused.contains(reason), "{reason}: {refused}");
        }
        assert!(judge(b"KDMV", 4096).unwrap_err().contains("VMDK"));
        assert!(judge(&[0; 100], 100).unwrap_err().contains("sectors"));
        assert!(judge(&[], 0).is_err());
    }
}
