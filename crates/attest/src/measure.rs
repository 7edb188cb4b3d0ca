//! Measurements as they are written down: a host's as events of its log, a guest's as one description of a launch.
//!
//! Owns both canonical forms and reads them back strictly. What a host measures, and how, is the hands'; what to think of
//! it is [`reference`](crate::reference)'s. Nothing that was extended is passed over: an event that is not ours becomes a
//! measurement too, which says what its register is for.

use lucarne_model::{Component, ErrorCode, Measurement, storage::Digest};
use lucarne_statement::sha256;
use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError},
    event_log::{self, Event, EventLog},
    pcr::{self, extend},
};

/// The tag of our events (EV_EVENT_TAG): "LUCA".
const TAG: u32 = 0x4c55_4341;
const VERSION: u32 = 1;

/// Why what was written down cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    #[error("event {event} says what it measured, and its digest is of something else")]
    OtherData { event: usize },
    #[error("event {event} is tagged as ours and says nothing that we know: {cause}")]
    Unreadable { event: usize, cause: CanonicalError },
    #[error("event {event} measures {component} into register {found}")]
    Register { event: usize, component: Component, found: u32 },
    #[error("the description of the guest cannot be read: {0}")]
    Guest(CanonicalError),
    #[error("the description of the guest has version {0}, which is not known here")]
    Version(u32),
    #[error("the description of the guest has {component} `{name}`, which is not a guest's, or is there twice")]
    Place { component: Component, name: String },
    #[error("the description of the guest is not what was extended into register {}", pcr::GUEST)]
    OtherGuest,
}

impl MeasureError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::OtherData { .. } | Self::Register { .. } => ErrorCode::EventLogMismatch,
            Self::Unreadable { .. } => ErrorCode::EventLogMalformed,
            Self::Guest(_) | Self::Version(_) | Self::Place { .. } | Self::OtherGuest => ErrorCode::GuestMismatch,
        }
    }
}

/// The register that a host agent extends `component` into: on a host whose firmware keeps registers 0 to 9, all that the
/// agent measures goes to its own two.
pub fn register(component: Component, firmware_measures: bool) -> u8 {
    match pcr::of(component) {
        own @ (pcr::HYPERVISOR | pcr::AGENT | pcr::GUEST) => own,
        _ if firmware_measures => pcr::HYPERVISOR,
        other => other,
    }
}

/// The event that a host agent adds to the log when it measures: its digest, which is extended, is that of its data, and
/// the data is the tag, the length and the canonical measurement.
pub fn event(measurement: &Measurement, register: u8) -> Result<Event, CanonicalError> {
    let text = canonical::write(measurement)?;
    let data = [&TAG.to_le_bytes()[..], &(text.len() as u32).to_le_bytes(), &text].concat();
    Ok(Event::over_data(register, event_log::TAGGED, data))
}

/// All that was extended, in its order.
pub fn measurements(log: &EventLog) -> Result<Vec<Measurement>, MeasureError> {
    let extending = log.events.iter().enumerate().filter_map(|(at, event)| Some((at + 1, event, event.extends()?)));
    let mut found = Vec::new();
    for (at, event, digest) in extending {
        match ours(at, event)? {
            Some(measurement) => found.push(measurement),
            None => found.extend(foreign(at, event, digest)),
        }
    }
    Ok(found)
}

fn ours(at: usize, event: &Event) -> Result<Option<Measurement>, MeasureError> {
    let Some(rest) = event.data.strip_prefix(&TAG.to_le_bytes()).filter(|_| event.kind == event_log::TAGGED) else {
        return Ok(None);
    };
    if !event.is_over_data() {
        return Err(MeasureError::OtherData { event: at });
    }
    let unreadable = |cause| MeasureError::Unreadable { event: at, cause };
    let (length, text) = rest.split_at_checked(4).ok_or(unreadable(CanonicalError::Form))?;
    if length != (text.len() as u32).to_le_bytes() {
        return Err(unreadable(CanonicalError::Form));
    }
    let measurement: Measurement = canonical::read(text).map_err(unreadable)?;
    let component = measurement.component;
    let possible = [register(component, false), register(component, true)].map(u32::from);
    if component.is_guests() || !possible.contains(&event.register) {
        return Err(MeasureError::Register { event: at, component, found: event.register });
    }
    Ok(Some(measurement))
}

/// A firmware's or boot loader's event. One that only separates says nothing; registers that are never judged are left out.
fn foreign(at: usize, event: &Event, digest: [u8; 32]) -> Option<Measurement> {
    if event.kind == event_log::SEPARATOR && event.is_over_data() {
        return None;
    }
    let component = match u8::try_from(event.register).ok()? {
        pcr::FIRMWARE => Component::HostFirmware,
        pcr::HARDWARE if event.kind == event_log::CPU_MICROCODE => Component::Cpu,
        pcr::HARDWARE => Component::Dmi,
        pcr::OPTION_ROMS => Component::OptionRom,
        pcr::KERNEL_COMMAND_LINE => Component::KernelCommandLine,
        pcr::KERNEL => Component::Kernel,
        pcr::HYPERVISOR => Component::Hypervisor,
        pcr::AGENT => Component::Agent,
        _ => return None,
    };
    Some(Measurement {
        component,
        name: format!("event {at} of type {:#x}", event.kind),
        digest: Digest::from_bytes(digest),
    })
}

/// What a launch's guest is, before its first instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    measurements: Vec<Measurement>,
    version: u32,
}

/// The canonical description of a guest: RFC 8785 JSON of its measurements, sorted. A firmware that it starts with may be
/// among them; else all are of the guest's components, and no component has one name twice.
pub fn describe_guest(mut measurements: Vec<Measurement>) -> Result<Vec<u8>, MeasureError> {
    measurements.sort();
    check_places(&measurements)?;
    canonical::write(&Guest { measurements, version: VERSION }).map_err(MeasureError::Guest)
}

/// What is extended into register 23, which was reset before.
pub fn guest_digest(description: &[u8]) -> [u8; 32] {
    sha256(&[description])
}

/// The value of register 23 that proves a description.
pub fn guest_register(description: &[u8]) -> [u8; 32] {
    extend([0; 32], guest_digest(description))
}

/// Reads a description that [`describe_guest`] made, if register 23 held what it gives.
pub fn guest(description: &[u8], quoted: [u8; 32]) -> Result<Vec<Measurement>, MeasureError> {
    if guest_register(description) != quoted {
        return Err(MeasureError::OtherGuest);
    }
    let guest: Guest = canonical::read(description).map_err(MeasureError::Guest)?;
    if guest.version != VERSION {
        return Err(MeasureError::Version(guest.version));
    }
    check_places(&guest.measurements)?;
    Ok(guest.measurements)
}

/// They are sorted, so that one kind and name twice stands side by side.
fn check_places(sorted: &[Measurement]) -> Result<(), MeasureError> {
    let wrong = sorted.iter().enumerate().find(|(at, measurement)| {
        let component = measurement.component;
        let before = at.checked_sub(1).and_then(|before| sorted.get(before));
        let out_of_order =
            before.is_some_and(|before| (before.component, &before.name) >= (component, &measurement.name));
        out_of_order || !(component.is_guests() || component == Component::GuestFirmware)
    });
    wrong.map_or(Ok(()), |(_, measurement)| {
        Err(MeasureError::Place { component: measurement.component, name: measurement.name.clone() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(component: Component, name: &str) -> Measurement {
        Measurement { component, name: name.to_owned(), digest: Digest::from_bytes(sha256(&[name.as_bytes()])) }
    }

    fn log(measurements: &[Measurement]) -> EventLog {
        let events = measurements.iter().map(|one| event(one, register(one.component, false)).expect("an event"));
        EventLog { events: events.collect(), ..EventLog::new() }
    }

    #[test]
    fn what_a_host_measured_is_read_from_its_log() {
        let host: Vec<_> = Component::ALL.iter().filter(|component| !component.is_guests()).collect();
        let host: Vec<_> = host.into_iter().map(|component| measured(*component, "é \"x\"")).collect();
        let log = EventLog::parse(&log(&host).to_octets()).expect("a log");
        assert_eq!(measurements(&log), Ok(host));
    }

    #[test]
    fn an_event_that_says_other_than_it_extends_is_refused() {
        let mut log = log(&[measured(Component::Hypervisor, "qemu")]);
        let at = log.events[0].data.len() - 3;
        log.events[0].data[at] ^= 1;
        assert_eq!(measurements(&log), Err(MeasureError::OtherData { event: 1 }));
    }

    #[test]
    fn a_component_in_a_register_that_is_not_its_own_is_refused() {
        let agent = measured(Component::Agent, "lucarne");
        let elsewhere = event(&agent, pcr::FIRMWARE).expect("an event");
        let log = EventLog { events: vec![elsewhere], ..EventLog::new() };
        assert!(matches!(measurements(&log), Err(MeasureError::Register { found: 0, .. })));
        let kernel = measured(Component::GuestKernel, "vmlinuz");
        let guests = EventLog { events: vec![event(&kernel, pcr::GUEST).expect("an event")], ..EventLog::new() };
        assert!(measurements(&guests).is_err(), "a guest is described, not logged");
    }

    #[test]
    fn nothing_that_was_extended_is_passed_over() {
        let strange = Event::over_data(pcr::HYPERVISOR, 0x8000_00ff, b"who am I".to_vec());
        let separator = Event::over_data(pcr::FIRMWARE, event_log::SEPARATOR, vec![0; 4]);
        let mut hidden = separator.clone();
        hidden.digests[0].1 = vec![5; 32];
        let log = EventLog { events: vec![strange, separator, hidden], ..EventLog::new() };
        let found = measurements(&log).expect("all are told");
        let told: Vec<_> = found.iter().map(|one| (one.component, one.name.as_str())).collect();
        let expected =
            [(Component::Hypervisor, "event 1 of type 0x800000ff"), (Component::HostFirmware, "event 3 of type 0x4")];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_guest_has_one_description_whatever_the_order_of_measuring() {
        let (kernel, disk) = (measured(Component::GuestKernel, "k"), measured(Component::DiskImage, "ami"));
        let description = describe_guest(vec![disk.clone(), kernel.clone()]).expect("a description");
        assert_eq!(describe_guest(vec![kernel.clone(), disk.clone()]).as_ref(), Ok(&description));
        assert_eq!(guest(&description, guest_register(&description)), Ok(vec![kernel.clone(), disk]));
        assert_eq!(guest(&description, [0; 32]), Err(MeasureError::OtherGuest));
        assert!(describe_guest(vec![kernel.clone(), kernel]).is_err(), "one name twice hides one of them");
        assert!(describe_guest(vec![measured(Component::Agent, "lucarne")]).is_err());
        assert!(describe_guest(vec![measured(Component::GuestFirmware, "bios")]).is_ok());
    }

    #[test]
    fn a_description_in_another_text_is_refused_even_if_it_was_extended() {
        for other in [&b"{\"version\":1,\"measurements\":[]}"[..], b"{\"measurements\":[],\"version\":2}", b"{}", b""] {
            assert!(guest(other, guest_register(other)).is_err());
        }
    }
}
