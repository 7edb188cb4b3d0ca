//! `lucarne seal keys|grants|policy`: what hosts are to go by, edited in a file, signed and published.
//!
//! Owns the draft: a policy's JSON, unsigned, that its operator keeps where the policy key is. What makes sense is the room
//! `seal`'s, and a draft that does not is not written.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use lucarne_api::bodies::sealing::SealPolicy;
use lucarne_attest::{canonical, signing::Envelope};
use lucarne_model::{AccountId, ErrorCode, storage::Digest};
use lucarne_seal::{
    key::VerifyingKey,
    policy::{Embargo, Policy},
    trust::{Authority, Enrolled, Person},
};
use serde_json::{Value, json};

use super::{
    attestation_verify::read_text,
    flow::parse_span,
    seal::{read_octets, read_signing_key, unreadable, write_public},
    seal_host, seal_hosts,
    seal_way::{At, Way, WayArgs},
};
use crate::{
    command_line::Global,
    failure::Failure,
    kind::{SEAL_GRANT_COLUMNS, SEAL_KEY_COLUMNS},
    private_file,
    session::{answer, json_of, now},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct DraftArgs {
    /// The draft of the policy
    #[arg(long, value_name = "FILE", env = "LUCARNE_SEAL_POLICY", default_value = "seal-policy.json")]
    policy: PathBuf,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum KeysCommand {
    /// Let a key count as a person's, or as an authority of an account
    Add {
        /// The public half: PEM, or a line of an SSH .pub file
        file: PathBuf,
        /// Whose key it is
        #[arg(long, required_unless_present = "authority")]
        person: Option<Person>,
        /// The account that the person or the authority is of
        #[arg(long, value_name = "ACCOUNT")]
        account: AccountId,
        /// It vouches for keys of that account's people
        #[arg(long, conflicts_with_all = ["person", "valid"])]
        authority: bool,
        /// For how long it counts
        #[arg(long, value_name = "SPAN", value_parser = parse_span)]
        valid: Option<Duration>,
        #[command(flatten)]
        draft: DraftArgs,
    },
    /// List keys
    List(DraftArgs),
    /// Let a key, an authority or a certificate count no longer, for good
    Remove {
        /// Its id
        id: Digest,
        #[command(flatten)]
        draft: DraftArgs,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum GrantsCommand {
    /// Add policies in Cedar under a name, in place of those that it named before
    Add {
        name: String,
        /// Their text
        file: PathBuf,
        #[command(flatten)]
        draft: DraftArgs,
    },
    /// List grants
    List(DraftArgs),
    /// Take grants away
    Remove {
        name: String,
        #[command(flatten)]
        draft: DraftArgs,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum PolicyCommand {
    /// Raise the draft's version, sign it, and have the controller carry it to all hosts
    Publish {
        /// The policy key, whose public half hosts were given
        #[arg(long, value_name = "FILE")]
        policy_key: PathBuf,
        /// Write the signed policy into this file too
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        way: WayArgs,
        #[command(flatten)]
        draft: DraftArgs,
    },
    /// Carry a policy that was signed elsewhere, as `publish --out` wrote it
    Carry {
        /// The signed policy
        file: PathBuf,
        #[command(flatten)]
        way: WayArgs,
    },
    /// Sign hosts' cards, as their operator: hosts that go by the policy then show that with their cards
    Vouch {
        /// Hosts' ids or names
        #[arg(required_unless_present_any = ["all", "card"])]
        hosts: Vec<String>,
        /// All that the controller knows, by whose word they are hosts
        #[arg(long, conflicts_with = "hosts")]
        all: bool,
        /// A card that was brought from the host itself, as `host-key --local --card-out` writes it
        #[arg(long, value_name = "FILE")]
        card: Vec<PathBuf>,
        /// The policy key, whose public half hosts were given
        #[arg(long, value_name = "FILE")]
        policy_key: PathBuf,
        #[command(flatten)]
        draft: DraftArgs,
    },
    /// Show what the controller carries
    Show,
    /// Let an account sign itself whatever is done to its instances
    Cosign {
        account: AccountId,
        /// Let it be as for the others
        #[arg(long)]
        off: bool,
        #[command(flatten)]
        draft: DraftArgs,
    },
    /// Log what a person asks for as commitments, which are opened when the time is over
    Embargo {
        person: Person,
        /// The person's account
        #[arg(long, value_name = "ACCOUNT")]
        account: AccountId,
        /// For how long; 0s ends it
        #[arg(long = "for", value_name = "SPAN", value_parser = parse_span)]
        span: Duration,
        #[command(flatten)]
        draft: DraftArgs,
    },
}

impl DraftArgs {
    fn read(&self) -> Result<Policy, Failure> {
        if !self.policy.exists() {
            return Ok(Policy::default());
        }
        serde_json::from_slice(&read_octets(&self.policy)?).map_err(|error| unreadable(&self.policy, error))
    }

    fn write(&self, policy: &Policy) -> Result<(), Failure> {
        policy.rules().map_err(|error| unusable(error.to_string()))?;
        let text = serde_json::to_vec_pretty(policy).map_err(|error| unreadable(&self.policy, error))?;
        private_file::write(&self.policy, &text)
    }

    fn change(&self, change: impl FnOnce(&mut Policy)) -> Result<(), Failure> {
        let mut policy = self.read()?;
        change(&mut policy);
        self.write(&policy)
    }
}

impl KeysCommand {
    pub(crate) fn run(&self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Add { file, person, account, valid, draft, .. } => {
                let key: VerifyingKey = read_text(file)?.parse().map_err(|error| unreadable(file, error))?;
                let (id, account) = (key.id(), *account);
                draft.change(|policy| match person {
                    Some(person) => {
                        let until = valid.map(|valid| now().plus(valid));
                        policy.people.push(Enrolled { person: person.clone(), account, key, until });
                    }
                    None => policy.authorities.push(Authority { account, key }),
                })?;
                global.output.print_change(&json!({"id": id}), id.as_str())
            }
            Self::List(draft) => global.output.print_list(&keys(&draft.read()?), SEAL_KEY_COLUMNS),
            Self::Remove { id, draft } => draft.change(|policy| {
                policy.people.retain(|person| person.key.id() != *id);
                policy.authorities.retain(|authority| authority.key.id() != *id);
                // What it vouched for, or somebody would vouch for again, does not count either.
                policy.revoked.insert(id.clone());
            }),
        }
    }
}

fn keys(policy: &Policy) -> Vec<Value> {
    let people = policy.people.iter().map(|one| {
        json!({"id": one.key.id(), "kind": "person", "person": one.person, "account": one.account, "until": one.until})
    });
    let authorities =
        policy.authorities.iter().map(|one| json!({"id": one.key.id(), "kind": "authority", "account": one.account}));
    let revoked = policy.revoked.iter().map(|id| json!({"id": id, "kind": "revoked"}));
    people.chain(authorities).chain(revoked).collect()
}

impl GrantsCommand {
    pub(crate) fn run(&self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Add { name, file, draft } => {
                let text = read_text(file)?;
                draft.change(|policy| drop(policy.grants.insert(name.clone(), text)))
            }
            Self::List(draft) => {
                let grants = draft.read()?.grants;
                let rows: Vec<Value> = grants.iter().map(|(name, text)| json!({"name": name, "text": text})).collect();
                global.output.print_list(&rows, SEAL_GRANT_COLUMNS)
            }
            Self::Remove { name, draft } => draft.change(|policy| drop(policy.grants.remove(name))),
        }
    }
}

impl PolicyCommand {
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Publish { policy_key, out, way, draft } => {
                publish(global, (policy_key, out.as_ref()), way, draft).await
            }
            Self::Carry { file, way } => {
                let octets = read_octets(file)?;
                let (policy, version) = read_signed(&octets)?;
                way.open(global)?.bring_policy((octets, version)).await?;
                global.output.print_change(&json!({"version": policy.version}), &format!("version {version}"))
            }
            Self::Vouch { hosts, all, card, policy_key, draft } => {
                vouch(global, (hosts, *all), card, (policy_key, draft)).await
            }
            Self::Show => {
                let carried: SealPolicy =
                    global.session()?.read(async |client| answer(client.get_seal_policy()).await).await?;
                global.output.print_value(&json_of(&read_signed(&carried.policy)?.0)?)
            }
            Self::Cosign { account, off, draft } => draft.change(|policy| {
                let _ = if *off { policy.cosigned.remove(account) } else { policy.cosigned.insert(*account) };
            }),
            Self::Embargo { person, account, span, draft } => draft.change(|policy| {
                policy.embargoes.retain(|one| (&one.person, one.account) != (person, *account));
                let seconds = span.as_secs();
                let new = Embargo { person: person.clone(), account: *account, seconds };
                policy.embargoes.extend(Some(new).filter(|_| seconds > 0));
            }),
        }
    }
}

/// A policy and its version, whoever signed it: each host judges that by its own pinned key.
fn read_signed(octets: &[u8]) -> Result<(Policy, u64), Failure> {
    let envelope: Envelope = canonical::read(octets).map_err(|error| unusable(error.to_string()))?;
    let policy: Policy = canonical::read(&envelope.payload).map_err(|error| unusable(error.to_string()))?;
    let version = policy.version;
    Ok((policy, version))
}

/// Puts the operator's word for each card into the draft.
async fn vouch(
    global: &Global,
    (hosts, all): (&[String], bool),
    cards: &[PathBuf],
    (policy_key, draft): (&Path, &DraftArgs),
) -> Result<(), Failure> {
    let key = read_signing_key(policy_key)?;
    let mut found = cards.iter().map(|path| read_octets(path)).collect::<Result<Vec<_>, _>>()?;
    if all || !hosts.is_empty() {
        let hosts = seal_hosts::chosen(&global.session()?, Some(hosts).filter(|_| !all)).await?;
        let way = Way::Controller(global.session()?);
        for host in hosts {
            found.push(way.describe(At { host: Some(host), instance: None }).await?.card.to_vec());
        }
    }
    let mut vouched = Vec::new();
    for octets in found {
        let (card, envelope) = seal_host::read_card(&octets)?;
        vouched.extend(key.sign_too(envelope).signatures.pop().map(|word| (card.host, word)));
    }
    let hosts: Vec<_> = vouched.iter().map(|(host, _)| *host).collect();
    draft.change(|policy| policy.vouched.extend(vouched))?;
    let said: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    global.output.print_change(&json!({"vouched": hosts}), &said.join(" "))
}

/// The draft keeps its version before it is said: two policies of one version would be two truths.
async fn publish(
    global: &Global,
    (policy_key, out): (&Path, Option<&PathBuf>),
    way: &WayArgs,
    draft: &DraftArgs,
) -> Result<(), Failure> {
    let key = read_signing_key(policy_key)?;
    let mut policy = draft.read()?;
    policy.version += 1;
    let envelope = key.sign(&policy).map_err(|error| unusable(error.to_string()))?;
    let octets = canonical::write(&envelope).map_err(|error| unusable(error.to_string()))?;
    draft.write(&policy)?;
    if let Some(path) = out {
        write_public(path, &octets)?;
    }
    way.open(global)?.bring_policy((octets, policy.version)).await?;
    global.output.print_change(&json!({"version": policy.version}), &format!("version {}", policy.version))
}

fn unusable(detail: String) -> Failure {
    Failure::problem(ErrorCode::SealPolicyUnusable, detail)
}
