//! What guests try out and say: the script that each runs as its user-data, and what its console then shows.
//!
//! Owns the words that pass between script and reader. User-data and the console's log are used, not a typed console,
//! because they need no timing: a guest says each result when it has it, and all of them again at the end.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, fmt::Write};

/// How often a guest tries to reach one that may still be booting, a second apart.
const TRIES: u32 = 60;
/// How long one try may take, in seconds: what is dropped on the way is never answered. Not by wget's own option, with
/// which Debian's static busybox crashes.
const ANSWER_SECONDS: u32 = 3;
/// The same where an answer is expected: it comes when both machines have had their turn, however busy their hosts are.
const PATIENT_SECONDS: u32 = 30;

/// One thing that a guest tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    pub(crate) attempt: Attempt,
    pub(crate) expected: Expected,
    /// What it shows, in words.
    pub(crate) step: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Fetches a page, again and again until there is one.
    PageInTheEnd(&'static str),
    /// Fetches a page once.
    Page(&'static str),
    /// Fetches a page every second until there is no answer.
    PageUntilSilence(&'static str),
    /// Three echo requests.
    Ping(&'static str),
    /// One echo request to each address of a network of 24 bits, from the first last octet to the last.
    Sweep(&'static str, u8, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Exactly this page.
    Page(&'static str),
    /// All three answers.
    ThreeAnswers,
    /// The machine itself says no.
    Refusal,
    /// Nothing at all.
    Silence,
}

impl Expected {
    pub(crate) fn held(self, seen: &str) -> bool {
        match self {
            Self::Page(page) => seen == page,
            Self::ThreeAnswers => seen.contains("3 packets received") || seen.contains("3 received"),
            Self::Refusal => seen.contains("refused"),
            Self::Silence => seen == NO_ANSWER || seen.contains("timed out"),
        }
    }

    pub(crate) fn words(self) -> String {
        match self {
            Self::Page(page) => format!("\"{page}\""),
            Self::ThreeAnswers => "3 answers to 3 packets".into(),
            Self::Refusal => "connection refused".into(),
            Self::Silence => "no answer".into(),
        }
    }
}

const NO_ANSWER: &str = "no answer";
const MARK: &str = "probe:";
/// The line that says that all results have been said.
const END: &str = "probe-end";

/// The user-data of a guest that serves `page` on `ports` and then tries `probes`.
pub(crate) fn script(page: &str, ports: &[u16], probes: &[Probe]) -> String {
    let mut text = format!(
        "#!/bin/sh\n\
         mkdir -p /srv/www\n\
         echo '{page}' > /srv/www/index.html\n\
         get() {{ timeout ${{2:-{ANSWER_SECONDS}}} wget -q -O - \"http://$1/\" 2>&1 | head -n 1; }}\n\
         get_in_the_end() {{\n\
         for _ in $(seq {TRIES}); do found=$(get $1); case $found in page*) break ;; esac; sleep 1; done\n\
         echo \"$found\"\n\
         }}\n\
         get_until_silence() {{\n\
         for _ in $(seq {TRIES}); do found=$(get $1); case $found in page*) sleep 1 ;; *) break ;; esac; done\n\
         echo \"$found\"\n\
         }}\n\
         sweep() {{\n\
         rm -f /run/sweep\n\
         for last in $(seq $2 $3); do (ping -c 1 -W 10 $1.$last > /dev/null && echo $last >> /run/sweep) & done\n\
         wait\n\
         echo \"$(cat /run/sweep | wc -l) of $(($3 - $2 + 1)) answer\"\n\
         }}\n\
         echo_requests() {{ ping -c 3 -W $2 $1 2>&1 | grep received; }}\n\
         say() {{ printf '\\n{MARK}%s:%s\\n' \"$1\" \"${{2:-{NO_ANSWER}}}\" | tee -a /run/probes; }}\n"
    );
    // Writing to a string cannot fail.
    for port in ports {
        let _ = writeln!(text, "httpd -p {port} -h /srv/www");
    }
    for Probe { name, attempt, expected, .. } in probes {
        let patience = if *expected == Expected::Silence { ANSWER_SECONDS } else { PATIENT_SECONDS };
        let _ = match attempt {
            Attempt::PageInTheEnd(at) => writeln!(text, "say {name} \"$(get_in_the_end {at})\""),
            Attempt::Page(at) => writeln!(text, "say {name} \"$(get {at} {patience})\""),
            Attempt::PageUntilSilence(at) => writeln!(text, "say {name} \"$(get_until_silence {at})\""),
            Attempt::Sweep(network, first, last) => {
                writeln!(text, "say {name} \"$(sweep {network} {first} {last})\"")
            }
            Attempt::Ping(at) => writeln!(text, "say {name} \"$(echo_requests {at} {patience})\""),
        };
    }
    // Once more, in case the kernel or the console's shell wrote into the middle of a line.
    let _ = writeln!(text, "cat /run/probes\nprintf '\\n{END}\\n'");
    text
}

/// What the log of a guest's console says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The last thing said of each probe.
    pub(crate) results: BTreeMap<String, String>,
    /// Whether it has said everything.
    pub(crate) ended: bool,
}

pub(crate) fn hear(log: &str) -> Heard {
    let mut heard = Heard::default();
    for line in log.lines().map(|line| line.trim_end_matches('\r')) {
        if line.trim() == END {
            heard.ended = true;
        }
        let said = line.find(MARK).and_then(|at| line[at + MARK.len()..].split_once(':'));
        if let Some((name, result)) = said {
            heard.results.insert(name.to_owned(), result.trim().to_owned());
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBES: &[Probe] = &[
        Probe {
            name: "page",
            attempt: Attempt::PageInTheEnd("10.0.2.10"),
            expected: Expected::Page("page of a2"),
            step: "",
        },
        Probe { name: "echo", attempt: Attempt::Ping("10.0.2.10"), expected: Expected::ThreeAnswers, step: "" },
    ];

    #[test]
    fn what_a_guest_says_is_heard_among_prompts_and_carriage_returns() {
        let log = "lucarne: user space at 1.2\r\n(none):~# \r\nprobe:page:page of a2\r\n~# probe:echo:3 packets transmitted, \
                   3 packets received, 0% packet loss\r\nprobe:denied:\r\n";
        let heard = hear(log);
        assert!(!heard.ended);
        assert!(Expected::Page("page of a2").held(&heard.results["page"]));
        assert!(Expected::ThreeAnswers.held(&heard.results["echo"]));
        assert_eq!(heard.results["denied"], "");
        assert!(hear("probe-end\r\n").ended);
    }

    #[test]
    fn the_last_word_counts_because_an_earlier_one_may_be_broken() {
        assert_eq!(hear("probe:page:pa[ 1.0] usb\nprobe:page:page of a2\n").results["page"], "page of a2");
    }

    #[test]
    fn a_refusal_is_no_silence_and_silence_no_refusal() {
        let refused = "wget: can't connect to remote host (10.0.2.10): Connection refused";
        assert!(Expected::Refusal.held(refused) && !Expected::Silence.held(refused));
        let silent = "wget: download timed out";
        assert!(Expected::Silence.held(silent) && !Expected::Refusal.held(silent));
        assert!(Expected::Silence.held("no answer"));
        assert!(!Expected::Silence.held("page of b1"), "another tenant's page is no silence");
    }

    #[test]
    fn no_answers_are_not_three() {
        assert!(!Expected::ThreeAnswers.held("3 packets transmitted, 0 packets received, 100% packet loss"));
    }

    #[test]
    fn the_script_is_one_that_a_shell_reads() {
        let text = script("page of a1", &[80, 8082], PROBES);
        assert!(text.starts_with("#!/bin/sh\n"));
        assert!(text.contains("httpd -p 8082"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        write_for_test(&path, &text);
        assert!(shell_reads(&path), "{text}");
    }

    #[allow(clippy::disallowed_methods)]
    fn write_for_test(path: &std::path::Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[allow(clippy::disallowed_types)]
    fn shell_reads(path: &std::path::Path) -> bool {
        std::process::Command::new("/bin/sh").arg("-n").arg(path).status().unwrap().success()
    }
}
