//! The command line as a whole: global options and nouns. Help, completions and manual pages derive from it.
//!
//! Owns the top level only: each noun's verbs are defined in its own file under `commands`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    commands::{
        Context, Reads,
        attest_policy::AttestPolicyCommand,
        attestation::AttestationCommand,
        documents,
        event::EventCommand,
        finding::FindingCommand,
        flow::FlowCommand,
        flow_log::FlowLogCommand,
        host::HostCommand,
        identity::{AccessKeyCommand, AccountCommand, UserCommand},
        image::ImageCommand,
        instance::InstanceCommand,
        load::LoadCommand,
        login::LoginArgs,
        manifest::ManifestCommand,
        measurements::MeasurementsCommand,
        memory::MemoryCommand,
        mitigation::MitigationCommand,
        network::{SubnetCommand, VpcCommand},
        network_acl::NetworkAclCommand,
        notary::NotaryCommand,
        pager::{LenderArgs, PagerArgs},
        price_book::PriceBookCommand,
        process::{CollectorArgs, ControllerArgs},
        publisher::PublisherCommand,
        recording::RecordingCommand,
        replay::ReplayCommand,
        replica::ReplicaCommand,
        route_table::RouteTableCommand,
        scaling_group::ScalingGroupCommand,
        seal::SealCommand,
        security_group::SecurityGroupCommand,
        storage::{SnapshotCommand, VolumeCommand},
        tag::TagCommand,
        tpm_maker::TpmMakerCommand,
        trigger::TriggerCommand,
        usage::UsageCommand,
    },
    configuration::{ConfigFile, Configuration},
    demo::DemoArgs,
    dev::DevArgs,
    failure::Failure,
    kind::{INTERFACE, JOB},
    output::Format,
    session::{Manners, Session},
};

/// A self-hosted, multi-tenant cloud of virtual machines.
#[derive(Parser, Clone, Debug)]
#[command(name = "lucarne", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// How to print: json is the API's own shape
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    /// The controller; LUCARNE_ENDPOINT or the profile's if not given
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// A profile of ~/.config/lucarne/config.toml
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Speak unencrypted HTTP with other machines too
    #[arg(long, global = true)]
    pub(crate) allow_plaintext: bool,
    /// Check everything and change nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// Makes a repeated command do nothing a second time; random if not given
    #[arg(long, global = true, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Run all of it on this machine
    Dev(DevArgs),
    /// Play the demonstration on real VMs, and print what it saw
    Demo(DemoArgs),
    /// Keep an endpoint and an access key as a profile
    Login(LoginArgs),

    /// Accounts: the owners of everything
    #[command(subcommand)]
    Account(AccountCommand),
    /// Users of the caller's account
    #[command(subcommand)]
    User(UserCommand),
    /// Access keys, with which programs get tokens
    #[command(subcommand)]
    AccessKey(AccessKeyCommand),
    /// Hosts (for operators); without a verb, the host agent's process
    Host(HostCommand),
    /// Makers whose TPMs hosts may prove themselves with (for operators)
    #[command(subcommand)]
    TpmMaker(TpmMakerCommand),
    /// Images that instances boot from
    #[command(subcommand)]
    Image(ImageCommand),

    /// VPCs: address spaces of their own
    #[command(subcommand)]
    Vpc(VpcCommand),
    /// Subnets of VPCs
    #[command(subcommand)]
    Subnet(SubnetCommand),
    /// Route tables
    #[command(subcommand)]
    RouteTable(RouteTableCommand),
    /// Network ACLs: numbered entries that judge what enters and leaves subnets
    #[command(subcommand)]
    NetworkAcl(NetworkAclCommand),
    /// Security groups: what may reach and leave instances
    #[command(subcommand)]
    SecurityGroup(SecurityGroupCommand),
    /// Network interfaces of instances
    #[command(subcommand)]
    Interface(Reads),

    /// Volumes: disks that outlive instances
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Snapshots of volumes
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Instances: the VMs
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Guests' memory: how it is kept, and where
    #[command(subcommand)]
    Memory(MemoryCommand),
    /// Attestations: what hosts proved of instances, and the answers to that
    #[command(subcommand)]
    Attestation(AttestationCommand),
    /// What hosts must prove of every instance of a VPC
    #[command(subcommand)]
    AttestPolicy(AttestPolicyCommand),
    /// Publishers whose manifests the account trusts
    #[command(subcommand)]
    Publisher(PublisherCommand),
    /// Measurements that the account trusts
    #[command(subcommand)]
    Measurements(MeasurementsCommand),
    /// What memory was held, and what it costs
    #[command(subcommand)]
    Usage(UsageCommand),
    /// Price books: what memory costs, for whom, since when
    #[command(subcommand)]
    PriceBook(PriceBookCommand),
    /// Tags of any resource
    #[command(subcommand)]
    Tag(TagCommand),

    /// Reference manifests: what a notary says that hosts should run
    #[command(subcommand)]
    Manifest(ManifestCommand),

    /// Sealed operations: privileged work asked for by signed requests, whose results only their readers open
    #[command(subcommand)]
    Seal(SealCommand),

    /// Flow records: what the packets did
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Flow logs: standing orders for flow records
    #[command(subcommand)]
    FlowLog(FlowLogCommand),
    /// Recordings: the frames of a network, in a file that other programs open
    #[command(subcommand)]
    Recording(RecordingCommand),
    /// Events: what happened to the account's things without anybody asking for it
    #[command(subcommand)]
    Event(EventCommand),
    /// Findings: what flow records show that somebody should look at
    #[command(subcommand)]
    Finding(FindingCommand),
    /// Mitigations: traffic that is blocked or capped (for operators)
    #[command(subcommand)]
    Mitigation(MitigationCommand),
    /// Replicas: running networks duplicated, with what their instances have in memory and on disk
    #[command(subcommand)]
    Replica(ReplicaCommand),
    /// Replays: recordings played into duplicates, and the answers compared with the recorded ones
    #[command(subcommand)]
    Replay(ReplayCommand),
    /// Loads: requests that are made up, and asked inside duplicates
    #[command(subcommand)]
    Load(LoadCommand),
    /// Scaling groups: alike instances of a network, as many as they need to be
    #[command(subcommand)]
    ScalingGroup(ScalingGroupCommand),
    /// Triggers: networks duplicated and recorded when something happens to them
    #[command(subcommand)]
    Trigger(TriggerCommand),
    /// Jobs: the workflows of launches, moves, replicas and terminations
    #[command(subcommand)]
    Job(Reads),

    /// The process that answers the API
    Controller(ControllerArgs),
    /// The process that keeps flow records
    Collector(CollectorArgs),
    /// Notaries that the controller may ask; without a verb, the process of the third party who publishes what hosts should
    /// run
    Notary(NotaryCommand),
    /// The process that moves one VM's memory between the host and cheaper places; host agents start it
    Pager(PagerArgs),
    /// The process that keeps copies of other hosts' pages in idle memory; host agents start it
    Lender(LenderArgs),
    /// The process that carries out one sealed operation; host agents start it
    #[command(hide = true)]
    Sealer,
    /// Print a shell's completion script
    Completions { shell: Shell },
    /// Print the manual page
    Man {
        /// Write all pages into this folder instead, one for each command
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

impl CommandLine {
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let global = &self.global;
        match &self.command {
            Command::Dev(args) => args.run(global.allow_plaintext).await,
            Command::Controller(args) => args.run(global.allow_plaintext).await,
            Command::Collector(args) => args.run().await,
            Command::Notary(NotaryCommand { verb: None, process: Some(process) }) => process.run().await,
            Command::Notary(NotaryCommand { verb: None, process: None }) => Err(Failure::wrong_usage(
                "say `lucarne notary add|list|show|remove`, or give the notary's process its options",
            )),
            Command::Attestation(AttestationCommand::Verify(args)) => args.run(global.output),
            Command::Seal(command) => command.run(global).await,
            Command::Manifest(command) => command.run(global.output, global.allow_plaintext).await,
            Command::Pager(args) => args.run().await,
            Command::Lender(args) => args.run().await,
            Command::Host(HostCommand { verb: None, agent: Some(agent) }) => agent.run().await,
            Command::Host(HostCommand { verb: None, agent: None }) => Err(Failure::wrong_usage(
                "say `lucarne host list|show|drain|resume|delete`, or give the agent its options",
            )),
            Command::Completions { shell } => documents::completions(*shell),
            Command::Man { out } => documents::man(out.as_ref()),
            Command::Login(args) => {
                args.run(global.profile.as_deref(), global.endpoint.as_deref(), global.allow_plaintext).await
            }
            Command::Demo(args) => args.run(global).await,
            asking => asking.ask(&Context { session: global.session()?, format: global.output }).await,
        }
    }
}

impl Global {
    pub(crate) fn session(&self) -> Result<Session, Failure> {
        let file = ConfigFile::read(&ConfigFile::path())?;
        let environment = |name: &str| std::env::var(name).ok();
        let configuration =
            Configuration::choose(self.endpoint.as_deref(), self.profile.as_deref(), environment, &file)?;
        Session::new(configuration, self.manners())
    }

    pub(crate) fn manners(&self) -> Manners {
        Manners {
            allow_plaintext: self.allow_plaintext,
            dry_run: self.dry_run,
            idempotency_key: self.idempotency_key.clone(),
            keep_token: true,
        }
    }
}

impl Command {
    /// How many threads its tasks need, if not as many as there are processors. Agents and collectors mostly wait, and on a
    /// large machine the memory of idle threads would be most of what they have.
    pub(crate) fn worker_threads(&self) -> Option<usize> {
        match self {
            Self::Collector(_)
            | Self::Notary(NotaryCommand { verb: None, .. })
            | Self::Host(HostCommand { verb: None, .. }) => Some(2),
            Self::Pager(_) | Self::Lender(_) => Some(1),
            _ => None,
        }
    }

    /// The nouns that ask the controller.
    async fn ask(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Account(command) => command.run(context).await,
            Self::User(command) => command.run(context).await,
            Self::AccessKey(command) => command.run(context).await,
            Self::Host(HostCommand { verb: Some(verb), .. }) => verb.run(context).await,
            Self::TpmMaker(command) => command.run(context).await,
            Self::Image(command) => command.run(context).await,
            Self::Vpc(command) => command.run(context).await,
            Self::Subnet(command) => command.run(context).await,
            Self::RouteTable(command) => command.run(context).await,
            Self::NetworkAcl(command) => command.run(context).await,
            Self::SecurityGroup(command) => command.run(context).await,
            Self::Interface(reads) => reads.run(context, &INTERFACE).await,
            Self::Volume(command) => command.run(context).await,
            Self::Snapshot(command) => command.run(context).await,
            Self::Instance(command) => command.run(context).await,
            Self::Memory(command) => command.run(context).await,
            Self::Attestation(command) => command.run(context).await,
            Self::Measurements(command) => command.run(context).await,
            Self::AttestPolicy(command) => command.run(context).await,
            Self::Publisher(command) => command.run(context).await,
            Self::Notary(NotaryCommand { verb: Some(verb), .. }) => verb.run(context).await,
            Self::Usage(command) => command.run(context).await,
            Self::Tag(command) => command.run(context).await,
            Self::Flow(command) => command.run(context).await,
            Self::FlowLog(command) => command.run(context).await,
            Self::Recording(command) => command.run(context).await,
            Self::Replay(command) => command.run(context).await,
            Self::Load(command) => command.run(context).await,
            Self::Event(command) => command.run(context).await,
            Self::Finding(command) => command.run(context).await,
            Self::Mitigation(command) => command.run(context).await,
            Self::PriceBook(command) => command.run(context).await,
            Self::Replica(command) => command.run(context).await,
            Self::ScalingGroup(command) => command.run(context).await,
            Self::Trigger(command) => command.run(context).await,
            Self::Job(reads) => reads.run(context, &JOB).await,
            // Those that ask no controller were taken care of before.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
