//! The ABI and the pure functions that the kernel programs and the daemon share.
//!
//! No I/O, no clock, no randomness: the same code runs in the kernel and in host tests.
//!
//! * [`abi`]: what lies in the maps: names, capacities, records, the version.
//! * [`verdict`]: the one table of what can become of a packet.
//! * [`switch_word`]: the 64 bits that say who answers, who is mirrored and whether writes are frozen.
//! * [`protocol`]: one parser a protocol; class and lengths of requests and answers.
//! * [`flow`]: a client's connection over two legs; the transition functions.
//! * [`datagram`]: a client's question over UDP, and the two sides' answers.
//! * [`seq`], [`checksum`], [`options`], [`weight`], [`hist`]: arithmetic that the above share.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod checksum;
pub mod datagram;
pub mod flow;
pub mod hist;
pub mod options;
pub mod protocol;
pub mod seq;
pub mod switch_word;
pub mod verdict;
pub mod weight;
