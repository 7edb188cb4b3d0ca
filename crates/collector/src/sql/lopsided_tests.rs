//! The table `lopsided_flows` against `flows`: that its rows are the same, whatever they are found in.

use std::{fs, thread, time::Duration};

use lucarne_model::{
    AccountId, EndReason, FlowRecord, InstanceId, Moment, VpcId,
    flow::{Direction, Location, Path, Side, Verdict},
    flow_sql::SqlQuestion,
};
use proptest::prelude::*;
use serde_json::Value;

use super::{
    Answer, FlowStore as _, Limits, SqlError,
    sums_tests::{HOUR, LENGTH, Store, instant, sealed, tenant},
};
use crate::{
    chunk::Chunk,
    part::Effort,
    test_records::{NOW, record},
};

const COLUMNS: &str = "vpc, initiator, initiator_instance, responder, responder_instance, protocol, initiator_port, port, \
                       packets_sent, packets_arrived, answers_sent, answers_arrived, inside, ended, first_seen, last_seen";

fn time(seconds: u64) -> String {
    format!("arrow_cast({}, 'Timestamp(Millisecond, Some(\"UTC\"))')", NOW.as_millis() + 1000 * seconds)
}

/// The same question of the table, and of all records.
fn questions(window: (u64, u64), records: &str, conversations: &str) -> [String; 2] {
    let which = format!("\"end\" >= {} AND start < {} AND {records}", time(window.0), time(window.1));
    let order = "ORDER BY last_seen DESC, initiator, responder, protocol, initiator_port, port, vpc";
    let packets = |side: &str, direction: &str| {
        format!(
            "sum(CASE WHEN side = '{side}' AND direction = '{direction}' THEN packets \
             ELSE arrow_cast(0, 'UInt64') END)"
        )
    };
    let end = |of: &str| format!("max(CASE WHEN (side = 'initiator') = (direction = 'egress') {of} END)");
    let flows = format!(
        "SELECT {COLUMNS} FROM (SELECT vpc, CASE WHEN side = 'initiator' THEN source ELSE destination END AS initiator, \
         CASE WHEN side = 'initiator' THEN destination ELSE source END AS responder, protocol, \
         CASE WHEN side = 'initiator' THEN source_port ELSE destination_port END AS initiator_port, \
         CASE WHEN side = 'initiator' THEN destination_port ELSE source_port END AS port, \
         {} AS initiator_instance, {} AS responder_instance, \
         {} AS packets_sent, {} AS packets_arrived, {} AS answers_sent, {} AS answers_arrived, \
         bool_and(path IN ('same-host', 'other-host', 'other-location')) AS inside, \
         bool_or(end_reason <> 'active-slice') AS ended, bool_or(verdict = 'reject') AS rejected, \
         min(start) AS first_seen, max(\"end\") AS last_seen \
         FROM flows WHERE {which} GROUP BY vpc, initiator, responder, protocol, initiator_port, port) \
         WHERE NOT rejected AND (packets_sent + packets_arrived = 0 OR answers_sent + answers_arrived = 0 \
         OR inside AND (initiator_instance IS NULL OR responder_instance IS NULL)) AND {conversations} {order}",
        end("THEN instance"),
        end("THEN NULL ELSE instance"),
        packets("initiator", "egress"),
        packets("initiator", "ingress"),
        packets("responder", "egress"),
        packets("responder", "ingress"),
    );
    [format!("SELECT {COLUMNS} FROM lopsided_flows WHERE {which} AND {conversations} {order}"), flows]
}

/// A record of one of few conversations: any end of it, in any hour.
fn any_record() -> impl Strategy<Value = FlowRecord> {
    let of = (0..2_u64, 0..3_u8, 0..2_u8, 0..2_u8, prop_oneof![0..3_u16, 0..60_u16]);
    let seen = (any::<bool>(), any::<bool>(), 1..4_u32, 0..40_usize, 0..20_u8, any::<bool>());
    let told = (0..LENGTH, 0..4000_u64, 0..3_u64, any::<bool>());
    (of, seen, told).prop_map(
        |(
            (account, client, server, protocol, port),
            (asks, sends, instance, path, odds, slice),
            (at, lasts, packets, east),
        )| {
            let like = record(account);
            let ends = [([10, 0, 0, client].into(), 30_000 + port), ([10, 0, 1, server].into(), 80)];
            let [(source, source_port), (destination, destination_port)] = if asks { ends } else { [ends[1], ends[0]] };
            let end = NOW.plus(Duration::from_secs(at));
            FlowRecord {
                account: AccountId::from_bits(account),
                vpc: VpcId::from_bits(u128::from(account) * 2 + u128::from(odds == 1)),
                instance: InstanceId::from_bits(u128::from(instance)),
                location: if east { "east-1".parse().unwrap() } else { Location::default() },
                verdict: if odds == 0 { Verdict::Reject } else { Verdict::Accept },
                end_reason: if slice { EndReason::ActiveSlice } else { EndReason::FinBothSides },
                direction: if sends { Direction::Egress } else { Direction::Ingress },
                path: Path::ALL.get(path).copied().unwrap_or(Path::OtherHost),
                side: if asks { Side::Initiator } else { Side::Responder },
                start: Moment(end.as_micros().saturating_sub(lasts * 1_000_000)),
                end,
                packets,
                source,
                destination,
                source_port,
                destination_port,
                protocol: [6, 17][usize::from(protocol)],
                ..like
            }
        },
    )
}

/// Parts that have conversations and parts that have none, and records of the log.
fn strewn(records: &[FlowRecord]) -> Store {
    let cut = |at: usize| &records[at * records.len() / 5..(at + 1) * records.len() / 5];
    let store = Store::of(|folders| {
        let efforts = [Effort::Merged, Effort::Fresh, Effort::Merged, Effort::Fresh];
        let sealed =
            efforts.into_iter().enumerate().flat_map(|(at, effort)| sealed(folders, at as u64 + 1, effort, cut(at)));
        sealed.collect()
    });
    store.catalog.open(5);
    store.catalog.add(5, [Chunk::of(5 << 32, cut(4))]);
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Of any records, any time, any account: from the log, from parts with conversations and without, and while these are merged.
    #[test]
    fn lopsided_flows_are_the_same_wherever_they_are_found(
        records in prop::collection::vec(any_record(), 20..400),
        window in (instant(), instant()),
    ) {
        let store = strewn(&records);
        let of_vpc = format!("vpc = '{}'", VpcId::from_bits(0));
        let last = format!("ended AND last_seen < {}", time(LENGTH / 2));
        let mut asked = Vec::new();
        for window in [window, (0, LENGTH + HOUR)] {
            for (records, conversations) in [("TRUE", "TRUE"), (&*of_vpc, "TRUE"), ("TRUE", &*last), ("protocol = 17", "port < 80")] {
                for account in [Some(tenant()), None] {
                    let [of_table, of_flows] = questions(window, records, conversations);
                    let expected = store.rows(account, &of_flows);
                    prop_assert_eq!(store.rows(account, &of_table), &expected[..], "{}", of_table);
                    asked.push((account, of_table, expected));
                }
            }
        }
        thread::scope(|scope| {
            let merging = scope.spawn(|| store.merge_all());
            let mut again = asked.iter().cycle();
            while !merging.is_finished() {
                let (account, of_table, expected) = again.next().unwrap();
                prop_assert_eq!(&store.rows(*account, of_table), expected, "{}", of_table);
            }
            Ok(())
        })?;
        for (account, of_table, expected) in &asked {
            prop_assert_eq!(&store.rows(*account, of_table), expected, "{}", of_table);
        }
    }
}

/// One packet of a conversation of its own, at the end that sent it.
fn lone(number: u64) -> FlowRecord {
    FlowRecord {
        account: tenant(),
        vpc: VpcId::from_bits(1),
        instance: InstanceId::from_bits(1),
        location: Location::default(),
        verdict: Verdict::Accept,
        end_reason: EndReason::Idle,
        direction: Direction::Egress,
        path: Path::OtherHost,
        side: Side::Initiator,
        start: NOW,
        end: NOW,
        packets: 1,
        source: [10, 0, 0, 1].into(),
        destination: std::net::Ipv4Addr::from_bits(0x0a01_0000 + number as u32 / 50_000).into(),
        source_port: (number % 50_000) as u16,
        destination_port: 80,
        protocol: 6,
        ..record(0)
    }
}

/// What the other end tells of it.
fn arrived(number: u64) -> FlowRecord {
    let sent = lone(number);
    FlowRecord { instance: InstanceId::from_bits(2), direction: Direction::Ingress, ..sent }
}

fn answered(number: u64) -> Vec<FlowRecord> {
    let back = |record: FlowRecord| FlowRecord {
        direction: if record.direction == Direction::Egress { Direction::Ingress } else { Direction::Egress },
        side: Side::Responder,
        source: record.destination,
        destination: record.source,
        source_port: record.destination_port,
        destination_port: record.source_port,
        ..record
    };
    let both = [lone(number), arrived(number)];
    both.iter().cloned().chain(both.iter().cloned().map(back)).collect()
}

fn count(store: &Store, account: Option<AccountId>) -> Value {
    store.rows(account, "SELECT count(*) AS count FROM lopsided_flows").remove(0)["count"].clone()
}

/// The two ends lie in different parts, and what is whole in one part settles what lies in another.
#[test]
fn a_conversation_is_put_together_over_parts() {
    let store = Store::of(|folders| {
        let halves: Vec<Vec<FlowRecord>> = vec![
            [vec![lone(1), lone(2), lone(3)], answered(4)].concat(),
            [vec![arrived(2), lone(4)], answered(3)].concat(),
        ];
        (1..).zip(&halves).flat_map(|(segment, records)| sealed(folders, segment, Effort::Merged, records)).collect()
    });
    let rows = store.rows(
        Some(tenant()),
        "SELECT initiator_port, responder_instance, packets_arrived FROM lopsided_flows ORDER BY 1",
    );
    let expected = serde_json::json!([
        {"initiator_port": 1, "packets_arrived": 0},
        {"initiator_port": 2, "responder_instance": InstanceId::from_bits(2), "packets_arrived": 1},
    ]);
    assert_eq!(Value::from(rows), expected);
    assert_eq!(store.files(Some(tenant()), "SELECT initiator FROM lopsided_flows"), 0, "no rows are read");
}

/// Neither how many there are nor where they lie makes it more than its memory.
#[test]
fn any_number_of_lopsided_flows_fits_where_a_question_by_record_does_not() {
    const OF_PART: u64 = 48_000;
    let store = Store::of(|folders| {
        let part = |segment: u64| {
            let records: Vec<_> = (segment * OF_PART..(segment + 1) * OF_PART).map(lone).collect();
            sealed(folders, segment, if segment == 4 { Effort::Fresh } else { Effort::Merged }, &records)
        };
        (1..5).flat_map(part).collect()
    });
    let store = store.within(Limits { memory: 24 << 20, time: Duration::from_secs(600), ..Limits::default() });
    let [of_table, of_flows] = questions((0, LENGTH), "TRUE", "TRUE").map(|sql| format!("{sql} LIMIT 100"));
    let ask = |sql: &str| store.runtime.block_on(store.engine.ask(&SqlQuestion::new(None, sql)));
    assert!(matches!(ask(&of_flows), Err(SqlError::TooMuchMemory { .. })));
    let answer = match ask(&of_table) {
        Ok(Answer::Json(answer)) => answer,
        other => panic!("it is refused: {other:?}"),
    };
    let ends = |number: u64| (lone(number).destination.to_string(), lone(number).source_port);
    let mut expected: Vec<_> = (OF_PART..5 * OF_PART).map(ends).collect();
    expected.sort_unstable();
    let told = answer
        .rows
        .iter()
        .map(|row| (row["responder"].as_str().unwrap().to_owned(), row["initiator_port"].as_u64().unwrap() as u16));
    assert_eq!(told.collect::<Vec<_>>(), expected[..100]);
    assert_eq!(count(&store, None), 4 * OF_PART);
}

#[test]
fn nobody_sees_the_flows_of_another_account() {
    let stranger = |number| FlowRecord { account: AccountId::from_bits(7), ..lone(number) };
    let records: Vec<FlowRecord> = (1..6).map(lone).chain((10..12).map(stranger)).collect();
    for effort in [Effort::Fresh, Effort::Merged] {
        let store = Store::of(|folders| sealed(folders, 1, effort, &records));
        store.catalog.open(2);
        store.catalog.add(2, [Chunk::of(2 << 32, &[lone(20), stranger(21)])]);
        assert_eq!(count(&store, Some(tenant())), 6);
        assert_eq!(count(&store, Some(AccountId::from_bits(7))), 3);
        assert_eq!(count(&store, Some(AccountId::from_bits(8))), 0);
        assert_eq!(count(&store, None), 9);
    }
}

/// What was written before there were conversations still has its sums, and its rows answer for the rest.
#[test]
fn a_file_of_the_version_before_has_sums_and_no_conversations() {
    const BLOCKS: [usize; 2] = [2 + 64, 1 + 2 * 16];
    let store = Store::of(|folders| {
        let records: Vec<FlowRecord> = (1..4).map(lone).chain(answered(5)).collect();
        sealed(folders, 1, Effort::Merged, &records)
    });
    let sums = "SELECT peer, sum(packets) AS packets FROM flow_sums GROUP BY peer ORDER BY peer";
    let of_table = format!("SELECT {COLUMNS} FROM lopsided_flows ORDER BY initiator_port");
    let expected = [sums, &*of_table].map(|sql| store.rows(None, sql));
    assert_eq!(expected[1].len(), 3);
    assert_eq!([sums, &*of_table].map(|sql| store.files(None, sql)), [0, 0]);
    for path in store.sums() {
        let new = fs::read(&path).unwrap();
        let header = 16 + 8 * BLOCKS[0];
        let lengths = new[16..header].chunks_exact(8).map(|length| u64::from_le_bytes(length.try_into().unwrap()));
        let blocks = &new[header + 8 * BLOCKS[1]..][..lengths.sum::<u64>() as usize];
        fs::write(&path, [b"lcnsums2", &new[8..header], blocks].concat()).unwrap();
    }
    let store = store.again();
    assert_eq!([sums, &*of_table].map(|sql| store.rows(None, sql)), expected);
    assert_eq!([sums, &*of_table].map(|sql| store.files(None, sql)), [0, 1]);
}

/// A flow that left the network has one end of it, and what came back shows that it is whole.
#[test]
fn a_flow_to_the_outside_is_lopsided_without_an_answer_only() {
    let out = |record: FlowRecord| FlowRecord { path: Path::Internet, ..record };
    let mine = |record: &FlowRecord| record.instance == InstanceId::from_bits(1);
    let records: Vec<FlowRecord> = answered(1).into_iter().filter(mine).chain([lone(2)]).map(out).collect();
    let store = Store::of(|folders| sealed(folders, 1, Effort::Merged, &records));
    let rows = store.rows(None, "SELECT initiator_port FROM lopsided_flows");
    assert_eq!(rows, [serde_json::json!({"initiator_port": 2})]);
}
