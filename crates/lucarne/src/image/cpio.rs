//! Writes the archive that Linux unpacks as its first root file system: cpio in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).
//!
//! Pure, and a function of its entries alone: no times, no owners but root, inodes by order. So the same image built
//! twice is the same bytes, and device nodes need no privilege.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// One thing in the archive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry<'a> {
    Directory,
    /// A file that all may read.
    File(&'a [u8]),
    /// A file that all may read and run.
    Program(&'a [u8]),
    /// A symbolic link and where it leads.
    Link(&'a str),
    /// A character device by its major and minor number.
    Device(u32, u32),
}

impl Entry<'_> {
    /// The file type and permissions, as in `stat(2)`.
    const fn mode(&self) -> u32 {
        match self {
            Self::Directory => 0o040755,
            Self::File(_) => 0o100644,
            Self::Program(_) => 0o100755,
            Self::Link(_) => 0o120777,
            Self::Device(..) => 0o020600,
        }
    }
    const fn content(&self) -> &[u8] {
        match self {
            Self::File(bytes) | Self::Program(bytes) => bytes,
            Self::Link(target) => target.as_bytes(),
            Self::Directory | Self::Device(..) => &[],
        }
    }
    const fn device(&self) -> (u32, u32) {
        match self {
            Self::Device(major, minor) => (*major, *minor),
            _ => (0, 0),
        }
    }
}

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds `entry` at `path`, which is relative to the root and comes after its directory.
    pub(super) fn add(&mut self, path: &str, entry: Entry<'_>) {
        self.entries += 1;
        self.write(path, self.entries, entry.mode(), entry.content(), entry.device());
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.write("TRAILER!!!", 0, 0, &[], (0, 0));
        self.bytes
    }

    fn write(&mut self, name: &str, inode: u32, mode: u32, content: &[u8], device: (u32, u32)) {
        let (owner, group, links, time, checksum) = (0, 0, 1, 0, 0);
        let size = u32::try_from(content.len()).expect("an entry is smaller than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a name is smaller than 4 GiB");
        let (on_major, on_minor) = (0, 0);
        let fields =
            [inode, mode, owner, group, links, time, size, on_major, on_minor, device.0, device.1, name_size, checksum];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    /// Headers and contents begin at multiples of four.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.add("bin", Entry::Directory);
        archive.add("bin/hi", Entry::Program(b"#!/bin/sh\n"));
        archive.add("bin/ho", Entry::Link("hi"));
        archive.add("console", Entry::Device(5, 1));
        archive.finish()
    }

    /// Name, mode, content, device.
    type Read = (String, u32, Vec<u8>, (u32, u32));

    /// Reads an archive as the kernel does.
    fn read(mut bytes: &[u8]) -> Vec<Read> {
        let mut entries = vec![];
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let at = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(at, bytes.len());
                return entries;
            }
            entries.push((name, field(1), bytes[at..at + size].to_vec(), (field(9), field(10))));
            bytes = &bytes[(at + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_was_added_is_read_back_in_order() {
        let expected = [
            ("bin", 0o040755, &b""[..], (0, 0)),
            ("bin/hi", 0o100755, b"#!/bin/sh\n", (0, 0)),
            ("bin/ho", 0o120777, b"hi", (0, 0)),
            ("console", 0o020600, b"", (5, 1)),
        ];
        let expected = expected.map(|(name, mode, content, device)| (name.to_owned(), mode, content.to_vec(), device));
        assert_eq!(read(&small()), expected);
    }

    #[test]
    fn every_length_of_name_and_content_keeps_its_alignment() {
        for n in 1..9 {
            let (name, content) = ("n".repeat(n), vec![b'c'; 9 - n]);
            let mut archive = Archive::default();
            archive.add(&name, Entry::File(&content));
            archive.add("after", Entry::Directory);
            let entries = read(&archive.finish());
            assert_eq!((&entries[0].0, &entries[0].2), (&name, &content));
            assert_eq!(entries[1].0, "after");
        }
    }

    #[test]
    fn a_header_is_laid_out_as_the_kernel_documents_it() {
        let first = concat!(
            "070701", "00000001", "000041ed", "00000000", "00000000", "00000001", "00000000", "00000000", "00000000",
            "00000000", "00000000", "00000000", "00000004", "00000000", "bin\0"
        );
        assert!(small().starts_with(first.as_bytes()));
    }
}
