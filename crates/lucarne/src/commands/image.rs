//! `lucarne image`: images built here or brought along, uploaded and registered.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args, Subcommand, ValueEnum};
use lucarne_api::bodies::storage::{CreateImage, ImageSource, WarmImage};
use lucarne_model::{
    Bytes, ImageId, Vcpus,
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
    listing::resolve,
    session::{Session, answer},
    wait::Progress,
};

/// How long a wait for warm states lasts at most, and between two looks.
const WARMING: Duration = Duration::from_secs(600);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ImageCommand {
    /// Build an image from Debian packages, and register it
    Build(BuildArgs),
    /// Register a disk image, qcow2 or raw
    Import(ImportArgs),
    /// Have hosts boot an image once and save it; launches of that size then go on from there
    Warm(WarmArgs),
    /// Have hosts delete the warm states of images
    Cool {
        /// Ids or names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    #[command(flatten)]
    Basics(Basics),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WarmArgs {
    /// Its id or name
    id: String,
    /// The memory of the instances that it is for
    #[arg(long, default_value = "256M")]
    memory: Bytes,
    /// Their virtual processors
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// Wait until every host that makes it has it
    #[arg(long)]
    wait: bool,
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
            Self::Warm(args) => args.run(context).await,
            Self::Cool { ids } => {
                let session = &context.session;
                let cool = async |id: String| {
                    let id = id.parse().map_err(|_| Failure::wrong_usage("not an image id"))?;
                    session.change(async |client| answer(client.cool_image(&id, None, None)).await).await
                };
                context.each(&IMAGE, ids, cool).await.map(drop)
            }
            Self::Basics(basics) => basics.run(context, &IMAGE).await,
        }
    }
}

impl WarmArgs {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let session = &context.session;
        let id: ImageId = resolve(session, &IMAGE, &self.id).await?;
        let body = WarmImage { vcpus: Some(Vcpus(self.cpus)), memory: Some(self.memory) };
        let warmed =
            async |client: lucarne_api::client::Client| answer(client.warm_image(&id, None, None, &body)).await;
        let mut image: Value = session.change(warmed).await?;
        let progress = Progress::start(format!("{id}: hosts boot and save it"));
        let started = Instant::now();
        while self.wait && !self.is_ready(&image)? {
            if started.elapsed() > WARMING {
                let detail = format!("{id} is still being saved after {} s", WARMING.as_secs());
                return Err(Failure::local(LocalCode::WaitFailed, detail));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
            image = session.read(async |client| answer(client.get_image(&id)).await).await?;
        }
        drop(progress);
        context.made(&image)
    }

    /// Whether every host that has spoken of it has it. A host that cannot is why the wait ends.
    fn is_ready(&self, image: &Value) -> Result<bool, Failure> {
        let states = image["warm_states"].as_array().into_iter().flatten();
        let mut ours = states.filter(|state| state["memory"] == self.memory.0 && state["vcpus"] == self.cpus);
        let hosts = ours.next().and_then(|state| state["hosts"].as_array()).cloned().unwrap_or_default();
        if let Some(failed) = hosts.iter().find(|host| host["state"] == "failed") {
            let reason = failed["reason"].as_str().unwrap_or("no reason was given");
            return Err(Failure::local(LocalCode::WaitFailed, format!("a host could not make it: {reason}")));
        }
        Ok(!hosts.is_empty() && hosts.iter().all(|host| host["state"] == "ready"))
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
