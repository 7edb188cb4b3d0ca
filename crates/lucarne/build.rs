//! Compiles `reseed`, a program of the guest image `tiny`, so that it ships inside of this crate; and says how the binary is linked.

#[path = "../../images/guest_program.rs"]
mod guest_program;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../images/guest_program.rs");
    println!("cargo::rerun-if-changed=../../images/bare.rs");
    // At a fixed address: the loader would otherwise write 4.6 MiB of addresses into each process of ours, and there is one
    // for each VM.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    guest_program::compile("../../images/tiny/reseed.rs", "reseed");
}
