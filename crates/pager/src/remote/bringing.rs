//! Brings copies of pages that are on the disk to one lender, and keeps the lines to it open.
//!
//! Owns the session of one loan: what it brought is there for as long as its connection stands. A page counts as remote when
//! the lender has said that it has it, and not any more when the lender says that it gave it up, when the session ends, or when
//! the VM may have less there. All of it runs on a thread of its own, which faults never wait for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lucarne_memory::run::Run;
use lucarne_model::Pages;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ClientConfig;

use super::{
    Borrowing, Loan,
    line::{Line, LineError},
    patience::Patience,
};
use crate::{
    disk::Disk,
    page::zeroed,
    pager::{Pager, locked},
    places::{Away, Copy, LOANS, LoanNumber},
    wire::{Answer, Ask, BATCH, Brought, GivenUp, Hello, NAMES, Role, VERSION},
};

/// How often it is looked whether there is anything to do, and whether anybody lends at all.
const INTERVAL: Duration = Duration::from_millis(50);
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// How often a lender is asked what it gave up, and whether it is there, when there is nothing else to say.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A line that lasted so long was a good one: the next one is opened at once.
const GOOD: Duration = Duration::from_secs(10);
/// Pages that are looked at under one lock.
const PART: u64 = 1 << 13;

/// What is there of this VM, and over which connection it was brought.
struct Session {
    with: Borrowing,
    config: Arc<ClientConfig>,
    number: u64,
    line: Line,
    disk: Disk,
    asked: Instant,
    /// The lender took less than it was brought: until then nothing more is.
    full_until: Option<Instant>,
}

pub(crate) struct Bringer {
    pager: Arc<Pager>,
    number: LoanNumber,
    session: Option<Session>,
    began: Instant,
    /// With the lender, and with the line of faults.
    patience: Patience,
    line_patience: Patience,
    line_since: Duration,
    /// The page from which the next one is looked for.
    cursor: u64,
}

impl Bringer {
    pub(crate) fn new(pager: Arc<Pager>, number: LoanNumber) -> Self {
        let (patience, line_patience) = (Patience::default(), Patience::default());
        let (began, line_since) = (Instant::now(), Duration::ZERO);
        // Apart, so that no two bring the same pages.
        let cursor = pager.guest.pages() / LOANS as u64 * u64::from(number.0);
        Self { pager, number, session: None, began, patience, line_patience, line_since, cursor }
    }

    fn loan(&self) -> &Loan {
        self.pager.sources.remote.loan(self.number)
    }

    /// Pages that the lender has.
    fn lent(&self) -> Pages {
        self.pager.book().places.lent(self.number)
    }

    /// Until the pager ends.
    pub(crate) fn run(mut self) {
        while !self.pager.ending.has_begun() {
            match self.round() {
                Ok(true) => {}
                Ok(false) if self.session.is_none() => std::thread::sleep(IDLE_INTERVAL),
                Ok(false) => std::thread::sleep(INTERVAL),
                Err(error) => {
                    tracing::info!(%error, "a lender of memory is not to be had; the disk has all that it had");
                    self.patience.failed(self.began.elapsed());
                    self.leave();
                }
            }
        }
    }

    /// Whether anything was done.
    fn round(&mut self) -> Result<bool, LineError> {
        let wanted = locked(&self.loan().wanted).clone();
        let goes_on = |session: &Session| wanted.as_ref().is_some_and(|wanted| wanted.goes_on(&session.with));
        if self.session.as_ref().is_some_and(|session| !goes_on(session)) {
            self.leave();
        }
        let Some(wanted) = wanted else { return Ok(false) };
        if self.session.is_none() {
            if !self.patience.is_due(self.began.elapsed()) {
                return Ok(false);
            }
            locked(&self.loan().freed).clear();
            self.session = Some(begin(&self.pager, wanted.clone())?);
            tracing::info!(lender = %wanted.lender, room = %wanted.room, "copies of pages go to another host's memory");
        }
        self.mend_line();
        let did = self.tell_freed()? | self.withdraw(wanted.room) | self.bring(wanted.room)?;
        self.ask_after_copies()?;
        self.patience.succeeded();
        Ok(did)
    }

    /// Nothing counts as the lender's any more.
    fn leave(&mut self) {
        self.session = None;
        *locked(&self.loan().line) = None;
        let pages = self.pager.guest.pages();
        for first in (0..pages).step_by(PART as usize) {
            let places = &mut self.pager.book().places;
            if places.lent(self.number) == Pages::ZERO {
                return;
            }
            let all = places.all_away(Run::new(first, PART));
            let there: Vec<(u64, Copy)> =
                all.filter_map(|(page, away)| Some((page, lent_copy(away, self.number)?))).collect();
            for (page, copy) in there {
                places.move_copy(page, Away::Remote(copy, self.number), Away::Ssd(copy));
            }
        }
    }

    /// Opens a line for faults where there is none; without one they read the disk.
    fn mend_line(&mut self) {
        let Some(session) = &self.session else { return };
        let now = self.began.elapsed();
        // Held by a fault that asks: then there is one.
        let is_there = self.loan().line.try_lock().map_or(true, |line| line.is_some());
        if is_there || !self.line_patience.is_due(now) {
            return;
        }
        if now - self.line_since > GOOD {
            self.line_patience.succeeded();
        }
        // One that breaks at once is not opened again at once either.
        self.line_patience.failed(now);
        match Line::open(&session.with, session.config.clone(), session.hello(&self.pager, Role::Fetch)) {
            Ok(line) => {
                self.line_since = now;
                *locked(&self.loan().line) = Some(line);
            }
            Err(error) => tracing::debug!(%error, "no line for faults"),
        }
    }

    fn tell_freed(&mut self) -> Result<bool, LineError> {
        let freed: Vec<u64> = {
            let mut freed = locked(&self.loan().freed);
            let count = freed.len().min(NAMES);
            freed.drain(..count).collect()
        };
        if freed.is_empty() {
            return Ok(false);
        }
        self.ask(&Ask::Free(freed))?;
        Ok(true)
    }

    /// Gives up copies beyond the room: the VM may have less there than it has.
    fn withdraw(&mut self, room: Pages) -> bool {
        let (excess, number) = (self.lent() - room, self.number);
        let there = self.some_away(excess.0.min(BATCH as u64) as usize, |away| lent_copy(away, number));
        for (page, copy) in &there {
            if self.pager.book().places.move_copy(*page, Away::Remote(*copy, number), Away::Ssd(*copy)) {
                self.loan().note_freed(copy.generation);
            }
        }
        !there.is_empty()
    }

    /// Brings some of what is on the disk alone.
    fn bring(&mut self, room: Pages) -> Result<bool, LineError> {
        let is_full = |session: &Session| session.full_until.is_some_and(|until| Instant::now() < until);
        let free = room - self.lent();
        if self.session.as_ref().is_none_or(is_full) || free == Pages::ZERO {
            return Ok(false);
        }
        let copies = self.some_away(free.0.min(BATCH as u64) as usize, ssd_copy);
        let Some(session) = self.session.as_mut().filter(|_| !copies.is_empty()) else { return Ok(false) };
        let mut contents = zeroed(copies.len());
        if let Err(error) = self.pager.sources.store.read(&mut session.disk, &copies, &mut contents) {
            // Whoever needs these pages will say what that means.
            tracing::debug!(%error, "copies cannot be brought: the store was not read");
            return Ok(false);
        }
        let brought = copies.iter().zip(contents);
        let brought =
            brought.map(|((page, copy), sealed)| Brought { page: *page as u32, generation: copy.generation, sealed });
        let taken = self.ask(&Ask::Bring(brought.collect()))?;
        if taken < copies.len()
            && let Some(session) = &mut self.session
        {
            session.full_until = Some(Instant::now() + ASK_EVERY);
        }
        for (page, copy) in copies.iter().take(taken) {
            // One that has come back or left anew meanwhile, or is another lender's by now, is not this one any more.
            if !self.pager.book().places.move_copy(*page, Away::Ssd(*copy), Away::Remote(*copy, self.number)) {
                self.loan().note_freed(copy.generation);
            }
        }
        Ok(taken > 0)
    }

    fn ask_after_copies(&mut self) -> Result<(), LineError> {
        let is_due = self.session.as_ref().is_some_and(|session| session.asked.elapsed() >= ASK_EVERY);
        if is_due { self.ask(&Ask::Bring(Vec::new())).map(drop) } else { Ok(()) }
    }

    /// How many were taken; what the lender gave up does not count any more.
    fn ask(&mut self, ask: &Ask) -> Result<usize, LineError> {
        let Some(session) = &mut self.session else { return Ok(0) };
        let Answer::Kept { taken, given_up } = session.line.ask(ask)? else { return Err(LineError::NotUnderstood) };
        session.asked = Instant::now();
        let places = &mut self.pager.book().places;
        for GivenUp { page, generation } in given_up {
            let away = places.away(u64::from(page));
            let there = away.and_then(|away| lent_copy(away, self.number));
            if let Some(copy) = there.filter(|copy| copy.generation == generation) {
                places.move_copy(u64::from(page), Away::Remote(copy, self.number), Away::Ssd(copy));
            }
        }
        Ok(taken as usize)
    }

    /// At most `count` pages whose copy is of this kind, each once, from where the last search ended on.
    fn some_away(&mut self, count: usize, kind: impl Fn(Away) -> Option<Copy>) -> Vec<(u64, Copy)> {
        let (pages, mut found) = (self.pager.guest.pages(), Vec::new());
        let mut unseen = pages;
        while found.len() < count && unseen > 0 {
            let run = Run::new(self.cursor, PART.min(pages - self.cursor).min(unseen));
            let book = self.pager.book();
            let mut here = book.places.all_away(run).filter_map(|(page, away)| Some((page, kind(away)?)));
            found.extend(here.by_ref().take(count - found.len()));
            let seen = here.next().map_or(run.end(), |(next, _)| next) - run.first;
            unseen -= seen;
            self.cursor = (run.first + seen) % pages;
        }
        found
    }
}

impl Session {
    fn hello(&self, pager: &Pager, role: Role) -> Hello {
        hello(pager, role, &self.with, self.number)
    }
}

const fn hello(pager: &Pager, role: Role, with: &Borrowing, session: u64) -> Hello {
    Hello { version: VERSION, role, instance: pager.instance, epoch: with.epoch, session }
}

fn begin(pager: &Pager, with: Borrowing) -> Result<Session, LineError> {
    let mut number = [0; 8];
    SystemRandom::new().fill(&mut number).map_err(|_| std::io::Error::other("no random numbers"))?;
    let number = u64::from_le_bytes(number);
    let config = with.identity.client()?;
    let line = Line::open(&with, config.clone(), hello(pager, Role::Bring, &with, number))?;
    let (disk, asked) = (Disk::new(), Instant::now());
    Ok(Session { with, config, number, line, disk, asked, full_until: None })
}

const fn ssd_copy(away: Away) -> Option<Copy> {
    match away {
        Away::Ssd(copy) => Some(copy),
        _ => None,
    }
}

fn lent_copy(away: Away, number: LoanNumber) -> Option<Copy> {
    match away {
        Away::Remote(copy, of) if of == number => Some(copy),
        _ => None,
    }
}
