//! The kernel side's object, embedded by `build.rs`.

/// The object, aligned for aya's parser; `None` if this binary was built before the object was.
pub fn embedded() -> Option<&'static [u8]> {
    #[cfg(embedded_object)]
    return Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mirror.o")));
    #[cfg(not(embedded_object))]
    None
}

/// What to type when [`embedded`] has nothing.
pub const HOW_TO_BUILD: &str = "this binary was built without the kernel side. Build both:\n  \
    cargo xtask build-ebpf && cargo build --release";

/// Whether the programs say what becomes of each packet.
pub fn logs_packets() -> bool {
    embedded().is_some_and(|object| object.windows(8).any(|name| name == b"AYA_LOGS"))
}

/// What to type when the programs say nothing.
pub const HOW_TO_LOG: &str = "this binary's kernel side logs no packets. Build both for that:\n  \
    cargo xtask build-ebpf --features log && cargo build --release";
