//! `lucarne image`: images built here or brought along, uploaded and registered.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use lucarne_api::bodies::storage::{CreateImage, ImageSource};
use lucarne_model::{
    Bytes,
    storage::{Blob, Digest, DiskFormat},
};
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::{Basics, Context, TagArgs};
use crate::{
    configuration::folder,
    failure::{Failure, LocalCode},
    image::tiny,
    kind::IMAGE,
    session::{Session, answer},
    wait::Progress,
};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ImageCommand {
    /// Build an image from Debian packages, and register it
    Build(BuildArgs),
    /// Register a disk image, qcow2 or raw
    Import(ImportArgs),
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recipe {
    /// Debian's cloud kernel with busybox, all in memory
    Tiny,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BuildArgs {
    recipe: Recipe,
    /// What it is called; the recipe's name if not given
    #[arg(long)]
    name: Option<String>,
    /// Let every account launch it (operators only)
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    tags: TagArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Qcow2,
    Raw,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ImportArgs {
    file: PathBuf,
    /// What it is called; the file's name if not given
    #[arg(long)]
    name: Option<String>,
    /// Refuse the file unless it is of this format; found from its content if not given
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The least memory that it boots with
    #[arg(long)]
    minimum_memory: Option<Bytes>,
    /// Let every account launch it (operators only)
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    tags: TagArgs,
}

impl ImageCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Build(args) => {
                let Recipe::Tiny = args.recipe;
                let name = args.name.clone().unwrap_or_else(|| "tiny".into());
                let mut image = build_tiny(&context.session, name, args.public).await?;
                image.tags = args.tags.tags();
                context.made(&register(&context.session, &image).await?)
            }
            Self::Import(args) => context.made(&args.run(&context.session).await?),
            Self::Basics(basics) => basics.run(context, &IMAGE).await,
        }
    }
}

/// Builds the tiny image, from its cache where nothing changed, and uploads its parts.
pub(crate) async fn build_tiny(session: &Session, name: String, public: bool) -> Result<CreateImage, Failure> {
    let cache = folder("XDG_CACHE_HOME", ".cache").join("images");
    let progress = Progress::start("building the image tiny");
    let out = cache.join("ready");
    let build = tokio::task::spawn_blocking(move || (tiny::build(&cache, &out, |step| progress.say(step)), progress));
    let (built, progress) = build.await.map_err(|error| Failure::caused(LocalCode::ImageBuildFailed, &error))?;
    let built = built.map_err(|error| Failure::caused(LocalCode::ImageBuildFailed, &error))?;
    progress.say("uploading the image tiny");
    let kernel = upload(session, &built.kernel).await?;
    let initramfs = upload(session, &built.initramfs).await?;
    let source = ImageSource::Kernel { kernel, initramfs, command_line: built.command_line };
    let tags = lucarne_model::Tags::default();
    Ok(CreateImage { name, source, minimum_memory: Some(built.minimum_memory), public, tags })
}

pub(crate) async fn register(session: &Session, image: &CreateImage) -> Result<Value, Failure> {
    session.change(async |client| answer(client.create_image(None, None, image)).await).await
}

impl ImportArgs {
    async fn run(&self, session: &Session) -> Result<Value, Failure> {
        let progress = Progress::start(format!("uploading {}", self.file.display()));
        let disk = upload(session, &self.file).await?;
        drop(progress);
        let format = self.format.map(|format| match format {
            Format::Qcow2 => DiskFormat::Qcow2,
            Format::Raw => DiskFormat::Raw,
        });
        let stem = || self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let image = CreateImage {
            name: self.name.clone().unwrap_or_else(stem),
            source: ImageSource::Disk { disk, format },
            minimum_memory: self.minimum_memory,
            public: self.public,
            tags: self.tags.tags(),
        };
        register(session, &image).await
    }
}

/// Sends the file's bytes and returns the digest that the controller found. Each try opens the file anew.
async fn upload(session: &Session, path: &Path) -> Result<Digest, Failure> {
    let call = async |client: lucarne_api::client::Client| {
        let file = tokio::fs::File::open(path)
            .await
            .map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", path.display())))?;
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 256 << 10));
        answer::<_, Blob>(client.upload_blob(body)).await
    };
    Ok(session.stream(call).await?.digest)
}
