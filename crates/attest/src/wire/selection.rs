//! Which registers of which bank: TPMS_PCR_SELECTION and the list of them.

use super::{HashAlgorithm, Reader, Wire, WireError, Writer};

/// Octets of the bitmap: a PC's TPM has 24 registers.
const BITMAP: usize = 3;
/// As many banks as there are hashes.
const BANKS: u32 = 4;

/// Registers of one bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcrSelection {
    pub bank: HashAlgorithm,
    /// Bit n says that register n, 0 to 23, is selected.
    bitmap: u32,
}

impl PcrSelection {
    /// Indexes above 23 do not exist and are left out.
    pub fn new(bank: HashAlgorithm, indexes: impl IntoIterator<Item = u8>) -> Self {
        let known = indexes.into_iter().filter(|index| usize::from(*index) < 8 * BITMAP);
        Self { bank, bitmap: known.fold(0, |bitmap, index| bitmap | 1 << index) }
    }
    /// The selected registers, ascending.
    pub fn indexes(self) -> impl Iterator<Item = u8> {
        (0..8 * BITMAP as u8).filter(move |index| self.bitmap & 1 << index != 0)
    }
}

impl Wire for PcrSelection {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let bank = HashAlgorithm::read(from)?;
        let size = from.u8("selection of registers")?;
        if usize::from(size) != BITMAP {
            return Err(WireError::Unknown { what: "size of a selection", found: size.into() });
        }
        let [low, middle, high] = from.array("selection of registers")?;
        Ok(Self { bank, bitmap: u32::from_le_bytes([low, middle, high, 0]) })
    }
    fn write(&self, to: &mut Writer) {
        self.bank.write(to);
        to.u8(BITMAP as u8).octets(&self.bitmap.to_le_bytes()[..BITMAP]);
    }
}

/// TPML_PCR_SELECTION.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcrSelections(pub Vec<PcrSelection>);

impl Wire for PcrSelections {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = from.u32("selections")?;
        if count > BANKS {
            return Err(WireError::TooLong { what: "list of selections", found: count as usize, most: BANKS as usize });
        }
        (0..count).map(|_| PcrSelection::read(from)).collect::<Result<_, _>>().map(Self)
    }
    fn write(&self, to: &mut Writer) {
        to.u32(self.0.len() as u32);
        self.0.iter().for_each(|selection| selection.write(to));
    }
}
