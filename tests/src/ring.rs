//! A ring of guests that pass numbered tokens and balances on, and the judging of what its machines say.
//!
//! Owns the user-data that starts `guests/ring.rs`, whose header tells the rules, and the check that nothing was lost, doubled or
//! invented.

use anyhow::{Context, ensure};

use crate::{api::Api, guest_program};

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ring"));
/// Tokens that go round at the same time.
const TOKENS: u64 = 8;
/// What each machine has in the beginning.
const BALANCE: u64 = 1_000_000;

/// The address of a machine of the ring.
pub fn address(index: usize) -> String {
    format!("10.0.1.{}", 10 + index)
}

/// What starts a machine of the ring.
pub fn user_data(index: usize, nodes: usize) -> String {
    let program = guest_program::placed(PROGRAM, "/run/ring");
    format!("#!/bin/sh\n{program}/run/ring {index} {nodes} {TOKENS} > /dev/console 2>&1 &\n")
}

/// How many times stock was taken, by the last line that tells of it; none if nothing was told yet. An error if a machine ever saw what
/// could not be, or a stock was not whole. `machines` are the ring's, in order.
pub fn stocks(api: &Api, machines: &[String]) -> anyhow::Result<Option<u64>> {
    let mut last = None;
    for (index, machine) in machines.iter().enumerate() {
        let log = api.log(machine)?;
        let told = judge(&log, machines.len() as u64).with_context(|| format!("machine {index} says:\n{log}"))?;
        last = if index == 0 { told } else { last };
    }
    Ok(last)
}

fn judge(log: &str, nodes: u64) -> anyhow::Result<Option<u64>> {
    let whole =
        format!(" tokens {} sum {}", (1..=TOKENS).fold(0, |mask, token| mask | 1_u64 << token), nodes * BALANCE);
    let mut last = None;
    // A line of another program may begin where ours does not, and what the console forgot begins in the middle of one.
    let lines = log.split("ring: ").skip(1).filter_map(|said| said.split_once('\n')).map(|(line, _)| line.trim_end());
    for line in lines {
        ensure!(!line.starts_with("WRONG"), "{line}");
        let Some((number, told)) = line.strip_prefix("stock ").and_then(|told| told.split_once(' ')) else { continue };
        ensure!(told == whole.trim_start(), "stock {number} was {told}, and is to be {whole}");
        let number: u64 = number.parse().context("a stock has a number")?;
        ensure!(last.is_none_or(|last| last < number), "stock {number} came after {last:?}");
        last = Some(number);
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_whole_when_every_token_was_seen_once_and_nothing_of_the_balances_is_missing() {
        let whole =
            "login\r\nring: stock 0 tokens 510 sum 4000000\r\nring: stock 32 tokens 510 sum 4000000\r\nring: st";
        assert_eq!(judge(whole, 4).unwrap(), Some(32));
        assert_eq!(judge("", 4).unwrap(), None);
        for wrong in [
            "ring: stock 3 tokens 508 sum 4000000\r\n",
            "ring: stock 3 tokens 510 sum 3999999\r\n",
            "ring: WRONG token 3 hop 12 after 9\r\n",
            "ring: stock 3 tokens 510 sum 4000000\r\nring: stock 3 tokens 510 sum 4000000\r\n",
        ] {
            assert!(judge(wrong, 4).is_err(), "{wrong}");
        }
    }
}
