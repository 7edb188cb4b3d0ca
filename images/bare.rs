//! What a program of a guest has that has neither std nor libc: where it begins, how it asks the kernel, and how it ends.
//!
//! Each such program takes it up as a module of its own, and has a `main`, which is given where the kernel left its arguments.

use core::arch::{asm, global_asm};

const EXIT: usize = 60;

// The stack is as the kernel left it: the arguments' count, then where they are. A function wants it so that its own frame is
// aligned.
global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, rsp",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    main = sym crate::main
);

/// Asks the kernel for what has this number; its answer, or none for an error. Where it has fewer arguments the rest is not read.
pub(crate) fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> Option<usize> {
    let result: isize;
    // SAFETY: the callers give what the calls take: paths that end in zero, and memory of their own with its length.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    usize::try_from(result).ok()
}

pub(crate) fn exit(code: usize) -> ! {
    call(EXIT, [code, 0, 0, 0, 0, 0]);
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(1)
}
