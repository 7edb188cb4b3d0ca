//! How long after a session has ended its record is found by a question, while nothing else comes and while much does.
//!
//! Owns the scene: a collector in a process of its own, a host that hands over the record of a session as it ends, and
//! one who asks for that record again and again until it is there. The clock runs from the last packet, where the flow
//! table gives the record, to the answer that has it. The host agent's spool, which syncs records before it sends them, is
//! not in it. `LUCARNE_BENCH_RATE` says how many other records come a second in the second half.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, anyhow, ensure};
use lucarne_bench::{
    collecting::{Collector, HOST, Host, collector_or},
    figures::table,
    flow_mix::FlowMix,
};
use lucarne_model::{AccountId, FlowFilter, FlowPage, FlowQuery, FlowRecord, Moment};

const SINCE: Moment = Moment::from_secs(1_768_478_400);
/// Other records a second.
const RATE: usize = 50_000;
/// Sessions that end one after the other.
const SESSIONS: u16 = 300;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(50);
/// Before a session counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// The mark, of 99 in 100.
const MARK: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    collector_or(|runtime| {
        let rate = env::var("LUCARNE_BENCH_RATE").map_or(Ok(RATE), |text| text.parse())?;
        let dir = tempfile::tempdir()?;
        let collector = runtime.block_on(Collector::start(dir.path()))?;
        let session = FlowMix::new(7, SINCE).records(1000).remove(0);
        let mut host = collector.connect(1)?;
        let mut rows = Vec::new();
        let alone = end_sessions(runtime, &collector, &mut host, &session, 0)?;
        rows.push(row("nothing else comes", alone));
        let (others, over) = (collector.connect(2)?, Arc::new(AtomicBool::new(false)));
        let noise = thread::spawn({
            let over = over.clone();
            move || make_noise(others, rate, &over)
        });
        let among = end_sessions(runtime, &collector, &mut host, &session, SESSIONS);
        over.store(true, Relaxed);
        let kept = noise.join().map_err(|_| anyhow!("the other records did not get to their end"))??;
        rows.push(row(&format!("{kept:.0} records/s come beside"), among?));
        println!("{}", table(&["session end to answer, ms", "median", "99 in 100", "most"], &rows));
        println!("The mark is {} ms for 99 in 100.", MARK.as_millis());
        Ok(())
    })
}

/// Ends so many sessions, numbered from `first` on in their client's port, and gives how long each took to be found.
fn end_sessions(
    runtime: &tokio::runtime::Runtime,
    collector: &Collector,
    host: &mut Host,
    like: &FlowRecord,
    first: u16,
) -> Result<Vec<Duration>> {
    let account = AccountId::from_bits(2);
    let mut took = Vec::new();
    for number in first..first + SESSIONS {
        let now = now();
        let port = 1024 + number;
        let record = FlowRecord { account, host: HOST, source_port: port, start: now, end: now, ..like.clone() };
        let filter = FlowFilter { port: Some(port), ..FlowFilter::default() };
        let query = FlowQuery { filter, ..FlowQuery::new(account, now.minus(Duration::from_secs(1))) };
        let began = Instant::now();
        host.send(&[record], now)?;
        while runtime.block_on(collector.ask::<FlowPage>("flows/list", &query))?.records.is_empty() {
            ensure!(began.elapsed() < PATIENCE, "a session was not found");
            thread::sleep(Duration::from_millis(1));
        }
        took.push(began.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(took)
}

/// Sends other records at the rate until all is over; gives the rate that was kept.
fn make_noise(mut host: Host, rate: usize, over: &AtomicBool) -> Result<f64> {
    let mut records = FlowMix::new(9, SINCE).records(rate.max(1000));
    records.iter_mut().for_each(|record| record.host = HOST);
    let (began, mut sent) = (Instant::now(), 0);
    while !over.load(Relaxed) {
        host.send_steadily(&records, rate, SINCE)?;
        sent += records.len();
    }
    Ok(sent as f64 / began.elapsed().as_secs_f64())
}

fn row(name: &str, mut took: Vec<Duration>) -> Vec<String> {
    took.sort_unstable();
    let at = |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1)));
    let millis =
        |time: Option<&Duration>| time.map_or_else(|| "-".into(), |time| format!("{:.0}", time.as_secs_f64() * 1e3));
    vec![name.to_owned(), millis(at(50)), millis(at(99)), millis(took.last())]
}

fn now() -> Moment {
    Moment::EPOCH.plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
