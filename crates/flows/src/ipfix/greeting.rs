//! How an exporter and our collector open a connection, so that no record is lost or kept twice.
//!
//! Owns the greeting's text and the rules of the exchange:
//!
//! 1. The exporter sends one line: `lucarne-ipfix/1 TOKEN SESSION FIRST`. SESSION (16 hexadecimal digits) is drawn at
//!    random when the exporter's process starts and numbers its records from 0; FIRST (decimal) is the number of the
//!    oldest record that it still has.
//! 2. The collector answers with 8 octets, big-endian: NEXT, the number of the record that it wants first. All below it
//!    are on its disk, or were given up by the exporter.
//! 3. The exporter sends IPFIX messages, templates first as on any new session. The first flow record on the connection
//!    has the number NEXT, each following the next; records of templates and options have none.
//! 4. Whenever it has brought records to its disk the collector writes the new NEXT, again 8 octets. The exporter drops
//!    what is below. A connection that breaks is opened again with the same SESSION.
//!
//! A wrong line closes the connection without an answer. The line has no secret but the token, and both sides are on
//! one machine or behind the hosts' tunnel.

use std::fmt;

/// The first line on a connection to the collector.
#[derive(Clone, PartialEq, Eq)]
pub struct Greeting {
    pub token: String,
    pub session: u64,
    pub first: u64,
}

/// Why a line is not a greeting. It does not repeat the line, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is not `{PROTOCOL} TOKEN SESSION FIRST`")]
pub struct GreetingError;

const PROTOCOL: &str = "lucarne-ipfix/1";

impl Greeting {
    /// Octets of the longest line that a collector reads, its end included.
    pub const MAX_LENGTH: usize = 512;

    /// The line, its end included.
    pub fn to_line(&self) -> String {
        format!("{PROTOCOL} {} {:016x} {}\n", self.token, self.session, self.first)
    }

    /// Reads a line without its end.
    pub fn parse(line: &str) -> Result<Self, GreetingError> {
        let mut words = line.split(' ');
        let mut word = || words.next().filter(|word| !word.is_empty()).ok_or(GreetingError);
        if word()? != PROTOCOL {
            return Err(GreetingError);
        }
        let token = word()?.to_owned();
        let session = Some(word()?).filter(|hex| hex.len() == 16).ok_or(GreetingError)?;
        let session = u64::from_str_radix(session, 16).map_err(|_| GreetingError)?;
        let first = word()?.parse().map_err(|_| GreetingError)?;
        if words.next().is_some() { Err(GreetingError) } else { Ok(Self { token, session, first }) }
    }
}

impl fmt::Debug for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Greeting {{ session: {:016x}, first: {} }}", self.session, self.first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_greeting_reads_back_as_written(token in "[!-~]{1,64}", session: u64, first: u64) {
            let greeting = Greeting { token, session, first };
            prop_assert_eq!(Greeting::parse(greeting.to_line().trim_end()), Ok(greeting));
        }
        #[test]
        fn no_line_makes_the_parser_panic(line: String) { let _ = Greeting::parse(&line); }
    }

    #[test]
    fn an_unfinished_or_longer_line_is_refused() {
        for line in [
            "",
            "lucarne-ipfix/1 t 0000000000000001",
            "lucarne-ipfix/1 t 1 0",
            "lucarne-ipfix/2 t 0000000000000001 0",
            "lucarne-ipfix/1 t 0000000000000001 0 x",
            "lucarne-ipfix/1  0000000000000001 0",
        ] {
            assert_eq!(Greeting::parse(line), Err(GreetingError), "{line}");
        }
    }

    #[test]
    fn the_token_is_not_printed() {
        let greeting = Greeting { token: "hush".into(), session: 1, first: 0 };
        assert!(!format!("{greeting:?}").contains("hush"));
    }
}
