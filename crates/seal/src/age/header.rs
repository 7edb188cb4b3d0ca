//! The head of an age file: the file's key, wrapped for each recipient, under a code that only who unwraps it can make.
//!
//! Owns writing it, reading it strictly, and unwrapping. The chunks behind it are [`stream`](super::stream)'s.

use base64::{
    Engine as _, alphabet,
    engine::general_purpose::{GeneralPurpose, NO_PAD},
};
use ring::{aead, hmac};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{AgeError, Identity, Recipient, Seed, cipher, derive};

const INTRODUCTION: &str = "age-encryption.org/v1";
const STANZA: &str = "-> ";
const CODE: &str = "--- ";
const X25519: &str = "X25519";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD);
/// Characters of a stanza's body in a line that is not its last.
const LINE: usize = 64;
const TAG: usize = 16;
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
struct Stanza {
    arguments: Vec<String>,
    body: Vec<u8>,
}

impl Header {
    /// A header for these recipients, and the key of its file.
    pub(super) fn make(seed: &Seed, recipients: &[Recipient]) -> Result<(Self, FileKey), AgeError> {
        if !(1..=MOST_RECIPIENTS).contains(&recipients.len()) {
            return Err(AgeError::Recipients);
        }
        let key: FileKey = seed.derive("file key");
        let stanzas = recipients.iter().enumerate().map(|(at, recipient)| {
            let ephemeral = StaticSecret::from(seed.derive::<32>(&format!("ephemeral {at}")));
            wrap(&key, &ephemeral, recipient)
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
        let [kind, share] = self.arguments.as_slice() else {
            let malformed = self.arguments.first().is_some_and(|kind| kind == X25519);
            return if malformed { Err(AgeError::Malformed("the arguments of a recipient")) } else { Ok(None) };
        };
        if kind != X25519 {
            return Ok(None);
        }
        let share: [u8; 32] = BASE64
            .decode(share)
            .ok()
            .and_then(|share| share.try_into().ok())
            .ok_or(AgeError::Malformed("the share of a recipient"))?;
        let mut body: [u8; 16 + TAG] =
            self.body.as_slice().try_into().map_err(|_| AgeError::Malformed("the body of a recipient"))?;
        let wrapping = wrapping_key(&identity.0, share, share, identity.recipient().0)?;
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        let opened = cipher(&wrapping)?.open_in_place(nonce, aead::Aad::empty(), &mut body);
        Ok(opened.ok().and_then(|key| FileKey::try_from(&*key).ok()))
    }
}

fn wrap(key: &FileKey, ephemeral: &StaticSecret, recipient: &Recipient) -> Result<Stanza, AgeError> {
    let share = PublicKey::from(ephemeral).to_bytes();
    let wrapping = wrapping_key(ephemeral, recipient.0, share, recipient.0)?;
    let mut body = key.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    let sealed = cipher(&wrapping)?.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut body);
    sealed.map_err(|_| AgeError::WeakRecipient)?;
    Ok(Stanza { arguments: vec![X25519.to_owned(), BASE64.encode(share)], body })
}

fn wrapping_key(
    own: &StaticSecret,
    other: [u8; 32],
    share: [u8; 32],
    recipient: [u8; 32],
) -> Result<[u8; 32], AgeError> {
    let shared = own.diffie_hellman(&PublicKey::from(other));
    if !shared.was_contributory() {
        return Err(AgeError::WeakRecipient);
    }
    Ok(derive(shared.as_bytes(), &[share, recipient].concat(), X25519_INFO))
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
