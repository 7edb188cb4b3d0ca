//! A plugin of QEMU's TCG: writes down which pages of its memory a guest touches, in order.
//!
//! Owns the recording alone; `bench/src/bin/memory_policies.rs` builds it with `rustc`, loads it into QEMU and reads what it
//! wrote. It is no part of the workspace, because it is code that QEMU calls: it lives on its C interface.
//!
//! The file is of 32-bit little-endian words: a page's number, or [`SCAN`] after each `scan=` accesses. Of accesses to a
//! page that was among the last few, all but the first after a scan are left out: no policy that looks at access bits, and
//! no cache of more than a few pages, can tell the difference.
//!
//! The interface is declared here as QEMU's `include/qemu/qemu-plugin.h` has it in version 1, which every QEMU from 4.2 on
//! speaks; distributions do not package the header.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    fs::File,
    io::{BufWriter, Write},
    ptr::null_mut,
};

/// Says that so many accesses have passed since the last one, and that access bits would be looked at now.
const SCAN: u32 = u32::MAX;
const PAGE_BITS: u32 = 12;
/// Pages that are remembered as just touched.
const RECENT: usize = 512;

const CALLBACK_NO_REGISTERS: c_int = 0;
const READS_AND_WRITES: c_int = 3;

type Id = u64;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, *mut c_void));
    fn qemu_plugin_register_atexit_cb(id: Id, callback: extern "C" fn(Id, *mut c_void), data: *mut c_void);
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut c_void,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut c_void,
        callback: extern "C" fn(c_uint, u32, u64, *mut c_void),
        flags: c_int,
        which: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const c_void, at: usize) -> *mut c_void;
    fn qemu_plugin_insn_haddr(instruction: *const c_void) -> *mut c_void;
    fn qemu_plugin_get_hwaddr(info: u32, address: u64) -> *mut c_void;
    fn qemu_plugin_hwaddr_is_io(address: *const c_void) -> bool;
    fn qemu_plugin_hwaddr_phys_addr(address: *const c_void) -> u64;
}

struct Recorder {
    out: BufWriter<File>,
    /// Virtual pages touched last, by their lowest bits; several address spaces use the same, hence the forgetting.
    recent: [u64; RECENT],
    accesses: u64,
    scan_every: u64,
    /// Guest pages; what is above is no memory of the guest's.
    pages: u64,
    /// Where the guest's memory is mapped in QEMU, once it is.
    base: usize,
}

/// Set once by [`qemu_plugin_install`]; used by the one virtual processor's thread, which the bench's command line sees to.
static mut RECORDER: *mut Recorder = null_mut();

#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// # Safety
/// QEMU calls it once, with `count` strings in `arguments`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    // SAFETY: QEMU's promise, see above.
    let words = (0..count as usize).map(|at| unsafe { CStr::from_ptr(*arguments.add(at)) }.to_string_lossy().into_owned());
    let words: Vec<String> = words.collect();
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str| value(name).and_then(|text| text.parse::<u64>().ok());
    let (Some(out), Some(scan_every), Some(pages)) = (value("out"), number("scan"), number("pages")) else { return -1 };
    let Ok(file) = File::create(out) else { return -1 };
    let recent = [u64::MAX; RECENT];
    let recorder = Recorder { out: BufWriter::new(file), recent, accesses: 0, scan_every, pages, base: 0 };
    // SAFETY: nobody uses it before this function returns; the callbacks are QEMU's own kinds.
    unsafe {
        RECORDER = Box::into_raw(Box::new(recorder));
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu_plugin_register_atexit_cb(id, ends, null_mut());
    }
    0
}

extern "C" fn translated(_id: Id, block: *mut c_void) {
    // SAFETY: `block` and its instructions are QEMU's for the time of this call; the page's number is passed as data, not as
    // an address. One thread, see `RECORDER`.
    unsafe {
        let first = qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(block, 0));
        if let Some(page) = (*RECORDER).page_of_code(first as usize) {
            qemu_plugin_register_vcpu_tb_exec_cb(block, executed, CALLBACK_NO_REGISTERS, page as *mut c_void);
        }
        for at in 0..qemu_plugin_tb_n_insns(block) {
            let instruction = qemu_plugin_tb_get_insn(block, at);
            qemu_plugin_register_vcpu_mem_cb(instruction, accessed, CALLBACK_NO_REGISTERS, READS_AND_WRITES, null_mut());
        }
    }
}

extern "C" fn executed(_processor: c_uint, page: *mut c_void) {
    // SAFETY: one thread, see `RECORDER`.
    let recorder = unsafe { &mut *RECORDER };
    // Physical pages of code lie beside virtual ones of data in the filter; a bit that no virtual page has tells them apart.
    if recorder.is_new(page as u64 | 1 << 60) {
        recorder.write(page as u32);
    }
}

extern "C" fn accessed(_processor: c_uint, info: u32, address: u64, _data: *mut c_void) {
    // SAFETY: one thread, see `RECORDER`; what `qemu_plugin_get_hwaddr` returns is valid until this function ends.
    let recorder = unsafe { &mut *RECORDER };
    if !recorder.is_new(address >> PAGE_BITS) {
        return;
    }
    // SAFETY: as above.
    let physical = unsafe {
        let hardware = qemu_plugin_get_hwaddr(info, address);
        if hardware.is_null() || qemu_plugin_hwaddr_is_io(hardware) {
            return;
        }
        qemu_plugin_hwaddr_phys_addr(hardware)
    };
    if physical >> PAGE_BITS < recorder.pages {
        recorder.write((physical >> PAGE_BITS) as u32);
    }
}

extern "C" fn ends(_id: Id, _data: *mut c_void) {
    // SAFETY: the virtual processor has stopped.
    let _ = unsafe { &mut *RECORDER }.out.flush();
}

impl Recorder {
    fn is_new(&mut self, page: u64) -> bool {
        self.accesses += 1;
        if self.accesses.is_multiple_of(self.scan_every) {
            self.write(SCAN);
            self.recent = [u64::MAX; RECENT];
        }
        let slot = &mut self.recent[page as usize % RECENT];
        let is_new = *slot != page;
        *slot = page;
        is_new
    }

    fn write(&mut self, word: u32) {
        // A disk that is full shows in the bench, which finds the file too short to have seen the guest's end.
        let _ = self.out.write_all(&word.to_le_bytes());
    }

    /// The guest's page that is at this address in QEMU.
    fn page_of_code(&mut self, address: usize) -> Option<u64> {
        if self.base == 0 {
            self.base = find_memory(self.pages << PAGE_BITS).unwrap_or_default();
        }
        let page = (address.checked_sub(self.base)? >> PAGE_BITS) as u64;
        (self.base != 0 && page < self.pages).then_some(page)
    }
}

/// Where QEMU has mapped the guest's memory: the one mapping of that size of a memfd.
fn find_memory(size: u64) -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().filter(|line| line.contains("memory-backend-memfd")).find_map(|line| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        ((to - from) as u64 == size).then_some(from)
    })
}
