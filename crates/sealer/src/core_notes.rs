//! The notes of a core: what a guest's processors or a process's threads were at, as debuggers want it told.
//!
//! Owns the reading of the notes that QEMU makes and the making of ours. QEMU tells debuggers the registers in the shape of the mode that
//! the first processor is in, which may be one of 16 bits; beside that it has a note of its own for each processor, in which
//! they always are whole. From those the notes for debuggers are made, and those are kept.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use crate::core_file::PAGE;

const NOTE: u64 = 4;
/// NT_PRSTATUS, and its length for x86-64.
const STATUS: u32 = 1;
const STATUS_OCTETS: usize = 336;
/// NT_FILE, which says what files a process has mapped, and NT_AUXV, what its kernel told it at its start.
const FILES: u32 = 0x4649_4c45;
const AUXILIARY: u32 = 6;
/// The order in which debuggers look for registers: `struct user_regs_struct` of x86-64.
const ORDER: [&str; 27] = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
];
/// Where the number of the thread is in it, and where the registers are.
const THREAD: usize = 32;
const REGISTERS: usize = 112;
/// QEMU's note of a processor, version 1, and how long that is.
const VERSION: u64 = 1;
const PROCESSOR_OCTETS: usize = 440;

/// The machine's notes are of a kind that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the machine says of its processors is not understood")]
pub(crate) struct NotUnderstood;

/// The notes of processors for a core of ours, from a core that QEMU has made.
pub(crate) fn processors(core: &[u8]) -> Result<Vec<u8>, NotUnderstood> {
    let notes = section(core).ok_or(NotUnderstood)?;
    let processors: Vec<&[u8]> = each(notes).filter(|note| note.name == b"QEMU\0").map(|note| note.content).collect();
    let is_known = |one: &&[u8]| one.len() == PROCESSOR_OCTETS && number(one, 0, 4) == Some(VERSION);
    if processors.is_empty() || !processors.iter().all(is_known) {
        return Err(NotUnderstood);
    }
    let status = (1_u32..).zip(&processors).flat_map(|(thread, one)| note("CORE", STATUS, &status(thread, one)));
    let own = processors.iter().flat_map(|one| note("QEMU", 0, one));
    Ok(status.chain(own).collect())
}

/// What a debugger is told of a thread, which here is a processor: `struct elf_prstatus` of x86-64.
fn status(thread: u32, processor: &[u8]) -> Vec<u8> {
    // Behind version and size: rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags, then segments of 24 octets each,
    // cs ds es fs gs ss first: selector, limit, flags, nothing, base.
    let general = |at: usize| number(processor, 8 + at * 8, 8).unwrap_or_default();
    let selector = |at: usize| number(processor, 152 + at * 24, 4).unwrap_or_default();
    let base = |at: usize| number(processor, 152 + at * 24 + 16, 8).unwrap_or_default();
    let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp] = [0, 1, 2, 3, 4, 5, 6, 7].map(general);
    let [r8, r9, r10, r11, r12, r13, r14, r15] = [8, 9, 10, 11, 12, 13, 14, 15].map(general);
    let [cs, ds, es, fs, gs, ss] = [0, 1, 2, 3, 4, 5].map(selector);
    let [rip, flags] = [16, 17].map(general);
    // It is in no system call, of which there would be the first rax.
    let none = u64::MAX;
    let registers = [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        none,
        rip,
        cs,
        flags,
        rsp,
        ss,
        base(3),
        base(4),
        ds,
        es,
        fs,
        gs,
    ];
    status_of(thread, registers)
}

/// A thread of a process, by the names of its registers.
pub(crate) fn thread(number: u32, registers: &BTreeMap<&'static str, u64>) -> Vec<u8> {
    let registers = ORDER.map(|name| registers.get(name).copied().unwrap_or_default());
    note("CORE", STATUS, &status_of(number, registers))
}

/// What a process was told at its start, by which debuggers find where its program is.
pub(crate) fn auxiliary(vector: &[u8]) -> Vec<u8> {
    note("CORE", AUXILIARY, vector)
}

/// The files that a process has mapped: from the first address to behind the last, and from which octet of the file on.
pub(crate) fn files<'a>(mapped: impl Iterator<Item = (u64, u64, u64, &'a str)>) -> Vec<u8> {
    let mapped: Vec<_> = mapped.collect();
    let mut content: Vec<u8> = [mapped.len() as u64, PAGE].into_iter().flat_map(u64::to_le_bytes).collect();
    for (first, behind, offset, _) in &mapped {
        content.extend([*first, *behind, offset / PAGE].into_iter().flat_map(u64::to_le_bytes));
    }
    for (.., name) in &mapped {
        content.extend(name.as_bytes());
        content.push(0);
    }
    note("CORE", FILES, &content)
}

fn status_of(thread: u32, registers: [u64; ORDER.len()]) -> Vec<u8> {
    let mut status = vec![0; STATUS_OCTETS];
    status[THREAD..THREAD + 4].copy_from_slice(&thread.to_le_bytes());
    for (part, register) in status[REGISTERS..].as_chunks_mut::<8>().0.iter_mut().zip(registers) {
        *part = register.to_le_bytes();
    }
    status
}

/// A note: whose, of which type, and what.
pub(crate) fn note(name: &str, kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    let lengths = [name.len() as u32 + 1, content.len() as u32, kind];
    lengths.into_iter().for_each(|number| note.extend(number.to_le_bytes()));
    note.extend(name.as_bytes());
    note.push(0);
    note.resize(note.len().next_multiple_of(4), 0);
    note.extend(content);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

#[derive(Clone, Copy, Debug)]
struct Note<'a> {
    name: &'a [u8],
    content: &'a [u8],
}

/// As far as they are notes.
fn each(mut notes: &[u8]) -> impl Iterator<Item = Note<'_>> {
    std::iter::from_fn(move || {
        let lengths = (number(notes, 0, 4)? as usize, number(notes, 4, 4)? as usize);
        let content = 12 + lengths.0.next_multiple_of(4);
        let note = Note { name: notes.get(12..12 + lengths.0)?, content: notes.get(content..content + lengths.1)? };
        notes = notes.get(content + lengths.1.next_multiple_of(4)..)?;
        Some(note)
    })
}

/// The notes of an ELF file of 64 bits, or of 32: QEMU makes the latter of a guest that is in no other mode.
pub(crate) fn section(core: &[u8]) -> Option<&[u8]> {
    let is_long = match core.get(..6)? {
        [0x7f, b'E', b'L', b'F', 2, 1] => true,
        [0x7f, b'E', b'L', b'F', 1, 1] => false,
        _ => return None,
    };
    let width = if is_long { 8 } else { 4 };
    let (table, count) = if is_long { ((32, 8), (56, 2)) } else { ((28, 4), (44, 2)) };
    let (header, offset, length) = if is_long { (56, 8, 32) } else { (32, 4, 16) };
    let (table, count) = (number(core, table.0, table.1)?, number(core, count.0, count.1)?);
    let headers = (0..count).map_while(|at| usize::try_from(table.checked_add(at * header)?).ok());
    let notes = headers.into_iter().find(|at| number(core, *at, 4) == Some(NOTE))?;
    let at = usize::try_from(number(core, notes.checked_add(offset)?, width)?).ok()?;
    let length = usize::try_from(number(core, notes.checked_add(length)?, width)?).ok()?;
    core.get(at..at.checked_add(length)?)
}

fn number(octets: &[u8], at: usize, count: usize) -> Option<u64> {
    let part = octets.get(at..at.checked_add(count)?)?;
    Some(part.iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A core of nothing but notes.
    fn core(is_long: bool, notes: &[u8]) -> Vec<u8> {
        let mut core = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_long), 1];
        core.resize(if is_long { 64 } else { 52 }, 0);
        let at = core.len();
        let (table, count) = if is_long { (32, 56) } else { (28, 44) };
        core[table] = at as u8;
        core[count] = 1;
        let mut header = vec![4, 0, 0, 0];
        let (offset, length) = if is_long { (8, 32) } else { (4, 16) };
        header.resize(if is_long { 56 } else { 32 }, 0);
        let behind = (at + header.len()) as u16;
        header[offset..offset + 2].copy_from_slice(&behind.to_le_bytes());
        header[length..length + 2].copy_from_slice(&(notes.len() as u16).to_le_bytes());
        [core, header, notes.to_vec()].concat()
    }

    /// Word by word, what it is the number of.
    fn processor() -> Vec<u8> {
        let mut words: Vec<u64> = (0..PROCESSOR_OCTETS as u64 / 8).map(|at| at << 8 | 7).collect();
        words[0] = (PROCESSOR_OCTETS as u64) << 32 | VERSION;
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn registers_are_where_debuggers_look_for_them() {
        let qemu = [note("CORE", 1, &[1; 144]), note("QEMU", 0, &processor()), note("QEMU", 0, &processor())].concat();
        for is_long in [true, false] {
            let notes = processors(&core(is_long, &qemu)).unwrap();
            let all: Vec<Note<'_>> = each(&notes).collect();
            let lengths: Vec<usize> = all.iter().map(|note| note.content.len()).collect();
            assert_eq!(lengths, [STATUS_OCTETS, STATUS_OCTETS, PROCESSOR_OCTETS, PROCESSOR_OCTETS]);
            let second = all[1].content;
            let word = |at: usize| number(second, REGISTERS + at * 8, 8).unwrap();
            assert_eq!(number(second, THREAD, 4), Some(2));
            // r15, rax, rdi, rip, flags, rsp, and the base of fs.
            let found = [0, 10, 14, 16, 18, 19, 21].map(word);
            assert_eq!(found, [16, 1, 6, 17, 18, 7, 30].map(|at| at << 8 | 7));
            assert_eq!((word(17), word(26)), (0x1307, 0x1f07), "selectors are 32 bits");
        }
    }

    #[test]
    fn a_threads_registers_and_the_files_of_a_process_are_where_debuggers_look_for_them() {
        let registers = BTreeMap::from([("r15", 1), ("rip", 2), ("rsp", 3), ("gs", 4)]);
        let status = thread(77, &registers);
        let content = each(&status).next().unwrap().content;
        let word = |at: usize| number(content, REGISTERS + at * 8, 8).unwrap();
        assert_eq!((number(content, THREAD, 4), [0, 16, 19, 26].map(word)), (Some(77), [1, 2, 3, 4]));
        let noted = files([(0x1000, 0x3000, 0x2000, "/a b"), (0x5000, 0x6000, 0, "/c")].into_iter());
        let content = each(&noted).next().unwrap().content;
        let words: Vec<u64> = (0..8).map(|at| number(content, at * 8, 8).unwrap()).collect();
        assert_eq!((words, &content[64..]), (vec![2, 4096, 0x1000, 0x3000, 2, 0x5000, 0x6000, 0], &b"/a b\0/c\0"[..]));
    }

    #[test]
    fn notes_of_another_version_are_refused() {
        let mut other = processor();
        other[0] = 2;
        for notes in [note("QEMU", 0, &other), note("QEMU", 0, &processor()[8..]), note("CORE", 1, &[0; 336]), vec![]] {
            assert_eq!(processors(&core(true, &notes)), Err(NotUnderstood));
        }
    }

    #[test]
    fn a_note_is_padded_as_it_should_be() {
        assert_eq!(note("Ab", 7, &[1, 2, 3]), [3, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0, b'A', b'b', 0, 0, 1, 2, 3, 0]);
    }

    proptest! {
        #[test]
        fn no_octets_make_the_reader_fail(mut file in prop::collection::vec(any::<u8>(), 6..300), is_long: bool, notes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = processors(&core(is_long, &notes));
            file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(is_long), 1]);
            let _ = processors(&file);
        }
    }
}
