//! A filter of system calls: what a sealing process never does from here on.
//!
//! Owns the list. It names what leads out (programs, processes, sockets, other processes' memory, the kernel's own doors) and
//! leaves the rest: a list of what is allowed would break with the next C library, and what a filter forbids to nobody it
//! need not name. Calls that are forbidden fail; they do not kill, so that a guest that stands still goes on.
#![allow(unsafe_code)]

use std::io;

use libc::{c_long, sock_filter, sock_fprog};

use super::Needs;

/// What is refused.
const REFUSED: [c_long; 39] = [
    // programs and processes
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_unshare,
    libc::SYS_setns,
    // sockets; see `CONNECTING`
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // others' memory and descriptors
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_userfaultfd,
    libc::SYS_kcmp,
    // ways around a filter or a domain
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_capset,
    // the kernel's own doors
    libc::SYS_bpf,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
];

/// What is refused too, but to a process that has to talk to its machine again: that may do it with unix sockets.
const CONNECTING: [c_long; 2] = [libc::SYS_socket, libc::SYS_connect];

/// Where the kernel has the number of the call, its architecture, and the low half of its first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const X86_64: u32 = 0xc000_003e;
/// Numbers from there on are of another calling convention of the same architecture.
const X32: u32 = 0x4000_0000;
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const PASS: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Holds all threads of this process to the filter, for good.
pub(super) fn restrict(needs: &Needs) -> io::Result<()> {
    let program = program(needs);
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which lives until it returns, and checks it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            std::ptr::from_ref(&program),
        )
    };
    match result {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} cannot be held to the filter"))),
    }
}

fn program(needs: &Needs) -> Vec<sock_filter> {
    let mut program = vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        step(IF_EQUAL, X86_64, 1, 0),
        step(RETURN, KILL, 0, 0),
        step(LOAD, NUMBER, 0, 0),
        step(IF_AT_LEAST, X32, 0, 1),
        step(RETURN, KILL, 0, 0),
        // Its flags are in memory, where no filter looks; the C library then asks for `clone`.
        step(IF_EQUAL, libc::SYS_clone3 as u32, 0, 1),
        step(RETURN, UNKNOWN, 0, 0),
        // Threads, and no processes.
        step(IF_EQUAL, libc::SYS_clone as u32, 0, 4),
        step(LOAD, FIRST_ARGUMENT, 0, 0),
        step(IF_ANY_BIT, libc::CLONE_THREAD as u32, 0, 1),
        step(RETURN, PASS, 0, 0),
        step(RETURN, REFUSE, 0, 0),
    ];
    if !needs.inspects {
        program.extend([
            // What it traces already it may look at and let go; it cannot begin to.
            step(IF_EQUAL, libc::SYS_ptrace as u32, 0, 5),
            step(LOAD, FIRST_ARGUMENT, 0, 0),
            step(IF_EQUAL, libc::PTRACE_ATTACH, 2, 0),
            step(IF_EQUAL, libc::PTRACE_SEIZE, 1, 0),
            step(RETURN, PASS, 0, 0),
            step(RETURN, REFUSE, 0, 0),
        ]);
    }
    if needs.connects {
        program.extend([
            step(IF_EQUAL, libc::SYS_socket as u32, 0, 4),
            step(LOAD, FIRST_ARGUMENT, 0, 0),
            step(IF_EQUAL, libc::AF_UNIX as u32, 0, 1),
            step(RETURN, PASS, 0, 0),
            step(RETURN, REFUSE, 0, 0),
        ]);
    }
    let refused = REFUSED.iter().chain(CONNECTING.iter().filter(|_| !needs.connects));
    for &call in refused {
        program.extend([step(IF_EQUAL, call as u32, 0, 1), step(RETURN, REFUSE, 0, 0)]);
    }
    program.push(step(RETURN, PASS, 0, 0));
    program
}

const fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}
