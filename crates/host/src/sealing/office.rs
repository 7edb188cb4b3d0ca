//! The office: a request comes in as octets, and goes out as work that must be done, or with the receipt of a refusal.
//!
//! Owns the order of things. What is taken has its place on the shelf, then its line in the register, then it is work; what
//! comes of it has its receipt on disk before anybody hears of it. Nothing here waits for work to be done, and whoever kills
//! this at any point finds at the next start that nothing is done twice. Judging is the room `seal`'s.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use lucarne_model::{
    AccountId, HostId, InstanceId, Moment, Octets,
    evidence::RegisterQuote,
    sealing::{SealAnswer, SealHost, SealStanding},
    storage::Digest,
    tpm::PresentedTpm,
};
use lucarne_seal::{
    bounded::Whole,
    card::Beacon,
    judge::{self, Held, Life, Site},
    ledger::Mark,
    log::{Asked, BLINDING, Content, Opening, Record, Verdict},
    operation::{Layer, Operation, OperationName},
    receipt::{Outcome, Receipt, SealedResult, Tally},
    refusal::Refusal,
    request::{Nonce, Request, RequestId, ResultTerms, TargetInstance},
    standing::Standing,
    trust::{Channel, Opened, Person, Signer, read_envelope_of},
};
use lucarne_sealer::{Done, Failure};
use lucarne_statement::{
    canonical,
    signing::{Envelope, PublicKey, SigningError},
};

use super::{
    beacons::{Beacons, Clocks},
    desk::Carrier,
    keys::{HostKeys, KeysError, Reading, random, signed},
    owners::Owners,
    register::{Concerns, News, Reader, Register, RegisterError},
    shelf::{KEPT, Shelf, Stay},
    standing_policy::StandingPolicy,
    standing_requests::StandingRequests,
};
use recurring::seed;

mod recurring;

/// How much is done at the same time.
pub(crate) const MOST_RUNNING: usize = 4;
/// How much waits for that.
pub(crate) const MOST_QUEUED: usize = 64;

/// Why there is no office.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfficeError {
    #[error("{path}: {cause}")]
    Folder {
        path: std::path::PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("no random numbers could be drawn")]
    Random,
    #[error("what this host says of itself could not be signed: {0}")]
    Card(#[from] SigningError),
    #[error("the vocabulary of seal policies: {0}")]
    Policy(#[from] lucarne_seal::policy::PolicyError),
}

/// An instance that runs here or is stopped here, by this host's own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) instance: InstanceId,
    pub(crate) account: AccountId,
    pub(crate) generation: u64,
    pub(crate) life: Life,
}

/// What is to be done for a request that was taken.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) id: RequestId,
    pub(crate) operation: Operation,
    pub(crate) instance: Option<TargetInstance>,
    pub(crate) terms: ResultTerms,
    /// Where its result goes.
    pub(crate) out: File,
}

/// What came of octets that were brought.
#[derive(Debug)]
pub(crate) enum Taken {
    Work(Box<Work>),
    Refused {
        request: RequestId,
        receipt: Octets,
    },
    /// It is kept, and carried out when its times come.
    Stands {
        request: RequestId,
    },
    /// Nothing was taken, and nothing is to be remembered.
    Busy,
    Unavailable,
}

/// How the work on a request ended.
pub(crate) type Ended = Result<Carried, Failure>;

/// What was carried out, and what this host's TPM said of the host then.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) outcome: Outcome,
    pub(crate) quote: Option<RegisterQuote>,
}

impl Carried {
    pub(crate) const fn unquoted(work: &Work, done: Done, result: SealedResult) -> Self {
        let Done { consistency, paused_nanoseconds } = done;
        let outcome = Outcome::Done { operation: work.operation.name(), result, consistency, paused_nanoseconds };
        Self { outcome, quote: None }
    }
}

#[derive(Debug)]
pub(crate) struct Office {
    host: HostId,
    keys: HostKeys,
    card: Envelope,
    register: Register,
    shelf: Shelf,
    standing: StandingRequests,
    policy: StandingPolicy,
    beacons: Beacons,
    owners: Owners,
    instances: Arc<Vec<Present>>,
    /// What is under way, and its place in the log.
    under_way: BTreeMap<RequestId, (OperationName, u64)>,
}

impl Office {
    /// Begins where the office before ended: what a kill cut off gets the receipt of a failure.
    pub(crate) fn open(
        folder: &Path,
        (host, policy_key, tpm): (HostId, Option<PublicKey>, Option<PresentedTpm>),
        reading: Reading,
        space: u64,
        clocks: Clocks,
    ) -> Result<Self, OfficeError> {
        let failed = |cause| OfficeError::Folder { path: folder.to_owned(), cause };
        make_folder(folder).map_err(failed)?;
        let keys = HostKeys::read_or_make(folder, reading)?;
        let card = keys.card(host, tpm)?;
        let register = Register::open(&folder.join("register"), clocks.now)?;
        let (stands, seed) = (|id: &RequestId| register.taken(id).is_some(), |id: &RequestId| seed(&keys, id));
        let standing = StandingRequests::open(&folder.join("standing"), clocks.now, stands, seed).map_err(failed)?;
        let mut office = Self {
            host,
            keys,
            card,
            register,
            standing,
            shelf: Shelf::open(&folder.join("results"), space).map_err(failed)?,
            policy: StandingPolicy::open(folder, policy_key)?,
            beacons: Beacons::new(nonce().ok_or(OfficeError::Random)?, clocks),
            owners: Owners::open(&folder.join("owners.json")).map_err(failed)?,
            instances: Arc::default(),
            under_way: BTreeMap::new(),
        };
        office.end_what_was_cut_off(clocks.now);
        Ok(office)
    }

    fn end_what_was_cut_off(&mut self, now: Moment) {
        for id in self.shelf.unfinished() {
            let Some((log_index, operation)) = self.register.taken(&id) else {
                self.shelf.give_up(&id);
                continue;
            };
            tracing::warn!(request = %id, "a sealed operation was cut off; it is not tried again");
            self.under_way.insert(id.clone(), (operation, log_index));
            self.end(&id, Err(Failure::Broken { doing: "go on", cause: "the host agent ended".to_owned() }), now);
        }
    }

    pub(crate) const fn host(&self) -> HostId {
        self.host
    }

    /// What is here now.
    pub(crate) fn see(&mut self, instances: Arc<Vec<Present>>, now: Moment) {
        match self.owners.hear(&instances, now) {
            Ok(contradicted) => contradicted.into_iter().for_each(|(present, first)| {
                tracing::error!(instance = %present.instance, heard = %present.account, %first, "an instance is said to be another account's by now; its sealed requests are refused");
            }),
            Err(error) => {
                tracing::error!(%error, "whose new instances are could not be kept; their sealed requests are refused");
            }
        }
        self.instances = instances;
    }

    pub(crate) fn take_policy(&mut self, octets: &Octets) {
        match self.policy.take(octets) {
            Ok(()) => tracing::info!(version = self.policy.policy().version, "goes by this seal policy"),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a seal policy was not taken"),
        }
    }

    pub(crate) const fn policy_version(&self) -> u64 {
        self.policy.policy().version
    }

    /// Judges what somebody brought, and writes down what becomes of it before anything else.
    pub(crate) fn take(&mut self, octets: &[u8], carrier: Carrier, clocks: Clocks) -> Taken {
        if self.shelf.is_full() {
            return Taken::Busy;
        }
        self.beacons.look(clocks);
        let now = clocks.now;
        let channel = channel(carrier);
        let (rules, site) = (self.policy.rules(), self.site());
        let octets = match self.keys.unseal(octets) {
            Ok(octets) => octets,
            Err(refusal) => return self.refuse(octets, None, &refusal, now),
        };
        let octets = octets.as_ref();
        if read_envelope_of::<Standing>(octets).is_ok() {
            return self.take_standing(octets, carrier, now);
        }
        let opened = rules.trust.open(octets, channel, now);
        let judged = match &opened {
            Ok(opened) => rules.judge_opened(opened, &site, &self.register.ledger, now),
            Err(refusal) => Err(refusal.clone()),
        };
        match (opened, judged) {
            (Ok(opened), Ok(mark)) => self.admit(opened, mark, Stay { carrier, kept: KEPT, of: None }, now),
            (opened, Err(refusal)) => self.refuse(octets, opened.ok(), &refusal, now),
            // A request that was judged was opened.
            (Err(refusal), Ok(_)) => self.refuse(octets, None, &refusal, now),
        }
    }

    fn admit(&mut self, opened: Opened, mark: Mark, stay: Stay, now: Moment) -> Taken {
        let (id, carrier) = (opened.id.clone(), stay.carrier);
        let share = MOST_RUNNING.saturating_sub(self.under_way.len()).max(1);
        let Ok(most) =
            Whole::try_from(self.shelf.room(share as u64).min(opened.request.terms().result.most_octets.get()))
        else {
            tracing::warn!("there is no room for another sealed result");
            return Taken::Busy;
        };
        let out = match self.shelf.begin(&id, stay, now) {
            Ok(out) => out,
            Err(error) => return self.unavailable(&error),
        };
        let asked = self.asked(&opened.request, &opened.signers);
        let log_index = match self.enter(asked, &opened.signers, (&id, Verdict::Allowed, Some(mark)), now) {
            Ok(index) => index,
            Err(error) => {
                self.shelf.give_up(&id);
                return self.unavailable(&error);
            }
        };
        let request = opened.request;
        let operation = request.operation().clone();
        tracing::info!(request = %id, carrier = name(carrier), operation = %operation.name(), "a sealed request was taken");
        self.under_way.insert(id.clone(), (operation.name(), log_index));
        let terms = ResultTerms { most_octets: most, ..request.terms().result.clone() };
        Taken::Work(Box::new(Work { id, operation, instance: request.target().instance, terms, out }))
    }

    /// A carrier gets the same of every refusal; why, is for the operator.
    fn refuse(&mut self, octets: &[u8], opened: Option<Opened>, refusal: &Refusal, now: Moment) -> Taken {
        let request = judge::name(octets);
        tracing::warn!(%request, code = %refusal.code(), "a sealed request was refused: {refusal}");
        let verdict = Verdict::Refused(refusal.code());
        let entered = match &opened {
            Some(Opened { request: asked, signers, .. }) => {
                self.enter(self.asked(asked, signers), signers, (&request, verdict, None), now)
            }
            None => {
                let record = Record { request: request.clone(), verdict, asked: None };
                let concerns = Concerns { account: AccountId::OPERATOR, instance: None };
                self.register.enter(News { content: Content::Open(record), mark: None, opening: None, concerns }, now)
            }
        };
        let log_index = match entered {
            Ok(index) => index,
            Err(error) => return self.unavailable(&error),
        };
        let asked = asked_key(octets, self.host);
        let receipt = Receipt {
            request: request.clone(),
            host: self.host,
            time: now,
            log_index,
            occurrence: None,
            outcome: Outcome::Refused,
            // Whoever sends bad requests does not make the TPM work.
            quote: None,
        };
        match signed(self.keys.named(asked.as_ref()), &receipt) {
            Ok(receipt) => Taken::Refused { request, receipt: receipt.into() },
            Err(error) => self.unavailable(&error),
        }
    }

    fn unavailable(&self, error: &(dyn std::error::Error + 'static)) -> Taken {
        tracing::error!(error, "what sealed requests need could not be written down, so none is taken");
        Taken::Unavailable
    }

    /// What the log says of a request whose signatures are good.
    fn asked(&self, request: &Request, signers: &BTreeMap<Person, Signer>) -> Asked {
        let instance = request.target().instance.map(|asked| asked.id);
        // Whose it is, this host says; of an instance that is not here it says nothing.
        let held = instance.and_then(|instance| self.held(instance));
        Asked {
            operation: request.operation().name(),
            instance,
            account: held.map_or(AccountId::OPERATOR, |held| held.account),
            signers: signers.keys().cloned().collect(),
            purpose: request.terms().purpose.to_string(),
        }
    }

    /// Writes a request down whose signatures are good.
    fn enter(
        &mut self,
        asked: Asked,
        signers: &BTreeMap<Person, Signer>,
        (id, verdict, mark): (&RequestId, Verdict, Option<Mark>),
        now: Moment,
    ) -> Result<u64, RegisterError> {
        let account = asked.account;
        let concerns = Concerns { account, instance: asked.instance };
        let record = Record { request: id.clone(), verdict, asked: Some(asked) };
        let embargo = self.policy.policy().embargo(signers);
        let (content, opening) = match embargo {
            Some(embargo) => {
                let opening = Opening::new(record, random::<BLINDING>().ok_or(RegisterError::Random)?);
                let content = Content::Sealed { commitment: opening.commitment()?, embargo_until: now.plus(embargo) };
                (content, Some(opening))
            }
            None => (Content::Open(record), None),
        };
        self.register.enter(News { content, mark, opening, concerns }, now)
    }

    fn held(&self, instance: InstanceId) -> Option<Held> {
        let present = self.instances.iter().find(|present| present.instance == instance)?;
        let is_its = self.owners.of(instance) == Some(present.account);
        let cosigned = self.policy.cosigned().contains(&present.account);
        is_its.then_some(Held {
            account: present.account,
            generation: present.generation,
            life: present.life,
            cosigned,
        })
    }

    fn site(&self) -> Site {
        Site {
            host: self.host,
            keys: Layer::ALL.into_iter().map(|layer| (layer, self.keys.of(layer).public().id())).collect(),
            instances: self.instances.iter().filter_map(|one| Some((one.instance, self.held(one.instance)?))).collect(),
            beacons: self.beacons.all(),
            clock_doubtful: self.beacons.is_doubtful(),
        }
    }

    /// The work on a request is over: its receipt is made, and kept with its result.
    pub(crate) fn end(&mut self, id: &RequestId, ended: Ended, now: Moment) {
        let Some((operation, log_index)) = self.under_way.remove(id) else { return };
        let Carried { outcome, quote } = ended.unwrap_or_else(|failure| {
            tracing::warn!(request = %id, %operation, "a sealed operation failed: {failure}");
            Carried { outcome: Outcome::Failed, quote: None }
        });
        let (occurrence, request) = (self.shelf.occurrence(id), id.clone());
        let receipt = Receipt { request, host: self.host, time: now, log_index, occurrence, outcome, quote };
        let length = receipt.result().map(|result| result.length).ok();
        let kept = match signed(self.keys.of(operation.layer()), &receipt) {
            Ok(receipt) => self.shelf.finish(id, receipt.into(), length, now),
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = kept {
            // It stands in memory; after a restart it is one that was cut off.
            tracing::error!(request = %id, %error, "the receipt of a sealed operation could not be kept on disk");
        }
    }

    pub(crate) fn look(&self, request: &Digest, carrier: Carrier, now: Moment) -> SealAnswer {
        if let Some(standing) = self.look_standing(request, carrier, now) {
            return SealAnswer::Standing { standing };
        }
        let Some(kept) = self.shelf.find(&request.clone().into(), carrier) else { return SealAnswer::Unknown };
        let request = request.clone();
        let standing = match &kept.receipt {
            None => SealStanding::UnderWay { request },
            Some(receipt) => SealStanding::Over { request, receipt: receipt.clone(), result: kept.length },
        };
        SealAnswer::Standing { standing }
    }

    /// The result from an octet on, and how long the rest is.
    pub(crate) fn fetch(&self, request: &Digest, from: u64, carrier: Carrier) -> Option<(File, u64)> {
        let id = request.clone().into();
        let rest = self.shelf.find(&id, carrier)?.length?.checked_sub(from)?;
        let opened = self.shelf.open_result(&id, from);
        opened
            .inspect_err(|error| tracing::error!(request = %id, %error, "a sealed result cannot be read"))
            .ok()
            .map(|file| (file, rest))
    }

    pub(crate) fn forget(&mut self, request: &Digest, carrier: Carrier) -> SealAnswer {
        let id = request.clone().into();
        if self.shelf.find(&id, carrier).is_none() {
            return SealAnswer::Unknown;
        }
        self.shelf.forget(&id);
        SealAnswer::Forgotten
    }

    pub(crate) fn describe(&self) -> SealAnswer {
        let Some((nonce, time)) = self.beacons.newest() else { return SealAnswer::Unavailable };
        let beacon = signed(self.keys.of(Layer::Guest), &Beacon { host: self.host, nonce, time });
        let card = self.policy.vouch(self.host, &self.card);
        let card = canonical::write(card.as_ref().unwrap_or(&self.card)).map_err(SigningError::Statement);
        match beacon.and_then(|beacon| Ok((beacon, card?))) {
            Ok((beacon, card)) => SealAnswer::Host {
                host: SealHost {
                    card: card.into(),
                    beacon: beacon.into(),
                    policy: self.policy.policy().version,
                    clock_doubtful: self.beacons.is_doubtful(),
                    // It is not waited for here.
                    quote: None,
                },
            },
            Err(error) => self.untold(&error),
        }
    }

    /// A tenant reads what concerns its own instances.
    pub(crate) fn tell_log(
        &self,
        span: (u64, Option<u64>),
        instance: Option<InstanceId>,
        carrier: Carrier,
        now: Moment,
    ) -> SealAnswer {
        let account = carrier.filter(|account| *account != AccountId::OPERATOR);
        let key = self.keys.of(Layer::Guest);
        match self.register.tell(Reader { account, instance }, span, (self.host, key), now) {
            Ok(log) => SealAnswer::Log { log },
            Err(error) => self.untold(&error),
        }
    }

    fn untold(&self, error: &(dyn std::error::Error + 'static)) -> SealAnswer {
        tracing::error!(error, "a question about sealed operations could not be answered");
        SealAnswer::Unavailable
    }

    /// What time brings: a new beacon, and an end to what nobody collects or asks for again.
    pub(crate) fn tick(&mut self, clocks: Clocks) {
        self.beacons.look(clocks);
        if self.beacons.is_due(clocks)
            && let Some(nonce) = nonce()
        {
            self.beacons.say(nonce, clocks);
        }
        self.shelf.expire(clocks.now);
        self.standing.expire(clocks.now);
        self.register.ledger.compact(clocks.now);
    }
}

const fn channel(carrier: Carrier) -> Channel {
    if carrier.is_none() { Channel::Local } else { Channel::Carried }
}

/// What a receipt says of a result: it is read once more, since whoever wrote it did not say.
pub(crate) fn tally(mut result: &File) -> Result<SealedResult, Failure> {
    let broken = |cause: String| Failure::Broken { doing: "read the result", cause };
    let (mut tally, mut part) = (Tally::default(), vec![0; 1 << 20]);
    io::Seek::rewind(&mut result).map_err(|error| broken(error.to_string()))?;
    loop {
        match result.read(&mut part).map_err(|error| broken(error.to_string()))? {
            0 => return tally.finish().map_err(|error| broken(error.to_string())),
            read => tally.push(part.get(..read).unwrap_or_default()),
        }
    }
}

fn nonce() -> Option<Nonce> {
    random().map(Nonce::new)
}

fn name(carrier: Carrier) -> String {
    carrier.map_or_else(|| "this host".to_owned(), |account| account.to_string())
}

/// Which key a request names: what any carrier can read in it, and nothing that is believed.
fn asked_key(octets: &[u8], host: HostId) -> Option<Digest> {
    let envelope = lucarne_seal::trust::read_envelope(octets).ok()?;
    let request: Request = canonical::read(&envelope.payload).ok()?;
    request.target().key_of(host).cloned()
}

/// For nobody but the agent.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
pub(super) mod tests;
