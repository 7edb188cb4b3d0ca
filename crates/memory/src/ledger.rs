//! The append-only ledger of usage: the sums are what its lines say, and nothing else.
//!
//! Owns the form of a line, what makes one good, and which entries are refused. Writing lines to a file, and syncing it
//! before a host is told that its entries were taken, is the caller's.
//!
//! A line is `checksum sequence entry`: eight hexadecimal digits, a decimal number, an [`Entry`] as JSON. The checksum
//! (CRC-32) is over the checksum of the line before and the rest of this one, so that a line that was changed, left out,
//! put elsewhere or written twice breaks the chain. A last line that is not whole was torn by a crash: nobody was told
//! that it counts, and it is cut off.

use std::collections::BTreeMap;

use lucarne_model::{AccountId, HostId, InstanceId, Moment};

use crate::usage::{Charge, Entry, Usage};

/// What the lines so far come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Of the last line.
    checksum: u32,
    lines: u64,
    last_numbers: BTreeMap<HostId, u64>,
    last_moves: BTreeMap<InstanceId, Moment>,
    accounts: BTreeMap<AccountId, BTreeMap<InstanceId, Usage>>,
}

/// An entry that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{host} has told entry {number} before; the last one taken is {last}")]
    Duplicate { host: HostId, number: u64, last: u64 },
}

/// A ledger that cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "line {line} is not as it was written: bring the file back from a copy, or accept the {good} lines before it"
    )]
    Broken { line: u64, good: u64 },
    #[error("line {line} has a good checksum and is no entry: it was written by a later version")]
    Unknown {
        line: u64,
        #[source]
        cause: serde_json::Error,
    },
    #[error("line {line} is good but was taken twice")]
    TakenTwice {
        line: u64,
        #[source]
        cause: Refusal,
    },
}

impl Ledger {
    /// Takes an entry and returns the line to append.
    pub fn append(&mut self, entry: &Entry) -> Result<String, Refusal> {
        self.check(entry)?;
        let rest = format!("{} {}", self.lines, json_of(entry));
        let line = format!("{:08x} {rest}\n", chained(self.checksum, rest.as_bytes()));
        self.take(entry, chained(self.checksum, rest.as_bytes()));
        Ok(line)
    }

    /// Reads a ledger's file, and says how many of its octets are good. What is behind them was torn and is to be cut off
    /// before the next line is appended.
    pub fn replay(file: &[u8]) -> Result<(Self, usize), LedgerError> {
        let (mut ledger, mut good) = (Self::default(), 0);
        while let Some(length) = file[good..].iter().position(|octet| *octet == b'\n') {
            let line = &file[good..good + length];
            match ledger.parse(line)? {
                Some((entry, checksum)) => ledger.take_again(&entry, checksum)?,
                // A crash may leave a last line with its end and without its middle.
                None if good + length + 1 == file.len() => break,
                None => return Err(LedgerError::Broken { line: ledger.lines + 1, good: ledger.lines }),
            }
            good += length + 1;
        }
        Ok((ledger, good))
    }

    /// Lines so far.
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// The last number that a host has told: it may forget what it has up to there.
    pub fn last_number(&self, host: HostId) -> Option<u64> {
        self.last_numbers.get(&host).copied()
    }

    /// When the instance's last move was that is charged: an earlier one is too, for they are charged in their order.
    pub fn last_move(&self, instance: InstanceId) -> Option<Moment> {
        self.last_moves.get(&instance).copied()
    }

    /// What an account used, by instance; those that are gone too.
    pub fn usage(&self, account: AccountId) -> impl Iterator<Item = (InstanceId, &Usage)> {
        self.accounts.get(&account).into_iter().flatten().map(|(instance, usage)| (*instance, usage))
    }

    pub fn accounts(&self) -> impl Iterator<Item = AccountId> {
        self.accounts.keys().copied()
    }

    fn check(&self, entry: &Entry) -> Result<(), Refusal> {
        let (host, number) = (entry.host, entry.number);
        match self.last_numbers.get(&host) {
            Some(last) if number <= *last => Err(Refusal::Duplicate { host, number, last: *last }),
            _ => Ok(()),
        }
    }

    fn take(&mut self, entry: &Entry, checksum: u32) {
        self.checksum = checksum;
        self.lines += 1;
        self.last_numbers.insert(entry.host, entry.number);
        if matches!(entry.charge, Charge::Moved { .. }) {
            self.last_moves.insert(entry.instance, entry.at);
        }
        self.accounts.entry(entry.account).or_default().entry(entry.instance).or_default().add(&entry.charge);
    }

    fn take_again(&mut self, entry: &Entry, checksum: u32) -> Result<(), LedgerError> {
        self.check(entry).map_err(|cause| LedgerError::TakenTwice { line: self.lines + 1, cause })?;
        self.take(entry, checksum);
        Ok(())
    }

    /// The entry of a line that follows the last one; None when it does not.
    fn parse(&self, line: &[u8]) -> Result<Option<(Entry, u32)>, LedgerError> {
        let Some((checksum, rest)) = line.split_at_checked(9) else { return Ok(None) };
        let expected = chained(self.checksum, rest);
        if checksum != format!("{expected:08x} ").as_bytes() {
            return Ok(None);
        }
        let prefix = format!("{} ", self.lines);
        let Some(json) = rest.strip_prefix(prefix.as_bytes()) else { return Ok(None) };
        let unknown = |cause| LedgerError::Unknown { line: self.lines + 1, cause };
        Ok(Some((serde_json::from_slice(json).map_err(unknown)?, expected)))
    }
}

/// The entries of a ledger's file, oldest first; of its good lines alone, as [`Ledger::replay`] has found them.
pub fn entries(good: &[u8]) -> impl Iterator<Item = Entry> {
    let json = |line: &'_ [u8]| {
        let mut parts = line.splitn(3, |octet| *octet == b' ');
        serde_json::from_slice(parts.nth(2)?).ok()
    };
    good.split(|octet| *octet == b'\n').filter_map(json)
}

fn chained(before: u32, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

/// An entry holds numbers and ids alone, which are all JSON.
fn json_of(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("an entry is JSON")
}

#[cfg(test)]
mod tests {
    use lucarne_model::{
        Moment, Pages,
        memory::{PagesByPlace, Place},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::{
        dice::Dice,
        usage::{Charge, Mode},
    };

    fn made_up(dice: &mut Dice, number: u64) -> Entry {
        let mode = |draw: u64| Mode::ALL[draw as usize % 3];
        let mut pages = PagesByPlace::default();
        Place::ALL.into_iter().for_each(|place| *pages.at_mut(place) = Pages(dice.below(1 << 20)));
        Entry {
            host: HostId::from_bits(u128::from(dice.below(3))),
            number,
            at: Moment(dice.below(1 << 50)),
            account: AccountId::from_bits(dice.below(4)),
            instance: InstanceId::from_bits(u128::from(dice.below(5))),
            charge: match dice.below(4) {
                0 => Charge::Converted { from: mode(dice.roll()), to: mode(dice.roll()) },
                1 => Charge::Moved { pages: Pages(dice.below(1 << 20)) },
                _ => Charge::Held { mode: mode(dice.roll()), millis: dice.below(100_000), pages },
            },
        }
    }

    fn written(seed: u64, count: u64) -> (Vec<Ledger>, Vec<u8>) {
        let mut dice = Dice::new(seed);
        let (mut ledger, mut file) = (Ledger::default(), Vec::new());
        let mut after = vec![ledger.clone()];
        for number in 0..count {
            file.extend(ledger.append(&made_up(&mut dice, number)).unwrap().bytes());
            after.push(ledger.clone());
        }
        (after, file)
    }

    proptest! {
        /// Wherever a crash cuts the file, and however often the process starts anew, the sums are those of the whole lines.
        #[test]
        fn any_prefix_gives_the_sums_of_its_lines(seed in any::<u64>(), count in 1_u64..30, cut in any::<prop::sample::Index>()) {
            let (after, file) = written(seed, count);
            let cut = cut.index(file.len() + 1);
            let whole = file[..cut].iter().filter(|octet| **octet == b'\n').count();
            let (ledger, good) = Ledger::replay(&file[..cut]).unwrap();
            prop_assert_eq!(&ledger, &after[whole]);
            prop_assert!(good <= cut && (good == 0 || file[good - 1] == b'\n'));
            let mut continued = ledger;
            let mut rest = file[..good].to_vec();
            let mut dice = Dice::new(!seed);
            rest.extend(continued.append(&made_up(&mut dice, 1_000)).unwrap().bytes());
            prop_assert_eq!(Ledger::replay(&rest).unwrap(), (continued, rest.len()));
        }

        /// An entry that comes again is refused and changes nothing, before and after a start.
        #[test]
        fn what_was_told_twice_counts_once(seed in any::<u64>(), count in 2_u64..30) {
            let (after, file) = written(seed, count);
            let (mut ledger, _) = Ledger::replay(&file).unwrap();
            let mut dice = Dice::new(seed);
            for number in 0..count {
                let entry = made_up(&mut dice, number);
                let Refusal::Duplicate { number: refused, .. } = ledger.append(&entry).unwrap_err();
                prop_assert_eq!(refused, number);
            }
            prop_assert_eq!(&ledger, after.last().unwrap());
        }

        /// An octet that changed anywhere but in the last line is found, as is a line that went or was put in twice. The end
        /// of the line before the last is the last one's too: changed, it makes one of both, which was not written as a whole.
        #[test]
        fn a_ledger_that_was_touched_is_not_believed(
            seed in any::<u64>(), count in 3_u64..12, at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let (_, file) = written(seed, count);
            let lines: Vec<&[u8]> = file.split_inclusive(|octet| *octet == b'\n').collect();
            let but_last = file.len() - lines.last().unwrap().len();
            let mut changed = file.clone();
            changed[at.index(but_last - 1)] ^= 1 << bit;
            prop_assert!(Ledger::replay(&changed).is_err());
            let mut joined = file.clone();
            joined[but_last - 1] ^= 1 << bit;
            prop_assert_eq!(Ledger::replay(&joined).unwrap().1, but_last - lines[lines.len() - 2].len());
            let line = at.index(lines.len() - 1);
            let without: Vec<u8> = [&lines[..line], &lines[line + 1..]].concat().concat();
            prop_assert!(Ledger::replay(&without).is_err() || line + 2 == lines.len());
            let twice: Vec<u8> = [&lines[..=line], &lines[line..]].concat().concat();
            prop_assert!(Ledger::replay(&twice).is_err());
        }
    }

    #[test]
    fn the_form_of_a_line_stays_as_it_is() {
        let pages = PagesByPlace { resident: Pages(5), ..PagesByPlace::default() };
        let entry = Entry {
            host: HostId::from_bits(1),
            number: 7,
            at: Moment(9),
            account: AccountId::from_bits(2),
            instance: InstanceId::from_bits(3),
            charge: Charge::Held { mode: Mode::Generic, millis: 1000, pages },
        };
        let line = Ledger::default().append(&entry).unwrap();
        let golden = concat!(
            r#"cc47fb73 0 {"host":"host-00000000000000001","number":7,"at":9,"account":"100000000002","#,
            r#""instance":"i-00000000000000003","charge":{"held":{"mode":"generic","millis":1000,"pages":{"#,
            r#""untouched":0,"same_filled":0,"resident":5,"compressed":0,"ssd":0,"remote":0,"snapshot":0}}}}"#,
            "\n",
        );
        assert_eq!(line, golden);
        assert_eq!(Ledger::replay(golden.as_bytes()).unwrap().1, golden.len());
    }
}
