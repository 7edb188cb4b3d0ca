//! The numbers of TPM 2.0 (Part 2) that this crate speaks, under the specification's names. Those of
//! keys, hashes and registers are in [`lucarne_attest::wire`].
//!
//! Owns nothing but the table.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

/// What a TPM is asked to do (`TPM_CC`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CommandCode {
    NvDefineSpace = 0x12a,
    CreatePrimary = 0x131,
    NvWrite = 0x137,
    NvWriteLock = 0x138,
    PcrReset = 0x13d,
    Startup = 0x144,
    ActivateCredential = 0x147,
    NvRead = 0x14e,
    PolicySecret = 0x151,
    Create = 0x153,
    EcdhZGen = 0x154,
    Load = 0x157,
    Quote = 0x158,
    FlushContext = 0x165,
    NvReadPublic = 0x169,
    ReadPublic = 0x173,
    StartAuthSession = 0x176,
    GetCapability = 0x17a,
    GetRandom = 0x17b,
    PcrRead = 0x17e,
    PcrExtend = 0x182,
}

impl fmt::Display for CommandCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

pub(crate) const ST_NO_SESSIONS: u16 = 0x8001;
pub(crate) const ST_SESSIONS: u16 = 0x8002;

pub(crate) const SU_CLEAR: u16 = 0;
pub(crate) const SE_POLICY: u8 = 1;
pub(crate) const CAP_PCRS: u32 = 5;
pub(crate) const CAP_TPM_PROPERTIES: u32 = 6;

pub(crate) const RH_OWNER: u32 = 0x4000_0001;
pub(crate) const RH_NULL: u32 = 0x4000_0007;
pub(crate) const RS_PW: u32 = 0x4000_0009;
pub(crate) const RH_ENDORSEMENT: u32 = 0x4000_000b;
pub(crate) const RH_PLATFORM: u32 = 0x4000_000c;

pub(crate) const ALG_NULL: u16 = 0x0010;

/// `TPMA_NV`.
pub(crate) mod nv {
    pub(crate) const PP_WRITE: u32 = 1;
    pub(crate) const WRITE_DEFINE: u32 = 1 << 13;
    pub(crate) const PP_READ: u32 = 1 << 16;
    pub(crate) const OWNER_READ: u32 = 1 << 17;
    pub(crate) const AUTH_READ: u32 = 1 << 18;
    pub(crate) const NO_DA: u32 = 1 << 25;
    pub(crate) const PLATFORM_CREATE: u32 = 1 << 30;
}
