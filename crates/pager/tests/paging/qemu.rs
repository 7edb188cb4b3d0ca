//! An unmodified QEMU whose guest checks and changes all of its memory again and again, while all of it is taken away.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lucarne_model::memory::Pages;

use crate::house::House;

const PAGES: u64 = 8192;
/// Nobody, in particular not root: as VMs run.
const USER: u32 = 70_707;
/// As the driver fences VMs in.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A guest of one sector, in 32-bit code at 0x7c00. It prints `B`, and `.` after each pass over its memory from 1 MiB to
/// 24 MiB; when a word is not what the pass before has written, it prints `X`.
///
/// ```text
///         cli; xor ax, ax; mov ds, ax; lgdt [gdtr]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:flat
/// flat:   mov ax, 16; mov ds, ax; mov es, ax; mov ss, ax; mov esp, 0x7000
///         xor ebx, ebx; mov al, 'B'; call put
/// pass:   mov edi, 0x100000
/// each:   imul eax, edi, 0x9e3779b1; lea ecx, [eax + ebx]
///         test ebx, ebx; jz fresh; cmp [edi], ecx; jne wrong
/// fresh:  inc ecx; mov [edi], ecx; add edi, 4; cmp edi, 0x1800000; jb each
///         inc ebx; mov al, '.'; call put; jmp pass
/// wrong:  mov al, 'X'; call put; hlt; jmp wrong
/// put:    mov ah, al; mov dx, 0x3fd
/// wait:   in al, dx; test al, 0x20; jz wait; mov dx, 0x3f8; mov al, ah; out dx, al; ret
/// gdt:    flat code and data; gdtr
/// ```
const GUEST: [u8; 158] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0x0f, 0x01, 0x16, 0x98, 0x7c, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0x66, 0xea, 0x1b, 0x7c, 0x00, 0x00, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc,
    0x00, 0x70, 0x00, 0x00, 0x31, 0xdb, 0xb0, 0x42, 0xe8, 0x38, 0x00, 0x00, 0x00, 0xbf, 0x00, 0x00, 0x10, 0x00, 0x69,
    0xc7, 0xb1, 0x79, 0x37, 0x9e, 0x8d, 0x0c, 0x18, 0x85, 0xdb, 0x74, 0x04, 0x39, 0x0f, 0x75, 0x18, 0x41, 0x89, 0x0f,
    0x83, 0xc7, 0x04, 0x81, 0xff, 0x00, 0x00, 0x80, 0x01, 0x72, 0xe1, 0x43, 0xb0, 0x2e, 0xe8, 0x0c, 0x00, 0x00, 0x00,
    0xeb, 0xd2, 0xb0, 0x58, 0xe8, 0x03, 0x00, 0x00, 0x00, 0xf4, 0xeb, 0xf6, 0x88, 0xc4, 0x66, 0xba, 0xfd, 0x03, 0xec,
    0xa8, 0x20, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xc3, 0x66, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00,
    0x17, 0x00, 0x80, 0x7c, 0x00, 0x00,
];

fn boot_disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..GUEST.len()].copy_from_slice(&GUEST);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn qemu(folder: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-accel",
        "tcg,thread=multi",
        "-sandbox",
        SANDBOX,
    ]);
    command.args(["-machine", "q35,memory-backend=ram,vmport=off,mem-merge=off,dump-guest-core=off", "-m", "size=32M"]);
    command.args(["-object", "memory-backend-memfd,id=ram,size=32M,share=on"]);
    command.arg("-drive").arg(format!("file={}/disk,format=raw,if=virtio", folder.display()));
    command.arg("-serial").arg(format!("file:{}/serial", folder.display()));
    if rustix::process::geteuid().is_root() {
        command.uid(USER).gid(USER);
        std::os::unix::fs::chown(folder, Some(USER), Some(USER)).unwrap();
    }
    command
}

fn printed(house: &House) -> String {
    let text = fs::read(house.path().join("serial")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.rsplit('B').next().unwrap_or_default().to_owned()
}

/// Waits for passes beyond those that were made.
fn passes(house: &mut House, more: usize) {
    let before = printed(house).matches('.').count();
    let end = Instant::now() + Duration::from_secs(90);
    while printed(house).matches('.').count() < before + more {
        assert!(!printed(house).contains('X'), "the guest found another word than it wrote");
        assert!(!house.machine.has_ended(), "{}", house.machine.last_words());
        assert!(Instant::now() < end, "the guest stands still: {:?}", printed(house));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_guest_of_an_unmodified_qemu_finds_every_word_while_all_of_its_memory_leaves_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.path().join("disk"), boot_disk()).unwrap();
    fs::set_permissions(folder.path().join("disk"), fs::Permissions::from_mode(0o666)).unwrap();
    let command = qemu(folder.path());
    let mut house = House::around(PAGES, false, folder, command);
    let (mut pager, mut client) = house.serve(4 << 20);
    passes(&mut house, 1);
    for _ in 0..2 {
        let left = house.evict_all(&mut client);
        assert!(left > Pages::mib(16), "only {left} left");
        passes(&mut house, 2);
    }
    // A new pager goes on with what the dead one had out.
    house.evict_all(&mut client);
    pager.kill();
    let (_pager, mut client) = house.serve(4 << 20);
    passes(&mut house, 2);
    let statistics = client.statistics().unwrap();
    assert_eq!(statistics.pages.total(), Pages(PAGES));
    assert!(statistics.refaults > 0);
    // Held at less than half of what it goes over in each pass.
    client.set_target(Pages::mib(10), None).unwrap();
    passes(&mut house, 2);
}
