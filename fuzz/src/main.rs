//! The program that libFuzzer drives: one target, named by the environment variable `LUCARNE_FUZZ`.
//!
//! Built without libFuzzer (plainly, by cargo) it writes what the targets begin from into a folder, a folder for each, and
//! prints their names.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|octets: &[u8]| -> libfuzzer_sys::Corpus {
    use std::sync::LazyLock;
    static TARGET: LazyLock<&lucarne_fuzz::Target> = LazyLock::new(|| {
        let name = std::env::var("LUCARNE_FUZZ").expect("LUCARNE_FUZZ names a target");
        lucarne_fuzz::target(&name).expect("LUCARNE_FUZZ names a target that there is")
    });
    (TARGET.run)(octets);
    libfuzzer_sys::Corpus::Keep
});

#[cfg(not(fuzzing))]
fn main() -> anyhow::Result<()> {
    use std::{env, fs, path::PathBuf};

    use anyhow::Context;

    let folder = env::args_os().nth(1).map(PathBuf::from).context("which folder shall the seeds be written to?")?;
    for target in &lucarne_fuzz::TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            let file = folder.join(format!("seed-{number}"));
            fs::write(&file, seed).with_context(|| format!("cannot write {}", file.display()))?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
