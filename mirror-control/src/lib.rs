//! Pure control logic of the gateway: what to do next, never how. Depends on neither the network nor the kernel.
#![forbid(unsafe_code)]

pub mod appointment;
pub mod backends;
pub mod breaker;
pub mod connections;
pub mod divergence;
pub mod driver;
pub mod evidence;
pub mod executor;
pub mod journal;
pub mod migration;
pub mod moves;
pub mod precondition;
pub mod request_limit;
pub mod restart;
pub mod scaler;
pub mod throughput;
pub mod weight;
