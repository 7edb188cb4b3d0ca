//! What a collector takes of memory: empty, while records come at a steady rate, and idle with what it has kept.
//!
//! Owns the scene: a collector in a process of its own with its default pace, one host that sends made-up records
//! ([`lucarne_bench::flow_mix`]) for a while. `LUCARNE_BENCH_RATE` says how many a second, `LUCARNE_BENCH_SECONDS` for how long.

use std::{env, str::FromStr, thread, time::Duration};

use anyhow::{Result, anyhow};
use lucarne_bench::{
    collecting::{Collector, HOST, collector_or},
    figures::table,
    flow_mix::FlowMix,
    memory::{Memory, mib},
};
use lucarne_model::{FlowRecord, Moment};

/// 2026-01-15, an hour.
const SINCE: Moment = Moment::from_secs(1_768_478_400);
/// Records a second.
const RATE: usize = 100_000;
const SECONDS: usize = 60;
/// Long enough for the last segment to be sealed and for parts to be merged.
const SETTLE: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    collector_or(|runtime| {
        let (rate, seconds) = (setting("LUCARNE_BENCH_RATE", RATE)?, setting("LUCARNE_BENCH_SECONDS", SECONDS)?);
        let dir = tempfile::tempdir()?;
        let collector = runtime.block_on(Collector::start(dir.path()))?;
        let empty = Memory::of(collector.pid())?;
        let records = of_one_host(rate * seconds);
        let mut host = collector.connect(1)?;
        let sending = thread::spawn(move || host.send_steadily(&records, rate, SINCE));
        let (mut seen, mut most) = (Vec::new(), empty);
        while !sending.is_finished() {
            thread::sleep(LOOK_EVERY);
            let memory = Memory::of(collector.pid())?;
            seen.push(memory.rss);
            most = if memory.rss > most.rss { memory } else { most };
        }
        let kept = sending.join().map_err(|_| anyhow!("the host did not get to its end"))??;
        thread::sleep(SETTLE);
        let idle = Memory::of(collector.pid())?;
        let health = runtime.block_on(collector.health())?;
        let row = |name: &str, memory: &Memory| vec![name.to_owned(), mib(memory.rss), mib(memory.private)];
        seen.sort_unstable();
        let middle = seen.get(seen.len() / 2).copied().unwrap_or_default();
        let rows = [
            row("empty", &empty),
            vec![format!("at {:.0} records/s, the median", kept), mib(middle), "-".into()],
            row("at its most", &most),
            row(
                &format!("idle, {} records in parts, {} in the log", health.taken - health.unsealed, health.unsealed),
                &idle,
            ),
        ];
        println!("{}", table(&["collector", "RSS MiB", "private MiB"], &rows));
        Ok(())
    })
}

fn setting<T: FromStr<Err: Into<anyhow::Error>>>(name: &str, default: T) -> Result<T> {
    env::var(name).map_or(Ok(default), |text| text.parse().map_err(Into::into))
}

/// At least so many records, as one host may send them: hour after hour of the mix.
fn of_one_host(count: usize) -> Vec<FlowRecord> {
    let mut records = FlowMix::new(7, SINCE).records(count);
    records.iter_mut().for_each(|record| record.host = HOST);
    records
}
