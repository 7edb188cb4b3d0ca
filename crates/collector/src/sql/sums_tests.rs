//! The table `flow_sums` against `flows`: that every sum over it is the same, whatever it is answered from.

use std::{fs, net::Ipv4Addr, path::PathBuf, sync::Arc, thread};

use datafusion::physical_plan::displayable;
use lucarne_model::{AccountId, FlowRecord, flow::Direction, flow_sql::SqlQuestion};
use proptest::prelude::*;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    Answer, Engine, FlowStore as _, Limits, SqlError, bounded::Share, engine::start, progress::Running, statement,
};
use crate::{
    catalog::Catalog,
    chunk::Chunk,
    foreign::Foreign,
    part::{self, Effort, Folders, Part, Place, sums::Level},
    sealer::write_parts,
    test_records::{NOW, numbered, record},
};

/// Seconds over which the records below are strewn: one a second, in a few hours.
pub(super) const LENGTH: u64 = 20_000;
pub(super) const HOUR: u64 = 3600;

/// A folder of parts, and an engine over what is in its catalog.
pub(super) struct Store {
    pub(super) folders: Folders,
    pub(super) catalog: Arc<Catalog>,
    pub(super) engine: Engine,
    pub(super) runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Store {
    pub(super) fn of(parts: impl FnOnce(&Folders) -> Vec<Arc<Part>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::of(dir.path());
        for folder in [&folders.shown, &folders.own, &folders.sums] {
            fs::create_dir_all(folder).unwrap();
        }
        let parts = parts(&folders);
        Self::over(dir, folders, parts, Limits::default())
    }

    fn over(dir: tempfile::TempDir, folders: Folders, parts: Vec<Arc<Part>>, limits: Limits) -> Self {
        let catalog = Arc::new(Catalog::new(parts));
        let foreign = Arc::new(Foreign::open(dir.path()).unwrap());
        let engine = Engine::start(&folders, catalog.clone(), foreign, limits).unwrap();
        Self { folders, catalog, engine, runtime: Runtime::new().unwrap(), dir }
    }

    /// As after a start: nothing is known of the parts but their names.
    pub(super) fn again(self) -> Self {
        self.within(Limits::default())
    }

    pub(super) fn within(self, limits: Limits) -> Self {
        let Self { dir, folders, .. } = self;
        let parts = part::find(&folders).unwrap().into_iter();
        let parts = parts.map(|(place, size)| Part::new(place, &folders, size)).collect();
        Self::over(dir, folders, parts, limits)
    }

    pub(super) fn rows(&self, account: Option<AccountId>, sql: &str) -> Vec<Value> {
        match self.runtime.block_on(self.engine.ask(&SqlQuestion::new(account, sql))).unwrap() {
            Answer::Json(answer) => answer.rows.into_iter().map(Value::from).collect(),
            Answer::Arrow { .. } => panic!("JSON was asked for"),
        }
    }

    /// How many files of parts a question reads.
    pub(super) fn files(&self, account: Option<AccountId>, sql: &str) -> usize {
        let asked = async {
            let share = Share::of(1 << 30);
            let session = self.engine.session(account, &share).unwrap();
            let running = Running::default();
            let question = running.add(None).question.clone();
            let statement = statement::one_select(sql).unwrap();
            start(&session, statement, 1000, Limits::default(), &share, &question).await.unwrap();
            displayable(question.plan().unwrap().as_ref()).indent(true).to_string().matches(".parquet").count()
        };
        self.runtime.block_on(asked)
    }

    pub(super) fn merge_all(&self) {
        for parts in self.catalog.crowded_folders() {
            self.catalog.merged(part::merge(&self.folders, &parts).unwrap().unwrap().part);
        }
    }

    /// Of the parts that have sums, where these lie.
    pub(super) fn sums(&self) -> Vec<PathBuf> {
        let places = part::find(&self.folders).unwrap().into_iter();
        let paths = places.map(|(place, _)| sums_path(&self.folders, &place));
        paths.filter(|path| path.exists()).collect()
    }
}

fn sums_path(folders: &Folders, place: &Place) -> PathBuf {
    folders.sums.join(place.name()).with_extension("sums")
}

pub(super) fn sealed(folders: &Folders, segment: u64, effort: Effort, records: &[FlowRecord]) -> Vec<Arc<Part>> {
    let chunk = Chunk::of(segment << 32, records);
    write_parts(folders, segment, effort, &[chunk]).unwrap().into_iter().map(|new| new.part).collect()
}

pub(super) fn tenant() -> AccountId {
    record(0).account
}

/// The same question of either table: by these columns, of records in the time and with the condition.
fn questions(by: &[&str], window: (u64, u64), condition: &str) -> [String; 2] {
    let time = |seconds: u64| {
        let millis = NOW.as_millis() + 1000 * seconds;
        format!("arrow_cast({millis}, 'Timestamp(Millisecond, Some(\"UTC\"))')")
    };
    let port = "CASE WHEN side = 'initiator' THEN destination_port ELSE source_port END";
    let flows = "sum(CASE WHEN side = 'initiator' AND end_reason <> 'active-slice' THEN 1 ELSE 0 END)";
    let peer = "CASE WHEN direction = 'egress' THEN destination ELSE source END";
    let tables =
        [("flow_sums", "port", "peer", "sum(records)", "sum(flows)"), ("flows", port, peer, "count(*)", flows)];
    tables.map(|(table, port, peer, records, flows)| {
        let column = |name: &&str| match *name {
            "port" => format!("{port} AS port"),
            "peer" => format!("{peer} AS peer"),
            name => name.to_owned(),
        };
        let by: Vec<String> = by.iter().map(column).collect();
        let places: Vec<String> = (1..=by.len()).map(|place| place.to_string()).collect();
        format!(
            "SELECT {}, sum(packets) AS packets, sum(bytes) AS bytes, {records} AS records, {flows} AS flows, \
                 min(start) AS first_seen, max(\"end\") AS last_seen FROM {table} \
                 WHERE \"end\" >= {} AND start < {} AND {condition} GROUP BY {} ORDER BY {}",
            by.join(", "),
            time(window.0),
            time(window.1),
            places.join(", "),
            places.join(", "),
        )
    })
}

const COARSE: [&str; 4] = ["account", "vpc", "instance", "direction"];
const FINE: [&str; 8] = ["account", "instance", "verdict", "path", "protocol", "port", "end_reason", "rule"];
const BY_PEER: [&str; 10] =
    ["account", "vpc", "instance", "direction", "side", "peer", "protocol", "port", "end_reason", "rule"];
const PEERS: [&str; 3] = ["account", "vpc", "peer"];
const CONDITIONS: [&str; 6] = [
    "TRUE",
    "(side = 'initiator') = (direction = 'egress') AND (verdict = 'accept' OR end_reason = 'no-route')",
    "verdict = 'accept' AND (direction = 'egress' OR path NOT IN ('same-host', 'other-host', 'other-location'))",
    "instance <> 'i-00000000000000002' AND rule IS NOT NULL",
    // What is asked of each record: sums of many say nothing of it.
    "bytes > 300000",
    "\"end\" < now() AND start <> \"end\"",
];

/// Seconds from the first hour on; half of them the border of an hour.
pub(super) fn instant() -> impl Strategy<Value = u64> {
    prop_oneof![0..LENGTH, (0..=LENGTH / HOUR + 1).prop_map(|hour| hour * HOUR)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// Of any records, any time, any account: from the log, from parts with sums and without, and while these are merged.
    #[test]
    fn sums_are_the_same_whatever_they_are_made_of(
        numbers in prop::collection::vec(0..LENGTH, 4..200),
        window in (instant(), instant()),
    ) {
        let records: Vec<FlowRecord> = numbers.iter().map(|number| record(*number)).collect();
        let quarter = records.len() / 4;
        let store = Store::of(|folders| {
            let sealed = [(1, Effort::Fresh), (2, Effort::Merged), (3, Effort::Fresh)].into_iter().flat_map(|(at, effort)| {
                let start = (at as usize - 1) * quarter;
                sealed(folders, at, effort, &records[start..start + quarter])
            });
            sealed.collect()
        });
        store.catalog.open(4);
        store.catalog.add(4, [Chunk::of(4 << 32, &records[3 * quarter..])]);
        let all = (0, LENGTH + HOUR);
        let mut asked = Vec::new();
        for window in [window, all] {
            let all = |condition| [&COARSE[..], &FINE, &BY_PEER, &PEERS].map(|by| (by, condition));
            for (by, condition) in CONDITIONS.iter().flat_map(all) {
                for account in [Some(tenant()), None] {
                    let [of_sums, of_flows] = questions(by, window, condition);
                    let expected = store.rows(account, &of_flows);
                    if let Some(account) = account {
                        prop_assert!(expected.iter().all(|row| row["account"] == account.to_string()));
                    }
                    prop_assert_eq!(store.rows(account, &of_sums), &expected[..], "{}", of_sums);
                    asked.push((account, of_sums, expected));
                }
            }
        }
        thread::scope(|scope| {
            let merging = scope.spawn(|| store.merge_all());
            let mut again = asked.iter().cycle();
            while !merging.is_finished() {
                let (account, of_sums, expected) = again.next().unwrap();
                prop_assert_eq!(&store.rows(*account, of_sums), expected, "{}", of_sums);
            }
            Ok(())
        })?;
        for (account, of_sums, expected) in &asked {
            prop_assert_eq!(&store.rows(*account, of_sums), expected, "{}", of_sums);
        }
    }
}

/// All hours of one account and location in parts that are likely to stay.
fn summed() -> Store {
    let records = numbered(0..LENGTH).into_iter().filter(|record| record.account == tenant()).collect::<Vec<_>>();
    Store::of(|folders| sealed(folders, 1, Effort::Merged, &records))
}

#[test]
fn a_part_is_read_only_where_the_time_asked_for_begins_or_ends_in_it() {
    let store = summed();
    let files = |window, condition| store.files(Some(tenant()), &questions(&COARSE, window, condition)[0]);
    // Six hours in two locations.
    assert_eq!(store.sums().len(), 12);
    assert_eq!(files((0, LENGTH + HOUR), "TRUE"), 0);
    for by in [&PEERS[..], &BY_PEER] {
        assert_eq!(store.files(Some(tenant()), &questions(by, (0, LENGTH + HOUR), "side = 'initiator'")[0]), 0);
        assert_eq!(store.files(Some(tenant()), &questions(by, (1, LENGTH + HOUR), "side = 'initiator'")[0]), 2);
    }
    assert_eq!(files((0, 6 * HOUR), "verdict = 'accept'"), 0);
    assert_eq!(files((HOUR, 6 * HOUR), "TRUE"), 0);
    assert_eq!(files((HOUR + 1, 6 * HOUR), "TRUE"), 2);
    assert_eq!(files((0, 6 * HOUR - 1), "TRUE"), 2);
    // What ended in a later hour may have begun in an earlier one.
    assert_eq!(files((0, 3 * HOUR), "TRUE"), 6);
    assert_eq!(files((0, 6 * HOUR), "bytes > 1"), 12);
}

/// What becomes of a file, and what was in another one; none if it is removed.
type Damage = fn(&[u8], &[u8]) -> Option<Vec<u8>>;

#[test]
fn sums_that_are_damaged_or_gone_or_of_another_part_are_left_aside() {
    let [of_sums, of_flows] = questions(&FINE, (0, LENGTH + HOUR), "TRUE");
    let mut store = summed();
    let expected = store.rows(None, &of_flows);
    let paths = store.sums();
    let whole: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let damages: [Damage; 6] = [
        |_, _| None,
        |_, _| Some(Vec::new()),
        |mine, _| Some(mine[..mine.len() - 1].to_vec()),
        |mine, _| Some(mine.iter().enumerate().map(|(at, octet)| octet ^ u8::from(at == mine.len() / 2)).collect()),
        |mine, _| Some(mine.iter().enumerate().map(|(at, octet)| octet ^ u8::from((16..32).contains(&at))).collect()),
        |_, other| Some(other.to_vec()),
    ];
    for damage in damages {
        for (at, path) in paths.iter().enumerate() {
            match damage(&whole[at], &whole[(at + 1) % whole.len()]) {
                Some(octets) => fs::write(path, octets).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
        store = store.again();
        assert_eq!(store.files(None, &of_sums), paths.len());
        assert_eq!(store.rows(None, &of_sums), expected);
    }
    paths.iter().zip(&whole).for_each(|(path, octets)| fs::write(path, octets).unwrap());
    store = store.again();
    assert_eq!(store.files(None, &of_sums), 0);
    assert_eq!(store.rows(None, &of_sums), expected);
}

/// Many peers over several parts: no more of them are held at once than of one slice.
#[test]
fn a_question_by_peer_fits_where_one_by_record_does_not() {
    const PEERS_OF_PART: u64 = 20_000;
    let address = |number: u64| Ipv4Addr::from_bits(0x4000_0000 + number as u32).to_string();
    let record = |number| {
        let source = address(number).parse().unwrap();
        FlowRecord { source, direction: Direction::Ingress, ..record(1) }
    };
    let part = |segment: u64| {
        let first = segment * PEERS_OF_PART;
        (segment, (first..first + PEERS_OF_PART).map(record).collect::<Vec<_>>())
    };
    let store = Store::of(|folders| {
        let parts = (1..5).map(part).flat_map(|(segment, records)| sealed(folders, segment, Effort::Merged, &records));
        parts.collect()
    });
    let store = store.within(Limits { memory: 6 << 20, ..Limits::default() });
    let [of_sums, of_flows] = questions(&PEERS, (0, LENGTH), "TRUE").map(|sql| format!("{sql} LIMIT 100"));
    let ask = |sql: &str| store.runtime.block_on(store.engine.ask(&SqlQuestion::new(None, sql)));
    assert!(matches!(ask(&of_flows), Err(SqlError::TooMuchMemory { .. })));
    let Ok(Answer::Json(answer)) = ask(&of_sums) else { panic!("it is refused") };
    let last = 5 * PEERS_OF_PART;
    let mut expected: Vec<String> = (PEERS_OF_PART..last).map(address).collect();
    expected.sort_unstable();
    let peers: Vec<&str> = answer.rows.iter().filter_map(|row| row["peer"].as_str()).collect();
    assert_eq!(peers, expected[..100]);
}

/// Such a record is not told by the hour in which it ended.
#[test]
fn a_part_with_a_record_that_began_after_its_end_has_no_sums() {
    let mut records = numbered(0..10);
    let odd = records.iter_mut().find(|record| record.account == tenant()).unwrap();
    odd.start = odd.end.plus(std::time::Duration::from_millis(1));
    let (account, location) = (odd.account, odd.location.clone());
    let store = Store::of(|folders| sealed(folders, 1, Effort::Merged, &records));
    for part in store.catalog.everything(None).parts {
        let is_odd = part.place.account == account && part.place.location == location;
        assert_eq!(part.is_summed(Level::Instance), !is_odd, "{:?}", part.place);
    }
}

#[test]
fn sums_go_with_their_part() {
    let records = numbered(0..1000);
    let (first, second) = records.split_at(500);
    let store = Store::of(|folders| {
        [sealed(folders, 1, Effort::Merged, first), sealed(folders, 2, Effort::Merged, second)].concat()
    });
    let before = store.sums();
    store.merge_all();
    let parts = store.catalog.everything(None).parts;
    let after = store.sums();
    assert_eq!(after.len(), parts.len());
    assert!(before.iter().all(|path| !path.exists() && !after.contains(path)));
    // Half-written ones, and those whose part a crash took, go at the next start.
    let lone = after[0].with_file_name("0000000007-0000000008.sums");
    fs::copy(&after[0], &lone).unwrap();
    fs::write(lone.with_extension("sums.tmp"), b"half").unwrap();
    let store = store.again();
    assert_eq!(store.sums(), after);
    assert!(!lone.exists() && !lone.with_extension("sums.tmp").exists());
    // And a part that does not count takes its own with it.
    part::remove(&store.folders, &parts[0].place).unwrap();
    assert!(!sums_path(&store.folders, &parts[0].place).exists());
}
