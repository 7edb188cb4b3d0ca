//! The row of scaling groups. Owns it; what a row is, is [`super::Kind`]'s word.

use lucarne_model::ErrorCode;

use super::{BY_NAME, Kind, no_such};
use crate::session::answer;

pub(crate) static SCALING_GROUP: Kind = Kind {
    noun: "scaling group",
    prefix: "asg-",
    names: BY_NAME,
    not_found: ErrorCode::InvalidScalingGroupNotFound,
    columns: &[
        ("ID", "id"),
        ("NAME", "name"),
        ("VPC", "vpc"),
        ("TARGET", "target"),
        ("VALUE", "value"),
        ("MIN", "min"),
        ("MAX", "max"),
        ("DESIRED", "desired"),
        ("WAITS FOR", "waits.kind"),
        ("CHANGED", "changed"),
    ],
    list: list!(list_scaling_groups),
    show: show!(get_scaling_group, InvalidScalingGroupNotFound),
    delete: None,
};
