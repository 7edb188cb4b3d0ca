//! Pages as memory that the kernel may write straight from a disk: 4 KiB each, at addresses that are multiples of it.
//!
//! Owns the alignment, the view of pages as bytes, and room for many that is given back when it is not needed.
#![allow(unsafe_code)]

use std::{
    io,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;

/// A page's content.
#[repr(C, align(4096))]
#[derive(Clone)]
pub(crate) struct Page(pub(crate) [u8; PAGE]);

const _: () = assert!(size_of::<Page>() == PAGE && align_of::<Page>() == PAGE);

impl std::fmt::Debug for Page {
    /// Without what is in it: that is a tenant's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page")
    }
}

impl Page {
    pub(crate) const ZERO: Self = Self([0; PAGE]);

    /// The value that fills all of it, if one does.
    pub(crate) fn filled_with(&self) -> Option<u64> {
        let (words, _) = self.0.as_chunks::<8>();
        let first = words[0];
        words.iter().all(|word| *word == first).then_some(u64::from_ne_bytes(first))
    }

    pub(crate) fn fill(&mut self, value: u64) {
        self.0.as_chunks_mut::<8>().0.fill(value.to_ne_bytes());
    }
}

/// `count` pages of zeros.
pub(crate) fn zeroed(count: usize) -> Vec<Page> {
    vec![Page::ZERO; count]
}

pub(crate) const fn bytes(pages: &[Page]) -> &[u8] {
    // SAFETY: a page is its bytes and nothing else, so `pages` is that many bytes in a row, borrowed as long.
    unsafe { slice::from_raw_parts(pages.as_ptr().cast(), size_of_val(pages)) }
}

pub(crate) const fn bytes_mut(pages: &mut [Page]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are a page.
    unsafe { slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), size_of_val(pages)) }
}

/// Octets that lie as pages do. Those that do not are no pages, and none are returned.
pub(crate) fn pages_mut(bytes: &mut [u8]) -> &mut [Page] {
    // SAFETY: any bytes are a page; those before and behind whole pages at a page's place are left out.
    let (before, pages, behind) = unsafe { bytes.align_to_mut() };
    debug_assert!(before.is_empty() && behind.is_empty());
    pages
}

/// Pages in a mapping of their own, which the kernel has again when it is dropped: an allocator may keep what it once had.
#[derive(Debug)]
pub(crate) struct Room {
    start: NonNull<Page>,
    count: usize,
}

// SAFETY: plain memory that this alone points to.
unsafe impl Send for Room {}

impl Default for Room {
    /// None at all.
    fn default() -> Self {
        Self { start: NonNull::dangling(), count: 0 }
    }
}

impl Room {
    /// `count` pages of zeros.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), count * PAGE, protection, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, count })
    }
}

impl Deref for Room {
    type Target = [Page];
    fn deref(&self) -> &[Page] {
        // SAFETY: `count` pages in a row that are mapped as long as this lives; any bytes are a page.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [Page] {
        // SAFETY: as above, and borrowed by one alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.count > 0 {
            // SAFETY: mapped by `new`, and borrowed by nobody any more. It cannot fail for a mapping that is there.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.count * PAGE) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_other_bit_makes_a_page_unlike_a_filled_one() {
        let mut page = Page::ZERO;
        assert_eq!(page.filled_with(), Some(0));
        page.fill(0x0123_4567_89ab_cdef);
        assert_eq!(page.filled_with(), Some(0x0123_4567_89ab_cdef));
        page.0[4095] ^= 1;
        assert_eq!(page.filled_with(), None);
    }

    #[test]
    fn room_is_of_zeros_holds_what_is_put_there_and_none_is_no_room() {
        let mut room = Room::new(3).unwrap();
        assert_eq!((room.len(), room.iter().all(|page| page.filled_with() == Some(0))), (3, true));
        room[2].fill(7);
        assert_eq!((room[1].filled_with(), room[2].filled_with()), (Some(0), Some(7)));
        assert!(Room::default().is_empty());
    }
}
