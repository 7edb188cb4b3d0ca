//! Two guests with a connection that is never idle: one serves numbered lines, the other checks that none is missing.
//!
//! Owns their scripts and the reading of what they say. The numbers are counted in memory: who began anew would count anew.

use crate::api::Api;

/// Serves numbered lines without end.
pub const SERVES: &str = "#!/bin/sh
mkdir -p /srv/www/cgi-bin
cat > /srv/www/cgi-bin/lines <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
n=0
while :; do n=$((n+1)); echo \"line $n of a page that has no end, and whose lines are long enough to be sent at once\"; usleep 50000; done
END
chmod +x /srv/www/cgi-bin/lines
echo page > /srv/www/index.html
httpd -p 80 -h /srv/www
";

/// Fetches them over one connection, and checks that none is missing.
pub const FETCHES: &str = "#!/bin/sh
(until timeout 3 wget -q -O /dev/null http://10.0.1.10/; do sleep 1; done
wget -q -O - http://10.0.1.10/cgi-bin/lines | (last=0; while read -r _ n _; do
    [ \"$n\" = $((last + 1)) ] || echo \"probe: WRONG $n after $last\"
    last=$n
    [ $((n % 20)) = 0 ] && echo \"probe: came $n\"
done)
echo 'probe: CLOSED') > /dev/console 2>&1 &
";

/// How many lines have come, each time that the one that fetches said so; an error if the connection has not held.
pub fn came(tenant: &Api, fetches: &str) -> anyhow::Result<Vec<u64>> {
    let log = tenant.log(fetches)?;
    let held = !log.contains("probe: WRONG") && !log.contains("probe: CLOSED");
    anyhow::ensure!(held, "the connection broke:\n{log}");
    Ok(log.lines().filter_map(|line| line.trim().strip_prefix("probe: came ")?.parse().ok()).collect())
}
