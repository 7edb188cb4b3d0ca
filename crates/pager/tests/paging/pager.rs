//! The role of the pager: the real one, which may be told to die at a step.

use std::{
    env,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::Duration,
};

use lucarne_model::{Bytes, InstanceId};
use lucarne_pager::{Options, Origin, Step, run_observed};

use crate::house::number_of;

/// `FOLDER POOL-BYTES STEP COUNT [PARENT CAPTURE whole|lazy]`: at the COUNTth time that STEP (its [`number_of`]) is reached, it
/// dies.
pub const VARIABLE: &str = "LUCARNE_TEST_PAGER";

static STEP: AtomicUsize = AtomicUsize::new(usize::MAX);
static LEFT: AtomicI64 = AtomicI64::new(0);

fn die_at(step: Step) {
    if STEP.load(Ordering::Relaxed) == number_of(step) && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    }
}

/// Not a test by itself: `house` starts it in a process of its own.
#[test]
#[ignore = "a role that other tests start"]
fn role_of_the_pager() {
    let Ok(setting) = env::var(VARIABLE) else { return };
    let parts: Vec<&str> = setting.split(' ').collect();
    let folder = std::path::PathBuf::from(parts[0]);
    STEP.store(parts[2].parse().unwrap(), Ordering::Relaxed);
    LEFT.store(parts[3].parse().unwrap(), Ordering::Relaxed);
    let options = Options {
        instance: InstanceId::from_bits(0x1ca),
        machine: folder.join("machine.sock"),
        control: folder.join("pager.sock"),
        state: folder.join("state"),
        pool: Bytes(parts[1].parse().unwrap()),
        origin: parts.get(4).map(|parent| Origin::Parent {
            control: parent.into(),
            capture: parts[5].into(),
            whole: parts[6] == "whole",
        }),
        patience: Duration::from_secs(20),
    };
    match run_observed(&options, die_at) {
        Ok(exit) => println!("\n> {exit:?}"),
        Err(error) => println!("\n> failed: {error} {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    }
}
