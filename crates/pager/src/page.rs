//! Pages as memory that the kernel may write straight from a disk: 4 KiB each, at addresses that are multiples of it.
//!
//! Owns the alignment and the view of pages as bytes.
#![allow(unsafe_code)]

use std::slice;

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
}
