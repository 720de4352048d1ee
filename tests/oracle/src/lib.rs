//! A deterministic world around the pure transition functions, and the trace checker.
#![forbid(unsafe_code)]
