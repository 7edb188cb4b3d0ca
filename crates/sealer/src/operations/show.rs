//! `guest.screenshot` and `guest.console`.
//!
//! Owns that a picture comes through a pipe, as memory does, and that what is said to be a picture is one.

use lucarne_seal::operation::GuestConsole;
use serde_json::json;

use crate::{
    content::Content,
    guest_memory::Passage,
    monitor::Monitor,
    order::{Failure, Machine},
};

const DOING: &str = "take a picture of the guest's screen";
/// `P6`, width, height, and the largest value of a colour, each followed by one blank.
const LONGEST_HEADER: usize = 64;
/// More than any screen has: 16384 by 16384.
const MOST_PIXELS: u64 = 1 << 28;

pub(super) fn screenshot(monitor: &mut Monitor, passage: &mut Passage, content: &mut Content) -> Result<(), Failure> {
    monitor.begin(DOING, "screendump", json!({ "filename": passage.name() }))?;
    let mut picture = Vec::new();
    let pixels = loop {
        passage.take(1, monitor, &mut picture)?;
        match pixels(&picture) {
            Ok(Some(pixels)) => break pixels,
            Ok(None) => {}
            Err(cause) => return Err(Failure::Broken { doing: DOING, cause: cause.to_owned() }),
        }
    };
    passage.take(3 * pixels, monitor, &mut picture)?;
    monitor.answer(DOING)?;
    content.push(&picture)
}

/// How many pixels follow this beginning of a picture (netpbm's ppm(5)); none: it is not whole yet.
fn pixels(header: &[u8]) -> Result<Option<u64>, &'static str> {
    let whole = header.iter().filter(|octet| octet.is_ascii_whitespace()).count() == 4;
    if !whole {
        return if header.len() < LONGEST_HEADER { Ok(None) } else { Err("it is no picture") };
    }
    let text = std::str::from_utf8(header).map_err(|_| "it is no picture")?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let ["P6", width, height, "255"] = words[..] else { return Err("it is a picture of another kind") };
    let number = |text: &str| text.parse::<u64>().ok();
    let pixels = number(width).zip(number(height)).and_then(|(width, height)| width.checked_mul(height));
    pixels.filter(|pixels| (1..=MOST_PIXELS).contains(pixels)).map(Some).ok_or("it has a strange size")
}

/// The end of what the guest wrote.
pub(super) fn console(console: &GuestConsole, machine: &Machine, content: &mut Content) -> Result<(), Failure> {
    let kept = lucarne_vmm::console_contents(&machine.console).map_err(Failure::broken("read the guest's console"))?;
    content.push(&kept[kept.len().saturating_sub(console.most_octets.get() as usize)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_picture_is_known_when_its_header_is_whole() {
        assert_eq!(pixels(b"P6\n720 400\n255\n"), Ok(Some(288_000)));
        assert_eq!(pixels(b"P6\n720 400\n255"), Ok(None));
        for wrong in ["P5\n720 400\n255\n", "P6\n0 400\n255\n", "P6\n99999999 99999999\n255\n", "P6\n-1 4\n255\n"] {
            assert!(pixels(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(pixels(&[b'x'; LONGEST_HEADER]).is_err());
    }
}
