//! What the switch changes in a frame that it gives on: link addresses, the time to live, an echo turned around.
//!
//! Owns the octets' places and the checksums that follow from a change. Whether and how a frame goes on is decided by the
//! callers; all frames here have passed [`parse`](crate::parse::parse).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::parse::{ETHERNET, Headers, word};

/// Writes both link addresses.
#[inline]
pub(crate) fn address(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
}

/// Takes one from the time to live, as a router does; the caller has seen that it is above 1.
#[inline]
pub(crate) fn decrement_ttl(frame: &mut [u8]) {
    let ttl = ETHERNET + 8;
    frame[ttl] -= 1;
    // The word of TTL and protocol has become smaller by this.
    shrink(frame, ETHERNET + 10, 0x0100);
}

/// Makes the reply of an echo request, in place: ends exchanged, a new time to live, type 0.
pub(crate) fn turn_echo(frame: &mut [u8], headers: &Headers, destination: [u8; 6], source: [u8; 6]) {
    address(frame, destination, source);
    let (ip, icmp) = (ETHERNET, headers.transport());
    for octet in 12..16 {
        frame.swap(ip + octet, ip + octet + 4);
    }
    let ttl = frame[ip + 8];
    frame[ip + 8] = 64;
    match 64u8.checked_sub(ttl) {
        Some(grown) => shrink(frame, ip + 10, !(u16::from(grown) << 8)),
        None => shrink(frame, ip + 10, u16::from(ttl - 64) << 8),
    }
    frame[icmp] = 0;
    shrink(frame, icmp + 2, 0x0800);
}

/// Updates the checksum at `at` for a word that has become smaller by `difference` (RFC 1624, equation 3: the sum of the
/// words falls by it, so its complement rises).
fn shrink(frame: &mut [u8], at: usize, difference: u16) {
    let (sum, carry) = word(frame, at).overflowing_add(difference);
    frame[at..at + 2].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use lucarne_flows::Packet;
    use proptest::prelude::*;

    use super::*;
    use crate::parse::checksum;

    fn whole(mut header: [u8; 20]) -> Vec<u8> {
        (header[10], header[11]) = (0, 0);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&[0; ETHERNET][..], &header].concat()
    }

    proptest! {
        #[test]
        fn a_header_with_a_smaller_ttl_is_whole(header: [u8; 20]) {
            prop_assume!(header[8] > 1);
            let mut frame = whole(header);
            decrement_ttl(&mut frame);
            prop_assert_eq!(frame[ETHERNET + 8], header[8] - 1);
            prop_assert_eq!(checksum(&frame[ETHERNET..]), 0);
        }

        #[test]
        fn a_turned_echo_is_whole(header: [u8; 20], mut icmp: [u8; 16]) {
            (icmp[0], icmp[1], icmp[2], icmp[3]) = (8, 0, 0, 0);
            let sum = checksum(&icmp).to_be_bytes();
            icmp[2..4].copy_from_slice(&sum);
            let mut frame = [whole(header), icmp.to_vec()].concat();
            let packet = Packet { bytes: 36, ..Packet::default() };
            let headers = Headers { header_length: 20, packet, ..Headers::default() };
            turn_echo(&mut frame, &headers, [1; 6], [2; 6]);
            prop_assert_eq!(checksum(&frame[ETHERNET..ETHERNET + 20]), 0);
            prop_assert_eq!(checksum(&frame[ETHERNET + 20..]), 0);
            prop_assert_eq!(&frame[ETHERNET + 12..ETHERNET + 16], &header[16..20]);
        }
    }
}
