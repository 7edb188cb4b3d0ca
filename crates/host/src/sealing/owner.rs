//! The thread that owns the office, and how others speak with it.
//!
//! Owns the one queue of what is to be done there, the turns of those who bring requests, and what is under way: no more than
//! so much at a time, and of one guest one thing after the other. It writes to disk and checks signatures, which is why it is
//! a thread and no task. The work itself is done by an [`Executor`].

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::FutureExt;
use lucarne_model::{
    InstanceId, Moment, Octets,
    sealing::{SealAnswer, SealQuestion, SealStanding},
};
use lucarne_seal::request::RequestId;
use lucarne_sealer::{Done, Failure};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::JoinSet,
};

use super::{
    beacons::Clocks,
    desk::{Carrier, Desk},
    office::{Carried, Ended, MOST_QUEUED, MOST_RUNNING, Office, Present, Taken, Work, tally},
    quoting::Quoting,
    watching::Figures,
};

/// How many commands wait at most, beside requests, of which the desk holds more.
const MOST_COMMANDS: usize = 256;
/// How often the office looks at the time.
const TICK: Duration = Duration::from_secs(10);
/// The longest that somebody waits for what is under way.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// What carries work out, and writes its result as an age file.
#[async_trait]
pub(crate) trait Executor: Send + Sync + std::fmt::Debug {
    async fn carry_out(&self, work: &Work, out: File) -> Result<Done, Failure>;
}

/// An answer, and the result that follows it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: SealAnswer,
    pub(crate) result: Option<(File, u64)>,
}

impl From<SealAnswer> for Answered {
    fn from(answer: SealAnswer) -> Self {
        Self { answer, result: None }
    }
}

type Reply = oneshot::Sender<Answered>;

enum Command {
    /// There is something on the desk.
    Look,
    Ask(Carrier, SealQuestion, Reply),
    See(Arc<Vec<Present>>),
    Policy(Octets),
    /// How the host and its guests do.
    Figures(Figures),
    Ended(RequestId, Option<InstanceId>, Ended),
    Leave,
}

/// One request on the desk.
struct Brought {
    octets: Octets,
    reply: Reply,
}

/// How others speak with the office.
#[derive(Clone)]
pub(crate) struct Counter {
    commands: SyncSender<Command>,
    desk: Arc<Mutex<Desk<Brought>>>,
    quoting: Quoting,
    /// Rises whenever something is over.
    over: watch::Receiver<u64>,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").finish_non_exhaustive()
    }
}

/// The thread; it ends when it is told to.
#[derive(Debug)]
pub(crate) struct Owner {
    thread: JoinHandle<()>,
    counter: Counter,
}

impl Owner {
    /// Begins to serve. Work is done as tasks of this runtime.
    pub(crate) fn spawn(office: Office, executor: Arc<dyn Executor>, quoting: Quoting) -> std::io::Result<Self> {
        let (commands, received) = sync_channel(MOST_COMMANDS);
        let (over, heard) = watch::channel(0);
        let desk = Arc::<Mutex<Desk<Brought>>>::default();
        let counter = Counter { commands, desk: desk.clone(), quoting: quoting.clone(), over: heard };
        let inner = Inner {
            office,
            desk,
            executor,
            quoting,
            queue: VecDeque::new(),
            busy: BTreeSet::new(),
            running: 0,
            next_tick: Instant::now() + TICK,
            tasks: JoinSet::new(),
            runtime: Handle::current(),
            // What ends is told through the same queue.
            commands: counter.commands.clone(),
            over,
        };
        let thread = std::thread::Builder::new().name("seal-office".to_owned()).spawn(move || inner.run(&received))?;
        Ok(Self { thread, counter })
    }

    pub(crate) fn counter(&self) -> Counter {
        self.counter.clone()
    }

    /// Ends it: work that is under way is cut off, as by a kill.
    pub(crate) async fn end(self) {
        let Self { thread, counter } = self;
        let ended = tokio::task::spawn_blocking(move || {
            // It takes what waits before, and nobody is let in after.
            let _ = counter.commands.send(Command::Leave);
            thread.join()
        });
        if !matches!(ended.await, Ok(Ok(()))) {
            tracing::error!("the office of sealed operations broke off");
        }
    }
}

impl Counter {
    /// Answers a question of somebody who carries requests.
    pub(crate) async fn ask(&self, carrier: Carrier, question: SealQuestion) -> Answered {
        match question {
            SealQuestion::Submit { request } => self.submit(carrier, request).await,
            SealQuestion::Look { request, wait_millis } => {
                let wait = Duration::from_millis(wait_millis).min(LONGEST_WAIT);
                let until = tokio::time::Instant::now() + wait;
                let mut over = self.over.clone();
                loop {
                    over.borrow_and_update();
                    let question = SealQuestion::Look { request: request.clone(), wait_millis: 0 };
                    let answered = self.put(carrier, question).await;
                    let waits = SealAnswer::Standing { standing: SealStanding::UnderWay { request: request.clone() } };
                    let more = answered.answer == waits
                        && matches!(tokio::time::timeout_at(until, over.changed()).await, Ok(Ok(())));
                    if !more {
                        return answered;
                    }
                }
            }
            SealQuestion::Describe => {
                let mut answered = self.put(carrier, SealQuestion::Describe).await;
                if let SealAnswer::Host { host } = &mut answered.answer {
                    host.quote = self.quoting.of_beacon(&host.beacon).await;
                }
                answered
            }
            other => self.put(carrier, other).await,
        }
    }

    async fn submit(&self, carrier: Carrier, octets: Octets) -> Answered {
        let (reply, answered) = oneshot::channel();
        let put =
            self.desk.lock().unwrap_or_else(PoisonError::into_inner).put(carrier, Brought { octets, reply }, now());
        if put.is_err() {
            return SealAnswer::Busy.into();
        }
        // Where the queue is full the thread is awake, and looks at the desk after each command.
        if let Err(TrySendError::Disconnected(_)) = self.commands.try_send(Command::Look) {
            return SealAnswer::Unavailable.into();
        }
        answered.await.unwrap_or_else(|_| SealAnswer::Unavailable.into())
    }

    async fn put(&self, carrier: Carrier, question: SealQuestion) -> Answered {
        let (reply, answered) = oneshot::channel();
        match self.commands.try_send(Command::Ask(carrier, question, reply)) {
            Ok(()) => answered.await.unwrap_or_else(|_| SealAnswer::Unavailable.into()),
            Err(TrySendError::Full(_)) => SealAnswer::Busy.into(),
            Err(TrySendError::Disconnected(_)) => SealAnswer::Unavailable.into(),
        }
    }

    /// What is here now. Waits where the office has too much to do, since it must hear of it.
    pub(crate) async fn see(&self, instances: Arc<Vec<Present>>) {
        self.tell(Command::See(instances)).await;
    }
    pub(crate) async fn policy(&self, octets: Octets) {
        self.tell(Command::Policy(octets)).await;
    }
    /// How all do now. Where the office has too much to do, it is passed over: there is another in a second.
    pub(crate) fn figures(&self, figures: Figures) {
        let _ = self.commands.try_send(Command::Figures(figures)).is_ok();
    }
    async fn tell(&self, command: Command) {
        let commands = self.commands.clone();
        // An office that has ended need not hear of it.
        let _ = tokio::task::spawn_blocking(move || commands.send(command).is_ok()).await;
    }
}

struct Inner {
    office: Office,
    desk: Arc<Mutex<Desk<Brought>>>,
    executor: Arc<dyn Executor>,
    quoting: Quoting,
    queue: VecDeque<Work>,
    /// Guests with which something is being done.
    busy: BTreeSet<InstanceId>,
    running: usize,
    next_tick: Instant,
    tasks: JoinSet<()>,
    runtime: Handle,
    commands: SyncSender<Command>,
    over: watch::Sender<u64>,
}

impl Inner {
    fn run(mut self, received: &Receiver<Command>) {
        loop {
            // A request is judged between any two commands, and when there is none.
            let waits = self.judge_next();
            let patience = if waits { Duration::ZERO } else { self.patience() };
            match received.recv_timeout(patience) {
                Ok(Command::Leave) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => self.handle(command),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= self.next_tick {
                self.next_tick = Instant::now() + TICK;
                self.office.tick(clocks());
            }
            self.look_what_is_due();
            self.begin_work();
        }
        self.tasks.abort_all();
    }

    /// How long nothing is to be done but what comes. What is due and finds no room waits for room, not for a time.
    fn patience(&self) -> Duration {
        let tick = self.next_tick.saturating_duration_since(Instant::now());
        let now = now();
        let due = self.office.next_due().filter(|due| *due > now);
        due.map_or(tick, |due| due.since(now).min(tick))
    }

    fn look_what_is_due(&mut self) {
        let clocks = clocks();
        if self.office.next_due().is_some_and(|due| due <= clocks.now) {
            let room = MOST_QUEUED.saturating_sub(self.queue.len());
            self.queue.extend(self.office.due(clocks, room));
        }
    }

    /// Judges one request, if there is one; whether there may be another.
    fn judge_next(&mut self) -> bool {
        let next = self.desk.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((carrier, Brought { octets, reply })) = next else { return false };
        let answer =
            if self.queue.len() >= MOST_QUEUED { Taken::Busy } else { self.office.take(&octets, carrier, clocks()) };
        let answer = match answer {
            Taken::Work(work) => {
                let request = work.id.digest().clone();
                self.queue.push_back(*work);
                SealAnswer::Standing { standing: SealStanding::UnderWay { request } }
            }
            Taken::Refused { request, receipt } => {
                self.desk.lock().unwrap_or_else(PoisonError::into_inner).refused(carrier);
                let request = request.digest().clone();
                SealAnswer::Standing { standing: SealStanding::Over { request, receipt, result: None } }
            }
            Taken::Stands { request } => self.office.look(request.digest(), carrier, now()),
            Taken::Busy => SealAnswer::Busy,
            Taken::Unavailable => SealAnswer::Unavailable,
        };
        // Who asked may have gone; what was taken is done all the same.
        let _ = reply.send(answer.into());
        true
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Look | Command::Leave => {}
            Command::See(instances) => self.office.see(instances, now()),
            Command::Policy(octets) => self.office.take_policy(&octets),
            Command::Figures(figures) => {
                let room = MOST_QUEUED.saturating_sub(self.queue.len());
                self.queue.extend(self.office.unusual(&figures, clocks(), room));
            }
            Command::Ask(carrier, question, reply) => {
                let _ = reply.send(self.answer(carrier, question));
            }
            Command::Ended(id, instance, ended) => {
                self.running -= 1;
                instance.map(|instance| self.busy.remove(&instance));
                while self.tasks.try_join_next().is_some() {}
                self.office.end(&id, ended, now());
                self.over.send_modify(|count| *count += 1);
            }
        }
    }

    fn answer(&mut self, carrier: Carrier, question: SealQuestion) -> Answered {
        match question {
            SealQuestion::Look { request, .. } => self.office.look(&request, carrier, now()).into(),
            SealQuestion::Fetch { request, from } => match self.office.fetch(&request, from, carrier) {
                Some((file, length)) => {
                    Answered { answer: SealAnswer::Result { length }, result: Some((file, length)) }
                }
                None => SealAnswer::Unknown.into(),
            },
            SealQuestion::Forget { request } => self.office.forget(&request, carrier).into(),
            SealQuestion::Describe => self.office.describe().into(),
            SealQuestion::Log { first, seen, instance } => {
                self.office.tell_log((first, seen), instance, carrier, now()).into()
            }
            // What a controller has to bring it brings in the desired state.
            SealQuestion::Policy { .. } if carrier.is_some() => SealAnswer::Unknown.into(),
            SealQuestion::Policy { policy } => {
                self.office.take_policy(&policy);
                SealAnswer::Policy { version: self.office.policy_version() }.into()
            }
            // It comes over the desk.
            SealQuestion::Submit { .. } => SealAnswer::Busy.into(),
        }
    }

    /// Begins what can be done now: of each guest one thing at a time, and not too much altogether.
    fn begin_work(&mut self) {
        while self.running < MOST_RUNNING {
            let guest = |work: &Work| work.instance.as_ref().map(|target| target.id);
            let free = |work: &Work| guest(work).is_none_or(|instance| !self.busy.contains(&instance));
            let Some(work) = self.queue.iter().position(free).and_then(|at| self.queue.remove(at)) else { return };
            let instance = guest(&work);
            self.busy.extend(instance);
            self.running += 1;
            let (executor, commands) = (self.executor.clone(), self.commands.clone());
            let (quoting, host) = (self.quoting.clone(), self.office.host());
            self.tasks.spawn_on(
                async move {
                    let ended = match carry_out(executor.as_ref(), &work).await {
                        Ok(carried) => Ok(quoting.complete(host, &work, carried).await),
                        Err(failure) => Err(failure),
                    };
                    let told = Command::Ended(work.id, instance, ended);
                    // After the office has ended, the next one finds that it was cut off.
                    let _ = tokio::task::spawn_blocking(move || commands.send(told).is_ok()).await;
                },
                &self.runtime,
            );
        }
    }
}

/// Has it done, and takes down what a receipt says of the result.
async fn carry_out(executor: &dyn Executor, work: &Work) -> Ended {
    let broken = |doing, cause: String| Failure::Broken { doing, cause };
    let copy = || work.out.try_clone().map_err(|error| broken("open the result", error.to_string()));
    // Whatever becomes of it, the office hears of its end.
    let done = AssertUnwindSafe(executor.carry_out(work, copy()?)).catch_unwind().await;
    let done = done.map_err(|_| broken("carry it out", "the executor broke off".to_owned()))??;
    let result = copy()?;
    let told = tokio::task::spawn_blocking(move || tally(&result)).await;
    let told = told.map_err(|error| broken("read the result", error.to_string()))?;
    Ok(Carried::unquoted(work, done, told?))
}

fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn clocks() -> Clocks {
    let booted = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = Duration::new(
        u64::try_from(booted.tv_sec).unwrap_or_default(),
        u32::try_from(booted.tv_nsec).unwrap_or_default(),
    );
    Clocks { now: now(), since_boot }
}

#[cfg(test)]
mod tests {
    use lucarne_model::AccountId;
    use lucarne_seal::receipt::{self, Receipt};
    use lucarne_statement::{canonical, signing::Envelope};

    use super::*;
    use crate::sealing::{
        office::tests::{Bed, seal},
        quoting::tests::Echo,
    };

    /// Seals a word for the readers, after a while.
    #[derive(Debug)]
    struct Sealer(Duration);

    #[async_trait]
    impl Executor for Sealer {
        async fn carry_out(&self, work: &Work, out: File) -> Result<Done, Failure> {
            tokio::time::sleep(self.0).await;
            Ok(seal(work, &out, b"well"))
        }
    }

    async fn submit(counter: &Counter, carrier: Carrier, request: Vec<u8>) -> SealAnswer {
        counter.ask(carrier, SealQuestion::Submit { request: request.into() }).await.answer
    }
    fn standing(answer: SealAnswer) -> SealStanding {
        match answer {
            SealAnswer::Standing { standing } => standing,
            other => panic!("{other:?}"),
        }
    }

    /// Attack: 10,000 bad requests at once. Good ones of others are judged among them, and each is carried out.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn good_requests_pass_a_flood_of_bad_ones() {
        let bed = Bed::now(clocks());
        let good: Vec<_> = (0..20).map(|_| bed.health(1)).collect();
        let bad = bed.health(99);
        let owner = Owner::spawn(bed.office, Arc::new(Sealer(Duration::ZERO)), Quoting::by(Arc::new(Echo))).unwrap();
        let counter = owner.counter();
        let mut flood = JoinSet::new();
        for _ in 0..10_000 {
            let (counter, bad) = (counter.clone(), bad.clone());
            flood.spawn(async move { submit(&counter, Some(AccountId::from_bits(6)), bad).await });
        }
        for request in good {
            let SealStanding::UnderWay { request } =
                standing(submit(&counter, Some(AccountId::OPERATOR), request).await)
            else {
                panic!("a good request was refused");
            };
            let look = SealQuestion::Look { request, wait_millis: 20_000 };
            let over = standing(counter.ask(Some(AccountId::OPERATOR), look).await.answer);
            let SealStanding::Over { result: Some(_), receipt, .. } = over else { panic!("{over:?}") };
            let receipt: Envelope = canonical::read(&receipt).unwrap();
            let receipt: Receipt = canonical::read(&receipt.payload).unwrap();
            let asked = receipt::qualifying_data(&receipt.request, receipt.host, &receipt.outcome).unwrap();
            assert_eq!(receipt.quote.unwrap().message.to_vec(), asked, "it is a quote of something else");
        }
        let answers = flood.join_all().await;
        let judged = answers.iter().filter(|answer| **answer != SealAnswer::Busy).count();
        assert!((1..=200).contains(&judged), "{judged} bad requests were read");
        owner.end().await;
    }

    /// Two requests for the host run beside each other; an office that ends cuts off what is under way.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_is_done_side_by_side_and_cut_off_at_the_end() {
        let bed = Bed::now(clocks());
        let [one, other] = [bed.health(1), bed.health(1)];
        let owner = Owner::spawn(bed.office, Arc::new(Sealer(Duration::from_secs(3600))), Quoting::default()).unwrap();
        let counter = owner.counter();
        for request in [one, other] {
            let taken = standing(submit(&counter, None, request).await);
            let SealStanding::UnderWay { request } = taken else { panic!("it was refused") };
            let look = SealQuestion::Look { request, wait_millis: 10 };
            assert!(matches!(standing(counter.ask(None, look).await.answer), SealStanding::UnderWay { .. }));
        }
        owner.end().await;
        assert_eq!(counter.ask(None, SealQuestion::Describe).await.answer, SealAnswer::Unavailable);
    }
}
