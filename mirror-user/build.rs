//! Embeds the kernel side's object, if it has been built.
//!
//! Without it the crate builds all the same, so that `cargo build` and `cargo check` work anywhere; `mirror run` then
//! says how to build it. The variable `MIRROR_BPF_OBJECT` names another object.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(embedded_object)");
    println!("cargo::rerun-if-env-changed=MIRROR_BPF_OBJECT");
    let object = env::var_os("MIRROR_BPF_OBJECT").map_or_else(
        || {
            PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"))
                .join("../target/bpf/mirror.o")
        },
        PathBuf::from,
    );
    // While the file isn't there cargo runs this every time, so that it is found as soon as it is.
    println!("cargo::rerun-if-changed={}", object.display());
    let Ok(bytes) = fs::read(&object) else { return };
    let copy = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("mirror.o");
    fs::write(&copy, bytes).unwrap_or_else(|error| panic!("can't write {}: {error}", copy.display()));
    println!("cargo::rustc-cfg=embedded_object");
}
