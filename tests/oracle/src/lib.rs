//! Judges of a gateway: a deterministic world around its pure transition functions.
//!
//! * [`world`]: clients, two servers, a network that loses, delays, doubles and reorders, and the gateway between them, on a
//!   virtual clock: a seed says all that happens.
#![forbid(unsafe_code)]

pub mod world;
