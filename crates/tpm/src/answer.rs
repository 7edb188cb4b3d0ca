//! What a TPM answers, taken from octets (TPM 2.0 Parts 2 and 3).
//!
//! Owns the header, the area of sessions and the parameters of each answer that is asked for. A TPM is a device or another
//! process: nothing that it sends is believed to be well formed.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use lucarne_attest::wire::{HashAlgorithm, PcrSelections, Reader, Wire as _, WireError};

use crate::{
    agreement::Point,
    code::{CAP_PCRS, CAP_TPM_PROPERTIES, ST_NO_SESSIONS, ST_SESSIONS},
    response_code::ResponseCode,
};

/// What a TPM sent is not what its specification says it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    #[error(transparent)]
    Octets(#[from] WireError),
    #[error("{0} is not what was asked for")]
    Unexpected(&'static str),
}

/// Values of registers of the SHA-256 bank, by their indexes.
pub type PcrValues = BTreeMap<u8, [u8; 32]>;

/// Octets of every answer's beginning: tag, size and response code.
pub(crate) const HEADER: usize = 10;
/// No TPM sends more.
pub(crate) const LONGEST: usize = 4096;

/// How long the answer is whose header this is.
pub(crate) fn length(header: [u8; HEADER]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(&header);
    reader.u16("tag")?;
    let size = reader.u32("size")? as usize;
    if (HEADER..=LONGEST).contains(&size) { Ok(size) } else { Err(Malformed::Unexpected("the answer's size")) }
}

/// An answer that is no refusal: what stands behind its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    body: Vec<u8>,
    is_authorized: bool,
}

/// Reads the header; `is_authorized` says whether the command was.
pub(crate) fn parse(octets: &[u8], is_authorized: bool) -> Result<Result<Answer, ResponseCode>, Malformed> {
    let mut reader = Reader::new(octets);
    let tag = reader.u16("tag")?;
    let size = reader.u32("size")? as usize;
    let code = reader.u32("response code")?;
    if size != octets.len() {
        return Err(Malformed::Unexpected("the answer's size"));
    }
    if code != 0 {
        return Ok(Err(ResponseCode(code)));
    }
    if tag != if is_authorized { ST_SESSIONS } else { ST_NO_SESSIONS } {
        return Err(Malformed::Unexpected("the answer's tag"));
    }
    Ok(Ok(Answer { body: reader.rest().to_vec(), is_authorized }))
}

impl Answer {
    /// A handle and what follows it.
    fn with_handle(&self) -> Result<(u32, Reader<'_>), Malformed> {
        let mut reader = Reader::new(&self.body);
        let handle = reader.u32("handle")?;
        Ok((handle, self.parameters_of(reader)?))
    }

    fn parameters(&self) -> Result<Reader<'_>, Malformed> {
        self.parameters_of(Reader::new(&self.body))
    }

    /// Without what sessions add. It says nothing here: neither a password nor an unbound policy session has a key.
    fn parameters_of<'a>(&self, mut reader: Reader<'a>) -> Result<Reader<'a>, Malformed> {
        if !self.is_authorized {
            return Ok(reader);
        }
        let size = reader.u32("size of the parameters")? as usize;
        Ok(Reader::new(reader.take(size, "parameters")?))
    }

    pub(crate) fn nothing(&self) -> Result<(), Malformed> {
        Ok(self.parameters()?.end()?)
    }

    /// One buffer, such as random octets.
    pub(crate) fn buffer(&self) -> Result<Vec<u8>, Malformed> {
        let mut reader = self.parameters()?;
        let buffer = reader.sized(LONGEST, "buffer")?.to_vec();
        reader.end()?;
        Ok(buffer)
    }

    /// Properties with their values.
    pub(crate) fn properties(&self) -> Result<Vec<(u32, u32)>, Malformed> {
        let mut reader = self.capability(CAP_TPM_PROPERTIES)?;
        let count = reader.u32("count of properties")?;
        let pairs = (0..count).map(|_| Ok((reader.u32("property")?, reader.u32("value of a property")?)));
        let pairs = pairs.collect::<Result<Vec<_>, WireError>>()?;
        reader.end()?;
        Ok(pairs)
    }

    /// Whether the TPM keeps a SHA-256 bank. Banks of hashes that nobody here knows may be there too.
    pub(crate) fn has_sha256_bank(&self) -> Result<bool, Malformed> {
        let mut reader = self.capability(CAP_PCRS)?;
        let mut found = false;
        for _ in 0..reader.u32("count of banks")? {
            let bank = reader.u16("bank")?;
            let size = reader.u8("size of a selection")?;
            let registers = reader.take(usize::from(size), "selection")?;
            found |= bank == HashAlgorithm::Sha256.id() && registers.iter().any(|octet| *octet != 0);
        }
        reader.end()?;
        Ok(found)
    }

    fn capability(&self, asked: u32) -> Result<Reader<'_>, Malformed> {
        let mut reader = self.parameters()?;
        let _more = reader.u8("whether there is more")?;
        match reader.u32("capability")? {
            told if told == asked => Ok(reader),
            _ => Err(Malformed::Unexpected("the capability")),
        }
    }

    pub(crate) fn primary(&self) -> Result<Object, Malformed> {
        let (handle, mut reader) = self.with_handle()?;
        let public = reader.sized(LONGEST, "public area")?.to_vec();
        reader.sized(LONGEST, "creation data")?;
        reader.sized(LONGEST, "creation hash")?;
        ticket(&mut reader)?;
        let name = reader.sized(LONGEST, "name")?.to_vec();
        reader.end()?;
        Ok(Object { handle, public, name })
    }

    pub(crate) fn created(&self) -> Result<Wrapped, Malformed> {
        let mut reader = self.parameters()?;
        let private = reader.sized(LONGEST, "private area")?.to_vec();
        let public = reader.sized(LONGEST, "public area")?.to_vec();
        Ok(Wrapped { private, public })
    }

    /// The handle under which a key was loaded, and its name.
    pub(crate) fn loaded(&self) -> Result<(u32, Vec<u8>), Malformed> {
        let (handle, mut reader) = self.with_handle()?;
        let name = reader.sized(LONGEST, "name")?.to_vec();
        reader.end()?;
        Ok((handle, name))
    }

    /// A public area and its name.
    pub(crate) fn public(&self) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let mut reader = self.parameters()?;
        let public = reader.sized(LONGEST, "public area")?.to_vec();
        let name = reader.sized(LONGEST, "name")?.to_vec();
        reader.sized(LONGEST, "qualified name")?;
        reader.end()?;
        Ok((public, name))
    }

    /// A point on P-256.
    pub(crate) fn point(&self) -> Result<Point, Malformed> {
        let mut reader = self.parameters()?;
        let mut point = Reader::new(reader.sized(LONGEST, "point")?);
        let (x, y) = (point.sized(LONGEST, "x of a point")?, point.sized(LONGEST, "y of a point")?);
        let point_is = Point::of(x, y).ok_or(Malformed::Unexpected("the length of a coordinate"))?;
        point.end()?;
        reader.end()?;
        Ok(point_is)
    }

    /// The session's handle.
    pub(crate) fn session(&self) -> Result<u32, Malformed> {
        let (handle, mut reader) = self.with_handle()?;
        reader.sized(LONGEST, "nonce")?;
        reader.end()?;
        Ok(handle)
    }

    /// A timeout and a ticket, neither of which we asked for.
    pub(crate) fn policy_secret(&self) -> Result<(), Malformed> {
        let mut reader = self.parameters()?;
        reader.sized(LONGEST, "timeout")?;
        ticket(&mut reader)?;
        Ok(reader.end()?)
    }

    /// The quote (`TPMS_ATTEST`), and its signature (`TPMT_SIGNATURE`), which is all that follows.
    pub(crate) fn quote(&self) -> Result<Quote, Malformed> {
        let mut reader = self.parameters()?;
        let attest = reader.sized(LONGEST, "quote")?.to_vec();
        let signature = reader.rest().to_vec();
        if signature.is_empty() { Err(Malformed::Unexpected("the signature")) } else { Ok(Quote { attest, signature }) }
    }

    /// As many values as the TPM gave of those that were asked for.
    pub(crate) fn pcr_values(&self) -> Result<PcrValues, Malformed> {
        let mut reader = self.parameters()?;
        let _updates = reader.u32("update counter")?;
        let given = PcrSelections::read(&mut reader)?;
        if given.0.iter().any(|selection| selection.bank != HashAlgorithm::Sha256) {
            return Err(Malformed::Unexpected("the bank"));
        }
        let given: Vec<u8> = given.0.iter().flat_map(|selection| selection.indexes()).collect();
        if reader.u32("count of values")? as usize != given.len() {
            return Err(Malformed::Unexpected("the count of values"));
        }
        let values = given.into_iter().map(|register| {
            let value = reader.sized(LONGEST, "value of a register")?.try_into();
            Ok((register, value.map_err(|_| Malformed::Unexpected("the length of a register"))?))
        });
        let values = values.collect::<Result<PcrValues, Malformed>>()?;
        reader.end()?;
        Ok(values)
    }

    /// How many octets are under an NV index.
    pub(crate) fn nv_size(&self) -> Result<u16, Malformed> {
        let mut reader = self.parameters()?;
        let mut public = Reader::new(reader.sized(LONGEST, "public area of the index")?);
        reader.sized(LONGEST, "name of the index")?;
        reader.end()?;
        public.u32("index")?;
        public.u16("name algorithm")?;
        public.u32("attributes")?;
        public.sized(LONGEST, "policy of the index")?;
        let size = public.u16("size")?;
        public.end()?;
        Ok(size)
    }
}

/// `TPMT_TK_…`: tag, hierarchy, digest.
fn ticket(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    reader.u16("tag of a ticket")?;
    reader.u32("hierarchy of a ticket")?;
    reader.sized(LONGEST, "digest of a ticket")?;
    Ok(())
}

/// A key that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) handle: u32,
    /// `TPMT_PUBLIC`.
    pub(crate) public: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

/// A key that only its parent can load: to be kept outside of the TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrapped {
    pub(crate) private: Vec<u8>,
    /// `TPMT_PUBLIC`.
    pub(crate) public: Vec<u8>,
}

/// What a TPM signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// `TPMS_ATTEST`, which the signature is over.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

#[cfg(test)]
#[path = "tests/answer.rs"]
mod tests;
