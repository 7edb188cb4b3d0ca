//! What a TPM says when it refuses (`TPM_RC`, Part 2 clause 6.6), in words.
//!
//! Owns the table. A number that is not in it is shown as it came.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

/// A response code other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResponseCode(pub u32);

impl ResponseCode {
    /// The TPM has been started before.
    pub const INITIALIZE: Self = Self(0x100);
    /// It has failed a test of itself and does nothing more.
    pub const FAILURE: Self = Self(0x101);
    const YIELDED: Self = Self(0x908);
    const TESTING: Self = Self(0x90a);
    const RETRY: Self = Self(0x922);

    /// The same command may be accepted a moment later.
    pub fn is_passing(self) -> bool {
        [Self::YIELDED, Self::TESTING, Self::RETRY].contains(&self)
    }

    /// There is nothing under the handle that was given.
    pub fn is_unknown_handle(self) -> bool {
        self.format_one() == Some(0x0b)
    }

    /// The number of an error that speaks of one handle, session or parameter.
    fn format_one(self) -> Option<u32> {
        (self.0 & 0x80 != 0).then_some(self.0 & 0x3f)
    }

    /// What an error of format one speaks of, counted from 1.
    fn subject(self) -> (&'static str, u32) {
        let number = self.0 >> 8 & 0xf;
        match (self.0 & 0x40 != 0, number) {
            (true, _) => ("parameter", number),
            (false, 8..) => ("session", number - 8),
            (false, _) => ("handle", number),
        }
    }

    fn words(self) -> Option<&'static str> {
        if let Some(number) = self.format_one() {
            return look_up(&OF_ONE, number);
        }
        match self.0 & !0x7f {
            0x100 => look_up(&OF_ALL, self.0 & 0x7f),
            0x900 => look_up(&WARNINGS, self.0 & 0x7f),
            _ => None,
        }
    }
}

fn look_up(table: &[(u32, &'static str)], number: u32) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == number).map(|(_, words)| *words)
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (TPM_RC {:#05x}", self.words().unwrap_or("an error that is not in our table"), self.0)?;
        match (self.format_one(), self.subject()) {
            (Some(_), (subject, number @ 1..)) => write!(f, ", {subject} {number})"),
            _ => f.write_str(")"),
        }
    }
}

/// Errors that speak of one handle, session or parameter.
const OF_ONE: [(u32, &str); 35] = [
    (0x01, "the asymmetric algorithm is not supported or not right here"),
    (0x02, "the attributes do not fit"),
    (0x03, "the hash algorithm is not supported or not right here"),
    (0x04, "the value is out of range or not right here"),
    (0x05, "the hierarchy is not enabled or not right here"),
    (0x07, "the key size is not supported"),
    (0x08, "the mask generation function is not supported"),
    (0x09, "the mode of operation is not supported"),
    (0x0a, "the type is not right here"),
    (0x0b, "there is nothing under that handle"),
    (0x0c, "the key derivation function is not supported"),
    (0x0d, "the value was out of its allowed range"),
    (0x0e, "the authorization failed, and was counted against dictionary attacks"),
    (0x0f, "the nonce is not right"),
    (0x10, "it needs the assertion of physical presence"),
    (0x12, "the scheme is not supported or not right here"),
    (0x15, "the structure has the wrong size"),
    (0x16, "the symmetric algorithm is not supported or not right here"),
    (0x17, "the structure tag is not right"),
    (0x18, "the union's selector is not right"),
    (0x1a, "there were too few octets to unmarshal"),
    (0x1b, "the signature is not valid"),
    (0x1c, "the key's fields are not compatible with its use"),
    (0x1d, "a policy check failed"),
    (0x1f, "the integrity check failed"),
    (0x20, "the ticket is not valid"),
    (0x21, "reserved bits are not zero"),
    (0x22, "the authorization failed; the owner of this TPM has set one"),
    (0x23, "the policy has expired"),
    (0x24, "the policy is for another command"),
    (0x25, "the public and private halves do not belong together"),
    (0x26, "the curve is not supported"),
    (0x27, "the point is not on the curve"),
    (0x28, "the firmware's version is not right"),
    (0x29, "the parameter is not valid"),
];

/// Errors that speak of the command or of the whole TPM.
const OF_ALL: [(u32, &str); 33] = [
    (0x00, "the TPM has not been started, or has been already"),
    (0x01, "the TPM is in failure mode"),
    (0x03, "a sequence was used improperly"),
    (0x0b, "the command is private to the vendor"),
    (0x19, "the HMAC was used improperly"),
    (0x20, "the command is disabled"),
    (0x21, "exclusive use was broken by another command"),
    (0x24, "the authorization handle is not right for the command"),
    (0x25, "an authorization is missing"),
    (0x26, "the policy is not right for the operation"),
    (0x27, "the PCR check failed"),
    (0x28, "a PCR has changed since it was checked"),
    (0x2d, "the TPM is being upgraded"),
    (0x2e, "there are too many saved contexts"),
    (0x2f, "the authorization of the object cannot be used"),
    (0x30, "the TPM must be restarted first"),
    (0x31, "the sizes of the hash and the key do not balance"),
    (0x42, "the command's size is not that of its octets"),
    (0x43, "the command is not supported"),
    (0x44, "the size of the authorizations is not right"),
    (0x45, "an authorization is of a kind that may not be here"),
    (0x46, "the NV index is not so large"),
    (0x47, "the NV index would be too large"),
    (0x48, "the NV index is locked"),
    (0x49, "the NV index may not be used with this authorization"),
    (0x4a, "the NV index was never written"),
    (0x4b, "there is no space left in the TPM"),
    (0x4c, "the NV index is there already"),
    (0x50, "the context is not valid"),
    (0x51, "the policy is for other parameters"),
    (0x52, "the parent is not a parent"),
    (0x53, "a test of the function is needed"),
    (0x55, "the sensitive part is not right"),
];

/// Passing conditions.
const WARNINGS: [(u32, &str); 16] = [
    (0x01, "a saved context is too old"),
    (0x02, "the TPM has no memory for another object"),
    (0x03, "the TPM has no memory for another session"),
    (0x04, "the TPM has no memory left"),
    (0x05, "the TPM has no handle for another session"),
    (0x06, "the TPM has no handle for another object"),
    (0x07, "the locality is not right"),
    (0x08, "the TPM suspended the command"),
    (0x09, "the command was cancelled"),
    (0x0a, "the TPM tests itself"),
    (0x10, "the first handle refers to nothing that is loaded"),
    (0x11, "the second handle refers to nothing that is loaded"),
    (0x20, "the TPM protects its NV memory from wear"),
    (0x21, "the TPM is locked out after failed authorizations"),
    (0x22, "the TPM was busy"),
    (0x23, "the TPM's NV memory cannot be used now"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_told_in_words_with_what_it_speaks_of() {
        let told = [
            (0x101, "the TPM is in failure mode (TPM_RC 0x101)"),
            (0x922, "the TPM was busy (TPM_RC 0x922)"),
            (0x1c4, "the value is out of range or not right here (TPM_RC 0x1c4, parameter 1)"),
            (0x99d, "a policy check failed (TPM_RC 0x99d, session 1)"),
            (0x18b, "there is nothing under that handle (TPM_RC 0x18b, handle 1)"),
            (0x08b, "there is nothing under that handle (TPM_RC 0x08b)"),
        ];
        for (code, words) in told {
            assert_eq!(ResponseCode(code).to_string(), words);
        }
        assert!(ResponseCode(0x7_0000).to_string().contains("not in our table"));
    }

    #[test]
    fn each_number_stands_once_in_its_table() {
        for table in [&OF_ONE[..], &OF_ALL, &WARNINGS] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn only_what_passes_by_itself_is_tried_again() {
        assert!(ResponseCode(0x922).is_passing());
        assert!(!ResponseCode::FAILURE.is_passing());
        assert!(!ResponseCode(0x921).is_passing());
    }
}
