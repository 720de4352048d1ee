//! Everything about the project that is more than `cargo build`.

fn main() {}
