//! NTP (RFC 5905) as the switch speaks it: the clock of a guest's own network, at one address on every link.
//!
//! Owns the decision what to answer, and the answer. The time is that of the host, less what the network's clock lies behind it: a
//! duplicate may be told a clock that went on at its cut. How well the host's own clock is kept is not known here, so that the answer
//! claims no source: a guest that has a better one prefers it. A request is answered with as many octets as it needs at least and with
//! nothing of others, so that there is nothing to amplify.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{net::Ipv4Addr, time::Duration};

use lucarne_flows::FlowKey;
use lucarne_model::{Moment, security_group::UDP};

use crate::parse::Headers;

/// Where the clock is on every link, as in EC2.
pub(crate) const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 123);
pub(crate) const PORT: u16 = 123;
/// A header without extensions (RFC 5905 section 7.3).
const HEADER: usize = 48;
const CLIENT: u8 = 3;
const SERVER: u8 = 4;
/// Versions whose header is this one.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=4;
/// Of a clock that follows no other: below all that follow one, above those that are not kept at all (16).
const STRATUM: u8 = 10;
/// A reading is good to 2^-20 s, a microsecond.
const PRECISION: i8 = -20;
/// How far the time may be off, in units of 2^-16 s: 10 ms.
const DISPERSION: u32 = 655;
/// That the clock is a machine's own, as `ntpd` and `chrony` say it.
const OWN_CLOCK: [u8; 4] = [127, 127, 1, 1];
/// From 1900, where NTP's first era begins, to 1970.
const EPOCH: u64 = 2_208_988_800;

/// Whether a guest's packet asks a clock, if it goes to one.
pub(crate) const fn is_question(headers: &Headers) -> bool {
    headers.protocol == UDP && headers.destination_port == PORT && !headers.fragment
}

/// Whether the flow has NTP's port.
pub(crate) const fn is_exchange(key: FlowKey) -> bool {
    key.protocol() == UDP && key.remote_port() == PORT
}

/// What answers a guest's request that came `now`, if it needs an answer.
pub(crate) fn answer(request: &[u8], now: Moment, behind: Duration) -> Option<[u8; HEADER]> {
    let request: &[u8; HEADER] = request.first_chunk()?;
    let (version, mode) = ((request[0] >> 3) & 7, request[0] & 7);
    if mode != CLIENT || !VERSIONS.contains(&version) {
        return None;
    }
    let time = timestamp(now.minus(behind));
    let mut answer = [0; HEADER];
    answer[..4].copy_from_slice(&[(version << 3) | SERVER, STRATUM, request[2], PRECISION.to_be_bytes()[0]]);
    answer[8..12].copy_from_slice(&DISPERSION.to_be_bytes());
    answer[12..16].copy_from_slice(&OWN_CLOCK);
    // Set last, the request's transmission, its arrival, and the answer's transmission.
    answer[16..24].copy_from_slice(&time);
    answer[24..32].copy_from_slice(&request[40..]);
    answer[32..40].copy_from_slice(&time);
    answer[40..].copy_from_slice(&time);
    Some(answer)
}

/// Seconds of the era, and the fraction of one in units of 2^-32.
fn timestamp(moment: Moment) -> [u8; 8] {
    let (seconds, micros) = (moment.as_secs() + EPOCH, moment.as_micros() % 1_000_000);
    // Eras follow each other every 136 years; a client knows in which it is (RFC 5905 section 6).
    let since = ((seconds & u64::from(u32::MAX)) << 32) | ((micros << 32) / 1_000_000);
    since.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-31 12:00:00.250 UTC.
    const NOW: Moment = Moment(1_769_860_800_250_000);

    fn request(version: u8, mode: u8) -> [u8; HEADER] {
        let mut request = [0; HEADER];
        request[0] = (version << 3) | mode;
        request[2] = 6;
        request[40..].copy_from_slice(b"sent-now");
        request
    }

    fn seconds(answer: &[u8; HEADER], at: usize) -> f64 {
        let word = |at: usize| f64::from(u32::from_be_bytes(answer[at..at + 4].try_into().unwrap()));
        word(at) - 2_208_988_800.0 + word(at + 4) / 4_294_967_296.0
    }

    #[test]
    fn a_client_is_told_the_time_of_its_network() {
        let told = answer(&request(4, CLIENT), NOW, Duration::ZERO).unwrap();
        assert_eq!(told[0], (4 << 3) | SERVER, "no leap second, the client's version, from a server");
        assert_eq!((told[1], told[2]), (10, 6), "its stratum, and how often the client asks");
        assert_eq!(told[24..32], *b"sent-now", "by which the client knows its request");
        for at in [16, 32, 40] {
            assert!((seconds(&told, at) - 1_769_860_800.25).abs() < 1e-5, "{}", seconds(&told, at));
        }
        let behind = answer(&request(3, CLIENT), NOW, Duration::from_millis(1250)).unwrap();
        assert_eq!(behind[0] >> 3, 3);
        assert!((seconds(&behind, 40) - 1_769_860_799.0).abs() < 1e-5);
    }

    #[test]
    fn what_is_no_request_has_no_answer() {
        for mode in (0..8).filter(|mode| *mode != CLIENT) {
            assert_eq!(answer(&request(4, mode), NOW, Duration::ZERO), None, "mode {mode}");
        }
        for version in [0, 5, 7] {
            assert_eq!(answer(&request(version, CLIENT), NOW, Duration::ZERO), None, "version {version}");
        }
        assert_eq!(answer(&request(4, CLIENT)[..47], NOW, Duration::ZERO), None, "cut short");
    }

    proptest! {
        #[test]
        fn later_is_later_within_an_era(micros in 0u64..2_000_000_000_000_000, more in 1u64..1_000_000_000) {
            let early = u64::from_be_bytes(timestamp(Moment(micros)));
            let late = u64::from_be_bytes(timestamp(Moment(micros + more)));
            let apart = (u128::from(late - early) * 1_000_000) >> 32;
            prop_assert!(apart.abs_diff(more.into()) <= 1, "{apart} for {more}");
        }
    }
}
