//! `lucarne measurements`: the account's list of what it trusts, and named configurations of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lucarne_api::{
    bodies::attestation::{AddMeasurements, AddedMeasurements},
    client::Client,
};
use lucarne_model::{Component, Measurement, storage::Digest};
use serde_json::Value;

use super::{Context, Reads, attestation};
use crate::{
    failure::{Failure, LocalCode},
    kind::{INSTANCE, MEASUREMENT},
    listing::resolve,
    output::{self, Format},
    session::{answer, json_of},
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum MeasurementsCommand {
    /// Put measurements into the list, and print their ids
    Add(AddArgs),
    #[command(flatten)]
    Reads(Reads),
    /// Take measurements out of the list, and print their ids
    Remove {
        /// Ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The configuration that they are part of, for `--attest config=NAME`
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// For the account's own memory: where they are from, who checked them
    #[arg(long)]
    note: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct SourceArgs {
    /// All that was measured of this instance, by its id or name
    #[arg(long, value_name = "INSTANCE")]
    from: Option<String>,
    /// A JSON list of measurements: `component`, `name` and `digest`
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A single one, such as `hypervisor:qemu-system-x86_64:9f86...`
    #[arg(long, value_name = "COMPONENT:NAME:DIGEST", value_parser = parse_measurement)]
    measurement: Option<Measurement>,
}

fn parse_measurement(text: &str) -> Result<Measurement, String> {
    let expected = || "write COMPONENT:NAME:DIGEST".to_owned();
    let (component, rest) = text.split_once(':').ok_or_else(expected)?;
    let (name, digest) = rest.rsplit_once(':').ok_or_else(expected)?;
    let component: Component =
        component.parse().map_err(|cause: lucarne_model::measurement::ParseComponentError| cause.to_string())?;
    let digest: Digest = digest.parse().map_err(|cause: lucarne_model::storage::ParseDigestError| cause.to_string())?;
    Ok(Measurement { component, name: name.into(), digest })
}

impl SourceArgs {
    async fn measurements(&self, context: &Context) -> Result<Vec<Measurement>, Failure> {
        if let Some(path) = &self.file {
            let unreadable =
                |cause: String| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display()));
            let text = std::fs::read(path).map_err(|cause| unreadable(cause.to_string()))?;
            return serde_json::from_slice(&text).map_err(|cause| unreadable(cause.to_string()));
        }
        let Some(instance) = &self.from else { return Ok(self.measurement.iter().cloned().collect()) };
        let id = resolve(&context.session, &INSTANCE, instance).await?;
        let shown = attestation::shown(&context.session, id).await?;
        let measured = shown.measurements.into_iter().map(|judged| judged.measurement);
        // What is this instance's own would fit no other.
        Ok(measured.filter(|one| !one.component.is_instances_own()).collect())
    }
}

impl AddArgs {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let measurements = self.source.measurements(context).await?;
        let body = AddMeasurements { measurements, configuration: self.config.clone(), note: self.note.clone() };
        let call = async |client: Client| answer(client.add_measurements(None, None, &body)).await;
        let added: AddedMeasurements = context.session.change(call).await?;
        match context.format {
            Format::Table => output::print(&added.items.iter().map(|one| format!("{}\n", one.id)).collect::<String>()),
            format => format.print_value(&json_of(&added)?),
        }
    }
}

impl MeasurementsCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Add(args) => args.run(context).await,
            Self::Reads(reads) => reads.run(context, &MEASUREMENT).await,
            Self::Remove { ids } => {
                let Some(remove) = MEASUREMENT.delete else { return Ok(()) };
                let change = async |id: String| -> Result<Value, Failure> {
                    context.session.change(async |client| remove(client, id.clone()).await).await
                };
                context.each(&MEASUREMENT, ids, change).await.map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_read_from_its_three_parts_and_its_name_may_have_colons() {
        let digest = "0".repeat(64);
        let read = parse_measurement(&format!("pci-function:0000:00:1f.2:{digest}")).unwrap();
        assert_eq!((read.component, read.name.as_str()), (Component::PciFunction, "0000:00:1f.2"));
        for wrong in ["agent", "agent:lucarne", "agent:lucarne:beef", "soul:x:00"] {
            assert!(parse_measurement(wrong).is_err(), "{wrong}");
        }
    }
}
