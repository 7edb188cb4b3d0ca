//! The commands that are sent to a TPM, as octets (TPM 2.0 Part 3).
//!
//! Owns what stands in each command and how it is authorized. What comes back is [`crate::answer`]'s.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use lucarne_attest::wire::{HashAlgorithm, PcrSelections, Public, Wire as _, Writer};

use crate::{
    agreement::Point,
    code::{
        ALG_NULL, CAP_PCRS, CAP_TPM_PROPERTIES, CommandCode, RH_ENDORSEMENT, RH_NULL, RH_OWNER, RH_PLATFORM, RS_PW,
        SE_POLICY, ST_NO_SESSIONS, ST_SESSIONS, SU_CLEAR, nv,
    },
};

/// One command: what is asked, of which objects, and by what right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) code: CommandCode,
    handles: Vec<u32>,
    /// A password session for each that is none.
    rights: Vec<Right>,
    parameters: Vec<u8>,
}

/// By what right an object is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    /// Its authorization value, which for all that we use is empty.
    EmptyPassword,
    /// A session in which the object's policy has been satisfied. It ends with the command.
    Policy(u32),
}

/// The hierarchy that a primary key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    Owner,
    Endorsement,
}

impl Hierarchy {
    fn handle(self) -> u32 {
        match self {
            Self::Owner => RH_OWNER,
            Self::Endorsement => RH_ENDORSEMENT,
        }
    }
}

impl Command {
    /// A command of no object, with the parameters that `write` puts down.
    fn new(code: CommandCode, write: impl for<'a> FnOnce(&'a mut Writer) -> &'a mut Writer) -> Self {
        Self { code, handles: Vec::new(), rights: Vec::new(), parameters: octets(write) }
    }
    fn of(mut self, handle: u32) -> Self {
        self.handles.push(handle);
        self
    }
    fn by(mut self, right: Right) -> Self {
        self.rights.push(right);
        self
    }
    /// Uses `handle` by its empty authorization value.
    fn using(self, handle: u32) -> Self {
        self.of(handle).by(Right::EmptyPassword)
    }

    /// As it is sent.
    pub(crate) fn encode(&self) -> Vec<u8> {
        const HEADER: usize = 10;
        let rights = octets(|area| self.rights.iter().fold(area, |area, right| right.write(area)));
        let body = octets(|body| {
            let body = self.handles.iter().fold(body, |body, handle| body.u32(*handle));
            let body = if self.is_authorized() { body.u32(rights.len() as u32).octets(&rights) } else { body };
            body.octets(&self.parameters)
        });
        let tag = if self.is_authorized() { ST_SESSIONS } else { ST_NO_SESSIONS };
        octets(|all| all.u16(tag).u32((HEADER + body.len()) as u32).u32(self.code as u32).octets(&body))
    }

    /// Whether its answer begins with the size of the parameters and ends with sessions.
    pub(crate) fn is_authorized(&self) -> bool {
        !self.rights.is_empty()
    }

    pub(crate) fn startup() -> Self {
        Self::new(CommandCode::Startup, |to| to.u16(SU_CLEAR))
    }

    /// `count` properties from `first` on.
    pub(crate) fn get_properties(first: u32, count: u32) -> Self {
        Self::new(CommandCode::GetCapability, |to| to.u32(CAP_TPM_PROPERTIES).u32(first).u32(count))
    }

    /// Which banks of PCRs there are.
    pub(crate) fn get_pcr_banks() -> Self {
        Self::new(CommandCode::GetCapability, |to| to.u32(CAP_PCRS).u32(0).u32(1))
    }

    pub(crate) fn get_random(count: u16) -> Self {
        Self::new(CommandCode::GetRandom, |to| to.u16(count))
    }

    /// The key that `template` describes, the same at each call.
    pub(crate) fn create_primary(hierarchy: Hierarchy, template: &Public) -> Self {
        Self::new(CommandCode::CreatePrimary, |to| creation(template, to)).using(hierarchy.handle())
    }

    /// A new key under `parent`.
    pub(crate) fn create(parent: u32, template: &Public) -> Self {
        Self::new(CommandCode::Create, |to| creation(template, to)).using(parent)
    }

    pub(crate) fn load(parent: u32, private: &[u8], public: &[u8]) -> Self {
        Self::new(CommandCode::Load, |to| to.sized(private).sized(public)).using(parent)
    }

    pub(crate) fn read_public(handle: u32) -> Self {
        Self::new(CommandCode::ReadPublic, |to| to).of(handle)
    }

    /// The handle is a parameter of this command, not one of its handles.
    pub(crate) fn flush_context(handle: u32) -> Self {
        Self::new(CommandCode::FlushContext, |to| to.u32(handle))
    }

    /// Into the SHA-256 bank alone.
    pub(crate) fn pcr_extend(register: u8, digest: &[u8; 32]) -> Self {
        Self::new(CommandCode::PcrExtend, |to| to.u32(1).u16(HashAlgorithm::Sha256.id()).octets(digest))
            .using(u32::from(register))
    }

    pub(crate) fn pcr_reset(register: u8) -> Self {
        Self::new(CommandCode::PcrReset, |to| to).using(u32::from(register))
    }

    pub(crate) fn pcr_read(selections: &PcrSelections) -> Self {
        Self::new(CommandCode::PcrRead, |to| to.octets(&selections.to_octets()))
    }

    /// Signed by `key` with the scheme that the key itself is bound to.
    pub(crate) fn quote(key: u32, qualifying_data: &[u8], selections: &PcrSelections) -> Self {
        let selections = selections.to_octets();
        Self::new(CommandCode::Quote, |to| to.sized(qualifying_data).u16(ALG_NULL).octets(&selections)).using(key)
    }

    /// The point that the key and the owner of `share` agree on.
    pub(crate) fn agree(key: u32, share: &Point) -> Self {
        let point = octets(|to| to.sized(&share.x).sized(&share.y));
        Self::new(CommandCode::EcdhZGen, |to| to.sized(&point)).using(key)
    }

    /// A policy session that is neither salted nor bound: it authorizes, and hides nothing.
    pub(crate) fn start_policy_session(nonce: &[u8; 16]) -> Self {
        let hash = HashAlgorithm::Sha256.id();
        Self::new(CommandCode::StartAuthSession, |to| to.sized(nonce).sized(&[]).u8(SE_POLICY).u16(ALG_NULL).u16(hash))
            .of(RH_NULL)
            .of(RH_NULL)
    }

    /// Satisfies, in `session`, the policy of the TCG's endorsement keys: whoever may use the endorsement hierarchy may use
    /// them.
    pub(crate) fn policy_secret_of_endorsement(session: u32) -> Self {
        // Neither a nonce, nor parameters, nor a reference that it is bound to; it does not expire.
        Self::new(CommandCode::PolicySecret, |to| to.sized(&[]).sized(&[]).sized(&[]).u32(0))
            .using(RH_ENDORSEMENT)
            .of(session)
    }

    /// `session` has satisfied the policy of `endorsement_key`. Credential and secret are a `TPM2B_ID_OBJECT` and a
    /// `TPM2B_ENCRYPTED_SECRET`, with their sizes.
    pub(crate) fn activate_credential(
        key: u32,
        (endorsement_key, session): (u32, u32),
        credential: &[u8],
        secret: &[u8],
    ) -> Self {
        Self::new(CommandCode::ActivateCredential, |to| to.octets(credential).octets(secret))
            .using(key)
            .of(endorsement_key)
            .by(Right::Policy(session))
    }

    pub(crate) fn nv_read_public(index: u32) -> Self {
        Self::new(CommandCode::NvReadPublic, |to| to).of(index)
    }

    /// By the right of the index itself.
    pub(crate) fn nv_read(index: u32, offset: u16, size: u16) -> Self {
        Self::new(CommandCode::NvRead, |to| to.u16(size).u16(offset)).using(index).of(index)
    }

    /// A place for a certificate, as the TCG's profile of endorsement keys has it: anybody reads it, and nobody writes it
    /// after it was locked.
    pub(crate) fn nv_define_certificate(index: u32, size: u16) -> Self {
        let rights = nv::PP_WRITE | nv::WRITE_DEFINE | nv::PP_READ | nv::OWNER_READ | nv::AUTH_READ;
        let attributes = rights | nv::NO_DA | nv::PLATFORM_CREATE;
        let hash = HashAlgorithm::Sha256.id();
        let public = octets(|to| to.u32(index).u16(hash).u32(attributes).sized(&[]).u16(size));
        Self::new(CommandCode::NvDefineSpace, |to| to.sized(&[]).sized(&public)).using(RH_PLATFORM)
    }

    pub(crate) fn nv_write(index: u32, offset: u16, piece: &[u8]) -> Self {
        Self::new(CommandCode::NvWrite, |to| to.sized(piece).u16(offset)).using(RH_PLATFORM).of(index)
    }

    pub(crate) fn nv_write_lock(index: u32) -> Self {
        Self::new(CommandCode::NvWriteLock, |to| to).using(RH_PLATFORM).of(index)
    }
}

impl Right {
    /// `TPMS_AUTH_COMMAND`: of whose parts all but the handle are empty, for neither kind has a key to compute with.
    fn write(self, to: &mut Writer) -> &mut Writer {
        let handle = match self {
            Self::EmptyPassword => RS_PW,
            Self::Policy(session) => session,
        };
        to.u32(handle).sized(&[]).u8(0).sized(&[])
    }
}

fn octets(write: impl for<'a> FnOnce(&'a mut Writer) -> &'a mut Writer) -> Vec<u8> {
    let mut writer = Writer::default();
    write(&mut writer);
    writer.into_octets()
}

/// How a key is made: with neither authorization value nor data of ours, from `template`, bound neither to outside
/// information nor to registers.
fn creation<'a>(template: &Public, to: &'a mut Writer) -> &'a mut Writer {
    const NOTHING_SENSITIVE: [u8; 4] = [0; 4];
    to.sized(&NOTHING_SENSITIVE).sized(&template.to_octets()).sized(&[]).u32(0)
}

#[cfg(test)]
mod tests {
    use lucarne_attest::wire::PcrSelection;

    use super::*;

    fn hex(octets: &[u8]) -> String {
        octets.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// The octets are those that tpm2-tools send for the same commands.
    #[test]
    fn commands_are_written_as_the_specification_has_them() {
        assert_eq!(hex(&Command::startup().encode()), "80010000000c000001440000");
        assert_eq!(hex(&Command::get_random(8).encode()), "80010000000c0000017b0008");
        assert_eq!(hex(&Command::flush_context(0x8000_0000).encode()), "80010000000e0000016580000000");
        let reset = Command::pcr_reset(23);
        assert_eq!(hex(&reset.encode()), "80020000001b0000013d00000017000000094000000900000000".to_owned() + "00");
        let read = Command::pcr_read(&PcrSelections(vec![PcrSelection::new(HashAlgorithm::Sha256, [0, 23])]));
        assert_eq!(hex(&read.encode()), "8001000000140000017e00000001000b03010080");
    }

    #[test]
    fn a_command_says_its_own_length() {
        let credential = Command::activate_credential(1, (2, 3), &[7; 68], &[9; 70]);
        for command in [Command::startup(), credential, Command::nv_define_certificate(0x01c0_000a, 900)] {
            let octets = command.encode();
            assert_eq!(octets[2..6], (octets.len() as u32).to_be_bytes());
        }
    }
}
