//! The binary `mirror`.

fn main() {}
