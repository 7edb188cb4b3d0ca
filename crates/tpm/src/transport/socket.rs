//! A TPM behind a stream socket, as swtpm's data channel is.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use super::{Transport, invalid, too_late};
use crate::answer::{self, HEADER};

#[derive(Debug)]
pub(crate) struct Socket(UnixStream);

impl Socket {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    fn read(&mut self, into: &mut [u8], until: Instant) -> io::Result<()> {
        let mut have = 0;
        while have < into.len() {
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            self.0.set_read_timeout(Some(left.ok_or_else(too_late)?))?;
            match self.0.read(&mut into[have..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(read) => have += read,
                Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Transport for Socket {
    fn exchange(&mut self, command: &[u8], within: Duration) -> io::Result<Vec<u8>> {
        let until = Instant::now() + within;
        self.0.set_write_timeout(Some(within))?;
        self.0.write_all(command)?;
        let mut header = [0; HEADER];
        self.read(&mut header, until)?;
        let mut answer = vec![0; answer::length(header).map_err(invalid)?];
        answer[..HEADER].copy_from_slice(&header);
        self.read(&mut answer[HEADER..], until)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const ANSWER: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 7, 8];

    /// What comes of an exchange with a peer that answers `octets` and then hangs up.
    fn answered_with(octets: &[u8]) -> io::Result<Vec<u8>> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                theirs.read_exact(&mut [0; 3]).unwrap();
                theirs.write_all(octets).unwrap();
            });
            Socket::new(ours).exchange(&[1, 2, 3], PATIENCE)
        })
    }

    #[test]
    fn an_answer_is_read_to_the_length_that_it_says() {
        assert_eq!(answered_with(&ANSWER).unwrap(), ANSWER);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_peer_that_goes_within_an_answer_is_an_error_and_no_wait(cut in 0..ANSWER.len()) {
            let error = answered_with(&ANSWER[..cut]).unwrap_err();
            prop_assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
        }
    }

    #[test]
    fn a_peer_that_says_nothing_is_not_waited_for_longer_than_was_said() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = Socket::new(ours).exchange(&[1, 2, 3], Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_answer_that_says_an_impossible_length_is_refused() {
        let error = answered_with(&[0xff; 12]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
