//! Packet fixtures through the loaded programs, and what the programs cost the verifier.
//!
//! [`stage`]: loaded programs and filled maps; [`packet`]: what goes in and comes out; [`talk`]: one client's connection;
//! [`datagram`]: a service of datagrams; [`either`]: datagrams of either family; [`six`]: the stage's IPv6 addresses; [`told`]:
//! what is counted and told of compared turns; [`wiretap`]: what the hosts get.

pub mod datagram;
pub mod either;
mod live;
pub mod packet;
pub mod six;
pub mod stage;
pub mod talk;
pub mod told;
pub mod verifier;
pub mod wiretap;
