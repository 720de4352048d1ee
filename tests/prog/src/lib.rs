//! Packet fixtures through the loaded programs, and what the programs cost the verifier.

pub mod verifier;
