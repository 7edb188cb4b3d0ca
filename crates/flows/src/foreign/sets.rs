//! NetFlow v9 (RFC 3954) and IPFIX (RFC 7011): sets of templates, options and data behind a header.
//!
//! Owns where the two differ: their headers, the numbers of their sets, how options templates are counted, enterprise
//! elements and withdrawals, which only IPFIX has.

use std::net::IpAddr;

use lucarne_model::Moment;

use super::{
    ForeignError, ForeignRecord, Passed, Remembered,
    plan::{Field, Kind, MOST_FIELDS, Plan},
    sampling::Rates,
    templates::Templates,
};
use crate::ipfix::wire::{ENTERPRISE_BIT, FIRST_DATA_SET, Reader, SET_HEADER_LENGTH, Truncated};

/// What kind of scope v9 calls an interface, and the element that is one.
const INTERFACE_SCOPE: u16 = 2;
const INGRESS_INTERFACE: u16 = 10;

/// What the header of a datagram says of all its records.
#[derive(Clone, Copy)]
struct Header {
    exporter: IpAddr,
    domain: u32,
    exported: Moment,
    /// When uptimes began, in milliseconds since 1970.
    boot: Option<u64>,
    is_ipfix: bool,
}

/// After the version.
pub(super) fn decode_v9(
    exporter: IpAddr,
    mut reader: Reader<'_>,
    remembered: &mut Remembered,
    emit: &mut impl FnMut(ForeignRecord),
) -> Result<Passed, ForeignError> {
    let _count = reader.u16()?;
    let (uptime, seconds) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
    let _sequence = reader.u32()?;
    let domain = reader.u32()?;
    let boot = Some((seconds * 1000).saturating_sub(uptime));
    let header = Header { exporter, domain, exported: Moment::from_secs(seconds), boot, is_ipfix: false };
    header.read_sets(reader, remembered, emit)
}

/// After the version.
pub(super) fn decode_ipfix(
    exporter: IpAddr,
    mut reader: Reader<'_>,
    remembered: &mut Remembered,
    emit: &mut impl FnMut(ForeignRecord),
) -> Result<Passed, ForeignError> {
    let length = usize::from(reader.u16()?);
    let seconds = u64::from(reader.u32()?);
    let _sequence = reader.u32()?;
    let domain = reader.u32()?;
    let sets = Reader(reader.take(length.checked_sub(16).ok_or(ForeignError::Truncated)?)?);
    let header = Header { exporter, domain, exported: Moment::from_secs(seconds), boot: None, is_ipfix: true };
    header.read_sets(sets, remembered, emit)
}

impl Header {
    fn read_sets(
        self,
        mut reader: Reader<'_>,
        Remembered { templates, rates, .. }: &mut Remembered,
        emit: &mut impl FnMut(ForeignRecord),
    ) -> Result<Passed, ForeignError> {
        let mut passed = Passed::default();
        while reader.left() >= SET_HEADER_LENGTH {
            let (set, length) = (reader.u16()?, usize::from(reader.u16()?));
            let body = length.checked_sub(SET_HEADER_LENGTH).ok_or(ForeignError::Truncated)?;
            let body = Reader(reader.take(body)?);
            match (set, self.is_ipfix) {
                (0, false) | (2, true) => self.read_templates(body, templates)?,
                (1, false) => self.read_options_v9(body, templates)?,
                (3, true) => self.read_options_ipfix(body, templates)?,
                (FIRST_DATA_SET.., _) => match templates.get(self.domain, set) {
                    Some(plan) => self.read_data(body, plan, rates, &mut passed, emit)?,
                    None => passed.without_template += 1,
                },
                // Numbers that are not given away yet.
                _ => {}
            }
        }
        Ok(passed)
    }

    fn read_templates(self, mut body: Reader<'_>, templates: &mut Templates) -> Result<(), ForeignError> {
        while body.left() >= 4 {
            let (number, count) = (body.u16()?, usize::from(body.u16()?));
            match count {
                // The rest of the set is padding.
                0 if number == 0 => return Ok(()),
                0 if self.is_ipfix => self.withdraw(number, false, templates),
                _ => {
                    let fields = self.read_fields(&mut body, count)?;
                    self.put(number, Plan::compile(&fields, false)?, templates);
                }
            }
        }
        Ok(())
    }

    /// The lengths of scope and options fields are told in octets. What kinds of scope there are is numbered apart from the
    /// elements: 1 is the whole exporter, 2 an interface.
    fn read_options_v9(self, mut body: Reader<'_>, templates: &mut Templates) -> Result<(), ForeignError> {
        while body.left() >= 6 {
            let (number, scope, options) = (body.u16()?, body.u16()?, body.u16()?);
            if number == 0 {
                return Ok(());
            }
            let (scope, options) = (usize::from(scope) / 4, usize::from(options) / 4);
            let mut fields = self.read_fields(&mut body, scope + options)?;
            for field in &mut fields[..scope] {
                field.element = field.element.filter(|kind| *kind == INTERFACE_SCOPE).map(|_| INGRESS_INTERFACE);
            }
            self.put(number, Plan::compile(&fields, true)?, templates);
        }
        Ok(())
    }

    fn read_options_ipfix(self, mut body: Reader<'_>, templates: &mut Templates) -> Result<(), ForeignError> {
        while body.left() >= 4 {
            let (number, count) = (body.u16()?, usize::from(body.u16()?));
            match count {
                0 if number == 0 => return Ok(()),
                0 => self.withdraw(number, true, templates),
                _ => {
                    let _scope = body.u16()?;
                    let fields = self.read_fields(&mut body, count)?;
                    self.put(number, Plan::compile(&fields, true)?, templates);
                }
            }
        }
        Ok(())
    }

    fn read_fields(self, body: &mut Reader<'_>, count: usize) -> Result<Vec<Field>, ForeignError> {
        if count > MOST_FIELDS {
            return Err(ForeignError::Template);
        }
        let mut fields = Vec::with_capacity(count);
        for _ in 0..count {
            let (element, length) = (body.u16()?, body.u16()?);
            let is_enterprise = self.is_ipfix && element & ENTERPRISE_BIT != 0;
            if is_enterprise {
                let _enterprise = body.u32()?;
            }
            fields.push(Field { element: (!is_enterprise).then_some(element), length });
        }
        Ok(fields)
    }

    fn put(self, number: u16, plan: Plan, templates: &mut Templates) {
        if number >= FIRST_DATA_SET {
            templates.put(self.domain, number, plan);
        }
    }

    /// The number of the set stands for all of its templates (RFC 7011 section 8.1).
    fn withdraw(self, number: u16, options: bool, templates: &mut Templates) {
        if number < FIRST_DATA_SET {
            templates.remove_all(self.domain, options);
        } else {
            templates.remove(self.domain, number);
        }
    }

    fn read_data(
        self,
        mut body: Reader<'_>,
        plan: &Plan,
        rates: &mut Rates,
        passed: &mut Passed,
        emit: &mut impl FnMut(ForeignRecord),
    ) -> Result<(), Truncated> {
        let kind = plan.kind();
        if kind != Kind::Flows {
            passed.no_flows += 1;
        }
        while matches!(kind, Kind::Flows | Kind::Sampling) && plan.fits(body.left()) {
            let mut record = ForeignRecord::empty(self.exporter, self.domain, self.exported);
            let said = plan.read(&mut body, self.boot, &mut record)?;
            match kind {
                Kind::Flows => emit(record.scaled(rates.of_flow(self.domain, &said))),
                _ => rates.learn(self.domain, &said),
            }
        }
        Ok(())
    }
}
