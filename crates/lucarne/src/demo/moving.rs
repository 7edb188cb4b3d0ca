//! A scene of the chapter "memory": a machine moves to another host while another one downloads from it.
//! The chapter "replicas" has the same two machines.
//!
//! Owns the two machines' scripts and what is expected. The page that is downloaded has no end, and its lines are numbered:
//! one that is missing, or comes twice, is seen.

use std::{net::Ipv4Addr, time::Duration};

use lucarne_api::bodies::instance::{Job, MigrateInstance};
use lucarne_model::InstanceId;

use super::{memory::look, report::Story, tenant::Tenant};
use crate::{
    commands::instance::{log, migrate},
    failure::Failure,
    wait,
};

/// Where the one that serves is.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
const CAME: &str = "probe:came:";
const WRONG: &str = "probe:wrong";
/// Of the lines one in so many is told; there are 20 in a second.
const TOLD: u32 = 10;
/// Lines before the move, and after it.
pub(super) const LINES: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// Serves numbered lines without end.
pub(super) fn serves() -> String {
    "#!/bin/sh\nmkdir -p /srv/www/cgi-bin\ncat > /srv/www/cgi-bin/lines <<'END'\n#!/bin/sh\n\
     printf 'Content-Type: text/plain\\r\\n\\r\\n'\nn=0\n\
     while :; do n=$((n+1)); echo \"line $n of a page that has no end, and is long enough to be sent at once\"; usleep 50000; done\n\
     END\nchmod +x /srv/www/cgi-bin/lines\necho page > /srv/www/index.html\nhttpd -p 80 -h /srv/www\n"
        .into()
}

/// Downloads them over one connection.
pub(super) fn downloads() -> String {
    format!(
        "#!/bin/sh\n(until timeout 3 wget -q -O /dev/null http://{ADDRESS}/; do sleep 1; done\n\
         wget -q -O - http://{ADDRESS}/cgi-bin/lines | (last=0; while read -r _ n _; do\n\
         [ \"$n\" = $((last + 1)) ] || printf '\\n{WRONG}\\n'\nlast=$n\n\
         [ $((n % {TOLD})) = 0 ] && printf '\\n{CAME}%s\\n' $n\ndone)\nprintf '\\n{WRONG}\\n') > /dev/console 2>&1 &\n"
    )
}

/// Lines that have come; none if one is missing, or the connection was closed.
pub(super) fn came(log: &str) -> Option<u64> {
    if log.contains(WRONG) {
        return None;
    }
    let told = log.lines().filter_map(|line| line.trim().strip_prefix(CAME)?.parse().ok());
    Some(told.max().unwrap_or(0))
}

/// The first line of which it was told.
pub(super) fn first_came(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.trim().strip_prefix(CAME)?.parse().ok())
}

pub(super) async fn until_more(tenant: &Tenant, downloads: InstanceId, lines: u64) -> Result<Option<u64>, Failure> {
    let log = async || log(&tenant.session, downloads).await;
    look(PATIENCE, log, |log| came(log).is_none_or(|now| now >= lines)).await.map(|log| came(&log))
}

pub(super) async fn tell(
    story: &mut Story,
    tenant: &Tenant,
    (serves, downloads): (InstanceId, InstanceId),
) -> Result<(), Failure> {
    let before = until_more(tenant, downloads, LINES).await?.unwrap_or_default();
    let job = migrate(&tenant.session, serves, MigrateInstance { host: None }).await?;
    let Job { moved, .. } = wait::until_done(&tenant.session, job.id).await?;
    let at_once = came(&log(&tenant.session, downloads).await?).unwrap_or_default();
    let now = until_more(tenant, downloads, at_once + LINES).await?;
    let is_elsewhere = moved.is_some_and(|moved| moved.from != moved.to);
    let stood_still = moved.and_then(|moved| moved.stood_still_millis);
    let still = stood_still.map_or_else(|| "for a time that is not known".into(), |millis| format!("for {millis} ms"));
    let lines = now.map_or_else(
        || "lines are missing".into(),
        |now| format!("{} lines came meanwhile and since, none missing", now.saturating_sub(before)),
    );
    let held = is_elsewhere && now.is_some_and(|now| now >= at_once + LINES);
    story.step(
        "m3 moves to another host while m4 downloads from it",
        "it is on another host, and the download goes on without a gap",
        format!("it stood still {still}; {lines}"),
        held,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_a_gap_ends_all() {
        assert_eq!(came("probe:came:10\r\n\n x\nprobe:came:20\r\n"), Some(20));
        assert_eq!(came(""), Some(0));
        assert_eq!(came("probe:came:10\nprobe:wrong\n"), None);
    }

    #[test]
    fn the_one_that_downloads_knows_where_from() {
        assert!(downloads().contains("http://10.0.1.10/cgi-bin/lines") && serves().contains("cgi-bin/lines"));
    }
}
