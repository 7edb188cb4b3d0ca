//! The frames of a recording, read from pcapng (draft-ietf-opsawg-pcapng) in either byte order.
//!
//! Owns which files are read: those of Ethernet, as our hosts and most programs write them. Blocks of other kinds
//! are passed over; what is damaged is told with its place. Nothing is copied.

use std::collections::HashMap;

use lucarne_model::{Moment, flow::Direction};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const FRAME: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const VERSION: u16 = 1;
const ETHERNET: u16 = 1;
/// Options of an interface: its name, and the unit of its times.
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
/// Of a frame: its direction, and how many before it were lost.
const FLAGS: u16 = 2;
const LOST: u16 = 4;
/// The longest block that is read. Frames are much shorter.
const LONGEST: usize = 1 << 20;
/// What a block has around its body.
const AROUND: usize = 12;
/// Interfaces that a recording may have.
const INTERFACES: usize = 1 << 16;
const MICROSECONDS: u64 = 1_000_000;

/// Where a recording is damaged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recording is damaged at octet {offset}: {damage}")]
pub struct CaptureError {
    pub offset: usize,
    pub damage: Damage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it does not begin with a section of pcapng")]
    NoSection,
    #[error("{0:#010x} is no mark of a byte order")]
    ByteOrder(u32),
    #[error("it is of version {0}, not of version 1")]
    Version(u16),
    #[error("no block is {0} octets long")]
    Length(u32),
    #[error("a block says at its end that it is {0} octets long, and something else at its beginning")]
    Trailer(u32),
    #[error("a block is too short for what it is")]
    Short,
    #[error("it ends within a block")]
    Cut,
    #[error("it was made on a link of type {0}, not on Ethernet (1)")]
    LinkType(u16),
    #[error("its interface counts time in units that are too small or too large ({0:#04x})")]
    Resolution(u8),
    #[error("no interface of its section has the number {0}")]
    Interface(u32),
    #[error("it has more than 65,536 interfaces")]
    Interfaces,
}

/// A frame as one interface saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Counted through all sections; those of one name are one.
    pub interface: u32,
    pub at: Moment,
    /// As the instance sees it.
    pub direction: Option<Direction>,
    pub octets: &'a [u8],
    /// Frames that should be before it and are not.
    pub lost: u64,
}

/// A recording from its first frame to its last. After an error there is nothing more.
#[derive(Debug)]
pub struct Capture<'a> {
    octets: &'a [u8],
    at: usize,
    ended: bool,
    order: Option<Order>,
    /// Of this section.
    interfaces: Vec<Interface>,
    names: HashMap<&'a [u8], u32>,
    count: u32,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    number: u32,
    /// Units of its times in a second.
    units: u64,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn word(self, octets: &[u8], at: usize) -> Option<u32> {
        let word = octets.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        })
    }

    fn half(self, octets: &[u8], at: usize) -> Option<u16> {
        let half = octets.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(half),
            Self::Big => u16::from_be_bytes(half),
        })
    }

    fn long(self, octets: &[u8]) -> Option<u64> {
        let long = octets.try_into().ok()?;
        Some(match self {
            Self::Little => u64::from_le_bytes(long),
            Self::Big => u64::from_be_bytes(long),
        })
    }

    /// The value of the first option of that code.
    fn option(self, mut options: &[u8], wanted: u16) -> Option<&[u8]> {
        loop {
            let (code, length) = (self.half(options, 0)?, usize::from(self.half(options, 2)?));
            let value = options.get(4..4 + length)?;
            if code == wanted {
                return Some(value);
            }
            options = options.get(4 + length.next_multiple_of(4)..).filter(|_| code != 0)?;
        }
    }
}

impl<'a> Capture<'a> {
    pub fn new(octets: &'a [u8]) -> Self {
        let (interfaces, names) = Default::default();
        Self { octets, at: 0, ended: false, order: None, interfaces, names, count: 0 }
    }

    /// The next block's kind and body; none at the end.
    fn block(&mut self) -> Result<Option<(u32, &'a [u8])>, Damage> {
        let rest = &self.octets[self.at..];
        if rest.is_empty() {
            return if self.order.is_some() { Ok(None) } else { Err(Damage::NoSection) };
        }
        // The kind of a section reads the same in both orders: each says its own.
        let section = Order::Little.word(rest, 0) == Some(SECTION);
        if section {
            let mark = Order::Little.word(rest, 8).ok_or(Damage::Cut)?;
            self.order = Some(match mark {
                BYTE_ORDER => Order::Little,
                _ if mark.swap_bytes() == BYTE_ORDER => Order::Big,
                _ => return Err(Damage::ByteOrder(mark)),
            });
        }
        let order = self.order.ok_or(Damage::NoSection)?;
        let (kind, length) = order.word(rest, 0).zip(order.word(rest, 4)).ok_or(Damage::Cut)?;
        let whole = length as usize;
        if !(AROUND..=LONGEST).contains(&whole) || !whole.is_multiple_of(4) {
            return Err(Damage::Length(length));
        }
        let block = rest.get(..whole).ok_or(Damage::Cut)?;
        let again = order.word(block, whole - 4).ok_or(Damage::Cut)?;
        if again != length {
            return Err(Damage::Trailer(again));
        }
        self.at += whole;
        Ok(Some((kind, &block[8..whole - 4])))
    }

    fn find(&mut self) -> Result<Option<Frame<'a>>, CaptureError> {
        loop {
            let offset = self.at;
            let told = |damage| CaptureError { offset, damage };
            let Some((kind, body)) = self.block().map_err(told)? else { return Ok(None) };
            let order = self.order.ok_or(told(Damage::NoSection))?;
            match kind {
                SECTION => self.begin_section(order, body).map_err(told)?,
                INTERFACE => self.add_interface(order, body).map_err(told)?,
                FRAME => return self.frame(order, body).map(Some).map_err(told),
                _ => {}
            }
        }
    }

    fn begin_section(&mut self, order: Order, body: &[u8]) -> Result<(), Damage> {
        self.interfaces.clear();
        match order.half(body, 4).ok_or(Damage::Short)? {
            VERSION => Ok(()),
            other => Err(Damage::Version(other)),
        }
    }

    fn add_interface(&mut self, order: Order, body: &'a [u8]) -> Result<(), Damage> {
        match order.half(body, 0).ok_or(Damage::Short)? {
            ETHERNET => {}
            other => return Err(Damage::LinkType(other)),
        }
        let options = body.get(8..).ok_or(Damage::Short)?;
        let units = match order.option(options, RESOLUTION) {
            None => MICROSECONDS,
            Some(&[power]) => {
                let (base, power) = if power & 0x80 == 0 { (10u64, power) } else { (2, power & 0x7f) };
                base.checked_pow(power.into()).ok_or(Damage::Resolution(power))?
            }
            Some(_) => return Err(Damage::Short),
        };
        if self.interfaces.len() == INTERFACES || self.count as usize == INTERFACES {
            return Err(Damage::Interfaces);
        }
        let next = self.count;
        let name = order.option(options, NAME).filter(|name| !name.is_empty());
        let number = name.map_or(next, |name| *self.names.entry(name).or_insert(next));
        self.count += u32::from(number == next);
        self.interfaces.push(Interface { number, units });
        Ok(())
    }

    fn frame(&self, order: Order, body: &'a [u8]) -> Result<Frame<'a>, Damage> {
        let word = |at| order.word(body, at).ok_or(Damage::Short);
        let (index, high, low, length) = (word(0)?, word(4)?, word(8)?, word(12)? as usize);
        let interface = self.interfaces.get(index as usize).ok_or(Damage::Interface(index))?;
        let octets = body.get(20..20 + length).ok_or(Damage::Short)?;
        let options = body.get(20 + length.next_multiple_of(4)..).unwrap_or_default();
        let time = u128::from(high) << 32 | u128::from(low);
        let micros = time * u128::from(MICROSECONDS) / u128::from(interface.units);
        let flags = order.option(options, FLAGS).and_then(|flags| order.word(flags, 0));
        let direction = flags.and_then(|flags| match flags & 3 {
            1 => Some(Direction::Ingress),
            2 => Some(Direction::Egress),
            _ => None,
        });
        let lost = order.option(options, LOST).and_then(|lost| order.long(lost)).unwrap_or(0);
        let at = Moment(u64::try_from(micros).unwrap_or(u64::MAX));
        Ok(Frame { interface: interface.number, at, direction, octets, lost })
    }
}

impl<'a> Iterator for Capture<'a> {
    type Item = Result<Frame<'a>, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let found = self.find().transpose();
        self.ended = !matches!(found, Some(Ok(_)));
        found
    }
}
