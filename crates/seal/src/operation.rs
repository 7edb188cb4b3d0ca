//! The closed list of what can be asked: each operation once, with its arguments, their limits, and what comes of it.
//!
//! Owns the table from which the types, the reading of requests, the vocabulary of grants and `lucarne seal operations`
//! derive. How an operation is carried out is the host's.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bounded::{Address, AddressSpace, Argument, Form, Replacement, Seen, Text, Whole};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// More than any kernel symbol has.
const SYMBOL: usize = 256;

/// Why a request asks for nothing that there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    #[error("there is no operation `{0}`")]
    Unknown(String),
    #[error("{name} has version {own}, not {asked}")]
    Version { name: OperationName, own: u32, asked: u32 },
    #[error("arguments of {name}: {cause}")]
    Arguments { name: OperationName, cause: String },
}

/// What an operation reaches into, which is also whose key of a host answers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// One guest; its tenant may ask it of its own.
    Guest,
    /// The process that plays one guest's machine.
    Hypervisor,
    /// The host and all that runs on it.
    Host,
}

impl Layer {
    pub const ALL: [Self; 3] = [Self::Guest, Self::Hypervisor, Self::Host];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Hypervisor => "hypervisor",
            Self::Host => "host",
        }
    }
}

/// What it does to what it reaches into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing is changed.
    Reads,
    /// Runs or does not run any more.
    Controls,
    /// Memory or settings are changed.
    Writes,
}

impl Effect {
    pub const ALL: [Self; 3] = [Self::Reads, Self::Controls, Self::Writes];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Controls => "controls",
            Self::Writes => "writes",
        }
    }
}

/// What the opened result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON document.
    Json,
    /// Lines of text.
    Text,
    /// The memory itself.
    Octets,
    /// An ELF core with holes for pages of zeros.
    ElfCore,
    /// A picture.
    Ppm,
}

impl Format {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Octets => "octets",
            Self::ElfCore => "elf-core",
            Self::Ppm => "ppm",
        }
    }
    /// What a result is lengthened with: an octet that its readers pass over at the end.
    pub const fn filler(self) -> u8 {
        match self {
            Self::Json | Self::Text => b' ',
            Self::Octets | Self::ElfCore | Self::Ppm => 0,
        }
    }
}

/// One argument of an operation, as it is documented.
#[derive(Clone, Debug)]
pub struct ArgumentAbout {
    pub name: &'static str,
    pub form: Form,
    pub limits: String,
    pub about: &'static str,
}

macro_rules! operations {
    ($(
        $(#[doc = $about:literal])*
        $name:ident($text:literal, $layer:ident, $effect:ident, $format:ident) {
            $($(#[doc = $argument_about:literal])* $argument:ident: $kind:ty,)*
        }
    )*) => {
        $(
            $(#[doc = $about])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name { $($(#[doc = $argument_about])* pub $argument: $kind,)* }
        )*

        /// What is asked, with every argument. In JSON it is as in a request.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "WrittenOperation", into = "WrittenOperation")]
        pub enum Operation { $($name($name),)* }

        /// Which operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum OperationName { $($(#[doc = $about])* #[serde(rename = $text)] $name,)* }

        impl OperationName {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            pub const fn name(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            pub const fn layer(self) -> Layer { match self { $(Self::$name => Layer::$layer,)* } }
            pub const fn effect(self) -> Effect { match self { $(Self::$name => Effect::$effect,)* } }
            pub const fn format(self) -> Format { match self { $(Self::$name => Format::$format,)* } }
            pub const fn about(self) -> &'static str { match self { $(Self::$name => concat!($($about),*),)* } }
            pub fn arguments(self) -> Vec<ArgumentAbout> {
                match self { $(Self::$name => vec![$(ArgumentAbout {
                    name: stringify!($argument),
                    form: <$kind as Argument>::FORM,
                    limits: <$kind as Argument>::limits(),
                    about: concat!($($argument_about),*),
                },)*],)* }
            }
        }

        impl Operation {
            pub const fn name(&self) -> OperationName {
                match self { $(Self::$name(_) => OperationName::$name,)* }
            }
            /// The arguments as policies see them.
            pub fn seen(&self) -> Vec<(&'static str, Seen)> {
                match self { $(Self::$name(_arguments) => vec![
                    $((stringify!($argument), _arguments.$argument.seen()),)*
                ],)* }
            }
            fn read_arguments(name: OperationName, arguments: Value) -> Result<Self, serde_json::Error> {
                match name { $(OperationName::$name => serde_json::from_value(arguments).map(Self::$name),)* }
            }
            fn write_arguments(&self) -> Result<Value, serde_json::Error> {
                match self { $(Self::$name(arguments) => serde_json::to_value(arguments),)* }
            }
        }
    };
}

operations! {
    /// Stop the guest's processors until it is resumed.
    GuestPause("guest.pause", Guest, Controls, Json) {}
    /// Let a paused guest's processors go on.
    GuestResume("guest.resume", Guest, Controls, Json) {}
    /// Take the guest's power away.
    GuestStop("guest.stop", Guest, Controls, Json) {}
    /// Start a guest that is stopped: its host asks its controller to want that. Of one that runs it changes nothing.
    GuestStart("guest.start", Guest, Controls, Json) {}
    /// Press the guest's reset button.
    GuestReset("guest.reset", Guest, Controls, Json) {}
    /// Registers of all of the guest's processors.
    GuestRegisters("guest.registers", Guest, Reads, Json) {}
    /// A piece of the guest's memory.
    GuestMemoryRead("guest.memory.read", Guest, Reads, Octets) {
        /// How `address` is meant.
        space: AddressSpace,
        /// The first octet.
        address: Address,
        /// How many octets.
        length: Whole<1, { 16 * MIB }>,
    }
    /// All of the guest's memory and its processors' registers as of one instant, while it runs on.
    GuestMemoryDump("guest.memory.dump", Guest, Reads, ElfCore) {
        /// For how long it may stand still for that; longer, and the dump is given up.
        most_pause_milliseconds: Whole<1, 10_000>,
    }
    /// Replace a piece of the guest's memory, if it is what is expected: all of it or nothing.
    GuestMemoryWrite("guest.memory.write", Guest, Writes, Json) {
        /// How `address` is meant.
        space: AddressSpace,
        /// The first octet.
        address: Address,
        /// What is there, and what is to be there.
        change: Replacement<4096>,
        /// After how long it is undone; 0: it stays.
        revert_after_seconds: Whole<0, 86_400>,
    }
    /// What the guest's screen shows.
    GuestScreenshot("guest.screenshot", Guest, Reads, Ppm) {}
    /// The end of what the guest wrote to its serial console.
    GuestConsole("guest.console", Guest, Reads, Text) {
        /// How much of it.
        most_octets: Whole<1, MIB>,
    }
    /// The memory of the process that plays the guest's machine, without the guest's own, and its threads' registers.
    HypervisorMemoryDump("hypervisor.memory.dump", Hypervisor, Reads, ElfCore) {
        /// For how long it may stand still for that; longer, and the dump is given up. 0: it is read while it runs.
        most_pause_milliseconds: Whole<0, 10_000>,
    }
    /// A piece of that memory.
    HypervisorMemoryRead("hypervisor.memory.read", Hypervisor, Reads, Octets) {
        /// The first octet, as the process addresses it.
        address: Address,
        /// How many octets.
        length: Whole<1, { 16 * MIB }>,
    }
    /// Registers of all of its threads.
    HypervisorRegisters("hypervisor.registers", Hypervisor, Reads, Json) {}
    /// Replace a piece of its code or data, if it is what is expected: all of it or nothing.
    HypervisorPatch("hypervisor.patch", Hypervisor, Writes, Json) {
        /// The first octet, as the process addresses it.
        address: Address,
        /// What is there, and what is to be there.
        change: Replacement<4096>,
        /// After how long it is undone; 0: it stays.
        revert_after_seconds: Whole<0, 86_400>,
    }
    /// Set a property of a device of the running machine.
    HypervisorSet("hypervisor.set", Hypervisor, Writes, Json) {
        /// The device, by its path in the machine.
        device: Text<256>,
        /// Which of its properties.
        property: Text<64>,
        /// Its new value.
        value: Text<256>,
    }
    /// A piece of the host's kernel's memory, where its lockdown allows that.
    HostKernelRead("host.kernel.read", Host, Reads, Octets) {
        /// A symbol of the kernel.
        symbol: Text<SYMBOL>,
        /// How far behind the symbol's address the piece begins.
        offset: Whole<0, 0xffff_ffff>,
        /// How many octets.
        length: Whole<1, { 64 * KIB }>,
    }
    /// Stacks and counters of what runs on the host, sampled for a while.
    HostSample("host.sample", Host, Reads, Json) {
        /// For how long.
        seconds: Whole<1, 300>,
        /// How many samples a second.
        hertz: Whole<1, 999>,
    }
    /// The table of the host's switch: the flows of all guests that are open or were refused just now, each with its counts since it was last recorded.
    HostFlows("host.flows", Host, Reads, Json) {
        /// Only those with a packet within so many seconds.
        seconds: Whole<1, 3_600>,
        /// How many records at most, those with the newest packets; there is one for each direction.
        most_records: Whole<1, 100_000>,
    }
    /// How the host does: load, memory, pressure, disks, links, errors.
    HostHealth("host.health", Host, Reads, Json) {}
}

impl OperationName {
    /// Rises when arguments or meaning change: a request for another version is refused, not guessed at.
    pub const fn version(self) -> u32 {
        1
    }
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|operation| operation.name() == text)
    }
}

impl std::fmt::Display for OperationName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for OperationName {
    type Err = OperationError;
    fn from_str(text: &str) -> Result<Self, OperationError> {
        Self::find(text).ok_or_else(|| OperationError::Unknown(text.chars().take(64).collect()))
    }
}

/// An operation as it stands in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenOperation {
    name: String,
    version: u32,
    arguments: Value,
}

impl TryFrom<WrittenOperation> for Operation {
    type Error = OperationError;
    fn try_from(written: WrittenOperation) -> Result<Self, OperationError> {
        let name: OperationName = written.name.parse()?;
        if written.version != name.version() {
            return Err(OperationError::Version { name, own: name.version(), asked: written.version });
        }
        Self::with_arguments(name, written.arguments)
    }
}

impl From<Operation> for WrittenOperation {
    fn from(operation: Operation) -> Self {
        let name = operation.name();
        // Arguments of these types always have a JSON; nothing in its stead is read back by nobody.
        let arguments = operation.write_arguments().unwrap_or_default();
        Self { name: name.name().to_owned(), version: name.version(), arguments }
    }
}

impl Operation {
    /// The operation with these arguments: a JSON object with all of them and no other.
    pub fn with_arguments(name: OperationName, arguments: Value) -> Result<Self, OperationError> {
        let wrong = |cause: serde_json::Error| OperationError::Arguments { name, cause: cause.to_string() };
        Self::read_arguments(name, arguments).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_operation_is_documented_and_has_one_name() {
        for operation in OperationName::ALL {
            assert_eq!(operation.name().parse(), Ok(*operation));
            assert!(operation.name().starts_with(operation.layer().name()), "{operation}");
            assert!(operation.about().trim().ends_with('.'), "{operation}");
            for argument in operation.arguments() {
                assert!(!argument.about.is_empty() && !argument.limits.is_empty(), "{operation} {}", argument.name);
            }
        }
    }

    #[test]
    fn all_arguments_are_said_and_none_goes_beyond_its_limit() {
        let read = |arguments| Operation::with_arguments(OperationName::GuestMemoryRead, arguments);
        let good = json!({"space": "physical", "address": "0x1000", "length": 4096});
        assert!(read(good.clone()).is_ok());
        for (field, wrong) in [
            ("length", json!(0)),
            ("length", json!(16 * MIB + 1)),
            ("address", json!(4096)),
            ("address", json!("0x01000")),
            ("space", json!("user")),
            ("more", json!(1)),
        ] {
            let mut bad = good.clone();
            bad[field] = wrong;
            assert!(matches!(read(bad), Err(OperationError::Arguments { .. })), "{field}");
        }
        for field in ["space", "address", "length"] {
            let mut bad = good.clone();
            bad.as_object_mut().and_then(|members| members.remove(field)).expect("there");
            assert!(read(bad).is_err(), "{field} is not said");
        }
    }

    #[test]
    fn another_version_is_refused() {
        let written = |name: &str, version| WrittenOperation { name: name.to_owned(), version, arguments: json!({}) };
        assert!(Operation::try_from(written("host.health", 1)).is_ok());
        assert!(matches!(Operation::try_from(written("host.health", 2)), Err(OperationError::Version { .. })));
        assert!(matches!(Operation::try_from(written("host.shell", 1)), Err(OperationError::Unknown(_))));
    }
}
