//! What happened in a connection, in Zeek's words: the letters of `history` and the 13 values of `conn_state`.
//!
//! Owns the letters, how often each is written, and how the state follows from them. Seeing the events is the flow table's.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    flow::Side,
    security_group::{TCP, UDP},
};

/// An event of a connection, with Zeek's letter for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Happening {
    /// A SYN without ACK.
    Syn = b's',
    /// A SYN with ACK: the answer of the handshake.
    Handshake = b'h',
    /// An acknowledgement and nothing else.
    Ack = b'a',
    Data = b'd',
    Fin = b'f',
    Reset = b'r',
    /// Flags that contradict each other, such as FIN and RST.
    Inconsistent = b'i',
    /// SYN with FIN or RST.
    MultiFlag = b'q',
    Retransmission = b't',
    ZeroWindow = b'w',
    /// What was acknowledged and never seen.
    Gap = b'g',
    /// The first packet that was seen came from the responder; of no side.
    Flipped = b'^',
}

impl Happening {
    pub const ALL: [Self; 12] = [
        Self::Syn,
        Self::Handshake,
        Self::Ack,
        Self::Data,
        Self::Fin,
        Self::Reset,
        Self::Inconsistent,
        Self::MultiFlag,
        Self::Retransmission,
        Self::ZeroWindow,
        Self::Gap,
        Self::Flipped,
    ];
}

/// The letters that a history may have, each at its code less one. One is read and never written, that of a bad checksum: a
/// switch leaves those to the ends.
const ALPHABET: &[u8; 13] = b"shadfriqtwcg^";
/// Bits of one letter: its code above, its side (1 is the initiator) as the lowest.
const BITS: u32 = 5;
const LETTER: u64 = (1 << BITS) - 1;

/// A letter: the code, with the side as its lowest bit. That of a flow that was taken up in mid-stream is of no side.
const fn letter(happening: Happening, side: Side) -> u64 {
    let mut at = 0;
    while at < ALPHABET.len() && ALPHABET[at] != happening as u8 {
        at += 1;
    }
    let is_large = matches!(side, Side::Initiator) && !matches!(happening, Happening::Flipped);
    (at as u64 + 1) << 1 | is_large as u64
}

/// Among all letters.
const fn bit(happening: Happening, side: Side) -> u32 {
    1 << letter(happening, side)
}

/// The letters of a connection in the order of the events, upper case for what the initiator did, as Zeek writes them: that of
/// SYN, FIN and reset again for each one with another sequence number, that of retransmissions, gaps and zero windows again at
/// the 10th, the 100th and so on, the others once a side.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct History(u64);

impl History {
    /// Letters beyond so many are left out; a whole connection has eight.
    pub const MAX: u32 = u64::BITS / BITS;

    pub const fn len(self) -> u32 {
        (u64::BITS - self.0.leading_zeros()).div_ceil(BITS)
    }
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The history with one event more, if there is room.
    #[must_use]
    pub fn with(self, happening: Happening, side: Side) -> Self {
        self.followed_by(letter(happening, side))
    }

    const fn followed_by(self, letter: u64) -> Self {
        let at = self.len();
        if at >= Self::MAX { self } else { Self(self.0 | letter << (at * BITS)) }
    }

    pub fn has(self, happening: Happening, side: Side) -> bool {
        self.written() & bit(happening, side) != 0
    }

    /// Which letters it has: of each the [`bit`].
    const fn written(self) -> u32 {
        let (mut written, mut rest) = (0, self.0);
        while rest != 0 {
            written |= 1 << (rest & LETTER);
            rest >>= BITS;
        }
        written
    }

    /// How often a side's letter is written.
    pub fn count(self, happening: Happening, side: Side) -> u32 {
        let wanted = match side {
            Side::Initiator => (happening as u8).to_ascii_uppercase(),
            Side::Responder => happening as u8,
        };
        self.letters().filter(|letter| *letter == wanted).count() as u32
    }

    /// The letters in ASCII.
    pub fn letters(self) -> impl Iterator<Item = u8> {
        (0..self.len()).filter_map(move |at| {
            let letter = self.0 >> (at * BITS) & LETTER;
            let small = *ALPHABET.get((letter as usize >> 1).checked_sub(1)?)?;
            Some(if letter & 1 == 1 { small.to_ascii_uppercase() } else { small })
        })
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.letters().map(char::from).collect::<String>())
    }
}
impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A text that is no history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a history has at most {max} letters of `shadfriqtwcg^`, large or small", max = History::MAX)]
pub struct ParseHistoryError;

impl FromStr for History {
    type Err = ParseHistoryError;
    fn from_str(text: &str) -> Result<Self, ParseHistoryError> {
        if text.len() > Self::MAX as usize {
            return Err(ParseHistoryError);
        }
        text.bytes().try_fold(Self::default(), |history, letter| {
            let small = letter.to_ascii_lowercase();
            let at = ALPHABET.iter().position(|known| *known == small).ok_or(ParseHistoryError)?;
            Ok(history.followed_by((at as u64 + 1) << 1 | u64::from(letter.is_ascii_uppercase())))
        })
    }
}
impl TryFrom<String> for History {
    type Error = ParseHistoryError;
    fn try_from(text: String) -> Result<Self, ParseHistoryError> {
        text.parse()
    }
}
impl From<History> for String {
    fn from(history: History) -> Self {
        history.to_string()
    }
}
impl JsonSchema for History {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "History".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "What happened in the connection so far, in Zeek's letters: upper case for what the initiator did.",
            "pattern": r"^[SHADFRIQTWCGshadfriqtwcg\^]{0,12}$",
        })
    }
}

macro_rules! conn_states {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal;)*) => {
        /// How far a connection has come or how it ended, as Zeek's `conn_state` says it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[repr(u8)]
        pub enum ConnState { $($(#[doc = $doc])* #[serde(rename = $text)] $name = $code,)* }

        impl ConnState {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The value of the IPFIX element `connState`.
            pub const fn code(self) -> u8 { self as u8 }
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// Zeek's name.
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str { match self { $(Self::$name => concat!($($doc),*),)* } }
        }
    };
}

conn_states! {
    /// An attempt without an answer.
    S0 = 1, "S0";
    /// Open, and not closed by anybody.
    S1 = 2, "S1";
    /// Opened and closed by both; without handshake: both have sent.
    Sf = 3, "SF";
    /// The attempt was refused with a reset.
    Rej = 4, "REJ";
    /// Open; the initiator has closed, the responder has not.
    S2 = 5, "S2";
    /// Open; the responder has closed, the initiator has not.
    S3 = 6, "S3";
    /// Open, then reset by the initiator.
    Rsto = 7, "RSTO";
    /// Reset by the responder.
    Rstr = 8, "RSTR";
    /// The initiator sent a SYN and then a reset, without an answer between them.
    Rstos0 = 9, "RSTOS0";
    /// The responder answered and then reset; the SYN was not seen.
    Rstrh = 10, "RSTRH";
    /// The initiator sent a SYN and then a FIN, without an answer between them.
    Sh = 11, "SH";
    /// The responder answered and then closed; the SYN was not seen.
    Shr = 12, "SHR";
    /// No SYN was seen, or the protocol has none of these states.
    Oth = 13, "OTH";
}

impl ConnState {
    /// The state that follows from what happened, as Zeek's `determine_conn_state` has it.
    pub fn of(protocol: u8, history: History) -> Self {
        let by = |happening, side| history.has(happening, side);
        let (initiator, responder) = (Side::Initiator, Side::Responder);
        match protocol {
            TCP => Self::of_tcp(history),
            UDP => match (by(Happening::Data, initiator), by(Happening::Data, responder)) {
                (true, true) => Self::Sf,
                (true, false) => Self::S0,
                (false, true) => Self::Shr,
                (false, false) => Self::Oth,
            },
            _ => Self::Oth,
        }
    }

    fn of_tcp(history: History) -> Self {
        use Happening::{Ack, Data, Fin, Handshake, Inconsistent, Reset, Syn};
        use Side::{Initiator, Responder};
        let written = history.written();
        let has = |letters: u32| written & letters != 0;
        // A packet with FIN and reset is told by a letter of its own, and is a reset.
        let (asked, answered) = (has(const { bit(Syn, Initiator) }), has(const { bit(Handshake, Responder) }));
        if has(const { bit(Reset, Responder) | bit(Inconsistent, Responder) }) {
            return match (asked, answered || has(const { bit(Ack, Initiator) | bit(Data, Initiator) })) {
                (true, false) => Self::Rej,
                (true, true) => Self::Rstr,
                (false, _) if answered => Self::Rstrh,
                (false, _) => Self::Oth,
            };
        }
        if has(const { bit(Reset, Initiator) | bit(Inconsistent, Initiator) }) {
            return match (asked, answered) {
                (true, true) => Self::Rsto,
                (true, false) => Self::Rstos0,
                (false, _) => Self::Oth,
            };
        }
        match (asked, answered, has(const { bit(Fin, Initiator) }), has(const { bit(Fin, Responder) })) {
            (true, true, true, true) => Self::Sf,
            (true, true, true, false) => Self::S2,
            (true, true, false, true) => Self::S3,
            (true, true, false, false) => Self::S1,
            (true, false, true, _) => Self::Sh,
            (true, false, false, _) => Self::S0,
            (false, true, _, true) => Self::Shr,
            (false, ..) => Self::Oth,
        }
    }
}

impl fmt::Display for ConnState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not one of Zeek's 13 connection states")]
pub struct ParseConnStateError(String);

impl FromStr for ConnState {
    type Err = ParseConnStateError;
    fn from_str(text: &str) -> Result<Self, ParseConnStateError> {
        let found = Self::ALL.iter().find(|state| state.name() == text);
        found.copied().ok_or_else(|| ParseConnStateError(text.chars().take(16).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_history_reads_back_as_written(text in r"[SHADFRIQTWCGshadfriqtwcg\^]{0,12}") {
            let history: History = text.parse().unwrap();
            prop_assert_eq!(&history.to_string(), &text);
            prop_assert_eq!(history.len() as usize, text.len());
            prop_assert_eq!(serde_json::to_value(history).unwrap(), text);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<History>();
        }
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let full: History = "ShADadFfTtWw".parse().unwrap();
        assert_eq!(full.with(Happening::Reset, Side::Initiator), full);
        assert!("ShADadFfTtWwR".parse::<History>().is_err());
        assert_eq!(History::default().with(Happening::Syn, Side::Initiator).to_string(), "S");
    }

    /// Histories and states as Zeek's own baselines pair them.
    #[test]
    fn states_follow_from_histories_as_in_zeek() {
        for (history, state) in [
            ("S", "S0"),
            ("Sh", "S1"),
            ("ShA", "S1"),
            ("ShADad", "S1"),
            ("ShADadFf", "SF"),
            ("ShADadfF", "SF"),
            ("Sr", "REJ"),
            ("ShADF", "S2"),
            ("ShADf", "S3"),
            ("ShADaR", "RSTO"),
            ("ShADadr", "RSTR"),
            ("SR", "RSTOS0"),
            ("hr", "RSTRH"),
            ("SF", "SH"),
            ("hf", "SHR"),
            ("Aa", "OTH"),
            ("", "OTH"),
            ("Dd", "OTH"),
        ] {
            assert_eq!(ConnState::of(TCP, history.parse().unwrap()).name(), state, "{history}");
        }
        for (history, state) in [("D", "S0"), ("Dd", "SF"), ("d", "SHR")] {
            assert_eq!(ConnState::of(UDP, history.parse().unwrap()).name(), state, "{history}");
        }
    }

    #[test]
    fn codes_and_names_of_states_read_back() {
        for (index, state) in ConnState::ALL.iter().enumerate() {
            assert_eq!(usize::from(state.code()), index + 1);
            assert_eq!(ConnState::from_code(state.code()), Some(*state));
            assert_eq!(state.name().parse(), Ok(*state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }
}
