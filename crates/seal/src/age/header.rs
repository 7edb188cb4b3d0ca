//! The head of an age file: the file's key, wrapped for each recipient, under a code that only who unwraps it can make.
//!
//! Owns writing it, reading it strictly, and unwrapping. The chunks behind it are [`stream`](super::stream)'s.

use base64::{
    Engine as _, alphabet,
    engine::general_purpose::{GeneralPurpose, NO_PAD},
};
use ring::hmac;
use x25519_dalek::StaticSecret;

use super::{AgeError, Identity, Recipient, Seed, derive, p256, x25519};

const INTRODUCTION: &str = "age-encryption.org/v1";
const STANZA: &str = "-> ";
const CODE: &str = "--- ";
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD);
/// Characters of a stanza's body in a line that is not its last.
const LINE: usize = 64;
/// What a sealed key is longer for being sealed.
pub(super) const TAG: usize = 16;
pub const MOST_RECIPIENTS: usize = 16;
/// More than a header with that many recipients has, of any kind that fits on a line.
pub const MOST_OCTETS: usize = 32 << 10;

/// The key of one file.
pub(super) type FileKey = [u8; 16];

/// A header that was read or made.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    stanzas: Vec<Stanza>,
    code: [u8; 32],
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stanzas.iter().map(|stanza| &stanza.arguments)).finish()
    }
}

/// The file's key in one wrapping, of a kind that need not be known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stanza {
    pub(super) arguments: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Header {
    /// A header for these recipients, and the key of its file.
    pub(super) fn make(seed: &Seed, recipients: &[Recipient]) -> Result<(Self, FileKey), AgeError> {
        if !(1..=MOST_RECIPIENTS).contains(&recipients.len()) {
            return Err(AgeError::Recipients);
        }
        let key: FileKey = seed.derive("file key");
        let stanzas = recipients.iter().enumerate().map(|(at, recipient)| {
            let purpose = format!("ephemeral {at}");
            match recipient {
                Recipient::X25519(public) => x25519::wrap(&key, &StaticSecret::from(seed.derive(&purpose)), *public),
                Recipient::P256(point) => p256::wrap(&key, &p256::ephemeral(seed, &purpose)?, point),
            }
        });
        let mut header = Self { stanzas: stanzas.collect::<Result<_, _>>()?, code: [0; 32] };
        let code = hmac::sign(&code_key(&key), header.authenticated().as_bytes());
        header.code.copy_from_slice(code.as_ref());
        Ok((header, key))
    }

    pub fn to_octets(&self) -> Vec<u8> {
        format!("{} {}\n", self.authenticated(), BASE64.encode(self.code)).into_bytes()
    }

    /// Reads the header at the beginning of `octets`; also says how long it is.
    pub fn read(octets: &[u8]) -> Result<(Self, usize), AgeError> {
        let mut lines = Lines { octets: octets.get(..MOST_OCTETS).unwrap_or(octets), at: 0 };
        if lines.next()? != INTRODUCTION {
            return Err(AgeError::Malformed("the first line"));
        }
        let mut stanzas = Vec::new();
        loop {
            let line = lines.next()?;
            if let Some(code) = line.strip_prefix(CODE) {
                let code = BASE64.decode(code).ok().and_then(|code| code.try_into().ok());
                let code = code.ok_or(AgeError::Malformed("the code of the header"))?;
                if stanzas.is_empty() {
                    return Err(AgeError::Malformed("no recipient"));
                }
                return Ok((Self { stanzas, code }, lines.at));
            }
            stanzas.push(Stanza::read(line, &mut lines)?);
        }
    }

    /// The key of the file, if one of its wrappings is for this identity and nobody changed the header.
    pub(super) fn unwrap(&self, identity: &Identity) -> Result<FileKey, AgeError> {
        let mut found = None;
        for stanza in &self.stanzas {
            found = found.or(stanza.unwrap(identity)?);
        }
        let key = found.ok_or(AgeError::NotForYou)?;
        let sound = hmac::verify(&code_key(&key), self.authenticated().as_bytes(), &self.code);
        sound.map(|()| key).map_err(|_| AgeError::HeaderChanged)
    }

    /// All that the code is over.
    fn authenticated(&self) -> String {
        let stanzas: String = self.stanzas.iter().map(Stanza::to_text).collect();
        format!("{INTRODUCTION}\n{stanzas}---")
    }
}

impl Stanza {
    fn to_text(&self) -> String {
        let body = BASE64.encode(&self.body);
        let mut text = format!("{STANZA}{}\n", self.arguments.join(" "));
        // The last line is always shorter than the others, if need be empty.
        let whole = body.len() / LINE * LINE;
        body.as_bytes()[..whole].chunks(LINE).for_each(|line| {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        });
        text.push_str(&body[whole..]);
        text.push('\n');
        text
    }

    fn read(first: &str, lines: &mut Lines<'_>) -> Result<Self, AgeError> {
        let arguments = first.strip_prefix(STANZA).ok_or(AgeError::Malformed("a line of the header"))?;
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let visible = |argument: &String| !argument.is_empty() && argument.bytes().all(|c| c.is_ascii_graphic());
        if !arguments.iter().all(visible) {
            return Err(AgeError::Malformed("the arguments of a recipient"));
        }
        let mut body = String::new();
        loop {
            let line = lines.next()?;
            body.push_str(line);
            match line.len() {
                LINE => {}
                0..LINE => break,
                _ => return Err(AgeError::Malformed("a long line")),
            }
        }
        let body = BASE64.decode(body).map_err(|_| AgeError::Malformed("the body of a recipient"))?;
        Ok(Self { arguments, body })
    }

    /// None, where this wrapping is for somebody else.
    fn unwrap(&self, identity: &Identity) -> Result<Option<FileKey>, AgeError> {
        let (kind, arguments) = self.arguments.split_first().ok_or(AgeError::Malformed("a recipient"))?;
        match (identity, kind.as_str()) {
            (Identity::X25519(secret), x25519::KIND) => x25519::unwrap(arguments, &self.body, secret),
            (Identity::P256(secret), p256::KIND) => p256::unwrap(arguments, &self.body, &**secret),
            _ => Ok(None),
        }
    }
}

/// As age writes octets: without padding.
pub(super) fn to_base64(octets: &[u8]) -> String {
    BASE64.encode(octets)
}
pub(super) fn of_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

fn code_key(key: &FileKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &derive::<32>(key, &[], b"header"))
}

/// Lines that end with a line feed.
struct Lines<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, AgeError> {
        let rest = self.octets.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|octet| *octet == b'\n').ok_or(AgeError::Truncated)?;
        self.at += end + 1;
        let line = rest.get(..end).and_then(|line| std::str::from_utf8(line).ok());
        line.filter(|line| !line.contains('\r')).ok_or(AgeError::Malformed("a line that is no text"))
    }
}
