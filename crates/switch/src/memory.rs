//! Large pages for the flow table: one of the two places of this crate that need `unsafe`.
//!
//! Owns the advice. Flows are met in random order, so with pages of 4 KiB nearly every packet misses the processor's list of
//! pages too, and every new flow may be the first on its page; with pages of 2 MiB the list holds the whole table, and the
//! kernel is asked for memory 512 times less often. Where the system has none to give, nothing changes.
#![allow(unsafe_code)]

use lucarne_flows::FlowTable;
use rustix::{
    mm::{Advice, madvise},
    param::page_size,
};

/// Asks the kernel to back the table with large pages as it is used.
pub fn prefer_large_pages(table: &FlowTable) {
    for (start, octets) in table.rooms() {
        let skipped = start.align_offset(page_size());
        let whole = octets.saturating_sub(skipped) / page_size() * page_size();
        if whole == 0 {
            continue;
        }
        // SAFETY: the pages lie wholly in a room that the table has and keeps as long as it lives; the advice changes with
        // what pages the kernel backs them and nothing of what is in them.
        let advised = unsafe { madvise(start.wrapping_add(skipped).cast_mut().cast(), whole, Advice::LinuxHugepage) };
        if let Err(cause) = advised {
            tracing::debug!(%cause, "no large pages for the flow table");
        }
    }
}
