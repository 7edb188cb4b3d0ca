//! A sealing process by itself, for the tests of its crate: of the one binary it is the command `lucarne sealer`.

fn main() -> std::process::ExitCode {
    lucarne_sealer::serve_one()
}
