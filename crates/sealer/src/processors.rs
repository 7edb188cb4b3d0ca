//! The registers of a guest's processors, as QEMU prints them (`info registers -a`).
//!
//! Owns the reading of that text, whose layout differs between versions and modes of the processor: what is understood is
//! `NAME=HEX...`, wherever it stands.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use serde::Serialize;

/// One processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Processor {
    pub(crate) index: u32,
    /// Each as `0x` and its digits, by its name in lower case.
    pub(crate) registers: BTreeMap<String, String>,
    pub(crate) segments: BTreeMap<String, Segment>,
    /// The tables of descriptors and of interrupts.
    pub(crate) tables: BTreeMap<String, Table>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Segment {
    pub(crate) selector: String,
    pub(crate) base: String,
    pub(crate) limit: String,
    pub(crate) attributes: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Table {
    pub(crate) base: String,
    pub(crate) limit: String,
}

impl Processor {
    /// The number in a register of 64 bits at most.
    pub(crate) fn number(&self, register: &str) -> Option<u64> {
        u64::from_str_radix(self.registers.get(register)?.strip_prefix("0x")?, 16).ok()
    }
}

/// All processors that the text tells of.
pub(crate) fn parse(text: &str) -> Vec<Processor> {
    let mut processors: Vec<Processor> = Vec::new();
    for line in text.lines() {
        let begins = line.trim().strip_prefix("CPU#").and_then(|number| number.trim().parse().ok());
        match (begins, processors.last_mut()) {
            (Some(index), _) => processors.push(Processor { index, ..Processor::default() }),
            (None, Some(processor)) => read(line, processor),
            (None, None) => {}
        }
    }
    processors
}

/// Takes what a line such as `RAX=0000000000000001 RBX=...` or `CS =0010 00000000 ffffffff 00af9b00 DPL=0 CS64 [-R-]` says.
fn read(line: &str, processor: &mut Processor) {
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once('=') {
        let name = before.split_whitespace().next_back().unwrap_or_default().to_lowercase();
        // All numbers up to the next word that is none.
        let words: Vec<&str> = behind.split_whitespace().take_while(|word| is_number(word)).collect();
        rest = behind;
        match words[..] {
            _ if name.is_empty() || !name.bytes().all(|octet| octet.is_ascii_alphanumeric()) => {}
            [] => {}
            [selector, base, limit, attributes] if name.len() <= 3 && selector.len() == 4 => {
                let [selector, base, limit, attributes] = [selector, base, limit, attributes].map(hex);
                processor.segments.insert(name, Segment { selector, base, limit, attributes });
            }
            [base, limit] if matches!(name.as_str(), "gdt" | "idt") => {
                processor.tables.insert(name, Table { base: hex(base), limit: hex(limit) });
            }
            // The halves of a wide register.
            _ if name.starts_with("fpr") || name.ends_with("mm") || name.contains("mm0") || is_vector(&name) => {
                processor.registers.insert(name, hex(&words.concat()));
            }
            [number, ..] => {
                processor.registers.insert(name, hex(number));
            }
        }
    }
}

fn is_vector(name: &str) -> bool {
    ["xmm", "ymm", "zmm"].iter().any(|kind| name.starts_with(kind))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.len() <= 16 && word.bytes().all(|octet| octet.is_ascii_hexdigit())
}

fn hex(digits: &str) -> String {
    format!("0x{digits}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "
CPU#0
RAX=ffffffff81a0c0d0 RBX=0000000000000000 RCX=0000000000000001 RDX=4000000000000000
RIP=ffffffff81a0c0e5 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0000 0000000000000000 ffffffff 00c00000
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
GS =0000 ffff888003c00000 ffffffff 00c00000
TR =0040 fffffe0000003000 00004087 00008b00 DPL=0 TSS64-busy
GDT=     fffffe0000001000 0000007f
IDT=     fffffe0000000000 00000fff
CR0=80050033 CR2=00007f0000000000 CR3=0000000002c10000 CR4=000006f0
EFER=0000000000000d01
FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80
FPR0=8000000000000000 3fff FPR1=0000000000000000 0000
XMM00=0000000000000001 0000000000000002 XMM01=0000000000000000 0000000000000000

CPU#1
RAX=0000000000000000 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000000
";

    #[test]
    fn registers_are_known_by_their_names() {
        let [first, second] = &parse(TEXT)[..] else { panic!("two processors") };
        assert_eq!((first.index, second.index), (0, 1));
        assert_eq!(first.number("rip"), Some(0xffff_ffff_81a0_c0e5));
        assert_eq!(first.number("cr3"), Some(0x2c1_0000));
        assert_eq!(
            (first.number("cr4"), first.number("efer"), first.number("cpl")),
            (Some(0x6f0), Some(0xd01), Some(0))
        );
        assert_eq!(first.segments["cs"].attributes, "0x00af9b00");
        assert_eq!(first.segments["gs"].base, "0xffff888003c00000");
        assert_eq!(first.tables["idt"].base, "0xfffffe0000000000");
        assert_eq!(first.registers["xmm00"], "0x00000000000000010000000000000002");
        assert_eq!(first.registers["fpr0"], "0x80000000000000003fff");
        assert_eq!(first.registers["mxcsr"], "0x00001f80");
        assert_eq!(second.number("rdx"), Some(0));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(CPU#|[A-Z]{0,3}[0-9]?=|[0-9a-f]{1,17}| |\n|\\PC){0,120}") {
            parse(&text);
        }
    }
}
