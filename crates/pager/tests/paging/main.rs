//! A pager and a machine as processes of their own, tied by the real shim; the machine is this test program again, which
//! does with its memory what a guest would, and knows what must be in it.
//!
//! `machine` and `pager` are the two roles, `house` starts and stops them, the others are the tests.
#![allow(clippy::unwrap_used, missing_debug_implementations, unreachable_pub)]

mod bad_input;
mod capture;
mod duplicate;
mod held;
mod house;
mod kills;
mod long_run;
mod machine;
mod pager;
mod qemu;
mod remote;
mod traps;
