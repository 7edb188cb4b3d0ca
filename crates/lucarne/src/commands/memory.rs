//! `lucarne memory`: how guests' memory is kept, where it is and was.

use clap::{Args, Subcommand, ValueEnum};
use lucarne_api::{
    bodies::memory::{EditMemory, MemoryHistory, MemoryOverview, ShownMemory},
    client::Client,
};
use lucarne_model::{
    Bytes, InstanceId,
    memory::{EvictionPolicy, MemoryMode, MemorySettings, MemoryThresholds, Priority},
};
use serde_json::Value;

use super::{Context, flow::Since};
use crate::{
    failure::{Failure, LocalCode},
    kind::{FAULT_COLUMNS, HOST_MEMORY_COLUMNS, INSTANCE, MEMORY_COLUMNS, MEMORY_POINT_COLUMNS},
    listing::resolve,
    output::{self, Format},
    session::{answer, json_of, now},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum MemoryCommand {
    /// Change how an instance's memory is kept; what is not given stays
    Set(Box<SetArgs>),
    /// Show where pages are: of one instance with its faults, or of all, and of the hosts for operators
    Show {
        /// An instance's id or name; all if not given
        id: Option<String>,
    },
    /// Show where an instance's pages were during the last hour
    History {
        /// The instance's id or name
        id: String,
        /// From when: so long ago (10m) or a time such as 2026-01-31T12:00:00Z; all that is kept if not given
        #[arg(long)]
        since: Option<Since>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Has what it was launched with
    Generic,
    /// Takes what others leave, and gives it back when they need it
    Soaker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Eviction {
    /// Pages that were not used for the longest
    Clock,
    /// Pages that are used least often, where uses long ago count less
    DecayedLfu,
    /// Any page
    Random,
}

/// What launches and `memory set` share.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "How its memory is kept")]
pub(crate) struct KeepingArgs {
    /// generic if never given
    #[arg(long = "memory-mode", visible_alias = "mode", value_enum, value_name = "MODE")]
    mode: Option<Mode>,
    /// A soaker's rank, 0 to 255: a higher one takes first and gives back last; 50 if never given
    #[arg(long, value_name = "P")]
    priority: Option<u8>,
    /// A soaker that would be left with less is paused, then hibernated; an eighth of its memory if never given
    #[arg(long, value_name = "AMOUNT")]
    minimum_operating: Option<Bytes>,
    /// A hibernated soaker comes back when it can have this much; a quarter of its memory if never given
    #[arg(long, value_name = "AMOUNT")]
    minimum_starting: Option<Bytes>,
    /// Let none of its pages leave the host's memory
    #[arg(long)]
    pin: bool,
    /// Resident memory above which its bucket fills; moves with the host's pressure if never given
    #[arg(long, value_name = "AMOUNT", requires = "drain_below")]
    fill_above: Option<Bytes>,
    /// Resident memory below which its bucket drains
    #[arg(long, value_name = "AMOUNT", requires = "fill_above")]
    drain_below: Option<Bytes>,
    /// Which pages leave first; clock if never given
    #[arg(long, value_enum, value_name = "POLICY")]
    eviction: Option<Eviction>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetArgs {
    /// The instance's id or name
    id: String,
    #[command(flatten)]
    keeping: KeepingArgs,
    /// Let its pages leave the host's memory again
    #[arg(long, conflicts_with = "pin")]
    unpin: bool,
    /// Let thresholds move with the host's pressure again
    #[arg(long, conflicts_with = "fill_above")]
    automatic_thresholds: bool,
}

impl KeepingArgs {
    fn edit(&self) -> EditMemory {
        let mode = |mode| match mode {
            Mode::Generic => MemoryMode::Generic,
            Mode::Soaker => MemoryMode::Soaker,
        };
        let eviction = |policy| match policy {
            Eviction::Clock => EvictionPolicy::Clock,
            Eviction::DecayedLfu => EvictionPolicy::DecayedLfu,
            Eviction::Random => EvictionPolicy::Random,
        };
        let thresholds = self.fill_above.zip(self.drain_below);
        EditMemory {
            mode: self.mode.map(mode),
            priority: self.priority.map(Priority),
            minimum_operating: self.minimum_operating,
            minimum_starting: self.minimum_starting,
            pinned: self.pin.then_some(true),
            thresholds: thresholds.map(|(fill_above, drain_below)| MemoryThresholds { fill_above, drain_below }),
            automatic_thresholds: false,
            eviction: self.eviction.map(eviction),
        }
    }

    /// What a launch asks for: what is given, and the defaults.
    pub(crate) fn settings(&self) -> MemorySettings {
        self.edit().applied_to(MemorySettings::default())
    }
}

impl SetArgs {
    fn edit(&self) -> EditMemory {
        let edit = self.keeping.edit();
        EditMemory {
            pinned: if self.unpin { Some(false) } else { edit.pinned },
            automatic_thresholds: self.automatic_thresholds,
            ..edit
        }
    }

    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let (session, edit) = (&context.session, self.edit());
        if edit == EditMemory::default() {
            return Err(Failure::wrong_usage(
                "say what is to be different; `lucarne memory set --help` has the options",
            ));
        }
        let id: InstanceId = resolve(session, &INSTANCE, &self.id).await?;
        let call = async |client: Client| answer(client.set_memory(&id, None, None, &edit)).await;
        context.made(&session.change(call).await?)
    }
}

impl MemoryCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Set(args) => args.run(context).await,
            Self::Show { id: Some(id) } => show_one(context, id).await,
            Self::Show { id: None } => show_all(context).await,
            Self::History { id, since } => history(context, id, *since).await,
        }
    }
}

async fn show_one(context: &Context, id: &str) -> Result<(), Failure> {
    let id: InstanceId = resolve(&context.session, &INSTANCE, id).await?;
    let shown: ShownMemory = context.session.read(async |client| answer(client.get_memory(&id)).await).await?;
    let value = json_of(&shown)?;
    context.format.print_value(&without_faults(context.format, &value))?;
    match (&shown.actual, context.format) {
        (Some(actual), Format::Table) if !actual.faults.is_empty() => {
            output::print("\n")?;
            let faults: Vec<Value> = actual.faults.iter().map(json_of).collect::<Result<_, _>>()?;
            context.format.print_list(&faults, FAULT_COLUMNS)
        }
        _ => Ok(()),
    }
}

/// People get faults as a table of their own.
fn without_faults(format: Format, value: &Value) -> Value {
    let mut value = value.clone();
    if format == Format::Table
        && let Some(actual) = value.get_mut("actual").and_then(Value::as_object_mut)
    {
        actual.remove("faults");
    }
    value
}

async fn show_all(context: &Context) -> Result<(), Failure> {
    let call = async |client: Client| answer(client.list_memory()).await;
    let overview: MemoryOverview = context.session.read(call).await?;
    if context.format != Format::Table {
        return context.format.print_value(&json_of(&overview)?);
    }
    if !overview.hosts.is_empty() {
        let hosts: Vec<Value> = overview.hosts.iter().map(json_of).collect::<Result<_, _>>()?;
        context.format.print_list(&hosts, HOST_MEMORY_COLUMNS)?;
        output::print("\n")?;
    }
    let instances: Vec<Value> = overview.instances.iter().map(json_of).collect::<Result<_, _>>()?;
    context.format.print_list(&instances, MEMORY_COLUMNS)
}

async fn history(context: &Context, id: &str, since: Option<Since>) -> Result<(), Failure> {
    let id: InstanceId = resolve(&context.session, &INSTANCE, id).await?;
    let since = since.map(|since| since.moment(now()));
    let call = async |client: Client| answer(client.get_memory_history(&id, since.as_ref())).await;
    let history: MemoryHistory = context.session.read(call).await?;
    if context.format != Format::Table {
        return context.format.print_value(&json_of(&history)?);
    }
    let points: Vec<Value> = history.points.iter().map(json_of).collect::<Result<_, _>>()?;
    if points.is_empty() {
        let why = "nothing has been told of it since the controller started";
        return Err(Failure::local(LocalCode::UnexpectedAnswer, why));
    }
    context.format.print_list(&points, MEMORY_POINT_COLUMNS)
}
