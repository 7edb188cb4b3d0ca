//! The structures of TPM 2.0 that judging needs, read strictly and written: the octets of TPM 2.0 Library, Part 2.
//!
//! Whatever is read writes the same octets again, for names and signatures are taken over them. What is cut short, too
//! long, of an unknown algorithm or followed by anything is refused. Commands and answers are the TPM client's.

mod algorithm;
mod attest;
mod octets;
mod public;
mod selection;
mod signature;
#[cfg(test)]
mod tests;

pub use algorithm::HashAlgorithm;
pub use attest::{Attest, Clock, MAGIC};
pub use octets::{Reader, WireError, Writer};
pub use public::{AsymmetricScheme, Attributes, Key, Public};
pub use selection::{PcrSelection, PcrSelections};
pub use signature::Signature;

/// What has a form in octets.
pub trait Wire: Sized {
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError>;
    fn write(&self, to: &mut Writer);

    /// Reads a structure that `octets` hold, and nothing else.
    fn from_octets(octets: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(octets);
        let read = Self::read(&mut reader)?;
        reader.end()?;
        Ok(read)
    }

    fn to_octets(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.into_octets()
    }
}
