//! `lucarne flow export`: a network's flows as a file, folded as one router would have seen them.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use futures::StreamExt;
use lucarne_api::client::Client;
use lucarne_model::{VpcId, flow_log::ExportFormat};

use super::{
    Context,
    flow::{Since, parse_word},
};
use crate::{
    failure::{Failure, LocalCode},
    kind::VPC,
    listing::resolve,
    session::{byte_stream, now},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// The VPC's id or name
    #[arg(long)]
    vpc: String,
    /// From when: so long ago (10m, 2h) or a time such as 2026-01-31T12:00:00Z
    #[arg(long, default_value = "1h")]
    since: Since,
    /// Until when, in the same forms; now if not given
    #[arg(long)]
    until: Option<Since>,
    /// ipfix (RFC 5655), aws, csv, jsonl or parquet
    #[arg(long, default_value = "ipfix", value_parser = parse_word::<ExportFormat>)]
    format: ExportFormat,
    /// Of aws: which fields, as in '${srcaddr} ${dstaddr} ${end-reason}', or all
    #[arg(long)]
    fields: Option<String>,
    /// Name the router's ports by instance and not by subnet
    #[arg(long)]
    by_instance: bool,
    /// Where to write it; - is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl ExportArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let vpc: VpcId = resolve(session, &VPC, &self.vpc).await?;
        let now = now();
        let (since, until) = (self.since.moment(now), self.until.map(|until| until.moment(now)));
        let call = async |client: Client| {
            let (by_instance, fields) = (Some(self.by_instance), self.fields.as_deref());
            let (format, since, until) = (Some(&self.format), Some(&since), until.as_ref());
            byte_stream(client.export_flows(by_instance, fields, format, since, until, &vpc)).await
        };
        let mut octets = session.stream(call).await?.into_inner();
        let mut out = open(&self.out)?;
        while let Some(chunk) = octets.next().await {
            let chunk = chunk
                .map_err(|cause| Failure::local(LocalCode::UnexpectedAnswer, format!("the file broke off: {cause}")))?;
            out.write_all(&chunk).map_err(|cause| unwritable(&self.out, &cause))?;
        }
        out.flush().map_err(|cause| unwritable(&self.out, &cause))
    }
}

pub(super) fn open(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = std::fs::File::create(path).map_err(|cause| unwritable(path, &cause))?;
    Ok(Box::new(io::BufWriter::new(file)))
}

pub(super) fn unwritable(path: &Path, cause: &io::Error) -> Failure {
    Failure::local(LocalCode::FileUnwritable, format!("{}: {cause}", path.display()))
}
