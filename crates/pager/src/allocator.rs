//! Memory that this process has freed goes back to the system: once, before it serves.
//!
//! Owns the asking. What a program takes to understand how it was started is many times what a pager of a small guest needs,
//! and the C library would keep it for as long as the VM lives.
#![allow(unsafe_code)]

/// Gives back all pages that nothing lies on, of all threads' heaps.
pub(crate) fn give_back() {
    // SAFETY: it takes a number, may be called at any time from any thread, and only touches memory that is free.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
