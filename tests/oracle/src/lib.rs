//! Judges of a gateway: a deterministic world around its pure transition functions, and a checker of real captures.
//!
//! * [`world`]: clients, two servers, a network that loses, delays, doubles and reorders, and the gateway between them, on a
//!   virtual clock: a seed says all that happens.
//! * [`hostile`]: arbitrary packets from all sides at the gateway alone, by a fuzzer's bytes or a seed's.
//! * [`migrations`]: whole migrations by the daemon's own machine, on a simulated datapath that is split at each atomic
//!   operation, with a daemon that dies anywhere.
//! * [`trace`]: what client and servers saw of a real run, against the rules of two legs.
#![forbid(unsafe_code)]

pub mod hostile;
pub mod migrations;
pub mod trace;
pub mod world;
