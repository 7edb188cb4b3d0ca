//! Who made a TPM, by what it says of itself (`TPM_PT`, Part 2 clause 6.13).
//!
//! Owns the reading of the properties. It is the TPM's own word: proof is in the certificate of its endorsement key.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// The first of the properties that are asked for, and how many.
pub(crate) const PROPERTIES: (u32, u32) = (0x100, 0x0d);

const REVISION: u32 = 0x102;
const MANUFACTURER: u32 = 0x105;
const VENDOR: [u32; 4] = [0x106, 0x107, 0x108, 0x109];
const FIRMWARE: [u32; 2] = [0x10b, 0x10c];

/// A TPM's maker and model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maker {
    /// Four letters of the TCG's registry, such as `IBM` for software and `INTC` for Intel.
    pub manufacturer: String,
    /// What the maker calls the model, such as `SW   TPM`.
    pub model: String,
    /// The firmware's version as four numbers.
    pub firmware: String,
    /// Of the specification, in hundredths: 159 is revision 1.59.
    pub revision: u32,
}

impl Maker {
    pub(crate) fn from_properties(properties: &[(u32, u32)]) -> Self {
        let value = |wanted: u32| properties.iter().find(|(property, _)| *property == wanted).map_or(0, |it| it.1);
        let [high, low] = FIRMWARE.map(value);
        Self {
            manufacturer: letters(&[value(MANUFACTURER)]),
            model: letters(&VENDOR.map(value)),
            firmware: format!("{}.{}.{}.{}", high >> 16, high & 0xffff, low >> 16, low & 0xffff),
            revision: value(REVISION),
        }
    }
}

/// Four ASCII characters in each number; what is no printable character is left out.
fn letters(words: &[u32]) -> String {
    let octets = words.iter().flat_map(|word| word.to_be_bytes());
    let text: String = octets.filter(|octet| octet.is_ascii_graphic() || *octet == b' ').map(char::from).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maker_is_read_from_what_is_there_and_nothing_that_cannot_be_shown() {
        let told =
            [(0x102, 159), (0x105, 0x4942_4d00), (0x106, 0x5357_2020), (0x107, 0x2054_504d), (0x10b, 0x2019_1023)];
        let maker = Maker::from_properties(&told);
        assert_eq!((maker.manufacturer.as_str(), maker.model.as_str()), ("IBM", "SW   TPM"));
        assert_eq!((maker.firmware.as_str(), maker.revision), ("8217.4131.0.0", 159));
        assert_eq!(Maker::from_properties(&[(0x105, 0x1b5b_3331)]).manufacturer, "[31");
    }
}
