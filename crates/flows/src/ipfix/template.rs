//! Templates as a decoder keeps them.
//!
//! Owns the parsing of template records (RFC 7011 section 3.4) and what a template is good for. How its records are read is
//! the matter of their [`Plan`], which templates live that of the [`Decoder`](super::Decoder).

use super::{
    elements::{COMMON_PROPERTIES, Element, FIELDS, Field, GROUPS, SENDER_NEXT_RECORD, SENDER_SESSION, find},
    loss,
    plan::Plan,
    wire::{ENTERPRISE_BIT, Reader, Truncated, VARIABLE},
};

/// Fields of one template that we are willing to remember.
pub(super) const MAX_FIELDS: u16 = 512;

/// A field as the sender writes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) number: u16,
    pub(super) enterprise: Option<u32>,
    pub(super) length: u16,
    /// How to read it, where we know the element.
    pub(super) field: Option<&'static Field>,
}

/// What the records of a template are to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Flow records with all that we require.
    Flows,
    /// How far a sender's records were taken.
    Marks,
    /// What a sender could not keep.
    Losses,
    /// Entries of the dictionary of sets of groups.
    GroupSets,
    /// Flow records of somebody else's making.
    Foreign,
    /// Options that say nothing to us.
    Options,
}

#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) columns: Vec<Column>,
    /// How to read records of [`Kind::Flows`].
    pub(super) plan: Plan,
    pub(super) kind: Kind,
    /// Whether our own exporter writes the same records under the same number.
    pub(super) is_own_layout: bool,
    /// Octets of the shortest record; never 0.
    pub(super) shortest: usize,
}

/// Why a template is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    Truncated,
    TooManyFields,
    /// Its records could have no octets, and so a set any number of them.
    NoLength,
}

impl From<Truncated> for Refusal {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl Template {
    /// Reads the field specifiers behind a template record's header.
    pub(super) fn parse(reader: &mut Reader<'_>, count: u16, options: bool) -> Result<Self, Refusal> {
        if count > MAX_FIELDS {
            return Err(Refusal::TooManyFields);
        }
        let columns = (0..count).map(|_| Column::parse(reader)).collect::<Result<Vec<_>, _>>()?;
        let shortest =
            columns.iter().map(|column| if column.length == VARIABLE { 1 } else { column.length.into() }).sum();
        if shortest == 0 {
            return Err(Refusal::NoLength);
        }
        let kind = kind(&columns, options);
        Ok(Self { plan: Plan::compile(&columns), columns, kind, is_own_layout: false, shortest })
    }
}

impl Column {
    pub(super) fn is(&self, element: &Element) -> bool {
        (self.number, self.enterprise) == (element.number, element.enterprise)
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let number = reader.u16()?;
        let length = reader.u16()?;
        let enterprise = if number & ENTERPRISE_BIT == 0 { None } else { Some(reader.u32()?) };
        let number = number & !ENTERPRISE_BIT;
        Ok(Self { number, enterprise, length, field: find(number, enterprise) })
    }
}

fn kind(columns: &[Column], options: bool) -> Kind {
    let has = |number, enterprise| columns.iter().any(|c| c.number == number && c.enterprise == enterprise);
    let covers = |of| columns.iter().any(|column| column.field.is_some_and(|field| field.of == of));
    let has_all = |elements: &[Element]| elements.iter().all(|element| has(element.number, element.enterprise));
    if options {
        return match () {
            () if has_all(&[SENDER_SESSION, SENDER_NEXT_RECORD]) => Kind::Marks,
            () if has_all(&loss::ELEMENTS) => Kind::Losses,
            () if has_all(&[COMMON_PROPERTIES, GROUPS]) => Kind::GroupSets,
            () => Kind::Options,
        };
    }
    let ours = FIELDS.iter().filter(|field| field.required).all(|field| covers(field.of));
    // `end_reason` and `groups` are also told by elements that anybody sends; without the codes of ours they are foreign.
    let coded = FIELDS.iter().filter(|field| field.required && field.element.enterprise.is_some());
    let identified = coded.into_iter().all(|field| has(field.element.number, field.element.enterprise));
    if ours && identified { Kind::Flows } else { Kind::Foreign }
}
