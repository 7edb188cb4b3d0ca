//! Threads that answer faults run as soon as they have something to do.
//!
//! Owns the call sched_setattr(2), which the crate `rustix` does not have. A thread of the guest waits whenever one of these
//! has something to do, and it never has much. So it gets more of a busy processor than others and, what matters more, asks
//! for it in short slices: a thread that wakes and wants little runs before one that is in the middle of a long slice (Linux
//! 6.12 and later; earlier ones ignore the slice). It is no real-time thread, because a guest that faults without end would
//! take the host's processors from all other guests with it.
#![allow(unsafe_code)]

/// `struct sched_attr` in its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// The slice, in nanoseconds, of a thread of the usual policy.
    runtime: u64,
    deadline: u64,
    period: u64,
}
const _: () = assert!(size_of::<Attributes>() == 48);

const USUAL: u32 = 0;
const NICE: i32 = -10;
/// The shortest that the kernel takes, 100 us: more than a fault needs of a processor.
const SLICE: u64 = 100_000;

/// Whoever may not be preferred to others, because it is not root, goes on as it is.
pub(crate) fn prefer_this_thread() {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: USUAL,
        flags: 0,
        nice: NICE,
        priority: 0,
        runtime: SLICE,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads the structure, of the size that it says, and changes how this thread is scheduled.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "faults wait for a processor like everybody else");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_may_be_preferred_is() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        std::thread::spawn(move || {
            let before = nice();
            prefer_this_thread();
            let may = rustix::process::geteuid().is_root();
            assert!(nice() == if may { NICE } else { before }, "{} after {before}", nice());
        })
        .join()
        .unwrap();
    }
}
