//! Starts and stops the two roles; what a failed test left is ended when the house is dropped.

use std::{
    env, fs,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use lucarne_model::{
    Bytes,
    memory::Pages,
    paging::{DEVICE, PagingVariable, VARIABLE},
};
use lucarne_pager::{Step, client::Client, control::Statistics, shim};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use tempfile::TempDir;

/// Longer than anything takes on a busy machine, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process in a role, and the lines that it says.
pub struct Role {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

fn lines(stream: impl std::io::Read + Send + 'static, prefix: &'static str) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(line) = line.strip_prefix(prefix) {
                let _ = sender.send(line.to_owned());
            }
        }
    });
    receiver
}

impl Role {
    fn start(name: &str, mut command: Command) -> Self {
        command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let errors = lines(child.stderr.take().unwrap(), "");
        Self { child, input, lines: lines(output, "> "), errors }
    }

    /// The next line that it says; none when it has ended.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(timeout) => panic!("it says nothing: {timeout}"),
        }
    }

    /// Whether it says nothing for a while: it waits.
    pub fn is_silent(&self, time: Duration) -> bool {
        self.lines.recv_timeout(time).is_err()
    }

    pub fn say(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    /// Gives a command and returns the answer.
    pub fn ask(&mut self, command: &str) -> String {
        self.say(command);
        let answer = self.line();
        answer.unwrap_or_else(|| panic!("it ended at {command}: {:?}", self.last_words()))
    }

    /// What it printed on stderr until its end.
    pub fn last_words(&mut self) -> String {
        let _ = self.child.wait();
        self.errors.iter().collect::<Vec<_>>().join("\n")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A machine of so many pages and the folder of its pager.
pub struct House {
    folder: TempDir,
    pub machine: Role,
    pages: u64,
    /// What its pager is told that its machine goes on from.
    parent: Option<String>,
}

impl House {
    pub fn new(pages: u64) -> Self {
        Self::with(pages, false)
    }

    /// `tripwire`: see [`PagingVariable::tripwire`].
    pub fn with(pages: u64, tripwire: bool) -> Self {
        Self::mapped(pages, tripwire, tempfile::tempdir().unwrap())
    }

    fn mapped(pages: u64, tripwire: bool, folder: TempDir) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(super::machine::VARIABLE, pages.to_string());
        command.args(["--exact", "machine::role_of_the_machine", "--ignored", "--nocapture", "--test-threads=1"]);
        let house = Self::around(pages, tripwire, folder, command);
        assert_eq!(house.machine.line().unwrap(), "mapped");
        house
    }

    /// The next machine over the same folder, with the same key.
    pub fn wake(self) -> Self {
        Self { parent: self.parent, ..Self::mapped(self.pages, false, self.folder) }
    }

    /// A machine that goes on from this one, as a capture of that name holds it.
    pub fn duplicate(&self, capture: &str, is_whole: bool) -> Self {
        let parent = format!(" {} {capture} {}", self.control().display(), if is_whole { "whole" } else { "lazy" });
        Self { parent: Some(parent), ..Self::new(self.pages) }
    }

    /// A machine that `command` starts, with the shim in it.
    pub fn around(pages: u64, tripwire: bool, folder: TempDir, mut command: Command) -> Self {
        let library = shim::install(folder.path()).unwrap();
        let key = memfd_create("key", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&key, &[0x5a; 32]).unwrap();
        let device = File::options().read(true).write(true).open(DEVICE).unwrap();
        let setting = PagingVariable {
            device: device.as_raw_fd(),
            key: key.as_raw_fd(),
            memory: Bytes(pages * Pages::SIZE),
            peer: rustix::process::getuid().as_raw(),
            tripwire,
            socket: &folder.path().join("machine.sock"),
        };
        command.env("LD_PRELOAD", library).env(VARIABLE, setting.to_string());
        pass(&mut command, device, key.into());
        Self { machine: Role::spawn(command), folder, pages, parent: None }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }
    pub fn control(&self) -> PathBuf {
        self.path().join("pager.sock")
    }

    /// A pager that compresses into a pool of `pool` octets at most.
    pub fn pager(&self, pool: u64) -> Role {
        self.mortal_pager(pool, usize::MAX, 0)
    }

    /// One that dies at the `count`th time that it has done the step of this [number](number_of).
    pub fn mortal_pager(&self, pool: u64, step: usize, count: u64) -> Role {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(
            super::pager::VARIABLE,
            format!("{} {pool} {step} {count}{}", self.path().display(), self.parent.as_deref().unwrap_or_default()),
        );
        let _ = fs::remove_file(self.control());
        Role::start("pager::role_of_the_pager", command)
    }

    /// Connected as soon as the pager serves; none when it has died instead.
    pub fn connect(&self, pager: &mut Role) -> Option<Client> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Client::connect(&self.control(), PATIENCE) {
                Ok(client) => return Some(client),
                Err(_) if pager.has_ended() => return None,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            thread::sleep(Duration::from_micros(300));
        }
    }

    pub fn serve(&self, pool: u64) -> (Role, Client) {
        let mut pager = self.pager(pool);
        let client = self.connect(&mut pager);
        let client = client.unwrap_or_else(|| panic!("the pager died: {:?}", pager.line()));
        (pager, client)
    }

    pub fn evict_all(&self, client: &mut Client) -> Pages {
        client.evict_all(PATIENCE).unwrap().0
    }

    /// The same until nothing is here: neighbours of what was touched a moment ago may still be on their way.
    pub fn evict_until_all_is_away(&self, client: &mut Client) {
        let end = Instant::now() + PATIENCE;
        while client.statistics().unwrap().pages.resident > Pages::ZERO {
            assert!(Instant::now() < end, "{:?}", client.statistics().unwrap());
            self.evict_all(client);
        }
    }

    pub fn check_all(&mut self) {
        let pages = self.pages;
        assert_eq!(self.machine.ask(&format!("check 0 {pages}")), "done");
    }

    pub fn write_all(&mut self, version: u64) {
        let pages = self.pages;
        assert_eq!(self.machine.ask(&format!("write 0 {pages} {version}")), "done");
    }
}

#[allow(unsafe_code)]
fn pass(command: &mut Command, device: File, key: File) {
    let inherit = move || Ok([&device, &key].into_iter().try_for_each(|file| fcntl_setfd(file, FdFlags::empty()))?);
    // SAFETY: between fork and exec it makes two calls of the kernel and nothing else.
    unsafe { command.pre_exec(inherit) };
}

/// Asks until `holds` does; statistics are counted a moment after what they count.
pub fn eventually(client: &mut Client, what: &str, holds: impl Fn(&Statistics) -> bool) -> Statistics {
    let end = Instant::now() + PATIENCE;
    loop {
        let statistics = client.statistics().unwrap();
        if holds(&statistics) {
            return statistics;
        }
        assert!(Instant::now() < end, "{what}: {statistics:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Its place in `Step::ALL`, and behind those in `Step::HOLDING`.
pub fn number_of(step: Step) -> usize {
    Step::ALL.iter().chain(&Step::HOLDING).position(|known| *known == step).unwrap()
}
