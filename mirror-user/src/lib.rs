//! The daemon and command line of the gateway, as a library.

pub mod object;
