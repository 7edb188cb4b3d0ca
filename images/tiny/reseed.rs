//! `reseed`: gives this machine's random numbers a seed that no other machine has.
//!
//! A machine that goes on from a warm state has the random number generator of all that went on from the same, until the
//! kernel is told. Kernels that know the VM generation id are told by it; Debian's cloud kernel does not. So this reads
//! from the host (`/dev/hwrng`), puts that into the kernel's pool, and has the kernel draw its keys anew, which a shell
//! cannot ask for. It ends with 1 where any of that fails: nothing may go on then that is to be secret or unique.
//!
//! Without std and libc: it is the only program in the image beside busybox.
#![no_std]
#![no_main]

#[path = "../bare.rs"]
mod bare;

use bare::{call, exit};

const READ: usize = 0;
const OPEN: usize = 2;
const IOCTL: usize = 16;
const READ_WRITE: usize = 2;
/// random(4): adds to the pool and counts it, for root; and draws new keys from the pool.
const RNDADDENTROPY: usize = 0x4008_5203;
const RNDRESEEDCRNG: usize = 0x5207;
const SEED: usize = 64;

/// `struct rand_pool_info` of Linux.
#[repr(C)]
struct Pool {
    bits: i32,
    octets: i32,
    content: [u8; SEED],
}

extern "C" fn main(_: *const usize) -> ! {
    exit(if reseed().is_some() { 0 } else { 1 })
}

fn reseed() -> Option<()> {
    let host = call(OPEN, [c"/dev/hwrng".as_ptr() as usize, 0, 0, 0, 0, 0])?;
    let kernel = call(OPEN, [c"/dev/random".as_ptr() as usize, READ_WRITE, 0, 0, 0, 0])?;
    let mut pool = Pool { bits: 8 * SEED as i32, octets: SEED as i32, content: [0; SEED] };
    let mut filled = 0;
    while filled < SEED {
        let room = &mut pool.content[filled..];
        match call(READ, [host, room.as_mut_ptr() as usize, room.len(), 0, 0, 0])? {
            0 => return None,
            octets => filled += octets,
        }
    }
    call(IOCTL, [kernel, RNDADDENTROPY, &raw const pool as usize, 0, 0, 0])?;
    call(IOCTL, [kernel, RNDRESEEDCRNG, 0, 0, 0, 0])?;
    Some(())
}
