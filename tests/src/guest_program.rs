//! Programs that only guests of tests have, on their way into a guest by its user-data.
//!
//! Owns how they travel. What they do is told in `guests/`.

use base64::{Engine, engine::general_purpose::STANDARD};

/// Writes the answer of the network's clock; see `guests/clock.rs`.
pub const CLOCK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clock"));
/// The lines of a console have at most so many columns.
const COLUMNS: usize = 76;

/// The lines of a shell script that make the program be there.
pub fn placed(program: &[u8], path: &str) -> String {
    let program = STANDARD.encode(program);
    let lines: Vec<&str> = program.as_bytes().chunks(COLUMNS).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("base64 -d > {path} <<'END'\n{}\nEND\nchmod +x {path}\n", lines.join("\n"))
}
