//! How an exporter of ours and the collector begin a connection, so that no record is lost or kept twice.
//!
//! Owns the greeting's text and the rules of the exchange, which runs inside TLS: the exporter's certificate names its
//! host, and whatever speaks of another host ends the connection.
//!
//! 1. The exporter sends one line: `lucarne-ipfix/2 SESSION`. SESSION (16 hexadecimal digits) is drawn at random when the
//!    exporter's spool is made, is told to nobody else, and numbers what goes through that spool from 0: flow records and
//!    losses in one row, within a message first the records, then the losses.
//! 2. The collector answers with 8 octets, big-endian: NEXT, the number that it wants first. All below are on its disk, or
//!    were given up by the exporter.
//! 3. The exporter answers with 8 octets: START, the number of the first record that it is about to send. One below NEXT
//!    repeats some, which the collector leaves out; one above NEXT gives up those between.
//! 4. The exporter sends IPFIX messages, templates first as on any new session, in the order of their numbers.
//! 5. Whenever it has brought records to its disk the collector writes the new NEXT, again 8 octets. The exporter may
//!    forget what is below. A connection that breaks is opened again with the same SESSION.
//!
//! Whatever is not as described here ends the connection without an answer.

/// The first line on a connection to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub session: u64,
}

/// Why a line is not a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is not `{PROTOCOL} SESSION`")]
pub struct GreetingError;

const PROTOCOL: &str = "lucarne-ipfix/2";

impl Greeting {
    /// Octets of the longest line that a collector reads, its end included.
    pub const MAX_LENGTH: usize = 64;

    /// The line, its end included.
    pub fn to_line(self) -> String {
        format!("{PROTOCOL} {:016x}\n", self.session)
    }

    /// Reads a line without its end.
    pub fn parse(line: &str) -> Result<Self, GreetingError> {
        let session = line.strip_prefix(PROTOCOL).and_then(|rest| rest.strip_prefix(' ')).ok_or(GreetingError)?;
        let digits = session.len() == 16 && session.bytes().all(|digit| digit.is_ascii_hexdigit());
        let session = u64::from_str_radix(session, 16).ok().filter(|_| digits).ok_or(GreetingError)?;
        Ok(Self { session })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_greeting_reads_back_as_written(session: u64) {
            let line = Greeting { session }.to_line();
            prop_assert!(line.len() <= Greeting::MAX_LENGTH);
            prop_assert_eq!(Greeting::parse(line.trim_end()), Ok(Greeting { session }));
        }
        #[test]
        fn no_line_makes_the_parser_panic(line: String) { let _ = Greeting::parse(&line); }
    }

    #[test]
    fn an_unfinished_or_longer_line_is_refused() {
        for line in [
            "",
            "lucarne-ipfix/2",
            "lucarne-ipfix/2 1",
            "lucarne-ipfix/1 0000000000000001",
            "lucarne-ipfix/2 +000000000000001",
            "lucarne-ipfix/2 0000000000000001 0",
            "lucarne-ipfix/2  0000000000000001",
        ] {
            assert_eq!(Greeting::parse(line), Err(GreetingError), "{line}");
        }
    }
}
