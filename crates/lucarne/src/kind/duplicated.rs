//! The rows of what is made of running networks: their duplicates, what was recorded of them, what of that was played, what was
//! made up and asked of them, and the orders for duplicates and recordings.
//!
//! Owns these rows of the table; what a row is, is [`super::Kind`]'s word.

use lucarne_model::ErrorCode;

use super::{BY_NAME, BY_TAG, Kind, no_such};
use crate::session::answer;

pub(crate) static REPLICA: Kind = Kind {
    noun: "replica",
    prefix: "rep-",
    names: BY_NAME,
    not_found: ErrorCode::InvalidReplicaNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("SOURCE", "source"),
        ("VPC", "vpc"),
        ("COPY", "terms.copy"),
        ("MEMORY", "terms.memory"),
        ("STATE", "state"),
        ("COPIED", "copied"),
        ("EXPIRES", "expires"),
        ("REASON", "state_reason.message"),
    ],
    list: list!(list_replicas),
    show: show!(get_replica, InvalidReplicaNotFound),
    delete: None,
};

pub(crate) static RECORDING: Kind = Kind {
    noun: "recording",
    prefix: "rec-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidRecordingNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("VPC", "vpc"),
        ("STATE", "state"),
        ("FRAMES", "recorded.frames"),
        ("SIZE", "recorded.size"),
        ("LOST", "recorded.lost"),
        ("FULL", "recorded.full"),
        ("STARTED", "started"),
        ("UNTIL", "until"),
        ("EXPIRES", "expires"),
    ],
    list: list!(list_recordings),
    show: show!(get_recording, InvalidRecordingNotFound),
    delete: delete!(delete_recording, InvalidRecordingNotFound),
};

pub(crate) static REPLAY: Kind = Kind {
    noun: "replay",
    prefix: "play-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidReplayNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("RECORDING", "recording"),
        ("REPLICA", "replica"),
        ("FROM", "terms.from"),
        ("SPEED", "terms.speed"),
        ("TIMES", "terms.times"),
        ("AMPLIFY", "terms.amplify"),
        ("STATE", "state"),
        ("SCORE", "score"),
        ("CREATED", "created"),
        ("REASON", "state_reason.message"),
    ],
    list: list!(list_replays),
    show: show!(get_replay, InvalidReplayNotFound),
    delete: delete!(delete_replay, InvalidReplayNotFound),
};

pub(crate) static LOAD: Kind = Kind {
    noun: "load",
    prefix: "load-",
    names: BY_TAG,
    not_found: ErrorCode::InvalidLoadNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "tags.Name"),
        ("REPLICA", "replica"),
        ("TO", "address"),
        ("PORT", "terms.port"),
        ("KIND", "terms.kind"),
        ("RATE", "terms.rate"),
        ("STATE", "state"),
        ("SENT", "report.sent"),
        ("ANSWERED", "report.answered"),
        ("P99 µs", "report.latency.p99_micros"),
        ("CREATED", "created"),
        ("REASON", "state_reason.message"),
    ],
    list: list!(list_loads),
    show: show!(get_load, InvalidLoadNotFound),
    delete: delete!(delete_load, InvalidLoadNotFound),
};

pub(crate) static TRIGGER: Kind = Kind {
    noun: "trigger",
    prefix: "trig-",
    names: BY_NAME,
    not_found: ErrorCode::InvalidTriggerNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("VPC", "vpc"),
        ("ON", "on"),
        ("MADE", "made"),
        ("NOT MADE", "not_made"),
        ("DUE", "due"),
        ("CREATED", "created"),
    ],
    list: list!(list_triggers),
    show: show!(get_trigger, InvalidTriggerNotFound),
    delete: delete!(delete_trigger, InvalidTriggerNotFound),
};
