//! What a TPM says about itself: TPMS_ATTEST, of the kind quote.

use super::{PcrSelections, Reader, Wire, WireError, Writer};

/// TPM_GENERATED_VALUE: what no restricted key signs unless the TPM itself made it.
pub const MAGIC: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE.
const QUOTE: u16 = 0x8018;
/// The longest name or digest: an algorithm and SHA-512.
const MOST: usize = 66;

/// TPMS_CLOCK_INFO: how long the TPM has run, and how often it began again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds that it was powered since it was last cleared.
    pub milliseconds: u64,
    /// How often it was reset.
    pub resets: u32,
    /// How often it was resumed or restarted since the last reset.
    pub restarts: u32,
    /// Whether no greater clock value can have been reported before.
    pub safe: bool,
}

/// A quote: which registers had which digest, when, and what the asker wanted in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// [`MAGIC`], unless it was never made by a TPM.
    pub magic: u32,
    /// The qualified name of the key that signed.
    pub signer: Vec<u8>,
    /// The qualifying data (`extraData`).
    pub qualifying: Vec<u8>,
    pub clock: Clock,
    pub firmware: u64,
    pub selections: PcrSelections,
    /// The digest over the selected registers, one after the other, by the signature's hash.
    pub pcr_digest: Vec<u8>,
}

impl Wire for Clock {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            milliseconds: from.u64("clock")?,
            resets: from.u32("reset count")?,
            restarts: from.u32("restart count")?,
            safe: match from.u8("safe")? {
                0 => false,
                1 => true,
                other => return Err(WireError::Unknown { what: "yes or no", found: other.into() }),
            },
        })
    }
    fn write(&self, to: &mut Writer) {
        to.u64(self.milliseconds).u32(self.resets).u32(self.restarts).u8(self.safe.into());
    }
}

impl Wire for Attest {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let magic = from.u32("magic")?;
        match from.u16("kind of attestation")? {
            QUOTE => {}
            other => return Err(WireError::Unknown { what: "kind of attestation", found: other.into() }),
        }
        Ok(Self {
            magic,
            signer: from.sized(MOST, "name of the signer")?.to_vec(),
            qualifying: from.sized(MOST, "qualifying data")?.to_vec(),
            clock: Clock::read(from)?,
            firmware: from.u64("firmware version")?,
            selections: PcrSelections::read(from)?,
            pcr_digest: from.sized(MOST, "digest of the registers")?.to_vec(),
        })
    }
    fn write(&self, to: &mut Writer) {
        to.u32(self.magic).u16(QUOTE).sized(&self.signer).sized(&self.qualifying);
        self.clock.write(to);
        to.u64(self.firmware);
        self.selections.write(to);
        to.sized(&self.pcr_digest);
    }
}
