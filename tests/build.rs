//! Compiles the programs that only guests of tests have.

#[path = "../images/guest_program.rs"]
mod guest_program;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../images/guest_program.rs");
    println!("cargo::rerun-if-changed=../images/bare.rs");
    guest_program::compile("guests/clock.rs", "clock");
    guest_program::compile("guests/ring.rs", "ring");
}
